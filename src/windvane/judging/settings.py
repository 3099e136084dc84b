"""Which judge a run has."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from windvane.judging.digits import DigitJudgeSettings
from windvane.judging.dynamic import DynamicJudgeSettings
from windvane.judging.rule_aspects import RuleJudgeSettings


def _in_short(given: Any) -> Any:
    """Let one word stand for a group: ``dynamic``, ``rules``, ``digits``."""
    return {"type": given} if isinstance(given, str) else given


JudgeSettings = Annotated[
    DynamicJudgeSettings | RuleJudgeSettings | DigitJudgeSettings,
    Field(discriminator="type"),
    BeforeValidator(_in_short),
]
"""A judge in a config, told apart by its `type`; ``judge: rules`` will do."""
