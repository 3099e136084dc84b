"""Prompt search against the clock: the recorded searches again, on models that take some time a call.

    python benchmarks/prompt_search_time.py drpo_replay.jsonl [--latency 0.2]

Each tree is searched one call after the other, as the published code makes them; with every chain of calls running,
but no answer asked for ahead (`ahead_from: null`); as the search does it by default; and with all answers of kept
prompts asked for ahead (`ahead_from: 0`). The decisions are the same in each, node for node. "Chain" is the time in
calls, on a clock that stands still while Python computes: what no number of servers can make shorter. "More" are the
calls that were made in vain.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import selectors
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from windvane.engines.protocols import ChatRequest, Reply
from windvane.judging.records import AspectChoice, AspectJudgement
from windvane.prompt_search.contracts import Context, Proposals
from windvane.prompt_search.evaluator import ModelEvaluator, Prompted
from windvane.prompt_search.paper import PaperSettings, paper_search
from windvane.prompt_search.replay import RecordedTree, ReplayProposer, read_trees
from windvane.types import Message, Query, Sampling

WAYS = {
    "nothing ahead": PaperSettings(ahead_from=None),
    "default": PaperSettings(),
    "all ahead": PaperSettings(ahead_from=0),
}


class Clock:
    """What calls cost: each takes `latency` seconds, one after the other or all at once."""

    def __init__(self, latency: float, *, serial: bool) -> None:
        self.latency, self.calls = latency, 0
        self._turn = asyncio.Semaphore(1 if serial else 10**6)

    async def call(self) -> None:
        """Make one call."""
        self.calls += 1
        async with self._turn:
            await asyncio.sleep(self.latency)


class Stub:
    """Model, judge and optimiser of a recorded tree, at the pace of a clock; an answer is the number of its node."""

    name = origin = "stub"

    def __init__(self, tree: RecordedTree, clock: Clock) -> None:
        self._tree, self._clock = tree, clock
        self._number = {(node.system_prompt, node.query): str(node.node) for node in tree.nodes}
        self._proposer = ReplayProposer(tree)
        self._aspects: dict[str, asyncio.Task[None]] = {}

    async def ask(self, request: ChatRequest) -> Reply:
        """Answer as the model. What was never recorded can only have been asked for ahead; nobody reads it."""
        await self._clock.call()
        key = (request.messages[0].content, request.messages[-1].content)
        return Reply(text=self._number.get(key, "in vain"), finish="stop", prompt_tokens=0, completion_tokens=0)

    async def aspects_for(self, query: Query) -> AspectChoice:
        """Choose a query's aspects, once."""
        if query.id not in self._aspects:
            self._aspects[query.id] = asyncio.ensure_future(self._clock.call())
        await asyncio.shield(self._aspects[query.id])
        return AspectChoice(query_id=query.id, aspects=(), origin="chosen")

    async def judge(self, query: Query, response: str) -> AspectJudgement:
        """Mark an answer."""
        await self.aspects_for(query)
        await self._clock.call()
        said = self._tree.nodes[int(response)].judged()
        return AspectJudgement(id=query.id, score=said.score, unscored=said.unscored, aspects=said.aspects)

    async def propose(self, context: Context, n: int) -> Proposals:
        """Rewrite a prompt."""
        await self._clock.call()
        return await self._proposer.propose(context, n)


class Timing(NamedTuple):
    """How long a recorded search took."""

    seconds: float
    calls: int
    same: bool
    """Whether it walked the recorded tree, node for node."""


async def walk(tree: RecordedTree, latency: float, settings: PaperSettings, *, serial: bool = False) -> Timing:
    """Search a recorded tree once more."""
    clock = Clock(latency, serial=serial)
    stub = Stub(tree, clock)
    evaluator = ModelEvaluator(Prompted(stub, Sampling(1)), stub)
    spare = settings.most_queries - len(tree.queries)
    queries = [*tree.queries, *(_spare(number) for number in range(spare))]
    loop = asyncio.get_running_loop()
    began = loop.time()
    result = await paper_search(tree.start, queries, evaluator, stub, settings)
    texts = {candidate.id: candidate.text for candidate in result.candidates}
    walked = [(node.parent, texts[node.candidate], node.query_id) for node in result.nodes]
    recorded = [(node.parent, node.system_prompt, node.query) for node in tree.nodes]
    return Timing(loop.time() - began, clock.calls, walked == recorded)


class _Jump(selectors.SelectSelector):
    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait for nothing: what would take time has taken it."""
        self.now += timeout or 0.0
        return super().select(0 if timeout is not None else None)


class Hurried(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next event: sleeping costs no time, and elapsed time is exact."""

    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)

    def time(self) -> float:
        """Return the seconds that have passed on its own clock."""
        return self._jump.now


def critical_path(tree: RecordedTree, settings: PaperSettings) -> Timing:
    """Return the longest chain of calls of which each has to wait for the one before, a second a call."""
    with asyncio.Runner(loop_factory=Hurried) as runner:
        return runner.run(walk(tree, 1.0, settings))


def clock_table(trees: Sequence[RecordedTree], latency: float) -> Table:
    """Return how long the recorded searches take. All run side by side, each on models of its own."""
    table = Table("tree", "nodes", "calls", "one by one")
    for name in WAYS:
        for column in (name, "chain", "faster", "more"):
            table.add_column(column, justify="right")
    table.title = f"The recorded searches at {latency:g} s a call; the same decisions in each"
    timed = asyncio.run(_timed(trees, latency))
    chains = [[critical_path(tree, way) for way in WAYS.values()] for tree in trees]
    assert all(timing.same for row in (*timed, *chains) for timing in row)
    rows = [(tree.run, len(tree.nodes), *of) for tree, *of in zip(trees, timed, chains, strict=True)]
    rows.append(("all", sum(nodes for _, nodes, *_ in rows), _total(timed), _total(chains)))
    for name, nodes, (slow, *fast), paths in rows:
        cells = [name, str(nodes), str(slow.calls), f"{slow.seconds:.1f} s"]
        for way, path in zip(fast, paths, strict=True):
            cells += [f"{way.seconds:.1f} s", f"{path.seconds:.0f}", f"{slow.seconds / way.seconds:.2f}x"]
            cells.append(str(way.calls - slow.calls))
        table.add_row(*cells)
    return table


async def _timed(trees: Sequence[RecordedTree], latency: float) -> list[list[Timing]]:
    """Return for each tree what it takes one call after the other, and in each of `WAYS`."""

    async def of(tree: RecordedTree) -> list[Timing]:
        slow = walk(tree, latency, WAYS["nothing ahead"], serial=True)
        return await asyncio.gather(slow, *(walk(tree, latency, way) for way in WAYS.values()))

    return await asyncio.gather(*(of(tree) for tree in trees))


def _total(rows: Sequence[Sequence[Timing]]) -> list[Timing]:
    return [Timing(sum(t.seconds for t in way), sum(t.calls for t in way), True) for way in zip(*rows, strict=True)]


def _spare(number: int) -> Query:
    return Query(id=f"spare {number}", messages=(Message(role="user", content="?"),))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trees", type=Path, help="the recorded search trees")
    parser.add_argument("--latency", type=float, default=0.2, help="seconds that a call takes")
    options = parser.parse_args()
    logging.getLogger("windvane").setLevel(logging.ERROR)
    Console(width=None if sys.stdout.isatty() else 160).print(clock_table(read_trees(options.trees), options.latency))


if __name__ == "__main__":
    main()
