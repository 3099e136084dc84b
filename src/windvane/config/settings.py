"""The base class of everything that a user can set."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, model_validator
from pydantic_core import CoreSchema

EXACT = frozenset({"int", "float", "bool", "str"})
"""Schemas whose values are taken as they are: ``"8"`` is no number, ``true`` is not 1, and 1 is not ``true``.

A whole number still serves where a float is asked for. Containers stay lenient, so a list serves for a tuple and a
string for a path, which is all that YAML can write.
"""


PARTS = ("schema", "items_schema", "keys_schema", "values_schema", "lax_schema", "choices", "steps", "definitions")
"""Where a schema keeps the schemas that it is made of."""


def _take_as_is(schema: Any) -> None:
    """Forbid conversions between scalars everywhere in `schema`, but not inside records that are no settings."""
    if isinstance(schema, list | tuple):
        for part in schema:
            _take_as_is(part)
    elif isinstance(schema, dict):
        if schema["type"] == "model" and not hasattr(schema["cls"], "shorthand"):
            return  # not one of ours (`Settings` itself has no name yet when pydantic builds it)
        if schema["type"] in EXACT:
            schema["strict"] = True
        for part in [schema.get(name) for name in PARTS] + list(schema.get("fields", {}).values()):
            _take_as_is(list(part.values()) if isinstance(part, dict) and "type" not in part else part)


class Settings(BaseModel):
    """A frozen group of settings; unknown keys fail, and the docstring under each field is its documentation.

    A group given in part is completed from the default of the field it stands in, not from its own class:
    with ``loss: LossSettings = IpoSettings(beta=0.2)``, ``{loss: {nll_weight: 0.1}}`` keeps ipo and its beta.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True)

    shorthand: ClassVar[str | None] = None
    """The field that a bare string stands for: ``queries: my.jsonl`` for ``queries: {path: my.jsonl}``."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        _take_as_is(schema)
        return schema

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, given: Any) -> Any:
        if isinstance(given, str) and cls.shorthand is not None:
            return {cls.shorthand: given}
        if not isinstance(given, Mapping):
            return given
        return {name: _over_default(_default(cls, name), value) for name, value in given.items()}


def _default(kind: type[BaseModel], name: Any) -> Any:
    field = kind.model_fields.get(name)
    if field is None or field.default_factory_takes_validated_data:
        return None
    return field.get_default(call_default_factory=True)


def _over_default(default: Any, given: Any) -> Any:
    """Return `given` completed with what `default` says about the keys that it leaves out.

    A union whose discriminator names another member is a different group: nothing is taken over.
    """
    if not isinstance(default, Settings) or not isinstance(given, Mapping):
        return given
    kind = type(default)
    tags = [name for name, field in kind.model_fields.items() if is_tag(field.annotation)]
    if any(name in given and given[name] != getattr(default, name) for name in tags):
        return given
    rest = {name: getattr(default, name) for name in kind.model_fields if name not in given}
    return rest | {name: _over_default(getattr(default, str(name), None), value) for name, value in given.items()}


def groups_inside(settings: Settings, at: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Settings]]:
    """Yield `settings` and every group that stands at a key below them, each with the keys that lead to it."""
    yield at, settings
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, Settings):
            yield from groups_inside(value, (*at, name))


def is_tag(annotation: Any) -> bool:
    """Whether a field can only hold one word, as the discriminator of a union's member does."""
    return get_origin(annotation) is Literal and len(get_args(annotation)) == 1
