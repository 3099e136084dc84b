"""More queries from few: ask, read, sift, until there are enough or the bound on requests is reached."""

import hashlib
import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from pydantic import Field

from windvane.config import Settings
from windvane.engines.protocols import Advance, Generator, no_progress
from windvane.errors import DataError
from windvane.queries.overlap import NearDuplicates
from windvane.queries.prompts import Ask, Operation, ask
from windvane.queries.reading import read_instructions
from windvane.types import Completion, Dropped, Message, Query, Sampling

OPERATIONS: dict[str, tuple[Operation, ...]] = {
    "new": ("new",),
    "evolve": ("deepen", "concretise", "broaden"),
    "mixed": ("new", "deepen", "concretise", "broaden"),
}
SMALLEST_ROUND = 8
"""Requests: fewer at a time would leave the engine's batches empty. The result does not depend on it."""

_NO_REQUEST = re.compile(r"\A(?:i'm sorry|i am sorry|sorry|i cannot|i can't|i am unable|i'm unable|as an ai\b)", re.I)
_INCOMPLETE = re.compile(
    r"\b(?:attached|following (?:image|picture|photo|file|video|audio|link|table)"
    r"|(?:image|picture|photo|table|graph|chart|text|passage) (?:above|below))\b"
    r"|\[(?:insert|your|name|topic|text|subject)\b[^\]]*\]",
    re.I,
)


class AugmentSettings(Settings):
    """How new queries are made from seed queries."""

    count: int = Field(default=100, ge=1)
    """New queries that are wanted."""
    style: Literal["new", "evolve", "mixed"] = "mixed"
    """new: invented after the example of seed queries. evolve: a seed query made harder, more concrete, or put to
    another subject. mixed: both in turn."""
    shown: int = Field(default=4, ge=1)
    """Seed queries that a request for an invented query shows."""
    requests_per_query: int = Field(default=4, ge=1)
    """Requests to the model for each query wanted, at most; then what is there is returned."""
    similarity: float = Field(default=0.6, gt=0, le=1)
    """A query that shares this part of its character 5-grams (Jaccard) with a seed or a new query is dropped."""
    evaluation_similarity: float = Field(default=0.5, gt=0, le=1)
    """The same for queries kept for evaluation; lower, because what trains must not resemble what measures."""
    min_words: int = Field(default=3, ge=1)
    """Words; fewer make no request."""
    max_words: int = Field(default=100, ge=1)
    """Words; more are a story or an answer."""
    max_new_tokens: int = Field(default=128, ge=16)
    """Tokens of a reply; a request that is cut off by them is dropped."""
    temperature: float = Field(default=0.9, ge=0)
    """High, because variety is what is wanted."""
    top_p: float = Field(default=0.95, gt=0, le=1)
    """Share of the probability mass that tokens are drawn from."""


class Augmentation(NamedTuple):
    """New queries, what was left out and why, and what it took."""

    queries: list[Query]
    dropped: list[Dropped]
    """Reasons: unreadable, not_a_request, incomplete, too_short, too_long, looping, near_duplicate, evaluation_like."""
    wanted: int
    requests: int
    """Requests whose replies were looked at."""

    @property
    def complete(self) -> bool:
        """Whether there are as many queries as were wanted."""
        return len(self.queries) == self.wanted

    def summary(self) -> str:
        """Say in a sentence or two what came out, and what to do where it is too little."""
        said = f"{len(self.queries)} of {self.wanted} new queries from {self.requests} requests"
        said += f", {len(self.dropped)} dropped."
        if self.complete:
            return said
        ways_out = "raise requests_per_query, give more seeds, or take a larger model"
        return f"{said} The bound on requests is reached: {ways_out}."


def augment_queries(
    seeds: Sequence[Query],
    generator: Generator,
    settings: AugmentSettings,
    *,
    seed: int,
    evaluation: Sequence[Query] = (),
    advance: Advance = no_progress,
) -> Augmentation:
    """Return up to `settings.count` new queries; where the bound on requests comes first, fewer.

    Only seeds with a single user turn serve: a later turn means nothing without the ones before. The result depends on
    the seeds, the evaluation queries, the settings, `seed` and the generator; not on how many requests go out at once.
    `advance` hears of each new query. Raises `DataError` where no seed serves.
    """
    usable = [query for query in seeds if [m.role for m in query.messages if m.role != "system"] == ["user"]]
    if not usable:
        raise DataError(
            f"None of the {len(seeds)} seed queries has a single user turn, so there is nothing to make new queries "
            "from; give at least one such query."
        )
    sieve = Sieve(usable, evaluation, settings)
    operations = OPERATIONS[settings.style]
    sampling = Sampling(settings.max_new_tokens, settings.temperature, settings.top_p)
    bound = settings.count * settings.requests_per_query
    asked = used = 0
    while not sieve.is_full() and asked < bound:
        size = min(max(settings.count - len(sieve.queries), SMALLEST_ROUND), bound - asked)
        asks = [
            ask(number, operations[number % len(operations)], usable, shown=settings.shown, seed=seed)
            for number in range(asked, asked + size)
        ]
        replies = generator.generate([request.prompt for request in asks], sampling)
        asked += size
        for request, reply in zip(asks, replies, strict=True):
            if sieve.is_full():
                break
            used += 1
            advance(sieve.sift(request, reply))
    return Augmentation(sieve.queries, sieve.dropped, settings.count, used)


class Sieve:
    """Takes replies one by one, in the order of their requests, and keeps what is new and readable."""

    def __init__(self, seeds: Sequence[Query], evaluation: Sequence[Query], settings: AugmentSettings) -> None:
        self.settings = settings
        self.queries: list[Query] = []
        self.dropped: list[Dropped] = []
        self._known = NearDuplicates(settings.similarity)
        self._reserved = NearDuplicates(settings.evaluation_similarity)
        for query in seeds:
            self._known.add(query.text)
        for query in evaluation:
            self._reserved.add(query.text)

    def is_full(self) -> bool:
        """Whether there are enough."""
        return len(self.queries) >= self.settings.count

    def sift(self, request: Ask, reply: Completion) -> int:
        """Keep or drop what a reply holds; return how many queries it added."""
        before = len(self.queries)
        texts = read_instructions(reply)
        if not texts:
            self._drop(request, "unreadable", f"{reply.finish}: {reply.text[:200]!r}")
        for text in texts:
            if self.is_full():
                break
            fault = _fault(text, self.settings) or self._likeness(text)
            if fault is None:
                self._keep(request, text)
            else:
                self._drop(request, *fault)
        return len(self.queries) - before

    def _likeness(self, text: str) -> tuple[str, str] | None:
        for reason, known in (("evaluation_like", self._reserved), ("near_duplicate", self._known)):
            match = known.closest(text)
            if match is not None:
                return reason, f"{match.similarity:.2f} like {match.text[:100]!r}: {text[:200]!r}"
        return None

    def _keep(self, request: Ask, text: str) -> None:
        self._known.add(text)
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        self.queries.append(
            Query(
                id=f"{request.operation}-{digest}",
                messages=(Message(role="user", content=text),),
                source=f"augment/{request.operation}",
            )
        )

    def _drop(self, request: Ask, reason: str, detail: str) -> None:
        self.dropped.append(Dropped(id=f"request-{request.number}", reason=reason, detail=detail))


def _fault(text: str, settings: AugmentSettings) -> tuple[str, str] | None:
    """Return why a text is no usable request, as reason and detail, or None."""
    words = text.casefold().split()
    if not any(sign.isalpha() for sign in text) or "\ufffd" in text:
        return "unreadable", repr(text[:200])
    if len(words) < settings.min_words:
        return "too_short", f"{len(words)} words: {text!r}"
    if len(words) > settings.max_words:
        return "too_long", f"{len(words)} words: {text[:200]!r}"
    if _NO_REQUEST.match(text):
        return "not_a_request", repr(text[:200])
    if _INCOMPLETE.search(text):
        return "incomplete", repr(text[:200])
    if len(words) >= 12 and len(set(words)) / len(words) < 0.45:
        return "looping", f"{len(set(words))} different of {len(words)} words: {text[:200]!r}"
    return None
