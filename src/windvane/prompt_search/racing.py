"""The default search: races of many new prompts against the incumbent.

In a race every candidate and the incumbent answer the same queries. After the first two, and again after 4, 8 and 16,
the candidates are looked at: whose paired difference is supported becomes the incumbent, who is clearly worse is out,
and of the others a third goes on. So most candidates cost two evaluations, and only those that keep leading cost
sixteen.

How it was chosen, by simulation with the variances of the recorded trees (`benchmarks/prompt_search.py`): a gain of 0.3
points is half the standard deviation of one paired difference, so no single query can show it. With 250 calls it pays
to look at many candidates briefly and at few of them long; a wide first look of two queries found more than a narrow
one of four. Each race draws its queries anew: an incumbent that was lucky on some would be hard to beat on them.

Acceptance asks for little support on purpose. A race is a search; the proof on queries that it never saw is elsewhere.
Simulated with 260 calls, where a quarter of all rewrites are better and a quarter are worse, the final prompt is truly
better in 94 of 100 searches with a support of 0.8, and in 85 with 0.95. The price: where all prompts are equal, most
searches end with another prompt than they began with, one that is as good, and the proof says that it is no gain.
Where better prompts are rare (5 %) and rewrites of one are better, too, the published beam finds one more often: it
looks at three times as many prompts, each on a single query, and judges lineages rather than prompts.
"""

import math
import random
from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple, Self

from pydantic import Field, model_validator

from windvane.config import Settings
from windvane.errors import BudgetSpent, DataError, RunFailed
from windvane.prompt_search.contracts import (
    Context,
    Evaluator,
    Past,
    Progress,
    Proposals,
    Proposer,
    Seen,
    Stop,
    Watch,
    distinct,
    look_away,
)
from windvane.prompt_search.records import (
    Candidate,
    Ended,
    Evaluation,
    Judged,
    Race,
    Rung,
    SearchResult,
    Standing,
)
from windvane.prompt_search.standing import Evidence, Rules, look, paired_difference, pooled_variance
from windvane.prompt_search.together import Answers, carried_out, together
from windvane.seeds import derive_seed
from windvane.types import Query

_ALL_UNSCORED = 8
"""Evaluations without a single score after which a search gives up."""


class RacingSettings(Settings):
    """The default search: races of new prompts against the best so far."""

    races: int = Field(default=8, ge=1)
    """Races at most. The budget usually ends a search before."""
    candidates: int = Field(default=12, ge=1)
    """New prompts in a race. Better prompts are rare, and noise is large: many, each seen briefly."""
    per_request: int = Field(default=4, ge=1)
    """New prompts that one request to the proposer asks for; each request shows it another answer that went badly."""
    first_look: int = Field(default=2, ge=1)
    """Queries of the first minibatch after which losers are stopped already."""
    minibatch: int = Field(default=4, ge=2, le=8)
    """Queries that candidates and incumbent are compared on; twice as many at each further look."""
    most_queries: int = Field(default=16, ge=2)
    """Queries that the last candidates of a race are compared on."""
    survivors: float = Field(default=1 / 3, gt=0, le=1)
    """Share of the candidates that goes on after each look, rounded up."""
    support: float = Field(default=0.8, gt=0.5, lt=1)
    """Confidence (one-sided) that a candidate is better, above which it becomes the incumbent. Low on purpose: a prompt
    that is only as good does no harm, one that is passed over is lost. It is no proof."""
    clear: float = Field(default=0.8, gt=0.5, lt=1)
    """Confidence (one-sided) that a candidate is worse, above which it is out although there is room."""
    least_pairs: int = Field(default=8, ge=2)
    """Queries with two scores, below which nobody becomes the incumbent."""
    patience: int = Field(default=3, ge=1)
    """Races in a row without a new incumbent, after which the search ends."""
    remembered: int = Field(default=5, ge=0)
    """Incumbents, the present one included, that the proposer is shown with their scores."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.first_look <= self.minibatch <= self.most_queries:
            raise ValueError(
                f"first_look {self.first_look}, minibatch {self.minibatch} and most_queries {self.most_queries} must "
                "not decrease in this order"
            )
        if self.least_pairs > self.most_queries:
            raise ValueError(
                f"least_pairs {self.least_pairs} is more than most_queries {self.most_queries}, so no prompt could "
                "ever become the incumbent; lower it"
            )
        return self

    def looks(self, queries: int) -> tuple[int, ...]:
        """Return after how many queries the candidates are looked at, where there are so many."""
        sizes = [self.first_look, self.minibatch]
        while sizes[-1] < self.most_queries:
            sizes.append(min(2 * sizes[-1], self.most_queries))
        return tuple(sorted({min(size, queries) for size in sizes}))

    def staying(self, looks_done: int) -> int:
        """Return how many candidates may go on after the first, second, … look."""
        return max(1, math.ceil(round(self.candidates * self.survivors**looks_done, 6)))

    def most_evaluations(self, queries: int) -> int:
        """Return the evaluations that a search can take, for the bound that is printed before the first call."""
        looks = self.looks(queries)
        race, before, running = looks[-1], 0, self.candidates
        for done, size in enumerate(looks, start=1):
            race += running * (size - before)
            before, running = size, self.staying(done)
        return self.races * race

    @property
    def most_proposals(self) -> int:
        """Prompts that a proposer can be asked for, the replacements of doublets included."""
        return 2 * self.races * self.candidates


async def racing_search(
    start: str,
    queries: Sequence[Query],
    evaluator: Evaluator,
    proposer: Proposer,
    settings: RacingSettings | None = None,
    *,
    seed: int = 0,
    stop_on: Stop = BudgetSpent,
    watch: Watch = look_away,
) -> SearchResult:
    """Search, and return the incumbent of the last race.

    The result depends on the arguments and the replies, never on the order in which they come; asked again with the
    replies of a journal it is the same. An exception of `stop_on` ends it with the incumbent of that moment. Raises
    `DataError` where there are fewer queries than one minibatch or `least_pairs`, or two of the same id; `RunFailed`
    where nothing can be scored.
    """
    settings = settings or RacingSettings()
    needed = max(settings.minibatch, settings.least_pairs)
    if len(queries) < needed:
        raise DataError(
            f"There are {len(queries)} queries to search with, and a comparison needs {needed}. Give more, or lower "
            "minibatch and least_pairs."
        )
    if len({query.id for query in queries}) < len(queries):
        raise DataError("Two queries to search with have the same id; give each an id of its own.")
    crew = _Crew(evaluator, proposer, stop_on, watch)
    return await carried_out(_Search(start, queries, crew, settings, seed), stop_on)


class _Crew(NamedTuple):
    evaluator: Evaluator
    proposer: Proposer
    stop_on: Stop
    watch: Watch


class _Search:
    def __init__(self, start: str, queries: Sequence[Query], crew: _Crew, settings: RacingSettings, seed: int) -> None:
        self.answers = Answers(crew.evaluator)
        self.notes: list[str] = []
        self._queries = queries
        self._crew = crew
        self._settings = settings
        self._seed = seed
        self._start = self._incumbent = Candidate(id="p0", text=start)
        self._candidates = {"p0": self._start}
        self._incumbents = [self._start]
        self._judged: dict[str, dict[str, Judged]] = {"p0": {}}
        self._races: list[Race] = []
        self._carried: list[Candidate] = []
        self._requests = self._asked = 0

    async def run(self) -> Ended:
        """Race until something ends it."""
        without = 0
        for number in range(1, self._settings.races + 1):
            order = list(self._queries)
            random.Random(derive_seed(self._seed, "race", number)).shuffle(order)
            running = await self._line_up(order)
            if not running:
                return "no proposals"
            before = self._incumbent
            await self._race(number, order, running)
            without = without + 1 if self._incumbent is before else 0
            if without == self._settings.patience:
                return "no gain"
        return "finished"

    async def _line_up(self, order: Sequence[Query]) -> list[Candidate]:
        """Return the candidates of a race, while the incumbent answers the first queries."""
        first = order[: self._settings.looks(len(order))[0]]
        if not self._judged[self._incumbent.id]:  # a proposer needs something to go by
            first = order[: self._settings.minibatch]
            await self._judge([self._incumbent], first)
        for query in first:
            self.answers.begin(self._incumbent.text, query)
        carried, self._carried = self._carried, []
        new = await self._propose(self._settings.candidates - len(carried))
        return carried + new

    async def _propose(self, wanted: int) -> list[Candidate]:
        size = self._settings.per_request
        parts = [min(size, wanted - done) for done in range(0, wanted, size)]
        known = frozenset(candidate.text for candidate in self._candidates.values())
        found = await together(
            [self._request(part, known, turn) for turn, part in enumerate(parts)], self._crew.stop_on
        )
        texts = distinct([text for one in found for text in one.prompts], known)[:wanted]
        if texts and len(texts) < wanted:  # requests that knew nothing of each other may propose the same
            found.append(await self._request(wanted - len(texts), known | frozenset(texts), len(parts)))
            texts = distinct([*texts, *found[-1].prompts], known)[:wanted]
        self._asked += sum(one.asked for one in found)
        if len(texts) < wanted:
            why = next((one.shortfall for one in reversed(found) if one.shortfall), "the others were proposed before")
            self.notes.append(f"Race {len(self._races) + 1} has {len(texts)} of {wanted} new prompts: {why}")
        return [self._register(text) for text in texts]

    async def _request(self, n: int, taken: frozenset[str], turn: int) -> Proposals:
        self._requests += 1
        context = Context(
            prompt=self._incumbent.text,
            seen=self._seen(turn),
            past=self._past(),
            taken=taken,
            sample=self._requests,
        )
        return await self._crew.proposer.propose(context, n)

    def _seen(self, turn: int) -> tuple[Seen, ...]:
        """Return one of the incumbent's answers: the worst for the first request, the next for the next."""
        judged = self._judged[self._incumbent.id]
        scored = [(query, judged[query.id]) for query in self._queries if query.id in judged]
        worst = sorted(
            (Seen(query, one) for query, one in scored if one.value is not None), key=lambda s: s.judged.value or 0
        )
        return (worst[turn % len(worst)],) if worst else ()

    def _past(self) -> tuple[Past, ...]:
        last = self._incumbents[-self._settings.remembered :] if self._settings.remembered else []
        return tuple(Past(candidate.text, self._score(candidate)) for candidate in last)

    def _register(self, text: str) -> Candidate:
        name = f"p{len(self._candidates)}"
        candidate = Candidate(id=name, text=text, parent=self._incumbent.id, origin=self._crew.proposer.origin)
        self._candidates[name] = candidate
        self._judged[name] = {}
        return candidate

    async def _race(self, number: int, order: Sequence[Query], running: list[Candidate]) -> None:
        rungs: list[Rung] = []
        started, incumbent, accepted = list(running), self._incumbent, None
        looks = self._settings.looks(len(order))
        try:
            for place, size in enumerate(looks, start=1):
                await self._judge([incumbent, *running], order[:size])
                standings = self._look(running, started, place, last=size == looks[-1])
                rungs.append(Rung(query_ids=tuple(query.id for query in order[:size]), standings=tuple(standings)))
                accepted = next((one.candidate for one in standings if one.verdict == "accepted"), None)
                if accepted is not None:
                    self._incumbent = self._candidates[accepted]
                    self._incumbents.append(self._incumbent)
                staying = {one.candidate for one in standings if one.verdict == "stays"}
                running = [candidate for candidate in running if candidate.id in staying]
                done = accepted is not None or not running
                self._report(number, standings, running, done=done)
                if done:
                    break
        finally:
            self._races.append(Race(number=number, incumbent=incumbent.id, rungs=tuple(rungs), accepted=accepted))
        self._carried = self._challengers()[:1]
        if all(one.difference == 0 for rung in rungs for one in rung.standings):
            self.notes.append(
                f"In race {number} no answer was scored differently from the incumbent's; a judge that tells no "
                "answers apart cannot lead a search."
            )

    async def _judge(self, candidates: Sequence[Candidate], queries: Sequence[Query]) -> None:
        """Have all candidates judged on all queries; each pair of them is a chain of calls of its own."""
        wanted = [(one, query) for query in queries for one in candidates if query.id not in self._judged[one.id]]
        judged = await together([self.answers.get(one.text, query) for one, query in wanted], self._crew.stop_on)
        for (one, query), answer in zip(wanted, judged, strict=True):
            self._judged[one.id][query.id] = answer
        everything = [answer for answers in self._judged.values() for answer in answers.values()]
        if len(everything) >= _ALL_UNSCORED and all(answer.value is None for answer in everything):
            raise RunFailed(
                f"None of the first {len(everything)} answers has a score. The first: {everything[0].unscored}. "
                "Look at the judge's replies, take another judge, or ask it for less (in another output_dir)."
            )

    def _look(
        self, running: Sequence[Candidate], started: Sequence[Candidate], done: int, *, last: bool
    ) -> list[Standing]:
        settings = self._settings
        rules = Rules(settings.support, settings.clear, settings.least_pairs, settings.staying(done), last)
        variance = pooled_variance([self._evidence(candidate).differences for candidate in started])
        return look([self._evidence(candidate) for candidate in running], rules, variance)

    def _evidence(self, candidate: Candidate) -> Evidence:
        """Return the paired differences on all queries that both have answered, those of earlier races included."""
        theirs, ours = self._judged[candidate.id], self._judged[self._incumbent.id]
        shared = [query.id for query in self._queries if query.id in theirs and query.id in ours]
        differences = [paired_difference(theirs[name], ours[name]) for name in shared]
        known = [difference for difference in differences if difference is not None]
        return Evidence(candidate.id, known, len(differences) - len(known))

    def _challengers(self) -> list[Candidate]:
        """Return who has yet to be beaten: enough pairs and a positive difference, but no support; best first."""
        settled = {candidate.id for candidate in self._incumbents}
        evidence = [self._evidence(one) for name, one in self._candidates.items() if name not in settled]
        known = [one for one in evidence if len(one.differences) >= self._settings.least_pairs]
        better = [(fmean(one.differences), one.candidate) for one in known if fmean(one.differences) > 0]
        return [self._candidates[name] for _, name in sorted(better, key=lambda one: -one[0])]

    def _score(self, candidate: Candidate) -> float | None:
        scores = self._scores(candidate)
        return fmean(scores) if scores else None

    def _scores(self, candidate: Candidate) -> tuple[float, ...]:
        return tuple(one.value for one in self._judged[candidate.id].values() if one.value is not None)

    def _report(self, number: int, standings: Sequence[Standing], running: Sequence[Candidate], *, done: bool) -> None:
        leaders = [one for one in standings if one.difference is not None and one.low is not None]
        first = max(leaders, key=lambda one: one.difference or 0, default=None)
        interval = None
        if first is not None and first.low is not None and first.high is not None and first.difference is not None:
            interval = (first.low, first.difference, first.high)
        scores = self._scores(self._incumbent)
        self._crew.watch(
            Progress(number, self._settings.races, tuple(running), self._incumbent, scores, interval, done)
        )

    def result(self, ended: Ended) -> SearchResult:
        """Return what was found."""
        changed = [self._incumbent] if self._incumbent is not self._start else []
        places = {query.id: place for place, query in enumerate(self._queries)}
        evaluations = [
            Evaluation(candidate=name, query_id=query_id, judged=judged[query_id])
            for name, judged in self._judged.items()
            for query_id in sorted(judged, key=places.__getitem__)
        ]
        unscored = [one.judged.unscored for one in evaluations if one.judged.value is None]
        if unscored:
            self.notes.append(f"{len(unscored)} of {len(evaluations)} answers have no score. The first: {unscored[0]}.")
        return SearchResult(
            start=self._start,
            found=self._incumbent,
            finalists=(*changed, *(one for one in self._challengers() if one not in changed)),
            candidates=tuple(self._candidates.values()),
            evaluations=tuple(evaluations),
            ended=ended,
            races=tuple(self._races),
            unscored=len(unscored),
            proposals=self._asked,
            notes=tuple(self.notes),
        )
