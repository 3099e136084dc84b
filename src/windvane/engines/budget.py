"""A limit on calls, tokens and money over all roles of a run, which no run oversteps.

A request is reserved with its upper bound before it is sent, and settled with what it really took. Where it does not
fit beside what is in flight, it waits until something is settled; where it does not fit even without that, it is not
sent.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from pydantic import Field

from windvane.config import Settings
from windvane.engines.metering import MeteredTalker, Usage
from windvane.engines.protocols import ChatRequest, Reply, Talker
from windvane.errors import BudgetSpent, ConfigError

_PER_REQUEST = 128
"""Tokens that a chat template may add by itself, such as a system message of its own."""
_PER_MESSAGE = 16
"""Tokens that a template puts around a message."""
_MILLION = 1_000_000


class Price(Settings):
    """What a role's model costs, in the currency that `money` is in."""

    prompt: float = Field(ge=0)
    """Per million prompt tokens."""
    completion: float = Field(ge=0)
    """Per million tokens that the model writes."""


class BudgetSettings(Settings):
    """The most that a run may take, over all roles and also over an interruption. A limit left out is none."""

    calls: int | None = Field(default=None, ge=1)
    """Requests sent to models, the failed and repeated ones too; replies that are on file already cost none."""
    tokens: int | None = Field(default=None, ge=1)
    """Prompt tokens and written tokens together."""
    money: float | None = Field(default=None, gt=0)
    """In the currency of `prices`."""
    prices: dict[str, Price] = Field(default_factory=dict)
    """Price of each role's model, such as `{judge: {prompt: 0.15, completion: 0.6}}`."""


class Spend(NamedTuple):
    """Calls, tokens and money."""

    calls: int
    tokens: int
    money: float

    def __str__(self) -> str:
        money = f" and {self.money:.4g} of money" if self.money else ""
        return f"{self.calls} calls, {self.tokens} tokens{money}"


class Planned(NamedTuple):
    """A part of a plan: so many requests of one role, each at most so large."""

    role: str
    each: Usage
    """Of one request, with `calls` as many as it may be sent."""
    times: int


def prompt_bound(request: ChatRequest) -> int:
    """Return more tokens than the prompt of a request can take, whatever the tokenizer.

    No token of a byte-level or byte-fallback tokenizer stands for less than a byte. English text takes about a quarter.
    """
    texts = sum(len(message.content.encode(errors="replace")) for message in request.messages)
    schema = 0 if request.schema is None else len(str(dict(request.schema)).encode(errors="replace"))
    return texts + schema + _PER_MESSAGE * len(request.messages) + _PER_REQUEST


class Budget:
    """What a run may still spend, and what it has spent. One for all roles."""

    def __init__(self, settings: BudgetSettings, *, earlier: Mapping[str, Usage] | None = None) -> None:
        """Begin with what the same run spent `earlier`, by role, as the journal of its replies tells."""
        self.settings = settings
        self._settled: dict[str, Usage] = defaultdict(Usage, earlier or {})
        self._reserved: dict[str, Usage] = defaultdict(Usage)
        self._waiting: deque[tuple[str, Usage, asyncio.Future[None]]] = deque()

    @property
    def spent(self) -> Spend:
        """What was really spent so far; what may have been charged for without an answer counts in full."""
        return self._spend([self._settled])

    @property
    def in_flight(self) -> Spend:
        """What the requests in flight may take at most."""
        return self._spend([self._reserved])

    def usage(self) -> dict[str, Usage]:
        """Return what each role has spent."""
        return dict(self._settled)

    def talker(self, role: str, inner: Talker, *, free: bool = False) -> "BudgetTalker":
        """Return a talker whose requests count as a role's; `free` for one that costs no money, such as a local model.

        Raises `ConfigError` where money is limited and the role has no price.
        """
        if self.settings.money is not None and not free and role not in self.settings.prices:
            raise ConfigError(
                f"budget.money is {self.settings.money:g}, but nobody knows what {role} costs: "
                f"set budget.prices.{role} to {{prompt: ..., completion: ...}} per million tokens (0 where it is free)."
            )
        return BudgetTalker(self, role, inner)

    def upper_bound(self, plan: Iterable[Planned]) -> Spend:
        """Return the most that a plan can take: all of it, or what the budget still allows where that is less."""
        planned: dict[str, Usage] = defaultdict(Usage)
        for part in plan:
            planned[part.role] += part.each.times(part.times)
        most, spent = self._spend([planned]), self.spent
        return Spend(
            calls=int(_least(most.calls, self.settings.calls, spent.calls)),
            tokens=int(_least(most.tokens, self.settings.tokens, spent.tokens)),
            money=_least(most.money, self.settings.money, spent.money),
        )

    async def reserve(self, role: str, most: Usage) -> "Reservation":
        """Make room for a request that takes at most this much, waiting for a turn where others hold the room.

        Raises `BudgetSpent` where it cannot fit any more.
        """
        await self._take(role, most)
        return Reservation(self, role, most)

    async def _take(self, role: str, most: Usage) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((role, most, turn))
        self._serve()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._settle(role, most, Usage(calls=most.calls))
            raise

    def _settle(self, role: str, reserved: Usage, real: Usage) -> None:
        """Put what was spent in the place of what was reserved; calls count from the beginning, so they stay."""
        self._reserved[role] -= Usage(0, reserved.prompt_tokens, reserved.completion_tokens)
        self._settled[role] += Usage(0, real.prompt_tokens, real.completion_tokens)
        self._serve()

    def _serve(self) -> None:
        """Give those who wait their room, in the order in which they came, as long as there is some."""
        loop = asyncio.get_running_loop()
        while self._waiting:
            role, most, turn = self._waiting[0]
            if turn.done() or turn.get_loop() is not loop:  # it was cancelled, or died with its event loop
                self._waiting.popleft()
                continue
            if (limit := self._overstepped(role, most, [self._settled])) is not None:
                turn.set_exception(self._spent_error(role, most, limit))
            elif self._overstepped(role, most, [self._settled, self._reserved]) is not None:
                return
            else:
                self._settled[role] += Usage(calls=most.calls)
                self._reserved[role] += Usage(0, most.prompt_tokens, most.completion_tokens)
                turn.set_result(None)
            self._waiting.popleft()

    def _overstepped(self, role: str, more: Usage, ledgers: list[dict[str, Usage]]) -> str | None:
        """Return which limit does not hold when `more` is added to what stands in some ledgers."""
        total = self._spend([*ledgers, {role: more}])
        for name in Spend._fields:
            limit = getattr(self.settings, name)
            if limit is not None and getattr(total, name) > limit:
                return name
        return None

    def _spend(self, ledgers: list[dict[str, Usage]]) -> Spend:
        """Sum up. Money is reckoned from whole tokens each time, so no rounding adds up."""
        calls = tokens = 0
        money = 0.0
        for role in dict.fromkeys(role for ledger in ledgers for role in ledger):
            usage = sum((ledger[role] for ledger in ledgers if role in ledger), Usage())
            calls, tokens = calls + usage.calls, tokens + usage.tokens
            price = self.settings.prices.get(role)
            if price is not None:
                money += (usage.prompt_tokens * price.prompt + usage.completion_tokens * price.completion) / _MILLION
        return Spend(calls, tokens, money)

    def _spent_error(self, role: str, most: Usage, limit: str) -> BudgetSpent:
        wanted = getattr(self._spend([{role: most}]), limit)
        return BudgetSpent(
            f"budget.{limit} is {getattr(self.settings, limit):g}, and {getattr(self.spent, limit):g} of it is spent: "
            f"one more request of {role}, which may take {wanted:g}, was not sent. Raise budget.{limit} to go on."
        )


class Reservation:
    """Room that one request holds; the `Meter` of an engine that may send it again."""

    def __init__(self, budget: Budget, role: str, most: Usage) -> None:
        self._budget, self._role, self._most = budget, role, most
        self._open = True

    async def again(self, *, charged: bool) -> None:
        """Make room for one more request; see `Meter.again`. What may have been charged for counts in full."""
        if charged:
            self.close()
            await self._budget._take(self._role, self._most)
            self._open = True
        else:
            await self._budget._take(self._role, Usage(calls=1))

    def uncharged(self) -> None:
        """Give the tokens back; see `Meter.uncharged`."""
        self._end(Usage())

    def settle(self, reply: Reply) -> None:
        """Count what a reply took; in full where its tokens are only an estimate."""
        if not reply.estimated:
            self._end(Usage(0, reply.prompt_tokens, reply.completion_tokens))
        self.close()

    def close(self) -> None:
        """Count in full what is not settled: nobody knows whether it was charged for."""
        self._end(self._most)

    def _end(self, real: Usage) -> None:
        if self._open:
            self._open = False
            self._budget._settle(self._role, self._most, real)


class BudgetTalker:
    """A `Talker` that asks only for what the budget has room for."""

    def __init__(self, budget: Budget, role: str, inner: Talker) -> None:
        self._budget, self._role, self._inner = budget, role, inner

    @property
    def name(self) -> str:
        """That of the engine: a limit changes no reply."""
        return self._inner.name

    async def ask(self, request: ChatRequest) -> Reply:
        """Return the reply; raises `BudgetSpent` where it does not fit, and what the engine raises."""
        most = Usage(1, prompt_bound(request), request.sampling.max_new_tokens)
        reservation = await self._budget.reserve(self._role, most)
        try:
            if isinstance(self._inner, MeteredTalker):
                reply = await self._inner.ask_metered(request, reservation)
            else:
                reply = await self._inner.ask(request)
            reservation.settle(reply)
            return reply
        finally:
            reservation.close()


def _least(planned: float, limit: float | None, spent: float) -> float:
    return planned if limit is None else min(planned, max(0, limit - spent))
