"""A server that fails in every way at once, and a judge that cannot be read: every run ends, and nothing is invented.

What the run has on file is held against what the server really said, and what it took against what was announced.
"""

import io
import json
import random
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import pytest
from rich.console import Console

from tests.recipes import drpo_world, small
from tests.recipes.drpo_kills import EXAMPLES
from tests.stub_server import FAULTS, Body, Charge, StubServer
from windvane.config import load_config
from windvane.engines.journal import read_replies
from windvane.recipes.drpo import DrpoResult, run_drpo
from windvane.recipes.drpo_config import DrpoConfig

FAILING = {kind: 0.02 if kind == "timeout" else 0.04 for kind in FAULTS}
"""Share of all replies by kind, 0.3 together; fewer timeouts, since each takes its time."""
TIMEOUT = 1.0
"""Seconds. Much less than the stub is silent, much more than a reply takes."""
RETRIES = 6
PRICES = {
    "model": {"prompt": 1.0, "completion": 2.0},
    "judge": {"prompt": 3.0, "completion": 4.0},
    "optimizer": {"prompt": 5.0, "completion": 6.0},
}
SEARCHES: dict[str, dict[str, Any]] = {
    "racing": {"search": {"type": "racing", "races": 2, "candidates": 4, "most_queries": 8}},
    "paper": {"compat": "paper", "search": {"depth": 6, "extension": 2}},
}
BUDGETS: dict[str, dict[str, dict[str, float]]] = {
    "racing": {"calls": {"calls": 100}, "money": {"money": 0.7}, "tokens": {"tokens": 250_000}},
    "paper": {"calls": {"calls": 100}, "money": {"money": 0.4}, "tokens": {"tokens": 150_000}},
}
"""Each too small for the search that it limits."""
SALT = 0
"""Decides which replies of a judge cannot be read; such that some cannot at the smallest share."""
UNREADABLE = (
    "I would rather not say.",
    '{"Clarity": {"reason": "It is',
    '{"Clarity": {"reason": "Good.", "score": 7}, "Helpfulness": "N/A", "Fit": {"score": 0}}',
    '{"scores": []}',
)
"""Replies of a judge that hold no score."""


class Told(NamedTuple):
    """What a judge was asked and said, in one reply."""

    asked: str
    scores: Mapping[str, int]


class World:
    """The world of `drpo_world`, with a judge that cannot be read now and then; it remembers all verdicts."""

    def __init__(self, unreadable: float = 0.0) -> None:
        self._share = unreadable
        self.told: dict[str, Told] = {}
        """By the mark of the reply."""
        self.unreadable = 0

    def reply(self, body: Body, index: int) -> str:
        said = drpo_world.marked(body, index)
        if role_of(body) != "judge" or "You prepare" in body["messages"][0]["content"]:
            return said
        mark = drpo_world.mark_of(body, index)
        chance = random.Random(f"{SALT} {mark}").randrange(1000 * len(UNREADABLE))
        if chance % 1000 < 1000 * self._share:
            self.unreadable += 1
            return UNREADABLE[chance // 1000]
        scores = {aspect: verdict["score"] for aspect, verdict in json.loads(said).items()}
        self.told[mark] = Told(body["messages"][-1]["content"], scores)
        return said


class Bound(NamedTuple):
    """What the run said before its first call."""

    calls: int
    tokens: int
    money: float


def role_of(body: Body) -> str:
    system = body["messages"][0]["content"]
    if "windvane judging texts" in system:
        return "judge"
    own = "windvane prompt search texts" in system or "windvane example texts" in system
    return "optimizer" if own else "model"


def cost(charge: Charge) -> float:
    price = PRICES[role_of(charge.body)]
    return (charge.prompt * price["prompt"] + charge.completion * price["completion"]) / 1e6


def drpo(
    stub: StubServer, folder: Path, search: str, *, budget: Mapping[str, float] | None = None, timeout: float = 60.0
) -> tuple[DrpoResult, Bound]:
    """Run a search to its end; return what came out, and the bound that was announced."""
    small.write_queries(folder / "queries.jsonl")
    (folder / "examples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in EXAMPLES), encoding="utf-8")
    values = drpo_world.config(
        stub, folder / "run", folder / "queries.jsonl",
        judge="dynamic", examples=str(folder / "examples.jsonl"), rewriting={"attempts": 2},
        retrieval={"by": "bm25", "k": 1}, budget={**(budget or {}), "prices": PRICES}, **SEARCHES[search],
    )  # fmt: skip
    values["model"] |= {"timeout": timeout, "retries": RETRIES, "backoff": 0.001}
    console = Console(record=True, width=400, file=io.StringIO())
    result = run_drpo(load_config(DrpoConfig, drpo_world.written(folder / "config.yaml", values)), console=console)
    clauses = console.export_text().replace("; ", "\n")  # the last is what a budget leaves room for
    *_, (calls, tokens, money) = re.findall(r"(\d+) calls.* ([\d,]+) tokens, ([\d.]+) of money", clauses)
    return result, Bound(int(calls), int(tokens.replace(",", "")), float(money))


def faulty(world: World) -> StubServer:
    """Return a server that fails in all its ways, three replies in ten."""
    assert sum(FAILING.values()) == pytest.approx(0.3)
    return StubServer(reply=world.reply, faults=FAILING, count=in_bytes, retry_after="0.01", hang=60.0)


def in_bytes(text: str) -> int:
    """Return the tokens of a byte-level tokenizer, so that real costs come near to what is reserved."""
    return len(text.encode())


@pytest.mark.timeout(120)
@pytest.mark.parametrize("search", SEARCHES)
def test_with_three_replies_in_ten_failing_a_run_comes_to_its_end(search: str, tmp_path: Path) -> None:
    world = World()
    with faulty(world) as stub:
        result, bound = drpo(stub, tmp_path, search, timeout=TIMEOUT)
    assert set(stub.failed) == set(FAULTS)
    assert 0.2 < stub.failed.total() / stub.total < 0.4
    assert result.search.ended == "finished"
    assert result.proof.stopped is None
    on_file = len(list(read_replies(result.run / "replies.jsonl")))
    assert on_file <= bound.calls
    assert stub.total <= on_file + stub.failed.total()
    spent = spent_at(stub)
    for most, real in zip(bound, spent, strict=True):
        assert real <= (1 + RETRIES) * most  # it was said to be without what is sent again
    assert len(list(judgements(result.run))) > 80
    assert invented(result.run, world) == []


@pytest.mark.timeout(120)
@pytest.mark.parametrize("limit", ["calls", "money", pytest.param("tokens", marks=pytest.mark.slow)])
@pytest.mark.parametrize("search", SEARCHES)
def test_failures_do_not_overstep_a_budget(search: str, limit: str, tmp_path: Path) -> None:
    world, budget = World(), BUDGETS[search][limit]
    with faulty(world) as stub:
        result, bound = drpo(stub, tmp_path, search, budget=budget, timeout=TIMEOUT)
    assert getattr(bound, limit) == budget[limit]
    assert result.search.ended == "budget"
    assert stub.failed.total() > 3
    spent = spent_at(stub)
    for most, real in zip(bound, spent, strict=True):
        assert 0 < real <= most
    # A search leaves the proof what it can take, and at most half: with nothing to prove, that is left.
    proved = result.proof.verdict != "nothing to prove"
    assert proved or getattr(spent, limit) <= budget[limit] / 2
    if limit == "calls":
        assert spent.calls == (budget["calls"] if proved else budget["calls"] / 2)
    assert invented(result.run, world) == []


@pytest.mark.timeout(120)
@pytest.mark.parametrize("share", [*(pytest.param(share, marks=pytest.mark.slow) for share in (0.0, 0.02)), 0.07, 0.2])
@pytest.mark.parametrize("search", SEARCHES)
def test_a_judge_that_cannot_be_read_now_and_then_is_never_given_a_score(
    search: str, share: float, tmp_path: Path
) -> None:
    world = World(unreadable=share)
    with StubServer(reply=world.reply, faults={"malformed": share}) as stub:
        result, bound = drpo(stub, tmp_path, search)
    assert stub.total - stub.failed.total() <= bound.calls
    assert (stub.failed["malformed"] > 0) == (share > 0)
    assert (world.unreadable > 0) == (share > 0)
    assert share / 3 <= world.unreadable / (world.unreadable + len(world.told)) <= 2 * share
    assert invented(result.run, world) == []
    missing = [one for one in judgements(result.run) if one["unscored"] is not None]
    if search == "paper":  # where nothing is asked again
        assert (len(missing) > 0) == (share > 0)
        assert {one["score"] for one in missing} <= {0.0}
    else:  # the few that could not be read twice
        assert missing or share < 0.2
        assert not missing or share > 0
        assert 2 * len(missing) <= world.unreadable
        assert {one["score"] for one in missing} <= {None}


def spent_at(stub: StubServer) -> Bound:
    """Return what the server has seen and would charge for."""
    tokens = sum(charge.prompt + charge.completion for charge in stub.charges)
    return Bound(stub.total, tokens, sum(map(cost, stub.charges)))


def judgements(run: Path) -> Iterator[dict[str, Any]]:
    """Yield every judgement on file: of the examples' versions, of the search and of the proof."""
    for name in ("examples", "search", "proof"):
        for line in (run / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
            yield from _judgements(json.loads(line), None)


def _judgements(value: Any, output: str | None) -> Iterator[dict[str, Any]]:
    if isinstance(value, list):
        for one in value:
            yield from _judgements(one, None)
    if isinstance(value, dict):
        output = value.get("output", value.get("answer", output))
        if {"score", "aspects", "unscored"} <= set(value):
            yield {**value, "output": output}
        else:
            for one in value.values():
                yield from _judgements(one, output)


def invented(run: Path, world: World) -> list[dict[str, Any]]:
    """Return the judgements that no judge has made."""
    return [one for one in judgements(run) if not _was_said(one, world)]


def _was_said(judgement: Mapping[str, Any], world: World) -> bool:
    """Whether each score was said of this output, in a reply that the server gave, and the whole is their mean."""
    scores = []
    for aspect in judgement["aspects"]:
        if aspect["score"] is None:
            assert aspect["unscored"]
            continue
        (mark,) = drpo_world.MARK.findall(aspect["reason"])
        told = world.told[mark]
        if told.scores[aspect["aspect"]] != aspect["score"] or judgement["output"] not in told.asked:
            return False
        scores.append(aspect["score"])
    if scores:
        return judgement["unscored"] is None and judgement["score"] == pytest.approx(fmean(scores))
    stands_in = judgement["score"] == 0.0  # of the published algorithm, which says so
    return bool(judgement["unscored"]) and (judgement["score"] is None or stands_in)
