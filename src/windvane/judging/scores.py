"""One score as a judge wrote it, read: every way of writing has exactly one outcome."""

import math
import re
from typing import NamedTuple

from windvane.judging.records import HIGHEST, LOWEST

NOT_APPLICABLE = "the judge says that the aspect does not apply"
MISSING = "the reply has no score for it"

_NOT_APPLICABLE = frozenset(("na", "nan", "none", "null", "notapplicable", "doesnotapply", "unscored", "notrated"))
_WORDS = {
    word: str(number)
    for number, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
}
_WORD = re.compile(
    rf"(?P<word>{'|'.join(_WORDS)})(?P<rest>\s+out\s+of\s+\w+|\s*/\s*\w+|\s+(?:stars?|points?)|)", re.IGNORECASE
)
_SCALE = re.compile(r"(\d)\s*(?:/|\bout\s+of\b)\s*(\d+(?:\.\d+)?)", re.IGNORECASE)
_NUMBER = re.compile(r"(?<![\w.])[-−]?\d+(?:\.\d+)?(?!\.?\w)")
_RANGE = re.compile(r"\d\s*(?:-|–|—|to|or)\s*\d")


class Reading(NamedTuple):
    """A score, or why there is none; exactly one of the two."""

    score: float | None
    unscored: str | None = None


def read_score(value: object) -> Reading:
    """Read what stands where a score should be.

    A number from 1 to 5 is itself, in digits ("4", "4.5", "4,5"), in a word ("five"), of five ("4/5", "5 out of 5"),
    or alone among words ("4 (good)"). Unscored is all else: a number outside 1 to 5, another scale ("8/10", "80%"),
    several numbers ("3-4", "4 or 5"), no number, and what says that the aspect does not apply ("N/A", null).
    """
    if value is None:
        return Reading(None, NOT_APPLICABLE)
    if isinstance(value, bool):
        return Reading(None, f"{value} is no number")
    if isinstance(value, int | float):
        return _within(value)
    if isinstance(value, str):
        return _read_text(value)
    return Reading(None, "no number stands where the score should be")


def _read_text(written: str) -> Reading:
    text = written.strip(" \t\r\n*_`\"'“”.!")
    if not text:
        return Reading(None, "the score is empty")
    if "".join(filter(str.isalnum, text.casefold())) in _NOT_APPLICABLE:
        return Reading(None, NOT_APPLICABLE)
    text = re.sub(r"(?<=\d),(?=\d)", ".", text)
    if word := _WORD.fullmatch(text):
        text = _digits(word["word"]) + _digits(word["rest"])
    if scale := _SCALE.search(text):
        if float(scale[2]) != HIGHEST:
            return Reading(None, f"{shown(written)} is on a scale of {scale[2]}, not of 5")
        text = text[: scale.end(1)] + text[scale.end() :]
    if "%" in text:
        return Reading(None, f"{shown(written)} is a percentage, not a score from 1 to 5")
    numbers = {float(number.replace("−", "-")) for number in _NUMBER.findall(text)}
    if _RANGE.search(text) or len(numbers) > 1:
        return Reading(None, f"{shown(written)} is more than one number")
    return _within(numbers.pop()) if numbers else Reading(None, f"{shown(written)} is no number")


def _digits(text: str) -> str:
    return re.sub(r"[a-z]+", lambda word: _WORDS.get(word[0].lower(), word[0]), text, flags=re.IGNORECASE)


def _within(number: float) -> Reading:
    if isinstance(number, float) and not math.isfinite(number):  # a whole number may be too large for a float
        return Reading(None, f"{number} is no number")
    if not LOWEST <= number <= HIGHEST:
        return Reading(None, f"{shown(str(number))} lies outside 1 to 5")
    return Reading(float(number))


def shown(text: str) -> str:
    """Return a text for a message: one line, quoted, short."""
    line = " ".join(text.split())
    return repr(line if len(line) <= 40 else line[:40] + "…")
