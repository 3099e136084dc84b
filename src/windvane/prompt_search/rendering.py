"""The one place where a system prompt, in-context examples and a query become a conversation.

The search and whoever serves the found prompt call the same function, so what was proved is what is served.
"""

import json
from collections.abc import Sequence
from typing import Protocol

from windvane.engines.chat import with_prompt
from windvane.types import Message, Query


class Shown(Protocol):
    """An in-context example."""

    @property
    def query(self) -> Query:
        """What was asked."""

    @property
    def answer(self) -> str:
        """How it was answered well."""


class ExampleSource(Protocol):
    """Chooses the examples for a query."""

    def examples_for(self, query: Query) -> Sequence[Shown]:
        """Return the examples that a query is answered with, in the order in which they are shown.

        The same for the same query, whatever was asked before.
        """


class NoExamples:
    """An `ExampleSource` for answering without any."""

    def examples_for(self, query: Query) -> Sequence[Shown]:
        """Return none."""
        return ()


def render(system_prompt: str, examples: Sequence[Shown], query: Query) -> tuple[Message, ...]:
    """Return the conversation that a model answers.

    First the system message (a query's own comes first in it, then a blank line and the prompt; an empty prompt adds
    none), then each example as a turn of the user and one of the assistant, then the query's turns.
    """
    return with_prompt(query.messages, system_prompt, shown_turns(examples))


def shown_turns(examples: Sequence[Shown]) -> tuple[Message, ...]:
    """Return in-context examples as turns: each request without a system message of its own, then its answer."""
    turns: list[Message] = []
    for example in examples:
        turns.extend(turn for turn in example.query.messages if turn.role != "system")
        turns.append(Message(role="assistant", content=example.answer))
    return tuple(turns)


def rendered_bytes(messages: Sequence[Message]) -> bytes:
    """Return a conversation as the JSON that an OpenAI-compatible server is sent, the same bytes for the same turns."""
    turns = [{"role": message.role, "content": message.content} for message in messages]
    return json.dumps(turns, ensure_ascii=False).encode("utf-8")
