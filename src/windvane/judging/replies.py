"""The JSON in a reply: whatever stands around it, however it is broken, and none that was copied from the material."""

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

_ATTEMPTS = 200
"""Brackets that are tried as the beginning of a value, so that a reply full of brackets costs no time."""
_LEVELS = 20
"""A value that is nested deeper is no verdict."""


class Fields(list[tuple[str, Any]]):
    """A JSON object as its pairs, in order: unlike a dict it keeps both of two equal keys."""


def json_values(text: str) -> list[Any]:
    """Return the outermost objects and lists of a text, in order, every object as `Fields`.

    An object that is no valid JSON is repaired, with all that follows it, if it holds valid ones (they are its parts)
    or if there is none beside it.
    """
    decoder = json.JSONDecoder(object_pairs_hook=Fields, strict=False)
    decoded: list[tuple[int, Any]] = []
    failed: list[int] = []
    end = 0
    for tried, start in enumerate(re.finditer(r"[\[{]", text)):
        if tried == _ATTEMPTS:
            break
        if start.start() < end:
            continue  # inside the value before
        try:
            value, end = decoder.raw_decode(text, start.start())
        except (ValueError, RecursionError):
            failed += [start.start()] if start[0] == "{" else []
            continue
        if _is_flat(value):
            decoded.append((start.start(), value))
    if not any(_has_object(value) for _, value in decoded):
        broken = failed[0] if failed else None
    else:
        broken = next((at for at in failed if _encloses(text, at, [start for start, _ in decoded])), None)
    if broken is not None and (repaired := _repaired(text[broken:])):
        return [value for start, value in decoded if start < broken] + repaired
    return [value for _, value in decoded]


def foreign(values: Iterable[Any], material: Sequence[str]) -> list[Any]:
    """Return the values that stand nowhere in `material`.

    A judge may quote what it judges, and what it judges may have been written to be quoted: a verdict that stands word
    for word in the material is never taken for the judge's own.
    """
    printed = {_canonical(value) for text in material for value in json_values(text)}
    return [value for value in values if _canonical(value) not in printed]


def clean(value: object) -> str:
    """Return any value of a reply as one line of text that can be written as UTF-8."""
    return " ".join(str(value).encode("utf-8", "replace").decode().split())


def _encloses(text: str, brace: int, places: Sequence[int]) -> bool:
    """Whether one of `places` lies between a brace and the one that closes it."""
    depth = 0
    for sign in re.compile(r"[{}]").finditer(text, brace):
        depth += 1 if sign[0] == "{" else -1
        if not depth:
            return any(brace < place < sign.start() for place in places)
    return any(brace < place for place in places)


def _repaired(text: str) -> list[Any]:
    import json_repair

    if text.count("{") > _ATTEMPTS:
        return []
    try:
        value = json_repair.loads(text)
        found = value if isinstance(value, list) else [value]
        return [_as_fields(item) for item in found if isinstance(item, dict) and _is_flat(item)]
    except (ValueError, RecursionError):
        return []


def _as_fields(value: Any) -> Any:
    if isinstance(value, dict):
        return Fields((str(key), _as_fields(inner)) for key, inner in value.items())
    return [_as_fields(inner) for inner in value] if isinstance(value, list) else value


def _is_flat(value: Any, levels: int = _LEVELS) -> bool:
    if isinstance(value, Fields):
        value = [inner for _, inner in value]
    elif isinstance(value, dict):
        value = list(value.values())
    return not isinstance(value, list) or (levels > 0 and all(_is_flat(inner, levels - 1) for inner in value))


def _has_object(value: Any) -> bool:
    return isinstance(value, Fields) or (isinstance(value, list) and any(map(_has_object, value)))


def _canonical(value: Any) -> str:
    """Return a text that is equal for two values that differ in spacing, quotes or the order of keys alone."""
    if isinstance(value, Fields):
        return "{" + ",".join(sorted(f"{key!r}:{_canonical(inner)}" for key, inner in value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_canonical, value)) + "]"
    return repr(" ".join(value.split()) if isinstance(value, str) else value)
