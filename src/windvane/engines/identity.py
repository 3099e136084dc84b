"""Whether a model folder still holds the same model: a run must not go on, or look finished, with another one."""

import hashlib
import os
from pathlib import Path
from typing import BinaryIO

_WHOLE = 1 << 20
"""Bytes up to which a file is read in full."""
_SAMPLES = 256
_SAMPLE = 1 << 12
"""Of a larger one, so many bytes are read at each of `_SAMPLES` places, the beginning and the end among them."""
_READ = (".json", ".jinja", ".model", ".txt", ".safetensors", ".bin")
_OURS = "windvane.json"
"""A note on how a policy was made, which says where that was and changes nothing about the model."""


def model_identity(reference: str) -> str:
    """Return a checksum of the model in a local folder, and for any other reference (a name) the reference itself.

    Weights are sampled, not read in full: training moves nearly all of them, and a run asks this of 100 GB as well.
    """
    folder = Path(reference).expanduser()
    if not folder.is_dir():
        return f"name:{reference}"
    checksum = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in _READ and path.name != _OURS and path.is_file():
            checksum.update(f"{path.name}\0{path.stat().st_size}\0".encode())
            with path.open("rb") as file:
                _update(checksum, file, path.stat().st_size)
    return f"folder:{checksum.hexdigest()}"


def _update(checksum: "hashlib._Hash", file: BinaryIO, size: int) -> None:
    if size <= _WHOLE:
        checksum.update(file.read())
        return
    for number in range(_SAMPLES):
        file.seek((size - _SAMPLE) * number // (_SAMPLES - 1), os.SEEK_SET)
        checksum.update(file.read(_SAMPLE))
