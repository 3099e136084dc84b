"""An engine that follows a script: for tests, for documentation, and for trying a recipe out without a model."""

from collections.abc import Callable, Sequence

from windvane.engines.protocols import Advance, no_progress
from windvane.errors import DataError, RunFailed
from windvane.types import Completion, Logprob, Prompt, Sampling, ScoreRequest


class ScriptedEngine:
    """A `Generator` and a `Scorer` whose answers are Python functions or a list.

    `answers` is a function of the prompt, or texts that are handed out in order. Token ids are the bytes of the text, 3
    and up, and an end token 2 after a finished one; longer than `max_new_tokens` bytes, it is cut off as a model's
    would be. `logprob` gives the log-probability of a response in nats; without it, each token costs one nat.
    """

    END = 2
    FIRST_BYTE = 3

    def __init__(
        self,
        answers: Callable[[Prompt], str] | Sequence[str] = (),
        *,
        logprob: Callable[[ScoreRequest, Completion], float] | None = None,
    ) -> None:
        self._answers = answers if callable(answers) else None
        self._script = [] if callable(answers) else list(answers)
        self._logprob = logprob
        self.prompts: list[Prompt] = []
        """Every prompt so far, in order."""
        self.tokens_generated = 0
        self.tokens_scored = 0

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, advance: Advance = no_progress
    ) -> list[Completion]:
        """Return what the script says; raises `RunFailed` when a list of texts has run out."""
        completions = []
        for prompt in prompts:
            self.prompts.append(prompt)
            completions.append(self._completion(self._next(prompt), sampling.max_new_tokens))
            advance(1)
        return completions

    def score(self, requests: Sequence[ScoreRequest], *, advance: Advance = no_progress) -> list[tuple[Logprob, ...]]:
        """Return what the script says; raises `DataError` for an empty response."""
        scores = []
        for request in requests:
            scores.append(tuple(self._score(request, response) for response in request.responses))
            advance(1)
        return scores

    def _next(self, prompt: Prompt) -> str:
        if self._answers is not None:
            return self._answers(prompt)
        if len(self.prompts) > len(self._script):
            raise RunFailed(f"The script has {len(self._script)} answers and was asked for one more.")
        return self._script[len(self.prompts) - 1]

    def _completion(self, text: str, room: int) -> Completion:
        ids = [self.FIRST_BYTE + byte for byte in text.encode()]
        finished = len(ids) < room
        ids = [*ids, self.END] if finished else ids[:room]
        self.tokens_generated += len(ids)
        kept = bytes(token - self.FIRST_BYTE for token in ids if token != self.END)
        return Completion(
            text=kept.decode(errors="ignore"), token_ids=tuple(ids), finish="stop" if finished else "length"
        )

    def _score(self, request: ScoreRequest, response: Completion) -> Logprob:
        tokens = len(response.token_ids)
        if not tokens:
            raise DataError("A response without tokens has no log-probability.")
        self.tokens_scored += tokens
        total = -float(tokens) if self._logprob is None else self._logprob(request, response)
        return Logprob(sum=total, tokens=tokens)
