"""SIGKILL at every k-th call of ``windvane drpo``, the same command again: the same bytes, no reply asked for twice."""

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.recipes import drpo_world, small
from tests.recipes.drpo_kills import SEARCHES, Forker, History, every, history, never, once
from tests.run.program import tree
from tests.stub_server import Body, StubServer
from windvane.engines.journal import read_replies

STEP = 12
"""Every so many calls, a run of its own is killed there."""


@pytest.fixture(scope="module")
def forker() -> Iterator[Forker]:
    with Forker() as found:
        yield found


@pytest.fixture(scope="module", params=SEARCHES)
def whole(request: pytest.FixtureRequest, forker: Forker, tmp_path_factory: pytest.TempPathFactory) -> History:
    """A run without a kill."""
    search: str = request.param
    return history(tmp_path_factory.mktemp("drpo-kills") / search, forker, search, never)


def search_of(found: History) -> str:
    return found.run.parent.name


@pytest.mark.timeout(300)
def test_a_run_that_is_not_killed_has_all_stages_and_asks_once(whole: History) -> None:
    """Nothing below means much otherwise."""
    assert len(whole.attempts) == 1
    assert len(whole.calls) > 60
    assert set(whole.calls.values()) == {1}
    assert Counter(whole.on_file()) == whole.calls
    assert {"examples.jsonl", "search.jsonl", "proof.jsonl", "proof.json", "prompt.json"} <= set(tree(whole.run))
    best = small.read_json(whole.run / "proof.json")["best"]
    assert best["n"] >= 6
    entries = list(read_replies(whole.run / "replies.jsonl"))
    assert {entry.role for entry in entries} == {"model", "judge", "optimizer"}
    systems = [entry.asked["messages"][0]["content"] for entry in entries]
    for texts in ("prompt search texts", "judging texts", "example texts"):
        assert sum(f"windvane {texts}" in system for system in systems) >= 2


@pytest.mark.timeout(300)
def test_kills_at_every_seventh_call_leave_no_trace(whole: History, forker: Forker, tmp_path: Path) -> None:
    killed = history(tmp_path / "killed", forker, search_of(whole), every(7))
    assert len(killed.kills) >= 5
    assert any(len(kill.in_flight) > 1 for kill in killed.kills)
    check(killed, whole, concurrency=4)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_kills_at_every_third_call_leave_no_trace(whole: History, forker: Forker, tmp_path: Path) -> None:
    killed = history(tmp_path / "killed", forker, search_of(whole), every(3))
    assert len(killed.kills) >= 12
    check(killed, whole, concurrency=4)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_kill_at_every_single_call_leaves_no_trace(whole: History, forker: Forker, tmp_path: Path) -> None:
    """With one request at a time; now and then the reply before it has arrived and is not yet on file."""
    killed = history(tmp_path / "killed", forker, search_of(whole), every(1), concurrency=1)
    in_flight = Counter(len(kill.in_flight) for kill in killed.kills)
    assert in_flight.total() == len(whole.calls)
    assert in_flight.most_common(1)[0][0] == 1
    check(killed, whole, concurrency=1)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_one_kill_at_any_call_leaves_no_trace(whole: History, forker: Forker, tmp_path: Path) -> None:
    for call in range(2, len(whole.calls) + 1, STEP):
        killed = history(tmp_path / f"{call}", forker, search_of(whole), once(call))
        assert len(killed.kills) == 1, call
        check(killed, whole, concurrency=4)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_kills_of_a_run_with_a_failing_server_leave_no_trace(whole: History, forker: Forker, tmp_path: Path) -> None:
    """What fails is asked again in any case, so only the result and the journal can be compared."""
    faults = {"error": 0.1, "too_many": 0.1, "dropped": 0.05, "malformed": 0.05}
    killed = history(tmp_path / "killed", forker, search_of(whole), every(9), faults=faults)
    assert len(killed.kills) >= 3
    same_result(killed, whole)


@pytest.mark.timeout(300)
def test_kills_add_nothing_to_a_budget_but_what_was_in_flight(forker: Forker, tmp_path: Path) -> None:
    killed = history(tmp_path / "killed", forker, "racing", every(7), budget={"calls": 70})
    assert len(killed.kills) >= 3
    assert 30 < len(list(killed.on_file())) <= 70
    assert killed.calls.total() <= 70 + sum(len(kill.in_flight) for kill in killed.kills)
    at_most_those_in_flight(killed, concurrency=4)


def check(killed: History, whole: History, *, concurrency: int) -> None:
    """Compare a run that was killed with one that was not."""
    same_result(killed, whole)
    at_most_those_in_flight(killed, concurrency)


def same_result(killed: History, whole: History) -> None:
    """Hold that both have the same bytes in every file that is to be the same, and the same replies once each."""
    assert [attempt.code for attempt in killed.attempts] == [-signal.SIGKILL] * len(killed.kills) + [0]
    ours, theirs = tree(killed.run), tree(whole.run)
    for varying in ("config.yaml", "replies.jsonl"):  # the server's address; the order in which replies came
        del ours[varying], theirs[varying]
    assert ours == theirs
    assert replies(killed) == replies(whole)
    assert timeless(killed) == timeless(whole)
    reused = [small.read_json(each.run / "summary.json")["search"]["calls_reused"] for each in (killed, whole)]
    assert reused[0] == len(killed.kills[-1].on_file)
    assert reused[1] == 0


def at_most_those_in_flight(killed: History, concurrency: int) -> None:
    """Hold that every reply was on file before it was used, and that only what was in flight was asked for again."""
    for kill, after in zip(killed.kills, killed.attempts[1:], strict=True):
        assert kill.used <= kill.on_file
        assert not after.asked & kill.on_file
        assert len(kill.in_flight) <= 2 * concurrency  # under way, or arrived while the disk was busy
    for mark, times in killed.calls.items():
        assert times - 1 <= sum(mark in kill.in_flight for kill in killed.kills)
    again = killed.calls.total() - len(killed.calls)
    assert again <= sum(len(kill.in_flight) for kill in killed.kills)


def replies(found: History) -> list[tuple[str, str]]:
    """Return key and text of all replies on file."""
    return sorted((entry.key, entry.reply.model_dump_json()) for entry in read_replies(found.run / "replies.jsonl"))


def timeless(found: History) -> dict[str, Any]:
    """Return a summary without times, and without what was reused."""
    summary = small.read_json(found.run / "summary.json")
    for name in ("started", "finished", "minutes"):
        del summary[name]
    summary["stages"] = list(summary["stages"])
    del summary["search"]["calls_reused"]
    summary["counts"] = {name: n for name, n in summary["counts"].items() if not name.endswith("_reused")}
    return summary


class Interrupter:
    """Sends SIGINT to a process at a call."""

    def __init__(self, at: int) -> None:
        self._at = at
        self.process: subprocess.Popen[bytes] | None = None

    def reply(self, body: Body, index: int) -> str:
        self._at -= 1
        if not self._at and self.process is not None:
            self.process.send_signal(signal.SIGINT)
        return drpo_world.reply(body, index)

    def run(self, config: Path) -> int:
        """Run the command once, in a process that was started as a user starts one; return its exit code."""
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(small.ROOT / "src"), str(small.ROOT)])}
        with (config.parent / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "windvane", "drpo", str(config)], env=environment, stdout=log, stderr=log
            )
            return self.process.wait()


@pytest.mark.timeout(120)
def test_ctrl_c_ends_it_with_130_and_what_was_paid_for_is_on_file(queries: Path, tmp_path: Path) -> None:
    interrupter = Interrupter(40)
    with StubServer(reply=interrupter.reply, latency=0.01) as stub:
        config = drpo_world.written(tmp_path / "config.yaml", drpo_world.config(stub, tmp_path / "run", queries))
        assert interrupter.run(config) == 130
        said = (tmp_path / "log").read_text(encoding="utf-8")
        assert "Traceback" not in said
        assert "interrupted. What a run has finished is on file" in said
        assert len(list(read_replies(tmp_path / "run" / "replies.jsonl"))) >= 8
        assert interrupter.run(config) == 0
