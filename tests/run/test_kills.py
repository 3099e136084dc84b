"""SIGKILL at any moment, the same command again: the same bytes, and nothing that was finished is done twice."""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.run import program
from windvane.run import RunDirectory, run_status

REPOSITORY = Path(__file__).parents[2]


def start(*arguments: str) -> subprocess.Popen[str]:
    """Run the driver in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.run.program", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def kill_at_operations(first: int, step: int, how: str) -> int:
    """Kill the program at every `step`-th of its file operations and return how many that were."""
    memory = Path("/dev/shm")  # syncing a real disk some 50 000 times takes minutes and tests the disk
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        driver = start("every", folder, str(first), str(step), how)
        out, err = driver.communicate()
        assert driver.returncode == 0, err
    return int(out)


@pytest.mark.parametrize(("first", "how"), [(1, "whole"), (12, "torn")])
def test_a_kill_at_a_file_operation_leaves_no_trace(first: int, how: str) -> None:
    assert kill_at_operations(first, 29, how) >= 10


@pytest.mark.slow
@pytest.mark.parametrize(("first", "how"), [(1, "whole"), (2, "torn")])
def test_kills_at_two_in_three_file_operations_leave_no_trace(first: int, how: str) -> None:
    assert kill_at_operations(first, 3, how) > 90


def run_until_killed(root: Path, seconds: float, sign: signal.Signals) -> tuple[int, str]:
    process = start("run", str(root), "0.04")
    deadline = time.monotonic() + 30
    while not (root / "config.yaml").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(seconds)
    process.send_signal(sign)
    _, err = process.communicate()
    return process.returncode, err


def test_kills_at_random_moments_leave_no_trace(tmp_path: Path) -> None:
    program.program(tmp_path / "whole")
    chance, root = random.Random(0), tmp_path / "killed"
    codes = [run_until_killed(root, chance.uniform(0, 0.6), signal.SIGKILL)[0] for _ in range(3)]
    assert codes[0] == -signal.SIGKILL
    program.program(root)
    assert program.tree(root) == program.tree(tmp_path / "whole")


def test_an_interrupt_leaves_everything_resumable(tmp_path: Path) -> None:
    program.program(tmp_path / "whole")
    code, err = run_until_killed(tmp_path / "stopped", 0.3, signal.SIGINT)
    assert code != 0
    assert "KeyboardInterrupt" in err
    assert RunDirectory.read(tmp_path / "stopped").events()[-1].kind == "interrupted"
    assert run_status(RunDirectory.read(tmp_path / "stopped")).state == "interrupted"
    program.program(tmp_path / "stopped")
    assert program.tree(tmp_path / "stopped") == program.tree(tmp_path / "whole")


def test_several_kills_in_a_row_count_exactly(tmp_path: Path) -> None:
    program.program(tmp_path / "whole")
    for operation in (60, 90, 120):
        program_dies(tmp_path / "killed", operation)
    reused = program.program(tmp_path / "killed")
    counts = RunDirectory.read(tmp_path / "killed").counts()
    assert (
        counts == {"made": 7, "halved": 14, "calls": 6, "steps": 14} == RunDirectory.read(tmp_path / "whole").counts()
    )
    assert 0 < reused["halved"] <= 14
    assert program.tree(tmp_path / "killed") == program.tree(tmp_path / "whole")


def program_dies(root: Path, operation: int) -> None:
    script = (
        "import sys; from pathlib import Path; from tests.run import program\n"
        "program.die_at(int(sys.argv[2]), torn=True); program.program(Path(sys.argv[1]))"
    )
    done = subprocess.run([sys.executable, "-c", script, str(root), str(operation)], cwd=REPOSITORY, check=False)
    assert done.returncode == -signal.SIGKILL
