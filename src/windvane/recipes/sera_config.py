"""What a SeRA run can be told; `windvane.recipes.sera` is the story."""

from typing import Literal, Self

from pydantic import Field, model_validator

from windvane.bootstrapping import BootstrapSettings
from windvane.data import DataSource
from windvane.evaluation.policy import EvaluationSettings
from windvane.recipes.offline import OfflineConfig
from windvane.selection import ImplicitMarginSettings, RewardForm


class AnswerEvaluation(EvaluationSettings):
    """Comparison of what the aligned model writes with what the first model writes."""

    queries: DataSource | None = None
    """Queries to answer, whose prompts are never trained on; null takes the prompts of the held-out pairs."""
    max_queries: int = Field(default=64, ge=1)
    """Answer only the first so many."""


class SeraConfig(OfflineConfig):
    """Everything that a SeRA run depends on."""

    rounds: int = Field(default=3, ge=2)
    """Rounds T. The first trains on all pairs, the others on what the policy selects and adds."""
    start: Literal["previous", "initial"] = "previous"
    """Where a round's training begins: at the policy that the round before ended with, or at the first model anew."""
    reference: Literal["initial", "previous"] = "initial"
    """Reference of the loss: the model that the run began with, or the policy that the round before ended with. The
    margins always compare with the first model."""
    selection: ImplicitMarginSettings = ImplicitMarginSettings()
    """Which of the offline pairs the rounds from the second on train on."""
    bootstrapping: BootstrapSettings | None = BootstrapSettings()
    """The pairs that these rounds add from the policy's own samples; null adds none."""
    evaluation: AnswerEvaluation | None = None
    """What the aligned model writes, compared with the first model; null leaves it out."""

    @model_validator(mode="after")
    def _reference_fits(self) -> Self:
        if self.training.reference != "scored":
            raise ValueError(
                f"training.reference: {self.training.reference} takes the policy that a round begins with as the "
                "reference; SeRA has its log-probabilities on file: leave training.reference at scored"
            )
        if self.reference == "previous" and not self.loss.needs_reference:
            raise ValueError(
                f"reference: previous has no effect, as a loss of type {self.loss.type} reads no reference"
            )
        return self

    @model_validator(mode="after")
    def _something_changes(self) -> Self:
        boot = self.bootstrapping
        if boot is not None and boot.share is None and self.selection.keeps_all:
            raise ValueError(
                "selection.keep: 1 drops nothing, so bootstrapping would add nothing: set bootstrapping.share, or "
                "bootstrapping to null (which is the base loss itself, round after round)"
            )
        if self.evaluation is not None and self.evaluation.queries is None and not self.holdout:
            raise ValueError("evaluation needs queries that are not trained on: set evaluation.queries, or holdout")
        return self

    @property
    def reward(self) -> RewardForm:
        """Form of the implicit reward that selects and ranks."""
        return self.loss.implicit_reward if self.selection.reward == "auto" else self.selection.reward
