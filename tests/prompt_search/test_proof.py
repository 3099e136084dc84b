import asyncio
import random
from fractions import Fraction
from itertools import product
from statistics import fmean

import pytest

from windvane.errors import BudgetSpent, DataError, RunFailed
from windvane.judging.records import AspectScore
from windvane.prompt_search.paired import paired_interval
from windvane.prompt_search.proof import Proof, compare, prove
from windvane.prompt_search.records import Candidate, Judged
from windvane.types import Message, Query

START = Candidate(id="p0", text="start")
FOUND = Candidate(id="p1", text="found")
OTHER = Candidate(id="p2", text="other")


def query(number: int) -> Query:
    return Query(id=f"h{number}", messages=(Message(role="user", content=f"Held out {number}"),))


def judged(**marks: float) -> Judged:
    aspects = tuple(AspectScore(aspect=name, score=mark) for name, mark in marks.items())
    return Judged(output="", score=fmean(marks.values()), aspects=aspects)


MISSING = Judged(output="", score=None, unscored="unreadable")


class Table:
    """Answers by prompt and query id."""

    def __init__(self, **scores: list[float | None]) -> None:
        self.scores = scores
        self.asked = 0
        self.room = 10**6

    async def prepare(self, query: Query) -> None:
        return

    async def anticipate(self, system_prompt: str, query: Query) -> None:
        return

    async def evaluate(self, system_prompt: str, query: Query) -> Judged:
        if self.asked >= self.room:
            raise BudgetSpent("10 calls are made")
        self.asked += 1
        score = self.scores[system_prompt][int(query.id[1:])]
        return MISSING if score is None else judged(a=score)


def proof(table: Table, *finalists: Candidate) -> Proof:
    queries = [query(number) for number in range(len(table.scores["start"]))]
    return asyncio.run(prove(START, finalists, queries, table, searched=()))


def test_an_interval_by_hand() -> None:
    # 127 subset means of seven equal values are that value; of 0, 0, 0, 0, 0, 0, 7 half have a mean above 0
    assert paired_interval([0.5] * 7, confidence=0.95, seed=0) == (0.5, 0.5)
    low, high = paired_interval([0, 0, 0, 0, 0, 0, 7], confidence=0.95, seed=0) or (-1.0, -1.0)
    assert low == 0
    assert 2 < high <= 7


def test_an_interval_is_what_all_subsets_would_give() -> None:
    values = [0.25, -0.5, 1.0, 0.75, 0.0, 0.5, 1.5, -0.25, 0.75, 0.25]
    means = sorted(
        float(sum((Fraction(v) for v, bit in zip(values, bits, strict=True) if bit), Fraction(0)) / sum(bits))
        for bits in product((0, 1), repeat=len(values))
        if any(bits)
    )
    low, high = paired_interval(values, confidence=0.9, seed=0) or (0.0, 0.0)
    assert means[int(0.04 * len(means))] <= low <= means[int(0.06 * len(means))]
    assert means[int(0.94 * len(means))] <= high <= means[int(0.96 * len(means))]
    assert low < fmean(values) < high


def test_an_interval_mirrors_and_moves_with_its_values() -> None:
    values = [0.25, -0.5, 1.0, 0.75, 0.0, 0.5, 1.5, -0.25]
    low, high = paired_interval(values, confidence=0.95, seed=3) or (0.0, 0.0)
    assert paired_interval([-v for v in values], confidence=0.95, seed=3) == pytest.approx((-high, -low))
    assert paired_interval([v + 2 for v in values], confidence=0.95, seed=3) == pytest.approx((low + 2, high + 2))
    wide = paired_interval(values, confidence=0.99, seed=3) or (0.0, 0.0)
    assert wide[0] <= low <= high <= wide[1]


@pytest.mark.parametrize(
    ("n", "confidence", "known"), [(0, 0.95, False), (5, 0.95, False), (6, 0.95, True), (6, 0.99, False)]
)
def test_too_few_values_have_no_interval(n: int, confidence: float, known: bool) -> None:
    assert (paired_interval([1.0] * n, confidence=confidence, seed=0) is not None) is known


@pytest.mark.parametrize("confidence", [0.95, 1 - 0.05 / 3])
@pytest.mark.parametrize("n", [6, 7, 8, 9])
def test_few_values_claim_a_gain_no_more_often_than_promised(n: int, confidence: float) -> None:
    # Of equal prompts every pattern of signs is as likely as any other, so this share is exact.
    sizes = [0.2, 0.25, 0.35, 0.5, 0.75, 1.0, 1.3, 1.6, 2.0][:n]
    patterns = [[size * sign for size, sign in zip(sizes, signs, strict=True)] for signs in product((-1, 1), repeat=n)]
    lows = [(paired_interval(values, confidence=confidence, seed=0) or (-1.0, 1.0))[0] for values in patterns]
    assert sum(low > 0 for low in lows) <= (1 - confidence) / 2 * len(patterns)


def test_few_wins_among_many_ties_prove_nothing() -> None:
    # a normal approximation would claim a gain (t = 2.1 for 4 of 30): by a fair coin it happens once in 16
    assert (paired_interval([1.0] * 4 + [0.0] * 26, confidence=0.95, seed=0) or (1, 1))[0] == 0
    assert (paired_interval([1.0] * 8 + [0.0] * 22, confidence=0.95, seed=0) or (0, 0))[0] > 0


def test_rounding_errors_claim_nothing() -> None:
    values = [0.1 + 0.2 - 0.3] * 12  # 5.6e-17 each
    assert values[0] > 0
    assert paired_interval(values, confidence=0.95, seed=0) == (0, 0)


def test_equal_sides_are_told_apart_at_most_as_often_as_promised() -> None:
    source = random.Random(5)
    claims = 0
    for draw in range(200):
        values = [source.choice((0.0, 0.0, 0.0, 0.2, 0.25, 1.0, 2.0)) * source.choice((-1, 1)) for _ in range(20)]
        low, _ = paired_interval(values, confidence=0.95, seed=draw) or (0.0, 0.0)
        claims += low > 0
    assert claims <= 10  # 5 % are 10, and 2.5 % are promised on this side


def test_a_comparison_by_hand() -> None:
    queries = [query(number) for number in range(5)]
    start = {"h0": judged(a=3, b=4), "h1": judged(a=5, b=5), "h2": judged(a=2, c=2), "h3": MISSING}
    found = {"h0": judged(a=5, b=3), "h1": judged(a=5, b=5), "h2": judged(a=3, c=4), "h3": judged(a=5)}
    one = compare("p1", start, found, queries)
    assert (one.n, one.wins, one.ties, one.losses, one.unscored) == (3, 2, 1, 0, 2)
    assert one.start_mean == pytest.approx((3.5 + 5 + 2) / 3)
    assert one.found_mean == pytest.approx((4 + 5 + 3.5) / 3)
    assert one.difference == pytest.approx((0.5 + 0 + 1.5) / 3)
    assert one.interval is None
    assert not one.gain
    aspects = {a.aspect: (a.n, a.difference, a.wins, a.ties, a.losses) for a in one.aspects}
    assert aspects == {"a": (3, 1.0, 2, 1, 0), "b": (2, -0.5, 0, 1, 1), "c": (1, 2.0, 1, 0, 0)}
    assert [a.aspect for a in one.aspects] == ["a", "b", "c"]
    assert [row.difference for row in one.queries] == [0.5, 0, 1.5, None, None]
    assert one.queries[3].unscored == "start: unreadable"
    assert one.queries[4].unscored == "start: not asked; found: not asked"


def test_a_mean_is_of_the_same_queries_on_both_sides() -> None:
    one = compare(
        "p1", {"h0": judged(a=1), "h1": judged(a=5)}, {"h0": MISSING, "h1": judged(a=5)}, [query(0), query(1)]
    )
    assert (one.start_mean, one.found_mean, one.difference) == (5, 5, 0)


def test_a_gain_is_claimed_where_the_interval_lies_above_0() -> None:
    said = proof(Table(start=[3.0] * 20, found=[3.0] * 8 + [4.0] * 12), FOUND)
    assert said.verdict == "gain"
    assert said.best is not None
    assert said.best.interval is not None
    assert said.best.interval[0] > 0
    assert said.statement.startswith("A gain: +0.60 points, 95 % interval +0.")
    assert said.statement.endswith("on 20 held-out queries (12 won, 8 tied, 0 lost).")


def test_no_gain_and_a_loss_are_said() -> None:
    said = proof(Table(start=[3.0] * 20, found=[3.0] * 10 + [4.0, 2.0] * 5), FOUND)
    assert said.verdict == "no gain"
    assert said.statement.startswith("No gain is supported: +0.00 points")
    assert "95 % interval −0." in said.statement
    said = proof(Table(start=[4.0] * 20, found=[3.0] * 20), FOUND)
    assert said.verdict == "loss"
    assert "Keep the start prompt." in said.statement


def test_unscored_queries_are_counted_and_in_no_number() -> None:
    said = proof(Table(start=[3.0] * 18 + [None, 3.0], found=[3.5] * 17 + [None, 4.0, 3.5]), FOUND)
    assert said.best is not None
    assert (said.best.n, said.best.unscored, said.best.difference) == (18, 2, 0.5)
    assert "(18 won, 0 tied, 0 lost, 2 unscored)" in said.statement


def test_nothing_scored_is_no_gain() -> None:
    said = proof(Table(start=[None] * 20, found=[3.0] * 20), FOUND)
    assert said.verdict == "no gain"
    assert said.statement == "No gain is supported: only 0 held-out queries have a score on both sides."


def test_several_finalists_widen_each_interval() -> None:
    scores = [3.0, 4.0, 3.5, 3.0, 4.5, 4.0, 3.0, 3.5, 4.0, 5.0, 3.0, 4.0]
    one = proof(Table(start=[3.0] * 12, found=scores, other=[3.0] * 12), FOUND)
    two = proof(Table(start=[3.0] * 12, found=scores, other=[3.0] * 12), FOUND, OTHER)
    assert one.best is not None
    assert two.best is not None
    assert (one.best.confidence, two.best.confidence) == (pytest.approx(0.95), pytest.approx(0.975))
    assert one.best.interval is not None
    assert two.best.interval is not None
    assert two.best.interval[0] < one.best.interval[0]
    assert two.best.candidate == "p1"
    assert [other.candidate for other in two.comparisons] == ["p1", "p2"]
    assert "the interval allows for the choice among 2" in two.statement


def test_without_a_finalist_nothing_is_asked() -> None:
    table = Table(start=[3.0] * 8)
    said = proof(table)
    assert (said.verdict, said.best, table.asked) == ("nothing to prove", None, 0)


def test_queries_that_the_search_saw_are_refused() -> None:
    table = Table(start=[3.0] * 8, found=[3.0] * 8)
    same_text = query(3).model_copy(update={"id": "elsewhere"})
    for searched in ([query(3)], [same_text]):
        with pytest.raises(DataError, match="1 of the 8 queries of the proof were searched with, the first 'h3'"):
            asyncio.run(prove(START, [FOUND], [query(n) for n in range(8)], table, searched=searched))
    with pytest.raises(DataError, match="no query to prove"):
        asyncio.run(prove(START, [FOUND], [], table, searched=[]))
    with pytest.raises(DataError, match="share an id"):
        asyncio.run(prove(START, [FOUND], [query(1), query(1)], table, searched=[]))
    assert table.asked == 0


def test_a_spent_budget_leaves_the_pairs_that_are_complete() -> None:
    table = Table(start=[3.0] * 20, found=[4.0] * 20)
    table.room = 17
    said = proof(table, FOUND)
    assert said.stopped == "10 calls are made"
    assert said.best is not None
    assert (said.best.n, said.best.unscored) == (8, 12)
    assert said.verdict == "gain"
    assert said.statement.endswith("It was stopped early: 10 calls are made")


def test_another_failure_is_raised() -> None:
    class Gone(Table):
        async def evaluate(self, system_prompt: str, query: Query) -> Judged:
            raise RunFailed("the server is gone")

    with pytest.raises(RunFailed, match="the server is gone"):
        proof(Gone(start=[3.0] * 8, found=[3.0] * 8), FOUND)


def test_a_proof_survives_the_file() -> None:
    said = proof(Table(start=[3.0] * 8, found=[4.0] * 8), FOUND)
    assert Proof.from_json(said.to_json()) == said
