"""Choosing the next token: greedy, or by inverse transform from the nucleus, without sorting the vocabulary.

The uniform number of a sample's k-th token depends on the sample's seed and on k alone, so a response does not depend
on which other responses are in its batch, nor on how many have been drawn before.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from windvane.types import Sampling

FIRST_CANDIDATES = 32
"""Most likely tokens looked at first; nearly every nucleus fits."""
WIDENING = 16
"""How many times more are looked at for the rows whose nucleus did not fit."""


def uniforms(seeds: Sequence[int], count: int) -> Tensor:
    """Return ``[seeds, count]`` float64 numbers in [0, 1): row i is a pure function of ``seeds[i]``.

    Counter-based (the splitmix64 finaliser over seed and counter), so any number can be had without those before it.
    """
    keys = _mix(np.array([seed % 2**64 for seed in seeds], dtype=np.uint64))
    counters = np.arange(1, count + 1, dtype=np.uint64)
    with np.errstate(over="ignore"):
        bits = _mix(keys[:, None] + counters[None, :] * np.uint64(0x9E3779B97F4A7C15))
    return torch.from_numpy((bits >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def next_tokens(logits: Tensor, sampling: Sampling, uniform: Tensor) -> Tensor:
    """Return one token id for each row: ``[rows]`` from float32 logits ``[rows, vocabulary]`` and ``[rows]`` in [0, 1).

    With ``top_p < 1`` a token is drawn from the smallest set of most likely tokens whose probability reaches it.
    """
    if sampling.temperature == 0:
        return logits.argmax(-1)
    probabilities = (logits / sampling.temperature).softmax(-1)
    rows, vocabulary = probabilities.shape
    chosen = torch.empty(rows, dtype=torch.long, device=logits.device)
    open_rows = torch.arange(rows, device=logits.device)
    candidates = min(FIRST_CANDIDATES, vocabulary)
    while True:
        last_try = candidates == vocabulary
        ids, settled = _draw(probabilities[open_rows], uniform[open_rows], sampling.top_p, candidates)
        if last_try:
            chosen[open_rows] = ids
            return chosen
        chosen[open_rows[settled]] = ids[settled]
        open_rows = open_rows[~settled]
        if not open_rows.numel():
            return chosen
        candidates = min(candidates * WIDENING, vocabulary)


def _draw(probabilities: Tensor, uniform: Tensor, top_p: float, candidates: int) -> tuple[Tensor, Tensor]:
    """Return the token each row draws, and whether the candidates were enough to know it.

    Down the tokens in order of probability, the drawn one is the first at which the mass so far exceeds
    ``uniform · (mass of the nucleus)``. Without top-p that mass is 1, so only the tokens down to the drawn one matter.
    """
    top, ids = probabilities.topk(candidates)
    mass = top.double().cumsum(-1)  # [rows, candidates]
    whole = top_p >= 1
    if whole:
        goal = uniform.to(mass)
        settled = mass[:, -1] > goal
    else:
        size = (mass < top_p).sum(-1, keepdim=True).clamp(max=candidates - 1)  # index of the nucleus' last token
        goal = uniform.to(mass) * mass.gather(-1, size).squeeze(-1)
        settled = mass[:, -1] >= top_p
    index = (mass <= goal[:, None]).sum(-1, keepdim=True).clamp(max=candidates - 1)
    if not whole:
        index = torch.minimum(index, size)
    return ids.gather(-1, index).squeeze(-1), settled


def _mix(x: np.ndarray[tuple[int, ...], np.dtype[np.uint64]]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint64]]:
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
