"""The example queries and principles: enough of them, all different, all usable."""

import collections
import json
from pathlib import Path

import pytest

from windvane.principles import UserPrinciples, choose_principles, read_features
from windvane.queries.overlap import NearDuplicates
from windvane.types import Message, Query

EXAMPLES = Path(__file__).parent.parent / "examples"
ROWS = [json.loads(line) for line in (EXAMPLES / "queries.jsonl").read_text(encoding="utf-8").splitlines()]


def test_there_are_at_least_two_hundred_with_running_ids() -> None:
    assert len(ROWS) >= 200
    assert [row["id"] for row in ROWS] == [f"q-{number:03d}" for number in range(1, len(ROWS) + 1)]
    assert {tuple(row) for row in ROWS} == {("id", "prompt", "category")}


def test_they_are_short_requests_in_plain_text() -> None:
    for row in ROWS:
        assert row["prompt"] == row["prompt"].strip()
        assert 5 <= len(row["prompt"].split()) <= 60, row
        assert row["prompt"].isprintable(), row


def test_they_are_varied() -> None:
    categories = collections.Counter(row["category"] for row in ROWS)
    assert len(categories) >= 12
    assert max(categories.values()) <= 0.1 * len(ROWS)


def test_any_beginning_of_the_file_is_a_mixture() -> None:
    assert len({row["category"] for row in ROWS[:16]}) >= 12


def test_no_two_are_nearly_the_same() -> None:
    known = NearDuplicates(0.5)
    for row in ROWS:
        assert known.closest(row["prompt"]) is None, row
        known.add(row["prompt"])


@pytest.mark.parametrize("name", ["concise", "structured"])
def test_example_principles_are_one_short_feature(name: str) -> None:
    path = EXAMPLES / "principles" / f"{name}.yaml"
    (feature,) = read_features(path)
    query = Query(id="q", messages=(Message(role="user", content="Why?"),))
    (principle,) = choose_principles([query], UserPrinciples(path=path), seed=0)
    assert principle.origin == "user"
    assert principle.features == (feature.name,)
    assert feature.good_principle in principle.good
    assert feature.bad_principle in principle.bad
    assert max(len(principle.good.split()), len(principle.bad.split())) <= 60
