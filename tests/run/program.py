"""A small run with every kind of stage, and a driver that kills it at a chosen file operation.

As a script: ``python -m tests.run.program {run | every} ROOT …``; see `main`.
"""

import fcntl
import hashlib
import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from windvane.config import Settings
from windvane.run import RunDirectory, provenance
from windvane.run.layout import VARYING
from windvane.types import Record

QUIET = Console(quiet=True)
OPERATIONS = ("open", "write", "pwrite", "fsync", "replace", "rename", "mkdir", "unlink", "rmdir", "ftruncate")


class Config(Settings):
    seed: int = 0
    size: int = 7
    shard_size: int = 3


class Number(Record):
    index: int
    value: float


def program(
    root: Path,
    config: Config | None = None,
    *,
    ledger: Path | None = None,
    pause: float = 0.0,
    console: Console = QUIET,
) -> dict[str, int]:
    """Run two rounds of once, map and folder; append to `ledger` what is really done; return the counters."""
    config = config or Config()

    def note(what: str) -> None:
        time.sleep(pause)
        if ledger is not None:
            with open(ledger, "a", encoding="utf-8") as file:
                file.write(what + "\n")

    with RunDirectory.open(root, config, command="test", may_change=frozenset({"shard_size"}), console=console) as run:

        def first() -> list[Number]:
            note("first")
            run.count("made", config.size)
            return [Number(index=index, value=index / 3) for index in range(config.size)]

        numbers = run.once("numbers", first, Number)
        for number in (1, 2):
            numbers = round_(run, f"round-{number}", numbers, config, note)
        run.write_json("result.json", {"counts": run.counts(), "last": numbers[-1]})
        return run.reused()


def round_(
    run: RunDirectory, name: str, numbers: Sequence[Number], config: Config, note: Callable[[str], None]
) -> list[Number]:
    def halve(part: Sequence[Number]) -> list[Number]:
        note(f"{name}/halves {part[0].index}")
        run.count("halved", len(part))
        run.count("calls")
        return [Number(index=number.index, value=random.Random(number.value).random()) for number in part]

    halves = run.map(f"{name}/halves", numbers, halve, Number, shard_size=config.shard_size, label="halves")

    def train(folder: Path) -> None:
        """Sum the numbers in steps, with a checkpoint for each step; as in a real training, one process writes."""
        scratch = run.scratch(f"{name}/policy")
        done = sorted(scratch.glob("step-*"))
        state = float(done[-1].read_text()) if done else 0.0
        for step in range(len(done), len(halves)):
            note(f"{name}/policy {step}")
            state += halves[step].value
            if run.is_main:
                (scratch / "part").write_text(repr(state))
                os.replace(scratch / "part", scratch / f"step-{step:03}")
        run.count("steps", len(halves))
        if not run.is_main:
            return
        (folder / "weights").mkdir()
        (folder / "weights" / "sum.json").write_text(json.dumps(state))
        (folder / "config.json").write_text("{}")

    policy = run.folder(f"{name}/policy", train, inputs=halves)
    total = float((policy / "weights" / "sum.json").read_text())
    return [Number(index=half.index, value=half.value * total) for half in halves]


def tree(root: Path) -> dict[str, str]:
    """Return the checksum of each file that must not vary, and ``folder`` for each folder."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if name not in VARYING:
            found[name] = "folder" if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def die_at(operation: int, *, torn: bool) -> None:
    """Have this process killed just before its file operation number `operation` (from 1).

    With `torn`, the last bytes of a file that was about to be synced are lost, as in a power failure.
    """
    left = operation

    def counting(name: str, original: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            nonlocal left
            left -= 1
            if left == 0:
                if torn and name == "fsync":
                    tear(arguments[0])
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **options)

        return call

    truncate = os.ftruncate

    def tear(descriptor: object) -> None:
        assert isinstance(descriptor, int)
        size = os.fstat(descriptor).st_size
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY and size > 5:
            truncate(descriptor, size - 5)

    for name in OPERATIONS:
        setattr(os, name, counting(name, getattr(os, name)))


def in_child(work: Callable[[], object]) -> int:
    """Do `work` in a forked process and return the signal that ended it, or 0; raise if it failed."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            if code:
                traceback.print_exc()
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise AssertionError("the child failed")
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def kill_everywhere(base: Path, first: int, every: int, *, torn: bool) -> int:
    """Kill the program at file operations first, first + every …, resume it, compare; return the number of kills."""
    provenance._git = lambda *arguments: None  # type: ignore[assignment]  # a process a call, three calls a run
    program(base / "whole")
    expected, operation, kills = tree(base / "whole"), first, 0
    while True:
        root, ledger = base / f"killed-{operation}", base / f"ledger-{operation}"

        def killed(root: Path = root, ledger: Path = ledger, operation: int = operation) -> None:
            die_at(operation, torn=torn)
            program(root, ledger=ledger)

        if in_child(killed) == 0:
            return kills
        kills += 1
        in_child(partial(program, root, ledger=ledger))
        done = ledger.read_text().splitlines()
        assert tree(root) == expected, f"killed at operation {operation}: {tree(root)}"
        assert len(done) - len(set(done)) <= 1, f"killed at operation {operation}, done again: {done}"
        operation += every


def main(arguments: list[str]) -> None:
    """``run ROOT PAUSE`` runs the program once; ``every BASE FIRST STEP HOW`` kills it, resumes it and compares."""
    if arguments[0] == "run":
        program(Path(arguments[1]), pause=float(arguments[2]))
    else:
        first, step = int(arguments[2]), int(arguments[3])
        print(kill_everywhere(Path(arguments[1]), first, step, torn=arguments[4] == "torn"))


if __name__ == "__main__":
    main(sys.argv[1:])
