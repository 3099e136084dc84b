import math

import pytest
from pydantic import TypeAdapter, ValidationError

from windvane.judging import rules
from windvane.judging.rules import NOTHING, Rule, RuleSettings, compare
from windvane.types import Completion, Message, Query

QUERY = Query(id="q", messages=(Message(role="user", content="Why?"),))
EVERY_RULE: list[Rule] = [
    rules.Shorter(),
    rules.Structured(),
    rules.Direct(),
    rules.ReadingEase(),
    rules.Refusal(),
    rules.Varied(),
    rules.Contains(pattern="because"),
    rules.Forbids(pattern="because"),
    rules.Json(),
    rules.Language(code="en"),
]


def answer(text: str) -> Completion:
    return Completion(text=text, token_ids=(5, 2), finish="stop")


def score(rule: Rule, text: str) -> float:
    return rule.score(answer(text), QUERY)


@pytest.mark.parametrize("rule", EVERY_RULE, ids=lambda rule: rule.type)
def test_no_rule_is_won_by_silence(rule: Rule) -> None:
    for silence in ("", " \n", "..."):
        assert score(rule, silence) == NOTHING
        assert compare(rule, QUERY, answer("A very long answer, because why not."), answer(silence)) == 1.0
        assert compare(rule, QUERY, answer(silence), answer("I can't help with that because.")) == 0.0
    assert compare(rule, QUERY, answer(""), answer(" ")) is None


@pytest.mark.parametrize("rule", EVERY_RULE, ids=lambda rule: rule.type)
def test_swapping_sides_swaps_the_verdict(rule: Rule) -> None:
    texts = [
        "Sure! It is so because it is so.",
        "- one\n- two\n- three",
        '{"a": 1}',
        "I'm sorry, but I can't help.",
        "4",
    ]
    for first in texts:
        assert not math.isnan(score(rule, first))
        assert compare(rule, QUERY, answer(first), answer(first)) == 0.5
        for second in texts:
            forward = compare(rule, QUERY, answer(first), answer(second))
            backward = compare(rule, QUERY, answer(second), answer(first))
            assert forward is not None
            assert backward is not None
            assert forward + backward == 1


def test_shorter_counts_words_or_characters() -> None:
    assert score(rules.Shorter(), " one two\nthree ") == -3
    assert score(rules.Shorter(unit="characters"), " 简短 ") == -2


def test_structured_is_the_share_of_list_lines() -> None:
    assert score(rules.Structured(), "Buy:\n- milk\n- eggs\n- tea") == 0.75
    assert score(rules.Structured(min_items=4), "Buy:\n- milk\n- eggs\n- tea") == 0.0
    assert score(rules.Structured(), "Buy milk.") == 0.0


def test_direct_counts_filler() -> None:
    assert score(rules.Direct(), "Sure! It rains.") == -1
    assert score(rules.Direct(), "It rains.") == 0


def test_reading_ease_of_symbols_is_nothing() -> None:
    assert score(rules.ReadingEase(), "=") == NOTHING
    assert score(rules.ReadingEase(), "The cat sat.") > score(rules.ReadingEase(), "Feline quiescence materialised.")


def test_refusal_can_be_wanted_or_not() -> None:
    declines, answers = "I'm sorry, but I can't help with that.", "Take the bus."
    assert [score(rules.Refusal(), text) for text in (declines, answers)] == [0, 1]
    assert [score(rules.Refusal(wanted=True), text) for text in (declines, answers)] == [1, 0]


def test_varied_sees_loops() -> None:
    assert score(rules.Varied(), "Each word here is new.") == 1.0
    assert score(rules.Varied(), "no " * 9) == pytest.approx(1 / 6)
    assert score(rules.Varied(n=1), "no no yes") == pytest.approx(2 / 3)


def test_patterns() -> None:
    assert score(rules.Contains(pattern=r"^sources:"), "It rains.\nSources: the sky") == 1
    assert score(rules.Contains(pattern=r"^sources:", ignore_case=False), "It rains.\nSources: the sky") == 0
    assert score(rules.Forbids(pattern="delve"), "Let us DELVE") == 0
    assert score(rules.Forbids(pattern="delve"), "Let us look") == 1


def test_json_with_keys() -> None:
    rule = rules.Json(keys=("name", "age"))
    assert [score(rule, text) for text in ("name: x", "[7]", '{"name": 1}', '{"name": 1, "age": null}')] == [
        0,
        0.5,
        0.75,
        1,
    ]
    assert score(rules.Json(), "```json\n[1]\n```") == 1


GERMAN = "Der Himmel ist blau, weil die Luft das blaue Licht am stärksten streut."
ENGLISH = "The sky is blue because the air scatters blue light the most."


def test_language_of_a_code_or_of_the_query() -> None:
    german = Query(id="q", messages=(Message(role="user", content="Warum ist der Himmel eigentlich blau?"),))
    assert score(rules.Language(code="en"), ENGLISH) == 1
    assert score(rules.Language(code="en"), GERMAN) < 0.01
    assert score(rules.Language(code="de"), GERMAN) == 1
    assert rules.Language().score(answer(GERMAN), german) == 1
    assert rules.Language().score(answer(ENGLISH), german) < 0.01
    assert score(rules.Language(code="zh"), "天空是蓝色的，因为空气散射蓝光。") == 1


def test_a_few_words_are_not_called_wrong() -> None:
    assert score(rules.Language(code="en"), "42") == 1
    assert score(rules.Language(code="en"), "Yes.") > 0.1


def test_a_config_names_a_rule_by_type() -> None:
    adapter: TypeAdapter[Rule] = TypeAdapter(RuleSettings)
    for rule in EVERY_RULE:
        assert adapter.validate_python(rule.model_dump()) == rule
    assert adapter.validate_python({"type": "shorter"}) == rules.Shorter()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"type": "longer"}, "longer"),
        ({"type": "shorter", "pattern": "x"}, "pattern"),
        ({"type": "contains", "pattern": "("}, "no regular expression"),
        ({"type": "contains", "pattern": ""}, "at least 1"),
        ({"type": "contains"}, "pattern"),
        ({"type": "structured", "min_items": 0}, "greater than or equal to 1"),
        ({"pattern": "x"}, "type"),
    ],
)
def test_a_wrong_rule_is_refused(given: dict[str, object], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        TypeAdapter(RuleSettings).validate_python(given)


def test_whoever_scores_is_a_rule() -> None:
    class MoreVowels:
        def score(self, completion: Completion, query: Query) -> float:
            return float(sum(letter in "aeiou" for letter in completion.text))

    assert compare(MoreVowels(), QUERY, answer("aeon"), answer("rhythm")) == 1.0
