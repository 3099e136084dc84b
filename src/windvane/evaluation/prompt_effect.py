"""What a prompt does to a model's answers, and how much of it a policy does without the prompt."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

from windvane.errors import DataError
from windvane.evaluation.intervals import bootstrap_interval
from windvane.evaluation.policy import Interval
from windvane.judging.records import AspectJudgement
from windvane.judging.rule_aspects import RuleJudge
from windvane.seeds import derive_seed
from windvane.types import Completion, Query, Record


class Arm(Record):
    """Answers to the same queries under one condition."""

    mean_words: float
    score: float | None
    """Mean score, 1 to 5, over answers and aspects; None without a judge."""
    aspects: Mapping[str, float]
    """Mean score on each aspect."""
    change_ci: Interval | None
    """95 % interval of the paired difference in score from the plain base model; bootstrap. None for that itself."""


class PromptEffect(Record):
    """Three conditions: the base model plain and under the prompt, and the policy plain."""

    n: int
    """Queries, each answered once under each condition."""
    before: Arm
    """The base model without the prompt."""
    prompted: Arm
    """The base model with the prompt."""
    after: Arm
    """The policy without the prompt."""

    @property
    def prompt_helps(self) -> bool:
        """Whether the interval of what the prompt gains is above 0, so that there is something to take over."""
        return self.prompted.change_ci is not None and self.prompted.change_ci[0] > 0

    @property
    def share_learned(self) -> float | None:
        """The policy's gain as a share of the prompt's; None where the prompt's is not supported. May be above 1."""
        before, prompted, after = self.before.score, self.prompted.score, self.after.score
        if before is None or prompted is None or after is None or not self.prompt_helps:
            return None
        return (after - before) / (prompted - before)


class PromptAnswers(NamedTuple):
    """Answers under the three conditions, each in the order of the queries."""

    before: Sequence[Completion]
    prompted: Sequence[Completion]
    after: Sequence[Completion]


def prompt_effect(
    queries: Sequence[Query], answers: PromptAnswers, judge: RuleJudge | None, *, seed: int
) -> PromptEffect:
    """Compare the three conditions; `seed` feeds the bootstrap alone. Raises `DataError` without a query."""
    if not queries:
        raise DataError("an evaluation needs at least one query, and has none; raise the number of held-out queries")
    plain = _judged(queries, answers.before, judge)
    arms = {}
    for name, completions in answers._asdict().items():
        own = _judged(queries, completions, judge)
        change = None
        if own is not None and plain is not None and name != "before":
            differences = [_score(new) - _score(old) for new, old in zip(own, plain, strict=True)]
            change = bootstrap_interval(differences, seed=derive_seed(seed, "evaluation", "prompt effect", name))
        arms[name] = Arm(
            mean_words=fmean(answer.words for answer in completions),
            score=None if own is None else fmean(map(_score, own)),
            aspects=_by_aspect(own or ()),
            change_ci=change,
        )
    return PromptEffect(n=len(queries), **arms)


def _judged(
    queries: Sequence[Query], answers: Sequence[Completion], judge: RuleJudge | None
) -> list[AspectJudgement] | None:
    if judge is None:
        return None
    return [judge.judged(query, answer.text) for query, answer in zip(queries, answers, strict=True)]


def _score(judgement: AspectJudgement) -> float:
    assert judgement.score is not None  # rules leave nothing unscored
    return judgement.score


def _by_aspect(judgements: Sequence[AspectJudgement]) -> dict[str, float]:
    scores: dict[str, list[float]] = {}
    for judgement in judgements:
        for each in judgement.aspects:
            if each.score is not None:
                scores.setdefault(each.aspect, []).append(each.score)
    return {aspect: fmean(values) for aspect, values in scores.items()}
