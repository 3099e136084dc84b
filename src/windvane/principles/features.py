"""Features: what a response can have more or less of, in the bank's words or in the user's."""

import functools
from importlib import resources
from pathlib import Path
from typing import NamedTuple, Self

from pydantic import Field, field_validator, model_validator

from windvane.config import Settings, load_config
from windvane.errors import ConfigError

CONCISION = "Concision"
"""The bank's feature that is not chosen for a query but added to some: without it every feature favours length."""


class Feature(Settings):
    """One direction in which responses differ, named from both ends."""

    name: str = Field(max_length=60)
    """What it is called, such as Accuracy; a model that chooses features sees this name."""
    good_adjective: str = Field(max_length=60)
    """What a response under the good principle is, such as accurate."""
    bad_adjective: str = Field(max_length=60)
    """What a response under the bad principle is, such as inaccurate."""
    meaning: str
    """What the feature is about, in half a sentence."""
    good_principle: str
    """What to do, spoken to the model that answers."""
    bad_principle: str
    """The opposite, spoken to the model that answers."""

    @field_validator("*")
    @classmethod
    def _one_line(cls, text: str) -> str:
        joined = " ".join(text.split())
        if not joined:
            raise ValueError("must not be empty")
        return joined

    @model_validator(mode="after")
    def _two_ends(self) -> Self:
        for good, bad in ((self.good_adjective, self.bad_adjective), (self.good_principle, self.bad_principle)):
            if same_words(good, bad):
                raise ValueError(f"{self.name}: good and bad are both {good!r}; without a contrast there is no signal")
        return self


class FeatureFile(Settings):
    """A file of features, as `bank.yaml` and the examples are."""

    features: tuple[Feature, ...] = Field(min_length=1)
    """At least one feature; their names differ."""

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [feature.name.casefold() for feature in self.features]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two features are called {', '.join(map(repr, twice))}; give each a name of its own")
        return self


class Bank(NamedTuple):
    """The features that come with windvane."""

    choosable: tuple[Feature, ...]
    """The seven that a query's features are chosen from."""
    concision: Feature
    """The eighth, which is added to some queries."""


@functools.cache
def feature_bank() -> Bank:
    """Return the eight features that come with windvane."""
    with resources.as_file(resources.files("windvane.principles") / "bank.yaml") as path:
        features = load_config(FeatureFile, path, ()).features
    (concision,) = (feature for feature in features if feature.name == CONCISION)
    return Bank(tuple(feature for feature in features if feature.name != CONCISION), concision)


def read_features(path: Path) -> tuple[Feature, ...]:
    """Return the features of a user's YAML file.

    Raises `ConfigError` naming the file and what is wrong with it: a missing or unknown key, an empty text, two equal
    names, or a good end that equals the bad one.
    """
    if not path.is_file():
        raise ConfigError(
            f"The principle file {str(path)!r} is not there. Give the path of a YAML file with a list `features`, "
            "such as examples/principles/concise.yaml."
        )
    return load_config(FeatureFile, path, ()).features


def same_words(one: str, other: str) -> bool:
    """Whether two texts differ in nothing but case, spaces and punctuation."""
    return _words(one) == _words(other)


def within(part: str, whole: str) -> bool:
    """Whether the words of one text stand in another in the same order, without gaps."""
    return f" {_words(part)} " in f" {_words(whole)} "


def _words(text: str) -> str:
    return " ".join("".join(sign if sign.isalnum() else " " for sign in text.casefold()).split())
