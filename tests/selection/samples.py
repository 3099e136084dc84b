"""Scored pairs for the tests of selection and of signal statistics."""

from windvane.types import Completion, Logprob, Message, Pair, PairScores, ScoredPair

TOKENS = 10
NAMES = ("chosen_good", "chosen_plain", "chosen_bad", "rejected_bad", "rejected_plain", "rejected_good")
"""The order that the ordering step wants, likeliest first, y⁺ then y⁻."""


def completion(text: str = "a few words", finish: str = "stop") -> Completion:
    return Completion.model_validate({"text": text, "token_ids": tuple(range(TOKENS)), "finish": finish})


def scored(
    name: str,
    means: tuple[float, float, float, float, float, float],
    *,
    chosen: Completion | None = None,
    rejected: Completion | None = None,
) -> ScoredPair:
    """Return a scored pair with the six mean log-probabilities in the order of `NAMES`."""
    scores = {key: Logprob(sum=mean * TOKENS, tokens=TOKENS) for key, mean in zip(NAMES, means, strict=True)}
    return ScoredPair(
        pair=Pair(
            id=name,
            prompt=(Message(role="user", content="Why?"),),
            chosen=chosen or completion(),
            rejected=rejected or completion(),
            original=completion(),
        ),
        scores=PairScores(**scores, original_bad=Logprob(sum=-9.0, tokens=TOKENS)),
    )


def steered(
    name: str, *, chosen: float = -1.0, rejected: float = -1.0, up: float = 0.5, down: float = 0.5
) -> ScoredPair:
    """Return a pair in order: plain means `chosen` and `rejected`, gaps of 2·`up` and 2·`down`."""
    return scored(name, (chosen + up, chosen, chosen - up, rejected + down, rejected, rejected - down))
