"""A server that is started for a run and ended with it: ``vllm serve``, ``transformers serve``, llama.cpp, others."""

import contextlib
import http.client
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from windvane.engines.server import ServerTalker
from windvane.engines.server_settings import PORT, ServerSettings
from windvane.errors import ConfigError, RunFailed
from windvane.run.files import ensure_folder, explained

_LINES = 20
"""Last lines of the log that a message shows."""
_PAUSE = 0.1
"""Seconds between two looks at a server that is starting."""
_LOOK = 5.0
"""Seconds that a server may take to say that it is healthy."""
_GRACE = 10.0
"""Seconds to end by itself before it is killed."""
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSWORD")
_WATCH = """
import os, signal, sys
sys.stdin.buffer.read()
try:
    os.killpg(int(sys.argv[1]), signal.SIGKILL)
except ProcessLookupError:
    pass
"""
"""Reads until the other end of its pipe is gone, which is when this process is, however it ended."""


@contextmanager
def started(settings: ServerSettings, *, log: Path, seed: int = 0) -> Iterator[ServerTalker]:
    """Yield the talker of a server; where `settings` has a command, it is started first and ended in any case.

    `log` is the file for what the server prints. Raises `ConfigError` where the command cannot be run or the server
    ends by itself, `RunFailed` where it is not healthy in time, `ConfigError` where its key is missing; the last before
    anything is started.
    """
    ServerTalker(settings)
    if not settings.command:
        yield ServerTalker(settings, seed=seed)
        return
    with ServerProcess(settings, log) as process:
        yield ServerTalker(settings, urls=(process.url,), seed=seed, log=process.tail)


class ServerProcess:
    """The process, with all that it starts itself. Use it as a context manager; entering waits until it is healthy.

    It runs in a process group of its own, which is ended as a whole: on leaving, at Ctrl-C, and by a small watcher
    also where this process is killed.
    """

    def __init__(self, settings: ServerSettings, log: Path) -> None:
        port = free_port()
        self.url = next(iter(settings.urls), f"http://127.0.0.1:{PORT}/v1").replace(PORT, str(port))
        """Its address."""
        self._command = [part.replace(PORT, str(port)) for part in settings.command]
        self._command[0] = _program(self._command[0])
        self._ready_within = settings.ready_within
        self._api_key_env = settings.api_key_env
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self._start()
            self._wait()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def tail(self) -> str:
        """Return the last lines that the server printed, for a message, without the keys of the environment."""
        try:
            text = self._log.read_bytes().decode(errors="replace")
        except OSError:
            return ""
        lines = [line.rstrip() for line in text.splitlines() if line.strip()][-_LINES:]
        shown = _without_secrets("\n".join(lines), os.environ, self._api_key_env)
        return f"\nThe last lines of {self._log}:\n{shown}" if shown else f"\n{self._log} is empty."

    def stop(self) -> None:
        """End the whole process group; does nothing where it has ended."""
        process, self._process = self._process, None
        if process is not None:
            _end_group(process)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE)  # the group may be seen to have ended before its leader was waited for
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.kill()
            watcher.wait()
            assert watcher.stdin is not None
            watcher.stdin.close()

    def _start(self) -> None:
        with explained(self._log):
            ensure_folder(self._log.parent)
            log = self._log.open("wb")
        with log:
            try:
                self._process = subprocess.Popen(
                    self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                    start_new_session=True,
                )  # fmt: skip
            except OSError as error:
                raise ConfigError(
                    f"the server cannot be started: {self._command[0]}: {error.strerror}. Install it in this "
                    f"environment, or correct command ({shlex.join(self._command)})."
                ) from None
        self._watcher = subprocess.Popen(
            [sys.executable, "-S", "-c", _WATCH, str(self._process.pid)], stdin=subprocess.PIPE, start_new_session=True
        )

    def _wait(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + self._ready_within
        while not is_healthy(self.url):
            code = self._process.poll()
            if code is not None:
                raise ConfigError(
                    f"the server ended with exit code {code} before it was ready: {shlex.join(self._command)}."
                    f"{self.tail()}"
                )
            if time.monotonic() > deadline:
                raise RunFailed(
                    f"the server was not ready after {self._ready_within:g} seconds (ready_within): "
                    f"{shlex.join(self._command)}.{self.tail()}"
                )
            time.sleep(_PAUSE)


def _program(name: str) -> str:
    """Return the path of a program: that of this Python's environment, also where it is not activated."""
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return shutil.which(name, path=places) or name


def free_port() -> int:
    """Return a port of this machine that nobody listens on at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def is_healthy(url: str) -> bool:
    """Say whether the server at an address is ready: by ``/health`` beside its ``/v1``, or by its list of models."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    above = parts.path.rstrip("/").removesuffix("/v1")
    return any(_is_fine(parts.hostname, parts.port, path) for path in (f"{above}/health", f"{parts.path}/models"))


def _is_fine(host: str, port: int | None, path: str) -> bool:
    connection = http.client.HTTPConnection(host, port, timeout=_LOOK)
    try:
        connection.request("GET", path)
        return connection.getresponse().status in (200, 401, 403)  # one that asks for its key is up
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Ask all processes of a group to end, and kill what is left of it."""
    for sign, patience in ((signal.SIGTERM, _GRACE), (signal.SIGKILL, _GRACE)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        deadline = time.monotonic() + patience
        while _group_lives(process) and time.monotonic() < deadline:
            time.sleep(0.02)
        if not _group_lives(process):
            return


def _group_lives(process: subprocess.Popen[bytes]) -> bool:
    process.poll()
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    states = _states(process.pid)
    return not states or any(state not in "ZX" for state in states)


def _states(group: int) -> list[str]:
    """Return the states of the processes of a group, where ``/proc`` tells.

    One that has ended stays in its group until its parent looks, and in some containers nobody ever does.
    """
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        if fields[2] == str(group):
            found.append(fields[0])
    return found


def _without_secrets(text: str, environment: Mapping[str, str], key: str | None) -> str:
    for name, value in environment.items():
        if name == key or (_SECRET.search(name) and len(value) >= 8):
            text = text.replace(value, f"[{name}]")
    return text
