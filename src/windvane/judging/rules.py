"""Rules: what is good about an answer, where a formula can say it. Higher is better under every rule.

A rule is its own settings, so a config names it as ``rule: {type: shorter}`` and Python as ``Shorter()``; any object
with a `score` of this shape serves as well. An answer that says nothing (`is_empty`) scores `NOTHING` under every rule:
no rule can be won by silence, not even *shorter*.
"""

import math
import re
from typing import Annotated, Literal, Protocol

from pydantic import Field, field_validator

from windvane.config import Settings
from windvane.errors import ConfigError
from windvane.judging import measures
from windvane.types import Completion, Query

NOTHING = -math.inf
"""The score of an empty answer, below everything else."""


class Rule(Protocol):
    """Scores one answer to one query."""

    def score(self, completion: Completion, query: Query) -> float:
        """Return a number, higher is better, in the range that the rule documents, or `NOTHING` for an empty answer.

        It depends on its arguments alone, and is never NaN.
        """


class Shorter(Settings):
    """Conciseness: minus the length. At most -1, and unbounded below."""

    type: Literal["shorter"] = "shorter"
    unit: Literal["words", "characters"] = "words"
    """What length is counted in; characters where the language writes no spaces."""

    def score(self, completion: Completion, query: Query) -> float:
        """Return minus the number of words (or characters)."""
        if measures.is_empty(completion.text):
            return NOTHING
        return -float(completion.words if self.unit == "words" else len(completion.text.strip()))


class Structured(Settings):
    """The share of lines that are list items: 0 (prose) to 1 (a list and nothing else)."""

    type: Literal["structured"] = "structured"
    min_items: int = Field(default=2, ge=1)
    """Items below which it is no list, and the score 0: one bullet alone structures nothing."""

    def score(self, completion: Completion, query: Query) -> float:
        """Return the share of non-blank lines that are list items."""
        if measures.is_empty(completion.text):
            return NOTHING
        return measures.list_share(completion.text, min_items=self.min_items)


class Direct(Settings):
    """Directness: minus the words spent on pleasantries, announcements and offers of help (English). At most 0."""

    type: Literal["direct"] = "direct"

    def score(self, completion: Completion, query: Query) -> float:
        """Return minus the number of filler words before and after the answer proper."""
        return NOTHING if measures.is_empty(completion.text) else -float(measures.filler_words(completion.text))


class ReadingEase(Settings):
    """Flesch's reading ease (English): about 0 (hard) to 100 (easy), at most 121.22."""

    type: Literal["reading_ease"] = "reading_ease"

    def score(self, completion: Completion, query: Query) -> float:
        """Return the reading ease; an answer without a single word (only symbols) is `NOTHING`."""
        return measures.reading_ease(completion.text) if measures.words(completion.text) else NOTHING


class Refusal(Settings):
    """Whether the answer declines (English): 1 where it does as wanted, 0 where it does not."""

    type: Literal["refusal"] = "refusal"
    wanted: bool = False
    """Whether declining is what is wanted (queries that ask for harm) or not (any others)."""

    def score(self, completion: Completion, query: Query) -> float:
        """Return 1 or 0."""
        if measures.is_empty(completion.text):
            return NOTHING
        return float(measures.is_refusal(completion.text) == self.wanted)


class Varied(Settings):
    """Freedom from repetition: the share of word n-grams that are new in the answer, 0 (exclusive) to 1."""

    type: Literal["varied"] = "varied"
    n: int = Field(default=4, ge=1)
    """Words in an n-gram. Small n punishes ordinary prose, large n sees only verbatim loops."""

    def score(self, completion: Completion, query: Query) -> float:
        """Return one minus the share of repeated n-grams."""
        return NOTHING if measures.is_empty(completion.text) else 1 - measures.repeated_share(completion.text, n=self.n)


class _Pattern(Settings):
    """A regular expression that is looked for anywhere in the answer."""

    pattern: str = Field(min_length=1)
    """Python's syntax; ``^`` and ``$`` match at every line."""
    ignore_case: bool = True
    """Whether capitals and small letters are the same."""

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
        return pattern

    def found(self, text: str) -> bool:
        """Return whether the pattern occurs in a text."""
        flags = re.MULTILINE | (re.IGNORECASE if self.ignore_case else 0)
        return re.search(self.pattern, text, flags) is not None


class Contains(_Pattern):
    """1 where a regular expression is found in the answer, else 0."""

    type: Literal["contains"] = "contains"

    def score(self, completion: Completion, query: Query) -> float:
        """Return 1 or 0."""
        return NOTHING if measures.is_empty(completion.text) else float(self.found(completion.text))


class Forbids(_Pattern):
    """1 where a regular expression is found nowhere in the answer, else 0."""

    type: Literal["forbids"] = "forbids"

    def score(self, completion: Completion, query: Query) -> float:
        """Return 1 or 0."""
        return NOTHING if measures.is_empty(completion.text) else float(not self.found(completion.text))


class Json(Settings):
    """Readable JSON: 0 where the answer is none, else 0.5 to 1 by the share of the wanted keys that it has."""

    type: Literal["json"] = "json"
    keys: tuple[str, ...] = ()
    """Keys that the object should have at its top level; with none wanted, any JSON scores 1."""

    def score(self, completion: Completion, query: Query) -> float:
        """Return 0, or 0.5 to 1. One code fence around the JSON is allowed."""
        if measures.is_empty(completion.text):
            return NOTHING
        value = measures.parse_json(completion.text)
        if value is None:
            return 0.0
        if not self.keys:
            return 1.0
        present = sum(key in value for key in self.keys) if isinstance(value, dict) else 0
        return 0.5 + 0.5 * present / len(self.keys)


class Language(Settings):
    """How probable it is that the answer is in the wanted language, compared with the most probable one: 0 to 1."""

    type: Literal["language"] = "language"
    code: str = Field(default="query", pattern="^(query|[a-z]{2,3})$")
    """The wanted language, such as en, de or zh; query: the one that the query is most probably in."""

    def score(self, completion: Completion, query: Query) -> float:
        """Return 1 where the wanted language is the most probable one; the ratio of the two probabilities elsewhere.

        A ratio, so that a few words that could be of several languages are not called wrong. Raises `ConfigError` for
        a code that is not known.
        """
        if measures.is_empty(completion.text):
            return NOTHING
        asked = measures.languages(query.text) if self.code == "query" else {self.code: 1.0}
        wanted = max(asked, key=asked.__getitem__)
        found = measures.languages(completion.text)
        if wanted not in found:
            raise ConfigError(f"{wanted!r} is no language that is known here. There are {', '.join(sorted(found))}.")
        return found[wanted] / max(found.values())


RuleSettings = Annotated[
    Shorter | Structured | Direct | ReadingEase | Refusal | Varied | Contains | Forbids | Json | Language,
    Field(discriminator="type"),
]
"""A rule in a config, told apart by its `type`."""


def compare(rule: Rule, query: Query, first: Completion, second: Completion) -> float | None:
    """Return 1 where `first` is better by the rule, 0 where `second` is, 0.5 for a tie.

    An answer beats silence, whatever the rule; where both say nothing there is nothing to compare: None.
    """
    a, b = rule.score(first, query), rule.score(second, query)
    if a == NOTHING and b == NOTHING:
        return None
    return 0.5 if a == b else float(a > b)
