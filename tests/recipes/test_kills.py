"""SIGKILL at any moment of ``windvane sso``, the same command again: the same bytes, and nothing done twice."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.recipes import small
from tests.recipes.program import WHOLE
from tests.run.program import tree

KILLS = 20


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Runs that were killed and resumed, and beside them one that was not."""
    base = tmp_path_factory.mktemp("kills")
    environment = {**os.environ, "PYTHONPATH": str(small.ROOT), "OMP_NUM_THREADS": "1"}
    # A process of its own: it forks, which is sound only as long as there are no threads.
    driver = subprocess.run(
        [sys.executable, "-m", "tests.recipes.program", str(base), str(KILLS), "0"],
        cwd=small.ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert driver.returncode == 0, driver.stderr
    found: dict[str, Any] = json.loads(driver.stdout.splitlines()[-1])
    return base, found


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_kills_at_random_moments_leave_no_trace_in_the_results(killed: tuple[Path, dict[str, Any]]) -> None:
    base, found = killed
    assert found["kills"] == KILLS
    assert found["in_training"] >= 3
    results = {"iteration-2/policy/model.safetensors", "iteration-1/responses.jsonl", "evaluation/after.jsonl"}
    assert results <= set(tree(base / WHOLE))
    for name in found["runs"]:
        assert without_own_path(base / name) == without_own_path(base / WHOLE)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_summary_is_that_of_an_uninterrupted_run(killed: tuple[Path, dict[str, Any]]) -> None:
    base, found = killed
    for name in found["runs"]:
        whole, resumed = timeless(base / WHOLE), timeless(base / name)
        assert resumed == whole
        reused = small.read_json(base / name / "summary.json")["counts"]["model_calls_reused"]
        assert 0 < reused <= whole["counts"]["model_calls"]
    assert small.read_json(base / WHOLE / "summary.json")["counts"]["model_calls_reused"] == 0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_is_finished_is_not_done_again(killed: tuple[Path, dict[str, Any]]) -> None:
    """A shard goes to the journal just after it is on file: a kill between the two hides it, none shows it twice."""
    base, found = killed
    whole = shards(base / WHOLE)
    assert set(whole.values()) == {1}
    assert len(whole) > 20  # two queries a shard
    for name in found["runs"]:
        done = shards(base / name)
        assert set(done) <= set(whole)
        assert {shard: times for shard, times in done.items() if times > 1} == {}
        assert len(done) >= len(whole) - found["kills"]


def without_own_path(run: Path) -> dict[str, str]:
    """Return what `tree` does; files that name the run directory itself are told by their text without its name."""
    found = tree(run)
    for name in found:
        path = run / name
        if path.is_file() and str(run).encode() in (content := path.read_bytes()):
            found[name] = content.replace(str(run).encode(), b"RUN").decode()
    return found


def timeless(run: Path) -> dict[str, Any]:
    """Return a summary without times, without what was reused, and without the name of the run directory."""
    text = (run / "summary.json").read_text(encoding="utf-8").replace(str(run), "RUN")
    summary: dict[str, Any] = json.loads(text)
    for name in ("started", "finished", "minutes"):
        del summary[name]
    summary["stages"] = list(summary["stages"])
    del summary["counts"]["model_calls_reused"]
    return summary


def shards(run: Path) -> Counter[tuple[str, int]]:
    """Return how often the journal says that a shard was done."""
    lines = (run / "journal.jsonl").read_text(encoding="utf-8").splitlines()
    events = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
    return Counter((event["stage"], event["index"]) for event in events if event["event"] == "shard")
