"""Plain preference optimization: any preference file, any loss. The baseline of SeRA, on the same data path."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from windvane.evaluation.reward_accuracy import RewardAccuracy
from windvane.recipes.offline import (
    LogprobLedger,
    OfflineConfig,
    held_out_accuracy,
    logprob_counts,
    measure_reference,
    read_offline,
    train_on,
)
from windvane.recipes.policy import TrainedPolicy
from windvane.recipes.report import write_summary
from windvane.recipes.session import open_session


class TrainConfig(OfflineConfig):
    """Everything that a run of `windvane train` depends on."""


class TrainResult(NamedTuple):
    """What a run made."""

    policy: Path
    """Folder of the trained model."""
    run: Path
    trained: TrainedPolicy
    held_out: RewardAccuracy | None
    """Accuracy of the implicit reward on the held-out pairs; None without any."""


def run_train(config: TrainConfig, *, console: Console | None = None) -> TrainResult:
    """Train on preference pairs; see `run_sso` for consoles and errors."""
    may_change = frozenset({"training.guards"})  # limits that stop a run change no result
    with open_session(config, command="train", may_change=may_change, console=console) as session:
        run, _, reporter = session
        data = read_offline(session, config)
        ledger = LogprobLedger(session, shard_size=config.shard_size)
        measure_reference(config, data, ledger)
        trained = train_on(
            session, "", data.train, config, ledger, start=config.model, reference=config.model, seed=config.seed
        )
        accuracy = held_out_accuracy(session, "", data.held_out, config, ledger, policy=str(trained.folder))
        reporter.accuracy(accuracy)
        write_summary(
            run,
            "train",
            model=config.model,
            seed=config.seed,
            results={
                "counts": {
                    "pairs_made": len(data.train) + len(data.held_out) + len(data.left_out),
                    "pairs_kept": len(data.train),
                    "pairs_held_out": len(data.held_out),
                    "dropped": dict(Counter(record.reason for record in data.left_out).most_common()),
                    **logprob_counts(run.counts()),
                },
                "policy": trained.folder,
                "steps": trained.note.steps,
                "final_loss": trained.note.final_loss,
                "flipped": len(data.flipped),
                "held_out": accuracy,
            },
        )
        reporter.places({"trained model": trained.folder, "run directory": run.path})
        return TrainResult(trained.folder, run.path, trained, accuracy)
