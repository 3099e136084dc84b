"""SSO: steer the policy's own signal while learning from it (arXiv:2410.17131).

Version 1 adds to the base loss on a pair what keeps the pair's source honest: under the good principle y⁺ must stay
preferred, and under the bad one the plain answer yᵒ to y⁺. Version 2 trains a data generator on those two terms alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from windvane.config import Settings
from windvane.losses.dpo import CdpoSettings, DpoSettings, RobustDpoSettings
from windvane.losses.ipo import IpoSettings
from windvane.losses.kto import KtoPairSettings
from windvane.losses.logprobs import GuidedLogprobs, PairLoss, SteeringLogprobs, with_nll
from windvane.losses.orpo import OrpoSettings
from windvane.losses.simpo import SimpoSettings
from windvane.losses.slic import SlicSettings
from windvane.losses.sppo import SppoSettings
from windvane.selection.margins import PairLogprobs

if TYPE_CHECKING:
    from torch import Tensor

WeightScope = Literal["steering", "all", "none"]
"""What W multiplies: the steering term G (the authors' released code), the whole loss (their equation), or nothing."""

ALPHA = 0.66
"""The authors' share of y⁺ in W."""


def on_policy_weight(plain: PairLogprobs, *, alpha: float) -> Tensor:
    """Return ``W = σ(-(α·mean_logp(y⁺|x) + (1-α)·mean_logp(y⁻|x)))``, in (½, 1); [pairs].

    Near 1 where the pair is far from what the policy would say without a principle, ½ where it is certain.
    """
    return (-(alpha * plain.chosen.mean + (1 - alpha) * plain.rejected.mean)).sigmoid()


def sso_loss(
    policy: SteeringLogprobs,
    reference: SteeringLogprobs | None,
    *,
    base: PairLoss,
    steering_weight: float = 0.1,
    alpha: float = ALPHA,
    weight_scope: WeightScope = "steering",
    detach_weight: bool = False,
) -> Tensor:
    """SSO, version 1: ``L(x; y⁺≻y⁻) + W·G`` with ``G = λ·[L(x⁺; y⁺≻y⁻) + L(x⁻; yᵒ≻y⁺)]``. [pairs]

    λ is `steering_weight`, L is `base`, W is `on_policy_weight`. The gradient flows through W unless `detach_weight`:
    a lower W means both responses more likely without any principle, which is what keeps the pairs near-on-policy.
    `reference` is None for a base without a reference.
    """
    plain = base(policy.plain, reference and reference.plain)
    good = base(policy.good, reference and reference.good)
    bad = base(policy.bad, reference and reference.bad)
    steering = steering_weight * (good + bad)
    if weight_scope == "none":
        return plain + steering
    weight = on_policy_weight(policy.plain, alpha=alpha)
    weight = weight.detach() if detach_weight else weight
    return plain + weight * steering if weight_scope == "steering" else weight * (plain + steering)


def sso_generator_loss(
    policy: GuidedLogprobs, reference: GuidedLogprobs | None, *, base: PairLoss, nll_weight: float = 0.1
) -> Tensor:
    """SSO, version 2: ``L⁺ + L⁻``, the loss of the data generator. [pairs]

    ``L⁺ = L(x⁺; y⁺≻y⁻) + γ·NLL(y⁺|x⁺)`` and ``L⁻ = L(x⁻; yᵒ≻y⁺) + γ·NLL(yᵒ|x⁻)``; γ is `nll_weight`, NLL is in nats per
    token, and the plain view takes no part. `reference` is None for a base without a reference.
    """
    guided = with_nll(base, nll_weight)
    return guided(policy.good, reference and reference.good) + guided(policy.bad, reference and reference.bad)


AnyBaseLoss = (
    DpoSettings
    | CdpoSettings
    | RobustDpoSettings
    | IpoSettings
    | SlicSettings
    | SimpoSettings
    | OrpoSettings
    | KtoPairSettings
    | SppoSettings
)
BaseLossSettings = Annotated[AnyBaseLoss, Field(discriminator="type")]
"""A loss on one pair, told apart by its `type`."""


class SsoSettings(Settings):
    """SSO, version 1: the base loss and the steering term."""

    type: Literal["sso"] = "sso"
    base: BaseLossSettings = IpoSettings(beta=0.2)
    """The pair loss L of all three terms; its `nll_weight`, if any, counts in each."""
    steering_weight: float = Field(default=0.1, ge=0, allow_inf_nan=False)
    """λ: weight of the steering terms. 0 leaves the base loss (PBAA), at its cost; under `all` it is still times W."""
    alpha: float = Field(default=ALPHA, ge=0, le=1)
    """α: share of y⁺ in the on-policy weight W; the rest is y⁻'s."""
    weight_scope: WeightScope = "steering"
    """What W multiplies: the steering terms (the authors' code), all (their equation), or none."""
    detach_weight: bool = False
    """Whether W is a constant to the gradient. By default lowering W, too, is learned."""

    @model_validator(mode="after")
    def _nothing_inert(self) -> Self:
        if self.weight_scope == "none" and (self.detach_weight or self.alpha != ALPHA):
            raise ValueError(
                "weight_scope 'none' drops W, so alpha and detach_weight do nothing: leave them out, or choose the "
                "weight_scope 'steering' or 'all'"
            )
        return self


class SsoGeneratorSettings(Settings):
    """SSO, version 2: the loss of the data generator."""

    type: Literal["sso_generator"] = "sso_generator"
    base: BaseLossSettings = IpoSettings(beta=0.2)
    """The pair loss L of both terms."""
    nll_weight: float = Field(default=0.1, ge=0, allow_inf_nan=False)
    """γ: weight of the preferred response's negative log-likelihood (nats per token) in both terms."""
