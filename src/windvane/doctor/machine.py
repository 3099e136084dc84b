"""What the machine has: cores, memory, disk, processor features, and the limits of the container around it."""

import os
import shutil
from pathlib import Path

from windvane.doctor.findings import Finding, Verdict

GIB = 2**30
TRAINING_BYTES = 16
"""Bytes per parameter of a full fp32 training with AdamW: weights, gradients and two moments, 4 bytes each."""
LORA_BYTES = 5
"""Bytes per parameter of training an adapter on frozen fp32 weights: the weights, and a little for the adapter."""
ACTIVATIONS_GIB = 1.0
"""Set aside for activations, logits and Python."""
LOW_MEMORY_GIB = 4.0
LOW_DISK_GIB = 5.0
NO_DISK_GIB = 1.0


def memory(root: Path = Path("/")) -> Finding:
    """Say how much memory a run can have."""
    total, free = _memory_bytes(root)
    limit = cgroup_memory(root)
    value = f"{total / GIB:.1f} GiB, {free / GIB:.1f} GiB free"
    if limit is not None and limit < total:
        value += f", limited to {limit / GIB:.1f} GiB by the container"
    if room_gib(root) < LOW_MEMORY_GIB:
        advice = "close other programs, or lower engine.batch_tokens and engine.score_tokens"
        return Finding(name="memory", value=value, verdict="warn", advice=advice)
    return Finding(name="memory", value=value)


def room_gib(root: Path = Path("/")) -> float:
    """Return the main memory that a new process can have: what is free, or what the container's limit leaves."""
    free, limit = _memory_bytes(root)[1], cgroup_memory(root)
    return (free if limit is None else min(free, limit)) / GIB


def trainable(gib: float) -> str:
    """Return the model sizes that can be trained in so much memory, in words."""
    usable = max(0.0, gib - ACTIVATIONS_GIB) * GIB
    full, lora = _parameters(usable / TRAINING_BYTES), _parameters(usable / LORA_BYTES)
    return f"{full} parameters in full, {lora} with training.lora"


def _parameters(count: float) -> str:
    return f"{count / 1e9:.1f}B" if count >= 0.95e9 else f"{count / 1e6:.0f}M"


def _memory_bytes(root: Path) -> tuple[int, int]:
    """Total and available memory, in bytes; raises OSError where the system does not say."""
    table = root / "proc/meminfo"
    if table.exists():
        lines = (line.split(":", 1) for line in table.read_text(encoding="ascii").splitlines() if ":" in line)
        kib = {name: int(value.split()[0]) for name, value in lines}
        return kib["MemTotal"] * 1024, kib.get("MemAvailable", kib["MemFree"]) * 1024
    page = os.sysconf("SC_PAGE_SIZE")
    total = os.sysconf("SC_PHYS_PAGES") * page
    free = os.sysconf("SC_AVPHYS_PAGES") * page if "SC_AVPHYS_PAGES" in os.sysconf_names else total
    return total, free


def cgroup_memory(root: Path = Path("/")) -> int | None:
    """Return the bytes that the container's limit leaves, or None without a limit."""
    for limit_name, used_name in (
        ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory.current"),
        ("sys/fs/cgroup/memory/memory.limit_in_bytes", "sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        limit = _read_int(root / limit_name)
        if limit is not None and limit < 2**60:  # version 1 writes "no limit" as a huge number
            return max(0, limit - (_read_int(root / used_name) or 0))
    return None


def cgroup_cores(root: Path = Path("/")) -> float | None:
    """Return the processor time that the container may use, in cores, or None without a limit."""
    try:
        quota, period = (root / "sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        quota = str(_read_int(root / "sys/fs/cgroup/cpu/cpu.cfs_quota_us") or -1)
        period = str(_read_int(root / "sys/fs/cgroup/cpu/cpu.cfs_period_us") or 100_000)
    return int(quota) / int(period) if quota.isdigit() and int(period) else None


def _read_int(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):  # absent, or the word "max"
        return None


def threads(count: int, cores: int, quota: float | None) -> Finding:
    """Judge torch's number of threads against the cores that this process may use."""
    usable = cores if quota is None else min(cores, max(1, round(quota)))
    limited = "" if quota is None or quota >= cores else f", of which the container grants {quota:g}"
    value = f"{count} for {cores} core{'s' if cores != 1 else ''}{limited}"
    if count > usable:
        advice = f"set OMP_NUM_THREADS={usable}: more threads than cores wait for each other"
        return Finding(name="threads", value=value, verdict="warn", advice=advice)
    if count < usable and (chosen := os.environ.get("OMP_NUM_THREADS")):
        advice = f"OMP_NUM_THREADS={chosen} leaves cores idle; unset it, or set it to {usable}"
        return Finding(name="threads", value=value, verdict="warn", advice=advice)
    return Finding(name="threads", value=value)  # fewer than cores: torch leaves hyper-threads out, rightly


def cpu_flags(root: Path = Path("/")) -> frozenset[str]:
    """Return the processor's feature flags as Linux names them; empty elsewhere."""
    try:
        with (root / "proc/cpuinfo").open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                name, _, value = line.partition(":")
                if name.strip() in ("flags", "Features"):
                    return frozenset(value.split())
    except OSError:
        pass
    return frozenset()


def disk(name: str, folder: Path) -> Finding:
    """Say how much room there is where `folder` is, or will be made."""
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free / GIB
    value = f"{free:.1f} GiB free in {folder.absolute()}"
    if not os.access(place, os.W_OK):
        return Finding(
            name=name, value=f"{folder.absolute()} cannot be written", verdict="bad", advice=_ELSEWHERE[name]
        )
    verdict: Verdict = "bad" if free < NO_DISK_GIB else "warn" if free < LOW_DISK_GIB else "ok"
    advice = "" if verdict == "ok" else f"free some space, or {_ELSEWHERE[name]}"
    return Finding(name=name, value=value, verdict=verdict, advice=advice)


_ELSEWHERE = {
    "disk": "run from another folder, or set output_dir to one on another disk",
    "model cache": "set WINDVANE_CACHE to a folder on another disk",
}
