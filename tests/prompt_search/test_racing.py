import asyncio
import random

import pytest
from benchmarks.prompt_search import World, query, step

from windvane.config import load_config
from windvane.errors import BudgetSpent, ConfigError, DataError, RunFailed
from windvane.judging.records import AspectScore
from windvane.prompt_search.contracts import Context, Progress, Proposals
from windvane.prompt_search.racing import RacingSettings, racing_search
from windvane.prompt_search.records import Judged, SearchResult
from windvane.types import Query

QUERIES = [query(number) for number in range(24)]
SMALL = RacingSettings(candidates=6, races=3, per_request=3)


def race(world: World, settings: RacingSettings = SMALL, seed: int = 0) -> SearchResult:
    return asyncio.run(racing_search("start", QUERIES, world, world, settings, seed=seed))


class Late(World):
    """A world whose replies come in an order of chance."""

    def __init__(self, seed: int, order: int) -> None:
        super().__init__(seed, up=0.3, down=0.3, missing=0.1)
        self._rng = random.Random(order)

    async def _wait(self) -> None:
        for _ in range(self._rng.randrange(10)):
            await asyncio.sleep(0)

    async def evaluate(self, system_prompt: str, query: Query) -> Judged:
        await self._wait()
        return await super().evaluate(system_prompt, query)

    async def propose(self, context: Context, n: int) -> Proposals:
        await self._wait()
        return await super().propose(context, n)


def test_the_order_of_the_replies_decides_nothing() -> None:
    for seed in range(3):
        expected = race(World(seed, up=0.3, down=0.3, missing=0.1))
        assert len(expected.races) > 1
        for order in range(4):
            assert race(Late(seed, order)) == expected


def test_another_seed_takes_other_queries() -> None:
    orders = {race(World(1, up=0.3, down=0.3), seed=seed).races[0].rungs[0].query_ids for seed in range(4)}
    assert len(orders) == 4


class Journaled(World):
    """A world whose replies are kept, as a journal keeps them."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed, up=0.3, down=0.3)
        self.kept: dict[object, object] = {}
        self.fresh = 0
        self.at_most = 10**6

    async def _kept(self, key, ask):  # type: ignore[no-untyped-def]
        if key not in self.kept:
            if self.fresh >= self.at_most:
                raise BudgetSpent("no more")
            self.fresh += 1
            self.kept[key] = await ask()
        return self.kept[key]

    async def evaluate(self, system_prompt: str, query: Query) -> Judged:
        return await self._kept((system_prompt, query.id), lambda: World.evaluate(self, system_prompt, query))

    async def propose(self, context: Context, n: int) -> Proposals:
        return await self._kept((context, n), lambda: World.propose(self, context, n))


def test_cut_short_anywhere_it_goes_on_to_the_same_end_and_asks_nothing_twice() -> None:
    expected = race(Journaled(3))
    whole = Journaled(3)
    race(whole)
    for stop in range(0, whole.fresh, 11):
        world = Journaled(3)
        world.at_most = stop
        first = race(world)
        assert first.ended == "budget"
        assert "no more" in first.notes[-1]
        assert world.fresh == stop
        world.at_most = 10**6
        assert race(world) == expected
        assert world.fresh == whole.fresh
        race(world)
        assert world.fresh == whole.fresh


def test_a_budget_ends_it_with_the_incumbent_of_the_races_that_are_over() -> None:
    whole = race(World(2, up=0.5, down=0.2))
    assert any(one.accepted for one in whole.races)
    counts: set[int] = set()
    for room in range(0, 200, 9):
        world = World(2, up=0.5, down=0.2)
        world.room = room
        found = race(world)
        assert world.calls <= room
        accepted = [one.accepted for one in found.races if one.accepted]
        assert accepted == [one.accepted for one in whole.races if one.accepted][: len(accepted)]
        assert found.found.id == (accepted[-1] if accepted else "p0")
        counts.add(len(accepted))
    assert len(counts) > 1


def test_all_of_a_race_answer_the_same_queries_as_the_incumbent() -> None:
    settings = RacingSettings(candidates=9, races=2, minibatch=4, most_queries=16)
    result = race(World(4, up=0.2, down=0.2), settings)
    known = {(one.candidate, one.query_id) for one in result.evaluations}
    assert len(known) == len(result.evaluations)
    for one in result.races:
        assert [len(rung.query_ids) for rung in one.rungs] == [2, 4, 8, 16][: len(one.rungs)]
        for before, after in zip(one.rungs, one.rungs[1:], strict=False):
            assert after.query_ids[: len(before.query_ids)] == before.query_ids
            staying = [standing.candidate for standing in before.standings if standing.verdict == "stays"]
            assert [standing.candidate for standing in after.standings] == staying
        for rung in one.rungs:
            for name in (one.incumbent, *(standing.candidate for standing in rung.standings)):
                assert all((name, query_id) in known for query_id in rung.query_ids)
    last = result.races[0].rungs[-1]
    assert all(standing.pairs == len(last.query_ids) for standing in last.standings)


def test_the_bound_on_evaluations_holds() -> None:
    for seed in range(4):
        for settings in (SMALL, RacingSettings(races=2), RacingSettings(candidates=3, survivors=1.0, races=2)):
            result = race(World(seed, up=0.1, down=0.1), settings)
            assert len(result.evaluations) <= settings.most_evaluations(len(QUERIES))


def test_losers_are_stopped_early() -> None:
    result = race(World(0, up=0.0, down=1.0), RacingSettings(candidates=12, races=1))
    answered = [sum(one.candidate == candidate.id for one in result.evaluations) for candidate in result.candidates[1:]]
    assert sum(count <= 2 for count in answered) >= 8
    assert max(answered) <= 16


class Plain:
    """A world without noise: a prompt's marks are what its text says, and every request proposes the same."""

    origin = "plain"

    def __init__(self, proposed: list[str], *, missing: str = "", base: float = 3.0) -> None:
        self.proposed, self.missing, self.base = proposed, missing, base
        self.contexts: list[tuple[Context, int]] = []

    async def prepare(self, query: Query) -> None:
        return

    async def anticipate(self, system_prompt: str, query: Query) -> None:
        return

    async def evaluate(self, system_prompt: str, query: Query) -> Judged:
        if system_prompt == self.missing and query.id in ("q1", "q3", "q5", "q7", "q9", "q11"):
            return Judged(output="", score=None, unscored="unreadable")
        value = self.base + float(system_prompt.partition("+")[2] or 0)
        score = min(5.0, value + 0.5 * (int(query.id[1:]) % 3))
        return Judged(output="", score=score, aspects=(AspectScore(aspect="a", score=score),))

    async def propose(self, context: Context, n: int) -> Proposals:
        self.contexts.append((context, n))
        fresh = [text for text in self.proposed if text not in context.taken]
        return Proposals(fresh[:n], None if len(fresh) >= n else f"only {len(fresh)} are left")


def plain_race(world: Plain, **settings: float) -> SearchResult:
    return asyncio.run(racing_search("start", QUERIES, world, world, RacingSettings(**settings)))  # type: ignore[arg-type]


def test_the_best_prompt_wins_and_wins_only_once() -> None:
    world = Plain([f"p+{gain}" for gain in (0.1, 0.4, -0.5, 0.2)] + [f"p+{gain}" for gain in (-0.1, -0.2, -0.3, 0.3)])
    result = plain_race(world, candidates=4, races=4, per_request=4)
    assert result.found.text == "p+0.4"
    assert result.found.parent == "p0"
    assert [race.accepted for race in result.races] == ["p2", None]
    assert result.ended == "no proposals"
    assert result.finalists[0] == result.found


def test_a_missing_score_is_dropped_from_the_pair_and_never_a_zero() -> None:
    world = Plain(["same+0", "gappy+0.4", "worse+-0.4"], missing="gappy+0.4")
    result = plain_race(world, candidates=3, races=1, most_queries=24, least_pairs=8, survivors=1.0)
    standings = [s for rung in result.races[0].rungs for s in rung.standings if s.candidate == "p2"]
    assert all(s.difference is None or s.difference == pytest.approx(0.4) for s in standings)
    assert sum(s.unscored > 0 for s in standings) > 0
    for rung, standing in zip(result.races[0].rungs, standings, strict=False):
        assert standing.pairs + standing.unscored == len(rung.query_ids)
    assert result.found.text == "gappy+0.4"
    assert result.unscored == sum(one.judged.score is None for one in result.evaluations) > 0


def test_answers_without_a_score_are_said() -> None:
    result = plain_race(Plain(["gappy+0.4", "worse+-0.4"], missing="gappy+0.4"), candidates=2, races=1)
    assert 0 < result.unscored < len(result.evaluations)
    said = f"{result.unscored} of {len(result.evaluations)} answers have no score. The first: unreadable."
    assert result.notes == (said,)


def test_requests_that_propose_the_same_are_asked_once_more_for_others() -> None:
    world = Plain([f"p+-{number}" for number in range(1, 9)])
    result = plain_race(world, candidates=6, races=1, per_request=3)
    assert [n for _, n in world.contexts] == [3, 3, 3]
    assert world.contexts[2][0].taken == {"start", "p+-1", "p+-2", "p+-3"}
    assert len(result.candidates) == 7
    assert result.notes == ()
    assert result.proposals == 3


def test_fewer_proposals_than_wanted_are_said() -> None:
    result = plain_race(Plain(["a+-1", "b+-1"]), candidates=6, races=2, per_request=3)
    assert result.ended == "no proposals"
    assert result.notes[0] == "Race 1 has 2 of 6 new prompts: only 0 are left"


def test_doublets_that_differ_in_white_space_are_one() -> None:
    result = plain_race(Plain(["a +-1", " a  +-1", "start ", "", "b+-1"]), candidates=5, races=1, per_request=5)
    assert [candidate.text for candidate in result.candidates] == ["start", "a +-1", "b+-1"]


def test_the_proposer_learns_from_the_worst_answers_and_from_the_incumbents() -> None:
    world = Plain([f"p+{number / 10}" for number in range(-3, 9)])
    plain_race(world, candidates=4, races=3, per_request=2)
    first, second, *_ = (context for context, _ in world.contexts)
    assert first.seen[0].judged.score == 3.0
    assert first.seen != second.seen
    assert [past.prompt for past in first.past] == ["start"]
    last = world.contexts[-1][0]
    assert last.past[0].prompt == "start"
    assert last.past[-1].prompt == last.prompt != "start"
    assert all(past.score is not None for past in last.past)
    assert len({context.sample for context, _ in world.contexts}) == len(world.contexts)


def test_a_judge_that_always_says_5_finds_nothing_and_says_so() -> None:
    world = Plain([f"p+{number}" for number in range(40)], base=5.0)
    result = plain_race(world, candidates=4, races=8, patience=2, per_request=4)
    assert result.found.text == "start"
    assert result.ended == "no gain"
    assert len(result.races) == 2
    assert result.finalists == ()
    assert "tells no answers apart" in result.notes[0]


def test_a_judge_that_scores_nothing_ends_the_run() -> None:
    class Mute(Plain):
        async def evaluate(self, system_prompt: str, query: Query) -> Judged:
            return Judged(output="", score=None, unscored="the reply is empty")

    with pytest.raises(RunFailed, match=r"None of the first \d+ answers has a score. The first: the reply is empty"):
        plain_race(Mute(["a", "b", "c", "d"]), candidates=4)


def test_a_failure_that_is_no_budget_is_raised() -> None:
    class Gone(Plain):
        async def evaluate(self, system_prompt: str, query: Query) -> Judged:
            if system_prompt != "start":
                raise RunFailed("the server is gone")
            return await super().evaluate(system_prompt, query)

    with pytest.raises(RunFailed, match="the server is gone"):
        plain_race(Gone(["a", "b", "c", "d"]), candidates=4)


def test_any_exception_can_end_it() -> None:
    class Enough(Exception):
        pass

    class Tired(Plain):
        async def propose(self, context: Context, n: int) -> Proposals:
            raise Enough("that will do")

    world = Tired([])
    result = asyncio.run(racing_search("start", QUERIES, world, world, stop_on=Enough))
    assert (result.ended, result.found.text) == ("budget", "start")
    assert result.notes == ("The search was stopped: that will do",)


def test_too_few_queries_and_equal_ids_are_named() -> None:
    world = Plain([])
    with pytest.raises(DataError, match="There are 7 queries to search with, and a comparison needs 8"):
        asyncio.run(racing_search("start", QUERIES[:7], world, world))
    with pytest.raises(DataError, match="have the same id"):
        asyncio.run(racing_search("start", [*QUERIES, QUERIES[0]], world, world))


def test_few_queries_shorten_the_race() -> None:
    assert RacingSettings().looks(100) == (2, 4, 8, 16)
    assert RacingSettings().looks(11) == (2, 4, 8, 11)
    assert RacingSettings(minibatch=8, first_look=8).looks(100) == (8, 16)
    assert RacingSettings(first_look=4).looks(100) == (4, 8, 16)
    assert [RacingSettings(candidates=12).staying(looks) for looks in (1, 2, 3)] == [4, 2, 1]


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("first_look=5", "must not decrease"),
        ("most_queries=3", "must not decrease"),
        ("least_pairs=17", "no prompt could ever become the incumbent"),
        ("minibatch=9", "must be at most 8"),
        ("support=0.5", "support must be"),
    ],
)
def test_settings_that_make_no_sense_are_refused(override: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        load_config(RacingSettings, None, [override])


def test_progress_names_the_leader_and_who_is_running() -> None:
    seen: list[Progress] = []
    world = World(2, up=0.5, down=0.2)
    result = asyncio.run(racing_search("start", QUERIES, world, world, SMALL, watch=seen.append))
    assert seen[-1].best == result.found
    assert len(seen) == sum(len(one.rungs) for one in result.races)
    assert all(one.difference is None or one.difference[0] <= one.difference[1] <= one.difference[2] for one in seen)
    assert [one.step for one in seen] == [one.number for one in result.races for _ in one.rungs]


def test_the_simulated_step_is_worth_its_points() -> None:
    assert 0.5 < step() < 0.7
