"""A whole run under ``torchrun``: two processes share its stages and its training, and end where one does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.recipes import program, small
from windvane.run import RunDirectory


def together(base: Path, run: Path) -> None:
    """Run ``windvane sso`` in two processes that find each other on a free port."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launch, *program.command(base, run)],
        cwd=small.ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_two_processes_end_with_the_policy_of_one(tmp_path: Path) -> None:
    program.prepare(tmp_path)
    alone, pair = tmp_path / "run-a", tmp_path / "run-b"
    subprocess.run([sys.executable, "-m", *program.command(tmp_path, alone)], check=True)
    together(tmp_path, pair)
    for iteration in (1, 2):
        one, two = (load_file(run / f"iteration-{iteration}/policy/model.safetensors") for run in (alone, pair))
        assert one.keys() == two.keys()
        for name, value in one.items():
            torch.testing.assert_close(two[name], value, rtol=0, atol=2e-6, msg=name)
    responses = [(run / "iteration-1" / "responses.jsonl").read_bytes() for run in (alone, pair)]
    assert responses[0] == responses[1]
    counts = [small.read_json(run / "summary.json")["counts"] for run in (alone, pair)]
    assert counts[0] == counts[1]
    events = RunDirectory.read(pair).events()
    assert events[0].fields["processes"] == 2
    together(tmp_path, pair)
    redone = [event.kind for event in RunDirectory.read(pair).events()[len(events) :]]
    assert {"shard", "stage started", "stage finished"}.isdisjoint(redone)
    assert redone[-1] == "finished"
