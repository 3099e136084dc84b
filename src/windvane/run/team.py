"""A run of several processes, as ``torchrun`` or ``accelerate launch`` starts it.

The rule: every process runs the same program on the same run directory, which all of them see.

- Process 0 holds the lock and is the only one that writes, but for shards.
- A stage of shards is divided: process r does shards r, r + n, r + 2n …; process 0 then puts all together.
- A stage of one piece (`RunDirectory.once`) is done by process 0; the others wait for its file.
- A folder stage is built by all together, as distributed training needs; `build` must write into the folder from
  process 0 alone, which then puts it in its place.

The others wait by looking at the disk, so stages need no process group, and a run may be resumed with another number of
processes. The results do not depend on it.
"""

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

from windvane.errors import RunFailed
from windvane.run.lock import is_held

T = TypeVar("T")

_PAUSE = 0.2
"""Seconds between two looks at the disk."""
_PATIENCE = 120.0
"""Seconds that a run directory may be without its process 0 before the others give up."""


class Team(NamedTuple):
    """Which process of a run this is."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is process 0."""
        return self.rank == 0

    def wait(self, lock: Path, what: str, look: Callable[[], T | Literal[False] | None]) -> T:
        """Return what `look` finds as soon as it finds something.

        Raises `RunFailed` where process 0 does not hold the lock at `lock` for too long, so that nothing will come.
        """
        alone_since: float | None = None
        while (found := look()) is None or found is False:
            if self.leads or is_held(lock):
                alone_since = None
            elif alone_since is None:
                alone_since = time.monotonic()
            elif time.monotonic() - alone_since > _PATIENCE:
                raise RunFailed(
                    f"process {self.rank} of {self.size} waited for {what}, but process 0 is gone. "
                    "Its message says why; run the same command again to go on."
                )
            time.sleep(_PAUSE)
        return found


def team_of(environment: Mapping[str, str] = os.environ) -> Team:
    """Return the place of this process among those that ``torchrun`` started; one by itself leads a team of one."""
    rank, size = environment.get("RANK", ""), environment.get("WORLD_SIZE", "")
    if rank.isdecimal() and size.isdecimal() and int(rank) < int(size):
        return Team(int(rank), int(size))
    return Team()
