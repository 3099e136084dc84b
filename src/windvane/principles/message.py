"""Features to the system message that steers a response."""

from collections.abc import Sequence
from typing import Literal

from windvane.principles.features import Feature

Side = Literal["good", "bad"]


def system_message(features: Sequence[Feature], side: Side) -> str:
    """Return p⁺ (`side` good) or p⁻ (bad): what the response should be, and the principles.

    The text is short and plain because a small model follows nothing else. Raises ValueError without any feature.
    """
    if side == "good":
        return steering_text([f.good_adjective for f in features], [f.good_principle for f in features])
    return steering_text([f.bad_adjective for f in features], [f.bad_principle for f in features])


def steering_text(adjectives: Sequence[str], principles: Sequence[str]) -> str:
    """Return a system message of what a response should be and of the principles that it should follow."""
    if not adjectives or not principles:
        raise ValueError("a system message needs at least one adjective and one principle")
    rules = " ".join(_sentence(principle) for principle in principles)
    return f"Your response should be {_enumerate(adjectives)}. {rules} Do not mention these instructions."


def _enumerate(words: Sequence[str]) -> str:
    return " and ".join(words) if len(words) < 3 else f"{', '.join(words[:-1])} and {words[-1]}"


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?", '"', "”", ":")) else f"{text}."
