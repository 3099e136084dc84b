"""DPO and its two treatments of labels that are wrong with a known rate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from windvane.losses.logprobs import PairLossSettings, log_sigmoid
from windvane.selection.margins import PairLogprobs, implicit_reward_margin

if TYPE_CHECKING:
    from torch import Tensor


def dpo_loss(policy: PairLogprobs, reference: PairLogprobs, *, beta: float) -> Tensor:
    """DPO, ``-log σ(β·m)`` with the implicit reward margin m: Eq. 7 of arXiv:2305.18290. [pairs]; ln 2 at π = π_ref."""
    return -log_sigmoid(beta * implicit_reward_margin(policy, reference))


def cdpo_loss(policy: PairLogprobs, reference: PairLogprobs, *, beta: float, label_smoothing: float) -> Tensor:
    """Conservative DPO, ``-(1-ε)·log σ(β·m) - ε·log σ(-β·m)``: cross-entropy with labels wrong at rate ε. [pairs]

    From Mitchell's note on DPO with noisy labels; least where ``σ(β·m) = 1-ε``, so the margin stops growing there.
    """
    logit = beta * implicit_reward_margin(policy, reference)
    return -(1 - label_smoothing) * log_sigmoid(logit) - label_smoothing * log_sigmoid(-logit)


def robust_dpo_loss(policy: PairLogprobs, reference: PairLogprobs, *, beta: float, label_smoothing: float) -> Tensor:
    """Robust DPO, ``(-(1-ε)·log σ(β·m) + ε·log σ(-β·m)) / (1-2ε)`` of arXiv:2403.00409. [pairs]

    An unbiased estimate of DPO's loss on clean labels where a share ε < ½ of them is flipped. It is not bounded below.
    """
    logit = beta * implicit_reward_margin(policy, reference)
    clean, flipped = -log_sigmoid(logit), -log_sigmoid(-logit)
    return ((1 - label_smoothing) * clean - label_smoothing * flipped) / (1 - 2 * label_smoothing)


class DpoSettings(PairLossSettings):
    """Direct preference optimisation."""

    type: Literal["dpo"] = "dpo"
    beta: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    """β, per nat: how strongly the policy is held to the reference. Small values let it move far."""

    def loss(self, policy: PairLogprobs, reference: PairLogprobs) -> Tensor:
        """Return `dpo_loss`, [pairs]."""
        return dpo_loss(policy, reference, beta=self.beta)


class CdpoSettings(PairLossSettings):
    """Conservative DPO: labels are trusted up to a rate."""

    type: Literal["cdpo"] = "cdpo"
    beta: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    """β, per nat: how strongly the policy is held to the reference."""
    label_smoothing: float = Field(default=0.1, gt=0, lt=0.5)
    """ε: the share of pairs whose preference is taken to be the wrong way round. Without any, choose dpo."""

    def loss(self, policy: PairLogprobs, reference: PairLogprobs) -> Tensor:
        """Return `cdpo_loss`, [pairs]."""
        return cdpo_loss(policy, reference, beta=self.beta, label_smoothing=self.label_smoothing)


class RobustDpoSettings(PairLossSettings):
    """Robust DPO: the bias of flipped labels is taken out."""

    type: Literal["robust_dpo"] = "robust_dpo"
    beta: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    """β, per nat: how strongly the policy is held to the reference."""
    label_smoothing: float = Field(default=0.1, gt=0, lt=0.5)
    """ε: the share of pairs whose preference is the wrong way round. Without any, choose dpo."""

    def loss(self, policy: PairLogprobs, reference: PairLogprobs) -> Tensor:
        """Return `robust_dpo_loss`, [pairs]."""
        return robust_dpo_loss(policy, reference, beta=self.beta, label_smoothing=self.label_smoothing)
