"""IPO: regress the margin to a target instead of pushing it to infinity."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from windvane.losses.logprobs import PairLossSettings
from windvane.selection.implicit_margin import RewardForm
from windvane.selection.margins import PairLogprobs

if TYPE_CHECKING:
    from torch import Tensor


def ipo_loss(policy: PairLogprobs, reference: PairLogprobs, *, beta: float) -> Tensor:
    """IPO, ``(m̄ - 1/(2β))²``: Eq. 17 of arXiv:2310.12036 with τ = β. [pairs]; ``1/(4β²)`` at π = π_ref.

    m̄ is the margin of the log-ratios per response token. The paper writes sums; its authors' experiments, TRL and the
    SSO code divide each log-ratio by the length of its own response, and without that the target ``1/(2β)`` would mean
    less the longer a response is.
    """
    chosen = (policy.chosen.sum - reference.chosen.sum) / policy.chosen.tokens
    rejected = (policy.rejected.sum - reference.rejected.sum) / policy.rejected.tokens
    return (chosen - rejected - 1 / (2 * beta)) ** 2


class IpoSettings(PairLossSettings):
    """Identity preference optimisation, on log-probabilities per token."""

    implicit_reward: ClassVar[RewardForm] = "mean_log_ratio"

    type: Literal["ipo"] = "ipo"
    beta: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    """The paper's τ, tokens per nat: the margin's target is ``1/(2β)`` nats per token."""

    def loss(self, policy: PairLogprobs, reference: PairLogprobs) -> Tensor:
        """Return `ipo_loss`, [pairs]."""
        return ipo_loss(policy, reference, beta=self.beta)
