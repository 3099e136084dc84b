"""The words of the whole project: frozen records that every stage reads and writes.

Notation (of the SSO paper, used in names and docstrings): ``x`` is a query, ``x⁺`` and ``x⁻`` are the query under the
good and the bad system message, ``y⁺ ~ π(·|x⁺)``, ``y⁻ ~ π(·|x⁻)`` and ``yᵒ ~ π(·|x)`` are responses.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """A frozen record that is stored as one JSON line and refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def to_json(self) -> str:
        """Return the record as one line of JSON, the same bytes for the same record."""
        return self.model_dump_json()

    @classmethod
    def from_json(cls, line: str) -> Self:
        """Return the record that `to_json` wrote; raises ``pydantic.ValidationError`` for anything else."""
        return cls.model_validate_json(line)


class Message(Record):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class Query(Record):
    """A prompt that waits for a response: a conversation that ends with a user turn."""

    id: str
    messages: tuple[Message, ...]
    source: str | None = None
    """Where the query comes from; evaluation reports by source."""

    @property
    def text(self) -> str:
        """The last user turn."""
        return self.messages[-1].content


class Principle(Record):
    """The two opposite system messages for one query: ``p⁺`` makes x⁺ of x, ``p⁻`` makes x⁻."""

    query_id: str
    features: tuple[str, ...]
    good: str
    """System message p⁺."""
    bad: str
    """System message p⁻."""
    origin: Literal["bank", "generated", "fallback", "user", "prompt"]
    """``fallback``: a generated principle could not be read, so the bank's text stands in. ``prompt``: a prompt search
    found it."""
    shown: tuple[Message, ...] = ()
    """In-context examples that belong to p⁺: turns that stand between it and the query's own in x⁺."""


class Completion(Record):
    """A response as it was sampled.

    `token_ids` ends with the end-of-sequence token exactly if `finish` is ``stop``: a response that the token limit cut
    off never teaches the model to stop there. A completion from a server has no token ids (``()``).
    """

    text: str
    token_ids: tuple[int, ...]
    finish: Literal["stop", "length"]

    @property
    def words(self) -> int:
        """Whitespace-separated words of the text."""
        return len(self.text.split())


class ResponseSet(Record):
    """The three responses to one query: y⁺, y⁻ and yᵒ."""

    query_id: str
    good: Completion
    """y⁺ ~ π(·|x⁺)"""
    bad: Completion
    """y⁻ ~ π(·|x⁻)"""
    original: Completion
    """yᵒ ~ π(·|x)"""


class Samples(Record):
    """Several responses that one policy gave to the same query."""

    query_id: str
    responses: tuple[Completion, ...]


class Pair(Record):
    """A preference pair, ready to be scored, selected and trained on.

    A contrast pair (SSO) carries the principle's two system messages and yᵒ; any other pair has None there.
    """

    id: str
    prompt: tuple[Message, ...]
    chosen: Completion
    rejected: Completion
    original: Completion | None = None
    principle: Principle | None = None
    source: str | None = None
    iteration: int = 0


class Logprob(Record):
    """The log-probability of one response under one prompt."""

    sum: float
    """Nats."""
    tokens: int
    """Response tokens, the end-of-sequence token included where there is one."""

    @property
    def mean(self) -> float:
        """Nats per response token."""
        return self.sum / self.tokens


class PairScores(Record):
    """Log-probabilities of one contrast pair under the policy that sampled it: one pass, three uses.

    The filter reads the six of (y⁺, y⁻), the loss takes its reference from here, the statistics come from here.
    """

    chosen_plain: Logprob
    """y⁺ given x"""
    chosen_good: Logprob
    """y⁺ given x⁺"""
    chosen_bad: Logprob
    """y⁺ given x⁻"""
    rejected_plain: Logprob
    """y⁻ given x"""
    rejected_good: Logprob
    """y⁻ given x⁺"""
    rejected_bad: Logprob
    """y⁻ given x⁻"""
    original_bad: Logprob
    """yᵒ given x⁻"""


class SideScores(Record):
    """Log-probabilities of the two sides of any pair, given its prompt, under one model."""

    chosen: Logprob
    rejected: Logprob


class ReferencedPair(Record):
    """A pair as it is trained on, with the reference's log-probabilities; None where nothing on file is asked for."""

    pair: Pair
    reference: SideScores | None = None


class PromptScores(Record):
    """Log-probabilities of several responses to one prompt, in the order in which they were asked for."""

    logprobs: tuple[Logprob, ...]


class ScoredPair(Record):
    """A contrast pair with its scores."""

    pair: Pair
    scores: PairScores


class Dropped(Record):
    """A record that did not go on, and why."""

    id: str
    reason: str
    """A short key that counts are grouped by, such as ``identical``."""
    detail: str = ""
    """The numbers behind it, for a reader."""


class Judgement(Record):
    """A verdict on one response; a failure is not a zero: `score` is None and `unscored` says why."""

    id: str
    score: float | None
    unscored: str | None = None
    detail: Mapping[str, Any] = {}


class Sampling(NamedTuple):
    """How tokens are drawn."""

    max_new_tokens: int
    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0


class Prompt(NamedTuple):
    """One request to a `Generator`: a conversation, and the seed of this very sample."""

    messages: tuple[Message, ...]
    seed: int


class ScoreRequest(NamedTuple):
    """One request to a `Scorer`: several responses to the same prompt, which is computed once for all of them."""

    messages: tuple[Message, ...]
    responses: tuple[Completion, ...]
