"""Preference pairs that somebody else made."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from windvane.data.queries import collect, refuse_none, row_id, row_source
from windvane.data.reading import rows
from windvane.data.shapes import PLAIN, preference_of, preference_source
from windvane.data.source import DataSource, Row
from windvane.types import Dropped, Message, Record


class OfflinePair(Record):
    """A pair of responses that came with the data: text, without token ids."""

    id: str
    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    source: str | None = None
    extra: Mapping[str, Any] = {}
    """The row's other columns; what JSON has no word for (a date, bytes) is its text."""


class PreferenceSet(NamedTuple):
    """Usable pairs in the order of the source, and what was left out."""

    pairs: list[OfflinePair]
    dropped: list[Dropped]
    """Reason ``duplicate_pair``, and with ``bad_rows: drop`` why a row is unusable. The id is the row's place."""


def load_preferences(source: DataSource, *, limit: int | None = None) -> list[OfflinePair]:
    """Return the first `limit` usable pairs (all if None); see `read_preferences` for what is left out."""
    return read_preferences(source, limit=limit).pairs


def read_preferences(source: DataSource, *, limit: int | None = None) -> PreferenceSet:
    """Read preference pairs; several pairs of one prompt are kept, the same pair twice is not.

    Raises `DataError` with file and line for a row that cannot be used (unless ``bad_rows: drop``), for an id that
    stands twice, and where no pair is left.
    """
    source = preference_source(source)
    used = {*PLAIN, "input", "system", "source", source.prompt_column, source.id_column}
    used |= {source.chosen_column, source.rejected_column}

    def make(row: Row) -> OfflinePair:
        prompt, chosen, rejected = preference_of(row.values, source)
        return OfflinePair(
            id=row_id(row, source, prompt, chosen, rejected),
            prompt=prompt,
            chosen=chosen,
            rejected=rejected,
            source=row_source(row),
            extra={name: _json_value(value) for name, value in row.values.items() if name not in used},
        )

    def content(pair: OfflinePair) -> str:
        return pair.model_dump_json(include={"prompt", "chosen", "rejected"})

    pairs, dropped = collect(rows(source), make, content, source, "duplicate_pair", limit)
    refuse_none(pairs, dropped, f"{source.path} holds no usable pair")
    return PreferenceSet(pairs, dropped)


def _json_value(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))
