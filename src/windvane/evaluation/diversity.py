"""How varied the wording is, with length taken out."""

import math
from collections import Counter
from collections.abc import Mapping


def distinct2(counts: Mapping[tuple[str, ...], int], bigrams: int) -> float:
    """Return the expected share of distinct bigrams among `bigrams` drawn from the corpus without replacement.

    Plain distinct-2 (types / tokens of the whole corpus) falls with corpus length whatever the writing, so shorter
    answers would look richer for being short. Rarefaction, as ecologists compare samples of unequal size, takes the
    length out: ``sum over types of 1 - C(N - count, bigrams) / C(N, bigrams)``, divided by `bigrams`. It is exact,
    needs no seed, sees repetition within an answer and across answers, and at ``bigrams = N`` is the plain distinct-2.
    """
    total = sum(counts.values())
    if not 1 <= bigrams <= total:
        raise ValueError(f"cannot draw {bigrams} bigrams from {total}")
    types = sum(number * (1 - _missed(total, count, bigrams)) for count, number in Counter(counts.values()).items())
    return types / bigrams


def _missed(total: int, count: int, drawn: int) -> float:
    """The probability that `drawn` of `total` without replacement contain none of a type that occurs `count` times."""
    if count > total - drawn:
        return 0.0
    choose = [math.lgamma(n + 1) for n in (total - count, total - count - drawn, total, total - drawn)]
    return math.exp(choose[0] - choose[1] - choose[2] + choose[3])
