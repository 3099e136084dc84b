"""Principles: the bank, the user's files, the choice of features, what a model writes, and the system message."""

import collections
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from pydantic import Field, ValidationError

from windvane.config import Settings, load_config
from windvane.engines.protocols import Advance, no_progress
from windvane.errors import ConfigError
from windvane.principles import (
    BankPrinciples,
    GeneratedPrinciples,
    PrincipleSettings,
    UserPrinciples,
    choose_principles,
    feature_bank,
    read_features,
    steering_text,
    system_message,
)
from windvane.principles.choosing import named_features
from windvane.principles.prompts import QUERY_WORDS, choice_messages, excerpt, prompts, writing_messages
from windvane.principles.writing import MAX_WORDS, PrinciplePair, Unreadable, read_pair
from windvane.types import Completion, Message, Prompt, Query, Sampling

BANK = feature_bank()
SEVEN = ["Safety", "Logicality", "Comprehensiveness", "Helpfulness", "Literariness", "Accuracy", "Engagement"]
RANDOM = BankPrinciples(choice="random")
GOOD, BAD = "Name the exact year.", "Give a wrong year."
ASKED = Query(id="asked", messages=(Message(role="user", content="Say it: show me the DOOR, please. Why?"),))
USABLE = json.dumps({"good": GOOD, "bad": BAD})


def queries(n: int) -> list[Query]:
    return [Query(id=f"q{i}", messages=(Message(role="user", content=f"What is number {i}?"),)) for i in range(n)]


def reply(text: str, finish: str = "stop") -> Completion:
    return Completion(text=text, token_ids=(), finish=finish)


class Writer:
    """Answers the choice with one function and the writing with another, and remembers what it was asked."""

    def __init__(self, write: Callable[[Prompt], str] = lambda _: USABLE, choose: str = "") -> None:
        self.write, self.choose = write, choose
        self.calls: list[list[Prompt]] = []

    def generate(
        self, asked: Sequence[Prompt], sampling: Sampling, *, advance: Advance = no_progress
    ) -> list[Completion]:
        self.calls.append(list(asked))
        advance(len(asked))
        choice = asked[0].messages[0].content.startswith(prompts().choose.system[:40])
        return [reply(self.choose if choice else self.write(prompt)) for prompt in asked]


class TestBank:
    def test_has_the_seven_features_and_concision(self) -> None:
        assert [feature.name for feature in BANK.choosable] == SEVEN
        assert BANK.concision.name == "Concision"

    def test_texts_differ_and_are_short(self) -> None:
        features = (*BANK.choosable, BANK.concision)
        texts = [
            text for f in features for text in (f.good_principle, f.bad_principle, f.good_adjective, f.bad_adjective)
        ]
        assert len(set(texts)) == len(texts)
        assert max(len(text.split()) for text in texts) <= 25

    def test_examples_of_the_prompts_name_features_of_the_bank(self) -> None:
        for example in prompts().choose.examples:
            assert set(example.names) <= set(SEVEN)


class TestSystemMessage:
    def test_says_adjectives_and_principles_and_asks_not_to_mention_them(self) -> None:
        accuracy, concision = BANK.choosable[5], BANK.concision
        assert system_message([accuracy, concision], "good") == (
            f"Your response should be accurate and concise. {accuracy.good_principle} {concision.good_principle} "
            "Do not mention these instructions."
        )
        assert system_message([concision], "bad") == (
            f"Your response should be wordy. {concision.bad_principle} Do not mention these instructions."
        )

    def test_joins_three_adjectives_and_ends_sentences(self) -> None:
        assert steering_text(["a", "b", "c"], ["Go on", "Stop!"]) == (
            "Your response should be a, b and c. Go on. Stop! Do not mention these instructions."
        )

    def test_needs_something_to_say(self) -> None:
        with pytest.raises(ValueError, match="at least one"):
            system_message([], "good")


class TestRandomChoice:
    def test_one_principle_a_query_in_order_with_distinct_features(self) -> None:
        found = choose_principles(queries(30), RANDOM, seed=0)
        assert [principle.query_id for principle in found] == [f"q{i}" for i in range(30)]
        for principle in found:
            own = [name for name in principle.features if name != "Concision"]
            assert len(own) == len(set(own)) == 2
            assert principle.origin == "bank"
            features = [f for name in principle.features for f in (*BANK.choosable, BANK.concision) if f.name == name]
            assert principle.good == system_message(features, "good")
            assert principle.bad == system_message(features, "bad")

    def test_does_not_depend_on_neighbours_order_or_batch(self) -> None:
        whole = choose_principles(queries(20), RANDOM, seed=3)
        assert [choose_principles([query], RANDOM, seed=3)[0] for query in queries(20)] == whole
        assert choose_principles(queries(20)[::-1], RANDOM, seed=3) == whole[::-1]
        assert choose_principles(queries(20), RANDOM, seed=4) != whole

    def test_every_feature_is_drawn_about_equally_often(self) -> None:
        names = collections.Counter(
            name for principle in choose_principles(queries(700), RANDOM, seed=0) for name in principle.features
        )
        assert set(names) == {*SEVEN, "Concision"}
        assert all(150 < names[name] < 250 for name in SEVEN)  # 200 expected, standard deviation 12
        assert 100 < names["Concision"] < 180  # 140 expected, standard deviation 11

    @pytest.mark.parametrize(("rate", "share"), [(0.0, 0), (1.0, 50)])
    def test_concision_rate_at_its_ends(self, rate: float, share: int) -> None:
        settings = BankPrinciples(choice="random", concision_rate=rate)
        found = choose_principles(queries(50), settings, seed=0)
        assert sum("Concision" in principle.features for principle in found) == share

    def test_n_features_up_to_all_seven(self) -> None:
        settings = BankPrinciples(n_features=7, choice="model", concision_rate=0)
        assert choose_principles(queries(1), settings, seed=0)[0].features == tuple(SEVEN)  # no model is needed


class TestChoiceByModel:
    @pytest.mark.parametrize(
        ("text", "names"),
        [
            ("Safety, Accuracy", ["Safety", "Accuracy"]),
            ("accuracy and SAFETY matter most", ["Accuracy", "Safety"]),
            ("1. **Helpfulness**\n2. Engagement", ["Helpfulness", "Engagement"]),
            ("The answer should be logical and accurate.", ["Logicality", "Accuracy"]),
            ("Safety, Safety, Safety", ["Safety"]),
            ("inaccurate, unsafe, unhelpful", []),
            ("Kindness", []),
            ("", []),
        ],
    )
    def test_reads_leniently(self, text: str, names: list[str]) -> None:
        assert [feature.name for feature in named_features(text, BANK.choosable)] == names

    def test_takes_what_is_named_and_fills_up_by_seed(self) -> None:
        settings = BankPrinciples(concision_rate=0)
        two = choose_principles(queries(3), settings, generator=Writer(choose="Engagement, Safety, Accuracy"), seed=0)
        assert {principle.features for principle in two} == {("Engagement", "Safety")}
        one = choose_principles(queries(40), settings, generator=Writer(choose="Engagement!"), seed=0)
        assert {principle.features[0] for principle in one} == {"Engagement"}
        assert len({principle.features[1] for principle in one}) == 6
        none = choose_principles(queries(40), settings, generator=Writer(choose="Hm."), seed=0)
        assert none == choose_principles(queries(40), BankPrinciples(choice="random", concision_rate=0), seed=0)

    def test_conversation_has_one_prefix_for_all_queries(self) -> None:
        first, second = (choice_messages(query, BANK.choosable) for query in queries(2))
        assert first[:-1] == second[:-1]
        assert len(first) > 6
        assert first[-1].content.endswith("What is number 0?")

    def test_examples_of_other_features_are_not_shown(self) -> None:
        assert [m.role for m in choice_messages(queries(1)[0], [BANK.concision])] == ["system", "user"]

    def test_a_missing_model_is_an_error_with_ways_out(self) -> None:
        with pytest.raises(ConfigError, match="choice: random"):
            choose_principles(queries(1), BankPrinciples(), seed=0)
        with pytest.raises(ConfigError, match="generated"):
            choose_principles(queries(1), GeneratedPrinciples(choice="random"), seed=0)

    def test_a_long_query_is_shown_in_part(self) -> None:
        text = " ".join(map(str, range(1000)))
        assert len(excerpt(text).split()) == QUERY_WORDS + 1
        assert excerpt(text).startswith("0 1 2")
        assert excerpt(text).endswith("998 999")


class TestReadPair:
    @pytest.mark.parametrize(
        "text",
        [
            USABLE,
            f"Sure! Here are the principles:\n{USABLE}\nI hope that this helps {{you}}.",
            f"```json\n{USABLE}\n```",
            f"<think>A pair {{…}} is wanted.</think>{USABLE}",
            f'{{"good": "{GOOD}", "bad": "{BAD}",}}',
            f"{{'good': '{GOOD}', 'bad': '{BAD}'}}",
            f'{{good: "{GOOD}", bad: "{BAD}"}}',
            f'{{"good": "{GOOD}" "bad": "{BAD}"',
            f'{{"Good principle": "{GOOD}", "bad_principle": "{BAD}"}}',
            f'{{"GOOD": "  {GOOD}\n", "BAD": "{BAD}", "reason": "because"}}',
            f"[{USABLE}]",
            f"For {{query}}: {USABLE}",
            f'{{"principles": {USABLE}}}',
            f"{USABLE}\n{USABLE}",
        ],
    )
    def test_reads_what_models_write(self, text: str) -> None:
        assert read_pair(reply(text), ASKED) == PrinciplePair(good=GOOD, bad=BAD)

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            ("", "no JSON object"),
            (f"good: {GOOD} bad: {BAD}", "no JSON object"),
            ('["a", "b"]', "no JSON object"),
            ("{}", '"good"'),
            (f'{{"good": "{GOOD}"}}', '"bad"'),
            (f'{{"p1": "{GOOD}", "p2": "{BAD}"}}', '"good"'),
            (f'{{"good": "", "bad": "{BAD}"}}', "it is empty"),
            (f'{{"good": "...", "bad": "{BAD}"}}', "it is empty"),
            (f'{{"good": null, "bad": "{BAD}"}}', '"good"'),
            (f'{{"good": ["{GOOD}"], "bad": "{BAD}"}}', '"good"'),
            (f'{{"good": "{GOOD}", "bad": " name the exact YEAR"}}', "the same"),
            (f'{{"good": "{"go on " * MAX_WORDS}", "bad": "{BAD}"}}', "words"),
            (f'{{"good": "{GOOD}", "bad": "Show me the door!"}}', "repeats the request"),
        ],
    )
    def test_what_cannot_be_used_says_why(self, text: str, why: str) -> None:
        result = read_pair(reply(text), ASKED)
        assert isinstance(result, Unreadable)
        assert why in result.why

    def test_a_copy_of_an_example_is_none_of_this_query(self) -> None:
        example = prompts().write.examples[0]
        result = read_pair(reply(json.dumps({"good": example.good, "bad": BAD})), ASKED)
        assert isinstance(result, Unreadable)
        assert "copies" in result.why

    def test_a_principle_that_was_cut_off_is_not_repaired(self) -> None:
        text = f'{{"good": "{GOOD}", "bad": "Give a wr'
        assert read_pair(reply(text, "length"), ASKED) == Unreadable("it was cut off before the JSON object ended")


class TestGenerated:
    settings = GeneratedPrinciples(choice="random", concision_rate=0)

    def test_one_pair_for_each_feature(self) -> None:
        writer = Writer()
        (found,) = choose_principles(queries(1), self.settings, generator=writer, seed=0)
        assert found.origin == "generated"
        assert found.good.count(GOOD) == 2
        assert found.bad.count(BAD) == 2
        assert [len(call) for call in writer.calls] == [2]
        names = list(found.features)
        for prompt, name in zip(writer.calls[0], names, strict=True):
            assert name in prompt.messages[-1].content

    def test_one_pair_for_the_query(self) -> None:
        writer = Writer()
        settings = GeneratedPrinciples(choice="random", scope="query", concision_rate=1)
        (found,) = choose_principles(queries(1), settings, generator=writer, seed=0)
        assert found.good.count(GOOD) == 1
        assert len(found.features) == 3
        assert all(name in writer.calls[0][0].messages[-1].content for name in found.features)

    def test_is_asked_again_once_with_the_complaint_and_another_seed(self) -> None:
        writer = Writer(lambda p: USABLE if "could not be used" in p.messages[-1].content else "Hm.")
        found = choose_principles(queries(2), self.settings, generator=writer, seed=0)
        assert {principle.origin for principle in found} == {"generated"}
        first, second = writer.calls
        assert len(first) == len(second) == 4
        assert "no JSON object" in second[0].messages[-1].content
        assert len({prompt.seed for prompt in first + second}) == 8
        assert first[0].messages[:-1] == second[0].messages[:-1]

    def test_then_the_bank_stands_in_for_that_feature_only(self) -> None:
        writer = Writer(lambda p: USABLE if "Safety" in p.messages[-1].content else "Hm.", choose="Safety, Accuracy")
        settings = GeneratedPrinciples(concision_rate=0)
        (found,) = choose_principles(queries(1), settings, generator=writer, seed=0)
        assert found.origin == "fallback"
        assert GOOD in found.good
        assert BANK.choosable[5].good_principle in found.good
        assert BANK.choosable[0].good_principle not in found.good

    def test_a_useless_model_gives_the_banks_texts(self) -> None:
        bank = choose_principles(queries(20), RANDOM, seed=0)
        for scope in ("feature", "query"):
            settings = GeneratedPrinciples(choice="random", scope=scope)
            found = choose_principles(queries(20), settings, generator=Writer(lambda _: "…"), seed=0)
            assert [p.model_copy(update={"origin": "bank"}) for p in found] == bank
            assert {p.origin for p in found} == {"fallback"}

    def test_does_not_depend_on_the_batch(self) -> None:
        def write(prompt: Prompt) -> str:
            return json.dumps({"good": f"Go {prompt.seed}.", "bad": f"Halt {prompt.seed}."}) if prompt.seed % 3 else "?"

        whole = choose_principles(queries(10), self.settings, generator=Writer(write), seed=0)
        alone = [choose_principles([q], self.settings, generator=Writer(write), seed=0)[0] for q in queries(10)]
        assert whole == alone

    def test_prompt_ends_with_query_and_qualities_after_a_common_prefix(self) -> None:
        one, other = (writing_messages(query, BANK.choosable[:1]) for query in queries(2))
        assert one[:-1] == other[:-1]
        assert [m.role for m in one] == ["system", *["user", "assistant"] * 3, "user"]
        for example in one[2::2]:
            assert set(json.loads(example.content)) == {"good", "bad"}


FEATURE = {
    "name": "Tone",
    "good_adjective": "warm",
    "bad_adjective": "cold",
    "meaning": "how friendly it is",
    "good_principle": "Be warm.",
    "bad_principle": "Be cold.",
}


def written(folder: Path, *features: dict[str, object]) -> Path:
    path = folder / "mine.yaml"
    path.write_text(json.dumps({"features": features}), encoding="utf-8")
    return path


class TestUserFile:
    def test_all_features_serve_every_query(self, tmp_path: Path) -> None:
        path = written(tmp_path, FEATURE, {**FEATURE, "name": "Length"})
        found = choose_principles(queries(3), UserPrinciples(path=path), seed=0)
        assert {(p.features, p.origin) for p in found} == {(("Tone", "Length"), "user")}
        assert {p.good for p in found} == {system_message(read_features(path), "good")}

    def test_some_features_by_seed_or_by_model(self, tmp_path: Path) -> None:
        path = written(tmp_path, *({**FEATURE, "name": name} for name in ("Rhyme", "Metre", "Rhythm")))
        drawn = choose_principles(queries(60), UserPrinciples(path=path, n_features=1), seed=0)
        assert {p.features for p in drawn} == {("Rhyme",), ("Metre",), ("Rhythm",)}
        asked = UserPrinciples(path=path, n_features=1, choice="model")
        named = choose_principles(queries(3), asked, generator=Writer(choose="rhythm"), seed=0)
        assert {p.features for p in named} == {("Rhythm",)}

    def test_more_features_than_there_are(self, tmp_path: Path) -> None:
        settings = UserPrinciples(path=written(tmp_path, FEATURE), n_features=2)
        with pytest.raises(ConfigError, match=r"n_features is 2, but .*mine.yaml has 1"):
            choose_principles(queries(1), settings, seed=0)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"good_adjektive": "x"}, "good_adjektive"),
            ({"name": ""}, "empty"),
            ({"name": 5}, "name"),
            ({"meaning": "   "}, "empty"),
            ({"good_principle": None}, "good_principle"),
            ({"bad_principle": "be WARM"}, "good and bad are both"),
            ({"bad_adjective": "warm"}, "good and bad are both"),
            ({"name": "x" * 61}, "60"),
        ],
    )
    def test_a_wrong_feature_is_named(self, tmp_path: Path, change: dict[str, object], said: str) -> None:
        path = written(tmp_path, {**FEATURE, **change})
        with pytest.raises(ConfigError) as caught:
            read_features(path)
        assert said in str(caught.value)
        assert "Traceback" not in str(caught.value)

    @pytest.mark.parametrize("key", list(FEATURE))
    def test_a_missing_key_is_named(self, tmp_path: Path, key: str) -> None:
        path = written(tmp_path, {name: text for name, text in FEATURE.items() if name != key})
        with pytest.raises(ConfigError, match=key):
            read_features(path)

    @pytest.mark.parametrize("text", ["", "features: []", "features: 3", "[]", "features: [", "name: Tone"])
    def test_a_file_of_another_shape(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "odd.yaml"
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError, match=r"features|odd\.yaml"):
            read_features(path)

    def test_two_features_of_one_name(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="'tone'"):
            read_features(written(tmp_path, FEATURE, {**FEATURE, "name": "TONE"}))

    def test_a_missing_file_and_a_folder(self, tmp_path: Path) -> None:
        for path in (tmp_path / "no.yaml", tmp_path):
            with pytest.raises(ConfigError, match=r"concise\.yaml"):
                read_features(path)

    def test_line_breaks_in_a_text_are_spaces(self, tmp_path: Path) -> None:
        path = tmp_path / "block.yaml"
        rest = "".join(f"    {key}: {text}\n" for key, text in FEATURE.items() if key not in ("name", "good_principle"))
        path.write_text(
            f"features:\n  - name: Tone\n    good_principle: |\n      Be warm.\n      Be kind.\n{rest}",
            encoding="utf-8",
        )
        assert read_features(path)[0].good_principle == "Be warm. Be kind."


class Holder(Settings):
    """A configuration with principles in it."""

    principles: PrincipleSettings = Field(default=BankPrinciples())
    """Principles."""


class TestSettings:
    @pytest.mark.parametrize(
        ("override", "expected"),
        [
            ("principles=bank", BankPrinciples()),
            ("principles=generated", GeneratedPrinciples()),
            ("principles=my/own.yaml", UserPrinciples(path=Path("my/own.yaml"))),
            ("principles.concision_rate=0.5", BankPrinciples(concision_rate=0.5)),
            ("principles={type: generated, scope: query}", GeneratedPrinciples(scope="query")),
        ],
    )
    def test_in_short_and_in_full(self, override: str, expected: Settings) -> None:
        assert load_config(Holder, None, [override]).principles == expected

    @pytest.mark.parametrize(
        "override",
        [
            "principles=bnak",
            "principles.n_features=0",
            "principles.n_features=8",
            "principles.scope=query",
            "principles.concision_rate=1.5",
            "principles={type: user}",
            "principles={type: user, path: x.yaml, choice: model}",
            "principles={type: bank, path: x.yaml}",
        ],
    )
    def test_what_does_not_belong_is_refused(self, override: str) -> None:
        with pytest.raises(ConfigError):
            load_config(Holder, None, [override])

    def test_a_feature_is_frozen(self) -> None:
        with pytest.raises(ValidationError):
            BANK.concision.name = "x"  # type: ignore[misc]
