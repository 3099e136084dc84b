"""The few-shot conversations of the principle stage, rendered for one query."""

import functools
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from windvane.config import Settings, load_config
from windvane.principles.features import Feature
from windvane.types import Message, Query

QUERY_WORDS = 150
"""A longer query is shown by its beginning and its end: the principle stage must fit any model's context."""


class ChoiceExample(Settings):
    """A query and the qualities that matter for it."""

    query: str
    names: tuple[str, ...]


class WritingExample(Settings):
    """A query, its qualities, and two opposite principles for it."""

    query: str
    qualities: str
    good: str
    bad: str


class ChoicePrompt(Settings):
    """How a model is asked to choose features."""

    system: str
    examples: tuple[ChoiceExample, ...]


class WritingPrompt(Settings):
    """How a model is asked to write a pair of principles."""

    system: str
    examples: tuple[WritingExample, ...]


class OppositeExample(Settings):
    """A system prompt and its opposite."""

    prompt: str
    opposite: str


class OppositePrompt(Settings):
    """How a model is asked to turn a system prompt round."""

    system: str
    examples: tuple[OppositeExample, ...]


class Prompts(Settings):
    """The texts of `prompts.yaml`."""

    choose: ChoicePrompt
    write: WritingPrompt
    opposite: OppositePrompt


@functools.cache
def prompts() -> Prompts:
    """Return the texts that come with windvane."""
    with resources.as_file(resources.files("windvane.principles") / "prompts.yaml") as path:
        return load_config(Prompts, Path(path), ())


def choice_messages(query: Query, features: Sequence[Feature]) -> tuple[Message, ...]:
    """Return the conversation that asks which of `features` matter for `query`.

    The examples speak of the bank's features, so they are shown only where the bank's are offered.
    """
    texts = prompts().choose
    qualities = "\n".join(f"- {feature.name}: {feature.meaning}" for feature in features)
    turns = [Message(role="system", content=texts.system.replace("{qualities}", qualities))]
    offered = {feature.name for feature in features}
    for example in texts.examples:
        if offered.issuperset(example.names):
            turns.append(Message(role="user", content=f"Request: {example.query}"))
            turns.append(Message(role="assistant", content=", ".join(example.names)))
    return (*turns, Message(role="user", content=f"Request: {excerpt(query.text)}"))


def writing_messages(query: Query, features: Sequence[Feature], complaint: str | None = None) -> tuple[Message, ...]:
    """Return the conversation that asks for one pair of principles on `features` for `query`.

    `complaint` says what was wrong with the first reply. It comes last, so that the prefix stays the same.
    """
    texts = prompts().write
    turns = [Message(role="system", content=texts.system)]
    for example in texts.examples:
        answer = json.dumps({"good": example.good, "bad": example.bad}, ensure_ascii=False)
        turns.append(Message(role="user", content=_task(example.query, example.qualities)))
        turns.append(Message(role="assistant", content=answer))
    qualities = "; ".join(f"{f.name} (good: {f.good_adjective}, bad: {f.bad_adjective}): {f.meaning}" for f in features)
    task = _task(excerpt(query.text), qualities)
    if complaint is not None:
        task += f'\n\nAn earlier reply could not be used: {complaint}. Reply with {{"good": "…", "bad": "…"}} only.'
    return (*turns, Message(role="user", content=task))


def opposite_messages(prompt: str, complaint: str | None = None) -> tuple[Message, ...]:
    """Return the conversation that asks for the opposite of a system prompt; `complaint` as in `writing_messages`."""
    texts = prompts().opposite
    turns = [Message(role="system", content=texts.system)]
    for example in texts.examples:
        turns.append(Message(role="user", content=f"Instructions: {example.prompt}"))
        turns.append(Message(role="assistant", content=example.opposite))
    task = f"Instructions: {prompt}"
    if complaint is not None:
        task += f"\n\nAn earlier reply could not be used: {complaint}. Reply with the opposite instructions only."
    return (*turns, Message(role="user", content=task))


def excerpt(text: str, words: int = QUERY_WORDS) -> str:
    """Return `text`, or its beginning and end where it has more than `words` words."""
    parts = text.split()
    if len(parts) <= words:
        return text
    half = words // 2
    return f"{' '.join(parts[:half])} … {' '.join(parts[-half:])}"


def _task(query: str, qualities: str) -> str:
    return f"Request: {query}\nQualities: {qualities}"
