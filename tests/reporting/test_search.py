"""What a search shows while it runs, and how its proof reads."""

import io

import pytest
from rich.console import Console, RenderableType

from windvane.engines.budget import BudgetSettings, Spend
from windvane.judging.records import AspectScore
from windvane.prompt_search.contracts import Progress
from windvane.prompt_search.proof import Proof, compare
from windvane.prompt_search.records import Candidate, Judged
from windvane.reporting.search import SearchView, Traffic, proof_tables, search_text
from windvane.run.progress import ProgressDisplay
from windvane.types import Message, Query

BEST = Candidate(id="p3", text="Be [bold]brief[/bold].\x1b[31m", parent="p0", origin="optimizer")
OTHER = Candidate(id="p7", text="Be kind.", parent="p3", origin="optimizer")
PROGRESS = Progress(2, 8, (OTHER,), BEST, (3.0, 4.0), (0.1, 0.4, 0.7))


def shown(what: RenderableType) -> str:
    console = Console(record=True, width=160, file=io.StringIO())
    console.print(what)
    return console.export_text()


def traffic(**limits: float) -> Traffic:
    return Traffic(120, 14, Spend(130, 9_000, 0.25), BudgetSettings.model_validate(limits))


@pytest.mark.parametrize(
    ("limits", "left"),
    [
        ({}, ""),
        ({"calls": 500}, ", 370 left"),
        ({"calls": 100}, ", 0 left"),
        ({"tokens": 10_000}, ", 1,000 tokens left"),
        ({"money": 1.0}, ", 0.75 of money left"),
    ],
)
def test_calls_done_in_flight_and_left(limits: dict[str, float], left: str) -> None:
    view = SearchView(Console(quiet=True), lambda: traffic(**limits))
    assert view.calls() == f"120 calls done, 14 in flight{left}"


def test_a_line_for_each_race_where_there_is_no_terminal() -> None:
    out = io.StringIO()
    replies = iter((100, 120, 120))
    view = SearchView(Console(file=out, width=300), lambda: traffic(calls=500)._replace(done=next(replies)))
    with view.stage("race"):
        view(PROGRESS)
    (line,) = out.getvalue().splitlines()
    assert line.startswith(
        "race 2 of at most 8, best p3 at 3.50 [2.52 to 4.48], the leader differs by +0.40 [+0.10 to +0.70]"
    )
    assert "1 in the running, at most about" in line
    assert line.endswith("120 calls done, 14 in flight, 370 left")


def test_on_a_terminal_the_best_prompt_and_the_running_ones_are_shown_as_plain_text() -> None:
    view = SearchView(Console(file=io.StringIO(), force_terminal=True, width=160), lambda: traffic(calls=500))
    with view.stage("race"):
        assert "race: 120 calls done" in shown(view.shown())
        view(PROGRESS)
        said = shown(view.shown())
    assert "best, p3" in said
    assert "Be [bold]brief[/bold]." in said  # no markup, no colour of its own
    assert "p7" in said
    assert "left" in said


class Clock:
    """Seconds and replies, as a test moves them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.replies = 1000.0, 40
        monkeypatch.setattr("time.monotonic", lambda: self.now)
        self.view = SearchView(Console(quiet=True), lambda: traffic()._replace(done=self.replies))

    def moves(self, seconds: float, replies: int, progress: Progress | None = None) -> str:
        """Return the line of the view, or the whole view where there is no progress, after a while."""
        self.now, self.replies = self.now + seconds, self.replies + replies
        if progress is None:
            return shown(self.view.shown())
        self.view(progress)
        return self.view.standing(progress)


def test_the_time_left_is_that_of_the_steps_to_come_and_does_not_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, looks = Clock(monkeypatch), PROGRESS._replace(step=1, steps=4, done=False)
    with clock.view.stage("race"):
        assert "left" not in clock.moves(20, 10, looks)  # nobody knows yet how long a race takes
        assert "at most about 1 min 30 s left" in clock.moves(10, 5, looks._replace(done=True))
        assert "at most about 1 min 20 s left" in clock.moves(10, 5)
        assert "at most about 1 min 0 s left" in clock.moves(300, 5)  # the second takes longer: two more are to come
        assert "at most about 1 min 0 s left" in clock.moves(0, 5, looks._replace(step=2))
        assert "at most about 5 min 40 s left" in clock.moves(0, 0, looks._replace(step=2, done=True))
        assert "left" not in clock.moves(10, 5, looks._replace(step=4, done=True))


def test_steps_that_were_answered_from_file_do_not_count_as_fast_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, race = Clock(monkeypatch), PROGRESS._replace(step=1, steps=4)
    with clock.view.stage("race"):
        assert "left" not in clock.moves(0.1, 0, race)
        assert "at most about 1 min 0 s left" in clock.moves(30, 9, race._replace(step=2))


def test_the_proof_says_how_long_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    with clock.view.stage("proof", 96):
        assert clock.moves(5, 0).strip() == "proof: 40 calls done, 14 in flight; 5 s so far"
        assert "20 s so far, at most about 1 min 0 s left" in clock.moves(15, 24)
        assert "at most about 0 s left" in clock.moves(15, 200)


def test_a_line_while_the_view_is_drawn_goes_above_it() -> None:
    """A run says that it loads a model while its search is shown already."""
    out = io.StringIO()
    run = ProgressDisplay(Console(file=out, force_terminal=True, width=100))
    view = SearchView(run.console, traffic)
    with view.stage("race"):
        run.say("loading a model")
    (line,) = [line for line in out.getvalue().splitlines() if "loading a model" in line]
    assert "race" not in line


def judged(score: float | None) -> Judged:
    if score is None:
        return Judged(output="", score=None, unscored="no reply")
    return Judged(output="x", score=score, aspects=(AspectScore(aspect="[red]Clarity", score=score),))


def proof(start: list[float | None], found: list[float | None], verdict: str, statement: str) -> Proof:
    queries = [Query(id=f"q{n}", messages=(Message(role="user", content=f"{n}?"),)) for n in range(len(start))]
    sides = [{query.id: judged(score) for query, score in zip(queries, side, strict=True)} for side in (start, found)]
    best = compare("p3", sides[0], sides[1], queries)
    return Proof.model_validate({"verdict": verdict, "statement": statement, "best": best, "comparisons": (best,)})


def test_the_proof_says_all_its_numbers_and_the_aspects() -> None:
    said = shown(proof_tables(proof([2, 2, 3, 3, 2, 2, 2, 3], [3, 4, 3, 4, 3, 4, None, 2], "gain", "A gain: …")))
    assert "p3 against the start prompt, on 7 held-out queries" in said
    (row,) = [line for line in said.splitlines() if line.strip().startswith("score")]
    assert row.split() == ["score", "2.43", "3.29", "+0.86", *row.split()[4:7], "5", "1", "1", "7"]
    assert "[red]Clarity" in said
    assert "1 queries have no score" in said
    assert "A gain: …" in said


def test_where_nothing_was_found_only_that_is_said() -> None:
    nothing = Proof(verdict="nothing to prove", statement="No gain: none was found.", best=None, comparisons=())
    assert shown(proof_tables(nothing)).strip() == "No gain: none was found."


def test_what_a_search_took_reads_well() -> None:
    search = {
        "type": "racing",
        "levels": 0,
        "candidates": 1,
        "calls": 12,
        "evaluations": 2,
        "unscored": 2,
        "money": None,
    }
    assert shown(search_text(search, {})).strip() == "0 races, 1 prompt, 12 calls, 2 of 2 answers without a score"
    search = {"type": "paper", "levels": 1, "candidates": 2, "calls": 1, "evaluations": 2, "unscored": 0, "money": 0.5}
    assert shown(search_text(search, {})).strip() == "1 level, 2 prompts, 1 call, 0.5 of money"
