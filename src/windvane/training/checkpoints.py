"""Checkpoints that are whole or not there."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

MARKER = "COMPLETE"
"""The file that a checkpoint gets last, when everything else is on the disk."""

_NAME = re.compile(r"checkpoint-(\d+)")


def seal(checkpoint: Path) -> None:
    """Force a checkpoint to the disk and mark it as complete."""
    for path in sorted(checkpoint.rglob("*")):
        _flush(path)  # folders, too: they hold the names
    marker = checkpoint / MARKER
    marker.touch()
    _flush(marker)
    _flush(checkpoint)
    _flush(checkpoint.parent)


def last_complete(folder: Path) -> Path | None:
    """Return the complete checkpoint of the most steps, or None."""
    complete = [path for path in _checkpoints(folder) if (path / MARKER).is_file()]
    return max(complete, key=_steps, default=None)


def clean(folder: Path, *, keep: Path | None) -> None:
    """Remove every checkpoint in `folder` but `keep`: older ones, and those that a crash left half-written."""
    for path in _checkpoints(folder):
        if path != keep:
            (path / MARKER).unlink(missing_ok=True)  # first, so that a half-removed one never counts as complete
            shutil.rmtree(path)


def _checkpoints(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if _NAME.fullmatch(path.name)] if folder.is_dir() else []


def _steps(checkpoint: Path) -> int:
    found = _NAME.fullmatch(checkpoint.name)
    assert found is not None
    return int(found[1])


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
