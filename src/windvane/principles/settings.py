"""Where a run's principles come from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from windvane.config import Settings

Choice = Literal["model", "random"]


class BankPrinciples(Settings):
    """The principles that come with windvane: some features for each query, in the bank's words."""

    type: Literal["bank"] = "bank"
    """bank: use windvane's own features and principles."""
    n_features: int = Field(default=2, ge=1, le=7)
    """Features per query. More make the two sides differ in more ways at once."""
    concision_rate: float = Field(default=0.2, ge=0, le=1)
    """Share of the queries that get Concision on top, against the drift to longer responses."""
    choice: Choice = "model"
    """Who chooses a query's features: the model (the seed adds where it names too few), or random by the run's seed."""


class GeneratedPrinciples(Settings):
    """A model writes the principles for each query; where its answer cannot be read twice, the bank's stand in."""

    type: Literal["generated"] = "generated"
    """generated: have the model write a good and a bad principle."""
    n_features: int = Field(default=2, ge=1, le=7)
    """Features per query. More make the two sides differ in more ways at once."""
    concision_rate: float = Field(default=0.2, ge=0, le=1)
    """Share of the queries that get Concision on top, against the drift to longer responses."""
    choice: Choice = "model"
    """Who chooses a query's features: the model (the seed adds where it names too few), or random by the run's seed."""
    scope: Literal["feature", "query"] = "feature"
    """feature: one pair of principles for each feature of a query. query: one pair that covers all its features."""
    max_new_tokens: int = Field(default=160, ge=16)
    """Tokens that a reply may have; one that is cut off counts as unreadable."""
    temperature: float = Field(default=0.7, ge=0)
    """0 is greedy; above it another seed gives other principles."""
    top_p: float = Field(default=0.8, gt=0, le=1)
    """Share of the probability mass that tokens are drawn from."""


class UserPrinciples(Settings):
    """The user's own features and principles, from a file."""

    type: Literal["user"] = "user"
    """user: read the features from `path`."""
    path: Path
    """A YAML file with a list `features`, each of the six keys of examples/principles/concise.yaml."""
    n_features: int | None = Field(default=None, ge=1)
    """Features per query; null uses all of the file for every query."""
    choice: Choice = "random"
    """Who chooses where `n_features` asks for fewer than the file has: the model, or random by the run's seed."""

    @model_validator(mode="after")
    def _nothing_idle(self) -> Self:
        if self.choice == "model" and self.n_features is None:
            raise ValueError("choice: model has nothing to choose while n_features is null; set n_features")
        return self


class PromptPrinciples(Settings):
    """The prompt that `windvane drpo` found, to be learned into the weights."""

    type: Literal["prompt"] = "prompt"
    """prompt: take the prompt of `from_prompt`, which stands in for the type and replaces any other."""
    from_prompt: Path
    """Run directory of a finished `windvane drpo`: its prompt, with its in-context examples, is every query's good
    principle, used as it stands."""
    bad: Literal["start", "opposite"] = "start"
    """The bad principle: the prompt that the search began with, or the opposite of the one that it found."""
    opposite: str | None = Field(default=None, min_length=1)
    """The opposite in your own words; null has a model write it (`principles_model`, or the policy)."""

    @model_validator(mode="after")
    def _opposite_is_used(self) -> Self:
        if self.opposite is not None and self.bad == "start":
            raise ValueError("opposite has no effect with bad: start; set bad: opposite, or leave opposite out")
        if self.opposite is not None and not self.opposite.strip():
            raise ValueError("opposite has no words; write some, or leave it out to have a model write it")
        return self


_OTHER_KINDS = (BankPrinciples, GeneratedPrinciples, UserPrinciples)


def _in_short(given: Any) -> Any:
    """Let one word, one path or `from_prompt` stand for a group: ``bank``, ``my.yaml``, ``{from_prompt: runs/x}``."""
    if isinstance(given, Path):
        return {"type": "user", "path": given}
    if isinstance(given, str):
        return {"type": "user", "path": given} if given.endswith((".yaml", ".yml")) else {"type": given}
    if isinstance(given, Mapping) and "from_prompt" in given:
        others = {name for kind in _OTHER_KINDS for name in kind.model_fields}
        return {"type": "prompt"} | {name: value for name, value in given.items() if name not in others}
    return given


PrincipleSettings = Annotated[
    BankPrinciples | GeneratedPrinciples | UserPrinciples | PromptPrinciples,
    Field(discriminator="type"),
    BeforeValidator(_in_short),
]
"""Where the principles come from, told apart by `type`; ``principles: bank`` or ``principles: my.yaml`` will do."""
