"""The implicit reward margin: what the policy itself thinks of a pair."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

    from windvane.engines.sums import SequenceLogprobs


class PairLogprobs(NamedTuple):
    """Log-probabilities of the two sides of preference pairs, under one model and one prompt each."""

    chosen: SequenceLogprobs
    """[pairs]"""
    rejected: SequenceLogprobs
    """[pairs]"""


def implicit_reward_margin(policy: PairLogprobs, reference: PairLogprobs) -> Tensor:
    """Return ``m(x; a, b) = log(π(a|x)/π_ref(a|x)) - log(π(b|x)/π_ref(b|x))``, a chosen and b rejected. [pairs], nats.

    Up to the factor β it is the difference of the implicit rewards of DPO, and the logit of its loss (arXiv:2305.18290,
    Eq. 7). Positive where the policy prefers the chosen response more than the reference does; swapping the two
    responses negates it.
    """
    return (policy.chosen.sum - reference.chosen.sum) - (policy.rejected.sum - reference.rejected.sum)
