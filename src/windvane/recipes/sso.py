"""Self-Steering Optimization (arXiv:2410.17131): the method's story, top to bottom.

Version 1 (``mode: direct``): in each iteration the policy answers under a good and a bad principle, the contrast makes
preference pairs, a filter keeps the near-on-policy ones, and the policy is trained on them under the steering loss.
Version 2 (``mode: generator``): a data generator is trained first, and the policy learns from the generator's pairs.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from windvane import training
from windvane.evaluation.drift import check_drift
from windvane.evaluation.policy import Evaluation
from windvane.evaluation.prompt_effect import PromptEffect
from windvane.evaluation.signal import SignalStatistics, signal_statistics
from windvane.recipes.compare import compare_policies, keep_held_out, read_and_split
from windvane.recipes.contrast import check_principles, make_contrast_pairs, select_pairs
from windvane.recipes.policy import TrainedPolicy, train_stage
from windvane.recipes.prompt_effect import answer_under_prompt, compare_with_prompt
from windvane.recipes.report import write_summary
from windvane.recipes.review import review_by_margin, scores_of_initial
from windvane.recipes.session import Session, open_session
from windvane.recipes.sso_config import MAY_CHANGE, GeneratorSettings, SSOConfig
from windvane.shares import share_of
from windvane.types import Query


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
    prompt_effect: PromptEffect | None
    """Where the good principle is a found prompt: what of it the policy does without it."""


def run_sso(config: SSOConfig, *, console: Console | None = None) -> SSOResult:
    """Align a model; on a run directory that was interrupted, go on from there.

    See `open_session` for `console`. Raises `UserError` for wrong input, before anything expensive, and `RunFailed`
    where a run can be resumed.
    """
    may_change = MAY_CHANGE if config.generator is None else MAY_CHANGE | {"generator.training.guards"}
    with open_session(config, command="sso", may_change=may_change, console=console) as session:
        run, _, reporter = session
        parts, held_out = read_and_split(
            config.queries, config.evaluation, parts=config.iterations, limit=config.max_queries, seed=config.seed
        )
        check_principles(session, config)
        if config.evaluation is not None:
            keep_held_out(session, held_out, config.evaluation, model=config.model)
        prompted = answer_under_prompt(session, held_out, config)
        policy, iterations = config.model, list[Iteration]()
        for number, queries in enumerate(parts, start=1):
            first = iterations[0].signal if iterations else None
            iterations.append(iterate(session, number, queries, config, policy=policy, first=first))
            reporter.signal([iteration.signal for iteration in iterations])
            policy = str(iterations[-1].policy.folder)
        evaluation = effect = None
        if config.evaluation is not None:
            compared = compare_policies(
                session, held_out, config.evaluation, base=config.model, policy=policy,
                seed=config.seed, shard_size=config.shard_size,
            )  # fmt: skip
            evaluation = compared.evaluation
            effect = compare_with_prompt(session, held_out, compared, prompted, config)
        result = SSOResult(Path(policy), run.path, iterations, evaluation, effect)
        write_summary(run, "sso", model=config.model, seed=config.seed, results=summary_of(result, config))
        reporter.places({"aligned model": policy, "run directory": run.path})
        return result


def iterate(
    session: Session,
    number: int,
    queries: Sequence[Query],
    config: SSOConfig,
    *,
    policy: str,
    first: SignalStatistics | None,
) -> Iteration:
    """Go round `number` from `policy`: sample, score, select, train. `first` is round 1's signal, once it is over.

    Raises `TrainingDiverged`, before it trains, where the policy has drifted too far from how it was in that round.
    """
    stage, sampler = f"iteration-{number}", policy
    if config.generator is not None:
        sampler = train_generator(session, number, queries, config, config.generator, policy=policy)
    contrast = make_contrast_pairs(session, stage, queries, config, sampler=sampler, scorer=policy, iteration=number)
    selection = select_pairs(session, stage, contrast.scored, config.selection)
    rule = config.evaluation.rule if config.evaluation else None
    initial = scores_of_initial(session, stage, selection.kept, config, policy=policy)
    reviewed = review_by_margin(session, stage, selection.kept, initial, config, policy=policy)
    signal = signal_statistics(contrast.scored, [scored.pair.id for scored in reviewed.kept], rule)
    check_drift(first or signal, signal, config.drift)
    pairs, settings = list(reviewed.kept), config.training
    if config.reference == "initial" and policy != config.model:
        pairs, settings = [initial[scored.pair.id] for scored in reviewed.kept], settings.away_from_reference()
    trained = train_stage(
        session, f"{stage}/policy", pairs, training.encode_steering_pair, config.loss, settings,
        start=policy, seed=config.seed,
    )  # fmt: skip
    reasons = Counter(record.reason for record in (*contrast.dropped, *selection.dropped, *reviewed.dropped))
    return Iteration(trained, signal, len(queries), reasons)


def train_generator(
    session: Session,
    number: int,
    queries: Sequence[Query],
    config: SSOConfig,
    generator: GeneratorSettings,
    *,
    policy: str,
) -> str:
    """Train the data generator from the policy, on the policy's own pairs for some of the queries."""
    stage, some = f"iteration-{number}/generator", queries[: max(1, share_of(generator.query_share, len(queries)))]
    contrast = make_contrast_pairs(session, stage, some, config, sampler=policy, scorer=policy, iteration=number)
    kept = select_pairs(session, stage, contrast.scored, config.selection).kept
    trained = train_stage(
        session, f"{stage}/policy", kept, training.encode_steering_pair, generator.loss, generator.training,
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
        "prompt_effect": result.prompt_effect,
    }
