import io
import json
import unicodedata
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console, RenderableType

from tests.evaluation.answers import TopicScorer, answer, query
from windvane.doctor import Finding
from windvane.engines.shelf import Available
from windvane.evaluation.language import language_requests, score_language
from windvane.evaluation.policy import Evaluation, Limits, evaluate
from windvane.judging.rules import Shorter
from windvane.reporting.cells import number, percent, plain
from windvane.reporting.console import (
    evaluation_table,
    findings_table,
    models_table,
    print_findings,
    samples_table,
    selection_table,
    signal_table,
    status_table,
)
from windvane.run import RunStatus, StageStatus
from windvane.types import Dropped

HOSTILE = (
    "[bold red]not markup[/] :smile: \x1b[31mred\x1b[0m \x1b]0;title\x07 "
    "\x1b]8;;http://x\x1b\\link \x07\x08\r\u202egnp.exe \ud800"
)


def printed(what: RenderableType, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(what)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= width
    return text


def evaluation(n: int = 8, source: str | None = None) -> Evaluation:
    queries = [query(f"topic{index}", source if index % 2 else None) for index in range(n)]
    before = [answer(f"{q.id} is something that one could say a great deal about", cut=True) for q in queries]
    after = [answer(f"{q.id} is good") for q in queries]
    language = score_language(language_requests(queries, before, after, seed=0), TopicScorer())
    return evaluate(queries, before, after, language, Shorter(), seed=0)


def test_plain_text_is_shown_as_it_is_and_does_nothing() -> None:
    shown = printed(plain(HOSTILE), width=200)
    assert "[bold red]not markup[/] :smile: red" in shown
    assert "link" in shown
    assert "\N{REPLACEMENT CHARACTER}" in shown
    assert not {"\x1b", "\x07", "\x08", "\r", "\u202e"} & set(shown)
    assert "title" not in shown
    shown.encode()


@given(st.text(alphabet=st.characters(codec=None, exclude_categories=())))
def test_plain_leaves_no_control_character(text: str) -> None:
    shown = plain(text).plain
    assert not {unicodedata.category(character) for character in shown.replace("\n", "")} & {"Cc", "Cs", "Zl", "Zp"}
    shown.encode()


def test_plain_keeps_what_people_write() -> None:
    for text in ("Zürich – 5 €", "日本語", "👩‍👩‍👧 family", "a\nb", "שלום"):
        assert plain(text).plain == text
    assert plain("a\tb").plain == "a    b"
    assert plain("a\r\nb").plain == "a\nb"
    assert plain("x" * 50, limit=10).plain == "x" * 10 + " …"


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(None, 2, "–"), (-1.5, 1, "−1.5"), (-0.001, 2, "0.00"), (0.0, 0, "0"), (12.345, 2, "12.35"), (64.0, 0, "64")],
)
def test_numbers(value: float | None, digits: int, text: str) -> None:
    assert number(value, digits) == text


def test_shares() -> None:
    assert percent(0.256) == "26 %"
    assert percent(None) == "–"


def test_evaluation_table_says_everything_with_its_unit() -> None:
    shown = printed(evaluation_table(evaluation(), rule="shorter"))
    for part in (
        "on 8 queries",
        "words per answer, mean",
        "× 0.27",
        "cut off by the token limit",
        "100 %",
        "base logprob, nats/token",
        "−1.00",
        "relevance, nats/token",
        "win rate of after by the rule 'shorter' 1.00, 95 % interval 0.68 to 1.00",
        "(wins 8, ties 0, losses 0, unscored 0)",
    ):
        assert part in shown
    assert "By source" not in shown


def test_evaluation_table_warns_beyond_the_limits() -> None:
    result = evaluation()
    assert "every guard is within its limit" in printed(evaluation_table(result, limits=Limits(distinct2_ratio=0)))
    assert "! distinct-2 fell" in printed(evaluation_table(result, limits=Limits(distinct2_ratio=3)))


def test_evaluation_table_without_rule_and_base_model() -> None:
    queries = [query("tea")]
    result = evaluate(queries, [answer("tea is good")], [answer("tea")], None, None, seed=0)
    shown = printed(evaluation_table(result))
    assert "no rule says what is better" in shown
    assert "still language" not in shown
    assert "None" not in shown


def test_evaluation_table_by_source_escapes_its_name() -> None:
    assert "[red]web[/]" in printed(evaluation_table(evaluation(source="[red]web[/]")))


def test_signal_table_shows_all_and_kept_for_each_iteration() -> None:
    rows = [
        {"n": 48, "n_kept": 20, "pair_accuracy": 0.8, "pair_accuracy_kept": 0.95, "gap_chosen": 0.4, "final_loss": 5.9},
        {"n": 48, "n_kept": 22, "pair_accuracy": None, "pair_accuracy_kept": None, "gap_chosen": 0.5, "other": "x"},
        {"n": 48, "n_kept": 22, "gap_chosen": 0.5},
    ]
    shown = printed(signal_table(rows))
    assert "0.80 → 0.95" in shown
    assert "48 → 20" in shown
    assert "iteration 3" in shown
    assert "words of" not in shown


def test_selection_table_counts_reasons_from_either_form() -> None:
    dropped = [Dropped(id=str(index), reason="small gap" if index else "[i]odd[/i]") for index in range(30)]
    from_records = printed(selection_table(10, dropped, {"gap_chosen": 0.1234}))
    assert "10 of 40 pairs kept" in from_records
    assert "[i]odd[/i]" in from_records
    assert "threshold of gap_chosen: 0.123" in from_records
    assert from_records == printed(selection_table(10, {"[i]odd[/i]": 1, "small gap": 29}, {"gap_chosen": 0.1234}))
    assert from_records.index("small gap") < from_records.index("odd")
    assert "0 of 0 pairs kept" in printed(selection_table(0, {}))


def test_samples_stand_side_by_side_and_spread_over_the_set() -> None:
    queries = [query(f"topic{index}") for index in range(10)]
    before = [answer(f"before{index} {HOSTILE}", cut=True) for index in range(10)]
    after = [answer(f"after{index}") for index in range(10)]
    shown = printed(samples_table(queries, before, after, limit=2))
    assert "What about topic0?" in shown
    assert "What about topic5?" in shown
    assert "topic1" not in shown
    assert "cut off)" in shown
    assert "[bold red]not" in shown
    assert "\x1b" not in shown
    line = next(line for line in shown.splitlines() if "before0" in line)
    assert "after0" in line


def test_status_table() -> None:
    status = RunStatus(
        path=Path("runs/[b]mine"),
        command="sso",
        state="interrupted",
        message="",
        started=datetime(2026, 1, 1),
        last=datetime(2026, 1, 1),
        minutes=3.25,
        stages=(
            StageStatus("iteration-1/responses", True, 3, 3, 96, 1.5, Path("runs/mine/iteration-1/responses.jsonl")),
            StageStatus("iteration-1/scores", False, 1, 3, None, 0.2, Path("runs/mine/iteration-1/scores.jsonl")),
        ),
        counts={"tokens_generated": 12345},
        places={"configuration": Path("runs/mine/config.yaml"), "x": Path("runs/mine/iteration-1/responses.jsonl")},
    )
    shown = printed(status_table(status))
    assert "runs/[b]mine: interrupted, 3.2 min" in shown
    assert "windvane sso 'runs/[b]mine/config.yaml' --set 'output_dir=runs/[b]mine'" in " ".join(shown.split())
    assert "1 of 3 shards" in shown
    assert "12 345" in shown
    assert "configuration: runs/mine/config.yaml" in shown
    assert "x: " not in shown


def test_models_table() -> None:
    shown = printed(
        models_table([Available("smollm2-135m", "ready", "SmolLM2", Path("/cache")), Available("[a]", "x", "", None)])
    )
    assert "smollm2-135m" in shown
    assert "[a]" in shown


def test_findings_as_table_and_as_json() -> None:
    findings = [
        Finding(name="disk", value="[1] GiB", verdict="bad", advice="free some"),
        Finding(name="python", value="3.11"),
    ]
    shown = printed(findings_table(findings))
    assert "✗  disk    [1] GiB" in shown
    assert "→ free some" in shown
    console = Console(file=io.StringIO(), width=20)
    print_findings(findings, as_json=True, console=console)
    assert isinstance(console.file, io.StringIO)
    rows = json.loads(console.file.getvalue())
    assert [Finding.model_validate(row) for row in rows] == findings
