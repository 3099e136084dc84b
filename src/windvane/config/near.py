"""What a user may have meant by a path that is not there."""

import difflib
from pathlib import Path


def near_files(path: Path) -> str:
    """Return a sentence that names entries like `path` beside it, or "" if there are none."""
    folder = path.parent
    if not folder.is_dir():
        return f" The folder {folder} does not exist either."
    names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.6)
    near = near or [name for name in names if Path(name).stem == path.stem]
    return f" Near it: {', '.join(str(folder / name) for name in near)}." if near else ""
