"""Held-out queries, and a policy's answers to them against those of the model that it began as."""

from collections.abc import Sequence
from typing import NamedTuple

from pydantic import Field

from windvane.data import DataSource, leave_out, load_queries, split_queries
from windvane.errors import DataError
from windvane.evaluation.language import LanguageRequest, LanguageScores, language_requests, score_language
from windvane.evaluation.policy import Evaluation, EvaluationSettings, answer_prompts, evaluate
from windvane.recipes.session import Session
from windvane.types import Completion, Prompt, Query

HELD_OUT = "evaluation/queries"
"""Stage of the queries that both models answer."""


class HeldOutEvaluation(EvaluationSettings):
    """Evaluation on queries that nothing is trained on."""

    queries: DataSource | None = None
    """Held-out queries of their own; null sets `holdout` of the training queries aside."""
    holdout: int = Field(default=64, ge=1)
    """Queries to evaluate on: set aside from the training queries, or the first so many of `queries`."""


class SplitQueries(NamedTuple):
    """Queries to train on, a part for each iteration, and queries to evaluate on: no prompt is in two of them."""

    parts: tuple[list[Query], ...]
    held_out: list[Query]


def read_and_split(
    source: DataSource, evaluation: HeldOutEvaluation | None, *, parts: int, limit: int | None, seed: int
) -> SplitQueries:
    """Read the queries and set the held-out ones apart. `limit` counts training queries; raises `DataError`."""
    if evaluation is None or evaluation.queries is not None:
        held_out = [] if evaluation is None else _own_held_out(evaluation)
        mine = leave_out(load_queries(source), held_out).queries
        if not mine:
            raise DataError(
                f"every query of {source.path} is among the held-out ones, and those are not trained on: give other "
                "queries, or other evaluation.queries."
            )
    else:
        mine, held_out = _set_aside(load_queries(source), evaluation.holdout, seed=seed)
    return SplitQueries(split_queries(mine[:limit], parts=parts, seed=seed).parts, held_out)


def _own_held_out(evaluation: HeldOutEvaluation) -> list[Query]:
    assert evaluation.queries is not None
    return load_queries(evaluation.queries, limit=evaluation.holdout)


def _set_aside(queries: list[Query], holdout: int, *, seed: int) -> tuple[list[Query], list[Query]]:
    split = split_queries(queries, holdout=holdout, seed=seed)
    return split.parts[0], split.holdout


class Comparison(NamedTuple):
    """What the answers say, and the answers themselves, in the order of the queries."""

    evaluation: Evaluation
    before: list[Completion]
    after: list[Completion]


def keep_held_out(session: Session, queries: list[Query], settings: EvaluationSettings, *, model: str) -> None:
    """Put on file what `compare_policies` will ask, before anything is trained.

    Raises `DataError` for a query that leaves a model of that size no room for its answer: said now, not at the end.
    """

    def make() -> list[Query]:
        session.bench.engine(model).check_room(
            [query.messages for query in queries], settings.max_new_tokens, setting="evaluation.max_new_tokens"
        )
        return queries

    session.run.once(HELD_OUT, make, Query, inputs=queries)


def compare_policies(
    session: Session,
    queries: list[Query],
    settings: EvaluationSettings,
    *,
    base: str,
    policy: str,
    seed: int,
    shard_size: int,
) -> Comparison:
    """Have both models answer, have the base model read all answers, and compare."""
    run, bench, reporter = session
    queries = run.once(HELD_OUT, lambda: queries, Query, inputs=queries)
    prompts = answer_prompts(queries, seed=seed)

    def answers_of(model: str, side: str) -> list[Completion]:
        def answer(shard: Sequence[Prompt]) -> list[Completion]:
            return bench.engine(model).generate(shard, settings.sampling, advance=run.advance)

        return run.map(
            f"evaluation/{side}", prompts, answer, Completion, shard_size=shard_size, label=f"answers {side}",
            inputs=bench.identity(model),
        )  # fmt: skip

    def read(shard: Sequence[LanguageRequest]) -> list[LanguageScores]:
        return score_language(shard, bench.engine(base), advance=run.advance)

    after = answers_of(policy, "after")  # first, while the policy may still be in memory
    before = answers_of(base, "before")
    requests = language_requests(queries, before, after, seed=seed)
    if not requests:
        raise DataError("neither model gave a single answer to the held-out queries that is not empty")
    language = run.map(
        "evaluation/language", requests, read, LanguageScores, shard_size=shard_size, label="reading answers",
        inputs=bench.identity(base),
    )  # fmt: skip
    evaluation = evaluate(queries, before, after, language, settings.rule, seed=seed)
    reporter.comparison(evaluation, queries, before, after, settings)
    return Comparison(evaluation, before, after)
