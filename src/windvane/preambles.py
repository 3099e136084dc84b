"""Leaked preambles: "Here is a concise response:" and the like, in front of the response proper.

A model that is told how to answer tends to announce that it does. Trained on, the announcement would be learned too,
and it tells the two sides of a contrast pair apart by their first words. It is cut from the text and from the token ids
alike.
"""

import re
from collections.abc import Sequence
from typing import Literal, Protocol

from windvane.types import Completion

_OPENER = r"""(?:(?:sure(?:\ thing)?|certainly|of\ course|absolutely|definitely|gladly|okay|ok|alright|all\ right
    |no\ problem|with\ pleasure|understood|got\ it|great\ question|good\ question)\b[,.!:;\s–—-]+)?"""
_NOUN = r"(?:response|answer|reply|version|rewrite|revision|draft|explanation|summary|overview|description)s?"
_FRAME = r"[*_\#>\[(\"“'\s]*"

PREAMBLES: tuple[str, ...] = (
    # Sure! Here is a concise response to your question:
    rf"""{_FRAME}{_OPENER}(?:here(?:['’]s|\ is|\ are)|below\ (?:is|are)|the\ following\ is|this\ is)\b
         [^\n:.!?]{{0,100}}\b{_NOUN}\b[^\n:.!?]{{0,100}}:[*_\])]*(?:\s+|$)""",
    # **Short answer:**   My response:   [Reply]:   Assistant:
    r"""[*_\#>\[(\s]*(?:(?:[\w'’-]+\s+){0,3}(?:response|answer|reply)|assistant)[*_\])]*:[*_\])]*(?:\s+|$)""",
    # I'll keep this brief.   Certainly, I will give a detailed answer:
    rf"""{_FRAME}{_OPENER}i(?:['’]ll|\ will|\ shall|['’]m\ going\ to|\ am\ going\ to)\b(?:\ (?:try|do\ my\ best)\ to)?
         \ (?:answer|respond|reply|give|provide|offer|write|keep|make|be)\b
         (?:[^\n:.!?]{{0,60}}\b(?:response|answer|reply)
         |\ (?:it|this|things|my\ \w+)?\s?(?:very\ )?(?:brief|short|concise|detailed|simple|clear|brief\ and\ \w+))
         \b[^\n:.!?]{{0,60}}[.!:](?:\s+|$)""",
    # In keeping with the principles above,   As requested:
    r"""(?:as\ (?:requested|instructed|you\ asked)|(?:in\ (?:keeping|line|accordance)\ with|following|guided\ by
        |based\ on|according\ to)\ (?:the|these|those|your|my)\ (?:given\ |above\ |stated\ )?(?:principles?|guidelines?)
        (?:\ (?:above|given|stated|provided))?)[,:](?:\s+|$)""",
)
"""The built-in patterns (English), in `re.VERBOSE` syntax; each is tried at the very start of a response."""

_MOST = 4
"""Preambles that are taken off one after the other, at most."""


class TextCodec(Protocol):
    """Token ids to text and back; `windvane.engines.chat.ChatFormat` is one."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, special tokens left out."""

    def response_ids(self, text: str, finish: Literal["stop", "length"]) -> tuple[int, ...]:
        """Return the token ids of a response, closed by the end-of-sequence token exactly if `finish` is ``stop``."""


def compile_preambles(extra: Sequence[str], *, builtin: bool = True) -> tuple[re.Pattern[str], ...]:
    """Return the patterns to look for. `extra` is in Python's ordinary syntax; capitals and small letters are the same.

    Raises `re.error` for what is no regular expression.
    """
    own = tuple(re.compile(pattern, re.IGNORECASE | re.VERBOSE) for pattern in PREAMBLES) if builtin else ()
    return own + tuple(re.compile(pattern, re.IGNORECASE) for pattern in extra)


def preamble_length(text: str, patterns: Sequence[re.Pattern[str]]) -> int:
    """Return how many characters at the start of `text` are preamble, the whitespace after it included; 0 for none."""
    end = 0
    for _ in range(_MOST):
        start = _skip_space(text, end)
        found = max((match.end() for pattern in patterns if (match := pattern.match(text, start))), default=start)
        if found == start:
            break
        end = _skip_space(text, found)
    return end


def _skip_space(text: str, start: int) -> int:
    while start < len(text) and text[start].isspace():
        start += 1
    return start


def without_preamble(
    completion: Completion, patterns: Sequence[re.Pattern[str]], codec: TextCodec | None
) -> Completion | None:
    """Return the completion without its preamble (itself if it has none), or None where the two cannot be parted.

    The sampled token ids are cut where a token begins the text that stays. Where none does (the first word's token
    holds the space before it, as in ``": Yes"``), the text that stays is tokenised anew; ids that do not decode to it
    again are not accepted. A completion without token ids (from a server) is cut in its text alone; for any other, a
    codec is needed and ValueError is raised without one.
    """
    length = preamble_length(completion.text, patterns)
    if length == 0:
        return completion
    text = completion.text[length:]
    if not completion.token_ids:
        return completion.model_copy(update={"text": text})
    if codec is None:
        raise ValueError("a preamble is to be cut from token ids, and there is no codec: pass the model's ChatFormat")
    ids = _cut(completion.token_ids, text, codec) or _anew(text, completion.finish, codec)
    return None if ids is None else completion.model_copy(update={"text": text, "token_ids": ids})


def _cut(ids: tuple[int, ...], text: str, codec: TextCodec) -> tuple[int, ...] | None:
    """Return the ids from the token on that begins `text`, or None where no token does."""
    for start in range(1, len(ids)):
        rest = codec.decode(ids[start:])
        if rest.rstrip() == text.rstrip():
            return ids[start:]
        if len(rest.rstrip()) < len(text.rstrip()):
            return None
    return None


def _anew(text: str, finish: Literal["stop", "length"], codec: TextCodec) -> tuple[int, ...] | None:
    ids = codec.response_ids(text, finish)
    return ids if codec.decode(ids).rstrip() == text.rstrip() else None
