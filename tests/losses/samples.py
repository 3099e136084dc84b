"""Log-probabilities for the tests of losses."""

import torch
from torch import Tensor

from windvane.losses import PairLogprobs, SequenceLogprobs, SteeringLogprobs, View


def side(sums: list[float], tokens: list[int]) -> SequenceLogprobs:
    """Return log-probabilities in float64, with gradient."""
    return SequenceLogprobs(
        torch.tensor(sums, dtype=torch.float64, requires_grad=True), torch.tensor(tokens, dtype=torch.int64)
    )


def pair(chosen: tuple[float, int], rejected: tuple[float, int]) -> PairLogprobs:
    """Return one pair, each side as (nats, tokens)."""
    return PairLogprobs(side([chosen[0]], [chosen[1]]), side([rejected[0]], [rejected[1]]))


def random_pairs(seed: int, pairs: int = 5, *, tokens: PairLogprobs | None = None) -> PairLogprobs:
    """Return random pairs; with `tokens`, of the same lengths as those."""
    generator = torch.Generator().manual_seed(seed)

    def one(given: Tensor | None) -> SequenceLogprobs:
        lengths = torch.randint(1, 30, (pairs,), generator=generator) if given is None else given
        means = -0.2 - 2 * torch.rand(pairs, generator=generator, dtype=torch.float64)
        return SequenceLogprobs((means * lengths).requires_grad_(), lengths)

    return PairLogprobs(
        one(None if tokens is None else tokens.chosen.tokens), one(None if tokens is None else tokens.rejected.tokens)
    )


def random_views(seed: int, pairs: int = 5) -> tuple[SteeringLogprobs, SteeringLogprobs]:
    """Return a policy and a reference in three views."""
    policy = SteeringLogprobs(*(random_pairs(seed + view, pairs) for view in range(3)))
    reference = SteeringLogprobs(
        *(random_pairs(seed + 3 + index, pairs, tokens=view) for index, view in enumerate(policy))
    )
    return policy, reference


def as_views(logprobs: SteeringLogprobs) -> dict[View, PairLogprobs]:
    """Return the mapping that objectives take."""
    return {"plain": logprobs.plain, "good": logprobs.good, "bad": logprobs.bad}


def swapped(pairs: PairLogprobs) -> PairLogprobs:
    """Return the pairs the other way round."""
    return PairLogprobs(pairs.rejected, pairs.chosen)


def sums(logprobs: PairLogprobs | SteeringLogprobs) -> list[Tensor]:
    """Return the leaves that gradients arrive at."""
    if isinstance(logprobs, SteeringLogprobs):
        return [leaf for view in logprobs for leaf in sums(view)]
    return [logprobs.chosen.sum, logprobs.rejected.sum]


def gradients(loss: Tensor, logprobs: PairLogprobs | SteeringLogprobs) -> list[Tensor]:
    """Return the gradient of the summed loss at every log-probability; zeros where none arrives."""
    return list(torch.autograd.grad(loss.sum(), sums(logprobs), retain_graph=True, materialize_grads=True))
