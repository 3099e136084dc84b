"""The tables of SeRA: what they say, what they leave out, and that foreign text does nothing in them."""

import io
import json
import math
from typing import Any

import pytest
from rich.console import Console, RenderableType
from rich.text import Text

from windvane.evaluation.reward_accuracy import RewardAccuracy, reward_accuracy
from windvane.reporting.rounds import HELD_OUT, accuracy_table, doubted_table, rounds_table
from windvane.selection import NoiseRemoval, PairMargin
from windvane.types import Completion, Message, Pair

HOSTILE = "[bold red]not markup[/] :smile: \x1b[31mred\x1b[0m \x1b]0;title\x07 \x08\r\u202egnp.exe \ud800"
UNSEEN = {"\x1b", "\x07", "\x08", "\r", "\u202e", "\ud800"}


def printed(what: RenderableType, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(what)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= width
    return text


def line(text: str, start: str) -> list[str]:
    """Return the cells of the one line that begins so."""
    (found,) = [each for each in text.splitlines() if each.strip().startswith(start)]
    return [cell.strip() for cell in found.strip().split("  ") if cell.strip()]


NOISE = NoiseRemoval(pairs=400, flipped=80, auc=0.714, auc_ci=(0.651, 0.777), removed=120, precision=0.4, recall=0.6)
HELD = RewardAccuracy(n=80, accuracy=0.8, accuracy_ci=(0.699, 0.873), unscored=0, mean_margin=1.5, by_source=())
FIRST: dict[str, Any] = {
    "pairs_kept": 400, "pairs_dropped": 0, "pairs_added": 0, "token_price": None, "thresholds": {},
    "noise": None, "held_out": HELD, "policy": "runs/x", "steps": 100, "final_loss": 0.65432,
}  # fmt: skip
LATER = {
    **FIRST, "pairs_kept": 280, "pairs_dropped": 120, "pairs_added": 118, "token_price": 0.01,
    "thresholds": {"margin": 0.5}, "noise": NOISE, "steps": 99,
}  # fmt: skip


def test_a_column_a_round_and_a_line_a_number() -> None:
    shown = printed(rounds_table([FIRST, LATER]), width=120)
    assert line(shown, "round") == ["round 1", "round 2"]
    assert line(shown, "offline pairs kept") == ["offline pairs kept", "400", "280"]
    assert line(shown, "offline pairs dropped")[1:] == ["0", "120"]
    assert line(shown, "pairs added")[1:] == ["0", "118"]
    assert line(shown, "flipped pairs told apart")[1:] == ["–", "0.71 [0.65, 0.78]"]
    assert line(shown, "dropped pairs that were flipped")[1:] == ["–", "40 %"]
    assert line(shown, "flipped pairs that were dropped")[1:] == ["–", "60 %"]
    assert line(shown, "held-out accuracy")[1:] == ["0.80 [0.70, 0.87]"] * 2
    assert line(shown, "steps")[1:] == ["100", "99"]
    assert line(shown, "final loss")[1:] == ["0.6543", "0.6543"]


@pytest.mark.parametrize("rounds", [1, 2, 3, 5])
def test_rounds_fit_a_screen_of_80_columns(rounds: int) -> None:
    shown = printed(rounds_table([FIRST, *[LATER] * (rounds - 1)]))
    assert f"round {rounds}" in shown
    assert shown.count("0.6543") == rounds
    if rounds <= 3:
        assert shown.count("0.80 [0.70, 0.87]") == rounds


def test_lines_with_nothing_to_say_are_left_out() -> None:
    shown = printed(rounds_table([{**FIRST, "held_out": None, "final_loss": None}] * 2))
    for part in ("dropped", "added", "flipped", "held-out", "final loss", "None"):
        assert part not in shown
    assert "offline pairs kept" in shown
    assert "steps" in shown


def test_a_shares_interval_may_be_missing_and_a_zero_is_no_gap() -> None:
    noise = NOISE.model_copy(update={"auc": None, "auc_ci": None, "precision": 0.0, "recall": None})
    shown = printed(rounds_table([{**LATER, "noise": noise}]))
    assert "0 %" in shown
    assert "AUC" not in shown
    assert "flipped pairs that were dropped" not in shown


def test_what_comes_from_the_file_looks_like_what_comes_from_the_run() -> None:
    rounds = [FIRST, LATER]
    stored = json.loads(json.dumps(rounds, default=lambda record: record.model_dump()))
    assert printed(rounds_table(stored)) == printed(rounds_table(rounds))


def test_rounds_of_another_version_have_gaps() -> None:
    shown = printed(rounds_table([{"steps": 5, "new": {"deep": [1]}}, {"pairs_kept": None, "steps": None}]))
    assert "None" not in shown
    assert "kept" not in shown
    assert line(shown, "steps") == ["steps", "5", "–"]


def test_a_summary_that_somebody_else_wrote_does_nothing() -> None:
    assert "\x1b" in printed(Text("\x1b[31mred"))  # rich alone lets it through
    shown = printed(rounds_table([{"pairs_kept": HOSTILE, "steps": HOSTILE, "final_loss": HOSTILE}]))
    assert "[bold red]not markup[/] :smile:" in " ".join(shown.split())
    assert not UNSEEN & set(shown)
    assert "title" not in shown


def margins(*values: float, source: str | None = None) -> list[PairMargin]:
    return [PairMargin(id=f"{source}{n}", margin=value, last=value, source=source) for n, value in enumerate(values)]


def test_accuracy_over_all_and_by_source() -> None:
    given = [*margins(1, 1, 1, -1, source="wiki"), *margins(-1, 0, source="forum")]
    shown = printed(accuracy_table(reward_accuracy(given)))
    assert HELD_OUT in shown
    assert line(shown, "all") == ["all", "6", "0.58", "0.24 to 0.86"]
    assert line(shown, "forum")[1:3] == ["2", "0.25"]
    assert line(shown, "wiki")[1:3] == ["4", "0.75"]
    assert "Labels" in printed(accuracy_table(reward_accuracy(given), title="Labels"))


def test_accuracy_of_nothing_is_a_gap() -> None:
    assert line(printed(accuracy_table(reward_accuracy([]))), "all") == ["all", "0", "–", "–"]


def test_the_name_of_a_source_does_nothing() -> None:
    given = [*margins(1, source=HOSTILE), *margins(1, source="w" * 200)]
    shown = printed(accuracy_table(reward_accuracy(given)))
    assert "[bold red]not markup[/] :smile:" in " ".join(shown.split())
    assert not UNSEEN & set(shown)


def pair(name: str, chosen: str, rejected: str) -> Pair:
    one, other = (Completion(text=text, token_ids=(1, 2), finish="stop") for text in (chosen, rejected))
    return Pair(id=name, prompt=(Message(role="user", content="Why?"),), chosen=one, rejected=other)


def doubted(values: dict[str, float], limit: int = 5) -> str:
    given = [PairMargin(id=name, margin=value, last=value) for name, value in values.items()]
    pairs = [pair(name, f"yes {name}", f"no {name}") for name in sorted(values)]
    return printed(doubted_table(given, pairs, limit=limit))


def test_the_smallest_margins_come_first_with_their_texts() -> None:
    shown = doubted({"d": 2.5, "b": -1.25, "c": 0, "a": -1.25}, limit=3)
    rows = [each.split() for each in shown.splitlines() if "yes" in each]
    assert rows == [
        ["a", "−1.25", "yes", "a", "no", "a"],
        ["b", "−1.25", "yes", "b", "no", "b"],
        ["c", "0.00", "yes", "c", "no", "c"],
    ]


def test_a_margin_that_is_no_number_hides_no_doubt() -> None:
    shown = doubted({"a": 1, "b": math.nan, "c": -1, "d": math.nan, "e": -2}, limit=2)
    rows = [each.split()[0] for each in shown.splitlines() if "yes" in each]
    assert rows == ["e", "c"]


def test_doubted_texts_are_short_and_do_nothing() -> None:
    name = f"[b]{'x' * 200}"
    given = [PairMargin(id=name, margin=-1.0, last=-1.0)]
    wide = printed(doubted_table(given, [pair(name, HOSTILE, f"\n\n {'word ' * 300}")]), width=200)
    assert "[b]xxx" in wide
    assert "[bold red]not markup[/] :smile: red" in wide
    assert not UNSEEN & set(wide)
    assert wide.count("word") == 12
    printed(doubted_table(given, [pair(name, HOSTILE, HOSTILE)]))


def test_no_margins_no_rows() -> None:
    assert "yes" not in doubted({})
