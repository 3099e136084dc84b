"""What can be reached: the model hub, and servers on this machine. No check waits longer than it was told to."""

import http.client
import json
import os
import queue
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from functools import partial
from typing import NoReturn, TypeVar

from windvane.doctor.findings import Finding

PORTS: Mapping[int, str] = {8000: "vLLM", 11434: "Ollama", 8080: "llama.cpp"}
"""Usual ports of servers that speak OpenAI's protocol."""
UNREACHED = (OSError, ValueError, http.client.HTTPException)
"""How a look into the network fails: nobody there, too slow, or somebody who speaks otherwise."""
_YES = frozenset({"1", "ON", "YES", "TRUE"})
_MOST_BYTES = 1 << 20
_REACHED = TypeVar("_REACHED")


def offline_variable() -> str | None:
    """Return the environment variable that forbids the hub, or None."""
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return next((name for name in names if os.environ.get(name, "").upper() in _YES), None)


def hub(timeout: float) -> Finding:
    """Say whether the model hub answers within `timeout` seconds."""
    if (variable := offline_variable()) is not None:
        advice = f"unset {variable} to load models by hub name"
        return Finding(name="model hub", value=f"not asked: {variable} is set", advice=advice)
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    try:
        status = within(timeout, partial(_head, endpoint, timeout))
    except UNREACHED as error:
        reason = getattr(error, "reason", error)  # urllib wraps what went wrong
        return Finding(
            name="model hub",
            value=f"{endpoint} does not answer ({reason})",
            verdict="warn",
            advice="models by hub name cannot be fetched: use a folder or smollm2-135m, set HF_ENDPOINT to a mirror, or"
            " HF_HUB_OFFLINE=1 to stop waiting for it",
        )
    if status >= 500:
        return Finding(name="model hub", value=f"{endpoint} answers {status}", verdict="warn", advice="try again later")
    return Finding(name="model hub", value=f"{endpoint} answers")


def _head(url: str, timeout: float) -> int:
    request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "windvane-doctor"})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:  # it answers, if only to refuse
        return error.code


def servers(timeout: float, ports: Mapping[int, str] = PORTS) -> Finding:
    """Say which servers with OpenAI's protocol listen on the usual ports of this machine, and what they serve."""
    found = []
    for port, usual in ports.items():
        try:
            models = within(timeout, partial(_served, port, timeout))
        except UNREACHED:
            continue
        found.append(f"127.0.0.1:{port} ({usual}'s port) serves {', '.join(models) or 'no model yet'}")
    if found:
        return Finding(name="local servers", value="; ".join(found))
    tried = ", ".join(f"{port} ({usual})" for port, usual in ports.items())
    return Finding(name="local servers", value=f"none on the ports {tried}; none is needed")


def _served(port: int, timeout: float) -> list[str]:
    """The models that a server lists; raises where nothing listens, or something that speaks otherwise."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)  # a proxy has no business here
    try:
        connection.request("GET", "/v1/models")
        response = connection.getresponse()
        body = response.read(_MOST_BYTES)
    finally:
        connection.close()
    try:
        reply = json.loads(body)
    except RecursionError as error:  # a reply nested to hurt; no RuntimeError may leave the thread of `within`
        raise ValueError("nested too deeply") from error
    if response.status != 200 or not isinstance(reply, dict) or not isinstance(reply.get("data"), list):
        raise ValueError("not the reply of an OpenAI-compatible server")
    return [str(model["id"]) for model in reply["data"] if isinstance(model, dict) and "id" in model]


def within(seconds: float, call: Callable[[], _REACHED]) -> _REACHED:
    """Return what `call` returns, or raise what it raises of `UNREACHED`; TimeoutError after `seconds`.

    It ends in time whatever `call` hangs on: a socket's own timeout leaves out name resolution, which can hang for half
    a minute where there is no network. The thread that hangs is left behind as a daemon.
    """
    results: queue.SimpleQueue[Callable[[], _REACHED]] = queue.SimpleQueue()

    def run() -> None:
        try:
            result = call()
        except UNREACHED as error:
            results.put(partial(_again, error))
        else:
            results.put(lambda: result)

    threading.Thread(target=run, daemon=True).start()
    try:
        outcome = results.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer within {seconds:g} s") from None
    return outcome()


def _again(error: Exception) -> NoReturn:
    raise error
