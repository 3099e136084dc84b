"""SSO's objectives: worked numbers, identities with the base loss, and where the gradient flows."""

import math
from functools import partial

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from tests.losses.samples import as_views, gradients, pair, random_views, sums
from windvane.losses import (
    DpoSettings,
    IpoSettings,
    LossSettings,
    OrpoSettings,
    PairLoss,
    SimpoSettings,
    SsoGeneratorSettings,
    SsoSettings,
    SteeringLogprobs,
    chosen_nll,
    dpo_loss,
    ipo_loss,
    make_objective,
    on_policy_weight,
    sso_generator_loss,
    sso_loss,
)

DPO: PairLoss = partial(dpo_loss, beta=0.1)
IPO: PairLoss = partial(ipo_loss, beta=0.2)

# Mean log-probabilities of the plain view: -1.5 and -2.5. Per-token margins of the views: 1, 0.5 and -0.5.
POLICY = SteeringLogprobs(
    plain=pair((-6.0, 4), (-5.0, 2)), good=pair((-4.0, 4), (-7.0, 2)), bad=pair((-3.0, 3), (-8.0, 4))
)
REFERENCE = SteeringLogprobs(
    plain=pair((-8.0, 4), (-4.0, 2)), good=pair((-4.0, 4), (-6.0, 2)), bad=pair((-3.0, 3), (-10.0, 4))
)
WEIGHT = 1 / (1 + math.exp(-(0.66 * 1.5 + 0.34 * 2.5)))  # sigmoid(1.84)
PLAIN, GOOD, BAD = (1 - 2.5) ** 2, (0.5 - 2.5) ** 2, (-0.5 - 2.5) ** 2  # ipo with β = 0.2: 2.25, 4, 9
TENTH = 0.1


def test_weight_worked_by_hand() -> None:
    weight = on_policy_weight(POLICY.plain, alpha=0.66)
    torch.testing.assert_close(weight, torch.tensor([WEIGHT], dtype=torch.float64))
    assert round(WEIGHT, 6) == 0.862949  # by a pocket calculator: 1 / (1 + 0.158817)


def test_weight_lies_between_a_half_and_one_and_falls_as_the_pair_becomes_likelier() -> None:
    policy, _ = random_views(0, pairs=20)
    weight = on_policy_weight(policy.plain, alpha=0.66)
    assert ((weight > 0.5) & (weight < 1)).all()
    assert all((gradient < 0).all() for gradient in gradients(weight, policy.plain))
    for alpha, index in ((0.0, 0), (1.0, 1)):  # one side alone
        assert not gradients(on_policy_weight(policy.plain, alpha=alpha), policy.plain)[index].any()


@pytest.mark.parametrize(
    ("scope", "value"),
    [
        ("steering", PLAIN + WEIGHT * TENTH * (GOOD + BAD)),
        ("all", WEIGHT * (PLAIN + TENTH * (GOOD + BAD))),
        ("none", PLAIN + TENTH * (GOOD + BAD)),
    ],
)
@pytest.mark.parametrize("detach", [False, True])
def test_version_1_worked_by_hand(scope: str, value: float, detach: bool) -> None:
    loss = sso_loss(POLICY, REFERENCE, base=IPO, weight_scope=scope, detach_weight=detach)
    torch.testing.assert_close(loss, torch.tensor([value], dtype=torch.float64))


def test_version_2_worked_by_hand() -> None:
    loss = sso_generator_loss(POLICY, REFERENCE, base=IPO, nll_weight=0.1)
    nll = 4.0 / 4 + 3.0 / 3  # y⁺ under x⁺, yᵒ under x⁻
    torch.testing.assert_close(loss, torch.tensor([GOOD + BAD + 0.1 * nll], dtype=torch.float64))


@pytest.mark.parametrize("base", [DPO, IPO])
@pytest.mark.parametrize("scope", ["steering", "none"])
def test_without_steering_it_is_the_base_loss_in_value_and_gradient(base: PairLoss, scope: str) -> None:
    policy, reference = random_views(0)
    loss = sso_loss(policy, reference, base=base, steering_weight=0.0, weight_scope=scope)
    plain = base(policy.plain, reference.plain)
    torch.testing.assert_close(loss, plain, rtol=0, atol=0)
    for ours, expected in zip(gradients(loss, policy), gradients(plain, policy), strict=True):
        torch.testing.assert_close(ours, expected)


def test_scope_all_is_the_weight_times_scope_none() -> None:
    policy, reference = random_views(0)
    weight = on_policy_weight(policy.plain, alpha=0.66)
    everything = sso_loss(policy, reference, base=DPO, weight_scope="all")
    torch.testing.assert_close(everything, weight * sso_loss(policy, reference, base=DPO, weight_scope="none"))


@pytest.mark.parametrize("scope", ["steering", "all"])
def test_detached_gradient_is_the_constant_weight_times_the_gradient(scope: str) -> None:
    policy, reference = random_views(0)
    weight = on_policy_weight(policy.plain, alpha=0.66).detach()
    loss = sso_loss(policy, reference, base=DPO, weight_scope=scope, detach_weight=True)
    plain = gradients(DPO(policy.plain, reference.plain), policy)
    steering = gradients(0.1 * (DPO(policy.good, reference.good) + DPO(policy.bad, reference.bad)), policy)
    for ours, base, guided in zip(gradients(loss, policy), plain, steering, strict=True):
        torch.testing.assert_close(ours, weight * guided + base * (weight if scope == "all" else 1))


@pytest.mark.parametrize("scope", ["steering", "all"])
def test_by_default_the_gradient_flows_through_the_weight(scope: str) -> None:
    """The product rule: what the detached mode leaves out is grad(W) times the weighted loss."""
    policy, reference = random_views(0)
    through, constant = (
        gradients(sso_loss(policy, reference, base=DPO, weight_scope=scope, detach_weight=detach), policy)
        for detach in (False, True)
    )
    steering = 0.1 * (DPO(policy.good, reference.good) + DPO(policy.bad, reference.bad))
    weighted = steering if scope == "steering" else steering + DPO(policy.plain, reference.plain)
    weight = gradients(on_policy_weight(policy.plain, alpha=0.66), policy)
    for full, part, slope in zip(through, constant, weight, strict=True):
        torch.testing.assert_close(full, part + slope * weighted.detach())
    # lowering W raises the probability of both plain responses: its share of the gradient is negative on both sides
    assert all(((full - part) < 0).all() for full, part in zip(through[:2], constant[:2], strict=True))


def test_the_bad_view_prefers_the_plain_answer_to_the_steered_one() -> None:
    policy, reference = random_views(0)
    slopes = gradients(sso_loss(policy, reference, base=DPO, weight_scope="none"), policy)
    _, _, _, _, original, steered = slopes
    assert (original < 0).all()
    assert (steered > 0).all()


def test_the_generator_never_looks_at_the_plain_view() -> None:
    policy, reference = random_views(0)
    plain_chosen, plain_rejected, *others = gradients(sso_generator_loss(policy, reference, base=DPO), policy)
    assert not plain_chosen.any()
    assert not plain_rejected.any()
    assert all(slope.any() for slope in others)
    objective = make_objective(SsoGeneratorSettings(base=DpoSettings(), nll_weight=0.3))
    assert objective.views == ("good", "bad")
    views = {view: logprobs for view, logprobs in as_views(policy).items() if view != "plain"}
    expected = sum(
        DPO(policy[i], reference[i]) + 0.3 * chosen_nll(policy[i])  # type: ignore[arg-type]
        for i in (1, 2)
    )
    torch.testing.assert_close(objective(views, as_views(reference)), expected)


def test_huge_margins_stay_finite() -> None:
    policy = SteeringLogprobs(*(pair((-1e5, 10), (-1.0, 10)) for _ in range(3)))
    reference = SteeringLogprobs(*(pair((-1.0, 10), (-1e5, 10)) for _ in range(3)))
    for scope in ("steering", "all", "none"):
        for base in (DPO, IPO):
            loss = sso_loss(policy, reference, base=base, weight_scope=scope)
            assert loss.isfinite().all()
            assert all(slope.isfinite().all() for slope in gradients(loss, policy))


ADAPTER: TypeAdapter[LossSettings] = TypeAdapter(LossSettings)


def test_default_settings_are_the_papers() -> None:
    settings = SsoSettings()
    assert (settings.steering_weight, settings.alpha, settings.weight_scope) == (0.1, 0.66, "steering")
    assert settings.base == IpoSettings(beta=0.2)
    policy, reference = random_views(0)
    objective = make_objective(settings)
    assert objective.views == ("plain", "good", "bad")
    assert objective.needs_reference
    torch.testing.assert_close(
        objective(as_views(policy), as_views(reference)), sso_loss(policy, reference, base=IPO), rtol=0, atol=0
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"base": {"type": "dpo"}},
        {"base": {"type": "ipo", "beta": 0.3}},
        {"base": {"type": "ipo", "beta": 0.2, "nll_weight": 0.1}},
        {"steering_weight": 0.3},
        {"steering_weight": 0.0, "weight_scope": "all"},
        {"alpha": 0.4},
        {"weight_scope": "all"},
        {"weight_scope": "none"},
    ],
)
def test_every_setting_has_an_effect(changes: dict[str, object]) -> None:
    policy, reference = (as_views(views) for views in random_views(0))
    default = make_objective(SsoSettings())(policy, reference)
    changed = make_objective(ADAPTER.validate_python({"type": "sso", **changes}))(policy, reference)
    assert not torch.allclose(changed, default)


def test_detach_setting_has_an_effect_on_the_gradient_alone() -> None:
    policy, reference = random_views(0)
    values = [
        make_objective(SsoSettings(detach_weight=detach))(as_views(policy), as_views(reference))
        for detach in (False, True)
    ]
    torch.testing.assert_close(*values, rtol=0, atol=0)
    assert not torch.allclose(gradients(values[0], policy)[0], gradients(values[1], policy)[0])


@pytest.mark.parametrize("scope", ["steering", "none"])
def test_zero_steering_spares_the_two_other_views(scope: str) -> None:
    policy, reference = random_views(0)
    objective = make_objective(SsoSettings(base=DpoSettings(), steering_weight=0.0, weight_scope=scope))
    assert objective.views == ("plain",)
    loss = objective({"plain": policy.plain}, {"plain": reference.plain})
    torch.testing.assert_close(loss, DPO(policy.plain, reference.plain))


@pytest.mark.parametrize("base", [SimpoSettings(), OrpoSettings()])
@pytest.mark.parametrize("kind", [SsoSettings, SsoGeneratorSettings])
def test_a_base_without_reference_needs_none(
    kind: type[SsoSettings | SsoGeneratorSettings], base: SimpoSettings | OrpoSettings
) -> None:
    policy, reference = random_views(0)
    objective = make_objective(kind(base=base))
    assert not objective.needs_reference
    loss = objective(as_views(policy), None)
    torch.testing.assert_close(loss, objective(as_views(policy), as_views(reference)))
    unused = torch.autograd.grad(loss.sum(), sums(reference), allow_unused=True)
    assert all(gradient is None for gradient in unused)


@pytest.mark.parametrize("kind", [SsoSettings, SsoGeneratorSettings])
def test_a_missing_reference_is_refused(kind: type[SsoSettings | SsoGeneratorSettings]) -> None:
    policy, _ = random_views(0)
    with pytest.raises(ValueError, match="reference"):
        make_objective(kind())(as_views(policy), None)


@pytest.mark.parametrize("extra", [{"detach_weight": True}, {"alpha": 0.5}])
def test_settings_that_would_do_nothing_are_refused(extra: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="weight_scope"):
        ADAPTER.validate_python({"type": "sso", "weight_scope": "none", **extra})
