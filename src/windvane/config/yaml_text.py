"""YAML as people expect it: floats like ``1e-5`` are floats, ``on`` is a word, a key that stands twice is an error."""

import re
from typing import Any, NamedTuple

import yaml

from windvane.errors import ConfigError

Keys = tuple[str | int, ...]


MERGE = "tag:yaml.org,2002:merge"
KEY_TAGS = ("tag:yaml.org,2002:str", MERGE)


class Document(NamedTuple):
    """What a text says, and the line (from 1) on which each key or list item starts."""

    value: Any
    lines: dict[Keys, int]


class Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the scalars of YAML 1.2.

    Those of 1.1, its default, read ``1e-5`` as a string, ``no`` as false and ``1:30`` as 90.
    """


class Dumper(yaml.SafeDumper):
    """Quotes what either version of YAML would take for something else than a string."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write equal values out in full each time: a reader should not have to follow anchors."""
        return True


_SCALARS = {
    "tag:yaml.org,2002:bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "tag:yaml.org,2002:int": (r"[-+]?[0-9][0-9_]*|0x[0-9a-fA-F]+|0o[0-7]+", "-+0123456789"),
    "tag:yaml.org,2002:float": (
        r"[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
    "tag:yaml.org,2002:null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "tag:yaml.org,2002:merge": (r"<<", "<"),
}
Loader.yaml_implicit_resolvers = {}
for _tag, (_pattern, _first) in _SCALARS.items():
    _compiled = re.compile(rf"^(?:{_pattern})$")
    Loader.add_implicit_resolver(_tag, _compiled, list(_first))
    Dumper.add_implicit_resolver(_tag, _compiled, list(_first))


def _whole_number(loader: Loader, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node).replace("_", "")
    base = {"0x": 16, "0o": 8}.get(text[:2], 10)
    return int(text, base)


Loader.add_constructor("tag:yaml.org,2002:int", _whole_number)


def _text(dumper: Dumper, text: str) -> yaml.ScalarNode:
    """Escape the line breaks of Unicode, which PyYAML writes as they are and reads back as spaces."""
    style = '"' if any(mark in text for mark in "\x85\u2028\u2029") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


Dumper.add_representer(str, _text)


def parse(text: str, where: str) -> Document:
    """Read one YAML document; `where` names it in errors. An empty text is None."""
    try:
        loader = Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return Document(None, {})
            lines: dict[Keys, int] = {}
            _check(node, (), lines, where, {})
            return Document(loader.construct_document(node), lines)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        raise ConfigError(_explain(error, text, where)) from None
    except ConfigError:
        raise
    except (yaml.YAMLError, ValueError) as error:  # a control character, a date that does not exist
        raise ConfigError(f"{where} cannot be read as YAML: {str(error).splitlines()[0]}.") from None


def _check(node: yaml.Node, path: Keys, lines: dict[Keys, int], where: str, done: dict[int, bool]) -> None:
    """Note the line of each key. Refuse keys that are no text or stand twice in a group, and values inside themselves.

    `done` says of each node that was met whether it is finished: an anchor may be used often, but not inside itself.
    """
    if id(node) in done:
        if not done[id(node)]:
            line = node.start_mark.line + 1
            raise ConfigError(f"{where}, line {line}: {dotted(path)} is an alias inside its own anchor; write it out.")
        return
    done[id(node)] = False
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            lines[*path, index] = item.start_mark.line + 1
            _check(item, (*path, index), lines, where, done)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*path, str(key.value))
            line = key.start_mark.line + 1
            if key.tag not in KEY_TAGS:
                raise ConfigError(f"{where}, line {line}: the key {dotted(here)} is not text; correct or quote it.")
            if here in lines and key.tag != MERGE:
                raise ConfigError(
                    f"{where}, line {line}: {dotted(here)} is set a second time (first on line {lines[here]}); "
                    "remove one."
                )
            lines[here] = line
            _check(value, here, lines, where, done)
    done[id(node)] = True


def _explain(error: yaml.MarkedYAMLError, text: str, where: str) -> str:
    mark = error.problem_mark or error.context_mark
    if mark is None:
        return f"{where} cannot be read as YAML: {error.problem}."
    rows = text.splitlines()
    row = rows[mark.line] if mark.line < len(rows) else ""
    place = f"{where}, line {mark.line + 1}"
    if "\t" in row[: len(row) - len(row.lstrip())]:
        return f"{place} is indented with a tab, which YAML does not allow; use spaces."
    problem = error.problem or "unexpected text"
    return (
        f"{place}, column {mark.column + 1}: not valid YAML ({problem}): {row.strip()!r}. "
        "Put quotes around text with ':' or '#' in it, and check the indentation."
    )


def dotted(path: Keys) -> str:
    """Write a path as users do: ``training.betas[1]``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
