"""Who says what is better: rules, a model that chooses aspects and scores them, or a local model's digits."""

from windvane.judging.aspects import Aspect, aspect_bank, read_aspects
from windvane.judging.digits import DigitJudge, DigitJudgeSettings
from windvane.judging.dynamic import (
    AspectsTogether,
    ChosenAspects,
    DynamicJudge,
    DynamicJudgeSettings,
    FixedAspects,
)
from windvane.judging.records import AspectChoice, AspectJudgement, AspectScore, Judge
from windvane.judging.rule_aspects import Anchors, RuleAspect, RuleJudge, RuleJudgeSettings
from windvane.judging.rules import Rule, RuleSettings, Shorter, Structured, compare
from windvane.judging.settings import JudgeSettings

__all__ = [
    "Anchors",
    "Aspect",
    "AspectChoice",
    "AspectJudgement",
    "AspectScore",
    "AspectsTogether",
    "ChosenAspects",
    "DigitJudge",
    "DigitJudgeSettings",
    "DynamicJudge",
    "DynamicJudgeSettings",
    "FixedAspects",
    "Judge",
    "JudgeSettings",
    "Rule",
    "RuleAspect",
    "RuleJudge",
    "RuleJudgeSettings",
    "RuleSettings",
    "Shorter",
    "Structured",
    "aspect_bank",
    "compare",
    "read_aspects",
]
