import math
from statistics import NormalDist

import pytest

from windvane.judging.records import AspectScore
from windvane.prompt_search.records import Judged
from windvane.prompt_search.standing import (
    Evidence,
    Rules,
    aspect_differences,
    look,
    paired_difference,
    pooled_variance,
)

RULES = Rules(support=0.8, clear=0.8, least_pairs=4, stay=2, last=False)


def judged(unscored: str | None = None, **marks: float | None) -> Judged:
    aspects = tuple(
        AspectScore(aspect=name, score=mark, unscored=None if mark else "?") for name, mark in marks.items()
    )
    known = [mark for mark in marks.values() if mark is not None]
    score = sum(known) / len(known) if known else None
    return Judged(output="", score=score, unscored=unscored or (None if known else "nothing"), aspects=aspects)


def verdicts(rules: Rules, variance: float | None = 1.0, **differences: list[float]) -> dict[str, str]:
    evidence = [Evidence(name, values, 0) for name, values in differences.items()]
    return {one.candidate: one.verdict for one in look(evidence, rules, variance)}


def test_a_difference_is_the_mean_over_the_aspects_that_both_have() -> None:
    assert paired_difference(judged(a=5, b=4), judged(a=4, b=4)) == 0.5
    assert paired_difference(judged(a=4, b=4), judged(a=5, b=4)) == -0.5
    # the mark that is missing on one side would have been low: it must not make that side better
    assert paired_difference(judged(a=5, b=None), judged(a=5, b=1)) == 0
    assert aspect_differences(judged(a=5, b=None), judged(a=4, b=1)) == {"a": 1}


def test_aspects_that_are_not_shared_leave_the_scores() -> None:
    assert paired_difference(judged(a=5), judged(b=3)) == 2
    assert paired_difference(Judged(output="", score=4.0), Judged(output="", score=3.5)) == 0.5


@pytest.mark.parametrize("missing", [judged(a=None), judged("invented", a=1), Judged(output="", score=0, unscored="?")])
def test_what_is_missing_is_no_number(missing: Judged) -> None:
    assert paired_difference(missing, judged(a=4)) is None
    assert paired_difference(judged(a=4), missing) is None
    assert aspect_differences(judged(a=4), missing) == {}


def test_variance_is_pooled_within_candidates() -> None:
    assert pooled_variance([[1, 3], [10, 12, 14]]) == pytest.approx((2 + 8) / 3)
    assert pooled_variance([[1], []]) is None
    assert pooled_variance([[2, 2], [5, 5]]) == 0


def test_bounds_by_hand() -> None:
    (one,) = look([Evidence("a", [0.0, 1.0, 0.0, 1.0], 2)], RULES, 0.25)
    assert (one.pairs, one.unscored, one.difference) == (4, 2, 0.5)
    half = NormalDist().inv_cdf(0.8) * math.sqrt(0.25 / 4)
    assert one.low == pytest.approx(0.5 - half)
    assert one.high == pytest.approx(0.5 + half)


def test_the_largest_supported_difference_is_accepted_and_nothing_else_is_decided() -> None:
    found = verdicts(RULES, 0.01, a=[0.2] * 4, b=[0.4] * 4, c=[0.4] * 4, d=[-1.0] * 4)
    assert found == {"a": "stays", "b": "accepted", "c": "stays", "d": "stays"}


def test_too_few_pairs_are_not_accepted() -> None:
    assert verdicts(RULES, 0.01, a=[5.0] * 3) == {"a": "stays"}
    assert verdicts(RULES, None, a=[5.0] * 9) == {"a": "stays"}  # nothing is known of the noise


def test_a_difference_without_support_is_not_accepted() -> None:
    assert verdicts(RULES, 1.0, a=[0.4] * 4) == {"a": "stays"}  # 0.8 standard errors of 0.84
    assert verdicts(RULES, 1.0, a=[0.43] * 4) == {"a": "accepted"}


def test_clear_losers_are_out_and_of_the_others_only_the_best_stay() -> None:
    found = verdicts(RULES, 1.0, a=[0.1] * 4, b=[0.0] * 4, c=[-0.1] * 4, d=[-0.43] * 4, e=[])
    assert found == {"a": "stays", "b": "stays", "c": "behind", "d": "loses", "e": "unscored"}
    assert verdicts(RULES, 1.0, a=[0.0] * 4, b=[0.0] * 4, c=[0.0] * 4) == {"a": "stays", "b": "stays", "c": "behind"}


def test_after_the_last_look_whoever_is_left_is_open() -> None:
    found = verdicts(RULES._replace(last=True), 1.0, a=[0.1] * 4, d=[-0.43] * 4, e=[])
    assert found == {"a": "open", "d": "loses", "e": "unscored"}
