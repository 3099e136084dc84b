"""Aspects: what an answer is marked on, in windvane's words, in the user's, or as a judge proposed them."""

import difflib
import functools
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Self

from pydantic import Field, field_validator, model_validator

from windvane.config import Settings, load_config
from windvane.errors import ConfigError

MAX_NAME, MAX_DEFINITION = 40, 400
"""Characters. What is longer is no name, and no definition."""
N_DEFAULT = 3
"""The first aspects of a list are its default set: Helpfulness, Clarity and Factuality of windvane's own."""


class Aspect(Settings):
    """One side of an answer, marked from 1 (worst) to 5 (best)."""

    name: str = Field(max_length=MAX_NAME)
    """What it is called, such as Factuality; case, spaces and signs do not tell names apart."""
    definition: str = Field(max_length=MAX_DEFINITION)
    """What is looked at, in half a sentence."""
    score_1: str | None = None
    """What an answer of score 1 is like; null (here and below) leaves it to the judge."""
    score_3: str | None = None
    """What an answer of score 3 is like."""
    score_5: str | None = None
    """What an answer of score 5 is like."""

    @field_validator("*")
    @classmethod
    def _one_line(cls, text: str | None) -> str | None:
        if text is None:
            return None
        joined = " ".join(text.split())
        if not joined:
            raise ValueError("must not be empty")
        return joined

    @field_validator("name")
    @classmethod
    def _has_a_letter(cls, name: str) -> str:
        if not aspect_key(name):
            raise ValueError(f"{name!r} has no letter or digit, and so it is no name")
        return name

    def described(self) -> str:
        """Return the aspect as one item of a list, with what earns which score."""
        lines = [f"- {self.name}: {self.definition.rstrip('.')}."]
        lines += [f"  {score} = {text}" for score, text in self.anchors() if text]
        return "\n".join(lines)

    def anchors(self) -> tuple[tuple[int, str | None], ...]:
        """Return the described scores, from 1 to 5."""
        return (1, self.score_1), (3, self.score_3), (5, self.score_5)


class AspectFile(Settings):
    """A file of aspects, as `aspects.yaml` is."""

    aspects: tuple[Aspect, ...] = Field(min_length=1)
    """At least one aspect; their names differ. The first three are the default set."""

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        keys = [aspect_key(aspect.name) for aspect in self.aspects]
        twice = sorted({aspect.name for aspect, key in zip(self.aspects, keys, strict=True) if keys.count(key) > 1})
        if twice:
            raise ValueError(
                f"two aspects share a name ({', '.join(map(repr, twice))}; case and signs do not count); "
                "give each a name of its own"
            )
        return self


@functools.cache
def aspect_bank() -> tuple[Aspect, ...]:
    """Return the 14 aspects that come with windvane."""
    with resources.as_file(resources.files("windvane.judging") / "aspects.yaml") as path:
        return load_config(AspectFile, path).aspects


def read_aspects(path: Path | None) -> tuple[Aspect, ...]:
    """Return the aspects of a user's YAML file; of windvane where `path` is None.

    Raises `ConfigError` naming the file and what is wrong with it: a missing or unknown key, an empty text, two equal
    names.
    """
    if path is None:
        return aspect_bank()
    if not path.is_file():
        raise ConfigError(
            f"The aspect file {str(path)!r} is not there. Give the path of a YAML file with a list `aspects`, each "
            "with a name and a definition."
        )
    return load_config(AspectFile, path).aspects


def aspect_key(name: str) -> str:
    """Return a name without case and signs: "Critical-Thinking" and "critical thinking" are one."""
    return "".join(sign for sign in name.casefold() if sign.isalnum())


def named(names: Iterable[str], aspects: Sequence[Aspect]) -> tuple[Aspect, ...]:
    """Return the aspects of these names, each once, in the order of the names; raises `ConfigError` for one unknown."""
    known = {aspect_key(aspect.name): aspect for aspect in aspects}
    found: dict[str, Aspect] = {}
    for name in names:
        key = aspect_key(name)
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"Did you mean {known[near[0]].name!r}? " if near else ""
            offered = ", ".join(aspect.name for aspect in aspects)
            raise ConfigError(
                f"{name!r} is no aspect. {hint}There are {offered}; another one needs a definition in a file of "
                "aspects of your own."
            )
        found[key] = known[key]
    return tuple(found.values())
