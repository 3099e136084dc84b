"""Label noise made on purpose, to see what a selector does about it."""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Sequence
from statistics import NormalDist
from typing import NamedTuple

from pydantic import Field

from windvane.config import Settings
from windvane.errors import DataError
from windvane.seeds import derive_seed
from windvane.selection.implicit_margin import PairMargin
from windvane.shares import share_of
from windvane.types import Pair, Record


class NoiseSettings(Settings):
    """Labels that are turned round before training, for study: a run then reports which of them selection removed."""

    flip: float = Field(gt=0, lt=1)
    """Share of the training pairs whose chosen and rejected responses change places; held-out pairs stay as is."""
    seed: int = Field(default=0, ge=0)
    """Which pairs; apart from the run's seed, so that runs of several seeds may have the same noise."""


class FlippedPairs(NamedTuple):
    """All pairs in their order, some of them turned round, and the ids of those."""

    pairs: list[Pair]
    flipped: frozenset[str]


class NoiseRemoval(Record):
    """How well a margin tells flipped pairs from clean ones, and what selection by it removed."""

    pairs: int
    flipped: int
    auc: float | None
    """Probability that a clean pair has a larger margin than a flipped one, ties half; None without either kind."""
    auc_ci: tuple[float, float] | None
    """95 % interval (Hanley and McNeil, kept from having no width at 0 and 1)."""
    removed: int
    """Pairs that selection dropped."""
    precision: float | None
    """Share of the removed pairs that were flipped; None where nothing was removed."""
    recall: float | None
    """Share of the flipped pairs that were removed; None where none was flipped."""


def flip_labels(pairs: Sequence[Pair], settings: NoiseSettings) -> FlippedPairs:
    """Swap the sides of ``flip · n`` pairs, rounded half up; which ones depends on their ids and the seed alone.

    Raises `DataError` where that is none.
    """
    count = share_of(settings.flip, len(pairs))
    if not count:
        raise DataError(f"noise.flip: {settings.flip:g} of {len(pairs)} pairs is none: raise it, or leave noise out")
    order = sorted(pairs, key=lambda pair: (derive_seed(settings.seed, "flip", pair.id), pair.id))
    flipped = frozenset(pair.id for pair in order[:count])
    return FlippedPairs([swapped(pair) if pair.id in flipped else pair for pair in pairs], flipped)


def swapped(pair: Pair) -> Pair:
    """Return the pair with chosen and rejected in each other's place."""
    return pair.model_copy(update={"chosen": pair.rejected, "rejected": pair.chosen})


def noise_removal(margins: Sequence[PairMargin], *, flipped: Collection[str], dropped: Collection[str]) -> NoiseRemoval:
    """Compare margins and selection with the truth: the ids of the flipped pairs, and of those that were dropped."""
    known = {margin.id for margin in margins}
    noisy, gone = known.intersection(flipped), known.intersection(dropped)
    low = [each.margin for each in margins if each.id in noisy and math.isfinite(each.margin)]
    high = [each.margin for each in margins if each.id not in noisy and math.isfinite(each.margin)]
    auc = _auc(high, low)
    caught = len(noisy & gone)
    return NoiseRemoval(
        pairs=len(known),
        flipped=len(noisy),
        auc=auc,
        auc_ci=None if auc is None else _auc_interval(auc, len(high), len(low)),
        removed=len(gone),
        precision=caught / len(gone) if gone else None,
        recall=caught / len(noisy) if noisy else None,
    )


def _auc(positives: Sequence[float], negatives: Sequence[float]) -> float | None:
    """Return the share of (positive, negative) couples in which the positive is larger: Mann-Whitney's U over n·m."""
    if not positives or not negatives:
        return None
    ordered = sorted(negatives)
    below = sum((bisect_left(ordered, high) + bisect_right(ordered, high)) / 2 for high in positives)
    return below / (len(positives) * len(negatives))


def _auc_interval(auc: float, positives: int, negatives: int) -> tuple[float, float]:
    """Return Hanley and McNeil's interval around the AUC with half a case added to the rarer kind.

    Around 0 and 1 themselves it would have no width, which says more than a few pairs can.
    """
    cases = min(positives, negatives)
    centre = (auc * cases + 0.5) / (cases + 1)
    first, second = centre / (2 - centre), 2 * centre**2 / (1 + centre)
    variance = centre * (1 - centre) + (positives - 1) * (first - centre**2) + (negatives - 1) * (second - centre**2)
    half = NormalDist().inv_cdf(0.975) * math.sqrt(variance / (positives * negatives))
    return max(0.0, min(auc, centre - half)), min(1.0, max(auc, centre + half))
