"""SIGKILL at any moment of ``windvane sso`` and ``sera``, and the same command again: the same bytes, no work twice."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.recipes import small
from tests.recipes.program import WHOLE
from tests.run.program import tree

KILLS = {"sso": 20, "sera": 12}
IN_TRAINING = {"sso": 3, "sera": 2}
"""How many of them at least were while a policy was in training: every fourth is aimed there."""
RESULTS = {
    "sso": {"iteration-2/policy/model.safetensors", "iteration-1/responses.jsonl", "evaluation/after.jsonl"},
    "sera": {"round-3/policy/model.safetensors", "round-2/samples.jsonl", "round-3/margins.jsonl", "flipped.jsonl"},
}


class Killed(NamedTuple):
    """Runs of a command that were killed and resumed, and beside them one that was not."""

    command: str
    base: Path
    runs: list[Path]
    kills: int
    in_training: int

    @property
    def whole(self) -> Path:
        return self.base / WHOLE


@pytest.fixture(scope="module", params=KILLS)
def killed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Killed:
    command: str = request.param
    base = tmp_path_factory.mktemp(f"kills-{command}")
    environment = {**os.environ, "PYTHONPATH": str(small.ROOT), "OMP_NUM_THREADS": "1"}
    # A process of its own: it forks, which is sound only as long as there are no threads.
    driver = subprocess.run(
        [sys.executable, "-m", "tests.recipes.program", str(base), str(KILLS[command]), "0", command],
        cwd=small.ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert driver.returncode == 0, driver.stderr
    found: dict[str, Any] = json.loads(driver.stdout.splitlines()[-1])
    return Killed(command, base, [base / name for name in found["runs"]], found["kills"], found["in_training"])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_kills_at_random_moments_leave_no_trace_in_the_results(killed: Killed) -> None:
    assert killed.kills == KILLS[killed.command]
    assert killed.in_training >= IN_TRAINING[killed.command]
    assert RESULTS[killed.command] <= set(tree(killed.whole))
    for run in killed.runs:
        assert without_own_path(run) == without_own_path(killed.whole)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_summary_is_that_of_an_uninterrupted_run(killed: Killed) -> None:
    for run in killed.runs:
        whole, resumed = timeless(killed.whole), timeless(run)
        assert resumed == whole
        reused = small.read_json(run / "summary.json")["counts"]["model_calls_reused"]
        assert 0 < reused <= whole["counts"]["model_calls"]
    assert small.read_json(killed.whole / "summary.json")["counts"]["model_calls_reused"] == 0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_is_finished_is_not_done_again(killed: Killed) -> None:
    """Work goes to the journal just after it is on file: a kill between the two hides it, none shows it twice."""
    whole = work(killed.whole)
    assert set(whole.values()) == {1}
    assert sum(index is not None for _, index in whole) > 20  # two queries a shard, or four prompts
    for run in killed.runs:
        done = work(run)
        assert set(done) <= set(whole)
        assert {each: times for each, times in done.items() if times > 1} == {}
        assert len(done) >= len(whole) - killed.kills


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


def work(run: Path) -> Counter[tuple[str, int | None]]:
    """Return how often the journal says that a shard was done, or a whole stage, such as a policy (index None)."""
    lines = (run / "journal.jsonl").read_text(encoding="utf-8").splitlines()
    events = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
    kinds = ("shard", "stage finished")
    return Counter((event["stage"], event.get("index")) for event in events if event["event"] in kinds)
