"""Queries, answers and a scorer for the tests of the evaluation."""

from collections.abc import Sequence

from windvane.engines.protocols import Advance, no_progress
from windvane.types import Completion, Logprob, Message, Query, ScoreRequest


def query(name: str, source: str | None = None) -> Query:
    return Query(id=name, messages=(Message(role="user", content=f"What about {name}?"),), source=source)


def answer(text: str, *, cut: bool = False) -> Completion:
    ids = tuple(10 + index for index, _ in enumerate(text.split()))
    return Completion(text=text, token_ids=ids if cut else (*ids, 2), finish="length" if cut else "stop")


class TopicScorer:
    """-1 nat a token where an answer names the query that it is measured under, -3 elsewhere."""

    def __init__(self) -> None:
        self.seen: list[ScoreRequest] = []

    def score(self, requests: Sequence[ScoreRequest], *, advance: Advance = no_progress) -> list[tuple[Logprob, ...]]:
        self.seen += requests
        return [tuple(self._one(request, answer) for answer in request.responses) for request in requests]

    def _one(self, request: ScoreRequest, completion: Completion) -> Logprob:
        if not completion.token_ids:
            raise ValueError("empty response")
        topic = request.messages[-1].content.removeprefix("What about ").removesuffix("?")
        each = -1.0 if topic in completion.text.split() else -3.0
        return Logprob(sum=each * len(completion.token_ids), tokens=len(completion.token_ids))
