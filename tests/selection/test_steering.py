"""The steering filter: who is kept, who is dropped and why, on numbers worked out by hand and on any numbers."""

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.selection.samples import completion, scored, steered
from windvane.judging.rules import Shorter
from windvane.selection import Selection, SteeringFilterSettings, steering_filter
from windvane.types import Logprob, ScoredPair

OFF = SteeringFilterSettings(ordering=False, on_policy=None, gap=None)
ORDERING = SteeringFilterSettings(ordering=True, on_policy=None, gap=None)


def ids(selection: Selection) -> list[str]:
    return [pair.pair.id for pair in selection.kept]


def reasons(selection: Selection) -> dict[str, str]:
    return {record.id: record.reason for record in selection.dropped}


def test_with_every_step_off_all_are_kept() -> None:
    pairs = [steered("a"), scored("b", (-3, -2, -1, -3, -2, -1))]
    selection = steering_filter(pairs, OFF)
    assert selection == Selection(tuple(pairs), (), {})


@pytest.mark.parametrize("swap", [(0, 1), (1, 2), (3, 4), (4, 5)])
def test_ordering_needs_each_of_the_four_inequalities(swap: tuple[int, int]) -> None:
    means = [-1.0, -2.0, -3.0, -1.5, -2.5, -3.5]
    first, second = swap
    means[first], means[second] = means[second], means[first]
    selection = steering_filter([steered("fine"), scored("wrong", tuple(means))], ORDERING)  # type: ignore[arg-type]
    assert ids(selection) == ["fine"]
    assert reasons(selection) == {"wrong": "ordering"}


def test_ordering_names_the_numbers_and_a_tie_fails() -> None:
    selection = steering_filter([scored("tie", (-1, -1, -3, -1, -2, -3))], ORDERING)
    assert selection.dropped[0].detail == "y⁺|x⁺ -1.0000 ≤ y⁺|x -1.0000"
    assert selection.thresholds == {}


def test_on_policy_at_the_mean_stays() -> None:
    pairs = [steered("low", chosen=-3), steered("mean", chosen=-2), steered("high", chosen=-1)]
    selection = steering_filter(pairs, SteeringFilterSettings(gap=None))
    assert ids(selection) == ["mean", "high"]
    assert selection.thresholds == {"on_policy_chosen": -2.0, "on_policy_rejected": -1.0}
    assert selection.dropped[0].reason == "on_policy"
    assert selection.dropped[0].detail == "y⁺ -3.0000 < -2.0000"


def test_both_sides_must_be_on_policy() -> None:
    pairs = [
        steered("chosen", chosen=-1, rejected=-3), steered("rejected", chosen=-3, rejected=-1),
        steered("both", chosen=-1, rejected=-1), steered("neither", chosen=-3, rejected=-3),
    ]  # fmt: skip
    selection = steering_filter(pairs, SteeringFilterSettings(gap=None))
    assert ids(selection) == ["both"]
    assert selection.dropped[-1].detail == "y⁺ -3.0000 < -2.0000, y⁻ -3.0000 < -2.0000"


def test_gap_at_the_mean_goes() -> None:
    pairs = [steered(name, up=up, down=up) for name, up in (("small", 0.25), ("mean", 0.5), ("large", 0.75))]
    selection = steering_filter(pairs, SteeringFilterSettings(on_policy=None))
    assert ids(selection) == ["large"]
    assert reasons(selection) == {"small": "gap", "mean": "gap"}
    assert selection.thresholds == {"gap_chosen": 1.0, "gap_rejected": 1.0}


def test_thresholds_look_only_at_what_the_steps_before_have_left() -> None:
    pairs = [
        scored("unordered", (5.0, 9.0, -50.0, -1, -2, -3)),
        steered("off-policy", chosen=-9, up=40),
        steered("small", up=0.25, down=0.25),
        steered("large", up=0.75, down=0.75),
    ]
    selection = steering_filter(pairs, SteeringFilterSettings())
    assert ids(selection) == ["large"]
    assert reasons(selection) == {"unordered": "ordering", "off-policy": "on_policy", "small": "gap"}
    assert selection.thresholds["on_policy_chosen"] == pytest.approx((-9 - 1 - 1) / 3)
    assert selection.thresholds["gap_chosen"] == pytest.approx((0.5 + 1.5) / 2)


def test_a_quantile_drops_the_lower_share_and_keeps_ties() -> None:
    pairs = [steered(f"p{value}", chosen=-value) for value in (1, 2, 3, 4, 5)]
    selection = steering_filter(pairs, SteeringFilterSettings(on_policy=0.5, gap=None))
    assert ids(selection) == ["p1", "p2", "p3"]
    assert selection.thresholds["on_policy_chosen"] == -3.0
    quarter = steering_filter(pairs, SteeringFilterSettings(on_policy=0.375, gap=None))
    assert quarter.thresholds["on_policy_chosen"] == -3.5  # half-way between -4 and -3
    same = [steered(name) for name in "abc"]
    assert ids(steering_filter(same, SteeringFilterSettings(on_policy=0.9, gap=0.9))) == ["a", "b", "c"]
    assert ids(steering_filter(pairs, SteeringFilterSettings(on_policy=0.0, gap=0.0))) == [p.pair.id for p in pairs]


def test_what_is_no_number_is_dropped_and_moves_no_threshold() -> None:
    pairs = [steered("a", up=0.25), steered("b", up=0.75, down=0.75), scored("nan", (math.nan, -1, -2, -1, -2, -3))]
    for settings in (SteeringFilterSettings(), OFF):
        selection = steering_filter(pairs, settings)
        assert reasons(selection)["nan"] == "not_finite"
    assert ids(steering_filter(pairs, SteeringFilterSettings())) == ["b"]
    broken = steering_filter([scored("inf", (-1, -math.inf, -2, -1, -2, -3))], OFF)
    assert broken.dropped[0].detail == "y⁺|x -inf"
    good = steered("a")
    unread = good.model_copy(
        update={"scores": good.scores.model_copy(update={"original_bad": Logprob(sum=math.nan, tokens=3)})}
    )
    assert steering_filter([unread], OFF).dropped[0].detail == "yᵒ|x⁻ nan"


def test_nothing_in_nothing_out() -> None:
    assert steering_filter([], SteeringFilterSettings()) == Selection((), (), {})


def test_summary_is_one_screen_of_numbers() -> None:
    pairs = [steered("a", up=0.25), steered("b", up=0.75, down=0.75), scored("c", (-1, -2, -3, -3, -2, -1))]
    pairs += [scored("d", (-1, -2, -3, -3, -2, -1))]
    summary = steering_filter(pairs, SteeringFilterSettings()).summary()
    assert (summary.pairs, summary.kept) == (4, 1)
    assert list(summary.dropped.items()) == [("ordering", 2), ("gap", 1)]
    assert set(summary.thresholds) == {"on_policy_chosen", "on_policy_rejected", "gap_chosen", "gap_rejected"}
    assert type(summary).from_json(summary.to_json()) == summary


@pytest.mark.parametrize("value", ["median", 1.0, -0.1, True, "off"])
@pytest.mark.parametrize("step", ["on_policy", "gap"])
def test_bad_thresholds_are_refused(step: str, value: object) -> None:
    with pytest.raises(ValidationError):
        SteeringFilterSettings.model_validate({step: value})


MEANS = st.one_of(
    st.tuples(*[st.integers(-6, 0).map(lambda n: n / 2)] * 6),  # many ties
    st.tuples(*[st.floats(-30, 0, allow_nan=False)] * 6),
    st.tuples(st.floats(-9, -1), st.floats(-9, -1), st.floats(0.01, 1), st.floats(0.01, 1)).map(
        lambda t: (t[0] + t[2], t[0], t[0] - t[2], t[1] + t[3], t[1], t[1] - t[3])
    ),
)
PAIRS = st.lists(MEANS, max_size=12).map(lambda rows: [scored(f"p{index}", means) for index, means in enumerate(rows)])
RULES = st.one_of(st.none(), st.just("mean"), st.floats(0, 0.99))
SETTINGS = st.builds(SteeringFilterSettings, ordering=st.booleans(), on_policy=RULES, gap=RULES)


@profile(deadline=None)
@given(pairs=PAIRS, settings=SETTINGS)
def test_every_pair_is_kept_or_dropped_once_in_order_with_a_reason(
    pairs: list[ScoredPair], settings: SteeringFilterSettings
) -> None:
    selection = steering_filter(pairs, settings)
    names = [pair.pair.id for pair in pairs]
    dropped = [record.id for record in selection.dropped]
    assert sorted(ids(selection) + dropped) == sorted(names)
    assert ids(selection) == [name for name in names if name in set(ids(selection))]
    assert dropped == [name for name in names if name in set(dropped)]
    assert all(record.reason and record.detail for record in selection.dropped)
    assert all(math.isfinite(value) for value in selection.thresholds.values())


@profile(deadline=None)
@given(pairs=PAIRS, settings=SETTINGS, seed=st.integers(0, 99))
def test_the_order_of_the_pairs_decides_nothing(
    pairs: list[ScoredPair], settings: SteeringFilterSettings, seed: int
) -> None:
    shuffled = random.Random(seed).sample(pairs, len(pairs))
    one, other = steering_filter(pairs, settings), steering_filter(shuffled, settings)
    assert set(ids(one)) == set(ids(other))
    assert reasons(one) == reasons(other)
    assert one.thresholds == other.thresholds


@profile(deadline=None)
@given(pairs=PAIRS, settings=SETTINGS)
def test_what_is_kept_satisfies_every_step(pairs: list[ScoredPair], settings: SteeringFilterSettings) -> None:
    selection = steering_filter(pairs, settings)
    for pair in selection.kept:
        s = pair.scores
        if settings.ordering:
            assert s.chosen_good.mean > s.chosen_plain.mean > s.chosen_bad.mean
            assert s.rejected_bad.mean > s.rejected_plain.mean > s.rejected_good.mean
        assert s.chosen_plain.mean >= selection.thresholds.get("on_policy_chosen", -math.inf)
        assert s.rejected_plain.mean >= selection.thresholds.get("on_policy_rejected", -math.inf)


@profile(deadline=None)
@given(pairs=PAIRS)
def test_a_higher_quantile_never_lets_more_through(pairs: list[ScoredPair]) -> None:
    kept = [
        set(ids(steering_filter(pairs, SteeringFilterSettings(ordering=False, on_policy=q, gap=None))))
        for q in (0.0, 0.3, 0.6, 0.9)
    ]
    assert all(later <= earlier for earlier, later in itertools.pairwise(kept))


def test_the_rule_keeps_pairs_whose_good_side_is_better_and_shows_both_scores() -> None:
    plain, fine = completion("two words"), (-1.0, -2.0, -3.0, -1.5, -2.5, -3.5)
    pairs = [
        scored("better", fine, chosen=plain, rejected=completion("now three words")),
        scored("worse", fine, chosen=completion("now three words"), rejected=plain),
        scored("tie", fine, chosen=plain, rejected=completion("other words")),
    ]
    selection = steering_filter(pairs, OFF.model_copy(update={"rule": Shorter()}))
    assert ids(selection) == ["better"]
    assert reasons(selection) == {"worse": "rule", "tie": "rule"}
    assert [record.detail for record in selection.dropped] == ["y⁺ -3 ≤ y⁻ -2", "y⁺ -2 ≤ y⁻ -2"]
