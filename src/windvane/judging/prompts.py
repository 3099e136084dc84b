"""The requests to a judge: texts of `prompts.yaml`, filled in for one query, and the schema of the reply."""

import functools
import json
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, NamedTuple

from windvane.config import Settings, load_config
from windvane.judging.aspects import Aspect
from windvane.judging.fences import fenced, transcript
from windvane.types import Message, Query

_PLACE = re.compile(r"\{(\w+)\}")


class ChoiceTexts(Settings):
    """How a judge is asked to choose aspects."""

    system: str
    proposing: str
    """Said where the judge may propose aspects of its own."""
    fixed: str
    """Said where it may not."""
    user: str


class ScoreTexts(Settings):
    """How a judge is asked to score given aspects."""

    system: str
    user: str


class DigitTexts(Settings):
    """How a local judge is asked for one digit."""

    system: str
    rising: str
    falling: str
    user: str


class Texts(Settings):
    """The texts of `prompts.yaml`."""

    version: int
    choose: ChoiceTexts
    score: ScoreTexts
    together: ChoiceTexts
    again: str
    digit: DigitTexts


class Limits(NamedTuple):
    """How many aspects a judge chooses."""

    least: int
    most: int
    new: int
    """At most so many that are not on offer."""


class Task(NamedTuple):
    """One request to a judge, before it is known how it is sampled."""

    messages: tuple[Message, ...]
    schema: Mapping[str, Any]
    form: str
    """The form of the reply, as the judge is shown it."""

    def again(self, why: str) -> "Task":
        """Return the request with a complaint about the first reply. It comes last, so the prefix stays the same."""
        *lead, last = self.messages
        complaint = fill(texts().again, why=why, form=self.form)
        return self._replace(messages=(*lead, Message(role=last.role, content=f"{last.content}\n\n{complaint}")))


@functools.cache
def texts() -> Texts:
    """Return the texts that come with windvane."""
    with resources.as_file(resources.files("windvane.judging") / "prompts.yaml") as path:
        return load_config(Texts, path)


def fill(template: str, **values: object) -> str:
    """Return a template with its ``{names}`` replaced, all at once: braces in a value stay as they are."""
    return _PLACE.sub(lambda place: str(values[place[1]]), template)


def choice_task(query: Query, aspects: Sequence[Aspect], limits: Limits) -> Task:
    """Return the request for the aspects of one query."""
    form = '{"aspects": ["name", …], "new": [{"name": "…", "definition": "…"}]}' if limits.new else (
        '{"aspects": ["name", …]}'
    )  # fmt: skip
    system = _choosing(texts().choose, aspects, limits, form)
    user = fill(texts().choose.user, request=fenced("request", transcript(query)))
    names = {"type": "array", "items": {"type": "string", "enum": [aspect.name for aspect in aspects]}}
    new = {"type": "array", "items": _object(name={"type": "string"}, definition={"type": "string"})}
    return Task(_turns(system, user), _object(aspects=names, **({"new": new} if limits.new else {})), form)


def score_task(query: Query, response: str, aspects: Sequence[Aspect]) -> Task:
    """Return the request for the scores of one answer on these aspects.

    What is the same for all answers to a query comes first, so that a server computes it once.
    """
    form = json.dumps({aspect.name: {"reason": "…", "score": "1 to 5"} for aspect in aspects}, ensure_ascii=False)
    form = form.replace('"1 to 5"', "1 to 5")
    user = fill(
        texts().score.user,
        request=fenced("request", transcript(query)),
        aspects=described(aspects),
        answer=_answer(query, response),
        form=form,
    )
    score = _object(reason={"type": "string"}, score=_SCORE)
    schema = _object(**{aspect.name: score for aspect in aspects})
    return Task(_turns(fill(texts().score.system, version=texts().version), user), schema, form)


def together_task(query: Query, response: str, aspects: Sequence[Aspect], limits: Limits) -> Task:
    """Return the request that chooses the aspects of one answer and scores them."""
    definition = ', "definition": "…"' if limits.new else ""
    form = f'{{"scores": [{{"aspect": "…"{definition}, "reason": "…", "score": 1 to 5}}, …]}}'
    system = _choosing(texts().together, aspects, limits, form)
    user = fill(
        texts().together.user,
        request=fenced("request", transcript(query)),
        answer=_answer(query, response),
        form=form,
    )
    text = {"type": "string"}
    extra = {"definition": text} if limits.new else {}
    item = _object(aspect=text, **extra, reason=text, score=_SCORE)
    return Task(_turns(system, user), _object(scores={"type": "array", "items": item}), form)


def digit_messages(query: Query, response: str, aspect: Aspect, *, rising: bool) -> tuple[Message, ...]:
    """Return the request for one digit, on the scale or on the same scale upside down."""
    said = [(score if rising else 6 - score, text) for score, text in aspect.anchors() if text]
    user = fill(
        texts().digit.user,
        request=fenced("request", transcript(query)),
        answer=_answer(query, response),
        name=aspect.name,
        definition=aspect.definition.rstrip("."),
        order=texts().digit.rising if rising else texts().digit.falling,
        anchors="\n".join(f"{digit}: {text}" for digit, text in sorted(said)),
    )
    return _turns(fill(texts().digit.system, version=texts().version), user)


def described(aspects: Sequence[Aspect]) -> str:
    """Return aspects as a list."""
    return "\n".join(aspect.described() for aspect in aspects)


_SCORE = {"type": "integer", "enum": [1, 2, 3, 4, 5]}


def _choosing(asked: ChoiceTexts, aspects: Sequence[Aspect], limits: Limits, form: str) -> str:
    proposing = fill(asked.proposing, new=limits.new) if limits.new else asked.fixed
    return fill(
        asked.system,
        version=texts().version,
        least=limits.least,
        most=limits.most,
        aspects=described(aspects),
        proposing=proposing,
        form=form,
    )


def _answer(query: Query, response: str) -> str:
    return fenced("answer", response.strip() or "(nothing: the answer is empty)", beside=(transcript(query),))


def _turns(system: str, user: str) -> tuple[Message, ...]:
    return Message(role="system", content=system), Message(role="user", content=user)


def _object(**properties: object) -> dict[str, Any]:
    """Return the schema of an object that has all of these properties and no other, as strict servers want it."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
