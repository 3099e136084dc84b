"""SIGKILL at chosen calls of ``windvane drpo``, the same command again: the same prompt, no reply asked for twice."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.recipes import drpo_world, small
from tests.stub_server import Body, StubServer
from windvane.engines.journal import read_replies

LATENCY = 0.01
"""Seconds, so that several calls are in flight at each kill."""
KILLED_AT = (1, 2, 9, 30, 75, 120)
"""Calls of the whole history, at which the process is killed; the last may lie in the proof."""
ATTEMPTS = len(KILLED_AT) + 3


class Killer:
    """Counts calls over all attempts, and kills the process that makes one of the chosen ones."""

    def __init__(self, at: tuple[int, ...], sign: signal.Signals = signal.SIGKILL) -> None:
        self._at, self._sign = list(at), sign
        self.stub = StubServer(reply=self.reply, latency=LATENCY)
        self.process: subprocess.Popen[bytes] | None = None
        self.in_flight: list[int] = []
        """At each kill, calls without a reply on file: under way, or answered and not yet written down."""
        self.asked: Counter[str] = Counter()

    def reply(self, body: Body, index: int) -> str:
        self.asked[hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()] += index == 0
        if self._at and sum(self.asked.values()) >= self._at[0] and self.process is not None:
            self._at.pop(0)
            process, self.process = self.process, None
            process.send_signal(self._sign)
        return drpo_world.reply(body, index)

    def _settle(self) -> None:
        """Wait until the server has read what the killed process had sent: that was in flight, too."""
        seen = -1
        while seen != sum(self.asked.values()):
            seen = sum(self.asked.values())
            time.sleep(0.5)

    def run(self, config: Path) -> int:
        """Run the command once; return its exit code."""
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(small.ROOT / "src"), str(small.ROOT)])}
        with (config.parent / "log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "windvane", "drpo", str(config)], env=environment, stdout=log, stderr=log
            )
            self.process = process
            code = process.wait()
        self.process = None
        if code == -signal.SIGKILL:
            self._settle()
            on_file = len(list(read_replies(config.parent / "run" / "replies.jsonl")))
            self.in_flight.append(len(self.asked) - on_file)
        return code


@pytest.fixture(scope="module")
def runs(queries: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Killer, int]:
    """A run without a kill, one that was killed again and again, who killed it, and how often it was begun."""
    base = tmp_path_factory.mktemp("drpo-kills")
    found = []
    for name, at in (("whole", ()), ("killed", KILLED_AT)):
        killer, attempts = Killer(at), 0
        with killer.stub as stub:
            (base / name).mkdir()
            values = drpo_world.config(stub, base / name / "run", queries, judge="dynamic")
            config = drpo_world.written(base / name / "config.yaml", values)
            code = -signal.SIGKILL
            while code == -signal.SIGKILL and attempts < ATTEMPTS:
                code, attempts = killer.run(config), attempts + 1
            assert code == 0, (base / name / "log").read_text(encoding="utf-8")
        found.append((base / name / "run", killer, attempts))
    (whole, _, _), (killed, killer, attempts) = found
    return whole, killed, killer, attempts


@pytest.mark.timeout(300)
def test_it_was_killed_on_the_way(runs: tuple[Path, Path, Killer, int]) -> None:
    *_, killer, attempts = runs
    assert attempts == len(killer.in_flight) + 1 >= 5
    assert 1 < max(killer.in_flight) <= 2 * 16  # twice the concurrency


@pytest.mark.timeout(300)
def test_the_result_is_that_of_an_uninterrupted_run(runs: tuple[Path, Path, Killer, int]) -> None:
    whole, killed, *_ = runs
    for name in ("prompt.json", "proof.json", "proof.jsonl"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()
    one, other = (small.read_json(run / "summary.json") for run in (whole, killed))
    assert one["proof"] == other["proof"]
    assert one["counts"] == other["counts"]
    assert one["search"]["calls_reused"] == 0 < other["search"].pop("calls_reused")
    del one["search"]["calls_reused"]
    assert one["search"] == other["search"]


@pytest.mark.timeout(300)
def test_no_reply_is_asked_for_twice_beyond_those_in_flight(runs: tuple[Path, Path, Killer, int]) -> None:
    whole, killed, killer, _ = runs
    again = sum(times - 1 for times in killer.asked.values())
    assert again <= sum(killer.in_flight)
    keys = [entry.key for entry in read_replies(killed / "replies.jsonl")]
    assert len(keys) == len(set(keys))
    assert sorted(keys) == sorted(entry.key for entry in read_replies(whole / "replies.jsonl"))


@pytest.mark.timeout(120)
def test_ctrl_c_ends_it_with_130_and_what_was_paid_for_is_on_file(queries: Path, tmp_path: Path) -> None:
    killer = Killer((40,), signal.SIGINT)
    with killer.stub as stub:
        config = drpo_world.written(tmp_path / "config.yaml", drpo_world.config(stub, tmp_path / "run", queries))
        assert killer.run(config) == 130
        said = (tmp_path / "log").read_text(encoding="utf-8")
        assert "Traceback" not in said
        assert "interrupted. What a run has finished is on file" in said
        assert len(list(read_replies(tmp_path / "run" / "replies.jsonl"))) >= 8
        assert killer.run(config) == 0
