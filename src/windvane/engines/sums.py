"""What the losses are given: sums of log-probabilities. Imports no torch, so that settings beside a loss need none."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class SequenceLogprobs(NamedTuple):
    """Log-probabilities of responses."""

    sum: Tensor
    """[responses] float32, nats."""
    tokens: Tensor
    """[responses] int64, response tokens."""

    @property
    def mean(self) -> Tensor:
        """[responses], nats per response token."""
        return self.sum / self.tokens

    def to(self, device: torch.device | str) -> SequenceLogprobs:
        """Return the same numbers on `device`."""
        return SequenceLogprobs(self.sum.to(device), self.tokens.to(device))
