"""The three responses to each query: y⁺ under x⁺, y⁻ under x⁻, yᵒ under x (SSO, step 2)."""

from collections.abc import Sequence

from pydantic import Field

from windvane.config import Settings
from windvane.engines.chat import steered_prompts
from windvane.engines.protocols import Advance, Generator, no_progress
from windvane.seeds import derive_seed
from windvane.types import Message, Principle, Prompt, Query, ResponseSet, Sampling

ROLES = ("good", "bad", "original")


class SamplingSettings(Settings):
    """How responses are drawn."""

    max_new_tokens: int = Field(default=256, ge=1)
    """Tokens that a response may have; a response that reaches the limit is cut off and marked so."""
    temperature: float = Field(default=0.7, ge=0)
    """0 is greedy. The papers sample at 0.7."""
    top_p: float = Field(default=0.8, gt=0, le=1)
    """Tokens are drawn from the smallest set that holds this share of the probability mass."""

    def sampling(self) -> Sampling:
        """Return what engines understand."""
        return Sampling(self.max_new_tokens, self.temperature, self.top_p)


def sample_responses(
    queries: Sequence[Query],
    principles: Sequence[Principle],
    generator: Generator,
    settings: SamplingSettings,
    *,
    seed: int,
    stage: str = "responses",
    advance: Advance = no_progress,
) -> list[ResponseSet]:
    """Return y⁺, y⁻ and yᵒ for each query, in the order of the queries.

    `principles` go with the queries one by one. The seed of a response derives from the run's seed, the stage, the
    query's id and the role, so it is the same in any batch. `advance` hears of whole queries.
    """
    for query, principle in zip(queries, principles, strict=True):
        if query.id != principle.query_id:
            raise ValueError(f"the principle for {principle.query_id!r} came with the query {query.id!r}")
    steered = [steered_prompts(query.messages, principle) for query, principle in zip(queries, principles, strict=True)]
    prompts_of = {
        "good": [each.good for each in steered],
        "bad": [each.bad for each in steered],
        "original": [query.messages for query in queries],
    }
    thirds = _Thirds(advance)
    # One call per role: the responses of a call often share their system message, which the engine then computes once.
    sampled = {
        role: generator.generate(
            _seeded(role, prompts_of[role], queries, seed, stage), settings.sampling(), advance=thirds
        )
        for role in ROLES
    }
    return [
        ResponseSet(query_id=query.id, good=good, bad=bad, original=original)
        for query, good, bad, original in zip(queries, *(sampled[role] for role in ROLES), strict=True)
    ]


def _seeded(
    role: str, conversations: Sequence[tuple[Message, ...]], queries: Sequence[Query], seed: int, stage: str
) -> list[Prompt]:
    return [
        Prompt(messages, derive_seed(seed, stage, query.id, role))
        for messages, query in zip(conversations, queries, strict=True)
    ]


class _Thirds:
    """Turns finished responses into finished queries."""

    def __init__(self, advance: Advance) -> None:
        self.advance = advance
        self.responses = 0

    def __call__(self, responses: int) -> None:
        """Count responses; report a query for each three of them."""
        before = self.responses // len(ROLES)
        self.responses += responses
        queries = self.responses // len(ROLES) - before
        if queries:
            self.advance(queries)
