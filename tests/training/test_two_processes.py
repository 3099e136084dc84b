"""Two processes over gloo train what one trains."""

import json
import os
import socket
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from tests.training.pairs import examples
from tests.training.test_equality import DPO, train


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.slow
@pytest.mark.parametrize("reference", ["scored", "frozen"])
def test_two_processes_equal_one(tmp_path, reference):
    """19 pairs of unequal lengths: the last step has 3, so its processes do not get the same count."""
    port = free_port()
    workers = []
    for rank in range(2):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
        environment = {**os.environ, **place, "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "tests.training.two_processes", str(tmp_path), reference]
        workers.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        )
    for worker in workers:
        output, _ = worker.communicate(timeout=200)
        assert worker.returncode == 0, output[-3000:]
    history = json.loads((tmp_path / f"history-{reference}.json").read_text())
    alone, parameters = train(tmp_path / "alone", objective=DPO, given=examples(19), reference=reference)
    assert [entry["pairs"] for entry in history] == [8, 8, 3]
    for mine, theirs in zip(history, alone.history, strict=True):
        for name in ("loss", "grad_norm", "margin", "accuracy", "chosen_logprob", "chosen_change"):
            assert mine[name] == pytest.approx(theirs[name], rel=2e-3, abs=2e-5), name
    together = load_file(tmp_path / "policy" / "model.safetensors")
    for name, value in parameters.items():
        torch.testing.assert_close(together[name], value, rtol=1e-3, atol=2e-5, msg=name)
