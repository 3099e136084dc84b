"""Says where a run stands, from what is on file."""

from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Literal, NamedTuple

from windvane.run.journal import Event
from windvane.run.layout import Layout
from windvane.run.lock import is_held, read_owner
from windvane.run.stage import Manifest, all_manifests, all_plans
from windvane.run.view import RunView

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


def run_status(view: RunView) -> RunStatus:
    """Return where a run stands."""
    events = view.events()
    state, message = _state(events, view.layout)
    provenance = view.json("provenance.json")
    stages = tuple(_stages(view.layout, events))
    return RunStatus(
        path=view.path,
        command=provenance.get("command") if isinstance(provenance, dict) else None,
        state=state,
        message=message,
        started=events[0].time if events else None,
        last=events[-1].time if events else None,
        minutes=worked_minutes(events),
        stages=stages,
        counts=view.counts(),
        places=_places(view.layout, stages),
    )


def _stages(layout: Layout, events: list[Event]) -> Iterator[StageStatus]:
    manifests, plans, minutes = all_manifests(layout), all_plans(layout), stage_minutes(events)
    begun = {
        str(event.fields.get("stage")): event.fields.get("shards") for event in events if event.kind == "stage started"
    }
    for name in dict.fromkeys([*begun, *plans, *manifests]):
        shards = plans[name].shards if name in plans else begun.get(name)
        yield _stage(layout, name, manifests.get(name), shards, minutes.get(name, 0.0))


def _stage(layout: Layout, name: str, manifest: Manifest | None, shards: int | None, minutes: float) -> StageStatus:
    is_folder = manifest.files is not None if manifest else shards is None
    path = layout.folder(name) if is_folder else layout.records(name)
    finished = manifest is not None and path.exists()
    total = 1 if shards is None else shards
    return StageStatus(
        name=name,
        finished=finished,
        shards_done=total if finished else sum(layout.shard(name, index).exists() for index in range(total)),
        shards=total,
        records=manifest.records if manifest and finished and not is_folder else None,
        minutes=minutes,
        path=path,
    )


def _places(layout: Layout, stages: Iterable[StageStatus]) -> dict[str, Path]:
    places = {
        "configuration": layout.config,
        "provenance": layout.provenance,
        "journal": layout.journal,
        "summary": layout.root / "summary.json",
        "report": layout.root / "report.html",
        **{stage.name: stage.path for stage in stages if stage.finished},
    }
    return {what: path for what, path in places.items() if path.exists()}


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


def _state(events: list[Event], layout: Layout) -> tuple[RunState, str]:
    if is_held(layout.lock):
        return "running", str(read_owner(layout.lock) or "")
    last = events[-1] if events else None
    if last is not None and last.kind == "finished":
        return "finished", ""
    if last is not None and last.kind == "failed":
        return "failed", str(last.fields.get("message", ""))
    return "interrupted", ""
