"""Bars on a terminal, lines in a file, silence where it is asked for."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from tests.run.program import program
from windvane.run import progress
from windvane.run.progress import ProgressDisplay, duration, rate


def shown(*, terminal: bool = False, quiet: bool = False) -> tuple[ProgressDisplay, io.StringIO]:
    text = io.StringIO()
    return ProgressDisplay(Console(file=text, force_terminal=terminal, quiet=quiet, width=120, color_system=None)), text


def test_a_log_file_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_PLAIN_EVERY", 0.0)
    display, text = shown()
    with display.stage("answers", 10, done=4):
        with display.part(7):
            display.advance(2)
            display.advance(5)
        with display.part(10):
            pass
    lines = text.getvalue().splitlines()
    assert lines[0] == "answers: 4/10"
    assert [line.split(",")[0].split(" in ")[0] for line in lines[1:]] == ["answers: 6/10"] + ["answers: 7/10"] * 2 + [
        "answers: 10/10"
    ]
    assert " left" in lines[1]
    assert "\x1b" not in text.getvalue()


def test_a_terminal_gets_a_bar() -> None:
    display, text = shown(terminal=True)
    with display.stage("answers [bold]", 3):
        display.advance(3)
        display.say("see [this]")
    assert "answers [bold]" in text.getvalue()
    assert "3/3" in text.getvalue()
    assert "see [this]" in text.getvalue()


def test_a_quiet_console_gets_nothing(tmp_path: Path) -> None:
    display, text = shown(quiet=True)
    with display.stage("answers", 3):
        display.advance(3)
        display.say("hello")
    assert text.getvalue() == ""


def test_advance_without_a_bar_does_nothing() -> None:
    display, text = shown()
    display.advance(3)
    with display.stage(None, 3):
        display.advance(1)
    assert text.getvalue() == ""


def test_a_resumed_stage_starts_where_it_is(tmp_path: Path) -> None:
    text = io.StringIO()
    program(tmp_path, console=Console(file=text, width=200))
    assert text.getvalue().splitlines()[0] == "halves: 0/7"
    assert text.getvalue().splitlines()[1].startswith("halves: 7/7 in 0 s, ")
    text.truncate(0)
    program(tmp_path, console=Console(file=text, width=200))
    assert text.getvalue().strip("\0\n") == f"resuming {tmp_path}"


def test_a_failure_takes_the_bar_away() -> None:
    display, text = shown(terminal=True)
    with pytest.raises(KeyError), display.stage("answers", 3), display.part(2):
        raise KeyError
    display.advance()
    assert text.getvalue().endswith("\x1b[?25h")


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (185, "3 min 5 s"), (7800, "2 h 10 min")]
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_rates() -> None:
    assert rate(2.345) == "2.3/s"
    assert rate(0.05) == "3.0/min"
