"""An interval for the mean of paired differences that keeps its word on few, tied and rounded values."""

import math
import random
from collections.abc import Sequence

_SUBSETS = 2000
_ALL_OF = 12
"""Values up to which all subsets are taken. Of the few that there are, random ones would be drawn again and again, and
the share below the k-th smallest mean would be larger than it is for different ones."""
_DECIMALS = 9
"""Marks are means of a few whole numbers, so what lies below is rounding, and rounding must not claim a gain."""


def paired_interval(values: Sequence[float], *, confidence: float, seed: int) -> tuple[float, float] | None:
    """Return an interval for the mean of `values`, or None where they are fewer than `fewest_values`.

    Hartigan's typical values (JASA 64, 1969): of the means of all subsets, or of random ones where there are too many,
    the quantiles at both ends. If the values are symmetric about their mean, as paired differences are wherever both
    sides are equally good, the true mean lies below, above and between such subset means with exactly known
    probability, whatever the distribution: it is the sign-flip test turned into an interval. So with equal prompts it
    excludes 0 on the side of a gain in at most 2.5 of 100 cases, also where most differences are 0 and a normal
    approximation would not hold. With a gain the differences are skewed (scores stop at 5); the benchmark measures how
    often the interval then covers the truth, beside Student's t, which is as good, and the percentile bootstrap, which
    is not.
    """
    n = len(values)
    if n < fewest_values(confidence):
        return None
    tables = [_sums(values[place : place + 8]) for place in range(0, n, 8)]
    source = random.Random(seed)
    drawn = range(1, 2**n) if n <= _ALL_OF else [source.randrange(1, 2**n) for _ in range(_SUBSETS - 1)]
    means = sorted(_mean(bits, tables) for bits in drawn)
    cut = max(1, int(_tail(confidence) * (len(means) + 1)))  # the k-th smallest of N - 1 has a share of k / N below it
    return round(means[cut - 1], _DECIMALS), round(means[-cut], _DECIMALS)


def fewest_values(confidence: float) -> int:
    """Return with how many values there is an interval: with fewer, not even agreement of all would be rare enough."""
    return math.ceil(-math.log2(_tail(confidence)))


def _tail(confidence: float) -> float:
    return (1 - confidence) / 2


def _sums(values: Sequence[float]) -> list[float]:
    """Return the sum of each subset of a few values, by the bits that say which of them are in it."""
    sums = [0.0]
    for value in values:
        sums += [value + rest for rest in sums]
    return sums


def _mean(bits: int, tables: Sequence[Sequence[float]]) -> float:
    """Return the mean of the subset that `bits` name."""
    chosen = bits.to_bytes(len(tables), "little")
    return sum(table[byte] for table, byte in zip(tables, chosen, strict=True)) / bits.bit_count()
