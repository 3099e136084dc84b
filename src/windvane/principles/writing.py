"""Principles that a model writes: asked for as JSON, repaired, asked for once more, else the bank's."""

import json
import re
from collections.abc import Sequence
from typing import NamedTuple

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, field_validator

from windvane.engines.protocols import Advance, Generator, no_progress
from windvane.principles.features import Feature, same_words, within
from windvane.principles.prompts import prompts, writing_messages
from windvane.principles.settings import GeneratedPrinciples
from windvane.seeds import derive_seed
from windvane.types import Completion, Prompt, Query, Sampling

MAX_WORDS = 80
"""A longer principle is no principle but an answer, or a loop."""


class PrinciplePair(BaseModel):
    """What a model is asked for: two opposite principles."""

    model_config = ConfigDict(frozen=True)

    good: str = Field(validation_alias=AliasChoices("good", "goodprinciple", "positive", "positiveprinciple"))
    bad: str = Field(validation_alias=AliasChoices("bad", "badprinciple", "negative", "negativeprinciple"))

    @field_validator("good", "bad")
    @classmethod
    def _readable(cls, text: str) -> str:
        joined = " ".join(text.split())
        words = len(joined.split())
        if not any(sign.isalpha() for sign in joined):
            raise ValueError("it is empty")
        if words > MAX_WORDS:
            raise ValueError(f"it has {words} words, and a principle has at most {MAX_WORDS}")
        return joined


class Unreadable(NamedTuple):
    """A reply that holds no usable pair, and why; the reason is told to the model when it is asked again."""

    why: str


class Task(NamedTuple):
    """One request for a pair of principles."""

    query: Query
    features: tuple[Feature, ...]
    """One feature, or all of the query's."""

    def prompt(self, *, seed: int, complaint: str | None = None) -> Prompt:
        """Return the request; its seed depends on the query, the features and whether it is asked again."""
        names = "+".join(feature.name for feature in self.features)
        attempt = "first" if complaint is None else "again"
        own_seed = derive_seed(seed, "principles", "write", attempt, self.query.id, names)
        return Prompt(writing_messages(self.query, self.features, complaint), own_seed)


def write_pairs(
    tasks: Sequence[Task],
    settings: GeneratedPrinciples,
    generator: Generator,
    *,
    seed: int,
    advance: Advance = no_progress,
) -> list[PrinciplePair | None]:
    """Return a pair for each task, None where two replies could not be read.

    `advance` hears of the first reply of each task.
    """
    sampling = Sampling(settings.max_new_tokens, settings.temperature, settings.top_p)
    first = generator.generate([task.prompt(seed=seed) for task in tasks], sampling, advance=advance)
    read = [read_pair(reply, task.query) for task, reply in zip(tasks, first, strict=True)]
    failed = [(index, result) for index, result in enumerate(read) if isinstance(result, Unreadable)]
    if failed:
        again = [tasks[index].prompt(seed=seed, complaint=result.why) for index, result in failed]
        second = generator.generate(again, sampling)
        for (index, _), reply in zip(failed, second, strict=True):
            read[index] = read_pair(reply, tasks[index].query)
    return [result if isinstance(result, PrinciplePair) else None for result in read]


def read_pair(reply: Completion, query: Query) -> PrinciplePair | Unreadable:
    """Read a reply as a pair of principles, whatever stands around the JSON and however it is broken.

    Unreadable is: no JSON object, a missing or empty principle, one that is too long, two that say the same, a copy of
    an example or of the query itself, and an object that the token limit cut off (its end would be lost).
    """
    values = _json_object(reply)
    if isinstance(values, Unreadable):
        return values
    try:
        pair = PrinciplePair.model_validate({_key(name): value for name, value in values.items()})
    except ValidationError as error:
        return Unreadable(_why(error))
    if same_words(pair.good, pair.bad):
        return Unreadable("the two principles are the same")
    if any(
        same_words(pair.good, example.good) or same_words(pair.bad, example.bad) for example in prompts().write.examples
    ):
        return Unreadable("it copies the principles of another request")
    if within(pair.good, query.text) or within(pair.bad, query.text):
        return Unreadable("it repeats the request")
    return pair


def _json_object(reply: Completion) -> dict[str, object] | Unreadable:
    """Return the first object of a reply: as it is where it is valid JSON, repaired where it is not."""
    text = re.sub(r"<think>.*?</think>", "", reply.text, flags=re.DOTALL)
    starts = [found.start() for found in re.finditer(r"\{", text)]
    if not starts:
        return Unreadable("it holds no JSON object")
    values = next(filter(None, (_decoded(text[start:]) for start in starts)), None)
    if values is None and reply.finish == "length":
        return Unreadable("it was cut off before the JSON object ended")
    values = values or _repaired(text[starts[0] :])
    inner = list(values.values()) if values else []
    if len(inner) == 1 and isinstance(inner[0], dict):
        return inner[0]
    return Unreadable("it holds no JSON object") if values is None else values


def _decoded(text: str) -> dict[str, object] | None:
    """Read the object that `text` begins with, whatever follows it; line breaks inside its strings are no fault."""
    try:
        values, _ = json.JSONDecoder(strict=False).raw_decode(text)
    except json.JSONDecodeError:
        return None
    return values if isinstance(values, dict) else None


def _repaired(text: str) -> dict[str, object] | None:
    import json_repair

    values = json_repair.loads(text)
    found = values if isinstance(values, list) else [values]
    return next((value for value in found if isinstance(value, dict)), None)


def _key(name: object) -> str:
    """Return a key without case and signs: "Good principle", "good_principle" and "GOOD-PRINCIPLE" are one."""
    return "".join(sign for sign in str(name).casefold() if sign.isalpha())


def _why(error: ValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))
    return f'"{place}": {first["msg"].removeprefix("Value error, ")}'
