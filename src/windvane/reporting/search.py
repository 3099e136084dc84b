"""A prompt search on the screen: where it stands while it runs, and what its proof says."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import fmean, stdev
from typing import Any, NamedTuple

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from windvane.engines.budget import BudgetSettings, Spend
from windvane.prompt_search.contracts import Progress
from windvane.prompt_search.proof import Comparison, Proof
from windvane.reporting.cells import MISSING, add_row, counted, number, plain, table
from windvane.run.progress import duration

_EVERY = 4
"""Times a second that the view is drawn."""
_PROMPT = 160
"""Characters of a prompt that the view shows."""
_STYLES = {"gain": "green", "loss": "red"}


class Traffic(NamedTuple):
    """What is on the way."""

    done: int
    """Replies on file."""
    in_flight: int
    spent: Spend
    budget: BudgetSettings
    """What may be spent, of which `spent` is gone."""


class _Pace:
    """How long a step takes: what the steps took that are over, without those that were answered from file."""

    def __init__(self, now: float, replies: int) -> None:
        self._since, self._first = now, 0
        """When the steps that count began, and how many were over by then."""
        self._moved, self._over = now, 0
        """When the last step was over, and how many are."""
        self._replies = replies
        """On file by then."""

    def note(self, progress: Progress, now: float, replies: int) -> None:
        """Take note of where the search stands, and of how many replies are on file."""
        over = progress.step if progress.done else progress.step - 1
        if over == self._over:
            return
        if replies == self._replies:  # nothing was asked
            self._since, self._first = now, over
        self._moved, self._over, self._replies = now, over, replies

    def left(self, progress: Progress, now: float) -> float | None:
        """Return the seconds that the steps to come take, if there are that many; None where nothing is known."""
        counted = self._over - self._first
        if counted <= 0 or self._over >= progress.steps:
            return None
        each = (self._moved - self._since) / counted
        return each * (progress.steps - self._over) - min(now - self._moved, each)


class SearchView:
    """Shows a search while it runs: redrawn on a terminal, a line for each level or race elsewhere. It is a `Watch`."""

    def __init__(self, console: Console, traffic: Callable[[], Traffic]) -> None:
        self._console, self._traffic = console, traffic
        self._stage = ""
        self._begun = time.monotonic()
        self._progress: Progress | None = None
        self._pace = _Pace(self._begun, 0)
        self._first = 0
        """Replies on file when the stage began."""
        self._most: int | None = None

    @contextmanager
    def stage(self, name: str, most: int | None = None) -> Iterator[None]:
        """Show the work of a stage until it ends; `most` are the calls that it can take, where it has no steps."""
        self._stage, self._begun, self._progress = name, time.monotonic(), None
        self._first, self._most = self._traffic().done, most
        self._pace = _Pace(self._begun, self._first)
        if not self._console.is_terminal or self._console.quiet:
            yield
            return
        with Live(get_renderable=self.shown, console=self._console, refresh_per_second=_EVERY, transient=True):
            yield

    def __call__(self, progress: Progress) -> None:
        """Take note of where the search stands."""
        self._progress = progress
        self._pace.note(progress, time.monotonic(), self._traffic().done)
        if not self._console.is_terminal:
            line = "; ".join([self.standing(progress), self.calls()])
            self._console.print(Text(line), highlight=False, soft_wrap=True)

    def shown(self) -> RenderableType:
        """Return the view at this moment."""
        head = f"{self._stage}: {self.calls()}"
        if self._progress is None:
            spent, answered = time.monotonic() - self._begun, self._traffic().done - self._first
            head += f"; {duration(spent)} so far"
            if self._most is not None and answered > 0:
                head += f", at most about {duration(spent / answered * max(0, self._most - answered))} left"
            return Text(head)
        made = table(self.standing(self._progress), "prompt", "")
        made.columns[1].justify = "left"
        add_row(made, f"best, {self._progress.best.id}", plain(self._progress.best.text, limit=_PROMPT))
        for one in self._progress.running:
            if one.id != self._progress.best.id:
                add_row(made, one.id, plain(one.text, limit=_PROMPT))
        return Group(Text(head), made)

    def standing(self, progress: Progress) -> str:
        """Return step, score and time left in a line."""
        said = [f"{self._stage} {progress.step} of at most {progress.steps}", f"best {progress.best.id}"]
        if progress.scores:
            said[-1] += f" at {_mean_in_words(progress.scores)}"
        if progress.difference is not None:
            low, mean, high = map(_signed, progress.difference)
            said.append(f"the leader differs by {mean} [{low} to {high}]")
        said.append(f"{len(progress.running)} in the running")
        left = self._pace.left(progress, time.monotonic())
        if left is not None:
            said.append(f"at most about {duration(left)} left")
        return ", ".join(said)

    def calls(self) -> str:
        """Return calls done, in flight and left."""
        now = self._traffic()
        said = [f"{now.done} calls done", f"{now.in_flight} in flight"]
        if now.budget.calls is not None:
            said.append(f"{max(0, now.budget.calls - now.spent.calls)} left")
        if now.budget.tokens is not None:
            said.append(f"{max(0, now.budget.tokens - now.spent.tokens):,} tokens left")
        if now.budget.money is not None:
            said.append(f"{max(0.0, now.budget.money - now.spent.money):.4g} of money left")
        return ", ".join(said)


def _mean_in_words(scores: Sequence[float]) -> str:
    """Return a mean and its 95 % interval, from the standard error: for a watcher, who decides nothing by it."""
    mean = fmean(scores)
    if len(scores) < 2:
        return number(mean)
    half = 1.96 * stdev(scores) / math.sqrt(len(scores))
    return f"{number(mean)} [{number(mean - half)} to {number(mean + half)}]"


def proof_tables(proof: Proof) -> RenderableType:
    """Return what the proof says: the verdict, and the best prompt against the start prompt, in all and by aspect."""
    verdict = Text(proof.statement, style=_STYLES.get(proof.verdict, "yellow"))
    best = proof.best
    if best is None:
        return verdict
    made = _proof_table(best)
    others = [one for one in proof.comparisons if one.candidate != best.candidate]
    return Group(made, *([_others(others)] if others else []), verdict)


def _proof_table(best: Comparison) -> Table:
    made = table(
        f"{best.candidate} against the start prompt, on {best.n} held-out queries",
        "", "start", "found", "difference", "interval", "won", "tied", "lost", "n",
    )  # fmt: skip
    add_row(
        made, "score", number(best.start_mean), number(best.found_mean), _signed(best.difference), _between(best),
        *map(str, (best.wins, best.ties, best.losses, best.n)),
    )  # fmt: skip
    for one in best.aspects:
        counts = map(str, (one.wins, one.ties, one.losses, one.n))
        add_row(made, plain(one.aspect), "", "", _signed(one.difference), "", *counts)
    if best.unscored:
        add_row(made, f"{best.unscored} queries have no score on one of the sides, and count nowhere", *[""] * 8)
    return made


def _others(comparisons: Sequence[Comparison]) -> Table:
    made = table("The other finalists", "", "difference", "interval", "n")
    for one in comparisons:
        add_row(made, one.candidate, _signed(one.difference), _between(one), str(one.n))
    return made


def prompt_text(candidate: str, text: str) -> RenderableType:
    """Return a prompt as it is safe to show."""
    return Group(Text(candidate, "bold"), plain(text.strip() or "(no system prompt)"), Text(""))


def search_text(search: Mapping[str, Any], proof: Mapping[str, Any]) -> Text:
    """Return what ``summary.json`` says of a search, and in a second line of its proof."""
    steps = "level" if search.get("type") == "paper" else "race"
    said = [counted(int(search.get("levels", 0)), steps), counted(int(search.get("candidates", 0)), "prompt")]
    said.append(counted(int(search.get("calls", 0)), "call"))
    if search.get("money") is not None:
        said.append(f"{search['money']:.4g} of money")
    if search.get("unscored"):
        said.append(f"{search['unscored']} of {search.get('evaluations', MISSING)} answers without a score")
    text = Text(", ".join(said))
    if "statement" in proof:
        style = _STYLES.get(str(proof.get("verdict")), "yellow")
        text.append("\n").append(plain(str(proof["statement"])).plain, style)
    return text


def _signed(value: float | None) -> str:
    shown = number(value)
    return f"+{shown}" if value is not None and value > 0 else shown


def _between(one: Comparison) -> str:
    if one.interval is None:
        return MISSING
    low, high = map(_signed, one.interval)
    return f"{low} to {high}"
