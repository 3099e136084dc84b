"""Adapters between the contracts: a `Generator` as a `Talker`, a `Talker` as a `Generator`, and a script for tests."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from windvane.engines.chat import split_thinking
from windvane.engines.chat_api import estimated_tokens
from windvane.engines.protocols import Advance, ChatRequest, Generator, Reply, Talker, no_progress
from windvane.engines.request_key import conversation_key
from windvane.engines.sharing import Shared
from windvane.errors import DataError, NoReply, WindvaneError
from windvane.seeds import derive_seed
from windvane.types import Completion, Message, Prompt, Sampling

T = TypeVar("T")
PromptTokens = Callable[[Sequence[Message]], int]
"""Counts the tokens of a conversation."""


def about(messages: Sequence[Message]) -> int:
    """Return about how many tokens a conversation takes."""
    return sum(estimated_tokens(message.content) for message in messages)


class _Batch:
    """Requests of one sampling that wait for the worker."""

    def __init__(self) -> None:
        self.work: Shared[list[Completion | WindvaneError]] | None = None
        self._prompts: list[Prompt] = []
        self._begun = False
        self._lock = threading.Lock()

    def join(self, prompt: Prompt, rows: int) -> int | None:
        """Return the place of a prompt that joins; None where the batch is full, at work or given up."""
        with self._lock:
            full = len(self._prompts) >= rows or self._begun
            if full or self.work is None or not self.work.open:
                return None
            self._prompts.append(prompt)
            return len(self._prompts) - 1

    def begin(self) -> list[Prompt]:
        """Return the prompts, in the worker's thread; nobody can join any more."""
        with self._lock:
            self._begun = True
            return self._prompts


class LocalTalker:
    """A `Talker` over a `Generator` in this process, such as a local model.

    While the model works on one batch, in a thread of its own, requests gather for the next: whatever waits is one
    batch, so many chains of calls keep the model as busy as one long list would. A reply depends on its request and
    the seed alone.
    """

    def __init__(
        self,
        generator: Generator,
        name: str,
        *,
        seed: int = 0,
        rows: int = 64,
        prompt_tokens: PromptTokens = about,
    ) -> None:
        """`name` must tell the model from any other; at most `rows` requests are one batch."""
        self._generator, self._name, self._seed, self._rows = generator, name, seed, rows
        self._prompt_tokens = prompt_tokens
        self._waiting: dict[Sampling, _Batch] = {}
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="windvane-local")

    @property
    def name(self) -> str:
        """The model."""
        return self._name

    def close(self) -> None:
        """End the worker, after the batch that it is at."""
        self._worker.shutdown(cancel_futures=True)

    async def ask(self, request: ChatRequest) -> Reply:
        """Return the reply; see `Talker.ask`. Raises `NoReply` for a conversation that the model cannot take."""
        seed = derive_seed(self._seed, "talk", conversation_key(request), request.sample)
        prompt = Prompt(request.messages, seed)
        batch = self._waiting.get(request.sampling)
        place = None if batch is None else batch.join(prompt, self._rows)
        if batch is None or place is None:
            batch = self._waiting[request.sampling] = _Batch()
            batch.work = Shared(self._together(request.sampling, batch))
            place = batch.join(prompt, self._rows)
        assert batch.work is not None
        assert place is not None
        found = (await batch.work.result())[place]
        if isinstance(found, DataError):
            raise NoReply(str(found))
        if isinstance(found, WindvaneError):
            raise found
        return Reply(
            text=split_thinking(found.text).answer,
            finish=found.finish,
            prompt_tokens=self._prompt_tokens(request.messages),
            completion_tokens=len(found.token_ids),
            estimated=self._prompt_tokens is about,
        )

    async def _together(self, sampling: Sampling, batch: _Batch) -> list[Completion | WindvaneError]:
        return await asyncio.get_running_loop().run_in_executor(self._worker, self._generate, sampling, batch)

    def _generate(self, sampling: Sampling, batch: _Batch) -> list[Completion | WindvaneError]:
        """Work on a batch, in the worker's thread."""
        prompts = batch.begin()
        try:
            return list(self._generator.generate(prompts, sampling))
        except WindvaneError as error:
            if len(prompts) == 1:
                return [error]
        return [self._one(prompt, sampling) for prompt in prompts]  # so that only those fail that are to blame

    def _one(self, prompt: Prompt, sampling: Sampling) -> Completion | WindvaneError:
        try:
            return self._generator.generate([prompt], sampling)[0]
        except WindvaneError as error:
            return error


class TalkerGenerator:
    """A `Generator` over a `Talker`, for the stages that are not asynchronous, such as the writing of principles.

    Its completions have no token ids: they can be read, not trained on.
    """

    def __init__(
        self,
        talker: Talker,
        *,
        close: Callable[[], Awaitable[None]] | None = None,
        count: Callable[[str, int], None] | None = None,
    ) -> None:
        """`close` is awaited at the end of each call, in its event loop: `ServerTalker.close` for a server.

        `count` hears of ``model_calls`` and ``tokens_generated``, as `RunDirectory.count` does.
        """
        self._talker, self._close, self._count = talker, close, count

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, advance: Advance = no_progress
    ) -> list[Completion]:
        """Return one completion for each prompt, in order; see `Generator.generate`."""
        return _run(self._all(prompts, sampling, advance))

    async def _all(self, prompts: Sequence[Prompt], sampling: Sampling, advance: Advance) -> list[Completion]:
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._one(prompt, sampling, advance)) for prompt in prompts]
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None  # the others were only stopped by it
        finally:
            if self._close is not None:
                await self._close()
        return [task.result() for task in tasks]

    async def _one(self, prompt: Prompt, sampling: Sampling, advance: Advance) -> Completion:
        reply = await self._talker.ask(ChatRequest(prompt.messages, sampling, sample=prompt.seed))
        if self._count is not None:
            self._count("model_calls", 1)
            self._count("tokens_generated", reply.completion_tokens)
        advance(1)
        # Whatever else ended a reply (a filter, a call of a tool), the model did not finish it.
        return Completion(text=reply.text, token_ids=(), finish="stop" if reply.finish == "stop" else "length")


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, also where an event loop is running in this thread, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as aside:
        return aside.submit(asyncio.run, work).result()


class ScriptedTalker:
    """A `Talker` whose replies are a Python function of the request, for tests and documentation.

    The function returns a text or a whole `Reply`, or raises. A text of more words than the token limit is cut off.
    """

    def __init__(
        self,
        answer: Callable[[ChatRequest], str | Reply],
        *,
        name: str = "scripted",
        latency: float | Callable[[ChatRequest], float] = 0.0,
    ) -> None:
        """`latency` is in seconds, of each reply."""
        self._answer, self._name, self._latency = answer, name, latency
        self.calls: list[ChatRequest] = []
        """Every request so far, in order."""
        self.in_flight = 0
        self.most_in_flight = 0

    @property
    def name(self) -> str:
        """The name it was given."""
        return self._name

    async def ask(self, request: ChatRequest) -> Reply:
        """Return what the function says, after the latency."""
        self.calls.append(request)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(self._latency(request) if callable(self._latency) else self._latency)
            said = self._answer(request)
        finally:
            self.in_flight -= 1
        if isinstance(said, Reply):
            return said
        words, room = said.split(), request.sampling.max_new_tokens
        cut = len(words) > room
        return Reply(
            text=" ".join(words[:room]) if cut else said,
            finish="length" if cut else "stop",
            prompt_tokens=sum(len(message.content.split()) for message in request.messages),
            completion_tokens=min(len(words), room),
        )
