"""No prompt stands in two sets."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windvane.data import leave_out, normalised_prompt, split_queries
from windvane.errors import DataError
from windvane.types import Message, Query


def query(name: str, text: str) -> Query:
    return Query(id=name, messages=(Message(role="user", content=text),))


MANY = [query(str(number), f"Query {number}") for number in range(23)]


def test_sets_are_disjoint_cover_all_and_differ_by_one_at_most():
    parts, holdout = split_queries(MANY, parts=3, holdout=5, seed=0)
    assert [len(part) for part in parts] == [6, 6, 6]
    assert len(holdout) == 5
    assert sorted(q.id for q in [*itertools.chain(*parts), *holdout]) == sorted(q.id for q in MANY)


def test_order_and_parts_do_not_move_the_held_out_set_and_the_seed_does():
    first = split_queries(MANY, parts=3, holdout=5, seed=0)
    assert split_queries(MANY[::-1], parts=3, holdout=5, seed=0) == first
    assert split_queries(MANY, parts=1, holdout=5, seed=0).holdout == first.holdout
    assert split_queries(MANY, parts=3, holdout=5, seed=1).holdout != first.holdout


def test_prompts_that_differ_in_case_spaces_or_unicode_form_stay_together():
    same = [query("a", "Was ist Größe?"), query("b", " was ist\nGRÖSSE? "), query("c", "Was ist Gro\u0308ße?")]
    assert len({normalised_prompt(q.messages) for q in same}) == 1
    for seed in range(20):
        parts, holdout = split_queries([*MANY, *same], parts=4, holdout=3, seed=seed)
        assert sorted(len([q for q in group if q in same]) for group in [*parts, holdout]) == [0, 0, 0, 0, 3]


def test_prompts_that_differ_in_punctuation_or_system_message_alone_stay_together():
    under = Query(id="c", messages=(Message(role="system", content="Be brief."), *query("", "What is it?").messages))
    same = [query("a", "What is it?"), query("b", "what is it"), under]
    for seed in range(20):
        parts, holdout = split_queries([*MANY, *same], parts=4, holdout=3, seed=seed)
        assert sorted(len([q for q in group if q in same]) for group in [*parts, holdout]) == [0, 0, 0, 0, 3]
    assert leave_out(same[1:], same[:1]).queries == []


def test_other_signs_and_other_turns_are_other_prompts():
    said = Message(role="assistant", content="Two.")
    first, again = query("a", "How many?"), query("b", "And now?")
    longer = Query(id="c", messages=(*first.messages, said, *again.messages))
    signs = [query("d", "?!"), query("e", "!?")]
    assert len(leave_out([again, longer, *signs[1:]], [first, signs[0]]).queries) == 3


@settings(deadline=None, max_examples=50)
@given(st.lists(st.sampled_from("abcdefgh"), min_size=8), st.integers(1, 3), st.integers(0, 2), st.integers(0, 99))
def test_disjoint_for_any_queries(texts, parts, holdout, seed):
    queries = [query(str(number), text) for number, text in enumerate(texts)]
    if len(set(texts)) < parts + holdout:
        with pytest.raises(DataError):
            split_queries(queries, parts=parts, holdout=holdout, seed=seed)
        return
    split = split_queries(queries, parts=parts, holdout=holdout, seed=seed)
    sets = [{q.text for q in group} for group in (*split.parts, split.holdout)]
    assert all(one.isdisjoint(other) for one, other in itertools.combinations(sets, 2))
    assert set().union(*sets) == set(texts)
    assert all(sets[:parts])


def test_too_few_prompts_are_refused():
    with pytest.raises(
        DataError, match=r"^3 different prompts cannot be split into 2 parts and 2 held-out queries: give more"
    ):
        split_queries(MANY[:3], parts=2, holdout=2, seed=0)


def test_held_out_prompts_are_left_out_with_the_reason():
    kept, dropped = leave_out([query("a", "One"), query("b", "TWO")], [query("h", "two ")])
    assert [q.id for q in kept] == ["a"]
    assert [(d.id, d.reason, d.detail) for d in dropped] == [("b", "held_out", "same prompt as h")]
