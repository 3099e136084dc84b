"""pydantic's errors in the words of whoever wrote the configuration."""

import difflib
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from windvane.config.settings import Settings, is_tag
from windvane.config.writing import show
from windvane.config.yaml_text import Keys, dotted

WANTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    "path_type": "a path",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a group of keys",
    "mapping_type": "a group of keys",
    "model_type": "a group of keys",
    "model_attributes_type": "a group of keys",
    "none_required": "null",
}
BOUNDS = {
    "greater_than": ("greater than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
    "multiple_of": ("a multiple of", "multiple_of"),
}


class Problem(BaseModel):
    """One thing that is wrong, at one key."""

    path: Keys
    text: str


def problems(error: ValidationError, kind: type[Settings], values: Any) -> list[Problem]:
    """Return what is wrong with `values` as a `kind`, one problem for each key, in the order found."""
    found: dict[Keys, list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        found.setdefault(_path(detail, values), []).append(detail)
    return [
        Problem(path=path, text=_text(path, details, kind))
        for path, details in found.items()
        if not _of_another_member(path, details, found)
    ]


def _of_another_member(path: Keys, details: Sequence[ErrorDetails], found: Iterable[Keys]) -> bool:
    """Whether `details` say nothing of their own, because what is wrong was found inside the value.

    ``by_source: {a: 0}`` is no boolean, which nobody meant it to be; what is wrong with it is the 0. And a list whose
    one element is wrong counts as empty.
    """
    inside = any(len(other) > len(path) and other[: len(path)] == path for other in found)
    types = {detail["type"] for detail in details}
    return inside and types <= {*WANTED, "literal_error", "too_short"}


def has_unknown_key(error: ValidationError) -> bool:
    """Whether a key that was given does not exist."""
    return any(detail["type"] == "extra_forbidden" for detail in error.errors(include_url=False))


def keys_fit(kind: type[Settings], values: Any) -> bool:
    """Whether `values` hold every key that a `kind` needs and no other, whatever else is wrong with them."""
    try:
        kind.model_validate(values)
    except ValidationError as error:
        return not any(detail["type"] in ("extra_forbidden", "missing") for detail in error.errors(include_url=False))
    return True


def _path(detail: ErrorDetails, values: Any) -> Keys:
    """Leave out of pydantic's location the names of union members, which no user has written."""
    path: list[str | int] = []
    for index, part in enumerate(detail["loc"]):
        last = index == len(detail["loc"]) - 1
        if isinstance(values, Mapping) and part in values:
            values = values[part]
        elif isinstance(values, Sequence) and not isinstance(values, str) and isinstance(part, int):
            values = values[part] if part < len(values) else None
        elif not (last and detail["type"] == "missing"):
            continue
        path.append(part)
    if detail["type"] == "union_tag_invalid":
        path.append(detail["ctx"]["discriminator"].strip("'"))
    return tuple(path)


def _text(path: Keys, details: Sequence[ErrorDetails], kind: type[Settings]) -> str:
    """Say what is wrong in one sentence; several `details` are the members of a union that all refused."""
    name = dotted(path) or "the configuration"
    first = details[0]
    if first["type"] == "extra_forbidden":
        return _unknown_key(path, kind, first["loc"])
    if first["type"] == "missing":
        meaning = _meaning(path, kind)
        return f"{name} is missing{f' ({meaning})' if meaning else ''}; set it in the file or with --set {name}=..."
    if first["type"] == "union_tag_not_found":
        tag = first["ctx"]["discriminator"].strip("'")
        words = ", ".join(_tags(path, kind))
        return f"{name} needs the key {tag}, one of {words}; it is {_quoted(first['input'])}"
    if first["type"] == "union_tag_invalid":
        return _one_of(name, first["ctx"]["tag"], _tags(path[:-1], kind))
    wanted = list(dict.fromkeys(_wanted(detail) for detail in details))
    if any(detail["type"] == "literal_error" for detail in details) and len(details) == 1:
        return _one_of(name, first["input"], _words(first))
    if first["type"] == "value_error":  # a validator of ours, whose message names the value
        message = str(first["ctx"]["error"]).rstrip(".")
        return f"{name}: {message}" if path else message
    if any(word is None for word in wanted):
        return f"{name}: {first['msg'][:1].lower()}{first['msg'][1:]}; it is {_quoted(first['input'])}"
    return f"{name} must be {' or '.join(map(str, wanted))}, not {_quoted(first['input'])}"


def _wanted(detail: ErrorDetails) -> str | None:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind in BOUNDS:
        word, key = BOUNDS[kind]
        return f"{word} {context[key]:g}"
    if kind == "literal_error":
        return " or ".join(_words(detail))
    if kind in ("too_short", "string_too_short"):
        return "something and not empty" if context["min_length"] == 1 else f"{context['min_length']} or more"
    if kind in ("too_long", "string_too_long"):
        return f"{context['max_length']} or fewer"
    return WANTED.get(kind)


def _one_of(name: str, value: Any, words: Sequence[str]) -> str:
    near = difflib.get_close_matches(str(value), words, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"{name} must be one of {', '.join(words)}, not {_quoted(value)}{hint}"


def _words(detail: ErrorDetails) -> list[str]:
    """Return the words of a literal: pydantic lists them as ``'a', 'b' or 'c'``."""
    return [word.strip("'") for word in detail["ctx"]["expected"].replace(" or ", ", ").split(", ")]


def _unknown_key(path: Keys, kind: type[Settings], location: Keys) -> str:
    """Name the nearest key of the same group, or else the same key in another group.

    `location` is pydantic's, which says of which member of a union this is not a key.
    """
    *above, key = path
    groups = [group for group in group_classes(tuple(above), kind) if tag_of(group) in ("", *location)]
    known = list(dict.fromkeys(name for group in groups for name in group.model_fields))
    near = _nearest(str(key), known)
    if near:
        return f"{dotted(path)} is not a key; did you mean {dotted((*above, near))}?"
    elsewhere = list(dict.fromkeys(name for name in _all_keys(kind) if name.split(".")[-1] == key))
    if elsewhere and dotted(path) not in elsewhere:
        return f"{dotted(path)} is not a key; did you mean {' or '.join(elsewhere[:3])}?"
    tags = [tag for tag in map(tag_of, groups) if tag]
    where = f"of {dotted(tuple(above))}{f' ({tags[0]})' if tags else ''}" if above else "here"
    return f"{dotted(path)} is not a key; the keys {where} are {', '.join(known)}"


def _nearest(key: str, known: Sequence[str]) -> str | None:
    """Return the key that was meant: by its initials (``lr``), or by likeness."""
    initials = [name for name in known if "_" in name and "".join(word[:1] for word in name.split("_")) == key]
    return next(iter(initials or difflib.get_close_matches(key, known, n=1)), None)


def _meaning(path: Keys, kind: type[Settings]) -> str:
    """Return the first sentence of what a field is documented as."""
    for group in group_classes(path[:-1], kind):
        field = group.model_fields.get(str(path[-1]))
        if field is not None and field.description:
            return " ".join(field.description.split()).split(". ")[0].rstrip(".")
    return ""


def _tags(path: Keys, kind: type[Settings]) -> list[str]:
    """Return the words that tell the members of the union at `path` apart."""
    return [tag for tag in map(tag_of, group_classes(path, kind)) if tag]


def tag_of(kind: type[BaseModel]) -> str:
    """Return the word that tells a member of a union from the others, "" for any other group."""
    return next((get_args(f.annotation)[0] for f in kind.model_fields.values() if is_tag(f.annotation)), "")


def group_classes(path: Keys, kind: type[Settings]) -> Iterator[type[Settings]]:
    """Yield the settings classes that may stand at `path`."""
    if not path:
        yield kind
        return
    for group in group_classes(path[:-1], kind):
        field = group.model_fields.get(str(path[-1]))
        if field is not None:
            yield from members(field.annotation)
        elif isinstance(path[-1], int):
            yield group


def _all_keys(kind: type[Settings], prefix: str = "") -> Iterator[str]:
    for name, field in kind.model_fields.items():
        yield f"{prefix}{name}"
        for group in members(field.annotation):
            yield from _all_keys(group, f"{prefix}{name}.")


def members(annotation: Any) -> Iterator[type[Settings]]:
    """Yield the settings classes in an annotation: ``A | B``, ``Annotated[A, ...]``, ``A | None``, ``tuple[A, B]``."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        yield annotation
    elif get_origin(annotation) is Annotated:
        yield from members(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, types.UnionType, tuple, list):
        for part in get_args(annotation):
            yield from members(part)


def _quoted(value: Any) -> str:
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    text = repr(value) if isinstance(value, str) else show(value)
    return text if len(text) <= 80 else f"{text[:76]} ..."
