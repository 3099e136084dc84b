"""Training as a stage of a run: pairs in, a policy folder out."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from windvane.engines.chat import ChatFormat
from windvane.losses import LossSettings, make_objective
from windvane.recipes.session import Session
from windvane.types import Record

if TYPE_CHECKING:
    from windvane.training import TrainingExample, TrainingResult, TrainingSettings

Item = TypeVar("Item", bound=Record)

NOTE = "windvane.json"
METRICS = "training.jsonl"


class TrainingNote(Record):
    """What lies beside a policy's weights: how it was made."""

    start: str
    """The model that training started from; an earlier policy of the same run by its place in the run directory."""
    loss: dict[str, object]
    pairs: int
    steps: int
    """Optimizer steps."""
    final_loss: float
    """Mean loss over the pairs of the last step."""
    layout: str
    """How rows were laid out, and why."""


class TrainedPolicy(NamedTuple):
    """A policy on file."""

    folder: Path
    note: TrainingNote


def train_stage(
    session: Session,
    stage: str,
    items: Sequence[Item],
    encode: Callable[[ChatFormat, Item], TrainingExample],
    loss: LossSettings,
    training: TrainingSettings,
    *,
    start: str,
    seed: int,
) -> TrainedPolicy:
    """Train the model `start` on what `encode` makes of each item; goes on from its last whole checkpoint."""
    run, bench, _ = session

    def build(folder: Path) -> None:
        from windvane.training.policy import train_policy  # torch: not before there is something to train
        from windvane.training.progress import StepBar

        loaded = bench.take(start, float32=training.lora is None)  # below an adapter, weights are only read
        result = train_policy(
            loaded,
            [encode(loaded.chat, item) for item in items],
            make_objective(loss),
            training,
            output=folder,
            checkpoints=run.scratch(stage),
            seed=seed,
            callbacks=[StepBar(run.progress, run.advance)],
        )
        if run.is_main:
            place = Path(start)
            inside = place.is_relative_to(run.path)
            named = place.relative_to(run.path).as_posix() if inside else start
            _write_note(folder, result, start=named, loss=loss, pairs=len(items))

    folder = run.folder(stage, build, inputs=(items, bench.identity(start)))
    return TrainedPolicy(folder, TrainingNote.from_json((folder / NOTE).read_text(encoding="utf-8")))


def _write_note(folder: Path, result: TrainingResult, *, start: str, loss: LossSettings, pairs: int) -> None:
    note = TrainingNote(
        start=start,
        loss=loss.model_dump(mode="json"),
        pairs=pairs,
        steps=result.steps,
        final_loss=result.final_loss,
        layout=f"{result.layout.name}: {result.layout.reason}",
    )
    (folder / NOTE).write_text(note.model_dump_json(indent=1) + "\n", encoding="utf-8")
    # Sorted: the steps before a resume come back from a checkpoint in another order than they were logged in.
    lines = (json.dumps(metrics, sort_keys=True) + "\n" for metrics in result.history)
    (folder / METRICS).write_text("".join(lines), encoding="utf-8")
