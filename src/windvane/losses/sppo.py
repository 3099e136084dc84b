"""SPPO: each response's log-ratio is regressed to its own target."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from windvane.losses.logprobs import PairLossSettings
from windvane.selection.margins import PairLogprobs

if TYPE_CHECKING:
    from torch import Tensor


def sppo_loss(policy: PairLogprobs, reference: PairLogprobs, *, beta: float) -> Tensor:
    """SPPO with hard labels, ``(r_c - 1/(2β))² + (r_r + 1/(2β))²``: Eq. 4.7 of arXiv:2405.00675. [pairs]

    ``r = log(π/π_ref)`` of a response in nats, and β is 1/η; ``1/(2β²)`` at π = π_ref. The paper's targets hold a win
    probability from a preference model; a pair alone says only who won, so it is 1 and 0 here.
    """
    chosen = policy.chosen.sum - reference.chosen.sum
    rejected = policy.rejected.sum - reference.rejected.sum
    return (chosen - 1 / (2 * beta)) ** 2 + (rejected + 1 / (2 * beta)) ** 2


class SppoSettings(PairLossSettings):
    """Self-play preference optimisation with hard labels."""

    type: Literal["sppo"] = "sppo"
    beta: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    """β, per nat: the targets are ``±1/(2β)`` nats. The paper's η = 1000 is β = 0.001, which scales the loss by 10⁶."""

    def loss(self, policy: PairLogprobs, reference: PairLogprobs) -> Tensor:
        """Return `sppo_loss`, [pairs]."""
        return sppo_loss(policy, reference, beta=self.beta)
