"""`compat: paper`: the published search (arXiv:2411.08733), as its code runs it.

What the paper leaves open was inferred from the nine search trees that its authors have recorded, and is held to them,
node for node, by `tests/prompt_search/test_paper.py`:

- Level l of the tree is judged on the l-th query; the root, on level 1, is the start prompt.
- The root's own score decides whether it is kept, but its reward counts as 0 and is left out of every path mean.
- A prompt of the beam is kept when its score is above 4.5, or when all its aspects have 5. That holds for no aspects at
  all, too: **a judgement that cannot be read counts 0 in the path mean, and its prompt, if it stays in the beam, is
  kept** (three times in the recorded trees, never otherwise).
- A prompt that is not kept is always replaced: by three proposals, which nobody compares with it. A proposal may equal
  it (once in the recorded trees).
- All children of the beam are ranked by the mean reward of their paths, and two go on. A tie keeps the order of
  creation: the better parent's children first, a parent's in the order in which they were proposed.
- Each level on which a prompt was kept makes the tree one level deeper than 20, up to 30. What counts is levels, not
  prompts: the one recorded tree that does not reach 30 has 12 kept prompts on 8 levels, and ends on level 28.
- On the last level the best path mean wins, its own reward included; the first of equals.

Not to be seen in the recorded trees: that the optimiser is shown the last five prompts of the path (we take the prompt
itself to be the last of them, and repeat a kept one), and whether a keep below the limit of 10 counts where the
judgement could not be read (we say yes).
"""

import logging
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from pydantic import Field

from windvane.config import Settings
from windvane.errors import BudgetSpent, DataError
from windvane.judging.records import HIGHEST
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
    look_away,
)
from windvane.prompt_search.records import Candidate, Ended, Evaluation, Judged, Level, Node, SearchResult
from windvane.prompt_search.together import Answers, carried_out, together
from windvane.types import Query

logger = logging.getLogger(__name__)


class PaperSettings(Settings):
    """The published beam search."""

    beam: int = Field(default=2, ge=1)
    """Prompts that go on to the next level."""
    proposals: int = Field(default=3, ge=1)
    """New prompts for each prompt of the beam that is not kept."""
    depth: int = Field(default=20, ge=2)
    """Levels, the start prompt's included."""
    extension: int = Field(default=10, ge=0)
    """Further levels, at most: one for each level on which a prompt was kept."""
    keep_above: float = 4.5
    """A prompt whose score is above this is not rewritten. Nor is one with the highest score on all aspects."""
    remembered: int = Field(default=5, ge=1)
    """Last prompts of its path that the optimiser sees, the one to be improved included."""
    ahead_from: float | None = Field(default=0.75, ge=0, le=1)
    """Share of a search's kept prompts that were kept again on the next level, from which on the model answers for a
    kept prompt a level ahead, if it is sure to be in the beam. The decisions stay the same and the search gets faster;
    an answer is paid for in vain where the prompt is not kept again. 0 always does it, null never."""

    @property
    def most_queries(self) -> int:
        """Queries that a search can need."""
        return self.depth + self.extension

    @property
    def most_evaluations(self) -> int:
        """Evaluations that a search can take, answers that were asked for in vain among them.

        Those follow a level on which the whole beam was kept, and there is one for each of its prompts at most. That
        level had one child in place of each prompt's proposals, so where there are two of these, it made room.
        """
        return 1 + (self.most_queries - 1) * self.beam * max(self.proposals, 1 if self.ahead_from is None else 2)

    @property
    def most_proposals(self) -> int:
        """Prompts that a proposer can be asked for."""
        return (self.most_queries - 1) * self.beam * self.proposals


def counts_as(judged: Judged) -> float:
    """Return the reward: the score, or 0 where there is none (only here, and because the published code does so)."""
    return judged.value if judged.value is not None else 0.0


def is_kept(judged: Judged, keep_above: float) -> bool:
    """Whether the published search leaves a prompt as it is."""
    scores = [aspect.score for aspect in judged.aspects if aspect.score is not None]
    return counts_as(judged) > keep_above or all(score == HIGHEST for score in scores)


async def paper_search(
    start: str,
    queries: Sequence[Query],
    evaluator: Evaluator,
    proposer: Proposer,
    settings: PaperSettings | None = None,
    *,
    stop_on: Stop = BudgetSpent,
    watch: Watch = look_away,
) -> SearchResult:
    """Search as the paper does, and return the prompt with the best path mean on the last level.

    The calls of a level run at once, each candidate's as soon as it is there, and answers that will all but certainly
    be wanted are asked for a level ahead; the result is that of one call after the other. Raises `DataError` where
    there are fewer queries than levels. An exception of `stop_on` ends the search with the best prompt of the last
    complete level.
    """
    settings = settings or PaperSettings()
    if len(queries) < settings.most_queries:
        raise DataError(
            f"The published search judges each level on a query of its own and can reach level "
            f"{settings.most_queries}, but there are {len(queries)} queries. Give more, or lower depth or extension."
        )
    return await carried_out(_Tree(start, queries, evaluator, proposer, settings, stop_on, watch), stop_on)


class _Child(NamedTuple):
    text: str
    judged: Judged


class _Family(NamedTuple):
    """What became of one prompt of the beam."""

    children: list[_Child]
    proposals: Proposals | None


class _Tree:
    def __init__(
        self,
        start: str,
        queries: Sequence[Query],
        evaluator: Evaluator,
        proposer: Proposer,
        settings: PaperSettings,
        stop_on: Stop,
        watch: Watch,
    ) -> None:
        self.answers = Answers(evaluator)
        self.levels: list[Level] = []
        self.limit = settings.depth
        self.notes: list[str] = []
        self._queries = queries
        self._proposer = proposer
        self._settings = settings
        self._stop_on = stop_on
        self._watch = watch
        self._candidates = {start: Candidate(id="p0", text=start)}
        self._texts = {"p0": start}
        self._nodes: list[Node] = []
        self._asked = 0

    async def run(self) -> Ended:
        """Grow level by level, as deep as the kept prompts allow."""
        await self.plant()
        while self.levels[-1].number < self.limit:
            if not await self.grow():
                return "no proposals"
            self._watch(self.progress())
        return "finished"

    async def plant(self) -> None:
        """Judge the start prompt on the first query."""
        (start,) = self._candidates
        self._prepare(1)
        judged = await self.answers.get(start, self._queries[0])
        self._add(None, _Child(start, judged))
        self._note_unread(self._nodes)
        self.levels.append(Level(number=1, nodes=(0,), beam=(0,)))

    async def grow(self) -> bool:
        """Add a level; return False where no prompt of the beam has a child."""
        level = self.levels[-1]
        parents = [self._nodes[number] for number in level.beam]
        kept = tuple(node.id for node in parents if is_kept(node.judged, self._settings.keep_above))
        self.levels[-1] = level.model_copy(update={"kept": kept})
        if kept:
            self.limit = min(self.limit + 1, self._settings.most_queries)
        self._prepare(level.number + 1)
        self._look_ahead()
        families = await together([self._family(node, node.id in kept) for node in parents], self._stop_on)
        new: list[Node] = []
        for node, family in zip(parents, families, strict=True):
            self._count(node, family.proposals)
            new += [self._add(node, child) for child in family.children]
        if not new:
            self.notes.append(f"No prompt of level {level.number} was kept, and nothing was proposed in its place.")
            return False
        self._note_unread(new)
        best = sorted(new, key=lambda node: -(node.path_mean or 0.0))  # stable: ties keep the order of creation
        beam = tuple(node.id for node in best[: self._settings.beam])
        self.levels.append(Level(number=level.number + 1, nodes=tuple(node.id for node in new), beam=beam))
        return True

    async def _family(self, node: Node, kept: bool) -> _Family:
        query = self._queries[node.level]
        text = self._text(node)
        if kept:
            return _Family([_Child(text, await self.answers.get(text, query))], None)
        context = Context(
            prompt=text,
            seen=(Seen(self._queries[node.level - 1], node.judged),),
            past=tuple(Past(self._text(one)) for one in self._path(node)[-self._settings.remembered :]),
            sample=node.id,
        )
        proposals = await self._proposer.propose(context, self._settings.proposals)
        judged = await together([self.answers.get(new, query) for new in proposals.prompts], self._stop_on)
        return _Family([_Child(*child) for child in zip(proposals.prompts, judged, strict=True)], proposals)

    def _look_ahead(self) -> None:
        """Have the model answer the query after next for the beam, where it is all but certain that it will be asked.

        A beam that is kept as a whole has no other children, so each of them is in the next beam. Whether they are
        kept there as well, only their scores can tell, and the answer would have to wait for these.
        """
        level, share, after_next = self.levels[-1], self._settings.ahead_from, self.levels[-1].number + 1
        if share is None or after_next >= self._settings.most_queries:
            return
        if level.kept == level.beam and self._kept_again() >= share:
            for number in level.beam:
                self.answers.anticipate(self._text(self._nodes[number]), self._queries[after_next])

    def _kept_again(self) -> float:
        """Return the share of kept prompts that were kept on the next level, too; 0 as long as there is none."""
        again = [
            number in level.kept
            for before, level in pairwise(self.levels)
            for number in level.nodes
            if self._nodes[number].parent in before.kept
        ]
        return sum(again) / len(again) if again else 0.0

    def _prepare(self, index: int) -> None:
        """Prepare a query ahead of its level, while the level before it is being judged."""
        if index < self.limit:  # else there may be no such level, and its aspects would be paid for in vain
            self.answers.prepare(self._queries[index])

    def _path(self, node: Node) -> list[Node]:
        """Return the nodes from the root to this one."""
        path = [node]
        while path[-1].parent is not None:
            path.append(self._nodes[path[-1].parent])
        return path[::-1]

    def _text(self, node: Node) -> str:
        return self._texts[node.candidate]

    def _add(self, parent: Node | None, child: _Child) -> Node:
        level = 1 if parent is None else parent.level + 1
        reward = 0.0 if parent is None else counts_as(child.judged)
        rewards = [] if parent is None else [*(node.reward for node in self._path(parent)[1:]), reward]
        node = Node(
            id=len(self._nodes),
            parent=None if parent is None else parent.id,
            level=level,
            candidate=self._candidate(child.text, parent).id,
            query_id=self._queries[level - 1].id,
            judged=child.judged,
            reward=reward,
            path_mean=sum(rewards) / len(rewards) if rewards else None,
        )
        self._nodes.append(node)
        return node

    def _candidate(self, text: str, parent: Node | None) -> Candidate:
        if text not in self._candidates:
            made_from = None if parent is None else parent.candidate
            number = len(self._candidates)
            new = Candidate(id=f"p{number}", text=text, parent=made_from, origin=self._proposer.origin)
            self._candidates[text], self._texts[new.id] = new, text
        return self._candidates[text]

    def _count(self, node: Node, proposals: Proposals | None) -> None:
        if proposals is None:
            return
        self._asked += proposals.asked
        if proposals.shortfall is not None:
            self.notes.append(
                f"Node {node.id} has {len(proposals.prompts)} of {self._settings.proposals} children: "
                f"{proposals.shortfall}"
            )

    def _note_unread(self, nodes: Sequence[Node]) -> None:
        for node in nodes:
            if node.judged.value is None:
                note = f"Node {node.id} has no score and counts as 0, as in the published code: {node.judged.unscored}"
                logger.warning(note)
                self.notes.append(note)

    def _best(self) -> list[Candidate]:
        """Return the prompts of the last complete level's beam, best first, each once."""
        by_id = {candidate.id: candidate for candidate in self._candidates.values()}
        beam = self.levels[-1].beam if self.levels else ()
        return [by_id[name] for name in dict.fromkeys(self._nodes[number].candidate for number in beam)]

    def progress(self) -> Progress:
        path = self._path(self._nodes[self.levels[-1].beam[0]])
        rewards = tuple(node.reward for node in path[1:])
        return Progress(self.levels[-1].number, self.limit, tuple(self._best()), self._best()[0], rewards)

    def result(self, ended: Ended) -> SearchResult:
        start, *_ = self._candidates.values()
        best = self._best() or [start]
        nodes = self._nodes
        return SearchResult(
            start=start,
            found=best[0],
            finalists=tuple(candidate for candidate in best if candidate.id != start.id),
            candidates=tuple(self._candidates.values()),
            evaluations=tuple(
                Evaluation(candidate=node.candidate, query_id=node.query_id, judged=node.judged) for node in nodes
            ),
            ended=ended,
            nodes=tuple(nodes),
            levels=tuple(self.levels),
            unscored=sum(node.judged.value is None for node in nodes),
            proposals=self._asked,
            notes=tuple(self.notes),
        )
