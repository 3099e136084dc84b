"""Creates, resumes or refuses a run directory."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from pydantic import ValidationError

from windvane.config import Settings, differences, to_yaml
from windvane.config.yaml_text import parse
from windvane.errors import RunDirectoryError
from windvane.run.files import AtomicFiles, ensure_folder, remove_tree, sync_folder
from windvane.run.layout import MACHINERY, Layout
from windvane.run.lock import RunLock
from windvane.run.provenance import Provenance, moved, take_provenance
from windvane.run.stage import all_manifests
from windvane.run.team import Team
from windvane.run.view import RunView


class Request(NamedTuple):
    """What a process wants to do in a run directory."""

    layout: Layout
    config: Settings
    command: str
    may_change: frozenset[str]
    alone: bool
    """Whether no other process takes part."""


class Opening(NamedTuple):
    """What was found on opening."""

    resumed: bool
    settings: list[str]
    """Settings that changed and may."""
    surroundings: list[str]
    """Versions and the machine, where they changed since the run was created."""


def take_lock(layout: Layout) -> RunLock:
    """Return the lock of a run directory that is there, empty or yet to be made.

    Raises `RunDirectoryError` for a folder of anything else, which stays as it is, and for one that is in use.
    """
    root = layout.root
    try:
        _refuse_foreign(layout)
        ensure_folder(layout.machinery)
        return RunLock(layout.lock)
    except (OSError, ValueError) as error:
        if isinstance(error, RunDirectoryError):
            raise
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise RunDirectoryError(
            f"{root} cannot be written to: {reason}. Choose an output_dir in a folder that you may write to."
        ) from error


def _refuse_foreign(layout: Layout) -> None:
    root = layout.root
    for place in (root, *root.parents):
        if place.exists() and not place.is_dir():
            raise RunDirectoryError(
                f"{place} is a file, and the run directory {root} needs a folder there. Choose another output_dir."
            )
    if not root.exists():
        return
    inside = {path.name for path in root.iterdir()}
    is_run = MACHINERY in inside and layout.config.name in inside
    was_being_created = inside <= {MACHINERY, layout.provenance.name} and (MACHINERY in inside or not inside)
    if not (is_run or was_being_created):
        some = ", ".join(sorted(inside)[:5]) + (" …" if len(inside) > 5 else "")
        raise RunDirectoryError(
            f"{root} is not a run directory, and it is not empty ({some}). Nothing in it was touched. "
            "Choose an output_dir that does not exist yet, or that an earlier run of the same command made."
        )


def begin_or_resume(request: Request, files: AtomicFiles) -> Opening:
    """Write down what a new run is, or check that an old one is the same; the caller holds the lock.

    Raises `RunDirectoryError`.
    """
    layout = request.layout
    now = take_provenance(request.command, getattr(request.config, "seed", None))
    if layout.config.exists() and request.alone and _is_other_and_cost_nothing(request):
        _forget(layout)
    if layout.config.exists():
        then = _read_provenance(layout)
        settings = check_same(request, then)
        files.sweep()
        if then is None:
            files.write(layout.provenance, [_provenance_text(now)])
        return Opening(True, settings, moved(then, now) if then else [])
    files.sweep()
    files.write(layout.provenance, [_provenance_text(now)])
    files.write(layout.config, [to_yaml(request.config).encode()])
    return Opening(False, [], [])


def _is_other_and_cost_nothing(request: Request) -> bool:
    """Tell whether a run with another configuration ended before it did anything that takes time.

    So it is where a value was wrong: the model's name, say. To put it right must not take another directory. A run that
    once came to its end is kept, however little it took: its results are what somebody asked for.
    """
    layout = request.layout
    then = _read_provenance(layout)
    if then is None or then.command != request.command or not changes(request):
        return False
    folders = [manifest for manifest in all_manifests(layout).values() if manifest.files is not None]
    return (
        not any(event.kind == "finished" for event in RunView(layout.root).events())
        and not any(RunView(layout.root).counts().values())
        and not folders
        and not any(path.is_file() for path in layout.all_scratch.rglob("*"))
    )


def _forget(layout: Layout) -> None:
    """Delete what a run has made; its configuration goes first, so that a kill leaves a directory of no run."""
    layout.config.unlink()
    sync_folder(layout.root)
    for stage in all_manifests(layout):
        layout.records(stage).unlink(missing_ok=True)
    for stage in all_manifests(layout):
        for folder in layout.records(stage).relative_to(layout.root).parents:
            if folder.name and (layout.root / folder).is_dir() and not any((layout.root / folder).iterdir()):
                (layout.root / folder).rmdir()
    layout.journal.unlink(missing_ok=True)
    for machinery in (layout.manifests, *layout.leftovers):
        remove_tree(machinery)


def join(request: Request, team: Team) -> None:
    """Wait until process 0 has opened the run directory, and check that this process wants the same."""
    layout = request.layout
    team.wait(layout.lock, f"{layout.root} to be created", layout.config.exists)
    check_same(request, _read_provenance(layout))


def check_may_change(request: Request) -> None:
    """Raise ValueError if `may_change` names a setting that the configuration does not have."""
    names = set(_names(request.config.model_dump(mode="json")))
    unknown = sorted(request.may_change - names)
    if unknown:
        raise ValueError(f"may_change names no setting of {type(request.config).__name__}: {', '.join(unknown)}")


def _names(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in values.items():
        yield f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from _names(value, f"{prefix}{name}.")


def check_same(request: Request, then: Provenance | None) -> list[str]:
    """Return what changed and may; raise `RunDirectoryError` if something else changed."""
    root = request.layout.root
    if then is not None and then.command != request.command:
        raise RunDirectoryError(
            f"{root} holds a run of {then.command}, not of {request.command}. "
            f"Choose another output_dir, or delete {root}."
        )
    changed = changes(request)
    if changed:
        raise RunDirectoryError(
            f"{root} holds a run with another configuration (its value -> yours):\n"
            + "".join(f"  {line}\n" for line in changed)
            + f"Put the values back to go on with that run, or choose another output_dir, or delete {root}."
        )
    return [line for line in differences(*_both(request)) if not line.startswith("output_dir:")]


def changes(request: Request) -> list[str]:
    """Return the settings that differ from those of the run and may not, as ``name: its value -> yours``."""
    free = request.may_change | {"output_dir"}
    old, new = _both(request)
    return differences(_without(old, free), _without(new, free))


def _both(request: Request) -> tuple[dict[str, Any], dict[str, Any]]:
    new = parse(to_yaml(request.config), "the configuration").value
    return RunView(request.layout.root).config(), new


def _without(values: Mapping[str, Any], free: Iterable[str], prefix: str = "") -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name, value in values.items():
        if f"{prefix}{name}" not in free:
            kept[name] = _without(value, free, f"{prefix}{name}.") if isinstance(value, Mapping) else value
    return kept


def _read_provenance(layout: Layout) -> Provenance | None:
    try:
        return Provenance.from_json(layout.provenance.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValidationError, UnicodeDecodeError) as error:
        raise RunDirectoryError(
            f"{layout.provenance} is damaged. Delete it to go on without it, or start over in another output_dir."
        ) from error


def _provenance_text(provenance: Provenance) -> bytes:
    return provenance.model_dump_json(indent=1).encode() + b"\n"
