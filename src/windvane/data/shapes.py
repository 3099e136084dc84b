"""From a row of any known shape to a prompt, and for preference data to two responses.

A prompt is looked for in this order: the column that the user named; ``prompt``; ``messages`` (OpenAI);
``conversations`` (ShareGPT); ``instruction`` and ``input`` (Alpaca); ``question``; ``query``. A ``system`` column
becomes the system message of a prompt that has none.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

from windvane.data.messages import brief, check_prompt, is_turn, text_of, turns
from windvane.data.source import BadRow, DataSource, PreferenceSource
from windvane.types import Message

RECORDED = ("messages", "conversations")
"""Columns of whole conversations: a last turn of the assistant is a recorded answer, not part of the prompt."""

PLAIN = ("prompt", *RECORDED, "instruction", "question", "query")


Side = str | tuple[Message, ...]
"""A response as it stands in a row: its text, or messages of which it is the last."""


def preference_source(source: DataSource) -> PreferenceSource:
    """Return `source` with the usual names of the two response columns, where it names none."""
    return source if isinstance(source, PreferenceSource) else PreferenceSource(**source.model_dump())


class Preference(NamedTuple):
    """A prompt and two different responses to it."""

    prompt: tuple[Message, ...]
    chosen: str
    rejected: str


def prompt_of(values: Mapping[str, Any], source: DataSource) -> tuple[Message, ...]:
    """Return the prompt of a row as messages that end with a user turn. Raises `BadRow`."""
    column = _prompt_column(values, source)
    if column is None:
        raise BadRow("no_prompt", f"there is no prompt: the columns are {_names(values)}. {_ways_out()}")
    return _prompt_in(values, column)


def preference_of(values: Mapping[str, Any], given: DataSource) -> Preference:
    """Return the pair of a row. Raises `BadRow`, also where chosen and rejected are the same."""
    source = preference_source(given)
    sides = []
    for name in (source.chosen_column, source.rejected_column):
        if values.get(name) is None:
            raise BadRow(
                "no_response",
                f"there is no {name!r}: the columns are {_names(values)}. "
                "Name the two response columns with chosen_column and rejected_column",
            )
        sides.append(_response(values[name], name))
    chosen, rejected = sides
    if type(chosen) is not type(rejected):
        raise BadRow("mixed", f"{source.chosen_column} and {source.rejected_column} must both be text or both messages")
    return _checked(_joined(values, chosen, rejected, source))


def _joined(values: Mapping[str, Any], chosen: Side, rejected: Side, source: PreferenceSource) -> Preference:
    """Find the prompt that two sides of the same type answer, and take it off them where they repeat it."""
    column = _prompt_column(values, source)
    if column is None:
        pair = _implicit(chosen, rejected, source)
    elif isinstance(values[column], str) and isinstance(chosen, tuple) and len(chosen) > 1:
        pair = _implicit(chosen, rejected, source)  # the text is one turn of it; the others would be lost
        if values[column].strip() not in [message.content.strip() for message in pair.prompt]:
            raise _mismatch(source.chosen_column, pair.prompt[-1].content, values[column])
    else:
        prompt = _prompt_in(values, column)
        one = _last_turn(chosen, prompt, source.chosen_column)
        return Preference(prompt, one, _last_turn(rejected, prompt, source.rejected_column))
    return pair._replace(prompt=_with_system(pair.prompt, values))


def _prompt_column(values: Mapping[str, Any], source: DataSource) -> str | None:
    if source.prompt_column is not None:
        if source.prompt_column not in values:
            raise BadRow(
                "no_prompt",
                f"there is no column {source.prompt_column!r} (prompt_column): the columns are {_names(values)}",
            )
        return source.prompt_column
    there = [name for name in PLAIN if name in values]
    return next((name for name in there if values[name] is not None), there[0] if there else None)


def _prompt_in(values: Mapping[str, Any], column: str) -> tuple[Message, ...]:
    content = values[column]
    if isinstance(content, list) and (not content or any(is_turn(item) for item in content)):
        messages = turns(content, column)
        if column in RECORDED and messages[-1].role == "assistant":
            messages = messages[:-1]
    else:
        text = text_of(content, column)
        more = values.get("input") if column == "instruction" else None
        if isinstance(more, str) and more.strip():
            text = f"{text}\n\n{more}"
        messages = (Message(role="user", content=text),)
    return check_prompt(_with_system(messages, values), column)


def _with_system(messages: tuple[Message, ...], values: Mapping[str, Any]) -> tuple[Message, ...]:
    system = values.get("system")
    if not isinstance(system, str) or not system.strip() or (messages and messages[0].role == "system"):
        return messages
    return (Message(role="system", content=system), *messages)


def _response(value: Any, column: str) -> Side:
    if is_turn(value):
        return turns([value], column)
    if isinstance(value, list) and (not value or any(is_turn(item) for item in value)):
        return turns(value, column)
    text = text_of(value, column)
    return _transcript(text) or text


def _transcript(text: str) -> tuple[Message, ...]:
    """Return the turns of an HH-RLHF transcript, or () for any other text."""
    parts = re.split(r"\n\n(Human|Assistant): ?", text)
    if parts[0].strip() or len(parts) < 5:
        return ()
    spoken = zip(parts[1::2], parts[2::2], strict=True)
    return turns([{"from": role, "value": content.strip()} for role, content in spoken], "the transcript")


def _last_turn(side: Side, prompt: tuple[Message, ...], column: str) -> str:
    """Return the response in `side`, which may repeat the prompt before it."""
    if isinstance(side, str):
        return side
    *before, last = side
    if last.role != "assistant":
        raise BadRow("no_response", f"{column} ends with a turn of the {last.role}; it must end with the assistant's")
    asked = [message.content.strip() for message in prompt if message.role != "system"]
    repeated = [message.content.strip() for message in before if message.role != "system"]
    if repeated not in ([], asked):
        raise _mismatch(column, repeated[-1], asked[-1])
    return last.content


def _mismatch(column: str, found: str, asked: str) -> BadRow:
    return BadRow(
        "prompt_mismatch",
        f"{column} answers another prompt than the row's: {brief(found)} instead of {brief(asked)}. "
        "Correct the row, or leave the prompt column out",
    )


def _implicit(chosen: Any, rejected: Any, source: PreferenceSource) -> Preference:
    names = f"{source.chosen_column} and {source.rejected_column}"
    if chosen == rejected:
        raise BadRow("equal", f"{names} are the same; a pair needs two different responses")
    if isinstance(chosen, str):
        return _implicit_text(chosen, rejected, names)
    shared = _shared(chosen, rejected)
    if shared == min(len(chosen), len(rejected)):
        raise BadRow("no_response", f"one of {names} is the beginning of the other, so it has no response of its own")
    if shared == 0:
        raise BadRow("prompt_mismatch", f"{names} share no turn, so they hold no common prompt; add a prompt column")
    if len(chosen) != shared + 1 or len(rejected) != shared + 1:
        raise BadRow("prompt_mismatch", f"{names} part at turn {shared + 1}; they must share all turns but the last")
    prompt = check_prompt(chosen[:shared], f"what {names} share")
    return Preference(prompt, _last_turn(chosen[shared:], prompt, names), _last_turn(rejected[shared:], prompt, names))


def _implicit_text(chosen: str, rejected: str, names: str) -> Preference:
    """Cut two texts after the words that they share.

    TRL cuts after the last shared character, which tears words apart (``b`` of "blue" and "beige" goes to the prompt).
    """
    shared = chosen[: _shared(chosen, rejected)]
    if len(shared) == min(len(chosen), len(rejected)):
        raise BadRow("no_response", f"one of {names} is the beginning of the other, so it has no response of its own")
    words = re.match(r"(?s).*\s", shared)
    cut = words.end() if words else 0
    if not shared[:cut].strip():
        raise BadRow(
            "prompt_mismatch", f"{names} do not begin with the same words, so they hold no prompt; add a prompt column"
        )
    return Preference((Message(role="user", content=shared[:cut].strip()),), chosen[cut:], rejected[cut:])


def _shared(one: Sequence[Any], other: Sequence[Any]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _checked(pair: Preference) -> Preference:
    if pair.chosen.strip() == pair.rejected.strip():
        raise BadRow(
            "equal", f"chosen and rejected are the same ({brief(pair.chosen)}); a pair needs two different responses"
        )
    return pair


def _names(values: Mapping[str, Any]) -> str:
    return ", ".join(map(str, values)) or "(none)"


def _ways_out() -> str:
    return f"Name one of them with prompt_column, or rename it to one of {', '.join(PLAIN)}"
