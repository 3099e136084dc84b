"""What this machine can do: device and number format."""

import os
import platform
from typing import NamedTuple

import torch

from windvane.engines.settings import DeviceSetting, DtypeSetting
from windvane.errors import ConfigError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_AMPERE = 8  # first CUDA compute capability with bfloat16 matrix units


class Hardware(NamedTuple):
    """One line for each fact that decides speed."""

    device: str
    """`cpu`, `cuda` or `mps`: what `auto` takes."""
    device_name: str
    devices: int
    """Accelerators of that kind; 0 for the CPU."""
    dtype: str
    """What `auto` takes."""
    cpu_cores: int
    """Cores this process may use."""
    threads: int
    """Threads torch works with."""
    memory_gib: float | None
    """Main memory, or that of one accelerator; None where the system does not say."""
    bfloat16: bool
    """Whether the device multiplies bfloat16 faster than float32."""
    torch_version: str


def pick_device(setting: DeviceSetting) -> torch.device:
    """Return the device a setting means; raises `ConfigError` for one that this machine has not got."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    kind = next(name for name, there in available.items() if there) if setting == "auto" else setting
    if kind not in available:
        raise ConfigError(f"engine.device is {setting!r}; it is one of auto, {', '.join(sorted(available))}.")
    if not available[kind]:
        usable = ", ".join(name for name, there in available.items() if there)
        raise ConfigError(
            f"engine.device is {setting!r}, but torch {torch.__version__} finds no such device here. "
            f"Usable: {usable}. Set engine.device to auto, or install a torch build for your device."
        )
    # Under torchrun or accelerate launch each process works on a GPU of its own.
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if kind == "cuda" else torch.device(kind)


def pick_dtype(setting: DtypeSetting, device: torch.device) -> torch.dtype:
    """Return the number format a setting means on a device.

    Raises `ConfigError` for an unknown name and for float16 on a CPU, which has no fast kernels for it and overflows.
    """
    if setting == "auto":
        return torch.bfloat16 if multiplies_bfloat16_fast(device) else torch.float32
    if setting not in _DTYPES:
        raise ConfigError(f"engine.dtype is {setting!r}; it is one of auto, {', '.join(_DTYPES)}.")
    if setting == "float16" and device.type == "cpu":
        raise ConfigError(
            "engine.dtype is 'float16', which a CPU computes slowly and which overflows beyond 65504. "
            "Set engine.dtype to auto, float32 or bfloat16."
        )
    return _DTYPES[setting]


def multiplies_bfloat16_fast(device: torch.device) -> bool:
    """Whether bfloat16 is at least as fast as float32: a CPU with AMX, CUDA from Ampere on, MPS where it has it."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= _AMPERE
    if device.type == "mps":
        return _mps_has_bfloat16()
    return _cpu_has_amx()


def describe_hardware() -> Hardware:
    """Return what `windvane doctor` and a run's provenance say about this machine."""
    device = pick_device("auto")
    cuda = device.type == "cuda"
    return Hardware(
        device=device.type,
        device_name=torch.cuda.get_device_name(device) if cuda else _cpu_name(),
        devices=torch.cuda.device_count() if cuda else int(device.type == "mps"),
        dtype=str(pick_dtype("auto", device)).removeprefix("torch."),
        cpu_cores=_cpu_cores(),
        threads=torch.get_num_threads(),
        memory_gib=_memory_gib(device),
        bfloat16=multiplies_bfloat16_fast(device),
        torch_version=torch.__version__,
    )


def _cpu_has_amx() -> bool:
    return bool(torch.cpu._is_amx_tile_supported())


def _mps_has_bfloat16() -> bool:
    try:  # macOS before 14 has the device but not the type, and says so only when asked for one
        torch.zeros(1, dtype=torch.bfloat16, device="mps")
    except (RuntimeError, TypeError):
        return False
    return True


def _cpu_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory_gib(device: torch.device) -> float | None:
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory) / 2**30
    names = getattr(os, "sysconf_names", {})
    if "SC_PHYS_PAGES" in names and "SC_PAGE_SIZE" in names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return None
