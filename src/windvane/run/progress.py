"""One bar for each long stage on a terminal, a plain line now and then in a log file, nothing on a quiet console."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

_PLAIN_EVERY = 30.0
"""Seconds between two plain lines of one stage."""


class Bar(Protocol):
    """Shows how far a stage is."""

    def show(self, done: int) -> None:
        """Show that `done` steps of the stage are done."""

    def close(self) -> None:
        """The stage is over, finished or not."""


class ProgressDisplay:
    """Shows one bar at a time.

    `advance` may be called at any time by anything that works on the stage; it does nothing where no bar is shown.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bar: Bar = _NoBar()
        self._done = self._limit = self._total = 0

    @contextmanager
    def stage(self, label: str | None, total: int, *, done: int = 0) -> Iterator[None]:
        """Show a bar of `total` steps, `done` of which need not be done again.

        Without a label, what is shown already stays.
        """
        if label is None:
            yield
            return
        outer = (self._bar, self._done, self._limit, self._total)
        self._bar = _bar(self.console, label, total, done)
        self._done, self._limit, self._total = done, total, total
        try:
            yield
        finally:
            self._bar.close()
            self._bar, self._done, self._limit, self._total = outer

    @contextmanager
    def part(self, end: int) -> Iterator[None]:
        """Work on a part of the stage, which ends at step `end`, wherever `advance` leaves the bar until then."""
        outer, self._limit = self._limit, min(end, self._total)
        yield
        self._done = self._limit
        self._limit = outer
        self._bar.show(self._done)

    def advance(self, steps: int = 1) -> None:
        """Move the bar on, but never past the end of the part that is being worked on."""
        self._done = min(self._done + steps, self._limit)
        self._bar.show(self._done)

    def say(self, text: str) -> None:
        """Print a line of plain text; a bar moves out of the way."""
        self.console.print(escape(text), highlight=False, soft_wrap=True)


def _bar(console: Console, label: str, total: int, done: int) -> Bar:
    if console.quiet:
        return _NoBar()
    if console.is_terminal and not console.is_dumb_terminal:
        return _TerminalBar(console, label, total, done)
    return _PlainBar(console, label, total, done)


class _NoBar:
    def show(self, done: int) -> None:
        pass

    def close(self) -> None:
        pass


class _RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else rate(speed), style="progress.data.speed")


class _TerminalBar:
    def __init__(self, console: Console, label: str, total: int, done: int) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _RateColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
        )
        self._task = self._progress.add_task(escape(label), total=total, completed=done)
        self._progress.start()

    def show(self, done: int) -> None:
        self._progress.update(self._task, completed=done)

    def close(self) -> None:
        self._progress.stop()


class _PlainBar:
    def __init__(self, console: Console, label: str, total: int, done: int) -> None:
        self._console, self._label, self._total = console, label, total
        self._begun = self._shown = time.monotonic()
        self._first = self._done = done
        if done < total:
            self._print(f"{done}/{total}")

    def show(self, done: int) -> None:
        self._done = done
        now = time.monotonic()
        if now - self._shown >= _PLAIN_EVERY and done < self._total:
            self._shown = now
            speed = (done - self._first) / (now - self._begun)
            left = f", {duration((self._total - done) / speed)} left" if speed > 0 else ""
            self._print(f"{done}/{self._total}, {rate(speed)}{left}")

    def close(self) -> None:
        spent = time.monotonic() - self._begun
        if self._done > self._first:
            self._print(f"{self._done}/{self._total} in {duration(spent)}, {rate((self._done - self._first) / spent)}")

    def _print(self, text: str) -> None:
        self._console.print(escape(f"{self._label}: {text}"), highlight=False, soft_wrap=True)


def rate(per_second: float) -> str:
    """Return a speed in the unit that reads best."""
    return f"{per_second:.1f}/s" if per_second >= 1 else f"{per_second * 60:.1f}/min"


def duration(seconds: float) -> str:
    """Return a time span as people say it: ``48 s``, ``3 min 5 s``, ``2 h 10 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
