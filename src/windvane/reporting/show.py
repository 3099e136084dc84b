"""What `windvane show` prints."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.console import Console, Group, RenderableType
from rich.text import Text

from windvane.evaluation.policy import Evaluation, Limits
from windvane.evaluation.prompt_effect import PromptEffect
from windvane.evaluation.reward_accuracy import RewardAccuracy
from windvane.reporting.console import evaluation_table, prompt_effect_table, signal_table, status_table
from windvane.reporting.rounds import AGREEMENT, HELD_OUT, accuracy_table, rounds_table
from windvane.reporting.search import search_text
from windvane.run import RunDirectory, run_status


def show_run(path: Path, console: Console | None = None) -> None:
    """Print where a run stands and what it found; changes nothing, so the run may be under way.

    Raises `RunDirectoryError` where `path` holds no run.
    """
    console = console or Console()
    view = RunDirectory.read(path)
    console.print(status_table(run_status(view)))
    summary = view.json("summary.json")
    if isinstance(summary, Mapping):
        console.print(summary_tables(summary, view.config()))


def summary_tables(summary: Mapping[str, Any], config: Mapping[str, Any]) -> RenderableType:
    """Return what ``summary.json`` says, as tables; the rule and the limits are those of the configuration."""
    parts: list[RenderableType] = []
    iterations = [row for row in summary.get("iterations") or () if isinstance(row, Mapping)]
    if iterations:
        parts.append(signal_table(iterations))
    rounds = [row for row in summary.get("rounds") or () if isinstance(row, Mapping)]
    if rounds:
        parts.append(rounds_table(rounds))
    for name, title in (("held_out", HELD_OUT), ("agreement", AGREEMENT)):
        if summary.get(name) is not None:
            parts.append(_accuracy(summary[name], title))
    if isinstance(summary.get("search"), Mapping) and isinstance(summary.get("proof"), Mapping):
        parts.append(search_text(summary["search"], summary["proof"]))
    if summary.get("evaluation") is not None:
        parts.append(_evaluation(summary["evaluation"], config.get("evaluation") or {}))
    if summary.get("prompt_effect") is not None:
        parts.append(_prompt_effect(summary["prompt_effect"]))
    return Group(*parts)


def _accuracy(numbers: object, title: str) -> RenderableType:
    try:
        return accuracy_table(RewardAccuracy.model_validate(numbers), title=title)
    except ValidationError:  # written by another version
        return Text("summary.json has an accuracy that this version of windvane cannot read", style="yellow")


def _prompt_effect(numbers: object) -> RenderableType:
    try:
        return prompt_effect_table(PromptEffect.model_validate(numbers))
    except ValidationError:  # written by another version
        return Text("summary.json has a prompt_effect that this version of windvane cannot read", style="yellow")


def _evaluation(numbers: object, settings: Mapping[str, Any]) -> RenderableType:
    try:
        evaluation = Evaluation.model_validate(numbers)
        limits = Limits.model_validate(settings.get("limits") or {})
    except ValidationError:  # written by another version
        return Text("summary.json has an evaluation that this version of windvane cannot read", style="yellow")
    return evaluation_table(evaluation, rule=(settings.get("rule") or {}).get("type"), limits=limits)
