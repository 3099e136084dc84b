"""Turns of a conversation, whatever they were called where they come from."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from windvane.data.source import BadRow
from windvane.types import Message

Role = Literal["system", "user", "assistant"]

ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
}
"""What OpenAI, ShareGPT, OpenAssistant and Gemini data call the three roles."""


def is_turn(value: Any) -> bool:
    """Whether a value has the keys of one message: role and content, or from and value."""
    return isinstance(value, Mapping) and ({"role", "content"} <= value.keys() or {"from", "value"} <= value.keys())


def turns(value: Sequence[Any], what: str) -> tuple[Message, ...]:
    """Return the messages of a conversation; `what` names the column in errors."""
    if not value:
        raise BadRow("empty", f"{what} is an empty conversation; it needs a user turn")
    return tuple(_turn(item, f"{what}[{index}]") for index, item in enumerate(value))


def _turn(item: Any, what: str) -> Message:
    if not is_turn(item):
        raise BadRow("not_a_message", f"{what} is {brief(item)}; a message has the keys role and content")
    name, content = (item["role"], item["content"]) if "role" in item else (item["from"], item["value"])
    role = ROLES.get(name.lower()) if isinstance(name, str) else None
    if role is None:
        raise BadRow("unknown_role", f"{what} has the role {brief(name)}; roles are system, user and assistant")
    return Message(role=role, content=text_of(content, f"{what}, the {role} turn,"))


def text_of(content: Any, what: str) -> str:
    """Return the text of a message's content, which is a string or OpenAI's list of parts."""
    if isinstance(content, list) and content and all(isinstance(part, Mapping) for part in content):
        other = [part.get("type") for part in content if part.get("type") != "text"]
        if other:
            raise BadRow("not_text", f"{what} has a part of type {brief(other[0])}; only text is read")
        content = "".join(str(part.get("text", "")) for part in content)
    if content is None or (isinstance(content, str) and not content.strip()):
        raise BadRow("empty", f"{what} is empty")
    if not isinstance(content, str):
        raise BadRow("not_text", f"{what} is {brief(content)}, not text")
    return content


def check_prompt(messages: tuple[Message, ...], what: str) -> tuple[Message, ...]:
    """Return `messages` if they are a prompt: at most one system message, first; then user first and user last."""
    spoken = messages[1:] if messages and messages[0].role == "system" else messages
    if any(message.role == "system" for message in spoken):
        raise BadRow("system_not_first", f"{what} has a system message after its first turn; it belongs at the start")
    if not spoken:
        raise BadRow("no_user_turn", f"{what} has no user turn; a prompt ends with one")
    if spoken[-1].role != "user":
        raise BadRow("no_user_turn", f"{what} ends with a turn of the assistant; a prompt ends with a user turn")
    if spoken[0].role == "assistant":
        raise BadRow(
            "assistant_first", f"{what} starts with a turn of the assistant; a conversation starts with the user"
        )
    return messages


def brief(value: Any) -> str:
    """Return a short quotation of a value for an error message."""
    if value is None:
        return "null"
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:56]} ..."
