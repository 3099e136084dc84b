"""Tables for the console. Each function but `print_findings` returns something that rich can print, and prints nothing.

Whatever a model or a file wrote goes through `windvane.reporting.cells.plain`.
"""

import json
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from windvane.doctor.findings import Finding
from windvane.engines.shelf import Available
from windvane.evaluation.policy import Evaluation, Interval, Limits, concerns
from windvane.evaluation.prompt_effect import PromptEffect
from windvane.reporting.cells import MISSING, add_row, number, percent, plain, table
from windvane.run import RunStatus, StageStatus
from windvane.types import Completion, Dropped, Query

_BAR_WIDTH = 24


def evaluation_table(
    evaluation: Evaluation, *, rule: str | None = None, limits: Limits | None = None
) -> RenderableType:
    """Return before against after, the win rate by the rule named `rule`, and what should worry the reader."""
    made = table(f"Before and after, on {evaluation.n} queries", "", "before", "after", "ratio", "change [95 %]")
    for row in _evaluation_rows(evaluation):
        add_row(made, *row)
    parts: list[RenderableType] = [made, _win_line(evaluation, rule)]
    if evaluation.by_source:
        parts.append(_source_table(evaluation))
    limits = limits or Limits()
    worries = concerns(evaluation, limits)
    parts += [Text(f"! {worry}", style="yellow") for worry in worries]
    if not worries and evaluation.language_n_after:
        parts.append(Text("Still language, and to the point: every guard is within its limit.", "green"))
    return Group(*parts)


class _Row(NamedTuple):
    name: str
    before: str
    after: str
    ratio: str = ""
    change: str = ""


def _evaluation_rows(of: Evaluation) -> list[_Row]:
    nats = "nats/token"
    return [
        _Row(
            "words per answer, mean",
            number(of.mean_words_before, 1),
            number(of.mean_words_after, 1),
            _ratio(of.mean_words_before, of.mean_words_after),
            _change(of.mean_words_before, of.mean_words_after, of.mean_words_change_ci, 1),
        ),
        _Row(
            "words per answer, median",
            number(of.median_words_before, 1),
            number(of.median_words_after, 1),
            _ratio(of.median_words_before, of.median_words_after),
        ),
        _Row("cut off by the token limit", percent(of.cutoff_share_before), percent(of.cutoff_share_after)),
        _Row("with a list (2 items or more)", percent(of.list_share_before), percent(of.list_share_after)),
        _Row("empty answers", str(of.empty_before), str(of.empty_after)),
        _Row(
            f"base logprob, {nats}",
            number(of.base_logprob_before),
            number(of.base_logprob_after),
            "",
            _change(of.base_logprob_before, of.base_logprob_after, of.base_logprob_change_ci, 2),
        ),
        _Row(
            f"relevance, {nats}",
            number(of.relevance_before),
            number(of.relevance_after),
            _ratio(of.relevance_before, of.relevance_after),
            _change(of.relevance_before, of.relevance_after, of.relevance_change_ci, 2),
        ),
        _Row(
            f"distinct-2 in {of.distinct2_bigrams} bigrams",
            number(of.distinct2_before),
            number(of.distinct2_after),
            _ratio(of.distinct2_before, of.distinct2_after),
        ),
    ]


def _ratio(before: float | None, after: float | None) -> str:
    return "" if before is None or after is None or before <= 0 else f"× {number(after / before)}"


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
        f"(wins {evaluation.wins}, ties {evaluation.ties}, losses {evaluation.losses}, unscored {evaluation.unscored})",
    )


def _source_table(evaluation: Evaluation) -> Table:
    made = table("By source of the query", "source", "queries", "win rate", "95 %", "words before", "words after")
    for row in evaluation.by_source:
        interval = MISSING if row.win_rate_ci is None else f"{row.win_rate_ci[0]:.2f} to {row.win_rate_ci[1]:.2f}"
        words = number(row.mean_words_before, 1), number(row.mean_words_after, 1)
        add_row(made, plain(row.source), str(row.n), number(row.win_rate), interval, *words)
    return made


_SIGNAL: tuple[tuple[str, str, int], ...] = (
    ("n", "pairs", 0),
    ("pair_accuracy", "accuracy by the rule, share", 2),
    ("onpolicy_prob_chosen", "on-policy probability of y⁺", 3),
    ("onpolicy_prob_rejected", "on-policy probability of y⁻", 3),
    ("gap_chosen", "gap of y⁺, nats/token", 2),
    ("gap_rejected", "gap of y⁻, nats/token", 2),
    ("mean_words_chosen", "words of y⁺, mean", 1),
    ("mean_words_rejected", "words of y⁻, mean", 1),
    ("mean_words_original", "words of yᵒ, mean", 1),
    ("cutoff_share_chosen", "y⁺ cut off, share", 2),
    ("cutoff_share_rejected", "y⁻ cut off, share", 2),
    ("distinct2_chosen", "distinct-2 of y⁺", 2),
    ("final_loss", "final loss", 4),
)


def prompt_effect_table(effect: PromptEffect) -> RenderableType:
    """Return the base model without and with a found prompt, beside the policy without it, and what that took over."""
    arms = (effect.before, effect.prompted, effect.after)
    title = f"Before and after, and the prompt, on {effect.n} queries"
    made = table(title, "", "before", "with the prompt", "after, without")
    score = effect.before.score
    if score is not None:
        add_row(made, "score, 1 to 5", *(number(arm.score) for arm in arms))
        add_row(made, "  change [95 %]", "", *(_change(score, arm.score, arm.change_ci, 2) for arm in arms[1:]))
    for aspect in effect.before.aspects:
        add_row(made, plain(f"  {aspect}"), *(number(arm.aspects.get(aspect)) for arm in arms))
    add_row(made, "words, mean", *(number(arm.mean_words, 1) for arm in arms))
    return made if score is None else Group(made, _learned_line(effect.share_learned))


def _learned_line(share: float | None) -> Text:
    if share is None:
        return Text("The prompt's own gain is not supported here: nothing to take over.", "yellow")
    return Text(f"Without the prompt, the policy has {percent(share)} of what the prompt gains.")


def signal_table(iterations: Sequence[Mapping[str, object]]) -> Table:
    """Return the signal statistics, one column an iteration: over all scored pairs → over the kept ones.

    Takes the fields of `SignalStatistics`, and what else ``summary.json`` says of an iteration. A statistic that no
    iteration has is left out.
    """
    made = table("Signal: all pairs → kept pairs", "", *(f"iteration {i}" for i in range(1, len(iterations) + 1)))
    for key, name, digits in _SIGNAL:
        cells = [_all_and_kept(iteration, key, digits) for iteration in iterations]
        if any(cell != MISSING for cell in cells):
            add_row(made, name, *cells)
    return made


def _all_and_kept(iteration: Mapping[str, object], key: str, digits: int) -> str:
    scored, kept = (_number_in(iteration, name, digits) for name in (key, f"{key}_kept"))
    return scored if kept == MISSING else f"{scored} → {kept}"


def _number_in(values: Mapping[str, object], key: str, digits: int) -> str:
    value = values.get(key)
    return number(value, digits) if isinstance(value, int | float) else MISSING


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
) -> RenderableType:
    """Return the answers of both sides next to each other, for `limit` queries spread evenly over the set.

    `characters` bounds what is shown of an answer.
    """
    answers = list(zip(queries, before, after, strict=True))
    shown = [answers[index * len(answers) // limit] for index in range(limit)] if len(answers) > limit else answers
    parts: list[RenderableType] = []
    for query, old, new in shown:
        sides = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=True)
        for side, answer in (("before", old), ("after", new)):
            sides.add_column(Text(f"{side} ({_size(answer)})", style="dim"), ratio=1, overflow="fold")
        sides.add_row(*(plain(answer.text.strip(), limit=characters) for answer in (old, new)))
        parts += [plain(query.text.strip(), limit=characters // 2, style="bold"), sides]
    return Group(*parts)


def _size(answer: Completion) -> str:
    return f"{answer.words} words{', cut off' if answer.finish == 'length' else ''}"


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
        config, output = shlex.quote(f"{status.path}/config.yaml"), shlex.quote(f"output_dir={status.path}")
        again = f"windvane {status.command} {config} --set {output}"
        head.append("\nto go on: ").append_text(plain(again))
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
    shown = {stage.path for stage in status.stages}
    for what, path in status.places.items():
        if path not in shown:  # the stages have a table of their own
            parts.append(Text.assemble(plain(what), ": ", plain(str(path))))
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


def print_findings(findings: Sequence[Finding], *, as_json: bool, console: Console | None = None) -> None:
    """Print what the doctor found: as a table, or as one JSON list with the fields of `Finding`."""
    console = console or Console()
    if as_json:
        text = json.dumps([finding.model_dump() for finding in findings], indent=2, ensure_ascii=False)
        console.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)
    else:
        console.print(findings_table(findings))


def models_table(models: Sequence[Available]) -> Table:
    """Return what `windvane models list` lists."""
    made = table("Models", "model", "state", "", "folder")
    for column in made.columns:
        column.justify = "left"
    for model in models:
        folder = MISSING if model.folder is None else str(model.folder)
        made.add_row(plain(model.name, style="bold"), plain(model.state), plain(model.description), plain(folder))
    return made
