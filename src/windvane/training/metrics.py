"""What is counted in an optimizer step: sums that add up over micro-batches and processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Self

import torch
from torch import Tensor

from windvane.losses import PairLogprobs, View


class StepSums(NamedTuple):
    """Sums over pairs; divided by `pairs` they are the step's means. A sum of two is that of both together."""

    loss: float = 0.0
    pairs: float = 0.0
    tokens: float = 0.0
    """Tokens that went through the model."""
    chosen: float = 0.0
    """Nats per token."""
    rejected: float = 0.0
    """Nats per token."""
    accuracy: float = 0.0
    """1 where the margin is positive, ½ where it is 0."""
    margin: float = 0.0
    """Nats."""
    compared: float = 0.0
    """Pairs that have a reference; the rest below are 0 without."""
    chosen_change: float = 0.0
    """Policy minus reference, nats per token."""
    rejected_change: float = 0.0
    """Policy minus reference, nats per token."""
    distance: float = 0.0
    """``|policy - reference|`` in nats per token, mean over a pair's responses in all views."""
    reference_loss: float = 0.0
    """The objective's value where the policy is the reference."""

    def plus(self, other: StepSums) -> Self:
        """Return the sums of both."""
        return type(self)(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))

    def means(self) -> dict[str, float]:
        """Return what is logged for each step; changes only where every pair has a reference."""
        count = max(self.pairs, 1.0)
        means = {
            "accuracy": self.accuracy / count,
            "margin": self.margin / count,
            "chosen_logprob": self.chosen / count,
            "rejected_logprob": self.rejected / count,
            "pairs": self.pairs,
            "tokens": self.tokens,
        }
        if self.compared == self.pairs:
            means["chosen_change"] = self.chosen_change / count
            means["rejected_change"] = self.rejected_change / count
        return means


@torch.no_grad()
def batch_sums(
    policy: Mapping[View, PairLogprobs],
    reference: Mapping[View, PairLogprobs] | None,
    *,
    losses: Tensor,
    reference_losses: Tensor | None,
    weight: Tensor,
    tokens: int,
) -> StepSums:
    """Return the sums of one micro-batch.

    Margin, accuracy and changes are those of the first view. The margin is the implicit reward margin, or without a
    reference the difference of the summed log-probabilities. `losses`, `reference_losses` and `weight` are [pairs].
    """
    first = next(iter(policy))
    plain = policy[first]
    margin = plain.chosen.sum - plain.rejected.sum
    compared: dict[str, Tensor] = {}
    if reference is not None:
        known = reference[first]
        margin = margin - (known.chosen.sum - known.rejected.sum)
        gaps = [
            (mine.sum - theirs.sum).abs() / mine.tokens
            for view, pair in policy.items()
            for mine, theirs in zip(pair, reference[view], strict=True)
        ]
        compared = {
            "compared": torch.ones_like(weight),
            "chosen_change": (plain.chosen.sum - known.chosen.sum) / plain.chosen.tokens,
            "rejected_change": (plain.rejected.sum - known.rejected.sum) / plain.rejected.tokens,
            "distance": torch.stack(gaps).mean(0),
            "reference_loss": torch.zeros_like(weight) if reference_losses is None else reference_losses,
        }
    columns = {
        "loss": losses,
        "pairs": torch.ones_like(weight),
        "chosen": plain.chosen.mean,
        "rejected": plain.rejected.mean,
        "accuracy": (margin > 0).float() + 0.5 * (margin == 0).float(),
        "margin": margin,
        **compared,
    }
    table = torch.stack([column.float() for column in columns.values()]).cpu()  # MPS has no float64 to add up in
    sums = (table.double() * weight.cpu().double()).sum(1).tolist()
    return StepSums(tokens=float(tokens), **dict(zip(columns, sums, strict=True)))
