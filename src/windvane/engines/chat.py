"""From conversations to token ids and back: one beginning-of-sequence token, one generation prompt, no surprises."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jinja2

from windvane.errors import DataError, ModelError
from windvane.types import Message, Principle

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] | capitalize }}: {{ message['content'] }}"
    "{{ eos_token if message['role'] == 'assistant' else '' }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
"""The built-in template that `chat_template: plain` chooses: role names, a colon, blank lines."""

_PROBE_SYSTEM = "Windvane-system-probe"
_PROBE_ANSWER = "Windvane-answer-probe"


class SplitResponse(NamedTuple):
    """A response in its two parts."""

    thinking: str | None
    """What stood in the think block, or None without one."""
    answer: str
    """What the reader sees; empty where the block was never closed."""


class ChatFormat:
    """The chat template of one tokenizer, with its traps disarmed.

    A prompt begins with exactly one beginning-of-sequence token where the template writes one, or the tokenizer adds
    one, or both; with none where neither does. A template that refuses or swallows a system message gets it at the
    head of the first user turn. Templates that know `enable_thinking` have it turned off.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        if not tokenizer.chat_template:
            raise ModelError(
                f"The tokenizer of {tokenizer.name_or_path or 'this model'} has no chat template, which says how "
                "to write a conversation. Set engine.chat_template to a jinja file, or to plain for the built-in one."
            )
        if tokenizer.eos_token_id is None:
            raise ModelError(
                f"The tokenizer of {tokenizer.name_or_path or 'this model'} has no end-of-sequence token, so no "
                "response could ever end. Set eos_token in its tokenizer_config.json."
            )
        self.tokenizer = tokenizer
        self.accepts_system = self._accepts_system()
        """Whether the template writes a system message as a turn of its own."""
        self.end_id = self._end_of_turn()
        """The token that ends an assistant turn: what `response_ids` closes a finished response with."""
        self._added_bos = self._bos_the_tokenizer_adds()

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Return the token ids of a conversation up to and with one generation prompt.

        Raises `DataError` for a conversation that does not end with a user turn, `ModelError` where the template
        refuses the order of its turns.
        """
        if not messages or messages[-1].role != "user":
            last = repr(messages[-1].role) if messages else "missing"
            raise DataError(f"A prompt ends with a user turn, but the last turn is {last}.")
        ids = self._tokenize(self._render(self._folded(messages), generation_prompt=True))
        if self._added_bos is not None and (not ids or ids[0] != self._added_bos):
            ids.insert(0, self._added_bos)
        return ids

    def response_ids(self, text: str, finish: Literal["stop", "length"]) -> tuple[int, ...]:
        """Return the token ids of a response, tokenised apart from its prompt; one end token if it was finished."""
        ids = self._tokenize(text)
        if finish == "stop" and (not ids or ids[-1] != self.end_id):
            ids.append(self.end_id)
        return tuple(ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, special tokens left out and spaces as they are."""
        text = self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text

    def _tokenize(self, text: str) -> list[int]:
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return list(ids)

    def _render(self, messages: Sequence[Message], *, generation_prompt: bool) -> str:
        turns = [message.model_dump() for message in messages]
        options: dict[str, Any] = {"tokenize": False, "add_generation_prompt": generation_prompt}
        try:
            text = self.tokenizer.apply_chat_template(turns, enable_thinking=False, **options)
        except jinja2.TemplateError as error:
            roles = ", ".join(message.role for message in messages)
            raise ModelError(
                f"The chat template refuses a conversation of the turns {roles}: {error}. "
                "Change the conversation, or set engine.chat_template to a jinja file that takes it."
            ) from error
        assert isinstance(text, str)
        return text

    def _folded(self, messages: Sequence[Message]) -> Sequence[Message]:
        if self.accepts_system or messages[0].role != "system":
            return messages
        system, first, *rest = messages
        return (Message(role=first.role, content=f"{system.content}\n\n{first.content}"), *rest)

    def _accepts_system(self) -> bool:
        turns = (Message(role="system", content=_PROBE_SYSTEM), Message(role="user", content="Hello"))
        try:
            return _PROBE_SYSTEM in self._render(turns, generation_prompt=True)
        except ModelError:
            self._render(turns[1:], generation_prompt=True)  # raises if the template takes no conversation at all
            return False

    def _end_of_turn(self) -> int:
        """The first special token after an answer; the tokenizer's own end token where the template writes none."""
        turns = (Message(role="user", content="Hello"), Message(role="assistant", content=_PROBE_ANSWER))
        try:
            _, found, after = self._render(turns, generation_prompt=False).rpartition(_PROBE_ANSWER)
        except ModelError:  # a template for single turns; it will say so if more are asked of it
            return int(self.tokenizer.eos_token_id)
        # Some tokenizers mark the end of a turn as special without giving it a name among their special tokens.
        marked = {token for token, added in self.tokenizer.added_tokens_decoder.items() if added.special}
        special = marked.union(self.tokenizer.all_special_ids)
        ends = [token for token in self._tokenize(after) if token in special] if found else []
        return int(ends[0] if ends else self.tokenizer.eos_token_id)

    def _bos_the_tokenizer_adds(self) -> int | None:
        bos = self.tokenizer.bos_token_id
        plain = self.tokenizer("Hello")["input_ids"]
        return bos if bos is not None and plain and plain[0] == bos else None


def with_system(messages: Sequence[Message], system: str) -> tuple[Message, ...]:
    """Return a conversation under a system message; one that is there already comes first in it, then a blank line."""
    if messages and messages[0].role == "system":
        joined = f"{messages[0].content}\n\n{system}"
        return (Message(role="system", content=joined), *messages[1:])
    return (Message(role="system", content=system), *messages)


def with_prompt(messages: Sequence[Message], system: str, shown: Sequence[Message] = ()) -> tuple[Message, ...]:
    """Return a conversation under a system prompt and the turns of in-context examples.

    The examples stand between the system message and the conversation's own turns. An empty prompt adds no system
    message: a model behaves differently under an empty one than under none.
    """
    asked = with_system(messages, system) if system.strip() else tuple(messages)
    head = 1 if asked and asked[0].role == "system" else 0
    return (*asked[:head], *shown, *asked[head:])


class Steered(NamedTuple):
    """One conversation under two opposite principles."""

    good: tuple[Message, ...]
    """x⁺."""
    bad: tuple[Message, ...]
    """x⁻."""


def steered_prompts(messages: Sequence[Message], principle: Principle) -> Steered:
    """Return x⁺ and x⁻ of a conversation x."""
    good = with_prompt(messages, principle.good, principle.shown)
    return Steered(good, with_prompt(messages, principle.bad))


def split_thinking(text: str) -> SplitResponse:
    """Part a response from its think block.

    The opening tag may be missing (some templates end the prompt with it). A block that was never closed is all
    thinking and no answer.
    """
    opening, closing = "<think>", "</think>"
    head, closed, answer = text.partition(closing)
    if closed:
        return SplitResponse(head.strip().removeprefix(opening).strip(), answer.lstrip())
    if text.lstrip().startswith(opening):
        return SplitResponse(text.strip().removeprefix(opening).strip(), "")
    return SplitResponse(None, text)
