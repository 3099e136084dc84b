"""ORPO: supervised fine-tuning with a penalty on the odds of the rejected response, and no reference."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from windvane.config import Settings
from windvane.losses.logprobs import chosen_nll, log_sigmoid
from windvane.selection.implicit_margin import RewardForm
from windvane.selection.margins import PairLogprobs

if TYPE_CHECKING:
    from torch import Tensor

CERTAIN = -1e-6
"""Nats per token above which a response counts as certain; its odds would be infinite at 0."""


def log_odds(mean_logprob: Tensor) -> Tensor:
    """Return ``log(p / (1-p))`` with ``p = exp(mean_logprob)``, the odds of a response by its mean token; [pairs].

    ``log(1-p)`` is taken by ``log1p`` for small p and by ``expm1`` for p near 1, so that neither value nor gradient is
    lost or infinite; at `CERTAIN` and above, the value stays (13.8) and the gradient is that of ``log p`` alone.
    """
    bounded = mean_logprob.clamp(max=CERTAIN)
    likely = bounded > -math.log(2)
    # Each branch is fed a value it is safe for, as the unused branch of `where` still takes part in the gradient.
    by_expm1 = (-bounded.where(likely, -1.0).expm1()).log()
    by_log1p = (-bounded.where(~likely, -1.0).exp()).log1p()
    log_rest = by_expm1.where(likely, by_log1p)
    return mean_logprob - log_rest


def orpo_loss(policy: PairLogprobs, *, beta: float) -> Tensor:
    """ORPO, ``NLL(y_c|x) - β·log σ(log_odds(y_c|x) - log_odds(y_r|x))``: Eq. 6 and 7 of arXiv:2403.07691. [pairs]

    β is the paper's λ. NLL is per response token; TRL's also teaches the prompt, which the paper does not.
    """
    ratio = log_odds(policy.chosen.mean) - log_odds(policy.rejected.mean)
    return chosen_nll(policy) - beta * log_sigmoid(ratio)


class OrpoSettings(Settings):
    """Odds-ratio preference optimisation; the likelihood of the chosen response is part of it, so no reference."""

    needs_reference: ClassVar[bool] = False
    implicit_reward: ClassVar[RewardForm] = "log_odds"

    type: Literal["orpo"] = "orpo"
    beta: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    """The paper's λ: weight of the odds-ratio term beside the likelihood term, whose weight is 1."""

    def loss(self, policy: PairLogprobs, reference: PairLogprobs | None = None) -> Tensor:
        """Return `orpo_loss`, [pairs]; the reference is not looked at."""
        return orpo_loss(policy, beta=self.beta)
