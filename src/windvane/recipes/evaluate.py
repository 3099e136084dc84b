"""Evaluation alone: a policy against the model that it began as, on queries of the user's choice."""

from pathlib import Path
from typing import NamedTuple

from pydantic import Field
from rich.console import Console

from windvane.data import DataSource, load_queries
from windvane.evaluation.policy import Evaluation, EvaluationSettings
from windvane.recipes.compare import compare_policies
from windvane.recipes.report import write_summary
from windvane.recipes.session import ModelRunConfig, open_session


class EvaluateConfig(ModelRunConfig, EvaluationSettings):
    """Everything that a run of `windvane evaluate` depends on."""

    base: str = Field(min_length=1)
    """The model to compare with, which also reads the answers: a folder, a name or a hub name."""
    policy: str = Field(min_length=1)
    """The model to evaluate."""
    queries: DataSource
    """Queries that the policy was not trained on."""
    max_queries: int | None = Field(default=None, ge=1)
    """Use only the first so many queries; null uses all."""
    shard_size: int = Field(default=64, ge=1)
    """Queries per shard: the most work that a kill can cost, and the most that are batched together."""


class EvaluateResult(NamedTuple):
    """What a run made."""

    evaluation: Evaluation
    run: Path


def run_evaluate(config: EvaluateConfig, *, console: Console | None = None) -> EvaluateResult:
    """Compare two models; see `run_sso` for consoles and errors."""
    with open_session(config, command="evaluate", console=console) as session:
        run, _, reporter = session
        evaluation = compare_policies(
            session,
            load_queries(config.queries, limit=config.max_queries),
            config,
            base=config.base,
            policy=config.policy,
            seed=config.seed,
            shard_size=config.shard_size,
        ).evaluation
        write_summary(
            run,
            "evaluate",
            model=config.base,
            seed=config.seed,
            results={"policy": config.policy, "evaluation": evaluation},
        )
        reporter.places({"run directory": run.path})
        return EvaluateResult(evaluation, run.path)
