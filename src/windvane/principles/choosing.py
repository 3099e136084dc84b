"""Which features a query gets: asked of the model, read leniently, filled up by seed."""

import random
import re
from collections.abc import Sequence

from windvane.engines.protocols import Advance, Generator, no_progress
from windvane.principles.features import Feature
from windvane.principles.prompts import choice_messages
from windvane.seeds import derive_seed
from windvane.types import Prompt, Query, Sampling

CHOICE_SAMPLING = Sampling(max_new_tokens=24, temperature=0.0)
"""Greedy: the choice is an opinion, not a draw. Variety comes from the queries and from the seed that fills up."""


def choose_by_model(
    queries: Sequence[Query],
    features: Sequence[Feature],
    n: int,
    generator: Generator,
    *,
    seed: int,
    advance: Advance = no_progress,
) -> list[tuple[Feature, ...]]:
    """Return `n` of `features` for each query: those that the model names, in its order, and random ones for the rest.

    A reply without any known name costs nothing but the choice: the query then gets random features.
    """
    asked = [
        Prompt(choice_messages(query, features), derive_seed(seed, "principles", "choose", query.id))
        for query in queries
    ]
    replies = generator.generate(asked, CHOICE_SAMPLING, advance=advance)
    return [
        fill_up(named_features(reply.text, features), features, n, query, seed=seed)
        for query, reply in zip(queries, replies, strict=True)
    ]


def named_features(reply: str, features: Sequence[Feature]) -> list[Feature]:
    """Return the features that a reply names, each once, in the order in which it names them first.

    A feature is named by its name or its good adjective, as a word of its own, in any case.
    """
    places: list[tuple[int, int]] = []
    for index, feature in enumerate(features):
        found = re.search(
            rf"(?<!\w)(?:{re.escape(feature.name)}|{re.escape(feature.good_adjective)})(?!\w)", reply, re.IGNORECASE
        )
        if found:
            places.append((found.start(), index))
    return [features[index] for _, index in sorted(places)]


def fill_up(
    named: Sequence[Feature], features: Sequence[Feature], n: int, query: Query, *, seed: int
) -> tuple[Feature, ...]:
    """Return the first `n` of `named`, and random others of `features` where there are fewer.

    The draw depends on the run's seed and the query alone, never on its neighbours.
    """
    chosen = list(named[:n])
    rest = [feature for feature in features if feature not in chosen]
    draw = random.Random(derive_seed(seed, "principles", "fill", query.id))
    return (*chosen, *draw.sample(rest, n - len(chosen)))


def wants_concision(query: Query, rate: float, *, seed: int) -> bool:
    """Whether a query is one of the share `rate` that gets Concision on top."""
    return random.Random(derive_seed(seed, "principles", "concision", query.id)).random() < rate
