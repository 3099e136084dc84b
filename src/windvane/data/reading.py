"""From a data source to rows that know where they stand.

Parquet, folders saved by `datasets` and hub datasets go through `datasets`. Text formats are read in `text_files`: an
error must name the file and the line, which `datasets` does not know, and nothing is copied into its cache that way.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from windvane.config.near import near_files
from windvane.data.source import DataSource, Row
from windvane.data.text_files import csv_rows, json_rows, jsonl_rows
from windvane.errors import DataError

FORMATS = (".jsonl", ".ndjson", ".json", ".parquet", ".csv", ".tsv")
HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


def is_missing(source: DataSource) -> bool:
    """Whether a source is no file or folder that is there, and cannot be a name on the hub either."""
    path = Path(source.path).expanduser()
    no_name = path.suffix.lower() in FORMATS or not HUB_NAME.fullmatch(source.path) or source.path.startswith(".")
    return no_name and not path.exists()


def rows(source: DataSource) -> Iterator[Row]:
    """Yield every row of a source, in order. Raises `DataError` for what cannot be found or read."""
    path = Path(source.path).expanduser()
    if path.is_dir():
        yield from _folder_rows(path, source)
    elif path.exists():
        if source.split is not None:
            raise DataError(f"{source.path} is a file and has no split {source.split!r}; remove split.")
        yield from file_rows(path)
    elif is_missing(source):
        raise DataError(f"{source.path} does not exist.{near_files(path)}")
    else:
        yield from _hub_rows(source, near_files(path))


def file_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of one file, read as its suffix says."""
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        what = f"the suffix {path.suffix!r}" if path.suffix else "no suffix"
        raise DataError(f"{path} has {what}, which names no format that is read here: use one of {', '.join(FORMATS)}.")
    if not path.is_file():
        raise DataError(f"{path} is no ordinary file; give a data file, a folder or a hub name.")
    try:
        if path.stat().st_size == 0:
            raise DataError(f"{path} is empty; it needs one row at least.")
        if suffix == ".parquet":
            yield from _parquet_rows(path)
        elif suffix in (".csv", ".tsv"):
            yield from csv_rows(path, "\t" if suffix == ".tsv" else ",")
        else:
            yield from json_rows(path) if suffix == ".json" else jsonl_rows(path)
    except PermissionError:
        raise DataError(f"{path} may not be read by this user; change its permissions.") from None


def _parquet_rows(path: Path) -> Iterator[Row]:
    import datasets
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            f"{path} cannot be read as Parquet: {_first_line(error)}. Write it again, or convert it."
        ) from None
    # A table in memory: `Dataset.from_parquet` would write a second copy into the user's cache.
    for number, values in enumerate(datasets.Dataset(table), 1):
        yield Row(values, f"{path}, row {number}", path.stem)


def _folder_rows(folder: Path, source: DataSource) -> Iterator[Row]:
    if (folder / "dataset_dict.json").exists() or (folder / "state.json").exists():
        yield from _saved_rows(folder, source)
        return
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in FORMATS
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if not files:
        raise DataError(f"The folder {folder} holds no data file; one of {', '.join(FORMATS)} is needed.")
    chosen = [path for path in files if source.split is None or source.split in _words(path.relative_to(folder))]
    if not chosen:
        there = ", ".join(str(path.relative_to(folder)) for path in files[:8])
        raise DataError(
            f"The folder {folder} has no split {source.split!r}: no file is named for it. The files are {there}."
        )
    for path in chosen:
        yield from file_rows(path)


def _words(path: Path) -> set[str]:
    return {word for part in path.with_suffix("").parts for word in re.split(r"[^A-Za-z0-9]+", part)}


def _saved_rows(folder: Path, source: DataSource) -> Iterator[Row]:
    import datasets

    saved = datasets.load_from_disk(str(folder))
    name = source.split
    if isinstance(saved, datasets.DatasetDict):
        name = name or ("train" if "train" in saved else None)
        if name not in saved:
            raise DataError(f"{folder} has no split {name!r}; choose one of {', '.join(map(str, saved))}.")
        saved = saved[name]
    elif name is not None:
        raise DataError(f"{folder} is a single data set and has no split {name!r}; remove split.")
    for number, values in enumerate(saved, 1):
        yield Row(values, f"{folder}{f' [{name}]' if name else ''}, row {number}", folder.name)


def _hub_rows(source: DataSource, near: str) -> Iterator[Row]:
    import datasets
    from datasets.exceptions import DatasetsError

    split = source.split or "train"
    what = f"{source.path} is no file or folder here, and as a dataset of the hub"
    try:
        loaded: Any = datasets.load_dataset(source.path, name=source.subset, split=split)
    except ValueError as error:  # an unknown split or subset: the message lists those there are
        raise DataError(
            f"{source.path} cannot give the split {split!r}: {_first_line(error)}. "
            "Set split (and subset) to one that is there."
        ) from None
    except (DatasetsError, OSError, RuntimeError) as error:
        raise DataError(
            f"{what} it cannot be loaded: {_first_line(error)}.{near} "
            "Check the name and the connection, or give the path of a local file."
        ) from None
    for number, values in enumerate(loaded, 1):
        yield Row(values, f"{source.path} [{split}], row {number}", source.path)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
