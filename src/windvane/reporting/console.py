"""Tables for the console. Each function returns something that rich can print, and prints nothing.

Text that a model or a file wrote reaches the terminal through `plain` alone: never as rich markup, and without control
characters that could move the cursor, colour the screen or hide what is said.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from windvane.doctor.findings import Finding
from windvane.evaluation.policy import Evaluation, Interval, Limits, concerns
from windvane.run import RunStatus, StageStatus
from windvane.types import Completion, Dropped, Query

MISSING = "–"
"""Stands where nothing was measured."""

_ESCAPE = re.compile(
    r"""\x1b\[[0-?]*[ -/]*[@-~]            # CSI: colours, cursor
    | \x1b[\]PX^_].*?(?:\x07|\x1b\\|$)     # OSC, DCS and the like: titles, links, up to their end
    | \x1b[ -/]*[0-~]                      # other two-letter sequences
    """,
    re.VERBOSE | re.DOTALL,
)
_DIRECTION = frozenset("\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_BAR_WIDTH = 24


def plain(text: str, *, limit: int | None = None, style: str = "") -> Text:
    """Return foreign text as it is safe to show: no markup, no escape sequences, no control or direction characters.

    Line breaks stay, tabs become spaces, lone surrogates (which no terminal can print) become U+FFFD. Past `limit`
    characters it is cut, with an ellipsis.
    """
    text = _ESCAPE.sub("", text).replace("\r\n", "\n").replace("\r", "\n").replace("\t", "    ")
    shown = "".join(_shown(character) for character in text)
    if limit is not None and len(shown) > limit:
        shown = shown[:limit].rstrip() + " …"
    return Text(shown, style=style)


def _shown(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Cs":
        return "\N{REPLACEMENT CHARACTER}"
    hidden = (category == "Cc" and character != "\n") or character in _DIRECTION
    return "" if hidden else character


def number(value: float | None, digits: int = 2) -> str:
    """Return a number with a true minus sign, or `MISSING`."""
    return MISSING if value is None else f"{value:.{digits}f}".replace("-", "−")


def percent(share: float | None) -> str:
    """Return a share of 0 to 1 as a percentage, or `MISSING`."""
    return MISSING if share is None else f"{100 * share:.0f} %"


def table(title: str, *columns: str) -> Table:
    """Return an empty table in the house style: the first column names, the others are numbers."""
    made = Table(title=Text(title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        made.add_column(Text(column), justify="right" if index else "left", overflow="fold")
    return made


def add_row(to: Table, *cells: str | Text, style: str | None = None) -> None:
    """Add a row whose strings are text, not markup."""
    to.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells), style=style)


def evaluation_table(
    evaluation: Evaluation, *, rule: str | None = None, limits: Limits | None = None
) -> RenderableType:
    """Return before against after, the win rate by the rule named `rule`, and what should worry the reader."""
    made = table(f"Before and after, on {evaluation.n} queries", "", "before", "after", "change (95 %)")
    for row in _evaluation_rows(evaluation):
        add_row(made, *row)
    parts: list[RenderableType] = [made, _win_line(evaluation, rule)]
    if len(evaluation.by_source):
        parts.append(_source_table(evaluation))
    limits = limits or Limits()
    worries = concerns(evaluation, limits)
    parts += [Text(f"! {worry}", style="yellow") for worry in worries]
    if not worries and evaluation.language_n_after:
        parts.append(Text("The answers are still language and to the point: every guard is within its limit.", "green"))
    return Group(*parts)


class _Row(NamedTuple):
    name: str
    before: str
    after: str
    change: str = ""


def _evaluation_rows(of: Evaluation) -> list[_Row]:
    nats = "nats/token"
    return [
        _Row(
            "words per answer, mean",
            number(of.mean_words_before, 1),
            number(of.mean_words_after, 1),
            _change(of.mean_words_before, of.mean_words_after, of.mean_words_change_ci, 1),
        ),
        _Row("words per answer, median", number(of.median_words_before, 1), number(of.median_words_after, 1)),
        _Row("cut off by the token limit", percent(of.cutoff_share_before), percent(of.cutoff_share_after)),
        _Row("with a list (2 items or more)", percent(of.list_share_before), percent(of.list_share_after)),
        _Row("empty answers", str(of.empty_before), str(of.empty_after)),
        _Row(
            f"base log-probability, {nats}",
            number(of.base_logprob_before),
            number(of.base_logprob_after),
            _change(of.base_logprob_before, of.base_logprob_after, of.base_logprob_change_ci, 2),
        ),
        _Row(
            f"relevance to query, {nats}",
            number(of.relevance_before),
            number(of.relevance_after),
            _change(of.relevance_before, of.relevance_after, of.relevance_change_ci, 2),
        ),
        _Row(f"distinct-2 in {of.distinct2_bigrams} bigrams", number(of.distinct2_before), number(of.distinct2_after)),
    ]


def _change(before: float | None, after: float | None, interval: Interval | None, digits: int) -> str:
    if before is None or after is None:
        return ""
    change = f"{after - before:+.{digits}f}".replace("-", "−")
    if interval is None:
        return change
    return f"{change} [{number(interval[0], digits)}, {number(interval[1], digits)}]"


def _win_line(evaluation: Evaluation, rule: str | None) -> Text:
    if evaluation.win_rate is None or evaluation.win_rate_ci is None:
        return Text(f"win rate {MISSING}: no rule says what is better", style="dim")
    low, high = evaluation.win_rate_ci
    judged = f" by the rule {rule!r}" if rule else ""
    return Text.assemble(
        f"win rate of after{judged} ",
        (f"{evaluation.win_rate:.2f}", "bold"),
        f", 95 % interval {low:.2f} to {high:.2f}\n",
        f"({evaluation.wins} wins, {evaluation.ties} ties, {evaluation.losses} losses, {evaluation.unscored} unscored)",
    )


def _source_table(evaluation: Evaluation) -> Table:
    made = table("By source of the query", "source", "queries", "win rate", "95 %", "words before", "words after")
    for row in evaluation.by_source:
        interval = MISSING if row.win_rate_ci is None else f"{row.win_rate_ci[0]:.2f} to {row.win_rate_ci[1]:.2f}"
        words = number(row.mean_words_before, 1), number(row.mean_words_after, 1)
        add_row(made, plain(row.source), str(row.n), number(row.win_rate), interval, *words)
    return made


_SIGNAL: tuple[tuple[str, str, int], ...] = (
    ("n", "pairs scored", 0),
    ("n_kept", "pairs kept", 0),
    ("pair_accuracy", "pair accuracy by the rule, share", 2),
    ("pair_accuracy_kept", "… of the kept pairs, share", 2),
    ("onpolicy_prob_chosen", "on-policy probability of y⁺", 3),
    ("onpolicy_prob_rejected", "on-policy probability of y⁻", 3),
    ("gap_chosen", "gap of y⁺, nats/token", 2),
    ("gap_rejected", "gap of y⁻, nats/token", 2),
    ("mean_words_chosen", "words of y⁺, mean", 1),
    ("mean_words_rejected", "words of y⁻, mean", 1),
    ("final_loss", "final loss", 4),
)


def signal_table(iterations: Sequence[Mapping[str, object]]) -> Table:
    """Return the signal statistics, one column an iteration; statistics that no iteration has are left out."""
    made = table("Signal", "", *(f"iteration {index}" for index in range(1, len(iterations) + 1)))
    for key, name, digits in _SIGNAL:
        values = [iteration.get(key) for iteration in iterations]
        if any(isinstance(value, int | float) for value in values):
            cells = [number(float(value), digits) if isinstance(value, int | float) else MISSING for value in values]
            add_row(made, name, *cells)
    return made


def selection_table(
    kept: int, dropped: Sequence[Dropped] | Mapping[str, int], thresholds: Mapping[str, float] | None = None
) -> RenderableType:
    """Return how many pairs were kept and how many were dropped for which reason, with bars, and the thresholds."""
    counts = dropped if isinstance(dropped, Mapping) else Counter(record.reason for record in dropped)
    total = kept + sum(counts.values())
    made = table(f"Selection: {kept} of {total} pairs kept", "", "pairs", "share", "")
    made.columns[-1].justify = "left"
    for name, count, style in [
        ("kept", kept, "green"),
        *((reason, count, "red") for reason, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))),
    ]:
        share = count / total if total else 0.0
        add_row(made, plain(name), str(count), percent(share), Text("█" * round(_BAR_WIDTH * share), style=style))
    lines = [
        Text(f"threshold of {name}: {number(value, 3)}", style="dim") for name, value in (thresholds or {}).items()
    ]
    return Group(made, *lines)


def samples_table(
    queries: Sequence[Query],
    before: Sequence[Completion],
    after: Sequence[Completion],
    *,
    limit: int = 4,
    characters: int = 420,
) -> Table:
    """Return the answers of both sides next to each other, for `limit` queries spread evenly over the set."""
    answers = list(zip(queries, before, after, strict=True))
    shown = [answers[index * len(answers) // limit] for index in range(limit)] if len(answers) > limit else answers
    made = Table(box=box.SIMPLE_HEAD, show_lines=True, pad_edge=False, expand=True)
    for column in ("before", "after"):
        made.add_column(column, ratio=1, overflow="fold")
    for query, old, new in shown:
        question = plain(query.text, limit=characters // 2, style="bold")
        made.add_row(question, Text("(the same query)", style="dim"), end_section=False)
        made.add_row(_answer(old, characters), _answer(new, characters), end_section=True)
    return made


def _answer(completion: Completion, characters: int) -> Text:
    end = ", cut off by the token limit" if completion.finish == "length" else ""
    note = Text(f"({completion.words} words{end})", style="dim")
    return Text("\n").join([plain(completion.text.strip(), limit=characters), note])


_STATE_STYLE = {"running": "cyan", "finished": "green", "failed": "red", "interrupted": "yellow"}


def status_table(status: RunStatus) -> RenderableType:
    """Return where a run stands: its state, its stages, its counters, and the files that a reader will want."""
    head = Text.assemble(
        plain(str(status.path), style="bold"),
        ": ",
        (status.state, _STATE_STYLE[status.state]),
        f", {_minutes(status.minutes)}",
    )
    if status.message:
        head.append("\n").append_text(plain(status.message))
    if status.state in ("failed", "interrupted") and status.command:
        head.append("\nto go on: ").append_text(plain(status.command))
    stages = table("Stages", "stage", "done", "records", "time")
    for stage in status.stages:
        records = MISSING if stage.records is None else str(stage.records)
        add_row(stages, plain(stage.name), _progress(stage), records, _minutes(stage.minutes))
    parts: list[RenderableType] = [head, stages]
    if status.counts:
        counts = table("Counts", "", "")
        for name, count in status.counts.items():
            add_row(counts, plain(name), f"{count:,}".replace(",", " "))
        parts.append(counts)
    parts += [Text.assemble(f"{what}: ", plain(str(path))) for what, path in status.places.items()]
    return Group(*parts)


def _progress(stage: StageStatus) -> Text:
    if stage.finished:
        return Text("yes", style="green")
    return Text(f"{stage.shards_done} of {stage.shards} shards", style="cyan")


def _minutes(minutes: float) -> str:
    return f"{60 * minutes:.0f} s" if minutes < 2 else f"{minutes:.1f} min"


_MARKS = {"ok": Text("✓", style="green"), "warn": Text("!", style="yellow"), "bad": Text("✗", style="bold red")}


def findings_table(findings: Sequence[Finding]) -> Table:
    """Return what `windvane doctor` found, advice under the fact that it belongs to."""
    made = Table(box=None, show_header=False, pad_edge=False)
    made.add_column()
    made.add_column(style="bold", no_wrap=True)
    made.add_column(overflow="fold")
    for finding in findings:
        value = plain(finding.value)
        if finding.advice:
            value.append("\n→ ", style="dim").append_text(plain(finding.advice, style="dim"))
        made.add_row(_MARKS[finding.verdict], plain(finding.name), value)
    return made
