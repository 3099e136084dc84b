"""Read a configuration: YAML file, overrides, defaults, checked as one tree."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import ValidationError

from windvane.config.explain import group_classes, has_unknown_key, keys_fit, problems
from windvane.config.near import near_files
from windvane.config.settings import Settings
from windvane.config.yaml_text import Keys, dotted, parse
from windvane.errors import ConfigError

T = TypeVar("T", bound=Settings)


class Given(NamedTuple):
    """What a user wrote, and where each key was written."""

    values: dict[str, Any]
    places: dict[Keys, str]
    """Key path to place: ``sso.yaml, line 4`` or ``--set seed=3``."""


Kinds = Callable[[], Mapping[str, type[Settings]]]
"""Gives the configuration class of each command, by its name; asked only where a configuration is wrong."""


def load_config(
    kind: type[T], path: Path | str | None = None, overrides: Sequence[str] = (), *, commands: Kinds = dict
) -> T:
    """Return a `kind` from a YAML file (or from its defaults alone) with ``a.b=c`` overrides laid over it, in order.

    The value of an override is read as YAML: ``seed=3``, ``betas=[0.9, 0.95]``, ``loss={type: dpo, beta: 0.1}``;
    one set to nothing is null. Raises `ConfigError` with everything that is wrong at once, each with its place.
    """
    path = None if path is None else Path(path)
    given = _read(path) if path is not None else Given({}, {})
    for override in overrides:
        _override(given, override, kind)
    try:
        return kind.model_validate(given.values)
    except ValidationError as error:
        found = [
            f"{_place(problem.path, given, path)}: {problem.text}{'' if problem.text.endswith(('?', '.')) else '.'}"
            for problem in problems(error, kind, given.values)
        ]
        hint = _other_command(given.values, commands) if has_unknown_key(error) else ""
    if len(found) == 1:
        raise ConfigError(f"{found[0]}{hint}")
    raise ConfigError("\n  ".join([f"the configuration has {len(found)} problems:", *found]) + hint)


def _other_command(values: Mapping[str, Any], commands: Kinds) -> str:
    """Return a line that names the commands whose configuration has the keys of `values`, or "" if there are none."""
    fitting = [f"`windvane {command}`" for command, kind in commands().items() if keys_fit(kind, values)]
    return f"\nIt looks like a configuration for {' or '.join(fitting)}." if fitting else ""


def _read(path: Path) -> Given:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist.{near_files(path)}") from None
    except IsADirectoryError:
        raise ConfigError(f"{path} is a folder; give the YAML file in it.") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text ({error.reason}); save it as UTF-8.") from None
    document = parse(text, str(path))
    values = {} if document.value is None else document.value
    if not isinstance(values, dict):
        what = "a list" if isinstance(values, list) else repr(values)
        raise ConfigError(f"{path} holds {what}; a configuration is a group of keys such as 'seed: 0'.")
    return Given(values, {keys: f"{path}, line {line}" for keys, line in document.lines.items()})


def _override(given: Given, override: str, kind: type[Settings]) -> None:
    """Lay one ``a.b=c`` over what is given."""
    key, equals, text = override.partition("=")
    secret = key.strip().endswith("api_key_env")  # where a key is given in place of its name, no message repeats it
    place = f"--set {key}=..." if secret else f"--set {override}"
    keys: Keys = tuple(part.strip() for part in key.split("."))
    if not equals or not all(keys):
        raise ConfigError(f"{place}: an override has the form key=value, such as --set training.epochs=1.")
    document = parse(text, place)
    group = given.values
    for depth in range(1, len(keys)):
        group = _into(group, keys[:depth], given, place, kind)
    group[str(keys[-1])] = document.value
    for old in [old for old in given.places if old[: len(keys)] == keys]:
        del given.places[old]
    given.places[keys] = place


def _into(group: dict[str, Any], keys: Keys, given: Given, place: str, kind: type[Settings]) -> dict[str, Any]:
    """Return the group at `keys`, made where there is none; a string that stands for a group becomes that group."""
    name = str(keys[-1])
    value = group.get(name)
    if isinstance(value, str):
        short = next((c.shorthand for c in group_classes(keys, kind) if c.shorthand is not None), None)
        value = {short: value} if short else value
    if value is None:
        value = {}
    if not isinstance(value, dict):
        at = given.places.get(keys, "the configuration")
        raise ConfigError(
            f"{place}: {dotted(keys)} is {value!r} ({at}) and has no keys inside; "
            f"set it as a whole with --set {dotted(keys)}=..."
        )
    group[name] = value
    return value


def _place(keys: Keys, given: Given, path: Path | None) -> str:
    """Return where a key, or else the nearest group around it, was written."""
    for depth in range(len(keys), 0, -1):
        if keys[:depth] in given.places:
            return given.places[keys[:depth]]
    return str(path) if path is not None else "the configuration"
