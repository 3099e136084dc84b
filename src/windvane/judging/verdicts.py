"""A judge's reply, read: the aspects it chooses, the scores it gives."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import ValidationError

from windvane.engines.protocols import Reply
from windvane.judging.aspects import MAX_DEFINITION, MAX_NAME, Aspect, aspect_key
from windvane.judging.prompts import Limits
from windvane.judging.records import AspectScore
from windvane.judging.replies import Fields, clean, foreign, json_values
from windvane.judging.scores import MISSING, NOT_APPLICABLE, Reading, read_score, shown

_NAMES = frozenset(("aspect", "name", "criterion"))
_SCORES = frozenset(("score", "rating", "mark", "value", "grade"))
_REASONS = frozenset(("reason", "rationale", "explanation", "justification", "why", "comment"))
_LISTS = frozenset(("aspects", "chosen", "selected", "new", "proposed"))
_HEAD = re.compile(
    r"""\d+(?:[.,]\d+)? (?:\s*(?:/|out\ of)\s*\d+)? \b              # 4   4.5   4/5   4 out of 5
    | (?:one|two|three|four|five|n/?a|none) (?=\s*(?:$|[-–—.,;:()|/]|out\ of))  # five   five, because ...
    """,
    re.IGNORECASE | re.VERBOSE,
)
_MORE_THAN_A_HEAD = re.compile(r"\s*(?:%|/|(?:-|–|—|to|or)\s*\d)", re.IGNORECASE)
"""What follows a number that is not the whole score: ``80%``, ``3-4``, ``4 or 5``."""
_LABEL = re.compile(r"[\W_]*(?:score|rating|mark)\b[\s*_`\"']*[:=](?P<value>.+)", re.IGNORECASE)
_SHORT = 40
"""Characters up to which the rest of a line is a score with words around it, and not prose with a number in it."""


class Unreadable(NamedTuple):
    """A reply that cannot be used, and why: what the judge is told when it is asked again."""

    why: str


class Entry(NamedTuple):
    """What a reply says about one aspect."""

    name: str
    value: Any
    """What stands where the score should be."""
    reason: str = ""
    definition: str = ""


def read_scores(reply: Reply, names: Sequence[str], material: Sequence[str]) -> tuple[AspectScore, ...]:
    """Read the score of each of `names`, in their order; one that cannot be read is unscored.

    A score that stands in the material is not the judge's. An aspect that nobody asked for is left out, one that is
    missing is unscored, and so is one that is scored twice with different scores.
    """
    keys = frozenset(map(aspect_key, names))
    entries = [entry for entry in _entries(reply, names, material) if aspect_key(entry.name) in keys]
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        found.setdefault(aspect_key(entry.name), []).append(entry)
    return tuple(_score(name, found.get(aspect_key(name), ())) for name in names)


def read_together(
    reply: Reply, aspects: Sequence[Aspect], limits: Limits, material: Sequence[str]
) -> tuple[AspectScore, ...] | Unreadable:
    """Read the scores of aspects that the judge chose itself; unreadable where they are fewer than it was to choose."""
    known = {aspect_key(aspect.name): aspect.name for aspect in aspects}
    names: dict[str, str] = {}
    found: dict[str, list[Entry]] = {}
    for entry in _entries(reply, tuple(known.values()), material):
        key = aspect_key(entry.name)
        room = sum(name not in known for name in names) < limits.new
        if key in known or key in names or (room and _proposed(entry)):
            names.setdefault(key, known.get(key, clean(entry.name)))
            found.setdefault(key, []).append(entry)
    scores = [_score(name, found[key]) for key, name in names.items()]
    if len(scores) < limits.least:
        return Unreadable(f"it scores {len(scores)} of the aspects on offer, and at least {limits.least} are wanted")
    return tuple(scores[: limits.most])


def read_choice(
    reply: Reply, aspects: Sequence[Aspect], limits: Limits, material: Sequence[str]
) -> tuple[Aspect, ...] | Unreadable:
    """Read which aspects the judge chose; unreadable where they are fewer than it was to choose.

    An aspect that is not on offer counts if it is defined and may be proposed; else it is left out. Of too many the
    first count.
    """
    known = {aspect_key(aspect.name): aspect for aspect in aspects}
    chosen: dict[str, Aspect] = {}
    new = 0
    for entry in _choices(reply, known, material):
        key = aspect_key(entry.name)
        if key in chosen:
            continue
        aspect = known.get(key) or (_proposed(entry) if new < limits.new else None)
        if aspect is not None:
            new += key not in known
            chosen[key] = aspect
    if len(chosen) < limits.least:
        return Unreadable(f"it names {len(chosen)} of the aspects on offer, and at least {limits.least} are wanted")
    return tuple(chosen.values())[: limits.most]


def complaint(scores: Sequence[AspectScore]) -> str | None:
    """Return what to tell a judge whose scores have gaps; None where there is none.

    That an aspect does not apply is an answer, and not asked for again.
    """
    open_ones = [score for score in scores if score.unscored not in (None, NOT_APPLICABLE)]
    return "; ".join(f"{score.aspect}: {score.unscored}" for score in open_ones) or None


def completed(first: Sequence[AspectScore], second: Sequence[AspectScore]) -> tuple[AspectScore, ...]:
    """Return the first scores, their gaps filled from the second reply; both are in the same order."""
    return tuple(
        again if score.unscored not in (None, NOT_APPLICABLE) and again.unscored in (None, NOT_APPLICABLE) else score
        for score, again in zip(first, second, strict=True)
    )


def _score(name: str, entries: Sequence[Entry]) -> AspectScore:
    readings = [read_score(entry.value) for entry in entries]
    reason = next((entry.reason for entry in entries if entry.reason), "")
    one = readings[0] if readings else Reading(None, MISSING)
    if len({reading.score for reading in readings}) > 1:
        said = ", ".join(shown(clean(entry.value)) for entry in entries)
        one = Reading(None, f"it is scored more than once ({said})")
    return AspectScore(aspect=name, score=one.score, reason=reason, unscored=one.unscored)


def _proposed(entry: Entry) -> Aspect | None:
    """Return the aspect that a judge proposed, or None where it is not usable: without a name or a definition."""
    name, definition = clean(entry.name), clean(entry.definition)
    if len(name) > MAX_NAME or len(definition) > MAX_DEFINITION:
        return None
    try:
        return Aspect(name=name, definition=definition)
    except ValidationError:
        return None


def _entries(reply: Reply, names: Sequence[str], material: Sequence[str]) -> list[Entry]:
    """Return all that a reply says about aspects: from its JSON, else from its lines."""
    keys = frozenset(map(aspect_key, names))
    values = json_values(reply.text)
    if values:
        printed = {_print(entry) for text in material for entry in _in_values(json_values(text), keys)}
        entries = [e for e in _in_values(foreign(values, material), keys) if not e.reason or _print(e) not in printed]
    else:
        entries = list(_in_lines(reply.text, names, material))
    return entries[:-1] if reply.finish == "length" else entries  # the last one may have lost its end


def _print(entry: Entry) -> tuple[str, str, str]:
    """Return what two entries have in common that say the same in the same words."""
    return aspect_key(entry.name), str(entry.value), entry.reason


def _in_values(values: Sequence[Any], keys: frozenset[str]) -> list[Entry]:
    return [entry for value in values for entry in _in_json(value, keys)]


def _in_json(value: Any, keys: frozenset[str]) -> Iterator[Entry]:
    if isinstance(value, Fields):
        yield from _in_object(value, keys)
    elif isinstance(value, list):
        for inner in value:
            yield from _in_json(inner, keys)


def _in_object(fields: Fields, keys: frozenset[str]) -> Iterator[Entry]:
    """Yield ``{"aspect": name, "score": …}`` as an entry, and each ``name: …`` of an object keyed by aspects."""
    by_kind = _by_kind(fields)
    if isinstance(by_kind.get("name"), str) and "score" in by_kind:
        yield _entry(by_kind["name"], by_kind)
        return
    for name, value in fields:
        inner = _by_kind(value) if isinstance(value, Fields) else {}
        if "score" in inner and "name" not in inner:
            yield _entry(name, inner)
        elif aspect_key(name) in keys:
            yield Entry(name, value)
        else:
            yield from _in_json(value, keys)


def _by_kind(fields: Fields) -> dict[str, Any]:
    """Return name, score, reason and definition of an object, whatever it calls them; scores that differ are a list."""
    found: dict[str, Any] = {}
    for name, value in fields:
        key = aspect_key(name)
        if key in _SCORES:
            differs = "score" in found and found["score"] != value
            found["score"] = [found["score"], value] if differs else value
        elif key in _NAMES:
            found.setdefault("name", value)
        elif key in _REASONS:
            found.setdefault("reason", value)
        elif key == "definition":
            found.setdefault("definition", value)
    return found


def _entry(name: str, by_kind: Mapping[str, Any]) -> Entry:
    reason, definition = (clean(by_kind.get(kind) or "") for kind in ("reason", "definition"))
    return Entry(name, by_kind["score"], reason, definition)


def _in_lines(text: str, names: Sequence[str], material: Sequence[str]) -> Iterator[Entry]:
    """Yield what lines such as ``Clarity: 4/5 - plain words``, or a name with ``Score: 4`` below it, say."""
    printed = {aspect_key(line) for written in material for line in written.splitlines()}
    patterns = [(name, _line_of(name)) for name in names]
    current: str | None = None
    for line in text.splitlines():
        if aspect_key(line) in printed and aspect_key(line) not in map(aspect_key, names):
            continue
        name, rest = next(((n, m["rest"]) for n, pattern in patterns if (m := pattern.match(line))), (None, None))
        entry = None
        if name is not None:
            current = None if rest else name
            entry = _from_text(name, rest or "")
        elif current is not None and (label := _LABEL.match(line)):
            entry = _from_text(current, label["value"].lstrip(" \t*_`\"'"))
        if entry is not None:
            yield entry


def _line_of(name: str) -> re.Pattern[str]:
    words = r"[\W_]*".join(map(re.escape, re.findall(r"[^\W_]+", name)))
    return re.compile(
        rf"""[\W_]* (?:\d+[.)]\W*)? {words} (?:\s+score)? [\s*_`"')\]]*
        (?: [:=–—-]*[\s*_`"']* $ | (?: [:=|(–—-] | (?=\d) | \bis\b | \bgets\b ) [\s*_`"'|]* (?P<rest>.*) )""",
        re.IGNORECASE | re.VERBOSE,
    )


def _from_text(name: str, text: str) -> Entry | None:
    """Part a line's text into score and reason, as in ``4/5 - plain words``; None where it is prose."""
    head = _HEAD.match(text)
    if head is None or _MORE_THAN_A_HEAD.match(text, head.end()):
        scored = len(text) <= _SHORT and any(map(str.isdigit, text))
        return Entry(name, clean(text)) if scored else None
    return Entry(name, head[0], clean(text[head.end() :].strip(" \t*_`\"'|:;,.()–—-")))


def _choices(reply: Reply, known: Mapping[str, Aspect], material: Sequence[str]) -> Iterator[Entry]:
    """Yield the aspects that a reply names: from its JSON, else from a reply that is nothing but a list of names."""
    values = json_values(reply.text)
    if values:
        for value in foreign(values, material):
            yield from _named(value, known)
        return
    for part in re.split(r"[\n,;]+", reply.text):
        name = re.sub(r"^[\W_]*(?:\d+[.)])?[\W_]*", "", part).partition(":")[0].strip(" \t*_`\"'.")
        if aspect_key(name) in known:
            yield Entry(name, None)


def _named(value: Any, known: Mapping[str, Aspect]) -> Iterator[Entry]:
    if isinstance(value, str):
        yield Entry(value, None)
    elif isinstance(value, Fields):
        by_kind = _by_kind(value)
        if isinstance(by_kind.get("name"), str):
            yield Entry(by_kind["name"], None, "", clean(by_kind.get("definition") or ""))
            return
        for name, inner in value:
            if aspect_key(name) in _LISTS:
                yield from _named(inner, known)
            elif aspect_key(name) in known:
                yield Entry(name, None)
            elif isinstance(inner, Fields):
                yield from _named(inner, known)
    elif isinstance(value, list):
        for inner in value:
            yield from _named(inner, known)
