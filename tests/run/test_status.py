"""What `windvane show` has to show."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.run.program import QUIET, Config, Number, program
from windvane.run import Event, RunDirectory, RunStatus, run_status
from windvane.run.status import stage_minutes, worked_minutes


class Stop(Exception):
    """Ends a run in the middle."""


def status(root: Path) -> RunStatus:
    return run_status(RunDirectory.read(root))


def test_a_finished_run(tmp_path: Path) -> None:
    program(tmp_path)
    found = status(tmp_path)
    assert (found.state, found.message, found.command) == ("finished", "", "test")
    assert [(stage.name, stage.finished, stage.shards_done, stage.shards, stage.records) for stage in found.stages] == [
        ("numbers", True, 1, 1, 7),
        ("round-1/halves", True, 3, 3, 7),
        ("round-1/policy", True, 1, 1, None),
        ("round-2/halves", True, 3, 3, 7),
        ("round-2/policy", True, 1, 1, None),
    ]
    assert found.counts == {"calls": 6, "halved": 14, "made": 7, "steps": 14}
    assert found.places["round-2/policy"] == tmp_path / "round-2" / "policy"
    assert found.places["configuration"] == tmp_path / "config.yaml"
    assert "summary" not in found.places
    assert 0 < sum(stage.minutes for stage in found.stages) <= found.minutes
    assert found.started is not None
    assert found.last is not None
    assert found.started < found.last


def test_a_run_in_the_middle_while_it_runs_and_after_it_failed(tmp_path: Path) -> None:
    def work(part: Sequence[int]) -> list[Number]:
        run.count("calls")
        if 4 in part:
            now = status(tmp_path)
            assert now.state == run.status().state == "running"
            assert now.message.startswith("process ")
            assert [(stage.shards_done, stage.shards, stage.finished) for stage in now.stages] == [(2, 5, False)]
            assert now.counts == {"calls": 2}
            raise Stop("the model ran away")
        return [Number(index=item, value=0) for item in part]

    with pytest.raises(Stop), RunDirectory.open(tmp_path, Config(), command="test", console=QUIET) as run:
        run.map("a", range(10), work, Number, shard_size=2, label="a")
    after = status(tmp_path)
    assert (after.state, after.message) == ("failed", "the model ran away")
    assert after.stages[0].path == tmp_path / "a.jsonl"
    assert after.stages[0].records is None
    assert "a" not in after.places


def test_a_killed_run_is_interrupted(tmp_path: Path) -> None:
    RunDirectory.open(tmp_path, Config(), command="test", console=QUIET).close()
    assert status(tmp_path).state == "interrupted"
    (tmp_path / "journal.jsonl").unlink()
    assert status(tmp_path) == status(tmp_path)._replace(state="interrupted", started=None, minutes=0.0)


def test_the_reader_returns_what_is_finished(tmp_path: Path) -> None:
    program(tmp_path)
    view = RunDirectory.read(tmp_path)
    records = view.records("round-1/halves", Number)
    assert records is not None
    assert [number.index for number in records] == list(range(7))
    assert view.records("round-3/halves", Number) is None
    assert view.folder("round-1/policy") == tmp_path / "round-1" / "policy"
    assert view.folder("round-3/policy") is None
    assert view.config() == {"seed": 0, "size": 7, "shard_size": 3}
    assert view.json("result.json")["counts"]["steps"] == 14
    assert view.json("summary.json") is None


def test_minutes_are_those_of_the_work_that_was_kept() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)

    def event(kind: str, minute: float, **fields: object) -> Event:
        return Event(kind, start + timedelta(minutes=minute), dict(fields))

    events = [
        event("opened", 0),
        event("shard", 2, stage="a", seconds=90),
        event("shard", 5, stage="a", seconds=30.0),
        event("resumed", 60),  # killed some time after minute 5
        event("stage finished", 63, stage="b", seconds=120),
        event("finished", 64),
    ]
    assert worked_minutes(events) == 5 + 4
    assert stage_minutes(events) == {"a": 2.0, "b": 2.0}
    assert worked_minutes([]) == 0
