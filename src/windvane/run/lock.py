"""One process at a time works on a run directory.

The lock is the operating system's (``flock``), so it dies with its process: a killed run leaves nothing to clean up. It
needs a file system on which all processes see the same locks: local disks are, and so is NFS on Linux.
"""

import fcntl
import json
import os
import socket
import time
import weakref
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from windvane.errors import RunDirectoryError

_ATTEMPTS = 10
_PAUSE = 0.05
"""Seconds between attempts: whoever only looks whether a run is under way holds the lock for a moment."""


class Owner(NamedTuple):
    """The process that holds a lock."""

    pid: int
    host: str
    since: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


class RunLock:
    """An exclusive lock on a run directory, held until `release` or until the process ends."""

    def __init__(self, path: Path) -> None:
        self._descriptor: int | None = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        if not _acquire(self._descriptor):
            owner = read_owner(path)
            self._close()
            raise RunDirectoryError(
                f"{path.parent.parent} is in use by {owner or 'another process'}. "
                "Wait for it to end, or stop it, or choose another output_dir."
            )
        _held.add(self)
        owner = Owner(os.getpid(), socket.gethostname(), datetime.now(UTC).isoformat(timespec="seconds"))
        try:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, json.dumps(owner._asdict()).encode(), 0)
        except OSError:
            self._close()
            raise

    def release(self) -> None:
        """Let another process have the run."""
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            self._close()

    def forget(self) -> None:
        """Close a forked child's copy: the lock must not outlive the process that took it."""
        self._close()

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _acquire(descriptor: int) -> bool:
    for attempt in range(_ATTEMPTS):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if attempt + 1 < _ATTEMPTS:
                time.sleep(_PAUSE)
        else:
            return True
    return False


def is_held(path: Path) -> bool:
    """Say whether a living process holds the lock at `path`."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def read_owner(path: Path) -> Owner | None:
    """Return who wrote the lock file last, or None if it does not say."""
    try:
        return Owner(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


_held: "weakref.WeakSet[RunLock]" = weakref.WeakSet()


def _forget_in_child() -> None:
    for lock in list(_held):
        lock.forget()


os.register_at_fork(after_in_child=_forget_in_child)
