"""Disjoint sets of queries."""

import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from windvane.data.queries import QuerySet, normalised_prompt
from windvane.errors import DataError
from windvane.seeds import derive_seed
from windvane.types import Dropped, Query


class QuerySplit(NamedTuple):
    """Sets of queries of which no two share a prompt."""

    parts: tuple[list[Query], ...]
    holdout: list[Query]


def split_queries(queries: Sequence[Query], *, parts: int = 1, holdout: int = 0, seed: int) -> QuerySplit:
    """Set aside `holdout` queries and deal the rest into `parts` sets whose sizes differ by one at most.

    Queries whose prompts are as good as the same (see `spoken_words`) go to the same set; sizes then count prompts. The
    place of a query depends on its prompt and the seed: the order of `queries` does not matter, and `parts` does not
    change the held-out set.
    """
    prompts = _by_words(queries)
    if parts < 1 or holdout < 0 or len(prompts) < parts + holdout:
        raise DataError(
            f"{len(prompts)} different prompts cannot be split into {parts} parts and {holdout} held-out queries: "
            "give more queries, fewer iterations or a smaller held-out set."
        )
    groups = [prompts[name] for name in sorted(prompts, key=lambda name: (derive_seed(seed, "split", name), name))]
    rest = groups[holdout:]
    return QuerySplit(tuple(_flat(rest[part::parts]) for part in range(parts)), _flat(groups[:holdout]))


def leave_out(queries: Iterable[Query], held_out: Iterable[Query]) -> QuerySet:
    """Return `queries` without those that have the `spoken_words` of one in `held_out`: the reason is ``held_out``."""
    kept = QuerySet([], [])
    prompts = {spoken_words(query): query.id for query in held_out}
    for query in queries:
        twin = prompts.get(spoken_words(query))
        if twin is None:
            kept.queries.append(query)
        else:
            kept.dropped.append(Dropped(id=query.id, reason="held_out", detail=f"same prompt as {twin}"))
    return kept


def spoken_words(query: Query) -> str:
    """Return what makes two prompts as good as the same: the words of the turns, with no punctuation and no case.

    The system message is left out: a question that was trained on under one is no new question under another. A prompt
    of signs alone stands for itself.
    """
    turns = [message for message in query.messages if message.role != "system"]
    texts = [unicodedata.normalize("NFKC", message.content).casefold() for message in turns]
    if not any(sign.isalnum() for text in texts for sign in text):
        return normalised_prompt(turns)
    return json.dumps([(turn.role, re.findall(r"\w+", text)) for turn, text in zip(turns, texts, strict=True)])


def _by_words(queries: Iterable[Query]) -> dict[str, list[Query]]:
    """Return the queries of each prompt under its first normalised form."""
    groups: dict[str, list[Query]] = {}
    for query in queries:
        groups.setdefault(spoken_words(query), []).append(query)
    return {min(normalised_prompt(query.messages) for query in group): group for group in groups.values()}


def _flat(groups: Iterable[list[Query]]) -> list[Query]:
    return [query for group in groups for query in group]
