"""Intervals: how far a number measured on n queries can be trusted."""

import math
import random
from collections.abc import Sequence
from statistics import NormalDist, fmean
from typing import NamedTuple

CONFIDENCE = 0.95
"""Coverage of every interval that windvane reports."""
_RESAMPLES = 2000


class WinRate(NamedTuple):
    """How often one side won; `unscored` comparisons are in no other number here."""

    n: int
    """Comparisons with a verdict."""
    rate: float | None
    """Wins plus half the ties, as a share of n; None without a verdict."""
    interval: tuple[float, float] | None
    """95 % Wilson interval of the rate."""
    wins: int
    ties: int
    losses: int
    unscored: int


def wilson_interval(share: float, n: int, *, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return Wilson's score interval for a share of n.

    The interval of choice for win rates: unlike a bootstrap or the normal approximation it keeps a width at 0 and 1,
    which is where a good alignment ends up. Ties counted as halves only lower the variance, so with ties it is wider
    than it need be, never too narrow.
    """
    if n < 1 or not 0 <= share <= 1:
        raise ValueError(f"an interval needs n of at least 1 and a share within 0 and 1, not n={n} and {share}")
    z2 = NormalDist().inv_cdf(0.5 + confidence / 2) ** 2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * share * (1 - share) / n + (z2 / (2 * n)) ** 2) / (1 + z2 / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def win_rate(verdicts: Sequence[float | None]) -> WinRate:
    """Sum up verdicts of 1 (win), 0.5 (tie), 0 (loss) and None (unscored)."""
    scored = [verdict for verdict in verdicts if verdict is not None]
    if set(scored) - {0.0, 0.5, 1.0}:
        raise ValueError(f"a verdict is 1, 0.5, 0 or None, not {sorted(set(scored) - {0.0, 0.5, 1.0})[0]}")
    rate = fmean(scored) if scored else None
    return WinRate(
        n=len(scored),
        rate=rate,
        interval=None if rate is None else wilson_interval(rate, len(scored)),
        wins=scored.count(1.0),
        ties=scored.count(0.5),
        losses=scored.count(0.0),
        unscored=len(verdicts) - len(scored),
    )


def bootstrap_interval(
    values: Sequence[float], *, seed: int, confidence: float = CONFIDENCE
) -> tuple[float, float] | None:
    """Return the percentile bootstrap interval (2000 resamples) of the mean of `values`; None for fewer than two.

    Given the paired differences after - before, one a query, it is the interval of the mean change.
    """
    if len(values) < 2:
        return None
    source = random.Random(seed)
    means = sorted(fmean(source.choices(values, k=len(values))) for _ in range(_RESAMPLES))
    tail = round((1 - confidence) / 2 * _RESAMPLES)
    return means[tail], means[-1 - tail]
