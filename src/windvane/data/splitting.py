"""Disjoint sets of queries."""

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

    Queries with the same normalised prompt go to the same set (sizes then count prompts). The place of a query depends
    on its prompt and the seed: the order of `queries` does not matter, and `parts` does not change the held-out set.
    """
    prompts: dict[str, list[Query]] = {}
    for query in queries:
        prompts.setdefault(normalised_prompt(query.messages), []).append(query)
    if parts < 1 or holdout < 0 or len(prompts) < parts + holdout:
        raise DataError(
            f"{len(prompts)} different prompts cannot be split into {parts} parts and {holdout} held-out queries: "
            "give more queries, fewer iterations or a smaller held-out set."
        )
    groups = [prompts[name] for name in sorted(prompts, key=lambda name: (derive_seed(seed, "split", name), name))]
    rest = groups[holdout:]
    return QuerySplit(tuple(_flat(rest[part::parts]) for part in range(parts)), _flat(groups[:holdout]))


def leave_out(queries: Iterable[Query], held_out: Iterable[Query]) -> QuerySet:
    """Return `queries` without those whose normalised prompt is in `held_out`, dropped for the reason ``held_out``."""
    kept = QuerySet([], [])
    prompts = {normalised_prompt(query.messages): query.id for query in held_out}
    for query in queries:
        twin = prompts.get(normalised_prompt(query.messages))
        if twin is None:
            kept.queries.append(query)
        else:
            kept.dropped.append(Dropped(id=query.id, reason="held_out", detail=f"same prompt as {twin}"))
    return kept


def _flat(groups: Iterable[list[Query]]) -> list[Query]:
    return [query for group in groups for query in group]
