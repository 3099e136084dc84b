"""Where text and log-probabilities come from: two small contracts."""

from collections.abc import Callable, Sequence
from typing import Protocol

from windvane.types import Completion, Logprob, Prompt, Sampling, ScoreRequest

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
