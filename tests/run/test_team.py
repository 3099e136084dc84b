"""A run of several processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.run.program import program, tree
from windvane.errors import RunFailed
from windvane.run import team
from windvane.run.team import Team, team_of

SCRIPT = (
    "import sys; from pathlib import Path; from tests.run import program\n"
    "program.program(Path(sys.argv[1]), ledger=Path(sys.argv[2]), pause=float(sys.argv[3]))"
)


def start(root: Path, ledger: Path, rank: int, size: int, pause: float = 0.0) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(root), str(ledger), str(pause)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "RANK": str(rank), "WORLD_SIZE": str(size)},
        stderr=subprocess.PIPE,
        text=True,
    )


def test_who_is_who() -> None:
    assert team_of({}) == Team(0, 1)
    assert team_of({"RANK": "2", "WORLD_SIZE": "4"}) == Team(2, 4)
    assert team_of({"RANK": "x", "WORLD_SIZE": "4"}) == Team(0, 1)


def test_two_processes_share_the_shards_and_end_with_the_same_bytes(tmp_path: Path) -> None:
    program(tmp_path / "alone")
    processes = [start(tmp_path / "team", tmp_path / f"ledger-{rank}", rank, 2) for rank in (0, 1)]
    for process in processes:
        _, err = process.communicate()
        assert process.returncode == 0, err
    assert tree(tmp_path / "team") == tree(tmp_path / "alone")
    ledgers = [(tmp_path / f"ledger-{rank}").read_text().splitlines() for rank in (0, 1)]
    shards = [sorted(line for line in ledger if "halves" in line) for ledger in ledgers]
    assert shards == [
        ["round-1/halves 0", "round-1/halves 6", "round-2/halves 0", "round-2/halves 6"],
        ["round-1/halves 3", "round-2/halves 3"],
    ]
    assert sum(line == "first" for ledger in ledgers for line in ledger) == 1


def test_a_process_whose_leader_is_gone_gives_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(team, "_PATIENCE", 0.3)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RunFailed, match=r"process 1 of 2 waited for .* but process 0 is gone"):
        program(tmp_path / "run")
