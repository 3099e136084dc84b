"""What this machine can do, and what to change: the checks behind `windvane doctor`."""

import http.client
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path

from windvane.doctor import machine, network, software
from windvane.doctor.findings import Finding, Verdict

__all__ = ["Finding", "Verdict", "diagnose"]

_FAILURES = (
    OSError,
    ImportError,
    PackageNotFoundError,
    RuntimeError,
    ValueError,
    AttributeError,
    LookupError,
    http.client.HTTPException,
)
"""What a check meets on a machine that nobody foresaw; one that fails costs its own line and no other."""


def diagnose(folder: Path = Path(), *, timeout: float = 2.0) -> list[Finding]:
    """Look at this machine and return the findings, in reading order; never raises for what it finds.

    `folder` is where runs will be written. `timeout` bounds each look into the network, in seconds. Loads torch, writes
    nothing, and starts nothing.
    """
    checks: list[tuple[str, Callable[[], Finding]]] = [
        ("python", software.python),
        ("torch", software.torch_build),
        ("threads", software.torch_threads),
        ("device", software.device),
        ("dtype", software.dtype),
        ("attention", software.attention),
        ("memory", machine.memory),
        ("trains up to", software.largest_model),
        ("disk", lambda: machine.disk("disk", folder)),
        ("model cache", lambda: machine.disk("model cache", _cache_folder())),
        ("packages", software.packages),
        ("optional packages", software.optional_packages),
        ("smollm2-135m", software.default_model),
        ("model hub", lambda: network.hub(timeout)),
        ("local servers", lambda: network.servers(min(timeout, 0.5))),
    ]
    return [_checked(name, check) for name, check in checks]


def _cache_folder() -> Path:
    from windvane.engines.shelf import cache_folder

    return cache_folder()


def _checked(name: str, check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except _FAILURES as error:
        what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        advice = "please report this line" if name != "torch" else "reinstall torch; nothing else works without it"
        verdict: Verdict = "bad" if name == "torch" else "warn"
        return Finding(name=name, value=f"could not be checked ({what})", verdict=verdict, advice=advice)
