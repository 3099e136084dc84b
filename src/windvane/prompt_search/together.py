"""Many calls at once, and each question asked once."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from windvane.prompt_search.contracts import Evaluator, Stop
from windvane.prompt_search.records import Ended, Judged, SearchResult
from windvane.types import Query

T = TypeVar("T")


class _Stopped(NamedTuple):
    error: BaseException


async def together(work: Sequence[Coroutine[Any, Any, T]], stop_on: Stop) -> list[T]:
    """Run all at once and return their results in order, whatever the order in which they come.

    A failure cancels the rest and is raised. One of `stop_on` lets the rest finish first: what is under way has been
    paid for, and a journal keeps it.
    """
    tasks = [asyncio.ensure_future(_spared(one, stop_on)) for one in work]
    try:
        outcomes = await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
    results: list[T] = []
    for outcome in outcomes:
        if isinstance(outcome, _Stopped):
            raise outcome.error
        results.append(outcome)
    return results


async def _spared(work: Coroutine[Any, Any, T], stop_on: Stop) -> T | _Stopped:
    try:
        return await work
    except stop_on as error:
        return _Stopped(error)


class Search(Protocol):
    """A search, as `carried_out` sees it."""

    @property
    def answers(self) -> "Answers":
        """Its evaluations."""

    @property
    def notes(self) -> list[str]:
        """What a reader should know."""

    async def run(self) -> Ended:
        """Search until something ends it, and say what."""

    def result(self, ended: Ended) -> SearchResult:
        """Return what was found so far."""


async def carried_out(search: Search, stop_on: Stop) -> SearchResult:
    """Run a search to its end, or until an exception of `stop_on` ends it, and return what it found."""
    try:
        ended = await search.run()
    except stop_on as stop:
        ended = "budget"
        search.notes.append(f"The search was stopped: {stop}")
    finally:
        await search.answers.close()
    return search.result(ended)


class Answers:
    """The evaluations of one search: begun when first wanted, shared by all who want them."""

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator
        self._tasks: dict[tuple[str, str], asyncio.Task[Judged]] = {}
        self._prepared: dict[str, asyncio.Task[None]] = {}
        self._anticipated: dict[tuple[str, str], asyncio.Task[None]] = {}

    def begin(self, prompt: str, query: Query) -> asyncio.Task[Judged]:
        """Start an evaluation, or return the one that was started before."""
        key = (prompt, query.id)
        if key not in self._tasks:
            self._tasks[key] = asyncio.ensure_future(self._ask(prompt, query))
        return self._tasks[key]

    def prepare(self, query: Query) -> None:
        """Have ready what all evaluations on a query share; a failure shows when the query is evaluated."""
        if query.id not in self._prepared:
            self._prepared[query.id] = asyncio.ensure_future(self._prepare(query))

    def anticipate(self, prompt: str, query: Query) -> None:
        """Begin an evaluation with the model's answer, and go no further; a failure shows when it is wanted."""
        key = (prompt, query.id)
        if key not in self._tasks and key not in self._anticipated:
            self._anticipated[key] = asyncio.ensure_future(self._anticipate(prompt, query))

    async def get(self, prompt: str, query: Query) -> Judged:
        """Return an evaluation."""
        return await asyncio.shield(self.begin(prompt, query))

    async def close(self) -> None:
        """Cancel what nobody waits for any more."""
        tasks = [*self._tasks.values(), *self._prepared.values(), *self._anticipated.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, prompt: str, query: Query) -> Judged:
        return await self._evaluator.evaluate(prompt, query)

    async def _prepare(self, query: Query) -> None:
        await self._evaluator.prepare(query)

    async def _anticipate(self, prompt: str, query: Query) -> None:
        await self._evaluator.anticipate(prompt, query)
