"""A model's reply to the requests for instructions in it, leniently."""

import re

from windvane.types import Completion

_THINKING = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
_OPENING = re.compile(
    r"\A(?:(?:sure|certainly|of course|okay|ok|absolutely|great)[,.!]+\s*)?"
    r"(?:(?:sure|okay|ok)?\s*(?:here (?:is|are)|here's|this is)\b[^\n:.?!]{0,60}:\s*)?",
    re.IGNORECASE,
)
"""What stands before an instruction: "Sure! Here is another request:"."""
_LABEL = re.compile(
    r"\A(?:(?:new|another|next|rewritten|harder|user|the)\s+)*(?:request|query|instruction|question|prompt|task)"
    r"\s*(?:\d+\s*)?:\s*",
    re.IGNORECASE,
)
_BULLET = re.compile(r"(?m)^[ \t]*(?:\d{1,2}[.)]|[-*•])[ \t]+(?=\S)")
_QUOTES = {'"': '"', "“": "”", "'": "'", "«": "»", "`": "`"}


def read_instructions(reply: Completion) -> list[str]:
    """Return the instructions in a reply: one, several where it is a list, none where nothing is left of it.

    What a small model puts around an instruction is taken off: openings, labels, bullets, bold marks, quotation marks,
    a think block, and everything after the first paragraph (there it begins to answer). What the token limit cut off is
    left out, for its end is lost.
    """
    text = _THINKING.sub("", reply.text).strip()
    text = _OPENING.sub("", text).strip()
    starts = [found.start() for found in _BULLET.finditer(text)]
    if len(starts) > 1 and starts[0] == 0:
        ends = [*starts[1:], len(text)]
        items = [_BULLET.sub("", text[start:end], count=1) for start, end in zip(starts, ends, strict=True)]
    else:
        items = [text]
    if reply.finish == "length" and "\n\n" not in items[-1].strip():
        items.pop()
    return [clean for clean in map(_clean, items) if clean]


def _clean(item: str) -> str:
    """Return the first paragraph of an item without the marks around it."""
    text = item.strip().split("\n\n")[0].strip()
    text = _BULLET.sub("", text, count=1) if _BULLET.match(text) else text
    text = _LABEL.sub("", text.replace("**", "").strip()).strip()
    while len(text) > 1 and _QUOTES.get(text[0]) == text[-1] and text[0] not in text[1:-1]:
        text = text[1:-1].strip()
    return text
