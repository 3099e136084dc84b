"""Callbacks of a training run: a progress bar, and the metrics of each step as JSON lines."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, Protocol

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

_SHOWN = {"loss": "loss {:.4f}", "accuracy": "accuracy {:.2f}", "margin": "margin {:+.3f}"}


class OpenBar(Protocol):
    """What `RunDirectory.progress` is."""

    def __call__(self, label: str, total: int, *, done: int) -> AbstractContextManager[None]:
        """Show a bar of `total` steps, `done` of which need not be done again, until the context ends."""


class RichProgress(TrainerCallback):
    """One line on the terminal: steps, time left, the last loss, accuracy and margin."""

    def __init__(self, label: str = "training") -> None:
        self._label = label
        self._bar: Progress | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Open the bar at the step that the run resumes from."""
        if not state.is_world_process_zero:
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, TextColumn("{task.fields[last]}"))
        self._bar.add_task(self._label, total=state.max_steps, completed=state.global_step, last="")
        self._bar.start()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Show the step's numbers."""
        if self._bar is not None and logs is not None:
            last = "  ".join(text.format(logs[name]) for name, text in _SHOWN.items() if name in logs)
            self._bar.update(self._bar.task_ids[0], last=last)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Close the bar."""
        self.close()

    def close(self) -> None:
        """Close the bar, also where training failed."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class StepBar(TrainerCallback):
    """Shows the optimizer steps on a bar that somebody else draws, such as that of a run directory."""

    def __init__(self, open_bar: OpenBar, advance: Callable[[], None]) -> None:
        self._open_bar, self._advance = open_bar, advance
        self._open = ExitStack()

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Open the bar at the step that training resumes from."""
        self._open.enter_context(self._open_bar("training", state.max_steps, done=state.global_step))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Move the bar."""
        self._advance()

    def close(self) -> None:
        """Close the bar, also where training failed."""
        self._open.close()


class MetricsFile(TrainerCallback):
    """Writes the metrics of each optimizer step to a JSONL file.

    A resumed run begins by writing the steps up to its checkpoint again, so the file never holds a step twice.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Begin with the steps that the checkpoint remembers."""
        if state.is_world_process_zero:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text("".join(_line(entry) for entry in step_history(state)), encoding="utf-8")

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Append one step."""
        if state.is_world_process_zero and logs is not None and "loss" in logs:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(_line({**logs, "step": state.global_step}))


def step_history(state: TrainerState) -> list[dict[str, float]]:
    """Return the logged optimizer steps, oldest first."""
    return [entry for entry in state.log_history if "loss" in entry]


def _line(entry: dict[str, float]) -> str:
    return json.dumps(entry, sort_keys=True) + "\n"
