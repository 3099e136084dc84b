"""Rules on the scale from 1 to 5."""

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.judging.talkers import query, run
from windvane.errors import ConfigError
from windvane.judging import rules
from windvane.judging.records import AspectJudgement
from windvane.judging.rule_aspects import Anchors, RuleAspect, RuleJudge, RuleJudgeSettings

WORDS = "one two three four five six seven eight nine ten "
EVERY_RULE: list[rules.RuleSettings] = [
    rules.Shorter(),
    rules.Shorter(unit="characters"),
    rules.Structured(),
    rules.Direct(),
    rules.ReadingEase(),
    rules.Refusal(),
    rules.Refusal(wanted=True),
    rules.Varied(),
    rules.Contains(pattern="because"),
    rules.Forbids(pattern="because"),
    rules.Json(keys=("a", "b")),
    rules.Language(code="en"),
]


def test_the_scale_by_hand() -> None:
    anchors = Anchors(at_1=-250, at_5=-40)
    assert [anchors.score(m) for m in (-9999, -250, -145, -40, 0)] == [1, 1, 3, 5, 5]
    turned = Anchors(at_1=-20, at_5=-300)
    assert [turned.score(m) for m in (-1, -20, -160, -300, -999)] == [1, 1, 3, 5, 5]


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.floats(allow_nan=False))
def test_no_measurement_leaves_the_scale(at_1: float, at_5: float, measured: float) -> None:
    if at_1 != at_5:
        assert 1 <= Anchors(at_1=at_1, at_5=at_5).score(measured) <= 5


def scored(rule: rules.RuleSettings, text: str) -> tuple[float | None, str]:
    found = RuleAspect(rule=rule).judged(query(), text)
    return found.score, found.reason


@pytest.mark.parametrize(
    ("rule", "text", "score", "reason"),
    [
        (rules.Shorter(), "Light scatters.", 5, "2 words"),
        (rules.Shorter(), WORDS * 14 + "a b c d e", 3, "145 words"),
        (rules.Shorter(unit="characters"), "x" * 870, 3, "870 characters"),
        (rules.Structured(), "Buy:\nfrom\n- milk\n- eggs\n- tea", 5, "60% of the lines are list items"),
        (rules.Structured(), "Buy milk.", 1, "0% of the lines are list items"),
        (rules.Direct(), "It rains.", 5, "0 words of filler"),
        (rules.Direct(), "Sure! It rains.", 1 + 4 * 24 / 25, "1 words of filler"),
        (rules.Refusal(), "Take the bus.", 5, "it answers"),
        (rules.Refusal(), "I'm sorry, but I can't help with that.", 1, "it declines"),
        (rules.Refusal(wanted=True), "I'm sorry, but I can't help with that.", 5, "it declines"),
        (rules.Varied(), "Each word here is new.", 5, "100% of the word groups are new"),
        (rules.Varied(), "no " * 9, 1, "17% of the word groups are new"),
        (rules.Contains(pattern="rain"), "It rains.", 5, "the pattern is there"),
        (rules.Forbids(pattern="rain"), "It rains.", 1, "the pattern is there"),
        (rules.Json(keys=("a", "b")), '{"a": 1}', 4, "75% of what makes the wanted JSON"),
        (rules.Json(), "no", 1, "0% of what makes the wanted JSON"),
    ],
)
def test_each_rule_by_hand(rule: rules.RuleSettings, text: str, score: float, reason: str) -> None:
    found, said = scored(rule, text)
    assert found == pytest.approx(score)
    assert said == reason


def test_reading_ease_by_hand() -> None:
    """ "The cat sat." has 3 words of one syllable: 206.835 - 1.015·3 - 84.6 = 119.19, above 70."""
    assert scored(rules.ReadingEase(), "The cat sat.") == (5, "119.2 of reading ease")


@pytest.mark.parametrize("rule", EVERY_RULE, ids=lambda rule: rule.type)
@pytest.mark.parametrize("text", ["", " \n", "..."])
def test_silence_earns_the_lowest_score(rule: rules.RuleSettings, text: str) -> None:
    assert scored(rule, text) == (1, "the answer says nothing")


def test_every_kind_of_rule_has_a_scale_of_its_own() -> None:
    judge = RuleJudge(RuleJudgeSettings(aspects=tuple(
        RuleAspect(rule=rule) for rule in EVERY_RULE if rule != rules.Shorter(unit="characters")
    )))  # fmt: skip
    choice = run(judge.aspects_for(query()))
    names = [aspect.name for aspect in choice.aspects]
    assert names == [
        "Conciseness", "Structure", "Directness", "Reading ease", "Answering", "Declining", "Variety", "Pattern",
        "Avoidance", "JSON", "Language",
    ]  # fmt: skip
    assert choice.origin == "fixed"
    assert (choice.aspects[0].score_1, choice.aspects[0].score_5) == ("250 words.", "40 words.")
    judgement = judge.judged(query(), "It rains because it rains.")
    assert [score.aspect for score in judgement.aspects] == names
    assert all(score.score is not None and score.unscored is None for score in judgement.aspects)


def test_a_rule_judge_is_the_mean_of_its_rules_at_once_and_always_the_same() -> None:
    judge = RuleJudge()
    text = "Sure! It rains."  # Directness 4.84, Conciseness 5, Variety 5
    assert judge.judged(query(), text).score == pytest.approx((4.84 + 5 + 5) / 3)

    async def many() -> list[AspectJudgement]:
        return await asyncio.gather(*(judge.judge(query(), text) for _ in range(1000)))

    start = time.perf_counter()
    found = run(many())
    assert time.perf_counter() - start < 5
    assert len({judgement.to_json() for judgement in found}) == 1
    assert judge.name == "rules"


def test_names_and_anchors_of_ones_own() -> None:
    settings = RuleJudgeSettings.model_validate(
        {
            "aspects": [
                {"rule": {"type": "shorter"}, "name": "Long", "anchors": {"at_1": -10, "at_5": -30}},
                {"rule": {"type": "contains", "pattern": "rain"}},
                {"rule": {"type": "contains", "pattern": "sun"}, "name": "Sun"},
            ]
        }
    )
    judgement = RuleJudge(settings).judged(query(), WORDS * 2)
    assert [(a.aspect, a.score) for a in judgement.aspects] == [("Long", 3), ("Pattern", 1), ("Sun", 1)]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"aspects": []}, "at least 1"),
        ({"aspects": [{"rule": {"type": "shorter"}}, {"rule": {"type": "shorter", "unit": "characters"}}]}, "a name"),
        ({"aspects": [{"rule": {"type": "shorter"}, "anchors": {"at_1": 2, "at_5": 2}}]}, "two ends"),
        ({"aspects": [{"rule": {"type": "shorter"}, "anchors": {"at_1": 2}}]}, "at_5"),
        ({"aspects": [{"rule": {"type": "longer"}}]}, "longer"),
        ({"aspects": [{"rule": {"type": "language", "code": "English"}}]}, "pattern"),
    ],
)
def test_wrong_settings_are_refused(given: dict[str, object], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        RuleJudgeSettings.model_validate(given)


def test_a_language_that_is_not_known_is_refused_before_anything_is_judged() -> None:
    with pytest.raises(ConfigError, match=r"'qq' is no language that is known here\. There are .*de, .*en"):
        RuleJudge(RuleJudgeSettings(aspects=(RuleAspect(rule=rules.Language(code="qq")),)))
