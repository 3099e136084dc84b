"""What a run tells its user: tables on the way, ``summary.json`` at the end."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Console

from windvane import __version__
from windvane.evaluation.policy import Evaluation, EvaluationSettings
from windvane.evaluation.prompt_effect import PromptEffect
from windvane.evaluation.reward_accuracy import RewardAccuracy
from windvane.evaluation.signal import SignalStatistics
from windvane.prompt_search.proof import Proof
from windvane.reporting.cells import plain
from windvane.reporting.console import (
    evaluation_table,
    prompt_effect_table,
    samples_table,
    selection_table,
    signal_table,
)
from windvane.reporting.rounds import AGREEMENT, accuracy_table, doubted_table, rounds_table
from windvane.reporting.search import proof_tables
from windvane.run import RunDirectory
from windvane.selection import PairMargin, SelectionSummary
from windvane.types import Completion, Pair, Query

SUMMARY = "summary.json"


class Reporter:
    """Prints what a run finds, on the main process alone."""

    def __init__(self, run: RunDirectory, console: Console | None = None) -> None:
        self._run = run
        self._console = (console or Console()) if run.is_main else Console(quiet=True)

    def selection(self, summary: SelectionSummary) -> None:
        """Show what the filter kept and dropped."""
        self._console.print(selection_table(summary.kept, summary.dropped, summary.thresholds))

    def signal(self, iterations: list[SignalStatistics]) -> None:
        """Show the signal of all iterations so far."""
        self._console.print(signal_table([each.model_dump() for each in iterations]))

    def rounds(self, rounds: Sequence[Mapping[str, Any]]) -> None:
        """Show what SeRA's rounds so far kept and added, and what their policies prefer."""
        self._console.print(rounds_table(rounds))

    def audit(self, agreement: RewardAccuracy, margins: Sequence[PairMargin], pairs: Sequence[Pair]) -> None:
        """Show how often a policy agrees with the labels, and the pairs on which it disagrees most."""
        self._console.print(accuracy_table(agreement, title=AGREEMENT))
        self._console.print(doubted_table(margins, pairs))

    def accuracy(self, accuracy: RewardAccuracy | None) -> None:
        """Show how often the implicit reward agrees with held-out labels, where there are any."""
        if accuracy is not None:
            self._console.print(accuracy_table(accuracy))

    def comparison(
        self,
        evaluation: Evaluation,
        queries: Sequence[Query],
        before: Sequence[Completion],
        after: Sequence[Completion],
        settings: EvaluationSettings,
    ) -> None:
        """Show samples side by side, and the numbers before and after."""
        rule = None if settings.rule is None else settings.rule.type
        self._console.print(samples_table(queries, before, after))
        self._console.print(evaluation_table(evaluation, rule=rule, limits=settings.limits))

    def prompt_effect(self, effect: PromptEffect) -> None:
        """Show what a found prompt does, and what the policy does without it."""
        self._console.print(prompt_effect_table(effect))

    def proof(self, proof: Proof, notes: Sequence[str]) -> None:
        """Show whether a found prompt is better than the start prompt, and what a reader of the search should know."""
        self._console.print(proof_tables(proof))
        for note in notes:
            self._console.print(plain(note), highlight=False, soft_wrap=True)

    def places(self, places: Mapping[str, object]) -> None:
        """Say where things are."""
        for name, place in places.items():
            self._console.print(f"{name}: {place}", markup=False, highlight=False, soft_wrap=True)


def write_summary(run: RunDirectory, method: str, *, model: str, seed: int, results: Mapping[str, Any]) -> None:
    """Write ``summary.json``: what is true of any run, then the method's own `results`.

    `results` may hold ``counts`` of its own, which join those of the run's stages.
    """
    if not run.is_main:
        return
    status, counts = run.status(), run.counts()
    started = status.started or datetime.now(UTC)
    results = dict(results)
    run.write_json(
        SUMMARY,
        {
            "method": method,
            "model": model,
            "seed": seed,
            "windvane_version": __version__,
            "started": started.isoformat(),
            "finished": datetime.now(UTC).isoformat(),
            "minutes": round(status.minutes, 2),
            "stages": {stage.name: round(stage.minutes or 0.0, 2) for stage in status.stages},
            "counts": {
                **results.pop("counts", {}),
                "model_calls": counts.get("model_calls", 0),
                "model_calls_reused": run.reused().get("model_calls", 0),
                "tokens_generated": counts.get("tokens_generated", 0),
                "tokens_scored": counts.get("tokens_scored", 0),
            },
            **results,
        },
    )
