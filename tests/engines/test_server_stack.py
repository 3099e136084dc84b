"""Journal over budget over server, as a run puts them together."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.stub_server import FAULTS, StubServer, said
from windvane.engines.budget import Budget, BudgetSettings, Spend
from windvane.engines.journal import ReplyJournal
from windvane.engines.protocols import ChatRequest, Reply
from windvane.engines.server import ServerSettings, ServerTalker
from windvane.types import Message, Sampling

KEY = "sk-very-secret-0123456789"


def request(text: str, sample: int) -> ChatRequest:
    return ChatRequest((Message(role="user", content=text),), Sampling(32, 0.7), sample)


def run(
    folder: Path, stub: StubServer, requests: list[ChatRequest], *, limits: BudgetSettings | None = None, **changes: Any
) -> tuple[list[Any], Budget]:
    """Ask for all at once, through everything."""
    settings = ServerSettings(**{"model": "stub", "base_url": stub.url, "backoff": 0.005} | changes)

    async def work() -> tuple[list[Any], Budget]:
        with ReplyJournal(folder / "replies.jsonl") as journal:
            budget = Budget(limits or BudgetSettings(), earlier=journal.usage())
            async with ServerTalker(settings) as server:
                talker = journal.talker(budget.talker("judge", server), role="judge")
                return await asyncio.gather(*map(talker.ask, requests), return_exceptions=True), budget

    return asyncio.run(work())


def test_samples_are_still_one_request_and_the_tokens_those_of_the_server(tmp_path: Path) -> None:
    with StubServer() as stub:
        replies, budget = run(tmp_path, stub, [request("Hi", sample) for sample in range(5)])
    assert [body["n"] for body in stub.bodies] == [5]
    assert [reply.text for reply in replies] == [said({**stub.bodies[0], "seed": 0}, index) for index in range(5)]
    assert budget.spent == Spend(calls=5, tokens=stub.tokens, money=0.0)


def test_with_faults_a_rerun_asks_for_what_is_missing_and_a_third_for_nothing(tmp_path: Path) -> None:
    requests = [request(f"{number}", 0) for number in range(60)]
    with StubServer(faults=dict.fromkeys(FAULTS, 0.6 / len(FAULTS)), hang=60) as stub:
        first, _ = run(tmp_path, stub, requests, timeout=0.8, retries=1)
        missing = [number for number, reply in enumerate(first) if not isinstance(reply, Reply)]
        assert missing
        stub.faults, before = {}, stub.total
        second, _ = run(tmp_path, stub, requests)
        assert stub.total - before == len(missing)
        third, budget = run(tmp_path, stub, requests)
        assert stub.total - before == len(missing)
    assert second == third
    assert [one for one in first if isinstance(one, Reply)] == [
        one for number, one in enumerate(second) if number not in missing
    ]
    assert budget.spent.calls == 60


def test_no_file_holds_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUB_KEY", KEY)
    with StubServer(key=KEY) as stub:
        replies, _ = run(tmp_path, stub, [request("Hi", 0)], api_key_env="STUB_KEY")
    assert isinstance(replies[0], Reply)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert not any(KEY.encode() in path.read_bytes() for path in files)
