"""A fence around text that others wrote, so that it cannot pass for instructions or for the end of itself."""

import hashlib
from collections.abc import Sequence

from windvane.types import Query

_LENGTH = 12
"""Hexadecimal digits of a mark: 48 bits, which nobody hits by chance."""


def fenced(title: str, text: str, *, beside: Sequence[str] = ()) -> str:
    """Return a text between two lines that carry a mark of its own.

    The mark is a digest of all the texts, so the same request is written the same way each time. It stands in none of
    them: whoever writes a text cannot write its closing line, because the mark changes with every letter of the text.
    """
    mark = _mark(title, (text, *beside))
    return f"----- {title} {mark} begins -----\n{text}\n----- {title} {mark} ends -----"


def transcript(query: Query) -> str:
    """Return a query as text: its only turn, or all turns with who said them."""
    if len(query.messages) == 1:
        return query.text
    return "\n\n".join(f"{message.role.capitalize()}: {message.content}" for message in query.messages)


def _mark(title: str, texts: Sequence[str]) -> str:
    parts = "\x1f".join((title, *texts)).encode("utf-8", "surrogatepass")
    searched = "\n".join(texts).casefold()
    turn = 0
    while True:
        mark = hashlib.sha256(b"%d\x1f" % turn + parts).hexdigest()[:_LENGTH]
        if mark not in searched:
            return mark
        turn += 1
