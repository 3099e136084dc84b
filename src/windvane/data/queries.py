"""Queries from a data source."""

import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from windvane.data.messages import brief
from windvane.data.reading import rows
from windvane.data.shapes import prompt_of
from windvane.data.source import BadRow, DataSource, Row
from windvane.errors import DataError
from windvane.types import Dropped, Message, Query


class QuerySet(NamedTuple):
    """Usable queries in the order of the source, and what was left out."""

    queries: list[Query]
    dropped: list[Dropped]
    """Reason ``duplicate_prompt``, and with ``bad_rows: drop`` why a row is unusable. The id is the row's place."""


class _Identified(Protocol):
    @property
    def id(self) -> str: ...


R = TypeVar("R", bound=_Identified)


def load_queries(source: DataSource, *, limit: int | None = None) -> list[Query]:
    """Return the first `limit` usable queries (all if None); see `read_queries` for what is left out."""
    return read_queries(source, limit=limit).queries


def read_queries(source: DataSource, *, limit: int | None = None) -> QuerySet:
    """Read queries: unique ids, unique prompts. Preference data serve as well: their responses are not looked at.

    Raises `DataError` with file and line for a row that cannot be used (unless ``bad_rows: drop``), for an id that
    stands twice, and where no query is left.
    """

    def make(row: Row) -> Query:
        messages = prompt_of(row.values, source)
        return Query(id=row_id(row, source, messages), messages=messages, source=row_source(row))

    queries, dropped = collect(
        rows(source), make, lambda query: normalised_prompt(query.messages), source, "duplicate_prompt", limit
    )
    refuse_none(queries, dropped, f"{source.path} holds no usable query")
    return QuerySet(queries, dropped)


def normalised_prompt(messages: Sequence[Message]) -> str:
    """Return what makes two prompts the same: roles and words, whatever the case, spacing and Unicode form."""
    return json.dumps(
        [(m.role, " ".join(unicodedata.normalize("NFKC", m.content).casefold().split())) for m in messages]
    )


def collect(
    found: Iterable[Row],
    make: Callable[[Row], R],
    content: Callable[[R], str],
    source: DataSource,
    duplicate: str,
    limit: int | None = None,
) -> tuple[list[R], list[Dropped]]:
    """Make a record of each row until there are `limit` (1 or more); later rows are not read.

    The second of two records with equal `content` is dropped for the reason `duplicate`.
    """
    records: list[R] = []
    dropped: list[Dropped] = []
    contents: dict[str, str] = {}
    ids: dict[str, str] = {}
    for row in found:
        try:
            record = make(row)
            _refuse_second(record.id, row, source, ids)
        except BadRow as error:
            if source.bad_rows == "stop":
                raise DataError(f"{row.place}: {error}. To leave such rows out, set bad_rows: drop.") from None
            dropped.append(Dropped(id=row.place, reason=error.reason, detail=str(error)))
            continue
        twin = contents.setdefault(content(record), row.place)
        if twin != row.place:
            dropped.append(Dropped(id=row.place, reason=duplicate, detail=f"same as {twin}"))
            continue
        records.append(record)
        if len(records) == limit:
            break
    return records, dropped


def _refuse_second(name: str, row: Row, source: DataSource, ids: dict[str, str]) -> None:
    """Refuse an id that another row has; equal hashes are equal content, which is no error but a duplicate."""
    if row.values.get(source.id_column) is None:
        return
    first = ids.setdefault(name, row.place)
    if first != row.place:
        raise BadRow(
            "duplicate_id", f"the id {name!r} already stands at {first}; give each row its own, or leave the column out"
        )


def refuse_none(records: Sequence[Any], dropped: Sequence[Dropped], what: str) -> None:
    """Raise `DataError` with the reasons of all dropped rows where no record is left."""
    if not records:
        reasons = ", ".join(f"{n} {reason}" for reason, n in Counter(drop.reason for drop in dropped).items())
        raise DataError(f"{what}: {f'{len(dropped)} rows dropped ({reasons})' if dropped else 'it has no rows'}.")


def row_id(row: Row, source: DataSource, *content: Any) -> str:
    """Return the row's own id, or else a hash of `content` that is the same wherever the row stands."""
    own = row.values.get(source.id_column)
    if own is None:
        text = json.dumps(content, default=lambda message: message.model_dump(), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]
    if isinstance(own, bool) or not isinstance(own, str | int) or not str(own).strip():
        raise BadRow("bad_id", f"{source.id_column} is {brief(own)}; an id is a text or a whole number")
    return str(own)


def row_source(row: Row) -> str:
    """Return what the row itself calls its source, or else the name of its file or dataset."""
    own = row.values.get("source")
    return own if isinstance(own, str) and own.strip() else row.source
