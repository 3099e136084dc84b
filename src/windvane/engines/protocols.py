"""Where text and log-probabilities come from: three small contracts."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from windvane.types import Completion, Logprob, Message, Prompt, Record, Sampling, ScoreRequest

Advance = Callable[[int], None]
"""Called with the number of requests that have just been finished; drives a progress bar."""


def no_progress(_: int) -> None:
    """Report nothing."""


class Generator(Protocol):
    """Writes text."""

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, advance: Advance = no_progress
    ) -> list[Completion]:
        """Return one completion for each prompt, in the order of the prompts.

        A completion depends on its prompt, its seed and the sampling alone, up to floating-point noise: never on its
        neighbours in the batch. Raises `RunFailed` where a prompt cannot be answered; it never returns fewer.
        """


class Scorer(Protocol):
    """Measures text."""

    def score(self, requests: Sequence[ScoreRequest], *, advance: Advance = no_progress) -> list[tuple[Logprob, ...]]:
        """Return for each request one log-probability for each of its responses, in order.

        The response's token ids are scored as they are: an end-of-sequence token counts where the completion has one.
        Log-probabilities are those of the raw distribution (temperature 1, no top-p). An empty response is an error.
        """


class ChatRequest(NamedTuple):
    """One request to a `Talker`. Two requests that are equal may be answered by one reply."""

    messages: tuple[Message, ...]
    sampling: Sampling
    sample: int = 0
    """Tells several samples of the same conversation apart; the seed where an engine takes one."""
    schema: Mapping[str, Any] | None = None
    """JSON schema that the reply should follow, where the engine can hold it to one; the caller parses leniently."""


class Reply(Record):
    """What a `Talker` said, and what it cost."""

    text: str
    """Without a think block."""
    finish: str
    """``stop``, ``length`` (cut off by the token limit) or what else the engine calls it."""
    prompt_tokens: int
    completion_tokens: int
    estimated: bool = False
    """Whether the tokens are an estimate, since the engine did not say how many there were."""


class Talker(Protocol):
    """Answers one conversation at a time, many at once: what a prompt search is made of."""

    @property
    def name(self) -> str:
        """What tells this engine's replies from another's: part of the key under which they are kept."""

    async def ask(self, request: ChatRequest) -> Reply:
        """Return the reply.

        Raises `RunFailed` where there is none after all retries (`NoReply` where others are answered); it never
        invents one.
        """
