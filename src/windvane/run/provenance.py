"""What a run's results depend on besides its configuration: versions, machine, git state, seed."""

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from windvane.types import Record

_PACKAGES = (
    "windvane",
    "torch",
    "transformers",
    "accelerate",
    "peft",
    "datasets",
    "tokenizers",
    "safetensors",
    "pydantic",
)
_GIT_SECONDS = 10


class GitState(Record):
    """The repository that the command was started in."""

    commit: str | None
    """None before the first commit."""
    dirty: bool | None
    """Whether tracked files differ from the commit; None where git took too long to say."""


class Provenance(Record):
    """Written once, when the run directory is created."""

    command: str
    created: str
    """UTC."""
    seed: int | None
    python: str
    packages: Mapping[str, str]
    """Version by name, of those that are installed."""
    platform: str
    cpu: str
    cpus: int
    """Logical processors that this process may use."""
    git: GitState | None
    """None outside a repository, or without git."""


def take_provenance(command: str, seed: int | None) -> Provenance:
    """Return what is true of this process now. Imports none of the packages whose versions it notes."""
    return Provenance(
        command=command,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seed=seed,
        python=platform.python_version(),
        packages={name: version for name in _PACKAGES if (version := _version(name))},
        platform=platform.platform(),
        cpu=_cpu(),
        cpus=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        git=_git_state(),
    )


def moved(old: Provenance, new: Provenance) -> list[str]:
    """Return what changed between two processes of one run, of the things that may change its numbers."""
    before, after = ({"python": it.python, **it.packages, "platform": it.platform, "cpu": it.cpu} for it in (old, new))
    return [
        f"{name}: {before.get(name, '(absent)')} -> {after.get(name, '(absent)')}"
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    ]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _git_state() -> GitState | None:
    if _git("rev-parse", "--is-inside-work-tree") != "true":
        return None
    changes = _git("status", "--porcelain", "--untracked-files=no")
    return GitState(
        commit=_git("rev-parse", "--verify", "--quiet", "HEAD"), dirty=None if changes is None else bool(changes)
    )


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=_GIT_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
