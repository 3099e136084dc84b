"""JSON Lines, JSON and CSV, read so that an error names the file and the line."""

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from windvane.data.messages import brief
from windvane.data.source import Row
from windvane.errors import DataError

SIGNATURES = {
    b"PAR1": "a Parquet file; rename it to .parquet",
    b"\x1f\x8b": "compressed with gzip; unpack it with gunzip",
    b"PK\x03\x04": "a zip archive (or a spreadsheet); unpack it, or export it as CSV",
    b"(\xb5/\xfd": "compressed with zstd; unpack it with unzstd",
    b"\xff\xfe": "encoded in UTF-16; save it as UTF-8",
    b"\xfe\xff": "encoded in UTF-16; save it as UTF-8",
}


def jsonl_rows(path: Path) -> Iterator[Row]:
    """Yield one row for each line that is not blank."""
    any_row = False
    for number, text in _lines(path):
        if not text.strip():
            continue
        any_row = True
        yield Row(_object(text, path, number), f"{path}, line {number}", path.stem)
    if not any_row:
        raise DataError(f"{path} has no rows, only blank lines; it needs one JSON object on each line.")


def json_rows(path: Path) -> Iterator[Row]:
    """Yield the objects of a list, or of the one list in an object such as ``{"data": [...]}``.

    A file of JSON Lines that is called .json is read as such.
    """
    text = "".join(line for _, line in _lines(path))
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and text.lstrip().startswith("{"):
            yield from jsonl_rows(path)
            return
        raise DataError(
            f"{path}, line {error.lineno}: not valid JSON ({error.msg}, column {error.colno}). "
            "Correct the line; one object on each line is JSON Lines (.jsonl)."
        ) from None
    name, items = _the_list(document, path)
    if not items:
        raise DataError(f"{path}: {name} has no rows; it needs one object at least.")
    for number, item in enumerate(items, 1):
        if not isinstance(item, dict):
            raise DataError(
                f'{path}, item {number} is {brief(item)}; each item is an object such as {{"prompt": "..."}}.'
            )
        yield Row(item, f"{path}, item {number}", path.stem)


def csv_rows(path: Path, delimiter: str) -> Iterator[Row]:
    """Yield one row for each record under the header; every cell is text, an empty one is None.

    A cell that is a JSON list (messages, as `pandas` and spreadsheets write them) is read as that list.
    """
    csv.field_size_limit(2**31 - 1)  # the module's own limit, 128 KiB, is less than a long document
    reader = csv.reader((line for _, line in _lines(path)), delimiter=delimiter, strict=True)
    start, any_row = 1, False
    try:
        header = next(reader)
        start = reader.line_num + 1
        for cells in reader:
            line, start = start, reader.line_num + 1
            if not cells:
                continue
            if len(cells) > len(header):
                raise DataError(
                    f"{path}, line {line}: {len(cells)} cells under {len(header)} columns; put quotes around cells "
                    f"that hold {delimiter!r}."
                )
            any_row = True
            padded = [*map(_cell, cells), *[None] * (len(header) - len(cells))]
            yield Row(dict(zip(header, padded, strict=True)), f"{path}, line {line}", path.stem)
    except csv.Error as error:
        raise DataError(f"{path}, line {start}: not valid CSV ({error}); check the quotes.") from None
    if not any_row:
        raise DataError(f"{path} has a header and no rows.")


def _cell(text: str) -> Any:
    if text.startswith("[{") and text.endswith("}]"):
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            return text
    return text or None


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield number and text of each line, ends kept. Refuses what is not UTF-8 text, naming the line."""
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            if number == 1:
                raw = raw.removeprefix(b"\xef\xbb\xbf")
                for signature, what in SIGNATURES.items():
                    if raw.startswith(signature):
                        raise DataError(f"{path} is not a {path.suffix} file but {what}.")
            if b"\0" in raw:
                raise DataError(f"{path}, line {number}: this is binary data, not text; check which file was meant.")
            try:
                yield number, raw.decode()
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{path}, line {number}: the byte 0x{raw[error.start]:02x} is not UTF-8; convert the file, "
                    f"for example with: iconv -f latin1 -t utf-8."
                ) from None


def _object(text: str, path: Path, number: int) -> Mapping[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        way_out = "Correct the line."
        if number == 1 and text.strip() in ("[", "{"):
            way_out = "The file seems to be one JSON document over several lines; rename it to .json."
        raise DataError(
            f"{path}, line {number}: not valid JSON ({error.msg}, column {error.colno}): "
            f"{brief(text.strip())}. {way_out}"
        ) from None
    except RecursionError:
        raise DataError(f"{path}, line {number}: nested too deeply to be a row of data.") from None
    if not isinstance(value, dict):
        way_out = " A list of rows is a .json file." if isinstance(value, list) else ""
        raise DataError(
            f'{path}, line {number} is {brief(value)}; a line is an object such as {{"prompt": "..."}}.{way_out}'
        )
    return value


def _the_list(document: Any, path: Path) -> tuple[str, list[Any]]:
    if isinstance(document, list):
        return "the list", document
    if not isinstance(document, dict):
        raise DataError(f"{path} holds {brief(document)}; a list of objects is needed.")
    lists = {name: value for name, value in document.items() if isinstance(value, list)}
    if len(lists) != 1:
        there = ", ".join(lists) if lists else "none"
        raise DataError(
            f"{path} holds an object that should have exactly one list of rows, but its lists are: {there}. "
            "Write the rows as a list of objects."
        )
    return next(iter(lists.items()))
