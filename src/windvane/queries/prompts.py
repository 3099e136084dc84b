"""How a model is asked for a query: in the manner of self-instruct, or by evolving one that is there."""

import random
from collections.abc import Sequence
from typing import Literal, NamedTuple

from windvane.seeds import derive_seed
from windvane.types import Message, Prompt, Query

Operation = Literal["new", "deepen", "concretise", "broaden"]

_INVENT = (
    "You invent requests that people send to an assistant. Each can be answered without any further text, picture or "
    "file, and is about something else than the ones before. Write the request only, never the answer."
)
_REWORK = (
    "You make a new request to an assistant out of a given one. The new request can be answered without any further "
    "text, picture or file. Write the new request only, never the answer."
)


class Evolution(NamedTuple):
    """One way to evolve a request, with an example."""

    instruction: str
    before: str
    after: str


EVOLUTIONS: dict[Operation, Evolution] = {
    "deepen": Evolution(
        "Make this request harder: add a condition, or one more thing to deal with.",
        "Plan a weekend in the mountains.",
        "Plan a weekend in the mountains for two families, one of which has a baby and cannot hike far.",
    ),
    "concretise": Evolution(
        "Make this request more concrete: name a person, a place, a number or an occasion.",
        "Write a birthday card.",
        "Write a birthday card for our neighbour Ines, who turns eighty and is proud of her roses.",
    ),
    "broaden": Evolution(
        "Write a request of the same kind about a quite different subject.",
        "How do I keep a cactus healthy?",
        "What does a goldfish need to feel well?",
    ),
}
"""How a request is evolved: into depth, into detail, into breadth."""


class Ask(NamedTuple):
    """One request to the model."""

    number: int
    operation: Operation
    prompt: Prompt


def ask(number: int, operation: Operation, seeds: Sequence[Query], *, shown: int, seed: int) -> Ask:
    """Return request `number`; which seed queries it shows depends on the run's seed and the number alone."""
    draw = random.Random(derive_seed(seed, "augment", number))
    if operation == "new":
        messages = _invent(draw.sample(seeds, min(shown, len(seeds))))
    else:
        messages = _rework(EVOLUTIONS[operation], draw.choice(seeds))
    return Ask(number, operation, Prompt(messages, derive_seed(seed, "augment", "reply", number)))


def _invent(examples: Sequence[Query]) -> tuple[Message, ...]:
    """Show the examples as what the model itself has written so far: even a small model goes on in that manner."""
    turns = [Message(role="system", content=_INVENT)]
    for place, example in enumerate(examples):
        turns.append(Message(role="user", content="Write a request." if place == 0 else "Write another request."))
        turns.append(Message(role="assistant", content=example.text))
    return (*turns, Message(role="user", content="Write another request."))


def _rework(evolution: Evolution, query: Query) -> tuple[Message, ...]:
    return (
        Message(role="system", content=_REWORK),
        Message(role="user", content=f"{evolution.instruction}\nRequest: {evolution.before}"),
        Message(role="assistant", content=evolution.after),
        Message(role="user", content=f"{evolution.instruction}\nRequest: {query.text}"),
    )
