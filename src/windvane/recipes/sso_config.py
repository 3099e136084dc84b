"""What an SSO run can be told; `windvane.recipes.sso` is the story."""

from typing import Literal, Self

from pydantic import Field, model_validator

from windvane.config import Settings
from windvane.evaluation.drift import DriftLimits
from windvane.losses import LossSettings, SsoGeneratorSettings, SsoSettings, make_objective
from windvane.recipes.compare import HeldOutEvaluation
from windvane.recipes.contrast import ContrastConfig
from windvane.selection import MarginFilterSettings, SteeringFilterSettings
from windvane.training.settings import TrainingSettings

MAY_CHANGE = frozenset({"drift", "training.guards"})
"""Limits that stop a run may be set otherwise when it is resumed: they change no result."""


class GeneratorSettings(Settings):
    """Version 2: how the data generator is trained."""

    query_share: float = Field(default=0.5, gt=0, le=1)
    """Share of an iteration's queries that the generator is trained on, one at the least."""
    loss: SsoGeneratorSettings = SsoGeneratorSettings()
    """``L⁺ + L⁻`` with their NLL terms."""
    training: TrainingSettings = TrainingSettings()
    """How the generator is trained."""


class SSOConfig(ContrastConfig):
    """Everything that an SSO run depends on."""

    mode: Literal["direct", "generator"] = "direct"
    """`direct` is version 1 of the paper, `generator` version 2."""
    iterations: int = Field(default=3, ge=1)
    """Rounds T, on disjoint parts of the queries; the policy that one ends with begins the next."""
    reference: Literal["previous", "initial"] = "previous"
    """Reference of the loss: the policy that the iteration begins with, or the model that the run began with."""
    selection: SteeringFilterSettings = SteeringFilterSettings()
    """Which pairs are trained on."""
    margin_selection: MarginFilterSettings | None = None
    """SeRA's selector on what `selection` left, from the second iteration on (before, policy and first model are the
    same, and every margin is 0): the policy's margin over the first model; null leaves it out."""
    loss: LossSettings = SsoSettings()
    """`sso` steers; a base loss alone is the baseline PBAA, and what generator mode trains the policy with."""
    training: TrainingSettings = TrainingSettings()
    """How the policy is trained."""
    generator: GeneratorSettings | None = None
    """The data generator; needed in generator mode, and only there."""
    drift: DriftLimits = DriftLimits()
    """What stops a run between iterations, before length or gap run away."""
    evaluation: HeldOutEvaluation | None = HeldOutEvaluation()
    """Comparison with the model that the run began with, on queries it never trains on; null leaves it out."""

    @model_validator(mode="after")
    def _mode_fits(self) -> Self:
        if (self.mode == "generator") != (self.generator is not None):
            raise ValueError(
                "mode and generator go together: give `generator` (it may be {}) with `mode: generator`, and only there"
            )
        if isinstance(self.loss, SsoGeneratorSettings):
            raise ValueError("loss.type sso_generator trains a data generator: put it under generator.loss")
        if self.mode == "generator" and isinstance(self.loss, SsoSettings):
            raise ValueError(
                "generator mode trains the policy with a base loss alone: set loss.type to ipo, dpo or another"
            )
        return self

    @model_validator(mode="after")
    def _margin_fits(self) -> Self:
        if self.margin_selection is not None and self.iterations == 1:
            raise ValueError(
                "margin_selection has no effect with iterations: 1, as the policy is still the first model: raise "
                "iterations, or leave it out"
            )
        return self

    @model_validator(mode="after")
    def _reference_fits(self) -> Self:
        if self.reference == "initial" and not make_objective(self.loss).needs_reference:
            raise ValueError(f"reference: initial has no effect, as a loss of type {self.loss.type} reads no reference")
        if self.reference == "initial" and self.training.reference != "scored":
            raise ValueError(
                f"training.reference: {self.training.reference} takes the policy that an iteration begins with as the "
                "reference, and reference: initial the first model: set training.reference to scored"
            )
        return self
