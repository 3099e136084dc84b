"""Before and after: the same queries answered by the base model and by the aligned policy, compared.

The recipe collects the answers (`answer_prompts`) and what the base model says about them
(`windvane.evaluation.language`) as stages of its run; `evaluate` is pure aggregation over those records.
"""

from collections.abc import Callable, Sequence
from statistics import fmean, median

from pydantic import Field

from windvane.config import Settings
from windvane.errors import DataError
from windvane.evaluation.diversity import distinct2
from windvane.evaluation.intervals import bootstrap_interval, win_rate
from windvane.evaluation.language import SIDES, AnswerLanguage, LanguageScores, Side, read_language
from windvane.judging.measures import bigram_counts, is_empty, is_list
from windvane.judging.rules import Rule, RuleSettings, compare
from windvane.seeds import derive_seed
from windvane.types import Completion, Prompt, Query, Record, Sampling

Interval = tuple[float, float]


class Limits(Settings):
    """What the answers may lose before the evaluation raises a concern."""

    base_logprob_drop: float = Field(default=0.3, ge=0)
    """Nats per token by which the base model may find the new answers less plausible than its own."""
    relevance_ratio: float = Field(default=0.8, ge=0)
    """Share of the base's relevance that has to be left."""
    distinct2_ratio: float = Field(default=0.9, ge=0)
    """Share of the base's distinct-2 that has to be left."""
    empty_share: float = Field(default=0.0, ge=0, le=1)
    """Share of the new answers that may say nothing."""


class EvaluationSettings(Settings):
    """How a policy is compared with its base model."""

    rule: RuleSettings | None = None
    """What is better, as a rule that tells a win from a loss; null leaves the win rate out."""
    max_new_tokens: int = Field(default=256, ge=1)
    """Longest answer, in tokens; the share of answers that it cuts off is reported."""
    temperature: float = Field(default=0.7, ge=0)
    """0 is greedy. The default is that of the pairs, so answers are judged the way they were trained."""
    top_p: float = Field(default=0.8, gt=0, le=1)
    """Nucleus of the sampling."""
    limits: Limits = Limits()

    @property
    def sampling(self) -> Sampling:
        """How the answers of both sides are drawn."""
        return Sampling(self.max_new_tokens, self.temperature, self.top_p)


class SourceEvaluation(Record):
    """The comparison on the queries of one source."""

    source: str
    n: int
    win_rate: float | None
    win_rate_ci: Interval | None
    unscored: int
    mean_words_before: float
    mean_words_after: float


class Evaluation(Record):
    """What a policy's answers are like, after against before. Shares are 0 to 1, intervals cover 95 %.

    Empty answers count in every number but the base model's (``base_logprob``, ``relevance``), which have no value
    there: `language_n_before` and `language_n_after` say how many answers those are means of.
    """

    n: int
    """Queries, each answered once by either side."""
    win_rate: float | None
    """Wins of after over before by the rule plus half the ties, as a share of the scored ones; None without a rule."""
    win_rate_ci: Interval | None
    """Wilson interval."""
    wins: int | None
    ties: int | None
    losses: int | None
    unscored: int | None
    """Queries that both sides answered with nothing; in no number of the win rate."""
    mean_words_before: float
    mean_words_after: float
    mean_words_change_ci: Interval | None
    """Of the paired difference after - before, in words; bootstrap."""
    median_words_before: float
    median_words_after: float
    cutoff_share_before: float
    """Share of answers that the token limit cut off."""
    cutoff_share_after: float
    empty_before: int
    """Answers that say nothing."""
    empty_after: int
    list_share_before: float
    """Share of answers that hold a list of two items or more."""
    list_share_after: float
    base_logprob_before: float | None
    """Mean over answers of the base model's mean log-probability, nats per token; None where it was not asked."""
    base_logprob_after: float | None
    base_logprob_change_ci: Interval | None
    """Of the paired difference after - before; bootstrap."""
    relevance_before: float | None
    """Mean over answers of ``mean_logp(y|x) - mean_logp(y|x')`` under the base model, nats per token."""
    relevance_after: float | None
    relevance_change_ci: Interval | None
    """Of the paired difference after - before; bootstrap."""
    language_n_before: int
    language_n_after: int
    distinct2_before: float | None
    """Distinct word bigrams per bigram, both sides on the same number of bigrams (see `distinct2`)."""
    distinct2_after: float | None
    distinct2_bigrams: int
    """That number."""
    by_source: tuple[SourceEvaluation, ...]
    """By the queries' source; empty where they come from one or from none."""


def answer_prompts(queries: Sequence[Query], *, seed: int) -> list[Prompt]:
    """Return the prompts that either side answers: the plain queries, the same seeds before and after."""
    return [Prompt(query.messages, derive_seed(seed, "evaluation", "answer", query.id)) for query in queries]


def evaluate(
    queries: Sequence[Query],
    before: Sequence[Completion],
    after: Sequence[Completion],
    language: Sequence[LanguageScores] | None,
    rule: Rule | None,
    *,
    seed: int,
) -> Evaluation:
    """Compare two sides' answers to the same queries, in the queries' order.

    `language` is what the base model said (`score_language`), or None where it was not asked. `rule` is None where
    nothing tells better from worse. `seed` feeds the bootstrap alone. Raises `DataError` without a query.
    """
    if not queries:
        raise DataError("an evaluation needs at least one query, and has none; raise the number of held-out queries")
    answers = list(zip(queries, before, after, strict=True))
    verdicts = [None if rule is None else compare(rule, query, new, old) for query, old, new in answers]
    wins = win_rate(verdicts)
    words_change = [float(new.words - old.words) for _, old, new in answers]
    return Evaluation.model_validate(
        {
            "n": len(answers),
            "win_rate": wins.rate,
            "win_rate_ci": wins.interval,
            "wins": None if rule is None else wins.wins,
            "ties": None if rule is None else wins.ties,
            "losses": None if rule is None else wins.losses,
            "unscored": None if rule is None else wins.unscored,
            "mean_words_change_ci": bootstrap_interval(words_change, seed=derive_seed(seed, "evaluation", "words")),
            "by_source": _by_source(answers, verdicts),
            **_side("before", before),
            **_side("after", after),
            **_language(queries, language or (), seed=seed),
            **_distinct2(before, after),
        }
    )


def _side(side: Side, answers: Sequence[Completion]) -> dict[str, float]:
    """The numbers of one side that need nothing but its answers."""
    words = [answer.words for answer in answers]
    return {
        f"mean_words_{side}": fmean(words),
        f"median_words_{side}": float(median(words)),
        f"cutoff_share_{side}": fmean(answer.finish == "length" for answer in answers),
        f"empty_{side}": sum(is_empty(answer.text) for answer in answers),
        f"list_share_{side}": fmean(is_list(answer.text) for answer in answers),
    }


def _distinct2(before: Sequence[Completion], after: Sequence[Completion]) -> dict[str, float | None]:
    """Distinct-2 of both sides on as many bigrams as the side with fewer of them has."""
    old, new = (bigram_counts(answer.text for answer in side) for side in (before, after))
    bigrams = min(old.total(), new.total())
    return {
        "distinct2_before": distinct2(old, bigrams) if bigrams else None,
        "distinct2_after": distinct2(new, bigrams) if bigrams else None,
        "distinct2_bigrams": bigrams,
    }


def _language(queries: Sequence[Query], scores: Sequence[LanguageScores], *, seed: int) -> dict[str, object]:
    """What the base model said: means by side, intervals of the change where both answers of a query were measured."""
    known = read_language(scores)
    measures: tuple[tuple[str, Callable[[AnswerLanguage], float | None]], ...] = (
        ("base_logprob", lambda answer: answer.base_logprob),
        ("relevance", lambda answer: answer.relevance),
    )
    numbers: dict[str, object] = {f"language_n_{side}": sum(key[1] == side for key in known) for side in SIDES}
    for name, measure in measures:
        values = {key: value for key, answer in known.items() if (value := measure(answer)) is not None}
        for side in SIDES:
            own = [values[query.id, side] for query in queries if (query.id, side) in values]
            numbers[f"{name}_{side}"] = fmean(own) if own else None
        change = [
            values[query.id, "after"] - values[query.id, "before"]
            for query in queries
            if (query.id, "after") in values and (query.id, "before") in values
        ]
        numbers[f"{name}_change_ci"] = bootstrap_interval(change, seed=derive_seed(seed, "evaluation", name))
    return numbers


def _by_source(
    answers: Sequence[tuple[Query, Completion, Completion]], verdicts: Sequence[float | None]
) -> tuple[SourceEvaluation, ...]:
    """The comparison by source, in alphabetical order; empty with fewer than two sources."""
    sources = sorted({query.source or "unknown" for query, _, _ in answers})
    if len(sources) < 2:
        return ()
    rows = []
    for source in sources:
        chosen = [index for index, (query, _, _) in enumerate(answers) if (query.source or "unknown") == source]
        wins = win_rate([verdicts[index] for index in chosen])
        rows.append(
            SourceEvaluation(
                source=source,
                n=len(chosen),
                win_rate=wins.rate,
                win_rate_ci=wins.interval,
                unscored=wins.unscored,
                mean_words_before=fmean(answers[index][1].words for index in chosen),
                mean_words_after=fmean(answers[index][2].words for index in chosen),
            )
        )
    return tuple(rows)


def concerns(evaluation: Evaluation, limits: Limits) -> list[str]:
    """Return what the policy lost beyond the limits, a sentence each; empty where all is well."""
    found = []
    if evaluation.empty_after > limits.empty_share * evaluation.n:
        found.append(f"{evaluation.empty_after} of {evaluation.n} answers say nothing")
    before, after = evaluation.base_logprob_before, evaluation.base_logprob_after
    if before is not None and after is not None and before - after > limits.base_logprob_drop:
        found.append(
            f"the base model finds the answers {before - after:.2f} nats per token less plausible than its own"
            f" (limit {limits.base_logprob_drop:g})"
        )
    for name, old, new, ratio in (
        ("relevance to the query", evaluation.relevance_before, evaluation.relevance_after, limits.relevance_ratio),
        ("distinct-2", evaluation.distinct2_before, evaluation.distinct2_after, limits.distinct2_ratio),
    ):
        if old is not None and new is not None and old > 0 and new < ratio * old:
            found.append(f"{name} fell from {old:.2f} to {new:.2f}, below {ratio:g} of what it was")
    return found
