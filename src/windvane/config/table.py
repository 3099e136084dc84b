"""The reference table of a configuration, generated from the code."""

import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from windvane.config.explain import members, tag_of
from windvane.config.settings import Settings, is_tag
from windvane.config.writing import show

PLAIN = {
    "int": "whole number",
    "float": "number",
    "bool": "true or false",
    "str": "text",
    "Any": "anything",
    "Path": "path",
    "NoneType": "null",
}
SIGNS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}


FEW = 3
"""Groups of so few keys are written out each time."""
REQUIRED = ("", "required")


class Line(NamedTuple):
    """One setting in the table."""

    key: str
    type: str
    default: str
    meaning: str
    member: str
    """The union members that have this setting, "" outside of unions."""


def markdown_table(kind: type[Settings]) -> str:
    """Return a Markdown table of every setting of a configuration: key, type, default, meaning.

    Nested groups are written out with dotted keys. Of a union, the members' own keys follow with the member's name
    before their meaning; members that have a key in common share its line. A group that has been written out before,
    with the same defaults, is one line that points there.
    """
    rows = ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    for line in _merged(list(_lines(kind, None, "", "", {}))):
        meaning = f"({line.member}) {line.meaning}" if line.member else line.meaning
        cells = [
            f"`{line.key}`",
            line.type,
            f"`{line.default}`" if line.default else REQUIRED[bool(line.type)],
            meaning,
        ]
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(rows) + "\n"


Seen = dict[tuple[Line, ...], str]
"""Groups as they were written out, keys without their prefix, and under which prefix that was."""


def _lines(kind: type[BaseModel], default: Any, prefix: str, member: str, seen: Seen | None) -> Iterator[Line]:
    """Yield the lines of a group, in full where `seen` is None."""
    for name, field in kind.model_fields.items():
        key = f"{prefix}{name}"
        value = getattr(default, name) if isinstance(default, kind) else _default(field)
        meaning = " ".join((field.description or "").split())
        groups = list(members(field.annotation))
        tags = {group: tag for group in groups if (tag := tag_of(group))}
        if is_tag(field.annotation):
            continue  # the line of its union says it
        if tags:
            yield _union_line(key, tags, value)._replace(meaning=meaning, member=member)
        elif not groups or value is None or not isinstance(value, Settings | type(PydanticUndefined)):
            yield Line(key, _type(field.annotation, field.metadata), _shown(value), meaning, member)
        inside = f"{key}[]." if _is_list(field.annotation) else f"{key}."
        inner = [line for group in groups for line in _lines(group, value, inside, tags.get(group, member), None)]
        same = tuple(line._replace(key=line.key.removeprefix(inside)) for line in inner)
        if seen is None or len(inner) <= FEW:
            yield from inner
        elif seen.setdefault(same, inside) != inside:
            yield Line(f"{inside}*", "", "", f"As `{seen[same]}*`.", member)
        else:
            for group in groups:
                yield from _lines(group, value, inside, tags.get(group, member), seen)


def _union_line(key: str, tags: Mapping[type[Settings], str], default: Any) -> Line:
    """Return the line of a union: the key and the words that tell its members apart."""
    tag = next(name for name, field in next(iter(tags)).model_fields.items() if is_tag(field.annotation))
    start = show(tag_of(type(default))) if isinstance(default, Settings) else _shown(default)
    return Line(f"{key}.{tag}", " or ".join(map(_code, tags.values())), start, "", "")


def _merged(lines: Sequence[Line]) -> list[Line]:
    """Join the lines that differ in the union member only; they stand where the first of them stood."""
    joined: dict[tuple[str, str, str, str], list[str]] = {}
    for line in lines:
        joined.setdefault((line.key, line.type, line.default, line.meaning), []).append(line.member)
    return [
        Line(key, kind, default, meaning, ", ".join(dict.fromkeys(filter(None, names))))
        for (key, kind, default, meaning), names in joined.items()
    ]


def _default(field: FieldInfo) -> Any:
    if field.is_required() or field.default_factory_takes_validated_data:
        return PydanticUndefined
    return field.get_default(call_default_factory=True)


def _shown(value: Any) -> str:
    if value is PydanticUndefined:
        return ""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    if isinstance(value, tuple):
        value = [item.model_dump(mode="json") if isinstance(item, BaseModel) else item for item in value]
    return show(value if isinstance(value, str | float | int | list | dict | None) else str(value))


def _type(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """Return a type and its bounds in words: ``number > 0``, ``list of text``."""
    bounds = [
        f"{sign} {value:g}" for m in metadata for n, sign in SIGNS.items() if (value := getattr(m, n, None)) is not None
    ]
    return " ".join([_name(annotation), *bounds])


def _name(annotation: Any) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(parts[0], parts[1:])
    if origin is Literal:
        return " or ".join(_code(part) for part in parts)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_type(part) for part in parts))
    if origin in (tuple, list):
        return "list of " + " or ".join(dict.fromkeys(_type(part) for part in parts if part is not Ellipsis))
    if origin is not None:
        return "group of " + _type(parts[-1]) if len(parts) == 2 else str(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "group"
    return PLAIN.get(getattr(annotation, "__name__", ""), str(annotation))


def _is_list(annotation: Any) -> bool:
    return get_origin(annotation) in (tuple, list)


def _code(word: Any) -> str:
    return f"`{show(word)}`"
