"""Self-Steering Optimization (arXiv:2410.17131): the method's story, top to bottom.

Version 1 (``mode: direct``): in each iteration the policy answers under a good and a bad principle, the contrast makes
preference pairs, a filter keeps the near-on-policy ones, and the policy is trained on them under the steering loss.
Version 2 (``mode: generator``): a data generator is trained first, and the policy learns from the generator's pairs.
"""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from pydantic import Field, model_validator
from rich.console import Console

from windvane.config import Settings
from windvane.evaluation.policy import Evaluation
from windvane.evaluation.signal import SignalStatistics, signal_statistics
from windvane.losses import LossSettings, SsoGeneratorSettings, SsoSettings
from windvane.recipes.compare import HeldOutEvaluation, compare_policies, read_and_split
from windvane.recipes.contrast import ContrastConfig, make_contrast_pairs, score_with, select_pairs
from windvane.recipes.policy import TrainedPolicy, train_stage
from windvane.recipes.report import write_summary
from windvane.recipes.session import Session, open_session
from windvane.selection import SteeringFilterSettings
from windvane.training import TrainingSettings, encode_steering_pair
from windvane.types import Query, ScoredPair


class GeneratorSettings(Settings):
    """Version 2: how the data generator is trained."""

    query_share: float = Field(default=0.5, gt=0, le=1)
    """Share of an iteration's queries that the generator is trained on."""
    loss: SsoGeneratorSettings = SsoGeneratorSettings()
    """``L⁺ + L⁻`` with their NLL terms."""
    training: TrainingSettings = TrainingSettings()
    """How the generator is trained."""


class SSOConfig(ContrastConfig):
    """Everything that an SSO run depends on."""

    mode: Literal["direct", "generator"] = "direct"
    """`direct` is version 1 of the paper, `generator` version 2."""
    iterations: int = Field(default=3, ge=1)
    """Rounds T, on disjoint parts of the queries; the policy that one ends with begins the next."""
    reference: Literal["previous", "initial"] = "previous"
    """Reference of the loss: the policy that the iteration begins with, or the model that the run began with."""
    selection: SteeringFilterSettings = SteeringFilterSettings()
    """Which pairs are trained on."""
    loss: LossSettings = SsoSettings()
    """`sso` steers; a base loss alone is the baseline PBAA, and what generator mode trains the policy with."""
    training: TrainingSettings = TrainingSettings()
    """How the policy is trained."""
    generator: GeneratorSettings | None = None
    """The data generator; needed in generator mode, and only there."""
    evaluation: HeldOutEvaluation | None = HeldOutEvaluation()
    """Comparison with the model that the run began with, on queries it never trains on; null leaves it out."""

    @model_validator(mode="after")
    def _mode_fits(self) -> Self:
        if (self.mode == "generator") != (self.generator is not None):
            raise ValueError(
                "mode and generator go together: give `generator` (it may be {}) with `mode: generator`, and only there"
            )
        if isinstance(self.loss, SsoGeneratorSettings):
            raise ValueError("loss.type sso_generator trains a data generator: put it under generator.loss")
        if self.mode == "generator" and isinstance(self.loss, SsoSettings):
            raise ValueError(
                "generator mode trains the policy with a base loss alone: set loss.type to ipo, dpo or another"
            )
        return self


class Iteration(NamedTuple):
    """One round: the policy that it ended with, what its pairs were like, and what became of each query."""

    policy: TrainedPolicy
    signal: SignalStatistics
    queries: int
    dropped: Counter[str]
    """Queries without a pair and pairs that the filter refused, by reason."""


class SSOResult(NamedTuple):
    """What a run made."""

    policy: Path
    """Folder of the aligned model, for transformers, vLLM and the like."""
    run: Path
    iterations: list[Iteration]
    evaluation: Evaluation | None


def run_sso(config: SSOConfig, *, console: Console | None = None) -> SSOResult:
    """Align a model; on a run directory that was interrupted, go on from there.

    See `open_session` for `console`. Raises `UserError` for wrong input, before anything expensive, and `RunFailed`
    where a run can be resumed.
    """
    with open_session(config, config.output_dir, config.engine, command="sso", console=console) as session:
        run, _, reporter = session
        parts, held_out = read_and_split(
            config.queries, config.evaluation, parts=config.iterations, limit=config.max_queries, seed=config.seed
        )
        policy, iterations = config.model, list[Iteration]()
        for number, queries in enumerate(parts, start=1):
            iterations.append(iterate(session, f"iteration-{number}", queries, config, policy=policy))
            reporter.signal([iteration.signal for iteration in iterations])
            policy = str(iterations[-1].policy.folder)
        evaluation = None
        if config.evaluation is not None:
            evaluation = compare_policies(
                session, held_out, config.evaluation, base=config.model, policy=policy,
                seed=config.seed, shard_size=config.shard_size,
            )  # fmt: skip
        result = SSOResult(Path(policy), run.path, iterations, evaluation)
        write_summary(run, "sso", model=config.model, seed=config.seed, results=summary_of(result, config))
        reporter.places({"aligned model": policy, "run directory": run.path})
        return result


def iterate(session: Session, stage: str, queries: Sequence[Query], config: SSOConfig, *, policy: str) -> Iteration:
    """Go one round from `policy`: sample, score, select, train."""
    sampler = policy
    if config.generator is not None:
        sampler = train_generator(session, f"{stage}/generator", queries, config, config.generator, policy=policy)
    contrast = make_contrast_pairs(session, stage, queries, config, sampler=sampler, scorer=policy)
    selection = select_pairs(session, stage, contrast.scored, config.selection)
    pairs: Sequence[ScoredPair] = selection.kept
    training = config.training
    if config.reference == "initial" and policy != config.model:
        kept = [scored.pair for scored in selection.kept]
        pairs = score_with(session, f"{stage}/reference", kept, model=config.model, shard_size=config.shard_size)
        training = training.away_from_reference()
    trained = train_stage(
        session, f"{stage}/policy", pairs, encode_steering_pair, config.loss, training,
        start=policy, seed=config.seed,
    )  # fmt: skip
    rule = config.evaluation.rule if config.evaluation else None
    signal = signal_statistics(contrast.scored, [scored.pair.id for scored in selection.kept], rule)
    reasons = Counter(record.reason for record in (*contrast.dropped, *selection.dropped))
    return Iteration(trained, signal, len(queries), reasons)


def train_generator(
    session: Session,
    stage: str,
    queries: Sequence[Query],
    config: SSOConfig,
    generator: GeneratorSettings,
    *,
    policy: str,
) -> str:
    """Train the data generator from the policy, on the policy's own pairs for some of the queries."""
    some = queries[: math.ceil(generator.query_share * len(queries))]
    contrast = make_contrast_pairs(session, stage, some, config, sampler=policy, scorer=policy)
    kept = select_pairs(session, stage, contrast.scored, config.selection).kept
    trained = train_stage(
        session, f"{stage}/policy", kept, encode_steering_pair, generator.loss, generator.training,
        start=policy, seed=config.seed,
    )  # fmt: skip
    return str(trained.folder)


def summary_of(result: SSOResult, config: SSOConfig) -> dict[str, Any]:
    """Return what ``summary.json`` says of a run beyond what it says of any."""
    dropped = sum((iteration.dropped for iteration in result.iterations), Counter[str]())
    return {
        "counts": {
            "queries": sum(iteration.queries for iteration in result.iterations),
            "pairs_made": sum(iteration.signal.n for iteration in result.iterations),
            "pairs_kept": sum(iteration.signal.n_kept for iteration in result.iterations),
            "dropped": dict(dropped.most_common()),
        },
        "mode": config.mode,
        "reference": config.reference,
        "policy": result.policy,
        "iterations": [
            {
                **iteration.signal.model_dump(),
                "final_loss": iteration.policy.note.final_loss,
                "steps": iteration.policy.note.steps,
            }
            for iteration in result.iterations
        ],
        "evaluation": result.evaluation,
    }
