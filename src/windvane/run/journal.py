"""What happened when: one JSON line for each event, appended and synced."""

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from windvane.run.files import append_whole, explained


class Event(NamedTuple):
    """One line of the journal."""

    kind: str
    """``opened``, ``stage started``, ``shard``, ``stage finished``, ``finished``, ``failed``, ``interrupted`` …"""
    time: datetime
    """UTC."""
    fields: dict[str, Any]


class Journal:
    """The journal of one run, open for appending. Only the process that holds the run's lock may have one.

    An event is there in full or not at all: a line that a killed process or a full disk left torn is cut off.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with explained(path):
            self._descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
            os.ftruncate(self._descriptor, path.read_bytes().rfind(b"\n") + 1)

    def append(self, kind: str, **fields: Any) -> None:
        """Add an event; it is on disk when this returns. Raises `RunFailed` where the disk refuses."""
        stamp = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": stamp, "event": kind, **fields}, ensure_ascii=False).encode() + b"\n"
        with explained(self._path):
            append_whole(self._descriptor, line, sync=True)

    def close(self) -> None:
        """Append nothing more."""
        os.close(self._descriptor)


def read_events(path: Path) -> Iterator[Event]:
    """Yield the events of a journal in order. A torn or unreadable line is no event, a missing file holds none."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return
    for line in content.split(b"\n"):
        event = _parse(line)
        if event is not None:
            yield event


def _parse(line: bytes) -> Event | None:
    try:
        fields = json.loads(line)
        return Event(kind=fields.pop("event"), time=datetime.fromisoformat(fields.pop("time")), fields=fields)
    except (ValueError, KeyError, AttributeError, TypeError):
        return None
