"""The journal of replies: asked once, on file before it is used, whatever is killed."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.engines.journal_program import QUERIES, answers, program
from tests.stub_server import StubServer
from windvane.engines.journal import ReplyJournal, read_replies
from windvane.engines.metering import Usage
from windvane.engines.protocols import ChatRequest, Reply, Talker
from windvane.engines.talkers import ScriptedTalker
from windvane.errors import NoReply, RunDirectoryError, RunFailed
from windvane.types import Message, Sampling

ROOT = Path(__file__).parents[2]


def request(text: str = "Hi", sample: int = 0) -> ChatRequest:
    return ChatRequest((Message(role="user", content=text),), Sampling(32, 0.7), sample)


def echo(asked: ChatRequest) -> str:
    return f"{asked.messages[-1].content} {asked.sample}"


def ask(talker: Talker, *requests: ChatRequest) -> list[Any]:
    async def work() -> list[Any]:
        return await asyncio.gather(*map(talker.ask, requests), return_exceptions=True)

    return asyncio.run(work())


def test_a_rerun_asks_for_nothing_and_says_the_same(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "replies.jsonl"
    requests = [request(text, sample) for text in ("Hi", "Ünïcode \u2028 😀 \ud83d") for sample in range(3)]
    found = []
    for made, reused in ((6, 0), (0, 6)):
        with ReplyJournal(path) as journal:
            inner = ScriptedTalker(lambda asked: echo(asked).replace("\ud83d", "?"))
            found.append(ask(journal.talker(inner, role="judge"), *requests))
            assert (len(inner.calls), journal.made, journal.reused, len(journal)) == (made, made, reused, 6)
            assert journal.usage()["judge"].calls == 6
    assert found[0] == found[1]
    assert all(isinstance(reply, Reply) for reply in found[0])


def test_the_key_is_the_engine_and_the_whole_request(tmp_path: Path) -> None:
    with ReplyJournal(tmp_path / "r.jsonl") as journal:
        first, second = (ScriptedTalker(echo, name=name) for name in "ab")
        ask(journal.talker(first, role="judge"), request())
        ask(journal.talker(first, role="model"), request())  # another role, the same engine: the same reply
        ask(journal.talker(second, role="judge"), request(), request(sample=1))
        assert (len(first.calls), len(second.calls)) == (1, 2)
        assert journal.usage() == {"judge": Usage(3, 3, 6)}


def test_equal_requests_at_once_are_asked_once(tmp_path: Path) -> None:
    with ReplyJournal(tmp_path / "r.jsonl") as journal:
        inner = ScriptedTalker(echo, latency=0.05)
        replies = ask(journal.talker(inner, role="judge"), *[request()] * 50, *[request("Ho")] * 50)
        assert len(inner.calls) == 2
        assert (journal.made, journal.reused) == (2, 98)
    assert [reply.text for reply in replies] == ["Hi 0"] * 50 + ["Ho 0"] * 50


def test_a_failure_goes_to_all_who_wait_and_is_not_remembered(tmp_path: Path) -> None:
    def failing_once(asked: ChatRequest) -> str:
        if len(inner.calls) == 1:
            raise NoReply("none today")
        return echo(asked)

    with ReplyJournal(tmp_path / "r.jsonl") as journal:
        inner = ScriptedTalker(failing_once, latency=0.02)
        talker = journal.talker(inner, role="judge")
        assert {str(error) for error in ask(talker, *[request()] * 5)} == {"none today"}
        assert (len(inner.calls), len(journal)) == (1, 0)
        assert ask(talker, request())[0].text == "Hi 0"


def test_the_call_lives_as_long_as_somebody_waits_for_it(tmp_path: Path) -> None:
    async def work(cancelled: int) -> list[Any]:
        waiting = [asyncio.create_task(talker.ask(request())) for _ in range(3)]
        await asyncio.sleep(0.02)
        for task in waiting[:cancelled]:
            task.cancel()
        found = await asyncio.gather(*waiting, return_exceptions=True)
        again = await talker.ask(request())
        return [*found, again]

    for cancelled, calls in ((2, 1), (3, 2)):
        with ReplyJournal(tmp_path / f"{cancelled}.jsonl") as journal:
            inner = ScriptedTalker(echo, latency=0.5)
            talker = journal.talker(inner, role="judge")
            found = asyncio.run(work(cancelled))
        assert len(inner.calls) == calls
        assert [isinstance(reply, Reply) for reply in found] == [False] * cancelled + [True] * (4 - cancelled)


def test_a_reply_is_on_disk_before_anybody_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of tasks, and few syncs: what comes while the disk is busy is written together."""
    path, synced, sync = tmp_path / "r.jsonl", [], os.fsync

    def counting(descriptor: int) -> None:
        sync(descriptor)
        synced.append(path.read_bytes().count(b"\n"))

    async def one(number: int) -> None:
        reply = await talker.ask(request(f"{number}"))
        assert reply.text == f"{number} 0"
        order.append(number)
        assert synced[-1] >= len(order)

    async def work() -> None:
        await asyncio.gather(*(one(number) for number in range(2000)))

    order: list[int] = []
    with ReplyJournal(path) as journal:
        talker = journal.talker(ScriptedTalker(echo, latency=lambda asked: hash(asked.messages) % 50 / 1000), role="x")
        monkeypatch.setattr(os, "fsync", counting)
        asyncio.run(work())
    assert len(list(read_replies(path))) == 2000
    assert len(synced) < 500


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_torn_last_line_is_cut_off(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "r.jsonl"
    with ReplyJournal(path) as journal:
        ask(journal.talker(ScriptedTalker(echo), role="judge"), request("a"), request("b"))
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    assert len(list(read_replies(path))) == 1
    with ReplyJournal(path) as journal:
        inner = ScriptedTalker(echo)
        ask(journal.talker(inner, role="judge"), request("a"), request("b"))
        assert [asked.messages[0].content for asked in inner.calls] == ["b"]
    assert path.read_bytes() == whole


def test_lines_that_cannot_be_read_are_no_replies(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    with ReplyJournal(path) as journal:
        ask(journal.talker(ScriptedTalker(echo), role="judge"), request("a"))
    line = path.read_bytes()
    path.write_bytes(b"\x00\xff\n[]\n{}\n" + line.replace(b'"text"', b'"taxt"') + line + line)
    with ReplyJournal(path) as journal:
        assert len(journal) == 1
    assert list(read_replies(tmp_path / "none.jsonl")) == []


def test_a_line_says_what_was_asked(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    with ReplyJournal(path) as journal:
        ask(journal.talker(ScriptedTalker(echo), role="judge"), request("a", 4))
    (line,) = path.read_text(encoding="utf-8").splitlines()
    fields = json.loads(line)
    assert fields["asked"] == {
        "talker": "scripted", "messages": [{"role": "user", "content": "a"}],
        "max_new_tokens": 32, "temperature": 0.7, "top_p": 1.0, "sample": 4,
    }  # fmt: skip
    assert (fields["role"], fields["reply"]["text"]) == ("judge", "a 4")


def test_a_full_disk_is_an_error_and_tears_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, write = tmp_path / "r.jsonl", os.write

    def full(descriptor: int, data: bytes) -> int:
        write(descriptor, data[:10])
        raise OSError(28, "No space left on device")

    with ReplyJournal(path) as journal:
        inner = ScriptedTalker(echo)
        talker = journal.talker(inner, role="judge")
        ask(talker, request("a"))
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            (error,) = ask(talker, request("b"))
            assert isinstance(error, RunFailed)
            assert "No space left" in str(error)
        assert ask(talker, request("b"))[0].text == "b 0"
    assert [entry.reply.text for entry in read_replies(path)] == ["a 0", "b 0"]


def test_one_process_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    with ReplyJournal(path), pytest.raises(RunDirectoryError, match="in use by another process"):
        ReplyJournal(path)
    with ReplyJournal(path):
        pass


# SIGKILL at any call


def killed_at(stub: StubServer, path: Path, call: int) -> None:
    """Run the program against the stub and kill it the moment the stub gets call number `call` of this run."""
    before, reached, reply = stub.total, threading.Event(), stub.reply

    def watched(body: dict[str, Any], index: int) -> str:
        if stub.total - before >= call:
            reached.set()
        return reply(body, index)

    stub.reply = watched
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.engines.journal_program", str(path), stub.url],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert reached.wait(30)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    stub.reply = reply


@pytest.mark.parametrize(
    "call", [1, 7, 14, 20, *(pytest.param(call, marks=pytest.mark.slow) for call in range(2, 21, 3) if call % 7)]
)
def test_after_a_kill_the_result_is_the_same_and_at_most_what_was_in_flight_is_asked_again(
    tmp_path: Path, call: int
) -> None:
    with StubServer(reply=answers, latency=0.01) as stub:
        whole = program(tmp_path / "whole.jsonl", stub.url)
        calls = stub.total
    assert calls == 2 * QUERIES + 1
    with StubServer(reply=answers, latency=0.01) as stub:
        killed_at(stub, tmp_path / "killed.jsonl", call)
        resumed = program(tmp_path / "killed.jsonl", stub.url)
        again = [stub.bodies.count(body) for body in stub.bodies]
    assert resumed == whole
    assert stub.total - calls <= stub.most_in_flight <= 4
    assert max(again) <= 2
