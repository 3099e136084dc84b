"""The proposer without a model: prompts made of a lead and guidelines, changed one guideline at a time."""

import random
from collections.abc import Iterator, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import NamedTuple

from pydantic import Field, field_validator

from windvane.config import Settings, load_config
from windvane.errors import ConfigError
from windvane.principles import feature_bank
from windvane.prompt_search.contracts import Context, Proposals, distinct, same_prompt
from windvane.seeds import derive_seed

_BULLETS = ("- ", "* ", "• ")


class GuidelineFile(Settings):
    """A file of guidelines."""

    guidelines: tuple[str, ...] = Field(min_length=1)
    """What an assistant may be told, each in a sentence or two, spoken to it."""

    @field_validator("guidelines")
    @classmethod
    def _say_something(cls, guidelines: tuple[str, ...]) -> tuple[str, ...]:
        lines = tuple(" ".join(text.split()) for text in guidelines)
        if not all(lines):
            raise ValueError("a guideline must not be empty")
        return tuple(dict.fromkeys(lines))


class Parts(NamedTuple):
    """A prompt, taken apart."""

    lead: str
    """Everything before the first guideline, and whatever is no guideline."""
    guidelines: tuple[str, ...]
    """The lines that begin with a bullet."""


def bank_guidelines() -> tuple[str, ...]:
    """Return the good principles of windvane's own features, concision included."""
    bank = feature_bank()
    return tuple(feature.good_principle for feature in (*bank.choosable, bank.concision))


def read_guidelines(path: Path) -> tuple[str, ...]:
    """Return the guidelines of a user's YAML file; raises `ConfigError` naming the file and what is wrong with it."""
    if not path.is_file():
        raise ConfigError(
            f"The guideline file {str(path)!r} is not there. Give the path of a YAML file with a list `guidelines`."
        )
    return load_config(GuidelineFile, path).guidelines


def take_apart(prompt: str) -> Parts:
    """Return lead and guidelines of a prompt."""
    lines = prompt.splitlines()
    bullets = [line.strip()[2:].strip() for line in lines if line.lstrip().startswith(_BULLETS)]
    rest = [line for line in lines if not line.lstrip().startswith(_BULLETS)]
    return Parts("\n".join(rest).strip(), tuple(dict.fromkeys(filter(None, bullets))))


def put_together(parts: Parts) -> str:
    """Return the prompt of a lead and guidelines."""
    return "\n".join([*filter(None, [parts.lead]), *(f"- {line}" for line in parts.guidelines)])


class GuidelineProposer:
    """A `Proposer` that adds, drops and swaps guidelines, and merges those of two prompts; it calls no model.

    All changes of a prompt are tried, one of each kind in turn, in an order that the seed and the prompt decide; none
    is proposed twice.
    """

    origin = "guidelines"

    def __init__(self, guidelines: Sequence[str], *, seed: int = 0, at_most: int = 6) -> None:
        """Raise `ConfigError` where there is no guideline, or `at_most` allows for none."""
        if not guidelines or at_most < 1:
            raise ConfigError(
                f"{len(guidelines)} guidelines with at most {at_most} in a prompt leave nothing to propose; give at "
                "least one of each."
            )
        self._guidelines = tuple(dict.fromkeys(" ".join(text.split()) for text in guidelines))
        self._seed = seed
        self._at_most = at_most

    async def propose(self, context: Context, n: int) -> Proposals:
        """Return `n` changed prompts, or fewer where no more changes are left."""
        parts = take_apart(context.prompt)
        kinds = [
            self._shuffled(kind, changes, context)
            for kind, changes in (
                ("add", list(self._additions(parts))),
                ("drop", list(_drops(parts))),
                ("swap", list(self._swaps(parts))),
                ("merge", list(self._merges(parts, context))),
            )
        ]
        in_turn = (change for change in chain.from_iterable(zip_longest(*kinds)) if change is not None)
        fitting = [put_together(change) for change in in_turn if len(change.guidelines) <= self._at_most]
        found = distinct(fitting, context.taken | {context.prompt})
        if len(found) >= n:
            return Proposals(found[:n], asked=0)
        said = f"only {len(found)} of the changes that {len(self._guidelines)} guidelines allow are left"
        return Proposals(found, said, asked=0)

    def _shuffled(self, kind: str, changes: list[Parts], context: Context) -> list[Parts]:
        source = random.Random(derive_seed(self._seed, kind, same_prompt(context.prompt), context.sample))
        return source.sample(changes, len(changes))

    def _unused(self, parts: Parts) -> list[str]:
        return [line for line in self._guidelines if line not in parts.guidelines]

    def _additions(self, parts: Parts) -> Iterator[Parts]:
        for line in self._unused(parts):
            yield parts._replace(guidelines=(*parts.guidelines, line))

    def _swaps(self, parts: Parts) -> Iterator[Parts]:
        for place in range(len(parts.guidelines)):
            for line in self._unused(parts):
                yield parts._replace(guidelines=(*parts.guidelines[:place], line, *parts.guidelines[place + 1 :]))

    def _merges(self, parts: Parts, context: Context) -> Iterator[Parts]:
        """Yield the prompt with what fits of an earlier one's guidelines, and with two unused ones at once."""
        for past in context.past:
            others = [line for line in take_apart(past.prompt).guidelines if line not in parts.guidelines]
            room = self._at_most - len(parts.guidelines)
            if others and room > 0:
                yield parts._replace(guidelines=(*parts.guidelines, *others[:room]))
        unused = self._unused(parts)
        for place, line in enumerate(unused):
            for other in unused[place + 1 :]:
                yield parts._replace(guidelines=(*parts.guidelines, line, other))


def _drops(parts: Parts) -> Iterator[Parts]:
    for place in range(len(parts.guidelines)):
        yield parts._replace(guidelines=(*parts.guidelines[:place], *parts.guidelines[place + 1 :]))
