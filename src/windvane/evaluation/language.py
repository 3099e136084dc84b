"""Are the answers still language, and still about the question? The base model is asked, as a measuring instrument.

``mean_logp(y|x)`` under the base model says how plausible an answer is to it. ``relevance(y) = mean_logp(y|x) -
mean_logp(y|x')``, with x' another query of the set, says how much of that plausibility comes from the question: an
answer that would fit any question has a relevance of about 0.

Three steps, so that a run can stop between them: `language_requests` plans, `score_language` measures a shard,
`read_language` joins the records by id.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from windvane.engines.protocols import Advance, Scorer, no_progress
from windvane.judging.measures import is_empty
from windvane.seeds import derive_seed
from windvane.types import Completion, Logprob, Query, Record, ScoreRequest

Side = Literal["before", "after"]
Under = Literal["own", "other"]
SIDES: tuple[Side, Side] = ("before", "after")


class Measured(NamedTuple):
    """Which answer is measured, and under which query."""

    query_id: str
    """The query that the answer was written for."""
    side: Side
    under: Under
    """``own``: under x; ``other``: under x'."""


class LanguageRequest(NamedTuple):
    """All that is measured under one prompt, which the scorer computes once: up to four answers."""

    id: str
    """The query that is the prompt."""
    request: ScoreRequest
    measured: tuple[Measured, ...]
    """One for each response of the request, in order."""


class AnswerScore(Record):
    """The base model's log-probability of one answer under one query."""

    query_id: str
    side: Side
    under: Under
    logprob: Logprob


class LanguageScores(Record):
    """What the base model said about one `LanguageRequest`."""

    id: str
    scores: tuple[AnswerScore, ...]


class AnswerLanguage(NamedTuple):
    """How much of a language, and how much to the point, one answer is."""

    base_logprob: float
    """``mean_logp(y|x)``, nats per token."""
    relevance: float | None
    """``mean_logp(y|x) - mean_logp(y|x')``, nats per token; None in a set of one query, which has no x'."""


def other_queries(queries: Sequence[Query], *, seed: int) -> dict[str, str]:
    """Return for each query's id the id of its x', such that every query is the x' of exactly one other.

    A random cycle through all queries: nobody meets itself, and the order of `queries` plays no part. Empty for fewer
    than two.
    """
    circle = sorted(query.id for query in queries)
    if len(set(circle)) != len(circle):
        raise ValueError("two queries share an id")
    if len(circle) < 2:
        return {}
    random.Random(derive_seed(seed, "evaluation", "other query")).shuffle(circle)
    return dict(zip(circle, circle[1:] + circle[:1], strict=True))


def language_requests(
    queries: Sequence[Query], before: Sequence[Completion], after: Sequence[Completion], *, seed: int
) -> list[LanguageRequest]:
    """Plan the measurement of every answer under its own query x and under another query x' of the set.

    Answers that say nothing are left out (they have no plausibility, and a zero would be a lie), and so are prompts
    that no answer is left for. An answer without token ids, as a server returns it, is an error: encode it first.
    """
    other = other_queries(queries, seed=seed)
    planned: dict[str, list[tuple[Measured, Completion]]] = {query.id: [] for query in queries}
    for query, old, new in zip(queries, before, after, strict=True):
        for side, answer in zip(SIDES, (old, new), strict=True):
            if is_empty(answer.text):
                continue
            if not answer.token_ids:
                raise ValueError(f"the answer {side} to query {query.id!r} has no token ids; encode its text first")
            planned[query.id].append((Measured(query.id, side, "own"), answer))
            if other:
                planned[other[query.id]].append((Measured(query.id, side, "other"), answer))
    return [
        LanguageRequest(
            query.id,
            ScoreRequest(query.messages, tuple(answer for _, answer in planned[query.id])),
            tuple(measured for measured, _ in planned[query.id]),
        )
        for query in queries
        if planned[query.id]
    ]


def score_language(
    requests: Sequence[LanguageRequest], base: Scorer, *, advance: Advance = no_progress
) -> list[LanguageScores]:
    """Measure some of the requests with the base model: one record a request, in order."""
    answers = base.score([request.request for request in requests], advance=advance)
    return [
        LanguageScores(
            id=request.id,
            scores=tuple(
                AnswerScore(query_id=measured.query_id, side=measured.side, under=measured.under, logprob=logprob)
                for measured, logprob in zip(request.measured, logprobs, strict=True)
            ),
        )
        for request, logprobs in zip(requests, answers, strict=True)
    ]


def read_language(scores: Sequence[LanguageScores]) -> Mapping[tuple[str, Side], AnswerLanguage]:
    """Join the records: what is known of each measured answer, by query id and side."""
    means: dict[tuple[str, Side, Under], float] = {
        (score.query_id, score.side, score.under): score.logprob.mean for record in scores for score in record.scores
    }
    joined: dict[tuple[str, Side], AnswerLanguage] = {}
    for (query_id, side, under), own in means.items():
        if under == "own":
            other = means.get((query_id, side, "other"))
            joined[query_id, side] = AnswerLanguage(own, None if other is None else own - other)
    return joined
