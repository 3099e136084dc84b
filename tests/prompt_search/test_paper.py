import asyncio
import os
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from tests.prompt_search import trees
from windvane.errors import BudgetSpent, DataError
from windvane.judging.records import AspectScore
from windvane.prompt_search.contracts import Context, Progress, Proposals
from windvane.prompt_search.paper import PaperSettings, counts_as, is_kept, paper_search
from windvane.prompt_search.records import Judged, SearchResult
from windvane.prompt_search.replay import RecordedTree, ReplayEvaluator, ReplayProposer, read_trees
from windvane.types import Message, Query

T = TypeVar("T")
RUNS = (
    "gpt-3.5-turbo",
    "llama2-70b-chat",
    "llama2-70b",
    "llama2-7b-chat-hf",
    "llama2-7b",
    "llama3-8b-instruct",
    "llama3-8b",
    "mistral-7b-instruct-v0.1",
    "mistral-7b-v0.1",
)


def recorded_file() -> Path:
    """The published trees, which are no part of the project: beside the checkout, or where WINDVANE_SHARED says."""
    shared = os.environ.get("WINDVANE_SHARED")
    folder = Path(shared) if shared else Path(__file__).parents[3] / "shared"
    path = folder / "data" / "drpo_replay.jsonl"
    if not path.is_file():
        pytest.skip(f"the recorded trees are not at {path}; set WINDVANE_SHARED to the folder that holds data/")
    return path


@pytest.fixture(scope="module")
def recorded() -> dict[str, RecordedTree]:
    return {tree.run: tree for tree in read_trees(recorded_file())}


@pytest.fixture
def ours(tmp_path: Path) -> RecordedTree:
    (tree,) = read_trees(trees.written(tmp_path / "tree.jsonl"))
    return tree


def queries(tree: RecordedTree, settings: PaperSettings) -> list[Query]:
    """The recorded queries, and as many more as the search wants to see in reserve."""
    more = settings.most_queries - len(tree.queries)
    return [*tree.queries, *(Query(id=f"r{n}", messages=(Message(role="user", content="?"),)) for n in range(more))]


def search(tree: RecordedTree, settings: PaperSettings, evaluator: ReplayEvaluator | None = None) -> SearchResult:
    evaluator = evaluator or ReplayEvaluator(tree)
    return asyncio.run(paper_search(tree.start, queries(tree, settings), evaluator, ReplayProposer(tree), settings))


def as_recorded(tree: RecordedTree, result: SearchResult) -> None:
    """Assert that a search walked a recorded tree, node for node."""
    texts = {candidate.id: candidate.text for candidate in result.candidates}
    assert [(n.id, n.parent, n.level, texts[n.candidate], n.query_id, n.reward) for n in result.nodes] == [
        (n.node, n.parent, n.level, n.system_prompt, n.query, pytest.approx(n.reward)) for n in tree.nodes
    ]
    assert [node.judged.output for node in result.nodes] == [node.output for node in tree.nodes]
    children = {node.node: tree.children(node) for node in tree.nodes}
    for level in result.levels[:-1]:  # the members of a beam are those that have children
        assert sorted(level.beam) == [number for number in level.nodes if children[number]]
        same = {n for n in level.beam if len(children[n]) == 1}
        assert set(level.kept) == same
        assert all(children[n][0].system_prompt == tree.nodes[n].system_prompt for n in same)
    (terminal,) = [node for node in tree.nodes if node.terminal]
    last = result.nodes[result.levels[-1].beam[0]]
    assert last.id == terminal.node
    assert last.path_mean == terminal.path_mean_reward
    assert result.found.text == terminal.system_prompt
    path = [last]
    while path[-1].parent is not None:
        path.append(result.nodes[path[-1].parent])
    assert [node.id for node in path[::-1]] == [node.node for node in tree.nodes if node.on_best_path]


def test_a_tree_drawn_by_hand(ours: RecordedTree) -> None:
    result = search(ours, trees.SETTINGS)
    as_recorded(ours, result)
    assert [level.beam for level in result.levels] == trees.BEAMS
    assert [level.kept for level in result.levels] == trees.KEPT
    assert result.nodes[17].path_mean == pytest.approx(trees.BEST_MEAN)
    assert result.nodes[0].reward == 0
    assert result.nodes[0].path_mean is None
    assert result.ended == "finished"
    assert [candidate.text for candidate in result.finalists] == ["E2", "F1"]
    assert result.proposals == 6


@pytest.mark.parametrize("run", RUNS)
def test_a_published_search_node_for_node(run: str, recorded: dict[str, RecordedTree]) -> None:
    result = search(recorded[run], PaperSettings())
    as_recorded(recorded[run], result)
    unread = [node.node for node in recorded[run].nodes if not node.judgement]
    assert result.unscored == len(unread)
    assert len(result.notes) == len(unread)


@pytest.mark.parametrize(
    "wrong",
    [
        {"keep_above": 4.4},
        {"beam": 1},
        {"proposals": 2},
        {"extension": 1},
        {"depth": 5},
    ],
)
def test_another_rule_walks_another_tree(wrong: dict[str, float], ours: RecordedTree) -> None:
    settings = trees.SETTINGS.model_copy(update=wrong)
    try:
        result = search(ours, settings)
    except DataError:
        return  # it asked for what was never recorded
    with pytest.raises(AssertionError):
        as_recorded(ours, result)


class Jittered:
    """Answers and proposals that come in an order of chance."""

    origin = "recorded"

    def __init__(self, tree: RecordedTree, seed: int) -> None:
        self._evaluator, self._proposer = ReplayEvaluator(tree), ReplayProposer(tree)
        self._rng = random.Random(seed)

    async def _late(self, work: Awaitable[T]) -> T:
        for _ in range(self._rng.randrange(12)):
            await asyncio.sleep(0)
        return await work

    async def evaluate(self, system_prompt: str, query: Query) -> Judged:
        return await self._late(self._evaluator.evaluate(system_prompt, query))

    async def prepare(self, query: Query) -> None:
        return

    async def anticipate(self, system_prompt: str, query: Query) -> None:
        return

    async def propose(self, context: Context, n: int) -> Proposals:
        return await self._late(self._proposer.propose(context, n))


@pytest.mark.parametrize("ahead_from", [None, 0.0, 0.75])
def test_the_order_of_the_replies_decides_nothing(ours: RecordedTree, ahead_from: float | None) -> None:
    settings = trees.SETTINGS.model_copy(update={"ahead_from": ahead_from})
    expected = search(ours, trees.SETTINGS)
    for seed in range(20):
        late = Jittered(ours, seed)
        found = asyncio.run(paper_search("start", queries(ours, settings), late, late, settings))
        assert found == expected


class Ahead(ReplayEvaluator):
    """Notes what is asked for ahead; it may never have been recorded."""

    def __init__(self, tree: RecordedTree, failing: bool = False) -> None:
        super().__init__(tree)
        self.anticipated: list[tuple[str, str]] = []
        self.failing = failing

    async def anticipate(self, system_prompt: str, query: Query) -> None:
        self.anticipated.append((system_prompt, query.text))
        if self.failing:
            raise BudgetSpent("no calls are left")


@pytest.mark.parametrize(
    ("share", "anticipated"),
    [
        (None, []),
        (0.0, [("A", "query 5"), ("C2", "query 5")]),  # level 3 is kept as a whole, level 4 is not
        (0.1, []),  # nothing was kept before level 3, so nothing is known
    ],
)
def test_what_is_answered_ahead(share: float | None, anticipated: list[tuple[str, str]], ours: RecordedTree) -> None:
    evaluator = Ahead(ours)
    result = search(ours, trees.SETTINGS.model_copy(update={"ahead_from": share}), evaluator)
    assert result == search(ours, trees.SETTINGS)
    assert evaluator.anticipated == anticipated
    assert len(evaluator.asked) == len(ours.nodes)


def test_a_failure_ahead_is_that_of_the_evaluation_alone(ours: RecordedTree) -> None:
    evaluator = Ahead(ours, failing=True)
    assert search(ours, trees.SETTINGS.model_copy(update={"ahead_from": 0.0}), evaluator).ended == "finished"
    assert evaluator.anticipated


class Steady:
    """A prompt that is kept on all levels but some."""

    origin = "steady"

    def __init__(self, *rewritten: int) -> None:
        self.rewritten = {f"q{level}" for level in rewritten}
        self.anticipated: list[int] = []
        self.used = 0
        """Answers that were asked for ahead and not in vain."""
        self._ahead: set[tuple[str, str]] = set()

    async def prepare(self, query: Query) -> None:
        return

    async def anticipate(self, system_prompt: str, query: Query) -> None:
        self.anticipated.append(int(query.id[1:]))
        self._ahead.add((system_prompt, query.id))

    async def evaluate(self, system_prompt: str, query: Query) -> Judged:
        self.used += (system_prompt, query.id) in self._ahead
        return judged(3) if query.id in self.rewritten else judged(5)

    async def propose(self, context: Context, n: int) -> Proposals:
        return Proposals([f"{context.prompt}{number}" for number in range(n)])


@pytest.mark.parametrize(
    ("rewritten", "share", "anticipated"),
    [
        ((), 0.75, [4, 5, 6, 7, 8, 9]),  # level 1 is kept, level 2 shows that this lasts, level 4 is answered ahead
        ((), 0.0, [3, 4, 5, 6, 7, 8, 9]),
        # kept again on levels 2 and 3, so level 5 is answered ahead, in vain; 2 of 3, then 3 of 4 on level 6
        ((4,), 0.75, [4, 5, 8, 9]),
    ],
)
def test_ahead_goes_as_far_as_the_queries_and_as_the_share(
    rewritten: tuple[int, ...], share: float, anticipated: list[int]
) -> None:
    steady = Steady(*rewritten)
    settings = PaperSettings(beam=1, proposals=2, depth=4, extension=5, ahead_from=share)
    asked = [Query(id=f"q{n}", messages=(Message(role="user", content="?"),)) for n in range(1, 12)]
    asyncio.run(paper_search("start", asked, steady, steady, settings))
    assert steady.anticipated == anticipated


@pytest.mark.parametrize("proposals", [1, 2, 3])
@pytest.mark.parametrize("beam", [1, 2])
def test_answers_in_vain_are_within_the_bound(beam: int, proposals: int) -> None:
    settings = PaperSettings(beam=beam, proposals=proposals, depth=6, extension=6, ahead_from=0.0)
    asked = [Query(id=f"q{n}", messages=(Message(role="user", content="?"),)) for n in range(1, 13)]
    for seed in range(20):
        steady = Steady(*random.Random(seed).sample(range(1, 13), 5))
        result = asyncio.run(paper_search("start", asked, steady, steady, settings))
        assert len(result.evaluations) + len(steady.anticipated) - steady.used <= settings.most_evaluations


def judged(*marks: float) -> Judged:
    aspects = tuple(AspectScore(aspect=str(place), score=mark) for place, mark in enumerate(marks))
    if not aspects:
        return Judged(output="", score=None, unscored="unreadable")
    return Judged(output="", score=sum(marks) / len(marks), aspects=aspects)


@pytest.mark.parametrize(
    ("marks", "reward", "kept"),
    [
        ((5, 5, 5), 5.0, True),
        ((5, 5, 4), 14 / 3, True),
        ((5, 4), 4.5, False),
        ((5, 4, 4), 13 / 3, False),
        ((), 0.0, True),
    ],
)
def test_what_is_kept(marks: tuple[int, ...], reward: float, kept: bool) -> None:
    assert counts_as(judged(*marks)) == pytest.approx(reward)
    assert is_kept(judged(*marks), 4.5) is kept


def test_a_zero_that_stands_in_for_a_missing_score_is_missing() -> None:
    invented = Judged(output="", score=0.0, unscored="unreadable")
    assert invented.value is None
    assert counts_as(invented) == 0
    assert is_kept(invented, 4.5)


def test_the_optimiser_sees_the_last_prompts_of_the_path(ours: RecordedTree) -> None:
    proposer = ReplayProposer(ours)
    settings = trees.SETTINGS.model_copy(update={"remembered": 3})
    asyncio.run(paper_search("start", queries(ours, settings), ReplayEvaluator(ours), proposer, settings))
    told = {context.sample: [past.prompt for past in context.past] for context in proposer.contexts}
    assert told == {
        0: ["start"],
        1: ["start", "A"],
        3: ["start", "C"],
        11: ["C", "C2", "C2"],  # a kept prompt is there twice
        13: ["C2", "C2", "D2"],
        14: ["C2", "C2", "D3"],
    }
    assert [context.seen[0].judged.output for context in proposer.contexts if context.sample == 11] == ["answer 11"]


def test_an_unreadable_judgement_counts_as_0_and_the_log_says_so(
    ours: RecordedTree, caplog: pytest.LogCaptureFixture
) -> None:
    result = search(ours, trees.SETTINGS)
    assert [node.id for node in result.nodes if node.judged.score is None] == [4, 7, 10]
    assert {result.nodes[number].reward for number in (4, 7, 10)} == {0.0}
    said = [record.getMessage() for record in caplog.records]
    assert said == list(result.notes)
    assert len(said) == 3
    assert "Node 10 has no score and counts as 0, as in the published code" in said[2]


@pytest.mark.parametrize("after", range(0, 22, 3))
def test_a_spent_budget_ends_it_with_the_best_so_far(ours: RecordedTree, after: int) -> None:
    class Bounded(ReplayEvaluator):
        async def evaluate(self, system_prompt: str, query: Query) -> Judged:
            if len(self.asked) >= after:
                raise BudgetSpent("no calls are left")
            return await super().evaluate(system_prompt, query)

    result = search(ours, trees.SETTINGS, Bounded(ours))
    complete = [0, 1, 4, 10, 12, 16, 22]
    done = max(place for place, size in enumerate(complete) if size <= after)
    assert result.ended == "budget"
    assert "no calls are left" in result.notes[-1]
    assert len(result.levels) == done
    assert [level.beam for level in result.levels] == trees.BEAMS[:done]
    best = trees.NODES[trees.BEAMS[done - 1][0]][2] if done else "start"
    assert result.found.text == best


def test_too_few_queries_are_named_before_the_first_call(ours: RecordedTree) -> None:
    evaluator = ReplayEvaluator(ours)
    with pytest.raises(DataError, match="can reach level 30, but there are 6 queries"):
        asyncio.run(paper_search("start", ours.queries, evaluator, ReplayProposer(ours)))
    assert evaluator.asked == []


def test_without_proposals_it_ends_and_says_so(ours: RecordedTree) -> None:
    class Silent:
        origin = "silent"

        async def propose(self, context: Context, n: int) -> Proposals:
            return Proposals([], "nothing comes to mind")

    wide = queries(ours, trees.SETTINGS)
    result = asyncio.run(paper_search("start", wide, ReplayEvaluator(ours), Silent(), trees.SETTINGS))
    assert result.ended == "no proposals"
    assert result.found.text == "start"
    assert result.finalists == ()
    assert any("0 of 3 children: nothing comes to mind" in note for note in result.notes)


def test_progress_is_reported_level_by_level(ours: RecordedTree) -> None:
    seen: list[Progress] = []
    wide = queries(ours, trees.SETTINGS)
    watch: Callable[[Progress], None] = seen.append
    asyncio.run(paper_search("start", wide, ReplayEvaluator(ours), ReplayProposer(ours), trees.SETTINGS, watch=watch))
    assert [one.step for one in seen] == [2, 3, 4, 5, 6]
    assert [one.steps for one in seen] == [4, 4, 5, 6, 6]
    assert [one.best.text for one in seen] == ["A", "A", "C2", "D2", "E2"]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "line 1: not a node"),
        ('{"run": "x"}', "line 1: not a node"),
    ],
)
def test_a_file_that_is_no_recording_is_named(tmp_path: Path, line: str, complaint: str) -> None:
    path = tmp_path / "tree.jsonl"
    path.write_text(line)
    with pytest.raises(DataError, match=complaint):
        read_trees(path)


def test_a_recording_with_gaps_is_named(tmp_path: Path) -> None:
    path = trees.written(tmp_path / "tree.jsonl")
    path.write_text("\n".join(path.read_text().splitlines()[1:]).replace('"node": 3,', '"node": 99,'))
    with pytest.raises(DataError, match="not numbered from 0 without gaps"):
        read_trees(path)
