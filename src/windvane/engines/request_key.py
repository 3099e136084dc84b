"""What makes two requests the same request."""

import hashlib
import json

from windvane.engines.protocols import ChatRequest


def request_key(talker: str, request: ChatRequest) -> str:
    """Return the key of a whole request to an engine: engine, messages, sampling, sample and schema.

    The same in every process. Numbers are compared by value (a temperature of 1 is one of 1.0), schemas whatever the
    order of their keys.
    """
    return _digest([talker, request.sample, conversation_key(request)])


def conversation_key(request: ChatRequest) -> str:
    """Return the key of a request without its sample."""
    return _digest(
        [
            [[message.role, message.content] for message in request.messages],
            {name: float(value) for name, value in request.sampling._asdict().items()},
            request.schema,
        ]
    )


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
