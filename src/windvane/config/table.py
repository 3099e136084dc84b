"""The reference table of a configuration, generated from the code."""

import types
from collections.abc import Iterator, Sequence
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
    "Path": "path",
    "NoneType": "null",
}
SIGNS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}


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
    before their meaning; members that have a key in common share its line.
    """
    rows = ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    for line in _merged(list(_lines(kind, None, "", ""))):
        meaning = f"({line.member}) {line.meaning}" if line.member else line.meaning
        cells = [f"`{line.key}`", line.type, f"`{line.default}`" if line.default else "required", meaning]
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(rows) + "\n"


def _lines(kind: type[BaseModel], default: Any, prefix: str, member: str) -> Iterator[Line]:
    for name, field in kind.model_fields.items():
        key = f"{prefix}{name}"
        value = getattr(default, name) if isinstance(default, kind) else _default(field)
        meaning = " ".join((field.description or "").split())
        groups = list(members(field.annotation))
        tags = {group: tag for group in groups if (tag := tag_of(group))}
        if is_tag(field.annotation):
            continue  # the line of its union says it
        if tags:
            tag = next(name for name, field in groups[0].model_fields.items() if is_tag(field.annotation))
            start = "" if value is PydanticUndefined else show(tag_of(type(value)) or None)
            yield Line(f"{key}.{tag}", " or ".join(map(_code, tags.values())), start, meaning, member)
        elif not groups or value is None or not isinstance(value, Settings | type(PydanticUndefined)):
            yield Line(key, _type(field.annotation, field.metadata), _shown(value), meaning, member)
        inside = f"{key}[]." if _is_list(field.annotation) else f"{key}."
        for group in groups:
            yield from _lines(group, value, inside, tags.get(group, member))


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
