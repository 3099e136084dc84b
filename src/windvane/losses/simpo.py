"""SimPO: the average log-probability as reward, and no reference."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from windvane.losses.logprobs import PairLossSettings, log_sigmoid
from windvane.selection.implicit_margin import RewardForm
from windvane.selection.margins import PairLogprobs

if TYPE_CHECKING:
    from torch import Tensor


def simpo_loss(policy: PairLogprobs, *, beta: float, gamma: float) -> Tensor:
    """SimPO, ``-log σ(β·(mean_logp(y_c|x) - mean_logp(y_r|x)) - γ)``: Eq. 6 of arXiv:2405.14734. [pairs]"""
    return -log_sigmoid(beta * (policy.chosen.mean - policy.rejected.mean) - gamma)


class SimpoSettings(PairLossSettings):
    """Simple preference optimisation, which needs no reference."""

    needs_reference: ClassVar[bool] = False
    implicit_reward: ClassVar[RewardForm] = "mean_logp"

    type: Literal["simpo"] = "simpo"
    beta: float = Field(default=2.0, gt=0, allow_inf_nan=False)
    """β, tokens per nat: scale of the reward. The paper finds 2.0 to 2.5, ten times DPO's, as it multiplies means."""
    gamma: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """γ: the reward difference (after β) from which a pair counts as won."""

    def loss(self, policy: PairLogprobs, reference: PairLogprobs | None = None) -> Tensor:
        """Return `simpo_loss`, [pairs]; the reference is not looked at."""
        return simpo_loss(policy, beta=self.beta, gamma=self.gamma)
