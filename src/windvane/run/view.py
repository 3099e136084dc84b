"""Reads a run directory without locking or changing it, while the run is under way or long after."""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from windvane.config.yaml_text import parse
from windvane.errors import ConfigError, RunDirectoryError
from windvane.run.folder import finished_folder
from windvane.run.journal import Event, read_events
from windvane.run.layout import Layout
from windvane.run.shards import read_shard
from windvane.run.stage import all_manifests, all_plans, read_records
from windvane.types import Record

R = TypeVar("R", bound=Record)


class RunView:
    """One run directory, read only."""

    def __init__(self, path: Path) -> None:
        """Raises `RunDirectoryError` if `path` holds no run."""
        self.layout = Layout(path)
        if not (self.layout.config.is_file() and self.layout.machinery.is_dir()):
            kind = (
                "is not a run directory" if path.is_dir() else "is not a folder" if path.exists() else "does not exist"
            )
            raise RunDirectoryError(
                f"{path} {kind}. Name the output_dir of a run: a folder with a config.yaml and a .windvane in it."
            )

    @property
    def path(self) -> Path:
        """The run directory."""
        return self.layout.root

    def config(self) -> dict[str, Any]:
        """Return the resolved configuration as plain values."""
        try:
            values = parse(self.layout.config.read_text(encoding="utf-8"), str(self.layout.config)).value
        except (ConfigError, UnicodeDecodeError) as error:
            raise RunDirectoryError(
                f"{self.layout.config} is damaged: {error}. Put it back, or start over in another output_dir."
            ) from error
        return values if isinstance(values, dict) else {}

    def json(self, name: str) -> Any:
        """Return what a JSON file of the run says, such as ``summary.json``, or None if there is no such file."""
        path = self.layout.root / name
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise RunDirectoryError(
                f"{path} is damaged: {error}. Run the same command again to have it written."
            ) from error

    def events(self) -> list[Event]:
        """Return the journal."""
        return list(read_events(self.layout.journal))

    def records(self, stage: str, record: type[R]) -> list[R] | None:
        """Return the records of a stage, or None if it is not finished."""
        return read_records(self.layout, stage, record)

    def folder(self, stage: str) -> Path | None:
        """Return the folder of a folder stage, or None if it is not finished."""
        return self.layout.folder(stage) if finished_folder(self.layout, stage) is not None else None

    def counts(self) -> dict[str, int]:
        """Return the sums of all counters, over finished stages and finished shards."""
        manifests = all_manifests(self.layout)
        parts: list[Iterable[tuple[str, int]]] = [manifest.counts.items() for manifest in manifests.values()]
        for stage, plan in all_plans(self.layout).items():
            if stage not in manifests:
                shards = (read_shard(self.layout.shard(stage, index)) for index in range(plan.shards))
                parts.extend(shard.counts.items() for shard in shards if shard is not None)
        return add_counts(parts)


def add_counts(parts: Iterable[Iterable[tuple[str, int]]]) -> dict[str, int]:
    """Return the sums of counters by name, the names sorted."""
    total: Counter[str] = Counter()
    for part in parts:
        total.update(dict(part))
    return dict(sorted(total.items()))
