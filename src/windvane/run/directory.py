"""The run directory that a recipe writes into."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self, TypeVar

from rich.console import Console

from windvane.config import Settings
from windvane.errors import RunFailed
from windvane.run.files import AtomicFiles, ensure_folder, explained, remove_tree
from windvane.run.folder import FolderStage
from windvane.run.journal import Journal
from windvane.run.layout import Layout, check_name
from windvane.run.lock import RunLock
from windvane.run.opening import Opening, Request, begin_or_resume, check_may_change, join, take_lock
from windvane.run.progress import ProgressDisplay
from windvane.run.shards import Shard, encode_records, fingerprint, json_text
from windvane.run.stage import Manifest, Plan, RecordStage
from windvane.run.status import RunStatus, run_status
from windvane.run.team import Team, team_of
from windvane.run.view import RunView
from windvane.types import Record

Item = TypeVar("Item")
Out = TypeVar("Out", bound=Record)
T = TypeVar("T")


class RunDirectory:
    """A run: stages, each of which is on file before the next one starts.

    Kill the process at any moment and run the same command again: what was finished is read from file, what was not is
    done again from the last shard, and the end result has the same bytes (see `windvane.run.layout`).

    >>> with RunDirectory.open(config.output_dir, config, command="sso") as run:
    ...     queries = run.once("queries", lambda: load_queries(config.queries), Query)
    ...     answers = run.map("answers", queries, answer, Completion, shard_size=48, label="answers")
    ...     policy = run.folder("policy", lambda folder: train(answers, folder, run.scratch("policy")))

    Work that is handed to a stage must depend on its inputs and on derived seeds alone, never on what was done before
    it in the same process. In a run of several processes each of them calls the same stages; see `windvane.run.team`.
    """

    def __init__(self, layout: Layout, team: Team, lock: RunLock | None, console: Console) -> None:
        """Use `RunDirectory.open`."""
        self._layout, self._team, self._lock = layout, team, lock
        self._files = AtomicFiles(layout.temporary, rank=team.rank)
        self._display = ProgressDisplay(console)
        self._journal: Journal | None = None
        self._counts: Counter[str] | None = None
        self._reused: Counter[str] = Counter()
        self._begun: set[str] = set()
        self._met: set[str] = set()

    @classmethod
    def open(
        cls,
        path: Path,
        config: Settings,
        *,
        command: str,
        may_change: frozenset[str] = frozenset(),
        console: Console | None = None,
    ) -> Self:
        """Create the run directory at `path`, or resume the run that it holds.

        `command` names the recipe: a directory belongs to one. `may_change` names the settings, or whole groups of them
        (``engine.max_batch_tokens``), that do not change results and so may differ when the run is resumed;
        ``output_dir`` always may.
        Progress goes to `console` (standard error where it is None; ``Console(quiet=True)`` is silent).

        Raises `RunDirectoryError` where the directory holds anything else than a run of the same command and
        configuration, is in use by another process, or cannot be written to. Nothing in it is touched then.
        """
        layout, team = Layout(Path(path)), team_of()
        request = Request(layout, config, command, may_change, alone=team.size == 1)
        check_may_change(request)
        console = console or Console(stderr=True)
        if not team.leads:
            run = cls(layout, team, None, console=Console(quiet=True))
            join(request, team)
            run._files.sweep()
            return run
        lock = take_lock(layout)
        try:
            run = cls(layout, team, lock, console)
            opening = begin_or_resume(request, run._files)
            run._journal = Journal(layout.journal)
            run._announce(opening)
        except BaseException:
            lock.release()
            raise
        return run

    @staticmethod
    def read(path: Path) -> RunView:
        """Return a reader of the run at `path` that neither locks nor changes it. Raises `RunDirectoryError`."""
        return RunView(Path(path))

    def _announce(self, opening: Opening) -> None:
        if not opening.resumed:
            self._log("opened", processes=self._team.size)
            return
        self._log("resumed", processes=self._team.size, settings=opening.settings, surroundings=opening.surroundings)
        self.say(f"resuming {self.path}" + "".join(f"\n  with {line}" for line in opening.settings))
        if opening.surroundings:
            self.say(
                "the run was begun under other circumstances, so its numbers may differ in the last digits from "
                "those of a run in one go:\n" + "\n".join(f"  {line}" for line in opening.surroundings)
            )

    @property
    def path(self) -> Path:
        """The run directory."""
        return self._layout.root

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes (the only one, or process 0 of several)."""
        return self._team.leads

    # Stages

    def once(
        self, name: str, make: Callable[[], Sequence[Out]], record: type[Out], *, inputs: object = None
    ) -> list[Out]:
        """Return the records of a stage of one piece: made now, or read from file where it is finished.

        `inputs` is anything that `fingerprint` takes; where it differs from what the finished stage was made from, the
        run is refused with `RunDirectoryError`.
        """
        stage = RecordStage(self._layout, self._files, name, record)
        return self._run(stage, Plan(inputs=fingerprint(inputs), items=1, shard_size=1), lambda _: make(), None)

    def map(
        self,
        name: str,
        items: Sequence[Item],
        work: Callable[[Sequence[Item]], Sequence[Out]],
        record: type[Out],
        *,
        shard_size: int,
        label: str,
        inputs: object = None,
        steps_per_item: int = 1,
    ) -> list[Out]:
        """Return one record for each item, in the order of the items; `work` makes those of one shard of them.

        A shard that is on file is not done again. `inputs` is what else the work depends on, as in `once`. A bar is
        shown under `label`; `work` may move it on within the shard by `advance`, `steps_per_item` times for each item.
        Raises `RunDirectoryError` where items or inputs are not those that the stage was begun with, `RunFailed` where
        `work` returns more or fewer records than it was given items.
        """

        def work_on(part: range) -> Sequence[Out]:
            records = work(items[part.start : part.stop])
            if len(records) != len(part):
                raise RunFailed(
                    f"stage {name}: {len(part)} items gave {len(records)} records, so none of them was stored."
                )
            return records

        stage = RecordStage(self._layout, self._files, name, record)
        plan = Plan(inputs=fingerprint((items, inputs)), items=len(items), shard_size=shard_size)
        return self._run(stage, plan, work_on, _Shown(label, steps_per_item))

    def folder(self, name: str, build: Callable[[Path], None], *, inputs: object = None) -> Path:
        """Return the folder of a stage: built now by ``build(empty_folder)``, or already there where it is finished.

        `inputs` as in `once`. A build that is long keeps its checkpoints in ``scratch(name)``.
        """
        stage, wanted = FolderStage(self._layout, self._files, name), fingerprint(inputs)
        manifest = stage.finished(wanted)
        if manifest is None and self.is_main:
            manifest = stage.take_over(wanted)
            if manifest is None:
                self._build(stage, wanted, build)
                self._met.add(name)
        elif manifest is None:
            found = self._wait(name, lambda: stage.finished(wanted) or (stage.manifest() is None and "build"))
            if found == "build":
                with self._counting():  # what it counts is process 0's to keep
                    stage.build(build)
            self._wait(name, lambda: stage.finished(wanted))
        if manifest is not None:
            self._reuse(name, manifest)
        if self.is_main:
            stage.clear()
        return stage.folder

    def scratch(self, name: str) -> Path:
        """Return a folder for the checkpoints of the folder stage `name`; it lasts until that stage is finished."""
        folder = self._layout.scratch(check_name(name))
        with explained(folder):
            ensure_folder(folder)
        return folder

    def _run(
        self, stage: RecordStage[Out], wanted: Plan, work: Callable[[range], Sequence[Out]], shown: "_Shown | None"
    ) -> list[Out]:
        records = stage.finished(wanted.inputs)
        if records is not None:
            self._reuse(stage.name, stage.manifest())
        else:
            self._begun.add(stage.name)
            plan = self._begin(stage, wanted)
            if plan is not None:
                self._do_shards(stage, plan, work, shown)
                if self.is_main:
                    manifest = stage.merge(plan)
                    self._log("stage finished", stage=stage.name, records=manifest.records, counts=manifest.counts)
                self._met.add(stage.name)
            records = self._wait(stage.name, lambda: stage.finished(wanted.inputs))
        if self._team.size == 1:  # the others of a team may still be looking at the shards
            stage.clear()
        return records

    def _begin(self, stage: RecordStage[Out], wanted: Plan) -> Plan | None:
        if self.is_main:
            return stage.begin(wanted)
        found = self._wait(
            stage.name, lambda: stage.known(wanted) or (stage.finished(wanted.inputs) is not None and "no")
        )
        return found if isinstance(found, Plan) else None

    def _do_shards(
        self, stage: RecordStage[Out], plan: Plan, work: Callable[[range], Sequence[Out]], shown: "_Shown | None"
    ) -> None:
        mine = range(self._team.rank, plan.shards, self._team.size)
        on_file = {index: shard.counts for index in mine if (shard := stage.read(index)) is not None}
        for counts in on_file.values():
            self._reused.update(counts)
        damaged = [index for index in mine if index not in on_file and stage.discard(index)]
        facts = {"items": plan.items, "shards": plan.shards, "reused": len(on_file), "damaged": damaged}
        self._log("stage started", stage=stage.name, **facts)
        done, total = sum(len(plan.part(index)) for index in on_file), sum(len(plan.part(index)) for index in mine)
        steps = shown.steps_per_item if shown else 0
        with self._display.stage(self._label(shown), total * steps, done=done * steps):
            for index in mine:
                if index not in on_file and (self.is_main or stage.known(plan)):
                    part = plan.part(index)
                    with self._display.part((done + len(part)) * steps):
                        self._do_shard(stage, index, partial(work, part))
                    done += len(part)
            if self.is_main:
                self._wait(stage.name, lambda: stage.complete(plan))

    def _label(self, shown: "_Shown | None") -> str | None:
        if shown is None or self._team.size == 1:
            return shown and shown.label
        return f"{shown.label} (process 0 of {self._team.size})"

    def _do_shard(self, stage: RecordStage[Out], index: int, work: Callable[[], Sequence[Out]]) -> None:
        begun = time.monotonic()
        with self._counting() as counts:
            records = work()
        stage.write(index, Shard(encode_records(records, stage=stage.name), counts))
        self._log("shard", stage=stage.name, index=index, records=len(records), seconds=_since(begun))

    def _build(self, stage: FolderStage, inputs: str, build: Callable[[Path], None]) -> None:
        self._begun.add(stage.name)
        self._log("stage started", stage=stage.name)
        begun = time.monotonic()
        with self._counting() as counts:
            stage.build(build)
        manifest = stage.publish(inputs, counts)
        self._log("stage finished", stage=stage.name, counts=manifest.counts, seconds=_since(begun))

    def _reuse(self, name: str, manifest: Manifest) -> None:
        if name not in self._met:
            self._met.add(name)
            self._reused.update(manifest.counts)
            self._log("stage reused", stage=name, records=manifest.records)

    def _wait(self, what: str, look: Callable[[], T | Literal[False] | None]) -> T:
        return self._team.wait(self._layout.lock, what, look)

    # Counters, notes and progress

    def count(self, name: str, n: int = 1) -> None:
        """Add `n` to a counter. It is stored with the shard or folder that is being made, so a resumed run is exact.

        Raises RuntimeError outside the work of a stage, where the count would be lost or doubled by a resume. In a
        folder stage of several processes only what process 0 counts is kept.
        """
        if self._counts is None:
            raise RuntimeError(f"count({name!r}) outside the work of a stage")
        self._counts[name] += n

    @contextmanager
    def _counting(self) -> Iterator[Counter[str]]:
        if self._counts is not None:
            raise RuntimeError("a stage was begun inside the work of another")
        self._counts = Counter()
        try:
            yield self._counts
        finally:
            self._counts = None

    def counts(self) -> dict[str, int]:
        """Return all counters, summed over the work that is on file, whichever process did it.

        Empty on any process but the main one, which may be tidying the files by then.
        """
        return RunView(self.path).counts() if self.is_main else {}

    def reused(self) -> dict[str, int]:
        """Return the part of `counts` that this process found on file and did not have to do."""
        return dict(sorted(self._reused.items()))

    def write_json(self, name: str, value: object) -> Path:
        """Write a JSON file such as ``summary.json``, replacing an older one, and return its path.

        Takes records, mappings, sequences, paths and plain values; a number that is not finite becomes null.
        """
        path = self._layout.root / name
        if self.is_main:
            self._files.write(path, [json_text(value).encode()])
        return path

    def advance(self, steps: int = 1) -> None:
        """Move the bar of the stage that is being worked on; without one, do nothing."""
        self._display.advance(steps)

    @contextmanager
    def progress(self, label: str, total: int, *, done: int = 0) -> Iterator[None]:
        """Show a bar of `total` steps that `advance` moves, for work that is not a `map`."""
        with self._display.stage(label, total, done=done):
            yield

    @property
    def console(self) -> Console:
        """Where progress goes. Whatever is redrawn on a terminal must share it with `say`, or lines land inside it."""
        return self._display.console

    def say(self, text: str) -> None:
        """Tell the user something, in a line above the bar. The text is shown as it is."""
        self._display.say(text)

    # The run as a whole

    def status(self) -> RunStatus:
        """Return where the run stands."""
        return run_status(RunView(self.path))

    def _log(self, kind: str, **fields: Any) -> None:
        if self._journal is not None:
            self._journal.append(kind, **fields)

    def close(self) -> None:
        """Let another process have the run. It stays as it is, to be resumed."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Note how the run ended: finished, interrupted (Ctrl-C, exit) or failed; then close it."""
        try:
            if error is None:
                self._tidy()
                if self._journal is not None:
                    self._log("finished", counts=self.counts())
            else:
                with suppress(RunFailed):  # a disk that is full must not hide what went wrong first
                    if isinstance(error, Exception):
                        self._log("failed", error=type(error).__name__, message=str(error))
                    else:
                        self._log("interrupted", error=type(error).__name__)
        finally:
            self.close()

    def _tidy(self) -> None:
        if self.is_main and self._begun <= self._met:  # a recipe may have survived a stage that failed
            for folder in self._layout.leftovers:
                remove_tree(folder)


class _Shown(NamedTuple):
    """How a stage shows its progress."""

    label: str
    steps_per_item: int


def _since(begun: float) -> float:
    return round(time.monotonic() - begun, 3)
