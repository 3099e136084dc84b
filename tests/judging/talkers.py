"""What the tests of judges share: queries, replies, and a talker that sends every n-th reply broken."""

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, TypeVar

from windvane.engines.protocols import ChatRequest, Reply
from windvane.engines.talkers import ScriptedTalker
from windvane.seeds import derive_seed
from windvane.types import Message, Query

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def query(text: str = "Why is the sky blue?", name: str = "q") -> Query:
    return Query(id=name, messages=(Message(role="user", content=text),))


def reply(text: str, finish: str = "stop") -> Reply:
    return Reply(text=text, finish=finish, prompt_tokens=1, completion_tokens=1)


def verdict(**scores: object) -> str:
    """The reply of a judge that does as it is told; an underscore in a name is a hyphen."""
    return json.dumps({name.replace("_", "-"): {"reason": f"so {name}", "score": s} for name, s in scores.items()})


def is_choice(request: ChatRequest) -> bool:
    return "On which aspects" in request.messages[-1].content


def is_again(request: ChatRequest) -> bool:
    return "could not be used" in request.messages[-1].content


def judge_says(score: str | Callable[[ChatRequest], str], choice: str = '{"aspects": ["Clarity", "Depth"]}'):
    """A talker that answers a request for aspects with `choice` and one for scores with `score`."""

    def answer(request: ChatRequest) -> str:
        if is_choice(request):
            return choice
        return score if isinstance(score, str) else score(request)

    return ScriptedTalker(answer)


BROKEN = (
    "",
    "I would rather not say.",
    "{",
    '{"Clarity": {"reason": "so',
    "{}",
    "[]",
    "null",
    '{"Clarity": {"reason": "fine", "score": 0}, "Depth": {"score": -3}}',
    '{"Clarity": "excellent", "Depth": true}',
    '{"Sparkle": 5}',
    "Clarity: great. Depth: some.",
)


def every_so_often(share: float, good: Callable[[ChatRequest], str], broken: Sequence[str] = BROKEN) -> ScriptedTalker:
    """A talker whose replies are broken with probability `share`, by the request: the same one is broken again."""
    kinds: Iterator[int] = iter(range(10**6))

    def answer(request: ChatRequest) -> str:
        words = "\n".join(message.content for message in request.messages)
        if derive_seed(0, words, request.sample) % 1000 < share * 1000:
            return broken[next(kinds) % len(broken)]
        return good(request)

    return ScriptedTalker(answer)
