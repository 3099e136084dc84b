"""A server that speaks chat completions and fails on demand: no model, no network but loopback.

>>> with StubServer(faults={"error": 0.3}, latency=0.2) as stub:
...     settings = ServerSettings(model=stub.model, base_url=stub.url)

As a program: ``python -m tests.stub_server --port N [--latency S] [--ready-after S] [--crash TEXT] [--children]``.
"""

import argparse
import asyncio
import hashlib
import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Self

FAULTS = ("too_many", "too_many_wait", "error", "timeout", "dropped", "cut_off", "malformed", "empty")
"""429; 429 with Retry-After; 500; silence for `hang` seconds; a connection closed without a word; half the text with
``finish_reason`` length; a 200 whose body is no JSON; a reply without text."""
REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 429: "Too Many", 500: "Error"}

Body = dict[str, Any]


class Charge(NamedTuple):
    """What one request would cost."""

    body: Body
    prompt: int
    """Tokens."""
    completion: int
    """Tokens; where the reply was lost, as many as were allowed."""


class Answer(NamedTuple):
    status: int
    content: bytes
    headers: Mapping[str, str] = {}


def words(text: str) -> int:
    """Return the number of words."""
    return len(text.split())


def said(body: Body, index: int) -> str:
    """The default reply: says which conversation, which seed and which choice it answers."""
    conversation = hashlib.sha256(json.dumps(body["messages"]).encode()).hexdigest()[:8]
    return f"reply to {conversation}, sample {body.get('seed', 0) + index}"


class StubServer:
    """The server, on a free port, in a thread of its own; every count may be read at any time."""

    def __init__(
        self,
        *,
        reply: Callable[[Body, int], str] = said,
        latency: float | Callable[[Body], float] = 0.0,
        faults: Mapping[str, float] | None = None,
        seed: int = 0,
        ignore_n: bool = False,
        refuse: tuple[str, ...] = (),
        longest: int | None = None,
        key: str | None = None,
        lists_models: bool = True,
        usage: bool = True,
        count: Callable[[str], int] = words,
        retry_after: str = "0.05",
        hang: float = 30.0,
        port: int = 0,
    ) -> None:
        assert set(faults or {}) <= set(FAULTS)
        self.model = "stub"
        self.reply = reply
        """Text of one choice, a function of the request's body and the choice's index."""
        self.latency = latency
        """Seconds before each reply; a function of the request's body lets replies overtake one another."""
        self.faults = dict(faults or {})
        """Share of replies that fail, by kind; which ones is a function of the seed, the body and how often it came."""
        self.seed = seed
        self.ignore_n = ignore_n
        self.refuse = refuse
        """Fields that are answered with 400."""
        self.longest = longest
        """Characters of the last message above which the answer is 400, as for a prompt that does not fit."""
        self.key = key
        """Without it in the Authorization header: 401, with what was sent repeated, as careless servers do."""
        self.lists_models = lists_models
        self.usage = usage
        self.count = count
        """Tokens of a text."""
        self.retry_after = retry_after
        self.hang = hang
        self.total = 0
        """Chat requests so far, failed ones too."""
        self.in_flight = 0
        self.most_in_flight = 0
        self.bodies: list[Body] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        """When each chat request came, on the monotonic clock."""
        self.failed: Counter[str] = Counter()
        self.tokens = 0
        """All that the usage of replies has said."""
        self.charges: list[Charge] = []
        """What a server would charge for: every request that it worked on, also where the reply was lost."""
        self._seen: Counter[str] = Counter()
        self._port = port
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1"

    @property
    def connections(self) -> int:
        """Connections that are open, or whose last request is still being worked on."""
        return len(self._handlers)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Die at once: no more connections, and those that are open are cut."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join()

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        self._stopping = asyncio.Event()
        self._handlers: set[asyncio.Task[None]] = set()
        server = await asyncio.start_server(self._connected, "127.0.0.1", self._port, backlog=1000)
        self._port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stopping.wait()
        server.close()
        for handler in list(self._handlers):
            handler.cancel()
        await asyncio.gather(*self._handlers, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._handlers.discard(task)
            writer.transport.abort()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request of a connection; False to close it."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = head[0].split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        content = await reader.readexactly(int(headers.get("content-length", 0)))
        answer = await self._answer(method, path, headers, content)
        if answer is None:
            return False
        lines = [f"HTTP/1.1 {answer.status} {REASONS[answer.status]}", "Content-Type: application/json"]
        lines += [f"{name}: {value}" for name, value in answer.headers.items()]
        lines += [f"Content-Length: {len(answer.content)}", "", ""]
        writer.write("\r\n".join(lines).encode() + answer.content)
        await writer.drain()
        return True

    async def _answer(self, method: str, path: str, headers: dict[str, str], content: bytes) -> Answer | None:
        if self.key is not None and headers.get("authorization") != f"Bearer {self.key}":
            return error(401, f"wrong key: {headers.get('authorization')}")
        if path == "/health":
            return Answer(200, b"{}")
        if path == "/v1/models" and self.lists_models:
            return Answer(200, json.dumps({"data": [{"id": self.model}, {"id": "other"}]}).encode())
        if path != "/v1/chat/completions" or method != "POST":
            return error(404, f"no {path} here")
        self.total += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        self.times.append(time.monotonic())
        try:
            body = json.loads(content)
            self.bodies.append(body)
            self.headers.append(headers)
            await asyncio.sleep(self.latency(body) if callable(self.latency) else self.latency)
            return await self._chat(body)
        finally:
            self.in_flight -= 1

    async def _chat(self, body: Body) -> Answer | None:
        if body["model"] != self.model:
            return error(404, f"the model {body['model']} does not exist")
        for field in self.refuse:
            if field in body:
                hint = " Use max_completion_tokens instead." if field == "max_tokens" else ""
                return error(400, f"{field} is not supported.{hint}")
        if self.longest is not None and len(body["messages"][-1]["content"]) > self.longest:
            return error(400, "the maximum context length is exceeded")
        fault = self._fault(body)
        if fault is not None:
            self.failed[fault] += 1
        if fault in ("too_many", "too_many_wait"):
            wait = {"Retry-After": self.retry_after} if fault == "too_many_wait" else {}
            return error(429, "slow down")._replace(headers=wait)
        if fault == "error":
            return error(500, "something broke")
        if fault in ("timeout", "dropped"):
            return await self._lose(body, self.hang if fault == "timeout" else 0.0)
        content = json.dumps(self._completion(body, fault)).encode()
        return Answer(200, content[: len(content) // 2] if fault == "malformed" else content)

    async def _lose(self, body: Body, seconds: float) -> None:
        allowed = body.get("max_completion_tokens", body.get("max_tokens", 0))
        self.charges.append(Charge(body, self._prompt(body), allowed))
        await asyncio.sleep(seconds)

    def _fault(self, body: Body) -> str | None:
        digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        self._seen[digest] += 1
        point = random.Random(f"{self.seed} {digest} {self._seen[digest]}").random()
        for kind, share in self.faults.items():
            point -= share
            if point < 0:
                return kind
        return None

    def _prompt(self, body: Body) -> int:
        return sum(self.count(message["content"]) + 4 for message in body["messages"])

    def _completion(self, body: Body, fault: str | None) -> Body:
        count = 1 if self.ignore_n else body.get("n", 1)
        texts = [self.reply(body, index) for index in range(count)]
        if fault == "empty":
            texts = [""] * count
        if fault == "cut_off":
            texts = [text[: len(text) // 2] for text in texts]
        prompt = self._prompt(body)
        completion = sum(map(self.count, texts))
        self.charges.append(Charge(body, prompt, completion))
        self.tokens += prompt + completion
        finish = "length" if fault == "cut_off" else "stop"
        found: Body = {
            "choices": [
                {"index": index, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
                for index, text in enumerate(texts)
            ]
        }
        if self.usage:
            found["usage"] = {"prompt_tokens": prompt, "completion_tokens": completion}
        return found


def error(status: int, message: str) -> Answer:
    return Answer(status, json.dumps({"error": {"message": message}}).encode())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--ready-after", type=float, default=0.0)
    parser.add_argument("--crash", help="print this and exit with 7, as a server does whose model does not fit")
    parser.add_argument("--children", action="store_true", help="start a process of its own, as vLLM does")
    options = parser.parse_args()
    if options.crash:
        print("loading", *range(40), options.crash, sep="\n")
        sys.exit(7)
    if options.children:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        print(f"child {child.pid}", flush=True)
    time.sleep(options.ready_after)
    with StubServer(port=options.port, latency=options.latency):
        print("ready", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
