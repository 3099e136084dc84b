"""The margin selector: every form of the implicit reward by hand, the form that fits each loss, and who is kept."""

import math
import random
from itertools import pairwise
from typing import get_args

import pytest
import torch
from hypothesis import assume, given
from hypothesis import settings as profile
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from tests.losses.samples import random_pairs
from windvane.errors import DataError
from windvane.losses import OrpoSettings, PairLogprobs, SequenceLogprobs, chosen_nll
from windvane.losses.orpo import log_odds
from windvane.losses.sso import AnyBaseLoss
from windvane.selection import (
    ImplicitMarginSettings,
    MarginFilterSettings,
    PairMargin,
    RewardForm,
    Selection,
    ensembled,
    implicit_margin,
    implicit_reward,
    implicit_reward_margin,
    select_by_margin,
)
from windvane.selection.implicit_margin import needs_reference
from windvane.types import Logprob, SideScores

FORMS: tuple[RewardForm, ...] = get_args(RewardForm)
LOSSES = get_args(AnyBaseLoss)
LN2, LN3 = math.log(2), math.log(3)


def sides(chosen: tuple[float, int], rejected: tuple[float, int]) -> SideScores:
    """Return the two sides, each as (nats, tokens)."""
    one, other = (Logprob(sum=nats, tokens=tokens) for nats, tokens in (chosen, rejected))
    return SideScores(chosen=one, rejected=other)


def turned(scores: SideScores) -> SideScores:
    return SideScores(chosen=scores.rejected, rejected=scores.chosen)


def rows(pairs: PairLogprobs) -> list[SideScores]:
    return [
        sides(*((float(side.sum[index].detach()), int(side.tokens[index])) for side in pairs))
        for index in range(len(pairs.chosen.sum))
    ]


def near(pairs: PairLogprobs, seed: int) -> PairLogprobs:
    """Return log-probabilities at most 0.001 nats away from these."""
    generator = torch.Generator().manual_seed(seed)

    def moved(side: SequenceLogprobs) -> SequenceLogprobs:
        step = torch.rand(side.sum.shape, generator=generator, dtype=side.sum.dtype) * 2e-3 - 1e-3
        return SequenceLogprobs(side.sum.detach() + step, side.tokens)

    return PairLogprobs(moved(pairs.chosen), moved(pairs.rejected))


# Log-ratios +2 and -1 nats, +0.5 and -0.5 a token; mean log-probabilities -1.5 and -2.5.
POLICY, REFERENCE = sides((-6.0, 4), (-5.0, 2)), sides((-8.0, 4), (-4.0, 2))
BY_HAND: dict[RewardForm, tuple[float, float]] = {
    "log_ratio": (2.0, -1.0),
    "mean_log_ratio": (0.5, -0.5),
    "mean_logp": (-1.5, -2.5),
    "log_odds": (-math.log(math.exp(1.5) - 1), -math.log(math.exp(2.5) - 1)),  # p/(1-p) = 1/(1/p - 1)
}


@pytest.mark.parametrize("form", FORMS)
def test_worked_example(form: RewardForm) -> None:
    chosen, rejected = BY_HAND[form]
    assert implicit_reward(form, POLICY.chosen, REFERENCE.chosen) == pytest.approx(chosen)
    assert implicit_reward(form, POLICY.rejected, REFERENCE.rejected) == pytest.approx(rejected)
    assert implicit_margin(form, POLICY, REFERENCE) == pytest.approx(chosen - rejected)


def test_log_odds_of_even_chances_and_of_one_in_four() -> None:
    scores = sides((-2 * LN2, 2), (-6 * LN2, 3))  # a mean token of probability 1/2 and 1/4: odds 1 and 1/3
    assert implicit_reward("log_odds", scores.chosen, None) == pytest.approx(0)
    assert implicit_reward("log_odds", scores.rejected, None) == pytest.approx(-LN3)
    assert implicit_margin("log_odds", scores, None) == pytest.approx(LN3)


@pytest.mark.parametrize("form", FORMS)
def test_a_reference_is_read_exactly_where_it_is_needed(form: RewardForm) -> None:
    if not needs_reference(form):
        assert implicit_margin(form, POLICY, None) == implicit_margin(form, POLICY, REFERENCE)
        return
    with pytest.raises(ValueError, match=form):
        implicit_margin(form, POLICY, None)


SCORES = st.tuples(st.floats(-500, 0), st.integers(1, 99))
SIDES = st.builds(sides, SCORES, SCORES)


@profile(deadline=None)
@given(policy=SIDES, reference=SIDES, form=st.sampled_from(FORMS))
def test_swapping_the_sides_negates_the_margin(policy: SideScores, reference: SideScores, form: RewardForm) -> None:
    margin = implicit_margin(form, policy, reference)
    assert implicit_margin(form, turned(policy), turned(reference)) == -margin


@profile(deadline=None)
@given(policy=SIDES)
def test_a_policy_that_is_the_reference_has_no_margin(policy: SideScores) -> None:
    assert implicit_margin("log_ratio", policy, policy) == 0
    assert implicit_margin("mean_log_ratio", policy, policy) == 0


def test_margins_agree_with_the_losses_tensors() -> None:
    policy = random_pairs(1, 20)
    reference = random_pairs(2, 20, tokens=policy)
    both = list(zip(rows(policy), rows(reference), strict=True))
    tensors: dict[RewardForm, Tensor] = {
        "log_ratio": implicit_reward_margin(policy, reference),
        "mean_log_ratio": (policy.chosen.mean - reference.chosen.mean)
        - (policy.rejected.mean - reference.rejected.mean),
        "mean_logp": policy.chosen.mean - policy.rejected.mean,
        "log_odds": log_odds(policy.chosen.mean) - log_odds(policy.rejected.mean),
    }
    for form, expected in tensors.items():
        assert [implicit_margin(form, mine, its) for mine, its in both] == pytest.approx(expected.tolist(), abs=1e-12)


@pytest.mark.parametrize("mean", [0.0, -1e-30, -1e-8, -1e-6, -2e-6, -1e-3, -LN2, -3.0, -50.0, -1e4])
def test_log_odds_are_those_of_orpo_at_both_ends(mean: float) -> None:
    reward = implicit_reward("log_odds", Logprob(sum=mean * 4, tokens=4), None)
    assert math.isfinite(reward)
    assert reward == pytest.approx(float(log_odds(torch.tensor([mean], dtype=torch.float64))), rel=1e-12, abs=2e-6)


def loss_of(settings: AnyBaseLoss, policy: PairLogprobs, reference: PairLogprobs) -> list[float]:
    loss = settings.loss(policy, reference)
    if isinstance(settings, OrpoSettings):  # its likelihood term ranks the chosen response alone
        loss = loss - chosen_nll(policy)
    values: list[float] = loss.tolist()
    return values


def order(values: list[float]) -> list[int]:
    return sorted(range(len(values)), key=lambda index: values[index])


@pytest.mark.parametrize("kind", LOSSES, ids=lambda kind: kind.model_fields["type"].default)
def test_one_form_alone_ranks_pairs_as_the_loss_does_and_it_is_the_loss_own(kind: type[AnyBaseLoss]) -> None:
    """From the reference on, and over all lengths, the loss of a pair falls as its margin rises."""
    reference = random_pairs(3, 30)
    policy = near(reference, 4)
    worst_first = order([-value for value in loss_of(kind(), policy, reference)])
    ranked = {
        form: order([implicit_margin(form, mine, its) for mine, its in zip(rows(policy), rows(reference), strict=True)])
        for form in FORMS
    }
    assert [form for form in FORMS if ranked[form] == worst_first] == [kind.implicit_reward]
    assert needs_reference(kind.implicit_reward) == kind.needs_reference


@pytest.mark.parametrize("kind", LOSSES, ids=lambda kind: kind.model_fields["type"].default)
def test_a_step_down_the_loss_raises_the_margin_of_every_pair(kind: type[AnyBaseLoss]) -> None:
    reference, policy = random_pairs(5, 10), random_pairs(5, 10)
    loss = kind().loss(policy, reference)
    steps = torch.autograd.grad(loss.sum(), [side.sum for side in policy])
    after = PairLogprobs(
        *(SequenceLogprobs(side.sum - 1e-3 * step, side.tokens) for side, step in zip(policy, steps, strict=True))
    )
    form = kind.implicit_reward
    for old, new, its in zip(rows(policy), rows(after), rows(reference), strict=True):
        assert implicit_margin(form, new, its) > implicit_margin(form, old, its)


def test_the_ensemble_by_hand() -> None:
    assert ensembled(2.0, -1.0, gamma=0.7) == pytest.approx(0.7 * 2 - 0.3)
    assert ensembled(2.0, -1.0, gamma=0.5) == 0.5
    assert ensembled(2.0, None, gamma=0.7) == 2.0


def test_gamma_of_one_is_the_last_policy_alone() -> None:
    assert ensembled(0.1, -1e9, gamma=1.0) == ensembled(0.1, None, gamma=1.0) == 0.1


def test_the_ensemble_of_rewards_has_the_margin_of_the_ensemble() -> None:
    last, before = POLICY, sides((-7.5, 4), (-2.0, 2))
    rewards = [
        ensembled(implicit_reward("log_ratio", now, its), implicit_reward("log_ratio", then, its), gamma=0.6)
        for now, then, its in (
            (last.chosen, before.chosen, REFERENCE.chosen),
            (last.rejected, before.rejected, REFERENCE.rejected),
        )
    ]
    margins = [implicit_margin("log_ratio", policy, REFERENCE) for policy in (last, before)]
    assert rewards[0] - rewards[1] == pytest.approx(ensembled(margins[0], margins[1], gamma=0.6))


def margin(name: str, value: float, source: str | None = None) -> PairMargin:
    return PairMargin(id=name, margin=value, last=value, source=source)


def ids(selection: Selection[PairMargin]) -> list[str]:
    return [pair.id for pair in selection.kept]


def reasons(selection: Selection[PairMargin]) -> dict[str, str]:
    return {record.id: record.reason for record in selection.dropped}


SHARES = [
    (0.7, 10, 7), (0.7, 5, 4), (0.5, 5, 3), (0.25, 5, 1), (0.25, 6, 2), (0.99, 10, 10), (1.0, 10, 10),
    (0.1, 4, 1), (0.01, 1, 1),  # 0.4 and 0.01, but one at the least
]  # fmt: skip


@pytest.mark.parametrize(("keep", "given", "kept"), SHARES)
def test_the_share_is_rounded_half_up_and_one_stays(keep: float, given: int, kept: int) -> None:
    pairs = [margin(f"p{value}", value) for value in range(given)]
    selection = select_by_margin(pairs, MarginFilterSettings(keep=keep))
    assert ids(selection) == [f"p{value}" for value in range(given - kept, given)]
    assert selection.thresholds == {"margin": given - kept}


def test_the_threshold_is_the_smallest_margin_that_was_kept_and_reasons_name_it() -> None:
    pairs = [margin("low", -1.5), margin("high", 2.0), margin("middle", 0.25), margin("lower", -1.75)]
    selection = select_by_margin(pairs, MarginFilterSettings(keep=0.5))
    assert selection.thresholds == {"margin": 0.25}
    assert [(each.id, each.reason, each.detail) for each in selection.dropped] == [
        ("low", "low_margin", "margin -1.5000, kept from 0.2500 on"),
        ("lower", "low_margin", "margin -1.7500, kept from 0.2500 on"),
    ]


def test_among_equal_margins_the_smaller_id_stays() -> None:
    pairs = [margin("d", 1), margin("a", 1), margin("c", 1), margin("b", 1), margin("z", 2)]
    assert ids(select_by_margin(pairs, MarginFilterSettings(keep=0.6))) == ["a", "b", "z"]


def test_kept_and_dropped_stay_in_the_given_order() -> None:
    pairs = [margin("e", 1), margin("a", 5), margin("d", 2), margin("b", 4), margin("c", 3)]
    selection = select_by_margin(pairs, MarginFilterSettings(keep=0.4))
    assert ids(selection) == ["a", "b"]
    assert [each.id for each in selection.dropped] == ["e", "d", "c"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_dropped_and_counts_for_no_share(value: float) -> None:
    pairs = [margin("a", 1), margin("odd", value), margin("b", 2), margin("c", 3), margin("d", 4)]
    selection = select_by_margin(pairs, MarginFilterSettings(keep=0.5))
    assert ids(selection) == ["c", "d"]
    assert reasons(selection) == {"a": "low_margin", "odd": "not_finite", "b": "low_margin"}
    assert selection.dropped[1].detail == f"margin {value}"
    assert reasons(select_by_margin(pairs, MarginFilterSettings(keep=1))) == {"odd": "not_finite"}


def test_nothing_in_nothing_out_and_nothing_but_noise_leaves_nothing() -> None:
    assert select_by_margin([], MarginFilterSettings()) == Selection((), (), {})
    selection = select_by_margin([margin("a", math.nan), margin("b", math.nan)], MarginFilterSettings())
    assert (ids(selection), reasons(selection)) == ([], {"a": "not_finite", "b": "not_finite"})


def test_equal_margins_tell_nothing_apart_and_are_refused() -> None:
    flat = [margin(name, 0.0) for name in "abc"]
    with pytest.raises(DataError, match=r"all 3 margins are 0.*same model"):
        select_by_margin(flat, MarginFilterSettings(keep=0.99))
    with pytest.raises(DataError, match="all 3 margins"):
        select_by_margin([*flat, margin("odd", math.nan)], MarginFilterSettings())
    assert ids(select_by_margin(flat, MarginFilterSettings(keep=1))) == ["a", "b", "c"]
    assert ids(select_by_margin(flat[:1], MarginFilterSettings(keep=0.5))) == ["a"]
    assert ids(select_by_margin([*flat, margin("d", 1e-9)], MarginFilterSettings(keep=0.25))) == ["d"]


def test_equal_margins_are_refused_where_a_source_alone_has_a_share() -> None:
    flat = [margin(name, 0.0, "forum") for name in "abcd"]
    with pytest.raises(DataError, match="all 4 margins"):
        select_by_margin(flat, MarginFilterSettings(keep=1, by_source={"forum": 0.5}))


SOURCES = [
    margin("f1", 10, "forum"), margin("w1", 0.1, "wiki"), margin("f2", 20, "forum"), margin("w2", 0.2, "wiki"),
    margin("n1", -5), margin("f3", 30, "forum"), margin("f4", 40, "forum"), margin("n2", -4),
]  # fmt: skip


def test_without_sources_the_largest_margins_crowd_out_the_rest() -> None:
    assert ids(select_by_margin(SOURCES, MarginFilterSettings(keep=0.5))) == ["f1", "f2", "f3", "f4"]


def test_every_source_has_its_share() -> None:
    selection = select_by_margin(SOURCES, MarginFilterSettings(keep=0.5, by_source=True))
    assert ids(selection) == ["w2", "f3", "f4", "n2"]
    assert selection.thresholds == {"margin of forum": 30, "margin of wiki": 0.2, "margin of no source": -4}
    details = {record.id: record.detail for record in selection.dropped}
    assert details["w1"] == "margin 0.1000, kept from 0.2000 on"
    assert details["f1"] == "margin 10.0000, kept from 30.0000 on"


def test_a_source_may_have_a_share_of_its_own() -> None:
    selection = select_by_margin(SOURCES, MarginFilterSettings(keep=1, by_source={"forum": 0.25}))
    assert ids(selection) == ["w1", "w2", "n1", "f4", "n2"]
    assert selection.thresholds == {"margin of forum": 40, "margin of wiki": 0.1, "margin of no source": -5}


def test_an_unknown_source_is_refused_and_the_known_are_named() -> None:
    with pytest.raises(DataError, match=r"'forums', which no pair has; the data has 'forum', 'wiki'"):
        select_by_margin(SOURCES, MarginFilterSettings(by_source={"wiki": 0.5, "forums": 0.5}))
    with pytest.raises(DataError, match="the data has none"):
        select_by_margin([margin("a", 1), margin("b", 2)], MarginFilterSettings(by_source={"forum": 0.5}))


def test_pairs_without_a_source_are_no_source_of_that_name() -> None:
    pairs = [margin("a", 1), margin("b", 2), margin("c", 3, "no source"), margin("d", 4, "no source")]
    settings = MarginFilterSettings(keep=1, by_source={"no source": 0.5})
    assert ids(select_by_margin(pairs, settings)) == ["a", "b", "d"]
    assert sorted(ids(select_by_margin(pairs[::-1], settings))) == ["a", "b", "d"]


VALUES = st.one_of(
    st.integers(-3, 3).map(float),  # many ties
    st.floats(-50, 50),
    st.sampled_from([math.nan, math.inf, -math.inf]),
)
PAIRS = st.lists(st.tuples(VALUES, st.sampled_from([None, "forum", "wiki"])), max_size=14).map(
    lambda given: [margin(f"p{index}", value, source) for index, (value, source) in enumerate(given)]
)
SETTINGS = st.builds(MarginFilterSettings, keep=st.floats(0.01, 1), by_source=st.booleans())


def selected(pairs: list[PairMargin], settings: MarginFilterSettings) -> Selection[PairMargin]:
    assume(settings.keep == 1 or len({each.margin for each in pairs if math.isfinite(each.margin)}) != 1)
    return select_by_margin(pairs, settings)


@profile(deadline=None)
@given(pairs=PAIRS, settings=SETTINGS)
def test_every_pair_is_kept_or_dropped_once_in_order_with_a_reason(
    pairs: list[PairMargin], settings: MarginFilterSettings
) -> None:
    selection = selected(pairs, settings)
    kept, dropped = set(ids(selection)), set(reasons(selection))
    assert ids(selection) == [pair.id for pair in pairs if pair.id in kept]
    assert [each.id for each in selection.dropped] == [pair.id for pair in pairs if pair.id not in kept]
    assert not kept & dropped
    assert all(record.reason and record.detail for record in selection.dropped)
    assert {pair.id for pair in pairs if not math.isfinite(pair.margin)} == {
        name for name, reason in reasons(selection).items() if reason == "not_finite"
    }


@profile(deadline=None)
@given(pairs=PAIRS, settings=SETTINGS, seed=st.integers(0, 99))
def test_the_order_of_the_pairs_decides_nothing(
    pairs: list[PairMargin], settings: MarginFilterSettings, seed: int
) -> None:
    one = selected(pairs, settings)
    other = selected(random.Random(seed).sample(pairs, len(pairs)), settings)
    assert set(ids(one)) == set(ids(other))
    assert {each.id: each for each in one.dropped} == {each.id: each for each in other.dropped}
    assert one.thresholds == other.thresholds


@profile(deadline=None)
@given(pairs=PAIRS, settings=SETTINGS)
def test_no_pair_is_dropped_for_one_of_a_smaller_margin(
    pairs: list[PairMargin], settings: MarginFilterSettings
) -> None:
    selection = selected(pairs, settings)
    low = [pair for pair in pairs if reasons(selection).get(pair.id) == "low_margin"]
    for gone in low:
        rivals = [kept for kept in selection.kept if not settings.by_source or kept.source == gone.source]
        assert rivals
        assert all((-kept.margin, kept.id) < (-gone.margin, gone.id) for kept in rivals)


@profile(deadline=None)
@given(pairs=PAIRS)
def test_a_larger_share_never_lets_fewer_through(pairs: list[PairMargin]) -> None:
    kept = [set(ids(selected(pairs, MarginFilterSettings(keep=keep)))) for keep in (0.1, 0.4, 0.7, 1)]
    assert all(fewer <= more for fewer, more in pairwise(kept))


BAD: list[dict[str, object]] = [
    {"keep": 0}, {"keep": -0.1}, {"keep": 1.1}, {"keep": math.nan}, {"gamma": 0}, {"gamma": 1.1}, {"gamma": math.nan},
    {"by_source": {"forum": 0}}, {"by_source": {"forum": 1.5}}, {"by_source": "forum"}, {"reward": "odds"}, {"kept": 1},
]  # fmt: skip


@pytest.mark.parametrize("given", BAD)
def test_bad_settings_are_refused(given: dict[str, object]) -> None:
    ImplicitMarginSettings.model_validate({})
    with pytest.raises(ValidationError, match=next(iter(given))):
        ImplicitMarginSettings.model_validate(given)
