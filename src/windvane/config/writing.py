"""A configuration as text, and what changed between two of them."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from pydantic import BaseModel

from windvane.config.yaml_text import Dumper


def to_yaml(config: BaseModel) -> str:
    """Return every setting as YAML, defaults resolved, in the order of the fields; `load_config` reads it back."""
    values = config.model_dump(mode="json")
    return yaml.dump(values, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return one line for each setting that differs, such as ``training.learning_rate: 1e-5 -> 3e-5``.

    Takes two configurations as plain values (``model_dump(mode="json")`` or YAML read back); a list is one value.
    """
    before, after = dict(_leaves(old)), dict(_leaves(new))
    names = list(before) + [name for name in after if name not in before]
    return [
        f"{name}: {_shown(before, name)} -> {_shown(after, name)}"
        for name in names
        if _shown(before, name) != _shown(after, name)
    ]


def show(value: Any) -> str:
    """Return a value as a user would type it in YAML."""
    if isinstance(value, float):
        return re.sub(r"e([-+]?)0*", lambda found: f"e{found[1].replace('+', '')}", repr(value))
    text = yaml.dump(value, Dumper=Dumper, default_flow_style=True, allow_unicode=True, width=10**9)
    return text.removesuffix("\n").removesuffix("\n...")


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _shown(leaves: Mapping[str, Any], name: str) -> str:
    return show(leaves[name]) if name in leaves else "(absent)"
