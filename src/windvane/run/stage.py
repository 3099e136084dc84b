"""One stage of records on file: first a plan, then shards, then one file with all of them.

The order of the writes is what makes it safe to be killed between any two of them:

1. ``plan.json`` says what the inputs are and how they are cut;
2. each shard appears in one rename, with its counters inside;
3. the manifest says what the whole will be;
4. the whole appears in one rename: from here on the stage is finished;
5. plan and shards are deleted.

So a stage is finished if and only if both its manifest and its file are there; a file without a manifest is not ours.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import NonNegativeInt, PositiveInt, ValidationError

from windvane.errors import RunDirectoryError, RunFailed
from windvane.run.files import AtomicFiles, explained, remove_tree
from windvane.run.layout import Layout, check_name
from windvane.run.shards import Shard, decode_records, encode_shard, read_shard
from windvane.types import Record

R = TypeVar("R", bound=Record)


class Plan(Record):
    """How a stage is cut into shards."""

    inputs: str
    """Fingerprint of the items."""
    items: NonNegativeInt
    shard_size: PositiveInt

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-self.items // self.shard_size)

    def part(self, index: int) -> range:
        """Return the positions of the items of one shard."""
        return range(index * self.shard_size, min((index + 1) * self.shard_size, self.items))


class Manifest(Record):
    """What a finished stage holds."""

    inputs: str
    records: int
    """0 for a folder."""
    sha256: str | None
    """Of the records file; None for a folder."""
    files: dict[str, int] | None
    """Bytes of each file in a folder; None for records."""
    counts: dict[str, int]


M = TypeVar("M", Plan, Manifest)


def read_note(path: Path, kind: type[M]) -> M | None:
    """Return a plan or a manifest, or None if there is none. Raises `RunDirectoryError` for a damaged one."""
    try:
        return kind.from_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValidationError, UnicodeDecodeError) as error:
        raise RunDirectoryError(
            f"{path} is damaged. Delete it to have its stage done again, or start over in another output_dir."
        ) from error


def all_manifests(layout: Layout) -> dict[str, Manifest]:
    """Return the manifests of all finished stages by name."""
    found: dict[str, Manifest] = {}
    for path in sorted(layout.manifests.glob("**/*.json")):
        manifest = read_note(path, Manifest)
        if manifest is not None:
            found[path.relative_to(layout.manifests).as_posix().removesuffix(".json")] = manifest
    return found


def all_plans(layout: Layout) -> dict[str, Plan]:
    """Return the plans of all stages that are under way by name."""
    found: dict[str, Plan] = {}
    try:
        paths = sorted(layout.all_shards.glob("**/plan.json"))
    except FileNotFoundError:  # the process that works on the run has just ended it, and is tidying up
        return found
    for path in paths:
        plan = read_note(path, Plan)
        if plan is not None:
            found[path.parent.relative_to(layout.all_shards).as_posix().removesuffix("@")] = plan
    return found


def read_records(layout: Layout, stage: str, record: type[R]) -> list[R] | None:
    """Return the records of a finished stage, or None if it is not finished.

    Raises `RunDirectoryError` where the file is not what the stage wrote.
    """
    path = layout.records(stage)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    manifest = read_note(layout.manifest(stage), Manifest)  # after the file: it was written before it
    if manifest is None:
        raise RunDirectoryError(
            f"{path} was not written by this run, and its stage {stage} would overwrite it. Move the file away."
        )
    if hashlib.sha256(content).hexdigest() != manifest.sha256:
        raise RunDirectoryError(
            f"{path} was changed after the run wrote it ({manifest.records} records, sha256 {manifest.sha256}). "
            "Put it back, or delete it to have the stage done again, or start over in another output_dir."
        )
    try:
        return decode_records(content, record)
    except ValidationError as error:
        raise RunDirectoryError(
            f"{path} cannot be read as {record.__name__} records: it was written by another version of windvane. "
            f"Use that version, or start over in another output_dir.\n{error}"
        ) from error


def check_inputs(stage: str, known: str, now: str, root: Path) -> None:
    """Raise `RunDirectoryError` if a stage was begun with other inputs than it is asked to go on with."""
    if known != now:
        raise RunDirectoryError(
            f"the inputs of stage {stage} in {root} are not those that the stage was begun with: something "
            "that the run reads (a data file, a principle file, a model's folder) has changed, or one of its earlier "
            "stages. Put it back as it was, or start over in another output_dir."
        )


class RecordStage(Generic[R]):
    """The files of one stage of records. `R` is the kind of record."""

    def __init__(self, layout: Layout, files: AtomicFiles, name: str, record: type[R]) -> None:
        self.name = check_name(name)
        self._layout, self._files, self._record = layout, files, record

    def finished(self, inputs: str) -> list[R] | None:
        """Return the records, or None if the stage is not finished. Raises `RunDirectoryError` for other inputs."""
        records = read_records(self._layout, self.name, self._record)
        if records is not None:
            check_inputs(self.name, self.manifest().inputs, inputs, self._layout.root)
        return records

    def manifest(self) -> Manifest:
        """Return the manifest of the stage, which is finished."""
        manifest = read_note(self._layout.manifest(self.name), Manifest)
        assert manifest is not None, self.name
        return manifest

    def known(self, wanted: Plan) -> Plan | None:
        """Return the plan on file. Raises `RunDirectoryError` if it has other inputs than the plan that is wanted."""
        plan = read_note(self._layout.plan(self.name), Plan)
        if plan is not None:
            check_inputs(self.name, plan.inputs, wanted.inputs, self._layout.root)
        return plan

    def begin(self, plan: Plan) -> Plan:
        """Put the plan on file, or return the one that is there: shards that are done stay as they were cut."""
        known = self.known(plan)
        if known is not None:
            return known
        self._files.write(self._layout.plan(self.name), [plan.to_json().encode() + b"\n"])
        return plan

    def read(self, index: int) -> Shard | None:
        """Return a shard, or None if it is yet to be done (or done again, being damaged)."""
        return read_shard(self._layout.shard(self.name, index))

    def write(self, index: int, shard: Shard) -> None:
        """Put a shard on file."""
        self._files.write(self._layout.shard(self.name, index), [encode_shard(shard)])

    def discard(self, index: int) -> bool:
        """Delete a damaged shard; return whether there was one."""
        path = self._layout.shard(self.name, index)
        with explained(path):
            there = path.exists()
            path.unlink(missing_ok=True)
        return there

    def complete(self, plan: Plan) -> bool:
        """Whether all shards are on file."""
        every = range(plan.shards)
        there = all(self._layout.shard(self.name, index).exists() for index in every)
        return there and all(self.read(index) is not None for index in every)

    def merge(self, plan: Plan) -> Manifest:
        """Put all shards together into the file of the stage, which finishes it."""
        checksum, records, counts = hashlib.sha256(), 0, Counter[str]()
        for shard in self._all(plan):
            checksum.update(shard.lines)
            records += shard.lines.count(b"\n")
            counts.update(shard.counts)
        manifest = Manifest(
            inputs=plan.inputs,
            records=records,
            sha256=checksum.hexdigest(),
            files=None,
            counts=dict(sorted(counts.items())),
        )
        write_manifest(self._layout, self._files, self.name, manifest)
        self._files.write(self._layout.records(self.name), (shard.lines for shard in self._all(plan)))
        return manifest

    def clear(self) -> None:
        """Delete the plan and the shards."""
        remove_tree(self._layout.shards(self.name))

    def _all(self, plan: Plan) -> Iterator[Shard]:
        for index in range(plan.shards):
            shard = self.read(index)
            if shard is None:
                raise RunFailed(
                    f"shard {index} of stage {self.name} vanished while the run was under way. "
                    "Run the same command again."
                )
            yield shard


def write_manifest(layout: Layout, files: AtomicFiles, stage: str, manifest: Manifest) -> None:
    """Put a manifest on file."""
    text = json.dumps(manifest.model_dump(mode="json"), indent=1, ensure_ascii=False)
    files.write(layout.manifest(stage), [text.encode() + b"\n"])
