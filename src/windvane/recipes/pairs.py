"""Contrast pairs for training elsewhere: the first half of SSO, and a file that other trainers read."""

from collections import Counter
from pathlib import Path
from typing import Literal, NamedTuple

from rich.console import Console

from windvane.data import load_queries, write_preferences
from windvane.evaluation.signal import SignalStatistics, signal_statistics
from windvane.judging.rules import RuleSettings
from windvane.recipes.contrast import ContrastConfig, check_principles, make_contrast_pairs, select_pairs
from windvane.recipes.report import write_summary
from windvane.recipes.session import open_session
from windvane.selection import SteeringFilterSettings


class PairsConfig(ContrastConfig):
    """Everything that a run of `windvane pairs` depends on."""

    selection: SteeringFilterSettings | None = None
    """The filter; null keeps every pair, with its log-probabilities beside it for `windvane select`."""
    rule: RuleSettings | None = None
    """What makes y⁺ better, as a rule; the accuracy of the pairs by it is reported. Null leaves that out."""
    format: Literal["jsonl", "parquet"] = "jsonl"
    """File format of the pairs."""


class PairsResult(NamedTuple):
    """What a run made."""

    pairs: Path
    """The preference file."""
    run: Path
    signal: SignalStatistics


def run_pairs(config: PairsConfig, *, console: Console | None = None) -> PairsResult:
    """Make contrast pairs and write them in TRL's preference format; see `run_sso` for consoles and errors."""
    with open_session(config, command="pairs", console=console) as session:
        run, _, reporter = session
        queries = load_queries(config.queries, limit=config.max_queries)
        check_principles(session, config)
        contrast = make_contrast_pairs(session, "pairs", queries, config, sampler=config.model, scorer=config.model)
        kept, dropped = contrast.scored, contrast.dropped
        if config.selection is not None:
            selection = select_pairs(session, "pairs", contrast.scored, config.selection)
            kept, dropped = list(selection.kept), [*contrast.dropped, *selection.dropped]
        path = run.path / f"pairs.{config.format}"
        if run.is_main:
            write_preferences(path, [one.pair for one in kept], scores={one.pair.id: one.scores for one in kept})
        signal = signal_statistics(contrast.scored, [one.pair.id for one in kept], config.rule)
        reporter.signal([signal])
        write_summary(
            run,
            "pairs",
            model=config.model,
            seed=config.seed,
            results={
                "counts": {
                    "queries": len(queries),
                    "pairs_made": signal.n,
                    "pairs_kept": signal.n_kept,
                    "dropped": dict(Counter(record.reason for record in dropped).most_common()),
                },
                "pairs": path,
                "iterations": [signal],
            },
        )
        reporter.places({"pairs": path, "run directory": run.path})
        return PairsResult(path, run.path, signal)
