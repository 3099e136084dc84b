"""The engine behind an OpenAI-compatible server: a `Talker` over one endpoint or several.

One ask sends at most ``1 + retries`` requests, and one more for each feature that the server turns out not to take
(``response_format``, ``n``, ``seed``, the old name of the token limit), which is remembered.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Self

from windvane.engines import chat_api
from windvane.engines.chat_api import Dialect
from windvane.engines.endpoints import Endpoint, Endpoints
from windvane.engines.metering import Meter, Unmetered
from windvane.engines.protocols import ChatRequest, Reply
from windvane.engines.request_key import conversation_key
from windvane.engines.server_errors import Trouble, gave_up, missing_key, trouble_at_start
from windvane.engines.server_settings import ServerSettings
from windvane.engines.sharing import Shared
from windvane.errors import ConfigError, NoReply, RunFailed
from windvane.seeds import derive_seed
from windvane.types import Message, Sampling

if TYPE_CHECKING:
    from windvane.engines.http_client import HttpClient

__all__ = ["ServerSettings", "ServerTalker"]

_LONGEST_BACKOFF = 30.0
"""Seconds."""
_REFUSALS = 5
"""So many requests refused as bad, and none answered: it is not the requests."""


class _Again(NamedTuple):
    """No reply yet: the request has to be sent by itself."""

    charged: bool | None = None
    """Whether what was sent for it may have been charged for; None where nothing was."""
    failures: int = 0
    empty: bool = False
    """Whether there was a reply and it said nothing."""


_Results = list[Reply | _Again]


class _Member(NamedTuple):
    request: ChatRequest
    meter: Meter


class _Group:
    """Samples of one conversation that are asked for together: consecutive ones.

    Servers that take a seed use seed, seed + 1, … for them (vLLM), so each is what it would have been by itself.
    """

    def __init__(self) -> None:
        self.members: list[_Member] = []
        self.work: Shared[_Results] | None = None

    def takes(self, request: ChatRequest, limit: int) -> bool:
        """Whether one more may join."""
        if self.work is None or not self.work.open or not 0 < len(self.members) < limit:
            return False
        return request.sample == self.members[0].request.sample + len(self.members)


@dataclass
class _Course:
    """How one exchange goes."""

    dialect: Dialect
    charged: bool | None
    """Whether the last request may have been charged for; None before the first."""
    failures: int
    empty: bool
    number: int
    """Of the ask, for the jitter."""
    answered: int
    """Requests that this server had answered before."""


class ServerTalker:
    """A `Talker` over an OpenAI-compatible server. Use it with ``async with``, or `close` it in its event loop.

    Nothing shows the key, neither a message nor a ``repr``.
    """

    def __init__(
        self,
        settings: ServerSettings,
        *,
        urls: Sequence[str] = (),
        seed: int = 0,
        log: Callable[[], str] | None = None,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        """Read the key from the environment; connect to nothing yet.

        `urls` stand in for those of the settings, `seed` is that of the jitter between retries, and `log` returns what
        the server itself said last, for the message when it is gone. Raises `ConfigError` where the key is missing.
        """
        self.settings = settings
        self._seed = seed
        self._log = log
        self._key = _Secret(_read_key(settings, environment))
        self._endpoints = Endpoints(urls or settings.urls, settings.concurrency)
        self._client: HttpClient | None = None
        self._dialect = Dialect()
        self._groups: dict[str, _Group] = {}
        self._asked = self._answered = self._refused = 0
        self._gone = False
        """Nobody was there for the last ask that failed: until a reply comes, others try once."""

    @property
    def name(self) -> str:
        """The model, and the settings that change what it says."""
        return self.settings.reply_name

    @property
    def urls(self) -> tuple[str, ...]:
        """Where it asks."""
        return tuple(endpoint.url for endpoint in self._endpoints.all)

    @property
    def requests_sent(self) -> int:
        """Requests so far, the failed ones too; without those of `check`."""
        return sum(endpoint.sent for endpoint in self._endpoints.all)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections of this event loop; a later request opens new ones."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def check(self) -> None:
        """Find out whether every endpoint is there, takes the key and has the model, before anything expensive.

        Costs nothing where the endpoint lists its models and this one among them; else a request of a few tokens.
        Raises `ConfigError`.
        """
        for endpoint in self._endpoints.all:
            found = await self._http().models(endpoint.url)
            if isinstance(found, Trouble):
                if found.unreachable or found.charged or found.status in (401, 403):
                    raise trouble_at_start(found, endpoint.url, self.settings)
                if found.status in (429, 503):
                    continue  # it is busy, or not quite up; the first ask has the patience for that
                found = ()
            if self.settings.model not in found:
                await self._probe(endpoint, found)

    async def _probe(self, endpoint: Endpoint, models: Sequence[str]) -> None:
        request = ChatRequest((Message(role="user", content="Hello"),), Sampling(max_new_tokens=16))
        dialect: Dialect | None = self._dialect
        while dialect is not None:
            body = chat_api.request_body(request, 1, self.settings, dialect)
            sent = await self._http().chat(endpoint.url, body)
            if isinstance(sent, Trouble) and sent.lost:  # a server that failed to list its models may hang up after it
                sent = await self._http().chat(endpoint.url, body)
            if not isinstance(sent, Trouble) or not (sent.decisive or sent.unreachable):
                return
            dialect = chat_api.plainer(dialect, body, sent.why) if sent.refused else None
        assert isinstance(sent, Trouble)
        raise trouble_at_start(sent, endpoint.url, self.settings, models)

    async def ask(self, request: ChatRequest) -> Reply:
        """Return the reply; see `Talker.ask`."""
        return await self.ask_metered(request, Unmetered())

    async def ask_metered(self, request: ChatRequest, meter: Meter) -> Reply:
        """Return the reply, telling `meter` before each request but the first.

        Consecutive samples of one conversation that are asked for at once are one request. A finished reply
        without a word is asked for once more, since a failing server may send one; if it comes again it is returned.
        """
        self._asked += 1
        member = _Member(request, meter)
        result: Reply | _Again = _Again()
        if self._dialect.many and self.settings.samples_per_request > 1:
            group = self._join(member)
            place = len(group.members) - 1
            assert group.work is not None
            result = (await group.work.result())[place]
        while isinstance(result, _Again):
            (result,) = await self._exchange([member], result)
        return result

    def _join(self, member: _Member) -> _Group:
        key = conversation_key(member.request)
        group = self._groups.get(key)
        if group is None or not group.takes(member.request, self.settings.samples_per_request):
            group = self._groups[key] = _Group()
            group.work = Shared(self._together(key, group))
        group.members.append(member)
        return group

    async def _together(self, key: str, group: _Group) -> _Results:
        """Ask for what has come together: a task begins after all that was ready before it."""
        if self._groups.get(key) is group:
            del self._groups[key]
        return await self._exchange(group.members, _Again())

    async def _exchange(self, members: Sequence[_Member], so_far: _Again) -> _Results:
        """Send one request for all members until it is answered; for each the reply, or how it goes on alone."""
        course = _Course(self._dialect, *so_far, number=self._asked, answered=self._answered)
        while True:
            if course.failures:
                await asyncio.sleep(self._pause(course.number, course.failures))
            if course.charged is not None:
                await members[0].meter.again(charged=course.charged)
            course.dialect = course.dialect.narrowed(self._dialect)
            body = chat_api.request_body(members[0].request, len(members), self.settings, course.dialect)
            sent = await self._send(body, course.failures)
            read = sent if isinstance(sent, Trouble) else self._read(sent, members, course)
            results = self._after(read, members, body, course) if isinstance(read, Trouble) else read
            if results is not None:
                return results

    def _read(self, content: bytes, members: Sequence[_Member], course: _Course) -> _Results | Trouble:
        """Return what the body of a reply says for each member."""
        try:
            replies = chat_api.read_replies(content, members[0].request, len(members))
        except chat_api.Unreadable as error:
            return Trouble(f"its reply cannot be read: {self._key.hidden(str(error))}", charged=True)
        ignored = len(replies) < len(members)
        self._dialect = self._dialect.narrowed(course.dialect._replace(many=course.dialect.many and not ignored))
        self._answered, self._gone = self._answered + 1, False
        once_more = not course.empty and course.failures < self.settings.retries
        results: _Results = [
            _Again(True, course.failures + 1, empty=True) if once_more and _says_nothing(reply) else reply
            for reply in replies
        ]
        return [*results, *[_Again()] * (len(members) - len(results))]

    def _after(
        self, trouble: Trouble, members: Sequence[_Member], body: dict[str, object], course: _Course
    ) -> _Results | None:
        """Return how each member goes on after a request that was not answered; None to send it again.

        Members are parted after a failure that may have been charged for: each then makes room for itself alone.
        Raises what there is to say when it is no use to go on.
        """
        course.charged = trouble.charged
        simpler = chat_api.plainer(course.dialect, body, trouble.why) if trouble.refused else None
        if simpler is not None and len(members) > 1 and not simpler.many:
            self._dialect = self._dialect.narrowed(simpler)
            return [_Again(False, course.failures), *[_Again(None, course.failures)] * (len(members) - 1)]
        if simpler is not None:
            course.dialect = simpler
            return None
        course.failures += 1
        if trouble.decisive or course.failures > (0 if self._gone else self.settings.retries):
            for member in () if trouble.charged else members:
                member.meter.uncharged()
            raise self._given_up(trouble, course)
        return [_Again(True, course.failures)] * len(members) if trouble.charged and len(members) > 1 else None

    async def _send(self, body: dict[str, object], failures: int) -> bytes | Trouble:
        endpoint = await self._endpoints.take()
        try:
            sent = await self._http().chat(endpoint.url, body)
            if isinstance(sent, Trouble) and sent.unreachable:
                endpoint.missed += 1
                self._endpoints.rest(endpoint, self._longest_pause(failures + 1) / 2)
            else:
                endpoint.missed = 0
            if isinstance(sent, Trouble) and sent.rest is not None:
                self._endpoints.rest(endpoint, sent.rest)
            return sent
        finally:
            self._endpoints.give_back(endpoint)

    def _http(self) -> HttpClient:
        """Return the client of the running event loop; connections cannot move from one to another."""
        from windvane.engines.http_client import HttpClient  # takes half a second: not before it is needed

        if self._client is None or not self._client.usable:
            self._client = HttpClient(self.settings, self._key.value)
        return self._client

    def _longest_pause(self, failures: int) -> float:
        return min(_LONGEST_BACKOFF, self.settings.backoff * 2.0 ** (failures - 1))

    def _pause(self, number: int, failures: int) -> float:
        """Return how long to wait after so many failures: from half of the backoff to all of it."""
        jitter = random.Random(derive_seed(self._seed, "retry", number, failures)).uniform(0.5, 1.0)
        return jitter * self._longest_pause(failures)

    def _given_up(self, trouble: Trouble, course: _Course) -> ConfigError | RunFailed:
        """Say what was wrong: with this request, with the server, or with what was said about it."""
        kind: type[ConfigError | RunFailed] = RunFailed
        if trouble.refused:
            self._refused += 1
            kind = NoReply if self._answered or self._refused < _REFUSALS else ConfigError
        elif trouble.decisive:
            kind = ConfigError if trouble.wrong_settings and not self._answered else RunFailed
        elif self._answered > course.answered:
            kind = NoReply
        else:
            self._gone = True
        where = ", ".join(self.urls)
        log = self._log() if self._log is not None and kind is RunFailed else ""
        return gave_up(trouble, course.failures, f"{where} ({self.settings.model})", kind=kind, log=log)


def _says_nothing(reply: Reply) -> bool:
    """Say whether a reply is empty without having been cut off."""
    return not reply.text.strip() and reply.finish == "stop"


def _read_key(settings: ServerSettings, environment: Mapping[str, str]) -> str | None:
    if settings.api_key_env is None:
        return None
    key = environment.get(settings.api_key_env, "").strip()
    if not key:
        raise missing_key(settings.api_key_env)
    return key


class _Secret:
    """Holds a key and does not show it."""

    def __init__(self, value: str | None) -> None:
        self.value = value

    def hidden(self, text: str) -> str:
        """Return a text without the key."""
        return text.replace(self.value, "[key]") if self.value else text

    def __repr__(self) -> str:
        return "[key]"
