"""SeRA under ``torchrun``: two processes share its stages and its training, and end where one does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.recipes import program, small
from tests.recipes.offline_pairs import records
from windvane.run import RunDirectory
from windvane.types import Dropped

FEWER = ["--set", "rounds=2", "--set", "evaluation=null"]


def together(base: Path, run: Path) -> None:
    """Run ``windvane sera`` in two processes that find each other on a free port."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launch, *program.command(base, run, "sera"), *FEWER],
        cwd=small.ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


def difference(one: Path, two: Path) -> torch.Tensor:
    """Return by how much each weight differs."""
    mine, other = load_file(one), load_file(two)
    assert mine.keys() == other.keys()
    return torch.cat([(mine[name] - other[name]).abs().flatten() for name in mine])


@pytest.mark.slow
def test_two_processes_end_with_the_policy_of_one(tmp_path: Path) -> None:
    program.prepare(tmp_path)
    alone, pair = tmp_path / "run-a", tmp_path / "run-b"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*program.command(tmp_path, alone, "sera"), *FEWER]
    subprocess.run([sys.executable, "-m", *command], check=True, env=environment)
    together(tmp_path, pair)
    for number in (1, 2):
        change = difference(*(run / f"round-{number}/policy/model.safetensors" for run in (alone, pair)))
        # AdamW divides by the gradient's size, so a weight that hardly has one moves with the gradient's last digits.
        assert (change > 2e-6).sum() <= 10
        assert change.max() < 1e-3  # a third of the learning rate
    for name in ("reference.jsonl", "round-2/samples.jsonl"):
        assert (alone / name).read_bytes() == (pair / name).read_bytes(), name
    one, two = ([each.id for each in records(run / "round-2/dropped.jsonl", Dropped)] for run in (alone, pair))
    assert one == two
    counts = [small.read_json(run / "summary.json")["counts"] for run in (alone, pair)]
    assert counts[0] == counts[1]
    assert RunDirectory.read(pair).events()[0].fields["processes"] == 2
