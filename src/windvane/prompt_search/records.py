"""What a prompt search writes down: candidates, evaluations, the nodes and levels of a beam, races, and the result."""

from typing import Literal

from windvane.judging.records import AspectScore
from windvane.types import Record

Ended = Literal["finished", "budget", "no proposals", "no gain"]
"""Why a search ended: all its levels or races were run; there was no room in the budget; nobody proposed anything new;
several races in a row had no winner."""


class Candidate(Record):
    """A system prompt, and where it comes from."""

    id: str
    """``p0`` is the start prompt; the others are numbered in the order in which they were proposed."""
    text: str
    parent: str | None = None
    """The candidate that it was made from."""
    origin: str = "start"
    """Who wrote it: ``start`` is the user, any other word the proposer's own name for itself."""


class Judged(Record):
    """One answer under one system prompt, and what a judge said about it. A failure is not a zero."""

    output: str
    score: float | None
    """Mean over the aspects that have a score; None where there is none."""
    unscored: str | None = None
    """Why there is no score."""
    aspects: tuple[AspectScore, ...] = ()
    finish: str = "stop"
    """``length``: the answer was cut off by the token limit, and judged as it is."""

    @property
    def value(self) -> float | None:
        """The score, or None for one that stands in for a missing one, as the published algorithm's 0 does."""
        return self.score if self.unscored is None else None


class Evaluation(Record):
    """The answer of one candidate to one query."""

    candidate: str
    query_id: str
    judged: Judged


class Node(Record):
    """A place in the tree of the published beam: one prompt, judged on the query of its level."""

    id: int
    """Numbered in the order of creation; the root is 0."""
    parent: int | None
    level: int
    """The root's is 1."""
    candidate: str
    query_id: str
    judged: Judged
    reward: float
    """The score; 0 where there is none, as the published algorithm has it, and 0 for the root."""
    path_mean: float | None
    """Mean reward of the nodes from the root to this one, the root left out; None for the root."""


class Level(Record):
    """One level of the published beam."""

    number: int
    nodes: tuple[int, ...]
    """In the order of creation, which is the order that ties keep."""
    beam: tuple[int, ...]
    """The nodes that go on, best path mean first."""
    kept: tuple[int, ...] = ()
    """Those of the beam whose prompt went on as it was; the others were rewritten. Empty for the last level."""


Verdict = Literal["stays", "accepted", "loses", "behind", "open", "unscored"]
"""loses: clearly worse than the incumbent. behind: others did better, and only some stay. open: in the race to its end,
without a difference that is supported. unscored: there is no pair to go by."""


class Standing(Record):
    """How a candidate stands against the incumbent, on the queries that both have answered."""

    candidate: str
    pairs: int
    """Queries on which both have a score."""
    unscored: int
    """Queries on which one of them has none; they are in no other number here."""
    difference: float | None
    """Mean of candidate minus incumbent over the pairs."""
    low: float | None = None
    """The difference is above this with the confidence that acceptance asks for."""
    high: float | None = None
    """The difference is below this with the confidence that clear losers are stopped at."""
    verdict: Verdict = "stays"


class Rung(Record):
    """One look at the candidates of a race, on a minibatch that is the same for all of them and the incumbent."""

    query_ids: tuple[str, ...]
    standings: tuple[Standing, ...]


class Race(Record):
    """Candidates against the incumbent."""

    number: int
    incumbent: str
    rungs: tuple[Rung, ...]
    accepted: str | None
    """The new incumbent, if there is one."""


class SearchResult(Record):
    """What a search found, and how. Whether it is better is for `windvane.prompt_search.proof` to say."""

    start: Candidate
    found: Candidate
    """The best prompt; the start prompt where nothing beat it."""
    finalists: tuple[Candidate, ...]
    """What is worth a proof on queries that the search never saw, best first; never the start prompt."""
    candidates: tuple[Candidate, ...]
    """Every distinct prompt that was tried, the start prompt first."""
    evaluations: tuple[Evaluation, ...]
    """In a fixed order that has nothing to do with the order in which the replies came."""
    ended: Ended
    nodes: tuple[Node, ...] = ()
    levels: tuple[Level, ...] = ()
    races: tuple[Race, ...] = ()
    unscored: int = 0
    """Evaluations without a score."""
    proposals: int = 0
    """Times that a proposer was asked."""
    notes: tuple[str, ...] = ()
    """What a reader should know: what fell short, and why."""
