"""Every way in which a score has been seen written, and its one outcome."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windvane.judging.records import AspectScore, summed_up
from windvane.judging.scores import NOT_APPLICABLE, read_score

READ = {
    "4": 4, "4.5": 4.5, "4,5": 4.5, "1": 1, "5": 5, "5.0": 5, " 4 ": 4, "**4**": 4, "`4`": 4, "4.": 4, '"4"': 4,
    "4/5": 4, "4 / 5": 4, "4.5/5": 4.5, "5 out of 5": 5, "3.5 out of 5": 3.5, "4/5.0": 4, "5 out of five": 5,
    "five": 5, "Five": 5, "ONE": 1, "five out of five": 5, "four/five": 4, "three stars": 3, "4 stars": 4,
    "4 (good)": 4, "about 4": 4, "score: 4": 4, "4 - good": 4, "4+": 4, "4!": 4, "It gets a 4.": 4, "٤": 4,
}  # fmt: skip
UNREAD = {
    "7": "outside", "0": "outside", "-1": "outside", "0.9": "outside", "5.1": "outside", "7/5": "outside",
    "zero": "outside", "seven": "outside", "six out of five": "outside", "100": "outside", "−4": "outside",
    "8/10": "scale of 10", "80 out of 100": "scale of 100", "3/4": "scale of 4", "ten out of ten": "scale of 10",
    "80%": "percentage", "4%": "percentage",
    "3-4": "more than one", "3–4": "more than one", "4 or 5": "more than one", "4 to 5": "more than one",
    "4, 5": "more than one", "4 for style, 2 for truth": "more than one", "5/5 and 3/5": "more than one",
    "": "empty", "  ": "empty", "**": "empty",
    "good": "no number", "A+": "no number", "★★★★": "no number", "the best one": "no number", "1e3": "no number",
    "4th": "no number", "½": "no number", "1.5e3": "no number", "x4": "no number", "four and a half": "no number",
    "N/A": "does not apply", "n/a": "does not apply", "NA": "does not apply", "none": "does not apply",
    "None": "does not apply", "null": "does not apply", "Not applicable.": "does not apply", "nan": "does not apply",
}  # fmt: skip


@pytest.mark.parametrize(("written", "score"), READ.items())
def test_a_score_that_can_be_read(written: str, score: float) -> None:
    assert read_score(written) == (score, None)


@pytest.mark.parametrize(("written", "told"), UNREAD.items())
def test_a_score_that_cannot_be_read_is_unscored(written: str, told: str) -> None:
    score, why = read_score(written)
    assert score is None
    assert why is not None
    assert told in why


@pytest.mark.parametrize(
    ("value", "score", "told"),
    [
        (4, 4.0, None),
        (4.5, 4.5, None),
        (7, None, "outside"),
        (0, None, "outside"),
        (10**400, None, "outside"),
        (math.nan, None, "no number"),
        (math.inf, None, "no number"),
        (True, None, "no number"),
        (None, None, NOT_APPLICABLE),
        ([4, 5], None, "no number"),
        ({"score": 4}, None, "no number"),
    ],
)
def test_what_json_can_hold(value: object, score: float | None, told: str | None) -> None:
    found = read_score(value)
    assert found.score == score
    assert (told or "") in (found.unscored or "")
    assert (found.score is None) == (found.unscored is not None)


@given(st.one_of(st.text(), st.floats(), st.integers(), st.none(), st.booleans(), st.lists(st.integers())))
def test_no_value_crashes_and_none_leaves_the_scale(value: object) -> None:
    found = read_score(value)
    assert (found.score is None) != (found.unscored is None)
    assert found.score is None or 1 <= found.score <= 5


def test_a_judgement_is_the_mean_over_what_has_a_score() -> None:
    scores = [
        AspectScore(aspect="A", score=5),
        AspectScore(aspect="B", score=None, unscored="lost"),
        AspectScore(aspect="C", score=2),
    ]
    judgement = summed_up("q", scores)
    assert (judgement.score, judgement.unscored) == (3.5, None)
    assert not judgement.perfect
    nothing = summed_up("q", scores[1:2])
    assert (nothing.score, nothing.unscored) == (None, "B: lost")
    assert not nothing.perfect
    assert summed_up("q", []).score is None
    assert not summed_up("q", []).perfect
    assert summed_up("q", scores[:1]).perfect
    assert not summed_up("q", scores[:2]).perfect
