import io
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console

from tests.evaluation.answers import answer, query
from windvane.config import Settings
from windvane.errors import RunDirectoryError
from windvane.evaluation.policy import EvaluationSettings, evaluate
from windvane.judging.rules import Shorter
from windvane.reporting.show import show_run
from windvane.run import RunDirectory
from windvane.types import Completion


class Config(Settings):
    evaluation: EvaluationSettings = EvaluationSettings(rule=Shorter())


def run_at(path: Path) -> None:
    def work(shard: Sequence[int]) -> list[Completion]:
        return [answer(f"number {index}") for index in shard]

    quiet = Console(quiet=True)
    queries = [query("tea"), query("rain")]
    numbers = evaluate(queries, [answer("tea is good")] * 2, [answer("tea")] * 2, None, Shorter(), seed=0)
    with RunDirectory.open(path, Config(), command="sso", console=quiet) as run:
        run.map("answers", [1, 2, 3], work, Completion, shard_size=2, label="answers")
        run.write_json(
            "summary.json",
            {"iterations": [{"n": 3, "pair_accuracy": 0.75}], "evaluation": json.loads(numbers.to_json())},
        )


def shown(path: Path) -> str:
    console = Console(file=io.StringIO(), width=80)
    show_run(path, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_finished_run(tmp_path: Path) -> None:
    run_at(tmp_path / "run")
    text = shown(tmp_path / "run")
    assert "finished" in text
    assert "answers" in text
    assert "0.75" in text
    assert "by the rule 'shorter' 1.00" in text


def test_a_summary_of_another_version(tmp_path: Path) -> None:
    run_at(tmp_path / "run")
    (tmp_path / "run" / "summary.json").write_text('{"evaluation": {"n": 3, "wins": "many"}, "iterations": null}')
    assert "cannot read" in shown(tmp_path / "run")


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError):
        shown(tmp_path)
