"""Pairs: preambles leave text and token ids together, and what teaches nothing is dropped with its reason."""

import re
import subprocess
import sys
from collections.abc import Sequence
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st
from pydantic import ValidationError

from tests import tiny
from windvane.engines.chat import ChatFormat
from windvane.errors import DataError
from windvane.pairs import MadePairs, PairSettings, make_pairs, repetition
from windvane.preambles import compile_preambles, preamble_length, without_preamble
from windvane.types import Completion, Message, Principle, Query, ResponseSet

Finish = Literal["stop", "length"]
BYTES = ChatFormat(tiny.tokenizer())
"""One token a byte: every character boundary is a token boundary."""
BUILTIN = compile_preambles(())


class Words:
    """A codec whose tokens are words with the spaces before them, as most vocabularies have it."""

    END = 0

    def __init__(self) -> None:
        self.pieces = [""]

    def response_ids(self, text: str, finish: Finish) -> tuple[int, ...]:
        ids = []
        for piece in re.findall(r" ?[^\s]+|\s", text):
            if piece not in self.pieces:
                self.pieces.append(piece)
            ids.append(self.pieces.index(piece))
        return (*ids, *([self.END] if finish == "stop" else []))

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self.pieces[index] for index in ids)


def said(text: str, finish: Finish = "stop", codec: ChatFormat | Words = BYTES) -> Completion:
    return Completion(text=text, token_ids=codec.response_ids(text, finish), finish=finish)


LEAKS = [
    ("Here is a concise response:\n\n", "Cats purr."),
    ("Here's a short and clear explanation of the tides: ", "The moon pulls."),
    ("Sure! Here is a brief answer to your question:\n", "Yes."),
    ("Certainly, here are two concise answers: ", "1. Yes\n2. No"),
    ("**Short answer:** ", "42"),
    ("Response:\n", "It rains."),
    ("My response: ", "It rains."),
    ("[Concise reply]: ", "It rains."),
    ("Assistant: ", "Hello."),
    ("I'll keep this brief. ", "Cats purr."),
    ("Certainly, I will provide a detailed response to your question:\n\n", "1. Cats"),
    ("I will try to answer in a short reply: ", "Cats."),
    ("As requested: ", "three words."),
    ("In keeping with the principles above, ", "cats purr."),
    ("According to the guidelines: ", "cats purr."),
    ("Sure! Here is a concise response: **Answer:** ", "ok"),
    ("\n\nHere is the summary:\n", "Everyone dies."),
]
HARMLESS = [
    "Here are three tips: sleep, eat, walk.",
    "Here lies the answer to all.",
    "Sure, cats purr.",
    "The answer is 42.",
    "The correct answer to this riddle: a map.",
    "I will always love you. That is the song.",
    "I will give you three reasons. First, rain.",
    "I'll be there at 5. Bring the answer.",
    "Cats: an overview",
    "The response time of a server: 3 ms.",
    "Based on the principle of least action, light bends.",
    "Following the guidelines of the doctor, rest.",
    "This is a question of taste.",
    "As you asked about tides, the moon pulls.",
    "answers: none",
    "",
]


@pytest.mark.parametrize(("preamble", "rest"), LEAKS)
def test_preambles_are_found_to_their_end(preamble: str, rest: str) -> None:
    assert preamble_length(preamble + rest, BUILTIN) == len(preamble)
    assert preamble_length(preamble.strip(), BUILTIN) == len(preamble.strip())  # and where nothing follows


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_no_preamble_is_left_alone(text: str) -> None:
    assert preamble_length(text, BUILTIN) == 0


@pytest.mark.parametrize("finish", ["stop", "length"])
@pytest.mark.parametrize(("preamble", "rest"), LEAKS)
def test_text_and_token_ids_lose_the_same_preamble(preamble: str, rest: str, finish: Finish) -> None:
    for codec in (BYTES, Words()):
        sampled = said(preamble + rest, finish, codec)
        cleaned = without_preamble(sampled, BUILTIN, codec)
        assert cleaned is not None
        assert cleaned.text == rest == codec.decode(cleaned.token_ids)
        assert cleaned.finish == finish
        ends = cleaned.token_ids[-1] == sampled.token_ids[-1]
        assert ends == (finish == "stop") or finish == "length"
    assert (cleaned.token_ids[-1] == Words.END) == (finish == "stop")


def test_sampled_token_ids_are_kept_where_a_token_begins_the_rest() -> None:
    """A tokenizer might spell the rest in another way than the model did; what was sampled is what is trained on."""
    codec = Words()
    codec.pieces += ["My answer:", "\n", "b", " c", "b c"]
    sampled = Completion(text="My answer:\nb c", token_ids=(1, 2, 3, 4, 0), finish="stop")
    assert codec.response_ids("b c", "stop") == (3, 4, 0)
    cleaned = without_preamble(sampled, BUILTIN, codec)
    assert cleaned is not None
    assert cleaned.token_ids == (3, 4, 0)
    merged = without_preamble(sampled.model_copy(update={"token_ids": (1, 2, 5, 0)}), BUILTIN, codec)
    assert merged is not None
    assert merged.token_ids == (5, 0)


def test_a_space_in_the_first_token_of_the_rest_is_no_part_of_it() -> None:
    codec = Words()
    cleaned = without_preamble(said("My answer: yes indeed", codec=codec), BUILTIN, codec)
    assert cleaned is not None
    assert [codec.pieces[index] for index in cleaned.token_ids] == ["yes", " indeed", ""]


def test_a_rest_that_no_token_ids_spell_cannot_be_parted() -> None:
    class Lossy(Words):
        def decode(self, ids: Sequence[int]) -> str:
            return super().decode(ids).upper()

    codec = Lossy()
    assert without_preamble(said("My answer: yes", codec=codec), BUILTIN, codec) is None


def test_no_preamble_no_change_and_servers_give_text_alone() -> None:
    plain = said("Cats purr.")
    assert without_preamble(plain, BUILTIN, None) is plain
    served = Completion(text="My answer: yes", token_ids=(), finish="stop")
    assert without_preamble(served, BUILTIN, None) == Completion(text="yes", token_ids=(), finish="stop")
    with pytest.raises(ValueError, match="codec"):
        without_preamble(said("My answer: yes"), BUILTIN, None)


@profile(deadline=None)
@given(text=st.text(max_size=60), patterns=st.sampled_from([(), ("a+",), (r"\W",)]))
def test_cutting_is_a_suffix_and_says_the_same_in_ids(text: str, patterns: tuple[str, ...]) -> None:
    text = text.encode("utf-8", "ignore").decode()
    cleaned = without_preamble(said(text), compile_preambles(patterns), BYTES)
    assert cleaned is not None
    assert text.endswith(cleaned.text)
    assert BYTES.decode(cleaned.token_ids).rstrip() == cleaned.text.rstrip()
    assert cleaned.token_ids[-1] == BYTES.end_id


def one(good: Completion, bad: Completion, original: Completion | None = None, **settings: object) -> MadePairs:
    query = Query(id="q", messages=(Message(role="user", content="Why?"),), source="here")
    responses = ResponseSet(query_id="q", good=good, bad=bad, original=original or said("Something of its own."))
    return make_pairs([query], [principle("q")], [responses], PairSettings.model_validate(settings), codec=BYTES)


def principle(query_id: str) -> Principle:
    return Principle(query_id=query_id, features=("Concision",), good="Be short.", bad="Be long.", origin="user")


GOOD, BAD = said("Because it rains."), said("There are many reasons, and rain is one of them.")


def reason(made: MadePairs) -> str | None:
    assert len(made.pairs) + len(made.dropped) == 1
    return made.dropped[0].reason if made.dropped else None


def test_a_pair_carries_everything() -> None:
    made = one(GOOD, BAD)
    (pair,) = made.pairs
    assert (pair.id, pair.source, pair.iteration) == ("q", "here", 0)
    assert (pair.chosen, pair.rejected) == (GOOD, BAD)
    assert pair.original is not None
    assert pair.principle == principle("q")
    assert not made.dropped


def test_preambles_go_before_anything_is_judged() -> None:
    assert one(said("My answer: Because it rains."), BAD).pairs[0].chosen == GOOD
    assert reason(one(said("Here is a short answer:\n\nThe same."), said("My long answer: The same."))) == "identical"
    assert reason(one(said("Here is a short answer:"), BAD)) == "empty"
    kept = one(said("My answer: Because it rains."), BAD, builtin_preambles=False)
    assert kept.pairs[0].chosen.text == "My answer: Because it rains."
    assert one(said("Yo! Because it rains."), BAD, extra_preambles=["yo!"]).pairs[0].chosen == GOOD


@pytest.mark.parametrize("text", ["", "  \n", "...", "—"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_empty(text: str, place: int) -> None:
    responses = [GOOD, BAD, said("Rain.")]
    responses[place] = said(text)
    made = one(*responses)
    assert reason(made) == "empty"
    assert made.dropped[0].detail == ("y⁺", "y⁻", "yᵒ")[place]


def test_too_short_looks_at_the_pair_alone() -> None:
    made = one(said("Rain."), BAD, min_words=2)
    assert reason(made) == "too_short"
    assert made.dropped[0].detail == "words: y⁺ 1 (at least 2)"
    assert reason(one(GOOD, BAD, said("Rain."), min_words=2)) is None


def test_identical_but_for_whitespace() -> None:
    made = one(said("Because  it\nrains. "), said("Because it rains.", finish="length"))
    assert reason(made) == "identical"
    assert reason(one(said("Because it rains."), said("because it rains."))) is None
    assert reason(one(GOOD, BAD, original=GOOD)) is None


LOOPS = [
    "The best way is to wait. " * 12,
    "\n".join(f"{number}. Drink plenty of water every day." for number in range(1, 15)),
    "a" * 200,
    "雨が降っているからです。" * 12,
    "I am a cat. " + "very " * 60,
]
PROSE = [
    "The moon pulls at the sea, and the sea follows. Twice a day the water rises and falls along the coast, a little "
    "later each day, since the moon itself has moved on a little by then.",
    "- Apples: 2\n- Pears: 3\n- Plums: 5\n- Flour: 200 g\n- Butter: 100 g\n- Sugar: 80 g",
    "No, no, no, no!",
    "| day | high |\n| --- | --- |\n| Monday | 12 |\n| Tuesday | 14 |\n| Wednesday | 9 |\n| Thursday | 11 |",
    "雨が降っているからです。傘を持って行くか、もう少し待ってから出かけた方がいいと思います。",
]


@pytest.mark.parametrize("text", LOOPS)
def test_loops_are_seen_in_any_response(text: str) -> None:
    assert repetition(text) > 0.6
    assert reason(one(said(text), BAD)) == "looping"
    assert reason(one(GOOD, said(text, finish="length"))) == "looping"
    assert reason(one(GOOD, BAD, said(text))) == "looping"
    assert reason(one(said(text), BAD, max_repetition=1.0)) is None


@pytest.mark.parametrize("text", PROSE)
def test_prose_lists_and_tables_are_no_loops(text: str) -> None:
    assert repetition(text) < 0.2
    assert reason(one(said(text), BAD)) is None


def test_repetition_by_hand() -> None:
    unit = "abcdefghijklmnopqrstuvwx"  # 24 characters, all different
    windows = 24 * 5 - 19
    assert repetition(unit * 5) == pytest.approx(1 - 24 / windows)
    assert repetition(unit) == 0
    assert repetition("a" * 20) == 0
    assert repetition("a" * 21) == pytest.approx(0.5)
    assert repetition("") == 0


@pytest.mark.parametrize("place", [0, 1, 2])
def test_cut_off_responses_are_kept_or_dropped_as_asked(place: int) -> None:
    responses = [GOOD, BAD, said("Rain falls.")]
    responses[place] = said("It goes on and", finish="length")
    kept = one(*responses)
    assert reason(kept) is None
    pair = kept.pairs[0]
    for response in (pair.chosen, pair.rejected, pair.original):
        assert response is not None
        assert (response.token_ids[-1] == BYTES.end_id) == (response.finish == "stop")
    made = one(*responses, cut_off="drop")
    assert reason(made) == "cut_off"
    assert made.dropped[0].detail == f"{('y⁺', 'y⁻', 'yᵒ')[place]} after 4 words"


def test_pairs_and_selection_need_no_torch() -> None:
    check = "import sys, windvane.pairs, windvane.selection; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def queries(*names: str) -> list[Query]:
    return [Query(id=name, messages=(Message(role="user", content=name),)) for name in names]


def responses(name: str, good: str = "Yes, it does.") -> ResponseSet:
    return ResponseSet(query_id=name, good=said(good), bad=said(f"No, {name} does not."), original=said("Perhaps."))


def test_records_are_joined_by_id_never_by_position() -> None:
    names = ["a", "b", "c"]
    made = make_pairs(
        queries(*names),
        [principle(name) for name in reversed(names)],
        [responses(name) for name in ("c", "a", "b")],
        PairSettings(),
        codec=BYTES,
        iteration=2,
    )
    assert [pair.id for pair in made.pairs] == names
    assert [pair.rejected.text for pair in made.pairs] == [f"No, {name} does not." for name in names]
    assert all(pair.principle == principle(pair.id) and pair.iteration == 2 for pair in made.pairs)


@pytest.mark.parametrize(
    ("asked", "principles", "sampled", "what"),
    [
        (["a", "a"], ["a"], ["a"], "occurs twice"),
        (["a", "b"], ["a"], ["a", "b"], "'b' has no principle"),
        (["a", "b"], ["a", "b"], ["a"], "'b' has no responses"),
    ],
)
def test_missing_and_double_records_are_errors(
    asked: list[str], principles: list[str], sampled: list[str], what: str
) -> None:
    with pytest.raises(DataError, match=what):
        make_pairs(
            queries(*asked),
            [principle(n) for n in principles],
            [responses(n) for n in sampled],
            PairSettings(),
            codec=BYTES,
        )


@profile(deadline=None)
@given(texts=st.lists(st.sampled_from(["", "Yes.", "No, q0 does not.", "My answer: Yes.", "ha " * 40]), max_size=6))
def test_every_query_ends_up_in_one_place(texts: list[str]) -> None:
    names = [f"q{index}" for index in range(len(texts))]
    sampled = [responses(name, text) for name, text in zip(names, texts, strict=True)]
    made = make_pairs(queries(*names), map(principle, names), sampled, PairSettings(), codec=BYTES)
    assert sorted([pair.id for pair in made.pairs] + [record.id for record in made.dropped]) == sorted(names)
    assert all(pair.chosen.text == "Yes." or pair.chosen.text.startswith("No") for pair in made.pairs)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"extra_preambles": ["("]}, "no regular expression"),
        ({"extra_preambles": ["a*"]}, "matches the empty text"),
        ({"min_words": 0}, "min_words"),
        ({"max_repetition": 1.5}, "max_repetition"),
        ({"cut_off": "maybe"}, "cut_off"),
        ({"preambles": []}, "preambles"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PairSettings.model_validate(settings)
