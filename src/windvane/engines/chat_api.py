"""The chat-completions format: what a request says and what a reply says. Pure functions, no network."""

import itertools
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from windvane.engines.chat import split_thinking
from windvane.engines.protocols import ChatRequest, Reply
from windvane.engines.server_settings import ServerSettings

_SEEDS = 2**31
"""Servers differ in how large a seed may be; this many fit everywhere."""
_BYTES_PER_TOKEN = 4
"""Of ordinary text, for estimates."""
FINISHES: dict[str | None, str] = {
    **dict.fromkeys((None, "", "eos", "eos_token", "end_turn", "stop_sequence"), "stop"),
    **dict.fromkeys(("max_tokens", "max_length", "model_length"), "length"),
}
"""What servers call a finished reply and one that the token limit cut off; any other word stays as it is."""
_SCHEMA_WORDS = ("response_format", "json", "schema", "grammar", "structured", "guided")


class Unreadable(Exception):
    """A body that is no chat completion."""


class Dialect(NamedTuple):
    """What a server takes, as far as it is known: everything, until it refuses."""

    schema: bool = True
    """``response_format`` with a JSON schema."""
    many: bool = True
    """``n`` above 1."""
    seed: bool = True
    limit: str = "max_tokens"
    """Name of the field with the token limit. The old name first: a server that ignored the new one would not stop."""

    def narrowed(self, other: "Dialect") -> "Dialect":
        """Return what is left when both were found out."""
        limit = max(self.limit, other.limit, key=len)
        return Dialect(self.schema and other.schema, self.many and other.many, self.seed and other.seed, limit)


def request_body(request: ChatRequest, samples: int, settings: ServerSettings, dialect: Dialect) -> dict[str, Any]:
    """Return the JSON body that asks for some samples of a conversation."""
    body: dict[str, Any] = {
        "model": settings.model,
        "messages": [message.model_dump() for message in request.messages],
        dialect.limit: request.sampling.max_new_tokens,
        "temperature": request.sampling.temperature,
    }
    if request.sampling.top_p != 1:
        body["top_p"] = request.sampling.top_p
    if dialect.seed:
        body["seed"] = request.sample % _SEEDS
    if samples > 1:
        body["n"] = samples
    if request.schema is not None and dialect.schema:
        body["response_format"] = _response_format(request.schema)
    return {name: value for name, value in body.items() if name not in settings.leave_out} | settings.extra_body


def _response_format(schema: Any) -> dict[str, Any]:
    # OpenAI enforces a schema only if it is called strict, and takes as strict only one that forbids other keys.
    strict = schema.get("additionalProperties") is False
    return {"type": "json_schema", "json_schema": {"name": "reply", "schema": dict(schema), "strict": strict}}


def plainer(dialect: Dialect, body: dict[str, Any], complaint: str) -> Dialect | None:
    """Return what to try after a server refused `body` as a bad request, or None where nothing can be left out.

    What the complaint names goes first; else several samples, which only cost time, before the schema.
    """
    words = complaint.lower()
    if "max_completion_tokens" in words and dialect.limit == "max_tokens":
        return dialect._replace(limit="max_completion_tokens")
    if "seed" in words and "seed" in body:
        return dialect._replace(seed=False)
    about_schema = any(word in words for word in _SCHEMA_WORDS)
    if "n" in body and not ("response_format" in body and about_schema):
        return dialect._replace(many=False)
    return dialect._replace(schema=False) if "response_format" in body else None


def read_replies(content: bytes, request: ChatRequest, samples: int) -> list[Reply]:
    """Return the replies in a body: one, up to `samples`, fewer than were asked for where the server ignores ``n``.

    The usage that the body gives for all together is divided by length and adds up. Raises `Unreadable`.
    """
    try:
        data = json.loads(content)
    except ValueError as error:
        raise Unreadable("the body is no JSON") from error
    choices = data.get("choices") if isinstance(data, dict) else None
    if not isinstance(choices, list) or not choices:
        raise Unreadable(f"the body has no choices{_told(data)}")
    texts = [_text(choice) for choice in choices[:samples]]
    usage = data.get("usage")
    prompt, completion = (_count(usage, name) for name in ("prompt_tokens", "completion_tokens"))
    estimated = prompt is None or completion is None
    if prompt is None:
        prompt = sum(estimated_tokens(message.content) for message in request.messages)
    shares = _divided(sum(map(estimated_tokens, texts)) if completion is None else completion, texts)
    return [
        Reply(
            text=split_thinking(text).answer,
            finish=_finish(choice),
            prompt_tokens=0 if place else prompt,
            completion_tokens=share,
            estimated=estimated,
        )
        for place, (choice, text, share) in enumerate(zip(choices, texts, shares, strict=False))
    ]


def estimated_tokens(text: str) -> int:
    """Return about how many tokens a text takes."""
    return -(-len(text.encode(errors="replace")) // _BYTES_PER_TOKEN)


def complaint(content: bytes) -> str:
    """Return what the body of a failed request says, on one line and not too long."""
    try:
        said = json.loads(content)
    except ValueError:
        said = content.decode(errors="replace")
    for key in ("error", "detail", "message"):
        if isinstance(said, dict) and key in said:
            said = said[key]
    text = " ".join((said if isinstance(said, str) else json.dumps(said)).split())
    return text if len(text) <= 300 else f"{text[:300]} …"


def _told(data: Any) -> str:
    """Some servers report an error in a body that otherwise looks like success."""
    return (
        f" but an error: {complaint(json.dumps(data).encode())}" if isinstance(data, dict) and "error" in data else ""
    )


def _text(choice: Any) -> str:
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        raise Unreadable("a choice has no message")
    content = message.get("content")
    if isinstance(content, list):  # parts, of which only text is an answer
        content = "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    text = content or message.get("refusal") or ""
    if not isinstance(text, str):
        raise Unreadable("the content of a message is no text")
    # JSON may hold half a surrogate pair, which no file takes.
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _finish(choice: dict[str, Any]) -> str:
    reason = choice.get("finish_reason")
    return FINISHES.get(reason, str(reason)) if isinstance(reason, str | None) else str(reason)


def _count(usage: Any, name: str) -> int | None:
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _divided(total: int, texts: Sequence[str]) -> list[int]:
    """Divide a number in proportion to the length of texts; the parts add up to it."""
    lengths = [len(text) + 1 for text in texts]
    edges = [total * sum(lengths[:place]) // sum(lengths) for place in range(len(lengths) + 1)]
    return [end - start for start, end in itertools.pairwise(edges)]
