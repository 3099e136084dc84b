"""The proof: found prompts against the start prompt, on queries that the search never saw."""

import asyncio
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Literal

from pydantic import Field

from windvane.config import Settings
from windvane.errors import BudgetSpent, DataError
from windvane.prompt_search.contracts import Evaluator, Stop
from windvane.prompt_search.paired import fewest_values, paired_interval
from windvane.prompt_search.records import Candidate, Judged
from windvane.prompt_search.standing import aspect_differences, paired_difference
from windvane.prompt_search.together import Answers
from windvane.seeds import derive_seed
from windvane.types import Query, Record

CONFIDENCE = 0.95


class ProofSettings(Settings):
    """How the found prompts are held against the start prompt."""

    finalists: int = Field(default=1, ge=1, le=20)
    """Prompts that meet the start prompt, the best of the search first. Each further one widens all intervals."""

    @property
    def fewest_queries(self) -> int:
        """Queries with which a proof of so many prompts can say anything."""
        return fewest_values(_confidence(self.finalists))


class AspectProof(Record):
    """One aspect, over the queries on which both sides have a score for it."""

    aspect: str
    n: int
    difference: float
    """Mean of found minus start."""
    wins: int
    ties: int
    losses: int


class QueryProof(Record):
    """One held-out query."""

    query_id: str
    start: Judged | None
    """None where it was never asked, because the budget was spent."""
    found: Judged | None
    difference: float | None
    unscored: str | None = None
    """Why there is no difference."""


class Comparison(Record):
    """One found prompt against the start prompt."""

    candidate: str
    n: int
    """Queries with a score on both sides; all numbers but `unscored` are over these."""
    start_mean: float | None
    found_mean: float | None
    difference: float | None
    """Mean paired difference, found minus start."""
    interval: tuple[float, float] | None
    """Of the difference; None where there are too few pairs."""
    confidence: float
    """Of this interval. With several finalists it is so high that all intervals together hold with 95 %."""
    wins: int
    ties: int
    losses: int
    unscored: int
    """Queries without a difference."""
    aspects: tuple[AspectProof, ...]
    queries: tuple[QueryProof, ...]

    @property
    def gain(self) -> bool:
        """Whether a gain is supported: the interval lies above 0."""
        return self.interval is not None and self.interval[0] > 0

    @property
    def loss(self) -> bool:
        """Whether a loss is supported: the interval lies below 0."""
        return self.interval is not None and self.interval[1] < 0


class Proof(Record):
    """What the held-out queries say."""

    verdict: Literal["gain", "no gain", "loss", "nothing to prove"]
    """no gain: neither a gain nor a loss is supported."""
    statement: str
    """The same in a sentence."""
    best: Comparison | None
    """Of the finalist to take: the one with the highest lower bound. None where there was no finalist."""
    comparisons: tuple[Comparison, ...]
    stopped: str | None = None
    """What ended it early; the queries that were asked until then are what counts."""


async def prove(
    start: Candidate,
    finalists: Sequence[Candidate],
    queries: Sequence[Query],
    evaluator: Evaluator,
    *,
    searched: Sequence[Query],
    seed: int = 0,
    stop_on: Stop = BudgetSpent,
) -> Proof:
    """Answer every query under the start prompt and each finalist, and compare.

    With k finalists each interval has a confidence of 1 - 5 %/k (Bonferroni), so that the best of them may be taken
    without a further correction. Raises `DataError` where a query was among those searched with, by id or by text.
    An exception of `stop_on` ends it with the pairs that are complete.
    """
    _check_unseen(queries, searched)
    if not finalists:
        statement = "No gain: the search found no prompt to set against the start prompt."
        return Proof(verdict="nothing to prove", statement=statement, best=None, comparisons=())
    answers = Answers(evaluator)
    try:
        stopped = await _ask(answers, [start, *finalists], queries, stop_on)
        judged = {candidate.id: await _known(answers, candidate, queries, stop_on) for candidate in (start, *finalists)}
    finally:
        await answers.close()
    confidence = _confidence(len(finalists))
    comparisons = tuple(
        compare(candidate.id, judged[start.id], judged[candidate.id], queries, confidence=confidence, seed=seed)
        for candidate in finalists
    )
    best = max(comparisons, key=_lower_bound)
    verdict, statement = _said(best, len(comparisons), stopped)
    return Proof(verdict=verdict, statement=statement, best=best, comparisons=comparisons, stopped=stopped)


def compare(
    candidate: str,
    start: Mapping[str, Judged],
    found: Mapping[str, Judged],
    queries: Sequence[Query],
    *,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Comparison:
    """Return the comparison of two prompts whose answers are known, by query id."""
    rows = tuple(_row(query.id, start.get(query.id), found.get(query.id)) for query in queries)
    pairs = [row for row in rows if row.difference is not None]
    differences = [row.difference for row in pairs if row.difference is not None]
    starts = [row.start.value for row in pairs if row.start is not None and row.start.value is not None]
    founds = [row.found.value for row in pairs if row.found is not None and row.found.value is not None]
    return Comparison(
        candidate=candidate,
        n=len(differences),
        start_mean=fmean(starts) if starts else None,
        found_mean=fmean(founds) if founds else None,
        difference=fmean(differences) if differences else None,
        interval=paired_interval(differences, confidence=confidence, seed=derive_seed(seed, "proof", candidate)),
        confidence=confidence,
        wins=sum(difference > 0 for difference in differences),
        ties=sum(difference == 0 for difference in differences),
        losses=sum(difference < 0 for difference in differences),
        unscored=len(rows) - len(differences),
        aspects=_by_aspect(pairs),
        queries=rows,
    )


def _confidence(finalists: int) -> float:
    """Return the confidence of each interval with which all of them hold with `CONFIDENCE` (Bonferroni)."""
    return 1 - (1 - CONFIDENCE) / finalists


def _row(query_id: str, start: Judged | None, found: Judged | None) -> QueryProof:
    difference = None if start is None or found is None else paired_difference(found, start)
    why = None
    if difference is None:
        reasons = [
            f"{side}: {'not asked' if judged is None else judged.unscored or 'no score'}"
            for side, judged in (("start", start), ("found", found))
            if judged is None or judged.value is None
        ]
        why = "; ".join(reasons)
    return QueryProof(query_id=query_id, start=start, found=found, difference=difference, unscored=why)


def _by_aspect(rows: Sequence[QueryProof]) -> tuple[AspectProof, ...]:
    """Return the aspects, the one that was scored most often first, then by name."""
    found: dict[str, list[float]] = {}
    for row in rows:
        if row.start is not None and row.found is not None:
            for aspect, difference in aspect_differences(row.found, row.start).items():
                found.setdefault(aspect, []).append(difference)
    return tuple(
        AspectProof(
            aspect=aspect,
            n=len(values),
            difference=fmean(values),
            wins=sum(value > 0 for value in values),
            ties=sum(value == 0 for value in values),
            losses=sum(value < 0 for value in values),
        )
        for aspect, values in sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))
    )


async def _ask(
    answers: Answers, candidates: Sequence[Candidate], queries: Sequence[Query], stop_on: Stop
) -> str | None:
    """Ask everything at once, query by query; return what stopped it, after all that is under way has come in."""
    tasks = [answers.begin(candidate.text, query) for query in queries for candidate in candidates]
    stopped: str | None = None
    for task in tasks:
        try:
            await asyncio.shield(task)
        except stop_on as stop:
            stopped = stopped or str(stop)
    return stopped


async def _known(answers: Answers, candidate: Candidate, queries: Sequence[Query], stop_on: Stop) -> dict[str, Judged]:
    known = {}
    for query in queries:
        try:
            known[query.id] = await answers.get(candidate.text, query)
        except stop_on:
            continue
    return known


def _check_unseen(queries: Sequence[Query], searched: Sequence[Query]) -> None:
    if not queries:
        raise DataError("There is no query to prove a gain on; set some aside that the search does not see.")
    ids = {query.id for query in searched}
    texts = {query.messages for query in searched}
    seen = [query.id for query in queries if query.id in ids or query.messages in texts]
    if seen:
        raise DataError(
            f"{len(seen)} of the {len(queries)} queries of the proof were searched with, the first {seen[0]!r}; a "
            "gain on them would prove nothing. Split the queries so that none is on both sides."
        )
    twice = len(queries) - len({query.id for query in queries})
    if twice:
        raise DataError(f"{twice} queries of the proof share an id with another one; give each an id of its own.")


def _lower_bound(comparison: Comparison) -> tuple[float, float]:
    low = comparison.interval[0] if comparison.interval is not None else float("-inf")
    return low, comparison.difference if comparison.difference is not None else float("-inf")


def _said(best: Comparison, finalists: int, stopped: str | None) -> tuple[Literal["gain", "no gain", "loss"], str]:
    """Return the verdict, and the sentence that says it."""
    early = f" It was stopped early: {stopped}" if stopped else ""
    if best.difference is None or best.interval is None:
        said = f"No gain is supported: only {best.n} held-out queries have a score on both sides."
        return "no gain", said + early
    low, high = map(_signed, best.interval)
    numbers = f"{_signed(best.difference)} points, 95 % interval {low} to {high}"
    numbers += f", on {best.n} held-out queries ({best.wins} won, {best.ties} tied, {best.losses} lost"
    numbers += f", {best.unscored} unscored)" if best.unscored else ")"
    if finalists > 1:
        numbers += f"; the interval allows for the choice among {finalists}"
    if best.gain:
        return "gain", f"A gain: {numbers}.{early}"
    if best.loss:
        return "loss", f"A loss: {numbers}. Keep the start prompt.{early}"
    return "no gain", f"No gain is supported: {numbers}.{early}"


def _signed(value: float) -> str:
    """Return a number with its sign, the minus a true one as in the tables."""
    return f"{value:+.2f}".replace("-", "−")
