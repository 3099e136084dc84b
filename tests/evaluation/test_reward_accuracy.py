import math

import pytest
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st

from windvane.evaluation.intervals import wilson_interval
from windvane.evaluation.reward_accuracy import RewardAccuracy, SourceAccuracy, reward_accuracy
from windvane.selection import PairMargin


def margins(*values: float, source: str | None = None) -> list[PairMargin]:
    return [
        PairMargin(id=f"{source}-{index}", margin=value, last=value, source=source)
        for index, value in enumerate(values)
    ]


def test_a_tie_counts_half() -> None:
    result = reward_accuracy(margins(2.0, 0.0, -1.0, 1.0))
    assert (result.n, result.accuracy, result.unscored) == (4, 0.625, 0)
    assert result.accuracy_ci == wilson_interval(0.625, 4)
    assert result.mean_margin == 0.5
    assert reward_accuracy(margins(0.0, -0.0)).accuracy == 0.5


def test_the_size_of_a_margin_is_no_part_of_the_accuracy() -> None:
    assert reward_accuracy(margins(1e-12, -1e9, 1e-12)).accuracy == pytest.approx(2 / 3)


NUMBERS = st.one_of(st.integers(-2, 2).map(float), st.floats())


@profile(deadline=None)
@given(st.lists(st.tuples(NUMBERS, st.sampled_from([None, "forum", "wiki"])), max_size=12))
def test_swapped_labels_turn_the_accuracy_round(values: list[tuple[float, str | None]]) -> None:
    given = [PairMargin(id=str(n), margin=value, last=0.0, source=source) for n, (value, source) in enumerate(values)]
    one = reward_accuracy(given)
    other = reward_accuracy([each.model_copy(update={"margin": -each.margin}) for each in given])
    assert (one.n, one.unscored) == (other.n, other.unscored)
    assert one.n + one.unscored == len(values)
    assert [part.source for part in one.by_source] == [part.source for part in other.by_source]
    parts: list[tuple[RewardAccuracy | SourceAccuracy, RewardAccuracy | SourceAccuracy]] = [(one, other)]
    parts += zip(one.by_source, other.by_source, strict=True)
    for here, there in parts:
        if here.accuracy is None or here.accuracy_ci is None:
            assert there.accuracy is None
            assert there.accuracy_ci is None
        else:
            assert there.accuracy == pytest.approx(1 - here.accuracy)
            assert there.accuracy_ci == pytest.approx((1 - here.accuracy_ci[1], 1 - here.accuracy_ci[0]), abs=1e-12)


def test_what_is_no_number_is_unscored_and_in_no_other_number() -> None:
    result = reward_accuracy(margins(1.0, math.nan, -3.0, math.inf, -math.inf))
    assert result == reward_accuracy(margins(1.0, -3.0)).model_copy(update={"unscored": 3})
    assert result.mean_margin == -1.0


def test_nothing_in_no_accuracy_out() -> None:
    nothing = RewardAccuracy(n=0, accuracy=None, accuracy_ci=None, unscored=0, mean_margin=None, by_source=())
    assert reward_accuracy([]) == nothing
    unread = reward_accuracy(margins(math.nan, math.nan, source="forum"))
    assert unread == nothing.model_copy(update={"unscored": 2})


def test_by_source() -> None:
    given = [*margins(1, 1, -1, source="wiki"), *margins(-1, 0, math.nan, source="forum"), *margins(5, 5)]
    result = reward_accuracy(given)
    assert (result.n, result.unscored) == (7, 1)
    assert result.accuracy == pytest.approx((2 + 0.5 + 2) / 7)
    assert [(part.source, part.n, part.accuracy) for part in result.by_source] == [
        ("forum", 2, 0.25),
        ("wiki", 3, pytest.approx(2 / 3)),
    ]
    assert result.by_source[0].accuracy_ci == wilson_interval(0.25, 2)
    assert reward_accuracy(given[::-1]) == result


def test_one_source_or_none_needs_no_parts() -> None:
    assert reward_accuracy(margins(1, -1, source="wiki")).by_source == ()
    assert reward_accuracy([*margins(1, source="wiki"), *margins(1)]).by_source == ()
    assert reward_accuracy(margins(1, -1)).by_source == ()


def test_a_source_without_any_number_has_no_accuracy() -> None:
    result = reward_accuracy([*margins(1, source="wiki"), *margins(math.nan, source="forum")])
    assert [part.source for part in result.by_source] == ["wiki"]
    assert result.unscored == 1


def test_the_numbers_come_back_from_their_line() -> None:
    result = reward_accuracy([*margins(1, -1, source="wiki"), *margins(1, source="forum")])
    assert RewardAccuracy.from_json(result.to_json()) == result
