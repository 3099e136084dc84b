"""The words of the losses: the views of a pair, their log-probabilities, and what a pair loss is.

Dividing by a length and picking a view happen in the losses alone; the numbers that go in are plain sums in nats and
counts of response tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol

from pydantic import Field

from windvane.config import Settings
from windvane.selection.implicit_margin import RewardForm
from windvane.selection.margins import PairLogprobs

if TYPE_CHECKING:
    from torch import Tensor

View = Literal["plain", "good", "bad"]
"""One pair under one prompt: ``plain`` is (y⁺, y⁻) under x, ``good`` (y⁺, y⁻) under x⁺, ``bad`` (yᵒ, y⁺) under x⁻."""

PairLoss = Callable[[PairLogprobs, Any], "Tensor"]
"""``L(x; chosen ≻ rejected)``: takes the policy's and the reference's log-probabilities, returns one loss per pair.

The second argument is a `PairLogprobs`, or None for a loss that has no reference.
"""


class SteeringLogprobs(NamedTuple):
    """Log-probabilities of a contrast pair in its three views, all with the same [pairs]."""

    plain: PairLogprobs
    """chosen y⁺, rejected y⁻, given x"""
    good: PairLogprobs
    """chosen y⁺, rejected y⁻, given x⁺"""
    bad: PairLogprobs
    """chosen yᵒ, rejected y⁺, given x⁻"""


class GuidedLogprobs(Protocol):
    """The two views under a principle; a `SteeringLogprobs` is one."""

    @property
    def good(self) -> PairLogprobs:
        """chosen y⁺, rejected y⁻, given x⁺"""

    @property
    def bad(self) -> PairLogprobs:
        """chosen yᵒ, rejected y⁺, given x⁻"""


def log_sigmoid(logit: Tensor) -> Tensor:
    """Return ``log σ(x)`` without overflow. The one place here that calls torch; all else is a tensor's own methods."""
    from torch.nn.functional import logsigmoid

    return logsigmoid(logit)


def chosen_nll(policy: PairLogprobs) -> Tensor:
    """Return ``NLL(y_chosen|x) = -mean_logp(y_chosen|x)``: [pairs], nats per response token."""
    return -policy.chosen.mean


def with_nll(loss: PairLoss, weight: float) -> PairLoss:
    """Return ``L + weight · NLL(y_chosen|x)``, which keeps the chosen response likely while the margin grows."""

    def regularised(policy: PairLogprobs, reference: PairLogprobs | None) -> Tensor:
        return loss(policy, reference) + weight * chosen_nll(policy)

    return regularised if weight else loss


class PairLossSettings(Settings):
    """What the settings of every pair loss share."""

    needs_reference: ClassVar[bool] = True
    implicit_reward: ClassVar[RewardForm] = "log_ratio"
    """The reward that the loss makes of the policy itself, up to a factor; SeRA's margins are differences of it."""

    nll_weight: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """γ: weight of the chosen response's negative log-likelihood (nats per token) beside the loss. 0 adds nothing."""
