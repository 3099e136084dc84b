"""KTO on pairs: each response is judged against what the policy does to a response on average."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from windvane.losses.logprobs import PairLossSettings
from windvane.selection.margins import PairLogprobs

if TYPE_CHECKING:
    from torch import Tensor


def kto_pair_loss(policy: PairLogprobs, reference: PairLogprobs, *, beta: float) -> Tensor:
    """KTO (arXiv:2402.01306) on pairs, ``½·[1 - σ(β·(r_c - z_r)) + 1 - σ(β·(z_c - r_r))]``. [pairs]; ½ at π = π_ref.

    ``r = log(π/π_ref)`` of a response in nats; z_c and z_r, the reference points, are the means of r over the chosen
    and over the rejected responses of this call, at least 0, and take no gradient (as in the paper). Each side is
    compared with the other side's point, so that no response is its own yardstick.

    As z is a mean over the call, this is the one loss here that depends on how pairs are batched.
    """
    chosen = policy.chosen.sum - reference.chosen.sum
    rejected = policy.rejected.sum - reference.rejected.sum
    chosen_point = chosen.detach().mean().clamp(min=0)
    rejected_point = rejected.detach().mean().clamp(min=0)
    gain = (beta * (rejected_point - chosen)).sigmoid()  # 1 - σ(a) = σ(-a), without the cancellation
    loss = (beta * (rejected - chosen_point)).sigmoid()
    return (gain + loss) / 2


class KtoPairSettings(PairLossSettings):
    """Kahneman-Tversky optimisation with both responses of a pair."""

    type: Literal["kto_pair"] = "kto_pair"
    beta: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    """β, per nat: how soon a response counts as settled, which also holds the policy to the reference.

    The reference points are means over a micro-batch: keep its size when comparing runs, and above 1."""

    def loss(self, policy: PairLogprobs, reference: PairLogprobs) -> Tensor:
        """Return `kto_pair_loss`, [pairs]."""
        return kto_pair_loss(policy, reference, beta=self.beta)
