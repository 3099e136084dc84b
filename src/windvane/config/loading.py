"""Read a configuration: YAML file, overrides, defaults, checked as one tree."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from windvane.config.settings import Settings
from windvane.config.yaml_text import parse
from windvane.errors import ConfigError

T = TypeVar("T", bound=Settings)


def load_config(kind: type[T], path: Path | None = None, overrides: Sequence[str] = ()) -> T:
    """Return a `kind` from a YAML file (or only its defaults) with ``a.b=c`` overrides laid over it."""
    values = (parse(path.read_text(encoding="utf-8"), path.name).value if path else None) or {}
    for override in overrides:
        key, _, text = override.partition("=")
        group = values
        *parents, last = key.split(".")
        for name in parents:
            group = group.setdefault(name, {})
        group[last] = parse(text, f"--set {override}").value
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ConfigError(str(error)) from None
