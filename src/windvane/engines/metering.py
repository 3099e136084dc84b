"""What requests cost, and how an engine that asks again says so."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from windvane.engines.protocols import ChatRequest, Reply


@dataclass(frozen=True)
class Usage:
    """Calls and tokens."""

    calls: int = 0
    """Requests sent, the failed ones too."""
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def tokens(self) -> int:
        """Prompt and completion tokens."""
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.calls + other.calls,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
        )

    def __sub__(self, other: "Usage") -> "Usage":
        return self + Usage(-other.calls, -other.prompt_tokens, -other.completion_tokens)

    def times(self, factor: int) -> "Usage":
        """Return this so many times."""
        return Usage(self.calls * factor, self.prompt_tokens * factor, self.completion_tokens * factor)


class Meter(Protocol):
    """Is told before a request is sent once more. The first time was paid for by whoever made the meter."""

    async def again(self, *, charged: bool) -> None:
        """Make room for one more request, in place of one that failed.

        `charged` says whether the failed one may have been charged for: a timeout may, a refusal is not. Raises
        `BudgetSpent` where there is no room; the request must then not be sent.
        """

    def uncharged(self) -> None:
        """The last request failed for good, and was not charged for."""


class Unmetered:
    """A `Meter` for whoever does not count."""

    async def again(self, *, charged: bool) -> None:
        """Let it be sent."""

    def uncharged(self) -> None:
        """Take note of nothing."""


@runtime_checkable
class MeteredTalker(Protocol):
    """A `Talker` that may send a request several times for one reply, and can say when."""

    async def ask_metered(self, request: ChatRequest, meter: Meter) -> Reply:
        """Return the reply as `Talker.ask` does, telling `meter` before each request but the first."""
