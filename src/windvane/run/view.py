"""Reads a run directory without locking or changing it, while the run is under way or long after."""

import json
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from windvane.config.yaml_text import parse
from windvane.errors import ConfigError, RunDirectoryError
from windvane.run.folder import finished_folder
from windvane.run.journal import Event, read_events
from windvane.run.layout import Layout
from windvane.run.lock import Owner, is_held, read_owner
from windvane.run.shards import read_shard
from windvane.run.stage import Manifest, Plan, all_manifests, all_plans, read_records
from windvane.types import Record

R = TypeVar("R", bound=Record)
RunState = Literal["running", "finished", "failed", "interrupted"]


class StageStatus(NamedTuple):
    """How far one stage is."""

    name: str
    finished: bool
    shards_done: int
    """0 for a folder that is being built."""
    shards: int
    """1 for a stage of one piece and for a folder."""
    records: int | None
    """None for a folder and for a stage that is not finished."""
    minutes: float
    """Spent on work that was kept."""
    path: Path
    """Where its result is, or will be."""


class RunStatus(NamedTuple):
    """Where a run stands."""

    path: Path
    command: str | None
    state: RunState
    """``interrupted``: no process works on it, and it neither finished nor failed; the same command goes on."""
    message: str
    """What made it fail; who works on it; else empty."""
    started: datetime | None
    last: datetime | None
    """When the journal was last written to."""
    minutes: float
    """While a process worked on it, from opening to the last event, over all processes that did."""
    stages: tuple[StageStatus, ...]
    """In the order in which they were begun."""
    counts: dict[str, int]
    """Counters of all work that was kept."""
    places: dict[str, Path]
    """Files that a reader will want, by what they are; only those that exist."""


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

    def status(self) -> RunStatus:
        """Return where the run stands."""
        events = self.events()
        owner = read_owner(self.layout.lock) if is_held(self.layout.lock) else None
        state, message = _state(events, owner, held=is_held(self.layout.lock))
        provenance = self.json("provenance.json") or {}
        return RunStatus(
            path=self.path,
            command=provenance.get("command"),
            state=state,
            message=message,
            started=events[0].time if events else None,
            last=events[-1].time if events else None,
            minutes=worked_minutes(events),
            stages=tuple(self._stages(events)),
            counts=self.counts(),
            places=self._places(),
        )

    def _stages(self, events: list[Event]) -> Iterable[StageStatus]:
        manifests, plans = all_manifests(self.layout), all_plans(self.layout)
        minutes = stage_minutes(events)
        begun = [event.fields["stage"] for event in events if event.kind == "stage started" and "stage" in event.fields]
        for name in dict.fromkeys([*begun, *plans, *manifests]):
            yield self._stage(name, manifests.get(name), plans.get(name), minutes.get(name, 0.0))

    def _stage(self, name: str, manifest: Manifest | None, plan: Plan | None, minutes: float) -> StageStatus:
        is_folder = manifest.files is not None if manifest else plan is None
        path = self.layout.folder(name) if is_folder else self.layout.records(name)
        finished = manifest is not None and path.exists()
        shards = plan.shards if plan else 1
        done = sum(self.layout.shard(name, index).exists() for index in range(shards)) if plan else 0
        return StageStatus(
            name=name,
            finished=finished,
            shards_done=shards if finished else done,
            shards=shards,
            records=manifest.records if manifest and finished and not is_folder else None,
            minutes=minutes,
            path=path,
        )

    def _places(self) -> dict[str, Path]:
        layout = self.layout
        places = {
            "configuration": layout.config,
            "provenance": layout.provenance,
            "journal": layout.journal,
            "summary": layout.root / "summary.json",
            "report": layout.root / "report.html",
        }
        return {what: path for what, path in places.items() if path.exists()}


def add_counts(parts: Iterable[Iterable[tuple[str, int]]]) -> dict[str, int]:
    """Return the sums of counters by name, the names sorted."""
    total: dict[str, int] = {}
    for part in parts:
        for name, count in part:
            total[name] = total.get(name, 0) + count
    return dict(sorted(total.items()))


def stage_minutes(events: Iterable[Event]) -> dict[str, float]:
    """Return the minutes that each stage took: those of the work that was kept, whichever process did it."""
    minutes: dict[str, float] = {}
    for event in events:
        stage, seconds = event.fields.get("stage"), event.fields.get("seconds")
        if isinstance(stage, str) and isinstance(seconds, int | float):
            minutes[stage] = minutes.get(stage, 0.0) + seconds / 60
    return minutes


def worked_minutes(events: Iterable[Event]) -> float:
    """Return the minutes during which a process worked on the run: from each opening to the event before the next."""
    total, opened, last = 0.0, None, None
    for event in events:
        if event.kind in ("opened", "resumed"):
            total += (last - opened).total_seconds() if opened and last else 0.0
            opened = event.time
        last = event.time
    return (total + ((last - opened).total_seconds() if opened and last else 0.0)) / 60


def _state(events: list[Event], owner: Owner | None, *, held: bool) -> tuple[RunState, str]:
    if held:
        return "running", str(owner or "")
    last = events[-1] if events else None
    if last is not None and last.kind == "finished":
        return "finished", ""
    if last is not None and last.kind == "failed":
        return "failed", str(last.fields.get("message", ""))
    return "interrupted", ""
