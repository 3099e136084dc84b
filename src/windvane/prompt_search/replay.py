"""Recorded search trees: read from a file, and asked instead of models.

One line of JSON a node: ``run, node, parent, level, system_prompt, query, output, judgement`` (aspect -> ``score`` 1
to 5 as text and ``rationale``; empty where the judge's reply could not be read), ``reward, on_best_path, terminal,
path_mean_reward``. `ReplayEvaluator` and `ReplayProposer` give the recorded answers, so a search that makes the
recorded decisions walks the recorded tree, and one that makes another is told at once that this was never asked.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from pydantic import ValidationError

from windvane.errors import DataError
from windvane.judging.records import AspectScore
from windvane.prompt_search.contracts import Context, Proposals
from windvane.prompt_search.records import Judged
from windvane.types import Message, Query, Record

UNREADABLE = "the judge's reply could not be read"


class RecordedScore(Record):
    """One aspect's score, as it is written in the file."""

    score: str
    rationale: str = ""


class RecordedNode(Record):
    """One line of the file."""

    run: str
    node: int
    parent: int | None
    level: int
    """The root's is 1."""
    system_prompt: str
    query: str
    output: str
    judgement: dict[str, RecordedScore]
    reward: float
    on_best_path: bool
    terminal: bool
    """Whether it is the end of the best path."""
    path_mean_reward: float | None

    def judged(self) -> Judged:
        """Return the node's answer and score, unscored where the judgement could not be read."""
        aspects = tuple(
            AspectScore(aspect=name, score=float(said.score), reason=said.rationale)
            for name, said in self.judgement.items()
        )
        if not aspects:
            return Judged(output=self.output, score=None, unscored=UNREADABLE)
        return Judged(output=self.output, score=fmean(float(a.score or 0) for a in aspects), aspects=aspects)


class RecordedTree(NamedTuple):
    """One search."""

    run: str
    nodes: tuple[RecordedNode, ...]
    """In the order of their numbers."""

    @property
    def start(self) -> str:
        """The prompt that it began with."""
        return self.nodes[0].system_prompt

    @property
    def queries(self) -> list[Query]:
        """The query of each level."""
        texts = {node.level: node.query for node in self.nodes}
        return [_query(texts[level]) for level in sorted(texts)]

    def children(self, node: RecordedNode) -> list[RecordedNode]:
        """Return a node's children in order."""
        return [other for other in self.nodes if other.parent == node.node]


def read_trees(path: Path) -> list[RecordedTree]:
    """Return the trees of a file, in the order in which they begin; raises `DataError` naming the line."""
    runs: dict[str, list[RecordedNode]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            node = RecordedNode.model_validate(json.loads(line))
        except (json.JSONDecodeError, ValidationError) as error:
            raise DataError(f"{path}, line {number}: not a node of a recorded search: {error}") from error
        runs.setdefault(node.run, []).append(node)
    trees = [RecordedTree(run, tuple(sorted(nodes, key=lambda node: node.node))) for run, nodes in runs.items()]
    for tree in trees:
        if [node.node for node in tree.nodes] != list(range(len(tree.nodes))):
            raise DataError(f"{path}: the nodes of {tree.run} are not numbered from 0 without gaps.")
    return trees


class ReplayEvaluator:
    """Answers from recorded trees."""

    def __init__(self, tree: RecordedTree) -> None:
        self._judged = {(node.system_prompt, node.query): node.judged() for node in tree.nodes}
        self.asked: list[tuple[str, str]] = []
        """Prompt and query of each evaluation, in the order in which they were asked for."""

    async def evaluate(self, system_prompt: str, query: Query) -> Judged:
        """Return what is on file; raises `DataError` for what is not."""
        self.asked.append((system_prompt, query.text))
        if (system_prompt, query.text) not in self._judged:
            raise DataError(f"No recorded node judges {system_prompt[:60]!r} on {query.text[:60]!r}.")
        return self._judged[system_prompt, query.text]

    async def prepare(self, query: Query) -> None:
        """Do nothing."""

    async def anticipate(self, system_prompt: str, query: Query) -> None:
        """Do nothing."""


class ReplayProposer:
    """Proposes what was proposed."""

    origin = "recorded"

    def __init__(self, tree: RecordedTree) -> None:
        self._children = {
            (node.system_prompt, node.query): [child.system_prompt for child in tree.children(node)]
            for node in tree.nodes
        }
        self.contexts: list[Context] = []
        """What it was told each time."""

    async def propose(self, context: Context, n: int) -> Proposals:
        """Return the children of the node that the context shows; raises `DataError` where it has not `n` of them."""
        self.contexts.append(context)
        texts = self._children.get((context.prompt, _shown(context)), [])
        if len(texts) != n:
            raise DataError(
                f"{n} proposals were asked for where the recorded tree has {len(texts)}: {context.prompt[:60]!r} "
                f"after {_shown(context)[:60]!r}."
            )
        return Proposals(texts)


def best_path(nodes: Sequence[RecordedNode]) -> list[int]:
    """Return the numbers of the nodes on the path that was found best, from the root."""
    return [node.node for node in nodes if node.on_best_path]


def _shown(context: Context) -> str:
    return context.seen[0].query.text if context.seen else ""


def _query(text: str) -> Query:
    return Query(id=text, messages=(Message(role="user", content=text),))
