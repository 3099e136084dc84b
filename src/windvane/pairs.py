"""Responses become preference pairs, and what cannot teach anything is dropped with its reason."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, TypeVar

from pydantic import Field, field_validator

from windvane.config import Settings
from windvane.errors import DataError
from windvane.judging.measures import is_empty
from windvane.preambles import TextCodec, compile_preambles, without_preamble
from windvane.types import Completion, Dropped, Pair, Principle, Query, ResponseSet

WINDOW = 20
"""Characters in the windows of `repetition`: about four words, longer than most phrases that recur on purpose."""

_ITEM_NUMBER = re.compile(r"^\s*\d+[.):]\s", re.MULTILINE)


class PairSettings(Settings):
    """What makes a pair of responses fit to be learned from."""

    builtin_preambles: bool = True
    """Whether announcements such as "Here is a concise response:" are cut off (a built-in list, English)."""
    extra_preambles: tuple[str, ...] = ()
    """Regular expressions for more of them, matched at the start of a response, without regard to capitals."""
    min_words: int = Field(default=1, ge=1)
    """Words that y⁺ and y⁻ must have each; for a language that writes no spaces, leave it at 1."""
    max_repetition: float = Field(default=0.4, ge=0, le=1)
    """Share of a response's text that may be repetition before it counts as looping; 1 lets every loop through.

    Measured as the share of its 20-character windows that have occurred before; ordinary prose is below 0.05."""
    cut_off: Literal["keep", "drop"] = "keep"
    """What becomes of a pair with a response that the token limit cut off. A kept one never teaches to stop there."""

    @field_validator("extra_preambles")
    @classmethod
    def _compiles(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            try:
                matches_nothing = re.match(pattern, "") is not None
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
            if matches_nothing:
                raise ValueError(f"{pattern!r} matches the empty text, so it would never find a preamble: narrow it")
        return patterns


class MadePairs(NamedTuple):
    """Every query once: in `pairs` or in `dropped`, both in the order of the queries."""

    pairs: list[Pair]
    dropped: list[Dropped]


def repetition(text: str) -> float:
    """Return the share, 0 to 1, of the 20-character windows of `text` that have occurred before in it.

    Spaces count as one, capitals as small letters, and the numbers of list items not at all. Characters, not words, so
    that it means the same in every script and sees one endless word, too. A text of 20 characters or fewer is 0; a unit
    said k times comes to about 1 - 1/k.
    """
    plain = " ".join(_ITEM_NUMBER.sub("", text).casefold().split())
    windows = [plain[start : start + WINDOW] for start in range(len(plain) - WINDOW + 1)]
    return 1 - len(set(windows)) / len(windows) if windows else 0.0


def make_pairs(
    queries: Sequence[Query],
    principles: Iterable[Principle],
    responses: Iterable[ResponseSet],
    settings: PairSettings,
    *,
    codec: TextCodec | None = None,
    iteration: int = 0,
) -> MadePairs:
    """Return for each query the pair y⁺ ≻ y⁻ with yᵒ beside it, or the reason why there is none.

    Principles and responses are found by `query_id`, and the pair has the id of its query. `codec` is the `ChatFormat`
    of the model that sampled; it is needed where completions carry token ids. Reasons, in the order they are tried in:

    - ``preamble``: a preamble cannot be parted from the token ids (see `without_preamble`);
    - ``empty``: y⁺, y⁻ or yᵒ says nothing;
    - ``too_short``: y⁺ or y⁻ has fewer than `min_words` words;
    - ``identical``: y⁺ and y⁻ are the same but for whitespace;
    - ``looping``: y⁺, y⁻ or yᵒ has a `repetition` above `max_repetition`;
    - ``cut_off``: the token limit cut y⁺, y⁻ or yᵒ off, and such pairs are to be dropped.

    Raises `DataError` for a query id that occurs twice, or that has no principle or no responses.
    """
    principle_of = {principle.query_id: principle for principle in principles}
    responses_of = {response.query_id: response for response in responses}
    patterns = compile_preambles(settings.extra_preambles, builtin=settings.builtin_preambles)
    made = MadePairs([], [])
    seen: set[str] = set()
    for query in queries:
        if query.id in seen:
            raise DataError(f"The query id {query.id!r} occurs twice; ids name pairs, so give each query its own.")
        seen.add(query.id)
        sampled = _find(responses_of, query.id, "responses")
        principle = _find(principle_of, query.id, "principle")
        good, bad, original = (
            without_preamble(response, patterns, codec) for response in (sampled.good, sampled.bad, sampled.original)
        )
        if good is None or bad is None or original is None:
            names = [name for name, found in (("y⁺", good), ("y⁻", bad), ("yᵒ", original)) if found is None]
            made.dropped.append(_dropped(query.id, "preamble", f"no token begins the rest of {', '.join(names)}"))
            continue
        flaw = _flaw(query.id, good, bad, original, settings)
        if flaw is not None:
            made.dropped.append(flaw)
            continue
        made.pairs.append(
            Pair(
                id=query.id,
                prompt=query.messages,
                chosen=good,
                rejected=bad,
                original=original,
                principle=principle,
                source=query.source,
                iteration=iteration,
            )
        )
    return made


_T = TypeVar("_T")


def _find(table: Mapping[str, _T], query_id: str, what: str) -> _T:
    if query_id not in table:
        raise DataError(f"The query {query_id!r} has no {what}; {what} were found for {len(table)} queries.")
    return table[query_id]


def _dropped(query_id: str, reason: str, detail: str) -> Dropped:
    return Dropped(id=query_id, reason=reason, detail=detail)


def _flaw(
    query_id: str, good: Completion, bad: Completion, original: Completion, settings: PairSettings
) -> Dropped | None:
    """Return why the pair is dropped, or None."""
    named = {"y⁺": good, "y⁻": bad, "yᵒ": original}
    empty = [name for name, response in named.items() if is_empty(response.text)]
    if empty:
        return _dropped(query_id, "empty", ", ".join(empty))
    short = [f"{name} {named[name].words}" for name in ("y⁺", "y⁻") if named[name].words < settings.min_words]
    if short:
        return _dropped(query_id, "too_short", f"words: {', '.join(short)} (at least {settings.min_words})")
    if good.text.split() == bad.text.split():
        return _dropped(query_id, "identical", f"{good.words} words")
    shares = {name: repetition(response.text) for name, response in named.items()}
    looping = [f"{name} {share:.2f}" for name, share in shares.items() if share > settings.max_repetition]
    if looping:
        detail = f"repetition: {', '.join(looping)} (at most {settings.max_repetition:g})"
        return _dropped(query_id, "looping", detail)
    cut = [f"{name} after {response.words} words" for name, response in named.items() if response.finish == "length"]
    if cut and settings.cut_off == "drop":
        return _dropped(query_id, "cut_off", ", ".join(cut))
    return None
