"""Plain preference optimization: any preference file, any loss, with the trainer and run directory of the rest."""

from pathlib import Path
from typing import NamedTuple, Self

from pydantic import Field, model_validator
from rich.console import Console

from windvane import training
from windvane.data import OfflinePair, PreferenceSource, load_preferences
from windvane.losses import DpoSettings, LossSettings, SsoGeneratorSettings, SsoSettings
from windvane.recipes.policy import TrainedPolicy, train_stage
from windvane.recipes.report import write_summary
from windvane.recipes.session import ModelRunConfig, open_session
from windvane.training.settings import TrainingSettings


class TrainConfig(ModelRunConfig):
    """Everything that a run of `windvane train` depends on."""

    model: str = Field(min_length=1)
    """A local folder, a name that `windvane models list` prints, or a hub name."""
    preferences: PreferenceSource
    """The preference pairs, in any format that `windvane.data` reads."""
    max_pairs: int | None = Field(default=None, ge=1)
    """Use only the first so many pairs; null uses all."""
    loss: LossSettings = DpoSettings()
    """Any loss on pairs; those of SSO need principles, and so `windvane sso`."""
    training: TrainingSettings = TrainingSettings()
    """How the policy is trained."""

    @model_validator(mode="after")
    def _loss_fits(self) -> Self:
        if isinstance(self.loss, (SsoSettings, SsoGeneratorSettings)):
            raise ValueError(
                f"loss.type {self.loss.type} needs principles, which a preference file has not: use `windvane sso`"
            )
        return self


class TrainResult(NamedTuple):
    """What a run made."""

    policy: Path
    """Folder of the trained model."""
    run: Path
    trained: TrainedPolicy


def run_train(config: TrainConfig, *, console: Console | None = None) -> TrainResult:
    """Train on preference pairs; see `run_sso` for consoles and errors."""
    may_change = frozenset({"training.guards"})  # limits that stop a run change no result
    with open_session(config, command="train", may_change=may_change, console=console) as session:
        run, bench, reporter = session
        given = load_preferences(config.preferences, limit=config.max_pairs)
        pairs = run.once("pairs", lambda: given, OfflinePair, inputs=(given, bench.identity(config.model)))
        trained = train_stage(
            session,
            "policy",
            pairs,
            training.encode_pair,
            config.loss,
            config.training,
            start=config.model,
            seed=config.seed,
        )
        write_summary(
            run,
            "train",
            model=config.model,
            seed=config.seed,
            results={
                "counts": {"pairs_made": len(pairs), "pairs_kept": len(pairs), "dropped": {}},
                "policy": trained.folder,
                "steps": trained.note.steps,
                "final_loss": trained.note.final_loss,
            },
        )
        reporter.places({"trained model": trained.folder, "run directory": run.path})
        return TrainResult(trained.folder, run.path, trained)
