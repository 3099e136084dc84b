"""Where things are in a run directory.

::

    RUN/config.yaml             the configuration as resolved; its presence means that the run exists
    RUN/provenance.json         versions, machine, git state and seed at creation
    RUN/journal.jsonl           what happened when, append-only
    RUN/summary.json            written by the recipe at the end
    RUN/<stage>.jsonl           the records of a finished stage, such as iteration-1/responses.jsonl
    RUN/<stage>/                a finished folder stage, such as iteration-1/policy
    RUN/.windvane/lock          held by the process that works on the run
    RUN/.windvane/stages/…      one manifest for each finished stage: records, checksum, counters
    RUN/.windvane/shards/…      the shards of stages that are under way
    RUN/.windvane/partial/…     folders that are being built
    RUN/.windvane/scratch/…     training checkpoints, deleted with the stage that needs them
    RUN/.windvane/tmp/          files that are being written

Everything outside ``.windvane`` is complete whenever it is visible. Two runs of the same command on the same machine,
however often they were interrupted, end with the same bytes in every file but four: `VARYING`. The replies of a prompt
search (``replies.jsonl``) are the same as well, but stand in the order in which they came.
"""

import re
from pathlib import Path
from typing import NamedTuple

MACHINERY = ".windvane"
VARYING = ("journal.jsonl", "provenance.json", "summary.json", f"{MACHINERY}/lock")
"""Files that hold times, process numbers or the machine's state, and so differ between two equal runs."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*(/[A-Za-z0-9][A-Za-z0-9._+-]*)*")


class Layout(NamedTuple):
    """The paths of one run directory."""

    root: Path

    @property
    def machinery(self) -> Path:
        """The folder of everything that is not a result."""
        return self.root / MACHINERY

    @property
    def config(self) -> Path:
        """The configuration as resolved."""
        return self.root / "config.yaml"

    @property
    def provenance(self) -> Path:
        """Versions, machine, git state and seed at creation."""
        return self.root / "provenance.json"

    @property
    def journal(self) -> Path:
        """What happened when."""
        return self.root / "journal.jsonl"

    @property
    def lock(self) -> Path:
        """Held by the process that works on the run."""
        return self.machinery / "lock"

    @property
    def temporary(self) -> Path:
        """Files that are being written."""
        return self.machinery / "tmp"

    @property
    def manifests(self) -> Path:
        """One file for each finished stage."""
        return self.machinery / "stages"

    @property
    def all_shards(self) -> Path:
        """The shards of all stages that are under way."""
        return self.machinery / "shards"

    @property
    def all_scratch(self) -> Path:
        """The checkpoints of all folder stages that are under way."""
        return self.machinery / "scratch"

    @property
    def leftovers(self) -> tuple[Path, ...]:
        """What a finished run has no use for."""
        return (self.all_shards, self.machinery / "partial", self.all_scratch, self.temporary)

    def records(self, stage: str) -> Path:
        """The records of a finished stage."""
        return self.root / f"{stage}.jsonl"

    def folder(self, stage: str) -> Path:
        """The folder of a finished folder stage."""
        return self.root / stage

    def manifest(self, stage: str) -> Path:
        """What a finished stage holds."""
        return self.manifests / f"{stage}.json"

    def shards(self, stage: str) -> Path:
        """The shards of a stage that is under way. No stage has an @ in its name, so none lies inside another."""
        return self.all_shards / f"{stage}@"

    def plan(self, stage: str) -> Path:
        """How the stage that is under way is cut into shards."""
        return self.shards(stage) / "plan.json"

    def shard(self, stage: str, index: int) -> Path:
        """One shard."""
        return self.shards(stage) / f"{index:06}.jsonl"

    def partial(self, stage: str) -> Path:
        """A folder that is being built."""
        return self.machinery / "partial" / stage

    def scratch(self, stage: str) -> Path:
        """Checkpoints of a folder that is being built."""
        return self.machinery / "scratch" / stage


def check_name(stage: str) -> str:
    """Return `stage` if it can name a stage; else raise ValueError. Names are parts joined by ``/``."""
    if not _NAME.fullmatch(stage):
        raise ValueError(
            f"{stage!r} cannot name a stage: use letters, digits and ._+-, joined by /, as in iteration-1/pairs"
        )
    return stage
