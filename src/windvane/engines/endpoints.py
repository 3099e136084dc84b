"""Several endpoints of one model: who gets the next request, how many at once, and who is left alone for a while."""

import asyncio
from collections import deque
from collections.abc import Sequence

_TURNS = 3
"""Turns of the event loop that a reply takes to whoever asked for it, by way of tasks that share it."""


class Endpoint:
    """One address, and what it is doing."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.in_flight = 0
        self.sent = 0
        """Requests so far."""
        self.missed = 0
        """Times in a row that nobody was there."""
        self.rests_until = 0.0
        """On the event loop's clock; no request is sent before."""


class Endpoints:
    """Hands out the endpoint with the fewest requests in flight; first come, first served where all are busy.

    One where nobody was there gets a single request now and then, as long as there are others.
    """

    def __init__(self, urls: Sequence[str], concurrency: int) -> None:
        self.all = tuple(map(Endpoint, urls))
        self._concurrency = concurrency
        self._waiting: deque[asyncio.Future[Endpoint]] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def take(self) -> Endpoint:
        """Wait for a place at an endpoint; it must be given back."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # what was in flight in an earlier one has ended with it, and clocks differ
            self._loop = loop
            for endpoint in self.all:
                endpoint.in_flight, endpoint.rests_until = 0, 0.0
        place: asyncio.Future[Endpoint] = loop.create_future()
        self._waiting.append(place)
        self._serve(loop)
        try:
            return await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self.give_back(place.result())
            raise

    def give_back(self, endpoint: Endpoint) -> None:
        """End a request: a few turns of the event loop later, when its reply is with whoever asked for it.

        So a journal above has written the reply before the next request goes out, and a kill loses no more replies
        than there are places.
        """
        self._after(_TURNS, asyncio.get_running_loop(), endpoint)

    def _after(self, turns: int, loop: asyncio.AbstractEventLoop, endpoint: Endpoint) -> None:
        if turns:
            loop.call_soon(self._after, turns - 1, loop, endpoint)
        elif loop is self._loop:
            endpoint.in_flight -= 1
            self._serve(loop)

    def rest(self, endpoint: Endpoint, seconds: float) -> None:
        """Send nothing to an endpoint for a while."""
        endpoint.rests_until = max(endpoint.rests_until, asyncio.get_running_loop().time() + seconds)

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        """Give places to those who wait, as long as there are both."""
        while self._waiting:
            if self._waiting[0].done() or self._waiting[0].get_loop() is not loop:
                self._waiting.popleft()  # it was cancelled, or died with its event loop
                continue
            free = [endpoint for endpoint in self.all if endpoint.in_flight < self._room(endpoint)]
            awake = [endpoint for endpoint in free if endpoint.rests_until <= loop.time()]
            if not awake:
                if free:  # whoever is in flight will call again, but a rest ends by itself
                    loop.call_at(min(endpoint.rests_until for endpoint in free) + 0.001, self._serve, loop)
                return
            chosen = min(awake, key=lambda endpoint: (endpoint.missed > 0, endpoint.in_flight, endpoint.sent))
            chosen.in_flight += 1
            chosen.sent += 1
            self._waiting.popleft().set_result(chosen)

    def _room(self, endpoint: Endpoint) -> int:
        others = endpoint.missed and any(not other.missed for other in self.all)
        return 1 if others else self._concurrency
