"""What a judge gives, and what a judge is."""

from collections.abc import Sequence
from statistics import fmean
from typing import Literal, Protocol

from windvane.judging.aspects import Aspect
from windvane.types import Query, Record

LOWEST, HIGHEST = 1.0, 5.0
"""The scale of every aspect."""


class AspectScore(Record):
    """The score of one answer on one aspect, or why there is none."""

    aspect: str
    score: float | None
    """1 (worst) to 5 (best)."""
    reason: str = ""
    """The judge's words; a rule's numbers."""
    unscored: str | None = None
    """Why there is no score; None where there is one."""


class AspectJudgement(Record):
    """A judge's verdict on one answer. A failure is not a zero: `score` is None and `unscored` says why.

    One exception exists, for comparison with the published algorithm: under `compat_paper` an unreadable judgement has
    a score of 0 and says so in `unscored`.
    """

    id: str
    """The query's."""
    score: float | None
    """Mean over the aspects that have a score."""
    unscored: str | None = None
    aspects: tuple[AspectScore, ...] = ()
    """In the order in which the aspects were asked for."""

    @property
    def perfect(self) -> bool:
        """Whether every aspect has a score, and each is the highest."""
        return bool(self.aspects) and all(aspect.score == HIGHEST for aspect in self.aspects)


class AspectChoice(Record):
    """The aspects that the answers to one query are marked on."""

    query_id: str
    aspects: tuple[Aspect, ...]
    """Empty where each judgement makes its own choice (`together`)."""
    origin: Literal["chosen", "fallback", "fixed", "together"]
    """``fallback``: the judge's choice could not be read, so the default set stands in."""
    why: str | None = None
    """Why the default set stands in."""


class Judge(Protocol):
    """Marks answers, many at once: from a model, from rules, or from whatever else fits this shape."""

    @property
    def name(self) -> str:
        """What tells this judge's verdicts from another's."""

    async def aspects_for(self, query: Query) -> AspectChoice:
        """Return what the answers to a query are marked on: the same for each of them. It may be called ahead."""

    async def judge(self, query: Query, response: str) -> AspectJudgement:
        """Return the verdict on one answer.

        It never invents a score: what a judge leaves out, or says in a way that cannot be read, is unscored. Raises
        `RunFailed` where the engine behind it is gone, and `BudgetSpent` where it may not be asked.
        """


def summed_up(query_id: str, aspects: Sequence[AspectScore]) -> AspectJudgement:
    """Return the judgement that these scores make: their mean, or unscored where there is no score among them."""
    scores = [aspect.score for aspect in aspects if aspect.score is not None]
    if scores:
        return AspectJudgement(id=query_id, score=fmean(scores), aspects=tuple(aspects))
    reasons = "; ".join(dict.fromkeys(f"{aspect.aspect}: {aspect.unscored}" for aspect in aspects))
    return AspectJudgement(
        id=query_id, score=None, unscored=reasons or "the reply scores no aspect", aspects=tuple(aspects)
    )
