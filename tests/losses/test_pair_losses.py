"""Every pair loss: a value worked out by hand, its known value at policy = reference, symmetries, and extremes."""

import math
from collections.abc import Callable

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from tests.losses.samples import gradients, pair, random_pairs, side, sums, swapped
from windvane import losses
from windvane.losses import LossSettings, PairLogprobs, SequenceLogprobs, make_objective
from windvane.selection import implicit_reward_margin

# One pair: log-ratios +2 and -1 nats, so the margin is 3; per token +0.5 and -0.5, so the mean margin is 1.
POLICY = pair((-6.0, 4), (-5.0, 2))
REFERENCE = pair((-8.0, 4), (-4.0, 2))

LN2 = math.log(2)


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


WITH_REFERENCE: dict[str, tuple[Callable[[PairLogprobs, PairLogprobs], Tensor], float, float]] = {
    # name: loss, value of the pair above, value at policy = reference
    "dpo": (lambda p, r: losses.dpo_loss(p, r, beta=0.5), math.log(1 + math.exp(-1.5)), LN2),
    "cdpo": (
        lambda p, r: losses.cdpo_loss(p, r, beta=0.5, label_smoothing=0.1),
        0.9 * math.log(1 + math.exp(-1.5)) + 0.1 * math.log(1 + math.exp(1.5)),
        LN2,
    ),
    "robust_dpo": (
        lambda p, r: losses.robust_dpo_loss(p, r, beta=0.5, label_smoothing=0.1),
        (0.9 * math.log(1 + math.exp(-1.5)) - 0.1 * math.log(1 + math.exp(1.5))) / 0.8,
        LN2,
    ),
    "ipo": (lambda p, r: losses.ipo_loss(p, r, beta=0.25), (1 - 2) ** 2, 4.0),
    "slic": (lambda p, r: losses.slic_loss(p, r, beta=0.25), 1 - 0.75, 1.0),
    "kto_pair": (
        # z of the chosen is the mean of one log-ratio, 2; z of the rejected, -1, is clamped to 0
        lambda p, r: losses.kto_pair_loss(p, r, beta=0.5),
        ((1 - sigmoid(0.5 * 2)) + (1 - sigmoid(0.5 * (2 + 1)))) / 2,
        0.5,
    ),
    "sppo": (lambda p, r: losses.sppo_loss(p, r, beta=0.25), (2 - 2) ** 2 + (-1 + 2) ** 2, 8.0),
}
WITHOUT_REFERENCE: dict[str, tuple[Callable[[PairLogprobs], Tensor], float]] = {
    # mean log-probabilities -1.5 and -2.5
    "simpo": (lambda p: losses.simpo_loss(p, beta=2.0, gamma=0.5), math.log(1 + math.exp(-1.5))),
    "orpo": (
        lambda p: losses.orpo_loss(p, beta=0.1),
        1.5
        + 0.1
        * math.log(
            1 + (math.exp(-2.5) / (1 - math.exp(-2.5))) / (math.exp(-1.5) / (1 - math.exp(-1.5)))  # odds ratio
        ),
    ),
}


@pytest.mark.parametrize("name", WITH_REFERENCE)
def test_worked_example(name: str) -> None:
    loss, value, _ = WITH_REFERENCE[name]
    torch.testing.assert_close(loss(POLICY, REFERENCE), torch.tensor([value], dtype=torch.float64))


@pytest.mark.parametrize("name", WITHOUT_REFERENCE)
def test_worked_example_without_reference(name: str) -> None:
    loss, value = WITHOUT_REFERENCE[name]
    torch.testing.assert_close(loss(POLICY), torch.tensor([value], dtype=torch.float64))


@pytest.mark.parametrize("name", WITH_REFERENCE)
def test_value_where_policy_is_the_reference(name: str) -> None:
    loss, _, start = WITH_REFERENCE[name]
    policy = random_pairs(0)
    torch.testing.assert_close(loss(policy, policy), torch.full((5,), start, dtype=torch.float64))


@pytest.mark.parametrize("name", WITH_REFERENCE)
def test_the_gradient_prefers_the_chosen_response(name: str) -> None:
    loss, _, _ = WITH_REFERENCE[name]
    policy, same = random_pairs(0), random_pairs(0)
    chosen, rejected = gradients(loss(policy, same), policy)
    assert (chosen < 0).all()
    assert (rejected > 0).all()


@pytest.mark.parametrize("name", WITHOUT_REFERENCE)
def test_the_gradient_prefers_the_chosen_response_without_reference(name: str) -> None:
    policy = random_pairs(0)
    chosen, rejected = gradients(WITHOUT_REFERENCE[name][0](policy), policy)
    assert (chosen < 0).all()
    assert (rejected > 0).all()


@pytest.mark.parametrize("name", [*WITH_REFERENCE, *WITHOUT_REFERENCE])
def test_one_loss_per_pair_and_independent_pairs(name: str) -> None:
    policy = random_pairs(1)
    reference = random_pairs(2, tokens=policy)
    value = losses_of(name, policy, reference)
    assert value.shape == (5,)
    if name == "kto_pair":  # its reference points are means over the call
        return
    for index in range(5):
        alone = losses_of(name, rows(policy, index), rows(reference, index))
        torch.testing.assert_close(alone, value[index : index + 1])


def losses_of(name: str, policy: PairLogprobs, reference: PairLogprobs) -> Tensor:
    return WITH_REFERENCE[name][0](policy, reference) if name in WITH_REFERENCE else WITHOUT_REFERENCE[name][0](policy)


def rows(pairs: PairLogprobs, index: int) -> PairLogprobs:
    return PairLogprobs(*(SequenceLogprobs(s.sum[index : index + 1], s.tokens[index : index + 1]) for s in pairs))


def test_swapping_chosen_and_rejected_negates_the_margin() -> None:
    policy = random_pairs(1)
    reference = random_pairs(2, tokens=policy)
    margin = implicit_reward_margin(policy, reference)
    torch.testing.assert_close(implicit_reward_margin(swapped(policy), swapped(reference)), -margin)
    torch.testing.assert_close(implicit_reward_margin(POLICY, REFERENCE), torch.tensor([3.0], dtype=torch.float64))
    assert implicit_reward_margin(policy, policy).abs().max() == 0


def test_dpo_of_a_pair_and_of_its_swap_are_probabilities_that_add_up() -> None:
    policy = random_pairs(1)
    reference = random_pairs(2, tokens=policy)
    one = torch.exp(-losses.dpo_loss(policy, reference, beta=0.1))
    other = torch.exp(-losses.dpo_loss(swapped(policy), swapped(reference), beta=0.1))
    torch.testing.assert_close(one + other, torch.ones(5, dtype=torch.float64))


def test_smoothing_and_robustness_at_zero_are_dpo_and_cancel_each_other() -> None:
    policy = random_pairs(1)
    reference = random_pairs(2, tokens=policy)
    plain = losses.dpo_loss(policy, reference, beta=0.1)
    for smoothed in (losses.cdpo_loss, losses.robust_dpo_loss):
        torch.testing.assert_close(smoothed(policy, reference, beta=0.1, label_smoothing=0.0), plain)
    # flipping a share ε of the labels and taking robust DPO's mean gives back DPO on the clean labels
    clean = losses.robust_dpo_loss(policy, reference, beta=0.1, label_smoothing=0.3)
    flipped = losses.robust_dpo_loss(swapped(policy), swapped(reference), beta=0.1, label_smoothing=0.3)
    torch.testing.assert_close(0.7 * clean + 0.3 * flipped, plain)


def test_cdpo_is_least_where_the_margin_matches_the_label_noise() -> None:
    best = math.log(0.9 / 0.1) / 0.5
    policy = PairLogprobs(side([best - 1, best, best + 1], [1, 1, 1]), side([0.0, 0.0, 0.0], [1, 1, 1]))
    zero = PairLogprobs(side([0.0] * 3, [1, 1, 1]), side([0.0] * 3, [1, 1, 1]))
    gradient, _ = gradients(losses.cdpo_loss(policy, zero, beta=0.5, label_smoothing=0.1), policy)
    assert gradient[0] < 0 < gradient[2]
    assert gradient[1].abs() < 1e-12


LENGTH_NORMALISED = {
    "ipo": lambda p, r: losses.ipo_loss(p, r, beta=0.2),
    "simpo": lambda p, r: losses.simpo_loss(p, beta=2.0, gamma=0.5),
    "orpo": lambda p, r: losses.orpo_loss(p, beta=0.1),
}


@pytest.mark.parametrize("times", [2, 7])
def test_duplicating_a_response_changes_sums_but_no_length_normalised_loss(times: int) -> None:
    policy = random_pairs(1)
    reference = random_pairs(2, tokens=policy)

    def longer(pairs: PairLogprobs) -> PairLogprobs:
        return PairLogprobs(*(SequenceLogprobs(s.sum * times, s.tokens * times) for s in pairs))

    for loss in LENGTH_NORMALISED.values():
        torch.testing.assert_close(loss(longer(policy), longer(reference)), loss(policy, reference))
    torch.testing.assert_close(
        implicit_reward_margin(longer(policy), longer(reference)), times * implicit_reward_margin(policy, reference)
    )


def test_each_response_is_divided_by_its_own_length() -> None:
    policy, reference = pair((-3.0, 10), (-3.0, 2)), pair((-5.0, 10), (-3.0, 2))
    value = losses.ipo_loss(policy, reference, beta=0.5)
    torch.testing.assert_close(value, torch.tensor([(2 / 10 - 0 / 2 - 1) ** 2], dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("margin", [-1e5, -1e3, 1e3, 1e5])
@pytest.mark.parametrize("name", [*WITH_REFERENCE, *WITHOUT_REFERENCE])
def test_huge_margins_give_finite_losses_and_gradients(name: str, margin: float, dtype: torch.dtype) -> None:
    better, worse = (-1.0, -1.0 - abs(margin)) if margin > 0 else (-1.0 - abs(margin), -1.0)
    lengths = torch.tensor([40])
    policy = PairLogprobs(
        *(SequenceLogprobs(torch.tensor([v], dtype=dtype, requires_grad=True), lengths) for v in (better, worse))
    )
    reference = PairLogprobs(*(SequenceLogprobs(torch.tensor([-500.0], dtype=dtype), lengths) for _ in range(2)))
    loss = losses_of(name, policy, reference)
    assert loss.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients(loss, policy))


@pytest.mark.parametrize("logprob", [0.0, -1e-30, -1e-8, -1e-6, -1e-4, -math.log(2), -50.0, -1e4])
@pytest.mark.parametrize("certain", ["chosen", "rejected"])
def test_orpo_stays_finite_where_a_response_is_certain_or_impossible(logprob: float, certain: str) -> None:
    value = torch.tensor([logprob], requires_grad=True)
    other = torch.tensor([-1.0], requires_grad=True)
    one, two = SequenceLogprobs(value, torch.tensor([1])), SequenceLogprobs(other, torch.tensor([1]))
    policy = PairLogprobs(one, two) if certain == "chosen" else PairLogprobs(two, one)
    loss = losses.orpo_loss(policy, beta=0.1)
    assert loss.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients(loss, policy))


def test_orpo_odds_are_exact_at_both_ends() -> None:
    from windvane.losses.orpo import log_odds

    small = torch.tensor([-1e-3, -0.5, -30.0])  # float32
    exact = small.double() - torch.log(-torch.expm1(small.double()))
    torch.testing.assert_close(log_odds(small).double(), exact, rtol=1e-6, atol=1e-6)
    assert torch.autograd.gradcheck(
        log_odds, torch.tensor([-1e-2, -0.6, -0.7, -5.0], dtype=torch.float64, requires_grad=True)
    )


def test_kto_points_take_no_gradient_and_are_never_negative() -> None:
    policy = PairLogprobs(side([-1.0, -2.0], [4, 4]), side([-9.0, -9.0], [4, 4]))
    reference = PairLogprobs(side([-2.0, -5.0], [4, 4]), side([-8.0, -8.0], [4, 4]))
    chosen_point, rejected_point = 2.0, 0.0  # means of (1, 3) and of (-1, -1)
    ratios = torch.tensor([1.0, 3.0], dtype=torch.float64), torch.tensor([-1.0, -1.0], dtype=torch.float64)
    expected = (1 - torch.sigmoid(ratios[0] - rejected_point) + 1 - torch.sigmoid(chosen_point - ratios[1])) / 2
    loss = losses.kto_pair_loss(policy, reference, beta=1.0)
    torch.testing.assert_close(loss, expected)
    slope = torch.sigmoid(ratios[0]) * (1 - torch.sigmoid(ratios[0]))
    torch.testing.assert_close(gradients(loss, policy)[0], -slope / 2)


ADAPTER: TypeAdapter[LossSettings] = TypeAdapter(LossSettings)
PAIR_LOSSES = [*WITH_REFERENCE, *WITHOUT_REFERENCE]


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_settings_carry_every_parameter_to_the_loss(name: str) -> None:
    """Changing any setting changes the loss: nothing is inert."""
    policy = random_pairs(1)
    reference = random_pairs(2, tokens=policy)

    def value(**changes: float) -> Tensor:
        objective = make_objective(ADAPTER.validate_python({"type": name, **changes}))
        return objective({"plain": policy}, {"plain": reference})

    defaults = ADAPTER.validate_python({"type": name})
    parameters = [field for field in type(defaults).model_fields if field != "type"]
    assert parameters
    for field in parameters:
        assert not torch.allclose(value(**{field: getattr(defaults, field) * 0.5 + 0.03}), value()), field


@pytest.mark.parametrize("name", [name for name in PAIR_LOSSES if name != "orpo"])
def test_nll_weight_adds_the_likelihood_of_the_chosen_response(name: str) -> None:
    policy = random_pairs(1)
    views, reference = {"plain": policy}, {"plain": random_pairs(2, tokens=policy)}
    plain = make_objective(ADAPTER.validate_python({"type": name}))(views, reference)
    both = make_objective(ADAPTER.validate_python({"type": name, "nll_weight": 0.25}))(views, reference)
    torch.testing.assert_close(both - plain, -0.25 * policy.chosen.sum / policy.chosen.tokens)


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_reference_is_read_exactly_where_it_is_needed(name: str) -> None:
    policy = random_pairs(1)
    objective = make_objective(ADAPTER.validate_python({"type": name}))
    assert objective.views == ("plain",)
    assert objective.needs_reference == (name in WITH_REFERENCE)
    if objective.needs_reference:
        with pytest.raises(ValueError, match="reference"):
            objective({"plain": policy}, None)
    else:
        reference = random_pairs(2, tokens=policy)
        loss = objective({"plain": policy}, {"plain": reference})
        torch.testing.assert_close(loss, objective({"plain": policy}, None))
        assert not torch.autograd.grad(loss.sum(), sums(reference), allow_unused=True)[0]


@pytest.mark.parametrize(
    "given",
    [
        {"type": "dpo", "beta": 0.0},
        {"type": "dpo", "beta": math.inf},
        {"type": "ipo", "gamma": 1.0},
        {"type": "cdpo", "label_smoothing": 0.5},
        {"type": "robust_dpo", "label_smoothing": 0.5},
        {"type": "simpo", "gamma": -0.1},
        {"type": "dpo", "nll_weight": -1.0},
        {"type": "orpo", "nll_weight": 0.1},
        {"type": "sigmoid"},
        {"beta": 0.1},
    ],
)
def test_bad_settings_are_refused(given: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ADAPTER.validate_python(given)
