"""Where data comes from, as a user says it."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from windvane.config import Settings
from windvane.errors import DataError


class DataSource(Settings):
    """A data set: a file, a folder of files, or the name of a dataset on the Hugging Face hub.

    A bare string stands for its `path`.
    """

    shorthand: ClassVar[str | None] = "path"

    path: str = Field(min_length=1)
    """File (.jsonl, .json, .parquet, .csv, .tsv), folder of such files, folder written by ``Dataset.save_to_disk``, or
    hub name such as ``trl-lib/ultrafeedback_binarized``."""
    split: str | None = None
    """Split of a hub dataset or a folder (``train``, ``test``, ``train[:1000]`` on the hub); a file has none. Left out:
    the ``train`` split of a hub dataset, everything in a folder."""
    subset: str | None = None
    """Configuration of a hub dataset that has several, such as ``main``."""
    prompt_column: str | None = None
    """Column with the prompt (text or messages), where its name says nothing; found by name and shape if left out."""
    id_column: str = "id"
    """Column with a unique id; rows without one get a hash of their content."""
    bad_rows: Literal["stop", "drop"] = "stop"
    """What to do with a row that cannot be used: stop and name it, or drop it and count it by reason."""


class PreferenceSource(DataSource):
    """A data set of preference pairs."""

    chosen_column: str = "chosen"
    """Column with the preferred response: its text, or messages that end with it."""
    rejected_column: str = "rejected"
    """Column with the other response, in the same form."""


class Row(NamedTuple):
    """One row as it was read, and where it stands."""

    values: Mapping[str, Any]
    place: str
    """For errors: ``queries.jsonl, line 7``."""
    source: str
    """Name of the file or dataset, for records whose row does not name its source."""


class BadRow(DataError):
    """A row that cannot be used; `reason` is the short key that counts are grouped by."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
