"""A local judge without JSON: how probable the model finds each digit from 1 to 5 after a request for one.

Any local model can be asked in this way: it need not write a verdict, and its uncertainty is part of the score. Whether
the score means anything is another matter: a model that cannot tell good answers from bad ones answers alike on both
scales, and all its scores lie close to 3. SmolLM2-135M is such a model.
"""

import asyncio
import functools
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import Field

from windvane.config import Settings
from windvane.engines.protocols import Scorer
from windvane.errors import ModelError
from windvane.judging.aspects import N_DEFAULT, Aspect, named, read_aspects
from windvane.judging.prompts import digit_messages
from windvane.judging.records import AspectChoice, AspectJudgement, AspectScore, summed_up
from windvane.types import Completion, Logprob, Query, ScoreRequest

DIGITS = ("1", "2", "3", "4", "5")

Encode = Callable[[str], Sequence[int]]
"""Returns the token ids of a response that begins with a text, without an end token."""


class DigitJudgeSettings(Settings):
    """A local judge that is asked for one digit an aspect."""

    type: Literal["digits"] = "digits"
    """digits: read a local model's probabilities of the digits 1 to 5."""
    aspects: Path | None = None
    """A YAML file with a list `aspects`, each with a name, a definition and what earns 1, 3 and 5; null takes
    windvane's 14."""
    names: tuple[str, ...] | None = Field(default=None, min_length=1)
    """What every answer is scored on; null is the first three of the list (of windvane's own: Helpfulness, Clarity,
    Factuality). Each costs two passes of the model."""
    least_mass: float = Field(default=1e-4, ge=0, lt=1)
    """Probability that must fall on the five digits together, on both scales; below it the model was not about to write
    a digit, what is left says nothing, and the aspect is unscored."""


class Expectation(NamedTuple):
    """What a model makes of one scale."""

    digit: float
    """Expected digit, 1 to 5, given that a digit is written."""
    mass: float
    """Probability that one of the digits is written at all."""


def expectation(logprobs: Sequence[float]) -> Expectation:
    """Return the expected digit: ``E = Σ d·p(d) / Σ p(d)``, of the log-probabilities (nats) of 1 to 5 in order."""
    highest = max(logprobs)
    weights = [math.exp(logprob - highest) for logprob in logprobs]
    digit = sum(number * weight for number, weight in enumerate(weights, start=1)) / sum(weights)
    return Expectation(digit, math.exp(highest) * sum(weights))


class _Waiting(NamedTuple):
    query: Query
    response: str
    verdict: "asyncio.Future[AspectJudgement]"


class DigitJudge:
    """Scores answers by the expected digit of a local model, on fixed aspects.

    Each aspect is asked for twice, once with 5 as the best and once with 1: ``score = (E₅ + 6 - E₁) / 2``. A model's
    liking for one digit, or for one end of the scale, raises one of the two as much as it lowers the other.
    A digit is scored as a response, so it may be several tokens.

    Answers that wait while a batch is computed are the next batch.
    """

    def __init__(self, scorer: Scorer, encode: Encode, settings: DigitJudgeSettings | None = None) -> None:
        """Raise `ConfigError` for an aspect file that cannot be used and for a name that is not in it."""
        self._scorer = scorer
        self._encode = encode
        self._settings = settings or DigitJudgeSettings()
        aspects = read_aspects(self._settings.aspects)
        self._aspects = named(self._settings.names, aspects) if self._settings.names else aspects[:N_DEFAULT]
        self._digits: tuple[Completion, ...] | None = None
        self._waiting: list[_Waiting] = []
        self._under_way = False

    @property
    def name(self) -> str:
        """What tells this judge's verdicts from another's."""
        return "digits"

    async def aspects_for(self, query: Query) -> AspectChoice:
        """Return the aspects that every answer is scored on."""
        return AspectChoice(query_id=query.id, aspects=self._aspects, origin="fixed")

    async def judge(self, query: Query, response: str) -> AspectJudgement:
        """Return the scores of one answer, computed in a thread with all other answers that wait; see `judge_all`."""
        loop = asyncio.get_running_loop()
        verdict: asyncio.Future[AspectJudgement] = loop.create_future()
        self._waiting.append(_Waiting(query, response, verdict))
        loop.call_soon(self._start)  # not at once: whoever asks in the same breath is in the same batch
        return await verdict

    def judge_all(self, answers: Iterable[tuple[Query, str]]) -> list[AspectJudgement]:
        """Return the scores of many answers, in order; raises `ModelError` where the tokenizer has no digits."""
        todo = list(answers)
        digits = self._responses()
        scores = iter(
            self._scorer.score(
                [
                    ScoreRequest(digit_messages(query, response, aspect, rising=rising), digits)
                    for query, response in todo
                    for aspect in self._aspects
                    for rising in (True, False)
                ]
            )
        )
        return [
            summed_up(query.id, [self._score(aspect, next(scores), next(scores)) for aspect in self._aspects])
            for query, _ in todo
        ]

    def _start(self) -> None:
        """Begin with the next batch, unless one is under way: the model does one thing at a time."""
        batch = [answer for answer in self._waiting if not answer.verdict.done()]  # whoever waited may be cancelled
        if self._under_way or not batch:
            return
        self._waiting, self._under_way = [], True
        todo = [(answer.query, answer.response) for answer in batch]
        work = asyncio.get_running_loop().run_in_executor(None, self.judge_all, todo)
        work.add_done_callback(functools.partial(self._settle, batch))

    def _settle(self, batch: Sequence[_Waiting], work: "asyncio.Future[list[AspectJudgement]]") -> None:
        """Give everybody who waits their verdict, or the failure that there is instead."""
        self._under_way = False
        failure = None if work.cancelled() else work.exception()
        for place, answer in enumerate(batch):
            if answer.verdict.done():
                continue
            if work.cancelled():
                answer.verdict.cancel()
            elif failure is not None:
                answer.verdict.set_exception(failure)
            else:
                answer.verdict.set_result(work.result()[place])
        self._start()

    def _score(self, aspect: Aspect, rising: Sequence[Logprob], falling: Sequence[Logprob]) -> AspectScore:
        up, down = (expectation([logprob.sum for logprob in side]) for side in (rising, falling))
        mass = min(up.mass, down.mass)
        if mass < self._settings.least_mass:
            why = f"only {mass:.2g} of the probability is on a digit from 1 to 5"
            return AspectScore(aspect=aspect.name, score=None, unscored=why)
        reason = f"expected {up.digit:.2f} where 5 is best, {down.digit:.2f} where 1 is best"
        return AspectScore(aspect=aspect.name, score=(up.digit + 6 - down.digit) / 2, reason=reason)

    def _responses(self) -> tuple[Completion, ...]:
        """Return the five digits as responses that go on: a model may write "4", or "4." and more."""
        if self._digits is None:
            ids = [tuple(self._encode(digit)) for digit in DIGITS]
            if not all(ids) or len(set(ids)) < len(ids):
                raise ModelError(
                    f"The tokenizer does not tell the digits 1 to 5 apart: it writes them as {ids}. "
                    "Judge with another model, or with rules."
                )
            self._digits = tuple(
                Completion(text=digit, token_ids=row, finish="length") for digit, row in zip(DIGITS, ids, strict=True)
            )
        return self._digits
