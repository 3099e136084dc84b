"""SLiC: a hinge on the margin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from windvane.losses.logprobs import PairLossSettings
from windvane.selection.margins import PairLogprobs, implicit_reward_margin

if TYPE_CHECKING:
    from torch import Tensor


def slic_loss(policy: PairLogprobs, reference: PairLogprobs, *, beta: float) -> Tensor:
    """SLiC's hinge on the margin, ``max(0, 1 - β·m)`` (arXiv:2309.06657). [pairs]; 1 at π = π_ref, 0 where ``m ≥ 1/β``.

    SLiC-HF (arXiv:2305.10425) has the hinge ``max(0, δ - log π(y_c|x) + log π(y_r|x))`` on the policy alone: δ times
    this one with a reference of zeros and β = 1/δ. Its regularisation towards the chosen text is `nll_weight`.
    """
    return (1 - beta * implicit_reward_margin(policy, reference)).relu()


class SlicSettings(PairLossSettings):
    """The hinge of SLiC-HF, calibrated by a reference."""

    type: Literal["slic"] = "slic"
    beta: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    """β, per nat: pairs with a margin of ``1/β`` nats or more are done with."""

    def loss(self, policy: PairLogprobs, reference: PairLogprobs) -> Tensor:
        """Return `slic_loss`, [pairs]."""
        return slic_loss(policy, reference, beta=self.beta)
