"""Servers that are started for a run: healthy or a clear error, and never left behind."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from windvane.engines.protocols import ChatRequest
from windvane.engines.server_process import ServerProcess, free_port, started
from windvane.engines.server_settings import ServerSettings
from windvane.errors import ConfigError, RunFailed
from windvane.types import Message, Sampling

ROOT = Path(__file__).parents[2]
STUB = (sys.executable, "-m", "tests.stub_server", "--port", "{port}")
HELLO = ChatRequest((Message(role="user", content="Hello"),), Sampling(8))


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'src'}:{ROOT}")


def settings(*more: str, **changes: Any) -> ServerSettings:
    return ServerSettings(**{"model": "stub", "command": (*STUB, *more), "ready_within": 60.0} | changes)


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has looked at does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def gone(*pids: int) -> bool:
    deadline = time.monotonic() + 10
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(map(alive, pids))


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def child_in(log: Path) -> int:
    return int(next(line for line in log.read_text().splitlines() if line.startswith("child")).split()[1])


def test_a_server_is_started_asked_and_ended_with_all_its_processes(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "server.log"
    with started(settings("--ready-after", "0.3", "--children"), log=log) as server:

        async def work() -> str:
            async with server:
                await server.check()
                return (await server.ask(HELLO)).text

        assert asyncio.run(work()).startswith("reply to")
        child = child_in(log)
        assert alive(child)
    assert gone(child)
    assert "ready" in log.read_text()


def test_a_server_that_runs_already_is_left_alone(tmp_path: Path) -> None:
    with started(ServerSettings(model="m", base_url="http://127.0.0.1:9/v1"), log=tmp_path / "x.log") as server:
        assert server.name == "server:m"
    assert list(tmp_path.iterdir()) == []


def test_a_home_directory_is_meant_as_in_a_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    given = settings(model="~/models/small", command=("serve", "~/models/small", "--port", "{port}", "a~/b"))
    assert given.model == "/home/ada/models/small"
    assert given.command == ("serve", "/home/ada/models/small", "--port", "{port}", "a~/b")


def test_a_fixed_port_needs_no_placeholder(tmp_path: Path) -> None:
    port = free_port()
    command = tuple(part.replace("{port}", str(port)) for part in STUB)
    with ServerProcess(
        settings(command=command, base_url=f"http://127.0.0.1:{port}/v1"), tmp_path / "s.log"
    ) as process:
        assert process.url == f"http://127.0.0.1:{port}/v1"


def test_a_server_that_ends_by_itself_shows_its_last_lines_without_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "sk-0123456789")
    with (
        pytest.raises(ConfigError) as caught,
        started(settings("--crash", "CUDA out of memory, sk-0123456789"), log=tmp_path / "s.log"),
    ):
        pass
    message = str(caught.value)
    assert "exit code 7 before it was ready" in message
    assert "tests.stub_server --port" in message
    assert message.endswith("CUDA out of memory, [SOME_API_KEY]")
    assert "\n39\n" in message
    assert "\n5\n" not in message


def test_a_server_that_is_not_ready_in_time_is_ended(tmp_path: Path) -> None:
    log = tmp_path / "s.log"
    with (
        pytest.raises(RunFailed, match=r"not ready after 6 seconds .ready_within.") as caught,
        started(settings("--children", "--ready-after", "60", ready_within=6.0), log=log),
    ):
        pass
    assert "child" in str(caught.value)
    assert gone(child_in(log))


def test_a_command_that_is_not_there_is_said(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match="no-such-server: No such file") as caught,
        started(settings(command=("no-such-server", "serve", "{port}")), log=tmp_path / "s.log"),
    ):
        pass
    assert "Install it" in str(caught.value)


def test_a_missing_key_is_said_before_anything_is_started(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match="STUB_KEY"),
        started(settings(api_key_env="STUB_KEY"), log=tmp_path / "s.log"),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_dies_on_the_way_is_quoted(tmp_path: Path) -> None:
    log = tmp_path / "s.log"
    with started(settings("--children", retries=1, backoff=0.01), log=log) as server:

        async def work() -> None:
            async with server:
                await server.ask(HELLO)
                os.kill(parent(child_in(log)), signal.SIGKILL)
                await server.ask(HELLO._replace(sample=1))

        with pytest.raises(RunFailed) as caught:
            asyncio.run(work())
    assert f"The last lines of {log}:\nchild" in str(caught.value)
    assert gone(child_in(log))


OWNER = """
import sys, time
from pathlib import Path
from windvane.engines.server_process import started
from tests.engines.test_server_process import settings
with started(settings("--children"), log=Path(sys.argv[1])):
    print("up", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_however_the_run_ends_its_server_ends_too(tmp_path: Path, sign: signal.Signals) -> None:
    log = tmp_path / "s.log"
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(log)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert owner.stdout is not None
    assert owner.stdout.readline() == b"up\n"
    child = child_in(log)
    server = parent(child)
    assert alive(child)
    assert alive(server)
    owner.send_signal(sign)
    owner.communicate()
    assert gone(child, server)
