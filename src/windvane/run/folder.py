"""One stage whose result is a folder, such as a trained policy.

It is built aside and appears in one rename. Killed between any two of these writes, it is built again or taken over:

1. everything in the folder is synced;
2. the manifest says which files there are, and how large;
3. the folder is renamed: from here on the stage is finished;
4. its checkpoints are deleted.
"""

import errno
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors import SafetensorError

from windvane.errors import RunDirectoryError, RunFailed
from windvane.run.files import AtomicFiles, ensure_folder, explained, remove_tree, sync_folder, sync_tree
from windvane.run.layout import Layout, check_name
from windvane.run.stage import Manifest, check_inputs, read_note, write_manifest

_DISK_TROUBLE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}
_FULL = 1 << 20
"""Bytes below which a disk counts as full."""


class FolderStage:
    """The files of one folder stage."""

    def __init__(self, layout: Layout, files: AtomicFiles, name: str) -> None:
        self.name = check_name(name)
        self.folder, self.partial, self.scratch = layout.folder(name), layout.partial(name), layout.scratch(name)
        self._layout, self._files = layout, files

    def manifest(self) -> Manifest | None:
        """Return the manifest on file."""
        return read_note(self._layout.manifest(self.name), Manifest)

    def finished(self, inputs: str) -> Manifest | None:
        """Return the manifest if the stage is finished.

        Raises `RunDirectoryError` for other inputs and for a folder that was changed.
        """
        manifest = finished_folder(self._layout, self.name)
        if manifest is not None:
            check_inputs(self.name, manifest.inputs, inputs, self._layout.root)
        return manifest

    def take_over(self, inputs: str) -> Manifest | None:
        """Finish the stage if a killed process left only the rename to be done; else make room to build it."""
        manifest = self.manifest()
        if manifest is not None:
            if manifest.inputs == inputs and self.partial.is_dir() and folder_files(self.partial) == manifest.files:
                self._files.publish(self.partial, self.folder)
                return manifest
            with explained(self.folder):
                self._layout.manifest(self.name).unlink()
                sync_folder(self._layout.manifest(self.name).parent)
        remove_tree(self.partial)
        with explained(self.partial):
            ensure_folder(self.partial)
        return None

    def build(self, build: Callable[[Path], None]) -> None:
        """Have the folder built aside. Raises `RunFailed` where the disk refuses."""
        try:
            build(self.partial)
        except (OSError, RuntimeError, SafetensorError) as error:
            if isinstance(error, RunFailed) or not _is_disk_trouble(error, self.partial):
                raise
            raise RunFailed(
                f"could not write {self.partial}: {error}. Nothing that was finished is lost. "
                "Make room, then run the same command again: it goes on from here."
            ) from error

    def publish(self, inputs: str, counts: Mapping[str, int]) -> Manifest:
        """Put what was built in its place, which finishes the stage."""
        with explained(self.partial):
            sync_tree(self.partial)
        manifest = Manifest(
            inputs=inputs,
            records=0,
            sha256=None,
            files=folder_files(self.partial),
            counts=dict(sorted(counts.items())),
        )
        write_manifest(self._layout, self._files, self.name, manifest)
        self._files.publish(self.partial, self.folder)
        return manifest

    def clear(self) -> None:
        """Delete the checkpoints."""
        remove_tree(self.scratch)


def _is_disk_trouble(error: Exception, folder: Path) -> bool:
    """Whether the disk is what made a build fail. Those who write weights say so in their own words, or not at all."""
    if isinstance(error, OSError):
        return error.errno in _DISK_TROUBLE
    return f"os error {errno.ENOSPC}" in str(error) or shutil.disk_usage(folder).free < _FULL


def folder_files(folder: Path) -> dict[str, int]:
    """Return the size in bytes of each file in a folder, by its path inside."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}


def finished_folder(layout: Layout, stage: str) -> Manifest | None:
    """Return the manifest of a finished folder stage, or None if it is not finished.

    Raises `RunDirectoryError` where the folder is not what the stage built. Its files are told by name and size.
    """
    folder = layout.folder(stage)
    if not folder.exists():
        return None
    manifest = read_note(layout.manifest(stage), Manifest)  # after the folder: it was written before it
    if manifest is None:
        raise RunDirectoryError(
            f"{folder} was not built by this run, and its stage {stage} would replace it. Move the folder away."
        )
    now, then = folder_files(folder), manifest.files or {}
    wrong = sorted(name for name, size in then.items() if now.get(name) != size)
    if wrong:
        raise RunDirectoryError(
            f"{folder} was changed after the run built it ({', '.join(wrong[:5])}{' …' if len(wrong) > 5 else ''}). "
            "Put it back, or delete the folder to have the stage done again, or start over in another output_dir."
        )
    return manifest
