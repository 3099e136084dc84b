"""The client of `openai`, as far as it is needed: a body goes out, bytes or one kind of trouble come back.

Its own retries are off, so that every request is counted; replies are read by `windvane.engines.chat_api`, which takes
what servers really send. Errors of the transport below the client are told by name: which library it is has changed.
"""

import asyncio
import email.utils
import ipaddress
import json
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import openai

from windvane.engines.chat_api import complaint
from windvane.engines.server_errors import Trouble
from windvane.engines.server_settings import ServerSettings

_CONNECT = 10.0
"""Seconds for a connection, which a busy server has no part in."""
_LOOK = 30.0
"""Seconds for the list of models."""
_NO_KEY = "none"
"""The client insists on a key; servers without one ignore it."""
_AGAIN = (408, 409, 425, 429)
_SPENT = ("insufficient_quota", "billing_not_active")
"""Codes of a 429 that waiting does not help."""
Call = Callable[[openai.AsyncOpenAI], Awaitable[Any]]


class HttpClient:
    """Connections of one event loop to any number of addresses."""

    def __init__(self, settings: ServerSettings, key: str | None) -> None:
        self._settings = settings
        self._key = key
        self._loop = asyncio.get_running_loop()
        self._clients: dict[str, openai.AsyncOpenAI] = {}

    def __repr__(self) -> str:
        return f"HttpClient({', '.join(self._clients)})"

    @property
    def usable(self) -> bool:
        """Whether this is the event loop that the connections belong to."""
        return self._loop is asyncio.get_running_loop()

    async def close(self) -> None:
        """Close all connections."""
        for client in self._clients.values():
            await client.close()

    async def chat(self, url: str, body: Mapping[str, object]) -> bytes | Trouble:
        """Send a body to ``/chat/completions`` and return that of the reply."""
        # Sent as extra fields, so that what the client knows of the format does not limit what a server may take.
        rest = {name: value for name, value in body.items() if name not in ("model", "messages")}
        messages: Any = body["messages"]

        async def create(client: openai.AsyncOpenAI) -> Any:
            return await client.chat.completions.with_raw_response.create(
                model=str(body["model"]), messages=messages, extra_body=rest
            )

        return await self._content(url, create, self._settings.timeout)

    async def models(self, url: str) -> tuple[str, ...] | Trouble:
        """Return the names of the models that an endpoint lists; none where the list cannot be read."""

        async def listing(client: openai.AsyncOpenAI) -> Any:
            return await client.models.with_raw_response.list()

        content = await self._content(url, listing, min(_LOOK, self._settings.timeout))
        if isinstance(content, Trouble):
            return content
        try:
            return tuple(str(entry["id"]) for entry in json.loads(content)["data"])
        except (ValueError, KeyError, TypeError):
            return ()

    async def _content(self, url: str, call: Call, seconds: float) -> bytes | Trouble:
        client = self._client(url)
        try:
            async with asyncio.timeout(seconds):  # of the whole; the client's own is for each pause in it
                reply = await call(client)
                content = reply.content
                assert isinstance(content, bytes)
                return content
        except (TimeoutError, openai.APITimeoutError) as error:
            if type(error.__cause__).__name__ == "ConnectTimeout":
                return Trouble(f"no connection within {_CONNECT:g} seconds", unreachable=True)
            return Trouble(f"no reply within {seconds:g} seconds", charged=True)
        except openai.APIStatusError as error:
            return self._status(error)
        except openai.APIConnectionError as error:
            return self._connection(error.__cause__ or error)

    def _status(self, error: openai.APIStatusError) -> Trouble:
        status = error.status_code
        said = self._hidden(complaint(error.response.content))
        why = f"HTTP {status}{f': {said}' if said else ''}".rstrip(".")
        if status not in _AGAIN and status < 500:
            return Trouble(why, status, decisive=True)
        rest = retry_after(error.response.headers)
        if error.code in _SPENT:
            return Trouble(why, status, decisive=True)
        if rest is not None and rest > self._settings.max_wait:
            why = f"{why} (it asks to wait for {rest:.0f} seconds, and max_wait is {self._settings.max_wait:g})"
            return Trouble(why, status, decisive=True)
        return Trouble(why, status, rest=rest)

    def _connection(self, cause: BaseException) -> Trouble:
        said = self._hidden(str(cause)) or type(cause).__name__
        if type(cause).__name__ == "ConnectError":
            return Trouble(f"nobody can be reached there ({said})", unreachable=True)
        return Trouble(f"the connection was lost ({said})", charged=True, lost=True)

    def _hidden(self, text: str) -> str:
        return text.replace(self._key, "[key]") if self._key else text

    def _client(self, url: str) -> openai.AsyncOpenAI:
        if url not in self._clients:
            self._clients[url] = self._connected(url)
        return self._clients[url]

    def _connected(self, url: str) -> openai.AsyncOpenAI:
        host = urlsplit(url).hostname or ""
        client = openai.AsyncOpenAI(
            api_key=self._key or _NO_KEY,
            base_url=url,
            max_retries=0,
            timeout=openai.Timeout(self._settings.timeout, connect=min(_CONNECT, self._settings.timeout)),
            # A server on this machine is never behind the proxy that the environment may name.
            http_client=openai.DefaultAsyncHttpxClient(trust_env=False) if _is_here(host) else None,
        )
        if not host.endswith("openai.com"):
            client.organization = client.project = None  # from the environment, and nobody else's business
        _ = client.chat.completions.with_raw_response, client.models  # imported late, and not on a request's time
        return client


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a server asks to wait: a number of them, or until a date; None where it does not say."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) / unit
        except (KeyError, ValueError):
            continue
        if math.isfinite(seconds):
            return max(0.0, seconds)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(headers["retry-after"]).timestamp() - time.time())
    except (KeyError, ValueError, TypeError):
        return None
