"""Prompt search with a known truth.

    python benchmarks/prompt_search.py --trees drpo_replay.jsonl

(a) All prompts are equal: how often does the proof claim a gain? And how honest is its interval?
(b) Some prompts are truly 0.3 points better: calls until one is found, and how often the final prompt is one, for the
    default search and for `compat: paper`, with the same number of calls.

The noise is that of the recorded trees: where two prompts met on one query, the variance of their difference is 0.32
and half of all differences are 0. Over the queries that the same two prompts met on, their differences do not
correlate, so it is noise. The first table has the simulated numbers beside the recorded ones. How long a search takes
is in `prompt_search_time.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import math
import random
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from windvane.errors import BudgetSpent
from windvane.judging.records import AspectScore
from windvane.prompt_search.contracts import Context, Progress, Proposals, Watch
from windvane.prompt_search.paired import paired_interval
from windvane.prompt_search.paper import paper_search
from windvane.prompt_search.proof import prove
from windvane.prompt_search.racing import racing_search
from windvane.prompt_search.records import Judged, SearchResult
from windvane.prompt_search.replay import RecordedTree, read_trees
from windvane.seeds import derive_seed
from windvane.types import Message, Query

ASPECTS = 4
LEVEL, SPREAD = 4.65, 1.6
"""Mean and standard deviation, over queries, of what a query lets an answer reach, before it is held within 1 and 5."""
TASTE, LUCK, SLIP = 0.3, 0.55, 0.3
"""Standard deviations: of an aspect of a query, of one answer, and of one mark. Marks are rounded."""
GAIN = 0.3
"""Points by which a better prompt is better in the mean over queries."""
CALLS = 260
"""Calls that either search may make: about what the published one takes to its end."""
HELD_OUT = 60


def query(number: int) -> Query:
    """Return a query."""
    return Query(id=f"q{number}", messages=(Message(role="user", content=f"Query {number}"),))


def marks(rng: random.Random, reach: Sequence[float], quality: float) -> list[float]:
    """Return the marks of one answer of this quality to a query that lets it reach `reach`."""
    luck = rng.gauss(0, LUCK)
    return [min(5.0, max(1.0, float(round(one + quality + luck + rng.gauss(0, SLIP))))) for one in reach]


def reach(rng: random.Random) -> list[float]:
    """Return what a random query lets an answer reach on each aspect."""
    level = rng.gauss(LEVEL, SPREAD)
    return [level + rng.gauss(0, TASTE) for _ in range(ASPECTS)]


@cache
def step() -> float:
    """Return the quality that is worth `GAIN` points, found by bisection over 4000 queries."""

    def points(quality: float) -> float:
        rng = random.Random(1)
        rows = [reach(rng) for _ in range(4000)]
        return statistics.fmean(mark for row in rows for mark in marks(rng, row, quality))

    low, high, base = 0.0, 2.0, points(0.0)
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (middle, high) if points(middle) - base < GAIN else (low, middle)
    return low


class World:
    """Queries, prompts of known quality, a judge and an optimiser, all random by the seed; it counts calls.

    A rewrite is a step better than its parent with probability `up`, a step worse with `down`, and else as good; with
    `inherit` off, better or worse than the start prompt whatever its parent was. Nothing is more than one step better,
    or two steps worse, than the start prompt. Calls are counted as they would be paid for: two an evaluation (answer,
    marks), one a query (its aspects), one a request for rewrites.
    """

    origin = "world"

    def __init__(self, seed: int, *, up: float, down: float, inherit: bool = True, missing: float = 0.0) -> None:
        self.seed, self.up, self.down, self.inherit, self.missing = seed, up, down, inherit, missing
        self.steps: dict[str, int] = {"start": 0}
        self.calls = 0
        self.room = math.inf
        self._reach: dict[str, list[float]] = {}

    def _pay(self, calls: int) -> None:
        if self.calls + calls > self.room:
            raise BudgetSpent(f"{self.calls} calls are made")
        self.calls += calls

    async def prepare(self, query: Query) -> None:
        """Choose a query's aspects."""
        if query.id not in self._reach:
            self._pay(1)
            self._reach[query.id] = reach(random.Random(derive_seed(self.seed, "query", query.id)))

    async def anticipate(self, system_prompt: str, query: Query) -> None:
        """Answer nothing ahead: calls are what counts here."""

    async def evaluate(self, system_prompt: str, query: Query) -> Judged:
        """Answer and mark."""
        await self.prepare(query)
        self._pay(2)
        rng = random.Random(derive_seed(self.seed, system_prompt, query.id))
        if rng.random() < self.missing:
            return Judged(output="", score=None, unscored="unreadable")
        found = marks(rng, self._reach[query.id], step() * self.steps[system_prompt])
        aspects = tuple(AspectScore(aspect=f"a{number}", score=mark) for number, mark in enumerate(found))
        return Judged(output="", score=statistics.fmean(found), aspects=aspects)

    async def propose(self, context: Context, n: int) -> Proposals:
        """Rewrite."""
        self._pay(1)
        return Proposals([self._rewrite(context, number) for number in range(n)])

    def _rewrite(self, context: Context, number: int) -> str:
        rng = random.Random(derive_seed(self.seed, context.prompt, context.sample, number))
        base = self.steps[context.prompt] if self.inherit else 0
        drawn = rng.random()
        change = 1 if drawn < self.up else -1 if drawn < self.up + self.down else 0
        text = f"prompt {rng.getrandbits(48):x}"
        self.steps[text] = max(-2, min(1, base + change))
        return text

    def better(self, text: str) -> bool:
        """Whether a prompt is truly better than the start prompt."""
        return self.steps[text] > 0


Search = Callable[[World, Watch], Awaitable[SearchResult]]


async def default(world: World, watch: Watch) -> SearchResult:
    """Search by races, on 100 queries."""
    return await racing_search("start", [query(n) for n in range(100)], world, world, seed=world.seed, watch=watch)


async def published(world: World, watch: Watch) -> SearchResult:
    """Search as the paper does, on 30 queries."""
    return await paper_search("start", [query(n) for n in range(30)], world, world, watch=watch)


class Outcome(NamedTuple):
    """One simulated search."""

    better: bool
    """Whether its final prompt is truly better than the start prompt."""
    worse: bool
    found: float
    """Calls after which the best prompt was truly better and stayed so; infinite where it is not."""
    calls: int
    changed: bool
    """Whether the final prompt is another one than the start prompt."""
    claimed: bool
    """Whether the proof claims a gain."""


async def simulate(world: World, search: Search, *, room: float = CALLS, proof: bool = False) -> Outcome:
    """Search, and prove what was found on fresh queries."""
    world.room, found = room, math.inf

    def watch(progress: Progress) -> None:
        nonlocal found
        found = min(found, world.calls) if world.better(progress.best.text) else math.inf

    result = await search(world, watch)
    calls, world.room = world.calls, math.inf
    claimed = False
    if proof:
        held_out = [query(1000 + number) for number in range(HELD_OUT)]
        said = await prove(result.start, result.finalists[:1], held_out, world, searched=(), seed=world.seed)
        claimed = said.verdict == "gain"
    better, changed = world.better(result.found.text), result.found.id != result.start.id
    worse = world.steps[result.found.text] < 0
    return Outcome(better, worse, found if better else math.inf, calls, changed, claimed)


def simulations(runs: int, search: Search, *, proof: bool = False, **world: float | bool) -> list[Outcome]:
    """Simulate searches, one a seed."""
    worlds = [World(seed, **world) for seed in range(runs)]  # type: ignore[arg-type]
    return [asyncio.run(simulate(one, search, proof=proof)) for one in worlds]


def share(hits: Sequence[bool]) -> float:
    """Return the share of True."""
    return sum(hits) / len(hits)


def noise_table(trees: Sequence[RecordedTree]) -> Table:
    """Return the recorded noise beside the simulated."""
    table = Table("", "mean score", "variance between queries", "variance of a difference", "equal", title="Noise")
    recorded = [
        [score for node in tree.nodes if node.level == level and (score := node.judged().value) is not None]
        for tree in trees
        for level in range(1, tree.nodes[-1].level + 1)
    ]
    rng = random.Random(0)
    drawn = [reach(rng) for _ in range(3000)]
    simulated = [[statistics.fmean(marks(rng, row, 0.0)) for _ in range(3)] for row in drawn]
    for name, groups in (("recorded", [group for group in recorded if group]), ("simulated", simulated)):
        if groups:
            pairs = [one - other for group in groups for one, other in combinations(group, 2)]
            table.add_row(
                name,
                f"{statistics.fmean(score for group in groups for score in group):.2f}",
                f"{statistics.variance([statistics.fmean(group) for group in groups]):.2f}",
                f"{statistics.fmean(pair**2 for pair in pairs):.2f}",
                f"{share([pair == 0 for pair in pairs]):.0%}",
            )
    return table


def student(values: Sequence[float]) -> tuple[float, float]:
    """Return Student's t interval; the quantile is Hill's expansion of the normal one, good to 1 % from n = 10 on."""
    z, f = statistics.NormalDist().inv_cdf(0.975), len(values) - 1
    t = z + (z**3 + z) / (4 * f) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * f**2)
    mean, error = statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values))
    return mean - t * error, mean + t * error


def percentile(values: Sequence[float], rng: random.Random) -> tuple[float, float]:
    """Return the percentile bootstrap interval of 400 resamples."""
    means = sorted(statistics.fmean(rng.choices(values, k=len(values))) for _ in range(400))
    return means[10], means[-11]


def coverage_table(draws: int) -> Table:
    """Return how often intervals of 95 % cover the truth, and how often they claim a gain."""
    table = Table("true gain", "queries", "ours covers", "claims", "t covers", "claims", "bootstrap covers", "claims")
    table.title = f"Intervals of the mean paired difference, {draws} draws each"
    rng = random.Random(2)
    for gain in (0.0, GAIN):
        quality = step() if gain else 0.0
        for n in (20, 50, 100):
            hits: list[list[bool]] = [[], [], [], [], [], []]
            for draw in range(draws):
                rows = [reach(rng) for _ in range(n)]
                pairs = [statistics.fmean(marks(rng, r, quality)) - statistics.fmean(marks(rng, r, 0)) for r in rows]
                ours = paired_interval(pairs, confidence=0.95, seed=draw) or (-math.inf, math.inf)
                for place, (low, high) in enumerate((ours, student(pairs), percentile(pairs, rng))):
                    hits[2 * place].append(low <= gain <= high)
                    hits[2 * place + 1].append(low > 0)
            table.add_row(f"{gain:g}", str(n), *(f"{share(hit):.1%}" for hit in hits))
    return table


def equal_table(runs: int) -> Table:
    """Return how often a gain is claimed where there is none."""
    table = Table("search", "searches", "prompt was changed for nothing", "proof claims a gain")
    table.title = "(a) All prompts are equal"
    for name, search in (("default", default), ("compat: paper", published)):
        outcomes = simulations(runs, search, proof=True, up=0.0, down=0.0)
        changed, claimed = share([one.changed for one in outcomes]), share([one.claimed for one in outcomes])
        table.add_row(name, str(runs), f"{changed:.0%}", f"{claimed:.1%}")
    return table


def gain_table(runs: int) -> Table:
    """Return what both searches find where some prompts are better."""
    table = Table(
        "rewrites are better / worse", "of what", "search", "calls", "found after (median)", "within 150 calls"
    )
    table.add_column("final prompt truly better")
    table.add_column("truly worse")
    table.title = f"(b) A true gain of {GAIN} points, {runs} searches each, {CALLS} calls at most"
    for up, inherit in ((0.25, True), (0.15, True), (0.05, True), (0.25, False), (0.15, False), (0.05, False)):
        for name, search in (("default", default), ("compat: paper", published)):
            outcomes = simulations(runs, search, up=up, down=up, inherit=inherit)
            median = statistics.median(one.found for one in outcomes)
            table.add_row(
                f"{up:.0%} / {up:.0%}",
                "their parent" if inherit else "the start prompt",
                name,
                f"{statistics.fmean(one.calls for one in outcomes):.0f}",
                f"{median:.0f}" if math.isfinite(median) else "never",
                f"{share([one.found <= 150 for one in outcomes]):.0%}",
                f"{share([one.better for one in outcomes]):.0%}",
                f"{share([one.worse for one in outcomes]):.0%}",
            )
        table.add_section()
    return table


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trees", type=Path, default=None, help="the recorded search trees, drpo_replay.jsonl")
    parser.add_argument("--runs", type=int, default=200, help="simulated searches for each line of a table")
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 150)
    logging.getLogger("windvane").setLevel(logging.ERROR)
    trees = read_trees(options.trees) if options.trees else []
    began = time.process_time()
    console.print(noise_table(trees))
    console.print(coverage_table(options.runs))
    console.print(equal_table(options.runs))
    console.print(gain_table(options.runs))
    console.print(f"{time.process_time() - began:.0f} s of CPU time")


if __name__ == "__main__":
    main()
