"""Runs ``windvane sso`` or ``sera`` again and again in children that are killed, forked so that none pays for imports.

As a script: ``python -m tests.recipes.program BASE KILLS SEED [COMMAND]``; prints one JSON line, see `main`.
"""

import gc
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, NoReturn

from tests.recipes import offline_pairs, small

CHECKPOINTS = ["training.epochs=2", "training.save_every=1"]
ARGUMENTS = {
    "sso": [
        *small.SAMPLING, *small.NO_FILTER, *small.TRAINING, *small.EVALUATION,
        "iterations=2", "max_queries=8", "shard_size=2", *CHECKPOINTS,
    ],
    "sera": [
        *offline_pairs.TRAINING, *offline_pairs.STUDY, offline_pairs.SAMPLES, "evaluation={max_new_tokens: 8}",
        "rounds=3", "max_pairs=18", "shard_size=4", *CHECKPOINTS,
    ],
}  # fmt: skip
"""By command, what makes its example tiny."""
WHOLE = "run-00"
"""The run without a kill."""

PATIENCE = 60.0
"""Seconds that a run may take."""

Wait = Callable[[int], None]
"""Returns when the child with this process number is to be killed."""


class Ended(NamedTuple):
    """How a child ended."""

    signal: int
    code: int
    seconds: float
    in_training: bool
    """Whether checkpoints lay there, half a policy that is."""


def command(base: Path, run: Path, name: str = "sso") -> list[str]:
    """Return the arguments of the command line, the same for each attempt but for where the run lies."""
    data = f"queries={base / 'queries.jsonl'}" if name == "sso" else f"preferences={base / 'pairs.jsonl'}"
    places = [f"model={base / 'model'}", data, f"output_dir={run}"]
    overrides = [word for each in (*places, *ARGUMENTS[name]) for word in ("--set", each)]
    return ["windvane", name, str(small.EXAMPLES / f"{name}.yaml"), *overrides]


def attempt(base: Path, run: Path, wait: Wait | None, name: str) -> Ended:
    """Run the command in a child; after `wait` kill it, if it still runs."""
    begun = time.monotonic()
    child = os.fork()
    if child == 0:
        be_the_command_line(command(base, run, name), base / f"{run.name}.log")
    if wait is not None:
        wait(child)
        os.kill(child, signal.SIGKILL)
    _, status, _ = os.wait4(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return Ended(max(-code, 0), max(code, 0), time.monotonic() - begun, bool(checkpoints(run)))


def be_the_command_line(arguments: list[str], log: Path) -> NoReturn:
    """Run the command line in this process with its output in a file, and end the process."""
    from windvane.cli import main

    with open(log, "a", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = arguments
    code = 1
    try:
        main()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    finally:
        os._exit(code)


def prepare(base: Path) -> None:
    """Write model, queries and preference pairs, and import all that a command will."""
    import windvane.engines.local
    import windvane.recipes.sera
    import windvane.recipes.sso
    from tests import tiny

    assert windvane.recipes.sso
    assert windvane.recipes.sera
    base.mkdir(parents=True, exist_ok=True)
    tiny.model("llama", max_position_embeddings=4096).save_pretrained(base / "model")
    tiny.tokenizer().save_pretrained(base / "model")
    small.write_queries(base / "queries.jsonl")
    offline_pairs.write_pairs(base / "pairs.jsonl")


def in_time(seconds: float) -> Wait:
    """Wait so long, or until the child has ended."""

    def wait(child: int) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not ended(child):
            time.sleep(0.01)

    return wait


def in_training(run: Path, seconds: float) -> Wait:
    """Wait until another checkpoint of a policy is there, then so long."""
    known = checkpoints(run)

    def wait(child: int) -> None:
        deadline = time.monotonic() + PATIENCE
        while checkpoints(run) <= known and time.monotonic() < deadline and not ended(child):
            time.sleep(0.01)
        time.sleep(seconds)

    return wait


def checkpoints(run: Path) -> set[Path]:
    """Return the checkpoints of policies that are not finished."""
    return set(run.glob(".windvane/scratch/*/policy/checkpoint-*"))


def ended(child: int) -> bool:
    """Say whether a child has ended; it is still to be waited for."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def main(base: Path, kills: int, seed: int, name: str = "sso") -> None:
    """Run `name` once without a kill; then kill at `kills` random moments, every fourth after a checkpoint was written.

    Prints ``{"runs": [name, …], "kills": n, "in_training": n}``: run directories beside `WHOLE` that were killed at
    least once and then ran to their end.
    """
    prepare(base)
    gc.freeze()  # what the children share; they collect what is their own, at each change of the model
    whole = attempt(base, base / WHOLE, None, name)
    assert whole.code == 0, (base / f"{WHOLE}.log").read_text(encoding="utf-8")
    chance, runs, done, training = random.Random(seed), list[str](), 0, 0
    while done < kills:
        run = base / f"run-{len(runs) + 1:02}"
        killed = 0
        for number in range(kills - done):
            seconds = chance.uniform(0, whole.seconds)
            aimed = number % 4 == 1
            end = attempt(base, run, in_training(run, seconds / 50) if aimed else in_time(0.7 * seconds), name)
            assert end.code == 0, (base / f"{run.name}.log").read_text(encoding="utf-8")
            if not end.signal:
                break
            killed += 1
            training += end.in_training
        done += killed
        last = attempt(base, run, None, name)
        assert last.code == 0, (base / f"{run.name}.log").read_text(encoding="utf-8")
        runs.append(run.name)
    print(json.dumps({"runs": runs, "kills": done, "in_training": training, "seconds": whole.seconds}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
