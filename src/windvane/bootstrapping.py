"""New preference pairs from the policy itself: its samples, ranked by its implicit reward (SeRA, arXiv:2410.09362)."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from pydantic import Field

from windvane.config import Settings
from windvane.engines.protocols import Advance, Generator, no_progress
from windvane.judging.measures import is_empty
from windvane.pairs import repetition
from windvane.sampling import SamplingSettings
from windvane.seeds import derive_seed
from windvane.selection.implicit_margin import Share
from windvane.types import Completion, Dropped, Pair, Prompt, Query, Record, Samples


class BootstrapSettings(Settings):
    """How a round makes pairs of its own."""

    samples: int = Field(default=4, ge=2)
    """N: responses per prompt; the best and the worst by the implicit reward make a pair."""
    sampling: SamplingSettings = SamplingSettings()
    """How they are drawn."""
    share: Share | None = None
    """Pairs to add, as a share of the offline pairs; null adds as many as selection drops (1 - keep)."""
    max_prompts: int | None = Field(default=None, ge=1)
    """Prompts to sample for in a round, another choice each round; null asks all of the offline set's."""
    max_repetition: float = Field(default=0.4, ge=0, le=1)
    """Share of a response's text that may be repetition before it counts as looping, as in `windvane pairs`."""
    length_control: bool = False
    """Whether each token costs a price (DICE), chosen so that best and worst responses have equal mean length over all
    prompts that were ranked; among the pairs of largest margin, which are added, the lengths may still differ."""


class RankedSamples(NamedTuple):
    """The responses to one prompt that may become a pair, and their ensembled implicit rewards."""

    query: Query
    responses: tuple[Completion, ...]
    rewards: tuple[float, ...]
    """Nats, or nats per token."""


class BootstrappedPair(Record):
    """A pair of best against worst."""

    pair: Pair
    margin: float
    """Difference of the rewards, the price of the tokens included."""


class BootstrapPick(Record):
    """Every prompt once: in `pairs`, the largest margin first, or in `dropped`."""

    pairs: tuple[BootstrappedPair, ...]
    dropped: tuple[Dropped, ...]
    token_price: float
    """What a token costs a reward, 0 without length control."""


def added_id(query_id: str, iteration: int) -> str:
    """Return the id of the pair that a round adds for a query."""
    return f"{query_id}-round-{iteration}"


def sample_candidates(
    queries: Sequence[Query],
    generator: Generator,
    settings: BootstrapSettings,
    *,
    seed: int,
    stage: str,
    advance: Advance = no_progress,
) -> list[Samples]:
    """Return N responses to each query, in their order; a sample depends on seed, stage, query and number alone."""
    prompts = [
        Prompt(query.messages, derive_seed(seed, stage, query.id, number))
        for query in queries
        for number in range(settings.samples)
    ]
    responses = generator.generate(prompts, settings.sampling.sampling(), advance=advance)
    return [
        Samples(query_id=query.id, responses=tuple(responses[first : first + settings.samples]))
        for query, first in zip(queries, range(0, len(responses), settings.samples), strict=True)
    ]


def fit_to_rank(samples: Samples, *, max_repetition: float) -> tuple[Completion, ...]:
    """Return the responses that may stand in a pair: ended by the policy, not empty, not looping, each text once."""
    found: dict[str, Completion] = {}
    for response in samples.responses:
        whole = response.finish == "stop" and not is_empty(response.text)
        if whole and repetition(response.text) <= max_repetition:
            found.setdefault(" ".join(response.text.split()), response)
    return tuple(found.values())


def best_against_worst(
    ranked: Sequence[RankedSamples], *, count: int, length_control: bool, iteration: int
) -> BootstrapPick:
    """Return the `count` pairs of largest margin, one a prompt at the most.

    A prompt is dropped for ``too_few`` (fewer than two responses fit to rank), ``not_finite``, ``tie`` (best and worst
    are worth the same) or ``low_margin`` (enough others have a larger one). Among equal margins the smaller id goes
    first.
    """
    usable, dropped = [], list[Dropped]()
    for each in ranked:
        if len(each.responses) < 2:
            detail = f"{len(each.responses)} usable responses"
            dropped.append(Dropped(id=each.query.id, reason="too_few", detail=detail))
        elif not all(map(math.isfinite, each.rewards)):
            dropped.append(Dropped(id=each.query.id, reason="not_finite", detail=str(each.rewards)))
        else:
            usable.append(each)
    price = length_price(usable) if length_control else 0.0
    made = [(each.query.id, _extremes(each, price, iteration)) for each in usable]
    dropped += [
        Dropped(id=query, reason="tie", detail=f"margin {pair.margin}") for query, pair in made if pair.margin <= 0
    ]
    order = sorted((each for each in made if each[1].margin > 0), key=lambda each: (-each[1].margin, each[0]))
    dropped += [
        Dropped(id=query, reason="low_margin", detail=f"margin {pair.margin:.4f}") for query, pair in order[count:]
    ]
    pairs = tuple(pair for _, pair in order[:count])
    return BootstrapPick(pairs=pairs, dropped=tuple(dropped), token_price=price)


def length_price(ranked: Sequence[RankedSamples]) -> float:
    """Return the price of a token at which best and worst responses have equal mean length, or come closest to it.

    Over all prompts that are `ranked`, as in DICE, which trains on all of them. Which pairs have the largest margins
    depends on the price itself, so over those alone there is no one price to find: none may do, or several.
    The difference of the lengths falls as the price rises, and changes only where two responses to a prompt are worth
    the same; so the price is looked for between those points. It is negative where the best are shorter at no price.
    """
    turns = sorted({turn for each in ranked for turn in _turning_points(each)})
    if not turns:
        return 0.0
    between = [turns[0] - 1.0, *((low + high) / 2 for low, high in pairwise(turns)), turns[-1] + 1.0]
    low, high = 0, len(between) - 1
    while low < high:  # the first price at which the best are not longer
        middle = (low + high) // 2
        if _excess_length(ranked, between[middle]) > 0:
            low = middle + 1
        else:
            high = middle
    near = [0.0, *between[max(low - 1, 0) : low + 1]]
    return min(near, key=lambda price: (abs(_excess_length(ranked, price)), abs(price)))


def _turning_points(ranked: RankedSamples) -> list[float]:
    """Return the prices at which two of the responses are worth the same."""
    values = list(zip(ranked.rewards, (len(each.token_ids) for each in ranked.responses), strict=True))
    return [
        (reward - other) / (tokens - fewer)
        for number, (reward, tokens) in enumerate(values)
        for other, fewer in values[:number]
        if tokens != fewer
    ]


def _priced(ranked: RankedSamples, price: float) -> list[float]:
    return [
        reward - price * len(response.token_ids)
        for reward, response in zip(ranked.rewards, ranked.responses, strict=True)
    ]


def _ends(ranked: RankedSamples, price: float) -> tuple[int, int]:
    """Return the places of the best and the worst response; among equals the first."""
    values = _priced(ranked, price)
    return values.index(max(values)), values.index(min(values))


def _excess_length(ranked: Sequence[RankedSamples], price: float) -> int:
    """Return by how many tokens all best responses together are longer than all worst ones."""
    excess = 0
    for each in ranked:
        best, worst = _ends(each, price)
        excess += len(each.responses[best].token_ids) - len(each.responses[worst].token_ids)
    return excess


def _extremes(ranked: RankedSamples, price: float, iteration: int) -> BootstrappedPair:
    best, worst = _ends(ranked, price)
    values = _priced(ranked, price)
    pair = Pair(
        id=added_id(ranked.query.id, iteration),
        prompt=ranked.query.messages,
        chosen=ranked.responses[best],
        rejected=ranked.responses[worst],
        source=ranked.query.source,
        iteration=iteration,
    )
    return BootstrappedPair(pair=pair, margin=values[best] - values[worst])
