"""Filtering alone: scored pairs of an earlier run in, kept and dropped pairs out, nothing computed twice."""

from pathlib import Path
from typing import NamedTuple

from pydantic import Field
from rich.console import Console

from windvane.data import write_preferences
from windvane.errors import DataError
from windvane.evaluation.signal import signal_statistics
from windvane.judging.rules import RuleSettings
from windvane.recipes.contrast import select_pairs
from windvane.recipes.report import write_summary
from windvane.recipes.session import RunConfig, check_inputs, open_session
from windvane.run import RunDirectory, run_status
from windvane.selection import Selection, SteeringFilterSettings
from windvane.types import ScoredPair


class SelectConfig(RunConfig):
    """Everything that a run of `windvane select` depends on."""

    run: Path
    """Run directory of `windvane pairs` or `windvane sso` whose pairs are filtered."""
    stage: str = Field(default="pairs", min_length=1)
    """Which of its pairs: `pairs`, or `iteration-1` of an SSO run."""
    selection: SteeringFilterSettings = SteeringFilterSettings()
    """The filter."""
    rule: RuleSettings | None = None
    """What makes y⁺ better, as a rule; the accuracy of the pairs by it is reported. Null leaves that out."""


class SelectResult(NamedTuple):
    """What a run made."""

    pairs: Path
    """The kept pairs, as a preference file."""
    run: Path
    selection: Selection[ScoredPair]


def run_select(config: SelectConfig, *, console: Console | None = None) -> SelectResult:
    """Filter the pairs of an earlier run; see `run_sso` for consoles and errors."""
    check_inputs(config)
    source = RunDirectory.read(config.run)
    scored = source.records(f"{config.stage}/scored", ScoredPair)
    if scored is None:
        finished = (stage.name for stage in run_status(source).stages if stage.name.endswith("/scored"))
        stages = ", ".join(name.removesuffix("/scored") for name in finished)
        raise DataError(
            f"{config.run} has no finished scored pairs under {config.stage!r}; it has: {stages or 'none'}. "
            "Set `stage` to one of these, or finish that run first."
        )
    with open_session(config, command="select", console=console) as session:
        run, _, reporter = session
        selection = select_pairs(session, "selection", scored, config.selection)
        signal = signal_statistics(scored, [one.pair.id for one in selection.kept], config.rule)
        reporter.signal([signal])
        path = run.path / "pairs.jsonl"
        if run.is_main:
            scores = {one.pair.id: one.scores for one in selection.kept}
            write_preferences(path, [one.pair for one in selection.kept], scores=scores)
        summary = selection.summary()
        write_summary(
            run,
            "select",
            model=str(source.config().get("model", "")),
            seed=int(source.config().get("seed", 0)),
            results={
                "counts": {"pairs_made": summary.pairs, "pairs_kept": summary.kept, "dropped": summary.dropped},
                "pairs": path,
                "iterations": [signal],
            },
        )
        reporter.places({"kept pairs": path, "dropped pairs, with reasons": run.path / "selection" / "dropped.jsonl"})
        return SelectResult(path, run.path, selection)
