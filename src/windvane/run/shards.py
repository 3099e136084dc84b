"""A shard: the records of a part of a stage, and a last line by which a reader knows that it has all of them."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path, PurePath
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel

from windvane.errors import RunFailed
from windvane.types import Record

R = TypeVar("R", bound=Record)


class Shard(NamedTuple):
    """What one shard holds."""

    lines: bytes
    """The records, one JSON line each."""
    counts: Mapping[str, int]
    """Counters of the work that made them."""


def encode_shard(shard: Shard) -> bytes:
    """Return the shard as it is stored: its lines, then a line with their number, their checksum and the counters."""
    seal = {
        "records": shard.lines.count(b"\n"),
        "sha256": hashlib.sha256(shard.lines).hexdigest(),
        "counts": dict(sorted(shard.counts.items())),
    }
    return shard.lines + json.dumps({"shard": seal}).encode() + b"\n"


def decode_shard(content: bytes) -> Shard | None:
    """Return the shard, or None if `content` is not exactly what `encode_shard` made."""
    start = content.rfind(b"\n", 0, len(content) - 1) + 1
    lines = content[:start]
    try:
        seal = json.loads(content[start:])["shard"]
        shard = Shard(lines, {str(name): int(count) for name, count in seal["counts"].items()})
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return shard if encode_shard(shard) == content else None


def read_shard(path: Path) -> Shard | None:
    """Return the shard at `path`, or None if there is none or it is damaged."""
    try:
        return decode_shard(path.read_bytes())
    except FileNotFoundError:
        return None


def encode_records(records: Iterable[Record], *, stage: str) -> bytes:
    """Return the records as JSON lines.

    Raises `RunFailed` for a record that would not be read back as it is, such as one with a number that is not finite.
    """
    lines: list[bytes] = []
    for record in records:
        line = repr(record)
        try:
            line = record.to_json()
            json.dumps(record.model_dump(mode="json"), allow_nan=False)
            same = type(record).from_json(line).to_json() == line
        except ValueError as error:  # pydantic's ValidationError is one
            raise RunFailed(f"stage {stage} made a record that cannot be stored: {error}\n{line[:500]}") from error
        if not same:
            raise RunFailed(f"stage {stage} made a record that is not read back as it was: {line[:500]}")
        lines.append(line.encode() + b"\n")
    return b"".join(lines)


def decode_records(lines: bytes, record: type[R]) -> list[R]:
    """Return the records that `encode_records` wrote. Raises ``pydantic.ValidationError`` for anything else."""
    return [record.from_json(line) for line in lines.decode().split("\n")[:-1]]


def fingerprint(value: object) -> str:
    """Return a checksum by which a stage knows that its inputs are those that it was begun with.

    Takes records, settings, strings, numbers, paths, and sequences, mappings and dataclasses of these; raises TypeError
    for anything else.
    """
    checksum = hashlib.sha256()
    for part in _parts(value):
        checksum.update(part.encode("utf-8", "surrogatepass"))
        checksum.update(b"\0")
    return checksum.hexdigest()


def _parts(value: Any) -> Iterable[str]:
    if isinstance(value, BaseModel):
        yield f"{type(value).__name__}{value.model_dump_json()}"
    elif value is None or isinstance(value, bool | int | float | str):
        yield f"{type(value).__name__}:{value!r}"
    elif isinstance(value, PurePath):
        yield f"path:{value}"
    else:
        yield from _compound_parts(value)


def _compound_parts(value: Any) -> Iterable[str]:
    if is_dataclass(value) and not isinstance(value, type):
        entries: list[tuple[object, object]] = [(field.name, getattr(value, field.name)) for field in fields(value)]
    elif isinstance(value, Mapping):
        entries = list(value.items())
    elif isinstance(value, Sequence):
        yield f"[{len(value)}"
        for item in value:
            yield from _parts(item)
        return
    else:
        raise TypeError(
            f"a stage cannot tell whether a {type(value).__name__} is the same as before: give it records or values"
        )
    yield f"{{{len(entries)}"
    for name, item in entries:
        yield from _parts(name)
        yield from _parts(item)


def json_text(value: object) -> str:
    """Return a value as JSON for readers: indented, in the order given, with null for a number that is not finite."""
    return json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return _plain(value.model_dump(mode="json"))
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, PurePath) else value
