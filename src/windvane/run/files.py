"""Writes that are either there in full or not there at all, whatever happens to the process or to the machine."""

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from windvane.errors import RunFailed


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what the operating system says about a write to `path` into a `RunFailed` that says what to do."""
    try:
        yield
    except OSError as error:
        raise RunFailed(
            f"could not write {path}: {error.strerror or error}. Nothing that was finished is lost. "
            "Make room or restore access, then run the same command again: it goes on from here."
        ) from error


def append_whole(descriptor: int, line: bytes, *, sync: bool = False) -> None:
    """Append a line to a file in full, durably if `sync`; where the disk refuses, leave the file as it was.

    Raises OSError.
    """
    size = os.fstat(descriptor).st_size
    try:
        written = os.write(descriptor, line)
        while written < len(line):
            written += os.write(descriptor, line[written:])
        if sync:
            os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, size)
        raise


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def ensure_folder(folder: Path) -> None:
    """Create `folder` and its parents where they are missing, durably. Raises OSError."""
    missing: list[Path] = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for new in reversed(missing):
        new.mkdir(exist_ok=True)
        sync_folder(new.parent)


def sync_tree(folder: Path) -> None:
    """Make a folder and all that it holds survive a power failure. Raises OSError."""
    for here, _, names in os.walk(folder, topdown=False):
        for name in names:
            path = Path(here, name)
            if path.is_symlink():
                continue
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        sync_folder(Path(here))


def remove_tree(folder: Path) -> None:
    """Delete a folder and all that it holds, if it is there."""
    with explained(folder):
        if folder.exists():
            shutil.rmtree(folder)


class AtomicFiles:
    """Writes files by way of a folder for unfinished ones that lies on the same file system.

    Several processes may share the folder; each sweeps up only what its own forerunner left behind.
    """

    def __init__(self, temporary: Path, *, rank: int = 0) -> None:
        self._temporary = temporary
        self._prefix = f"{rank}-"
        self._written = 0

    def sweep(self) -> None:
        """Delete what a killed process left half-written."""
        with explained(self._temporary):
            ensure_folder(self._temporary)
            for path in self._temporary.glob(f"{self._prefix}*"):
                path.unlink()

    def write(self, path: Path, chunks: Iterable[bytes]) -> None:
        """Replace `path` by the chunks joined: written aside, synced, renamed, and the rename synced.

        Raises `RunFailed` where the disk refuses; `path` is then what it was before.
        """
        self._written += 1
        aside = self._temporary / f"{self._prefix}{self._written}"
        with explained(path):
            ensure_folder(self._temporary)
            ensure_folder(path.parent)
            with open(aside, "wb") as file:
                for chunk in chunks:
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, path)
            sync_folder(path.parent)

    def publish(self, built: Path, path: Path) -> None:
        """Move a folder to where it is visible. The caller has synced its contents."""
        with explained(path):
            ensure_folder(path.parent)
            os.rename(built, path)
            sync_folder(path.parent)
            sync_folder(built.parent)
