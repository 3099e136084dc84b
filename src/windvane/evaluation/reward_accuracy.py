"""How often the policy's implicit reward agrees with the labels of held-out pairs."""

from collections.abc import Sequence

from windvane.evaluation.intervals import WinRate, win_rate
from windvane.selection import PairMargin
from windvane.types import Record


class SourceAccuracy(Record):
    """The accuracy on the pairs of one source."""

    source: str
    n: int
    accuracy: float
    accuracy_ci: tuple[float, float]
    """95 % Wilson interval."""


class RewardAccuracy(Record):
    """Share of pairs whose chosen response has the larger implicit reward; ties count half."""

    n: int
    accuracy: float | None
    accuracy_ci: tuple[float, float] | None
    """95 % Wilson interval; pairs of one prompt count as if they were independent."""
    unscored: int
    """Pairs whose margin is no finite number; in no other number here."""
    mean_margin: float | None
    """Nats, or nats per token where the reward is."""
    by_source: tuple[SourceAccuracy, ...]
    """By the pairs' source; empty where they come from one or from none."""


def reward_accuracy(margins: Sequence[PairMargin]) -> RewardAccuracy:
    """Return the accuracy of the margins' signs, over all pairs and by source."""
    overall = _accuracy(margins)
    finite = [each.margin for each in margins if abs(each.margin) < float("inf")]
    sources = sorted({each.source for each in margins if each.source is not None})
    return RewardAccuracy(
        n=overall.n,
        accuracy=overall.rate,
        accuracy_ci=overall.interval,
        unscored=overall.unscored,
        mean_margin=sum(finite) / len(finite) if finite else None,
        by_source=tuple(
            SourceAccuracy(source=source, n=part.n, accuracy=part.rate, accuracy_ci=part.interval)
            for source in (sources if len(sources) > 1 else ())
            if (part := _accuracy([each for each in margins if each.source == source])).rate is not None
            and part.interval is not None
        ),
    )


def _accuracy(margins: Sequence[PairMargin]) -> WinRate:
    return win_rate([_verdict(each.margin) for each in margins])


def _verdict(margin: float) -> float | None:
    if not abs(margin) < float("inf"):  # NaN, too
        return None
    return 0.5 if margin == 0 else float(margin > 0)
