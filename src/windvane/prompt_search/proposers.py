"""The optimiser: a model reads how a prompt did, says what is wrong with it, and writes better ones."""

import functools
import re
from collections.abc import Iterator, Sequence
from importlib import resources
from typing import Any, NamedTuple

from pydantic import Field

from windvane.config import Settings, load_config
from windvane.engines.protocols import ChatRequest, Reply, Talker
from windvane.errors import NoReply
from windvane.judging.fences import fenced, transcript
from windvane.judging.prompts import fill
from windvane.judging.replies import Fields, foreign, json_values
from windvane.prompt_search.contracts import Context, Past, Proposals, Seen, distinct, same_prompt
from windvane.types import Message, Sampling

_LISTS = frozenset(("prompts", "newprompts", "systemprompts", "newsystemprompts", "rewrites", "candidates"))
_SINGLE = frozenset(("prompt", "newprompt", "systemprompt", "newsystemprompt", "text", "rewrite"))
_HEADING = re.compile(r"^\W*(?:new\s+)?(?:system\s+)?prompt\s+\d+\W*$", re.IGNORECASE | re.MULTILINE)
_QUOTED_WORDS = 6
"""Words of a request from which on it is recognised in a prompt; a shorter one could stand there by chance."""


class OptimizerTexts(Settings):
    """The texts of `optimizer.yaml`."""

    version: int
    system: str
    user: str
    seen: str
    nothing_seen: str
    unmarked: str
    past: str
    others: str


class OptimizerSettings(Settings):
    """A model that writes new prompts."""

    max_new_tokens: int = Field(default=4096, ge=256)
    """Tokens of a reply: a critique and several prompts. Of a reply that is cut off, the last prompt is left out."""
    temperature: float = Field(default=0.8, ge=0)
    """High, because different prompts are wanted. The published search takes 0.2."""
    top_p: float = Field(default=0.95, gt=0, le=1)
    """Share of the probability mass that tokens are drawn from."""
    max_words: int = Field(default=400, ge=10)
    """Words of a prompt; a longer one is left out."""
    requests: int = Field(default=3, ge=1)
    """Requests at most for one set of prompts: after the first, only for those that are missing."""
    structured: bool = True
    """Send the reply's JSON schema with each request, for servers that hold a model to one. A reply is read leniently
    either way."""

    @property
    def sampling(self) -> Sampling:
        """How a reply is drawn."""
        return Sampling(self.max_new_tokens, self.temperature, self.top_p)


@functools.cache
def texts() -> OptimizerTexts:
    """Return the texts that come with windvane."""
    with resources.as_file(resources.files("windvane.prompt_search") / "optimizer.yaml") as path:
        return load_config(OptimizerTexts, path)


class _Read(NamedTuple):
    prompts: list[str]
    faults: list[str]
    """Why others are not among them."""


class Optimizer:
    """A `Proposer` that is a model.

    One request asks for a critique and all the prompts, so that the model sees what it has written already. What is
    missing from a reply (it was unreadable or cut off, it had fewer, or doublets, or prompts that are taken) is asked
    for again, up to `requests` times. It never returns a prompt that quotes the request that it was shown.
    """

    origin = "optimizer"

    def __init__(self, talker: Talker, settings: OptimizerSettings | None = None) -> None:
        self._talker = talker
        self._settings = settings or OptimizerSettings()

    async def propose(self, context: Context, n: int) -> Proposals:
        """Return `n` distinct prompts that are not taken, or fewer and what was wrong with the replies."""
        taken = context.taken | {context.prompt}
        found: list[str] = []
        faults: list[str] = []
        asked = 0
        while len(found) < n and asked < self._settings.requests:
            sample = context.sample * self._settings.requests + asked
            asked += 1
            try:
                reply = await self._talker.ask(self._request(context, n - len(found), found, sample))
            except NoReply as error:
                faults.append(f"no reply ({error})")
                continue
            read = self._read(reply, context)
            new = distinct(read.prompts, taken | frozenset(found))
            faults += read.faults
            if len(new) < len(read.prompts):
                faults.append(f"{len(read.prompts) - len(new)} prompts were there before")
            found = [*found, *new][:n]
        if len(found) == n:
            return Proposals(found, asked=asked)
        said = "; ".join(dict.fromkeys(faults)) or "the replies had fewer"
        return Proposals(found, f"after {asked} request{'s' * (asked > 1)}, {said}", asked)

    def _request(self, context: Context, n: int, others: Sequence[str], sample: int) -> ChatRequest:
        messages = optimizer_messages(context, n, others, max_words=self._settings.max_words)
        schema = _schema(n) if self._settings.structured else None
        return ChatRequest(messages, self._settings.sampling, sample, schema)

    def _read(self, reply: Reply, context: Context) -> _Read:
        material = [part for seen in context.seen for part in (transcript(seen.query), seen.judged.output)]
        prompts = read_prompts(reply, [context.prompt, *material])
        if not prompts:
            return _Read([], ["a reply without a readable prompt" + (", cut off" * (reply.finish == "length"))])
        fitting, faults = [], []
        for prompt in prompts:
            fault = self._fault(prompt, context)
            if fault is None:
                fitting.append(prompt)
            else:
                faults.append(fault)
        return _Read(fitting, faults)

    def _fault(self, prompt: str, context: Context) -> str | None:
        if len(prompt.split()) > self._settings.max_words:
            return f"a prompt of more than {self._settings.max_words} words"
        words = same_prompt(prompt).casefold()
        for seen in context.seen:
            asked = same_prompt(seen.query.text).casefold()
            if len(asked.split()) >= _QUOTED_WORDS and asked in words:
                return "a prompt that quotes the request"
        return None


def optimizer_messages(
    context: Context, n: int, others: Sequence[str] = (), *, max_words: int = 400
) -> tuple[Message, ...]:
    """Return the conversation that asks for `n` new prompts beside `others`, which an earlier reply had."""
    said = texts()
    form = '{"critique": "…", "prompts": ["…"' + (", …" if n > 1 else "") + "]}"
    system = fill(said.system, version=said.version, n=n, words=max_words, form=form)
    user = fill(
        said.user,
        n=n,
        present=fenced("present prompt", context.prompt.strip() or "(none)"),
        seen="\n".join(map(_shown, context.seen)) or said.nothing_seen,
        past=_earlier(context.past),
        others=fill(said.others, prompts=_listed("new prompt", others)) if others else "",
    )
    return Message(role="system", content=system), Message(role="user", content=user)


def read_prompts(reply: Reply, material: Sequence[str]) -> list[str]:
    """Return the prompts of a reply: from its JSON, else from its headings ``Prompt 1``; in order, doublets included.

    JSON that stands word for word in the material is not the optimiser's. Of a reply that was cut off the last prompt
    is left out.
    """
    values = foreign(json_values(reply.text), material)
    found = [prompt for value in values for prompt in _in_json(value)]
    if not found:
        found = _HEADING.split(reply.text)[1:]
    found = [prompt.strip() for prompt in found if prompt.strip()]
    return found[:-1] if reply.finish == "length" else found


def _in_json(value: Any) -> Iterator[str]:
    if isinstance(value, list) and not isinstance(value, Fields):
        for inner in value:
            yield from _in_json(inner)
    elif isinstance(value, Fields):
        for name, inner in value:
            key = "".join(sign for sign in name.casefold() if sign.isalpha())
            if key in _LISTS:
                yield from _listed_prompts(inner)
            elif key in _SINGLE and isinstance(inner, str):
                yield inner


def _listed_prompts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Fields):
        yield from _in_json(value) if any(isinstance(inner, list) for _, inner in value) else _strings(value)
    elif isinstance(value, list):
        for inner in value:
            yield from _listed_prompts(inner)


def _strings(fields: Fields) -> Iterator[str]:
    """Yield what an object of a list of prompts holds: its field of that name, or, keyed by number, all of it."""
    named = [inner for name, inner in fields if "".join(filter(str.isalpha, name.casefold())) in _SINGLE]
    yield from (inner for inner in named or [inner for _, inner in fields] if isinstance(inner, str))


def _shown(seen: Seen) -> str:
    request, answer = transcript(seen.query), seen.judged.output
    marks = [
        f"- {aspect.aspect}: {aspect.score:g}. {aspect.reason}".rstrip()
        for aspect in seen.judged.aspects
        if aspect.score is not None
    ]
    return fill(
        texts().seen,
        request=fenced("request", request),
        answer=fenced("answer", answer.strip() or "(nothing: the answer is empty)", beside=(request,)),
        marks=fenced("marks", "\n".join(marks) or texts().unmarked),
    )


def _earlier(past: Sequence[Past]) -> str:
    if not past:
        return ""
    told = any(one.score is not None for one in past)
    titles = [f"earlier prompt, mean {one.score:.2f}" if one.score is not None else "earlier prompt" for one in past]
    prompts = "\n".join(fenced(title, one.prompt) for title, one in zip(titles, past, strict=True))
    return fill(texts().past, means=", each with its mean mark" if told else "", prompts=prompts)


def _listed(title: str, prompts: Sequence[str]) -> str:
    return "\n".join(fenced(title, prompt) for prompt in prompts)


def _schema(n: int) -> dict[str, Any]:
    prompts = {"type": "array", "items": {"type": "string"}, "minItems": n, "maxItems": n}
    return {
        "type": "object",
        "properties": {"critique": {"type": "string"}, "prompts": prompts},
        "required": ["critique", "prompts"],
        "additionalProperties": False,
    }
