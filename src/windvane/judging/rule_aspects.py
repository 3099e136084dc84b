"""Rules as aspects: what a formula measures, on the scale from 1 to 5, so that a search needs no judge model."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, Self

from pydantic import Field, FiniteFloat, model_validator

from windvane.config import Settings
from windvane.judging import rules
from windvane.judging.aspects import MAX_DEFINITION, MAX_NAME, Aspect, aspect_key
from windvane.judging.records import HIGHEST, LOWEST, AspectChoice, AspectJudgement, AspectScore, summed_up
from windvane.judging.rules import NOTHING, RuleSettings
from windvane.types import Completion, Query


class Anchors(Settings):
    """The two measurements that a rule's scale hangs on. In between it is linear, beyond it is flat."""

    at_1: FiniteFloat
    """Measurement that earns 1."""
    at_5: FiniteFloat
    """Measurement that earns 5. Below `at_1`, it turns the rule round."""

    @model_validator(mode="after")
    def _apart(self) -> Self:
        if self.at_1 == self.at_5:
            raise ValueError(f"at_1 and at_5 are both {self.at_1}; a scale needs two ends")
        return self

    def score(self, measured: float) -> float:
        """Return ``1 + 4·(m - at_1)/(at_5 - at_1)``, held within 1 and 5."""
        share = (measured - self.at_1) / (self.at_5 - self.at_1)
        return LOWEST + (HIGHEST - LOWEST) * min(1.0, max(0.0, share))


class _Scale(NamedTuple):
    """How a rule is shown as an aspect."""

    name: str
    anchors: Anchors
    said: Callable[[float], str]
    """A measurement in words."""


def _plain(noun: str, sign: int = 1) -> Callable[[float], str]:
    return lambda measured: f"{sign * measured:.4g} {noun}"


def _share(noun: str) -> Callable[[float], str]:
    return lambda measured: f"{measured:.0%} {noun}"


def _either(good: str, bad: str) -> Callable[[float], str]:
    return lambda measured: good if measured == 1 else bad


_WHOLE = Anchors(at_1=0, at_5=1)
_SCALES: Mapping[str, _Scale] = {
    "shorter": _Scale("Conciseness", Anchors(at_1=-250, at_5=-40), _plain("words", -1)),
    "structured": _Scale("Structure", Anchors(at_1=0, at_5=0.6), _share("of the lines are list items")),
    "direct": _Scale("Directness", Anchors(at_1=-25, at_5=0), _plain("words of filler", -1)),
    "reading_ease": _Scale("Reading ease", Anchors(at_1=30, at_5=70), _plain("of reading ease")),
    "refusal": _Scale("Answering", _WHOLE, _either("it answers", "it declines")),
    "varied": _Scale("Variety", Anchors(at_1=0.7, at_5=1), _share("of the word groups are new")),
    "contains": _Scale("Pattern", _WHOLE, _either("the pattern is there", "the pattern is missing")),
    "forbids": _Scale("Avoidance", _WHOLE, _either("the pattern is avoided", "the pattern is there")),
    "json": _Scale("JSON", _WHOLE, _share("of what makes the wanted JSON")),
    "language": _Scale("Language", _WHOLE, _share("as probable in the wanted language as in the likeliest one")),
}
_CHARACTERS = _Scale("Conciseness", Anchors(at_1=-1500, at_5=-240), _plain("characters", -1))
_DECLINING = _Scale("Declining", _WHOLE, _either("it declines", "it answers"))


class RuleAspect(Settings):
    """A rule, and where on its range the scores 1 and 5 lie."""

    rule: RuleSettings
    """What is measured; its `type` says which rule."""
    name: str | None = Field(default=None, max_length=MAX_NAME)
    """What the aspect is called; null takes the rule's: Conciseness, Structure, Directness, Reading ease, Answering (or
    Declining), Variety, Pattern, Avoidance, JSON, Language."""
    anchors: Anchors | None = None
    """Measurements that earn 1 and 5; null takes the rule's: shorter -250 and -40 words (or -1500 and -240 characters),
    structured 0 and 0.6, direct -25 and 0, reading_ease 30 and 70, varied 0.7 and 1, all others 0 and 1."""

    @property
    def scale(self) -> _Scale:
        """The rule's own name and anchors, before the user's."""
        if isinstance(self.rule, rules.Shorter) and self.rule.unit == "characters":
            return _CHARACTERS
        if isinstance(self.rule, rules.Refusal) and self.rule.wanted:
            return _DECLINING
        return _SCALES[self.rule.type]

    def title(self) -> str:
        """Return what the aspect is called."""
        return self.name or self.scale.name

    def judged(self, query: Query, response: str) -> AspectScore:
        """Return the score of one answer; an answer that says nothing earns 1, whatever is measured."""
        measured = self.rule.score(Completion(text=response, token_ids=(), finish="stop"), query)
        if measured == NOTHING:
            return AspectScore(aspect=self.title(), score=LOWEST, reason="the answer says nothing")
        anchors = self.anchors or self.scale.anchors
        return AspectScore(aspect=self.title(), score=anchors.score(measured), reason=self.scale.said(measured))


class RuleJudgeSettings(Settings):
    """A judge that is made of rules."""

    type: Literal["rules"] = "rules"
    """rules: score by formulas, without any model."""
    aspects: tuple[RuleAspect, ...] = Field(
        default=(
            RuleAspect(rule=rules.Direct()),
            RuleAspect(rule=rules.Shorter()),
            RuleAspect(rule=rules.Varied()),
        ),
        min_length=1,
    )
    """What an answer is scored on; the score is their mean. They measure form, not truth: a rule judge is for taste
    that a formula can say."""

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [aspect.title() for aspect in self.aspects]
        twice = sorted({name for name in names if [aspect_key(n) for n in names].count(aspect_key(name)) > 1})
        if twice:
            raise ValueError(f"two aspects are called {', '.join(map(repr, twice))}; give one of them a name")
        return self


class RuleJudge:
    """Scores answers by rules: offline, at once, the same answer always the same."""

    def __init__(self, settings: RuleJudgeSettings | None = None) -> None:
        """Raise `ConfigError` for a rule that cannot be used, such as a language that is not known."""
        self._settings = settings or RuleJudgeSettings()
        self._aspects = tuple(_as_aspect(aspect) for aspect in self._settings.aspects)
        probe = Query.model_validate({"id": "probe", "messages": [{"role": "user", "content": "?"}]})
        for aspect in self._settings.aspects:
            aspect.judged(probe, "A probe.")

    @property
    def name(self) -> str:
        """What tells this judge's verdicts from another's."""
        return "rules"

    async def aspects_for(self, query: Query) -> AspectChoice:
        """Return the rules as aspects."""
        return AspectChoice(query_id=query.id, aspects=self._aspects, origin="fixed")

    async def judge(self, query: Query, response: str) -> AspectJudgement:
        """Return the scores of one answer; there is always one on each aspect."""
        return self.judged(query, response)

    def judged(self, query: Query, response: str) -> AspectJudgement:
        """Return the same outside of an event loop."""
        return summed_up(query.id, [aspect.judged(query, response) for aspect in self._settings.aspects])


def _as_aspect(aspect: RuleAspect) -> Aspect:
    anchors: Any = aspect.anchors or aspect.scale.anchors
    said = aspect.scale.said
    rule = " ".join((type(aspect.rule).__doc__ or aspect.rule.type).split())
    return Aspect(
        name=aspect.title(),
        definition=rule[:MAX_DEFINITION],
        score_1=f"{said(anchors.at_1)}.",
        score_5=f"{said(anchors.at_5)}.",
    )
