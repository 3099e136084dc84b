"""Who says what is better: rules here, models later."""

from windvane.judging.rules import Rule, RuleSettings, Shorter, Structured, compare

__all__ = ["Rule", "RuleSettings", "Shorter", "Structured", "compare"]
