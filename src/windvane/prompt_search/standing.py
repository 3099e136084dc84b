"""How candidates stand against the incumbent: paired differences, and what they support. No search, no calls."""

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean
from typing import NamedTuple

from windvane.prompt_search.records import Judged, Standing, Verdict


def paired_difference(one: Judged, other: Judged) -> float | None:
    """Return how much better `one` is than `other` on the same query, or None where either has no score.

    The mean over the aspects on which both have a score: an aspect that a judge left out on one side must not move the
    mean of that side alone. Where they share none (each judgement chose its own), the scores are compared as they are.
    """
    if one.value is None or other.value is None:
        return None
    shared = aspect_differences(one, other)
    return fmean(shared.values()) if shared else one.value - other.value


def aspect_differences(one: Judged, other: Judged) -> dict[str, float]:
    """Return the difference on each aspect on which both have a score, in the order of `one`."""
    if one.value is None or other.value is None:
        return {}
    theirs = {aspect.aspect: aspect.score for aspect in other.aspects}
    differences = {}
    for aspect in one.aspects:
        score = theirs.get(aspect.aspect)
        if aspect.score is not None and score is not None:
            differences[aspect.aspect] = aspect.score - score
    return differences


class Evidence(NamedTuple):
    """What is known of one candidate against the incumbent."""

    candidate: str
    differences: Sequence[float]
    """One for each query on which both have a score."""
    unscored: int
    """Queries on which one of them has none."""


class Rules(NamedTuple):
    """When a candidate is accepted, and when it is out."""

    support: float
    """Confidence, one-sided, that it is better; then it is accepted."""
    clear: float
    """Confidence, one-sided, that it is worse; then it is out."""
    least_pairs: int
    """Pairs below which nobody is accepted."""
    stay: int
    """Candidates that may go on."""
    last: bool
    """Whether nobody can go on: what is not accepted now is not accepted in this race."""


def pooled_variance(groups: Sequence[Sequence[float]]) -> float | None:
    """Return the variance within groups, taken together; None where no group has two values.

    A candidate that has been judged on two queries says next to nothing about its own noise. All candidates of a race
    answer the same queries, under the same judge, so they lend one another their variance.
    """
    spread = sum(sum((value - fmean(group)) ** 2 for value in group) for group in groups if len(group) > 1)
    freedom = sum(len(group) - 1 for group in groups if len(group) > 1)
    return spread / freedom if freedom else None


def look(evidence: Sequence[Evidence], rules: Rules, variance: float | None) -> list[Standing]:
    """Return the standing of each candidate, in the given order.

    Accepted is, of those whose difference is supported, the one with the largest; then nobody else matters. Else
    whoever is clearly worse is out, and of the others the best `rules.stay` go on. Ties go to the one that comes first.
    """
    found = [_standing(one, rules, variance) for one in evidence]
    supported = [one for one in found if one.low is not None and one.low > 0 and one.pairs >= rules.least_pairs]
    if supported:
        winner = max(supported, key=_difference)
        return [one.model_copy(update={"verdict": "accepted"}) if one is winner else one for one in found]
    ranked = sorted((one for one in found if not _loses(one)), key=_difference, reverse=True)
    staying = {one.candidate for one in ranked[: rules.stay]} if not rules.last else set()
    return [one.model_copy(update={"verdict": _verdict(one, staying, rules)}) for one in found]


def _standing(evidence: Evidence, rules: Rules, variance: float | None) -> Standing:
    pairs = len(evidence.differences)
    mean = fmean(evidence.differences) if pairs else None
    low = high = None
    if mean is not None and variance is not None:
        error = math.sqrt(variance / pairs)
        low = mean - NormalDist().inv_cdf(rules.support) * error
        high = mean + NormalDist().inv_cdf(rules.clear) * error
    return Standing(
        candidate=evidence.candidate, pairs=pairs, unscored=evidence.unscored, difference=mean, low=low, high=high
    )


def _verdict(standing: Standing, staying: set[str], rules: Rules) -> Verdict:
    if _loses(standing):
        return "loses"
    if standing.candidate in staying:
        return "stays"
    if not standing.pairs:
        return "unscored"
    return "open" if rules.last else "behind"


def _loses(standing: Standing) -> bool:
    return standing.high is not None and standing.high < 0


def _difference(standing: Standing) -> float:
    return -math.inf if standing.difference is None else standing.difference
