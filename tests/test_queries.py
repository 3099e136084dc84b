"""Query augmentation: reading replies, near-duplicates, reasons, the bound, and independence of batches."""

import collections
from collections.abc import Callable, Sequence

import pytest

from windvane.engines.protocols import Advance, no_progress
from windvane.errors import DataError
from windvane.queries import AugmentSettings, augment_queries
from windvane.queries import augmenting as augmenting_module
from windvane.queries.overlap import NearDuplicates, ngrams, overlap
from windvane.queries.prompts import EVOLUTIONS, ask
from windvane.queries.reading import read_instructions
from windvane.types import Completion, Message, Prompt, Query, Sampling

WORDS = [
    "amber", "birch", "cobalt", "dune", "ember", "fjord", "garnet", "heron",
    "indigo", "juniper", "kelp", "lotus", "maple", "nickel", "onyx", "pepper",
]  # fmt: skip


def reply(text: str, finish: str = "stop") -> Completion:
    return Completion(text=text, token_ids=(), finish=finish)


def query(text: str, name: str | None = None) -> Query:
    return Query(id=name or text, messages=(Message(role="user", content=text),))


SEEDS = [query(f"What is a {word} and where does it come from?", f"s{i}") for i, word in enumerate(WORDS[:6])]


class Writer:
    """Answers each prompt with a function of its seed, so that nothing depends on the batch."""

    def __init__(self, answer: Callable[[Prompt], Completion]) -> None:
        self.answer = answer
        self.prompts: list[Prompt] = []
        self.calls: list[int] = []

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, advance: Advance = no_progress
    ) -> list[Completion]:
        self.prompts += prompts
        self.calls.append(len(prompts))
        return [self.answer(prompt) for prompt in prompts]


def distinct(prompt: Prompt) -> Completion:
    digits = [prompt.seed // 16**place % 16 for place in range(4)]
    return reply(" ".join(WORDS[digit] * 2 for digit in digits))


class TestReading:
    @pytest.mark.parametrize(
        ("text", "found"),
        [
            ("Name three rivers.", ["Name three rivers."]),
            ('"Name three rivers."', ["Name three rivers."]),
            ("“Name three rivers.”", ["Name three rivers."]),
            ("**Request:** Name three rivers.", ["Name three rivers."]),
            ("New request: Name three rivers.", ["Name three rivers."]),
            ("Sure! Here is another request:\n\nName three rivers.", ["Name three rivers."]),
            ("Here's a request: Name three rivers.", ["Name three rivers."]),
            ("Here are two requests:\n1. Name three rivers.\n2. Bake a cake.", ["Name three rivers.", "Bake a cake."]),
            ("- Name three rivers.\n- Bake a cake.", ["Name three rivers.", "Bake a cake."]),
            ("1. Name three rivers.", ["Name three rivers."]),
            ("Name three rivers.\n\nThe Rhine, the Nile and the Amazon.", ["Name three rivers."]),
            ("<think>Rivers are good.</think>\nName three rivers.", ["Name three rivers."]),
            ("<think>Rivers are", []),
            ("", []),
            ("  \n ", []),
            ('""', []),
            ("Great ideas for a rainy day?", ["Great ideas for a rainy day?"]),
            ("Sure here is one more request: Name three rivers.", ["Name three rivers."]),
            ('Translate "river" and "sea"', ['Translate "river" and "sea"']),
            ("Sort by size:\n1. cat\n2. whale", ["Sort by size:\n1. cat\n2. whale"]),
            ("A friend says: never lend books. Is that wise?", ["A friend says: never lend books. Is that wise?"]),
        ],
    )
    def test_takes_off_what_a_small_model_adds(self, text: str, found: list[str]) -> None:
        assert read_instructions(reply(text)) == found

    def test_what_was_cut_off_is_left_out(self) -> None:
        assert read_instructions(reply("Name three riv", "length")) == []
        assert read_instructions(reply("1. Name three rivers.\n2. Bake a", "length")) == ["Name three rivers."]
        assert read_instructions(reply("Name three rivers.\n\nThe Rhi", "length")) == ["Name three rivers."]


class TestOverlap:
    def test_is_the_jaccard_of_character_ngrams(self) -> None:
        assert ngrams("Abc, DEF!") == {"abc d", "bc de", "c def"}
        assert ngrams("ab") == {"ab"}
        assert ngrams("?!") == {""}
        assert overlap(ngrams("abcdef"), ngrams("abcdeg")) == pytest.approx(1 / 3)

    def test_ignores_case_spaces_and_punctuation(self) -> None:
        known = NearDuplicates(1.0)
        known.add("How do I boil an egg?")
        match = known.closest("how do  i boil an EGG")
        assert match is not None
        assert match.similarity == 1.0

    def test_names_the_most_similar_text_and_the_first_of_equals(self) -> None:
        known = NearDuplicates(0.5)
        for text in ("How do I boil an egg in a pan?", "How do I boil an egg?", "How do I boil an egg!", "Sing."):
            known.add(text)
        match = known.closest("How do I boil an egg?")
        assert match is not None
        assert match.text == "How do I boil an egg?"

    def test_finds_what_an_exhaustive_search_finds(self) -> None:
        texts = [query_text(i, j) for i in range(12) for j in range(6)]
        known = NearDuplicates(0.6)
        for text in texts[::2]:
            known.add(text)
        missed = 0
        for text in texts[1::2]:
            exact = max(overlap(ngrams(text), ngrams(other)) for other in texts[::2])
            match = known.closest(text)
            if exact >= 0.6:
                missed += match is None or match.similarity != exact
            else:
                assert match is None
        assert missed == 0


def query_text(i: int, j: int) -> str:
    return f"Tell me how the {WORDS[i]} of {WORDS[(i + j) % 16]} is used when {WORDS[j]} meets {WORDS[(3 * j) % 16]}."


class TestAsking:
    def test_invented_queries_follow_seed_queries_as_the_models_own_turns(self) -> None:
        messages = ask(3, "new", SEEDS, shown=4, seed=1).prompt.messages
        own = [message.content for message in messages if message.role == "assistant"]
        assert len(own) == 4 == len(set(own))
        assert set(own) <= {seed.text for seed in SEEDS}
        assert [messages[0].role, messages[-1].role] == ["system", "user"]

    def test_fewer_seeds_than_shown_are_all_shown(self) -> None:
        messages = ask(0, "new", SEEDS[:2], shown=4, seed=1).prompt.messages
        assert sum(message.role == "assistant" for message in messages) == 2

    @pytest.mark.parametrize("operation", list(EVOLUTIONS))
    def test_an_evolution_ends_with_the_seed_query_after_a_common_prefix(self, operation: str) -> None:
        first, second = (ask(n, operation, SEEDS, shown=4, seed=1).prompt.messages for n in (0, 1))
        assert first[:-1] == second[:-1]
        assert any(first[-1].content.endswith(seed.text) for seed in SEEDS)


class TestAugmenting:
    def test_returns_exactly_what_was_wanted_with_ids_and_sources(self) -> None:
        result = augment_queries(SEEDS, Writer(distinct), AugmentSettings(count=20), seed=0)
        assert result.complete
        assert len({item.id for item in result.queries}) == len({item.text for item in result.queries}) == 20
        assert {item.source for item in result.queries} == {
            "augment/new", "augment/deepen", "augment/concretise", "augment/broaden",
        }  # fmt: skip

    @pytest.mark.parametrize(("style", "operations"), [("new", {"new"}), ("evolve", set(EVOLUTIONS))])
    def test_style_decides_the_operations(self, style: str, operations: set[str]) -> None:
        result = augment_queries(SEEDS, Writer(distinct), AugmentSettings(count=12, style=style), seed=0)
        assert {str(item.source).removeprefix("augment/") for item in result.queries} == operations

    def test_does_not_depend_on_how_many_requests_go_out_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        one = augment_queries(SEEDS, Writer(distinct), AugmentSettings(count=12), seed=0)
        monkeypatch.setattr(augmenting_module, "SMALLEST_ROUND", 100)
        other = augment_queries(SEEDS, Writer(distinct), AugmentSettings(count=12), seed=0)
        assert one == other
        assert one != augment_queries(SEEDS, Writer(distinct), AugmentSettings(count=12), seed=1)

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("", "unreadable"),
            ("1234 5678 !!!", "unreadable"),
            ("Hello there", "too_short"),
            ("word " * 101, "too_long"),
            ("I'm sorry, but I cannot think of a request.", "not_a_request"),
            ("Describe the attached photo of a garden.", "incomplete"),
            ("Write a letter to [insert name] about spring.", "incomplete"),
            ("Sum up the text above for a busy reader.", "incomplete"),
            ("list the best list of the best list of the best list of the best", "looping"),
            ("What is a birch, and where does it come from?", "near_duplicate"),
            ("Explain how to mend a wooden boat in the winter!", "evaluation_like"),
        ],
    )
    def test_drops_with_a_reason_and_says_when_there_are_too_few(self, text: str, reason: str) -> None:
        result = augment_queries(
            SEEDS,
            Writer(lambda _: reply(text)),
            AugmentSettings(count=3, requests_per_query=2),
            seed=0,
            evaluation=[query("Explain how to mend a wooden boat in winter.")],
        )
        assert result.queries == []
        assert collections.Counter(item.reason for item in result.dropped) == {reason: 6}
        assert [item.id for item in result.dropped] == [f"request-{n}" for n in range(6)]
        assert not result.complete
        assert "0 of 3 new queries from 6 requests" in result.summary()
        assert "requests_per_query" in result.summary()

    def test_a_second_copy_is_a_near_duplicate_of_the_first(self) -> None:
        writer = Writer(lambda _: reply("Which birds sing at night in a city park?"))
        result = augment_queries(SEEDS, writer, AugmentSettings(count=2, requests_per_query=3), seed=0)
        assert len(result.queries) == 1
        assert {item.reason for item in result.dropped} == {"near_duplicate"}

    def test_the_bound_is_never_exceeded_and_a_surplus_is_not_used(self) -> None:
        writer = Writer(lambda _: reply("no"))
        augment_queries(SEEDS, writer, AugmentSettings(count=5, requests_per_query=5), seed=0)
        assert sum(writer.calls) == 25
        surplus = Writer(lambda p: reply(f"1. {distinct(p).text}\n2. {distinct(Prompt((), p.seed // 7)).text}"))
        result = augment_queries(SEEDS, surplus, AugmentSettings(count=3), seed=0)
        assert len(result.queries) == 3
        assert result.requests == 2

    def test_progress_counts_new_queries(self) -> None:
        counted: list[int] = []
        augment_queries(SEEDS, Writer(distinct), AugmentSettings(count=9), seed=0, advance=counted.append)
        assert sum(counted) == 9

    def test_a_seed_of_several_turns_serves_for_nothing(self) -> None:
        turns = [Message(role="user", content="Hi"), Message(role="assistant", content="Hello"), SEEDS[0].messages[0]]
        with pytest.raises(DataError, match="single user turn"):
            augment_queries([Query(id="m", messages=tuple(turns))], Writer(distinct), AugmentSettings(), seed=0)
        with_system = Query(id="y", messages=(Message(role="system", content="Be kind."), *SEEDS[0].messages))
        assert augment_queries([with_system], Writer(distinct), AugmentSettings(count=2), seed=0).complete
