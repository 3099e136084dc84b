import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windvane.judging import measures


@pytest.mark.parametrize("text", ["", "  \n\t", "...", "?!", "—", "```", "**", "\u200b", "()"])
def test_a_text_that_says_nothing_is_empty(text: str) -> None:
    assert measures.is_empty(text)


@pytest.mark.parametrize("text", ["4", "No.", "=", "√", "🙂", "是", "$", "  x"])
def test_a_text_that_says_something_is_not_empty(text: str) -> None:
    assert not measures.is_empty(text)


@pytest.mark.parametrize(
    "line",
    [
        "- milk",
        "* milk",
        "+ milk",
        "• milk",
        "  ‣ milk",
        "– milk",
        "1. milk",
        "12) milk",
        "(3) milk",
        "4: milk",
        "**5.** milk",
        "**6**. milk",
        "a) milk",
        "(b) milk",
        "iv. milk",
        "Step 2: milk",
        "**Step 3:** milk",
        "> - quoted",
        "- [ ] a task",
        "1. **Milk**: from the shop",
        "- **milk**",
        "3\ufe0f\u20e3 milk",
        "\t- indented",
    ],
)
def test_list_lines_are_seen(line: str) -> None:
    assert measures.list_lines(line) == (1, 1)


@pytest.mark.parametrize(
    "line",
    [
        "---",
        "***",
        "* * *",
        "-5 degrees outside",
        "3.5 km is far",
        "1999. It was a year",
        "**Milk** comes from cows",
        "A cow gives milk.",
        "I like milk.",
        "Step by step",
        "milk - from cows",
        "#1 choice",
        "1.",
        "-",
        "e.g. milk",
    ],
)
def test_other_lines_are_no_items(line: str) -> None:
    assert measures.list_lines(line) == (0, 1)


def test_list_share_counts_non_blank_lines_and_needs_two_items() -> None:
    assert measures.list_share("You need:\n\n- milk\n- eggs\n") == pytest.approx(2 / 3)
    assert measures.list_share("- milk") == 0.0
    assert measures.list_share("- milk", min_items=1) == 1.0
    assert measures.list_share("") == 0.0
    assert measures.is_list("1. a\n2. b")
    assert not measures.is_list("1. a\nand b")


def test_code_is_no_list() -> None:
    text = "Write this:\n```yaml\n- a\n- b\n```\nDone."
    assert measures.list_lines(text) == (0, 2)


@given(st.text())
def test_every_measure_takes_any_text(text: str) -> None:
    items, lines = measures.list_lines(text)
    assert 0 <= items <= lines
    assert 0 <= measures.list_share(text) <= 1
    assert 0 <= measures.repeated_share(text) < 1
    assert measures.filler_words(text) >= 0
    measures.is_refusal(text)
    measures.parse_json(text)
    if measures.words(text):
        assert measures.reading_ease(text) <= 121.22 + 1e-9


@pytest.mark.parametrize(
    ("text", "filler"),
    [
        ("Bread goes stale because starch crystallises.", 0),
        ("Sure! Bread goes stale.", 1),
        ("Sure, here are some tips:\n- Eat it.", 5),
        ("That's a great question! Starch does it.", 4),
        ("I'd be happy to help you with that. Starch does it. I hope this helps!", 12),
        ("Starch does it. Let me know if you have any questions.", 8),
        ("As an AI language model, I have no bread. Starch does it.", 9),
        ("Here is bread that keeps for weeks. It is rye.", 0),
        ("Sure enough, it rained.", 0),
        ("Sure, bread goes stale because starch crystallises.", 1),
        ("Of course, I'd be happy to help. Starch does it.", 7),
        ("Thanks for asking! Starch does it.", 3),
        ("Okay, sure, hello.", 3),
        ("Good ideas take time.", 0),
        ("Sure!", 1),
        ("", 0),
    ],
)
def test_filler_words(text: str, filler: int) -> None:
    assert measures.filler_words(text) == filler


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I cannot provide instructions for this.",
        "I’m not able to answer.",
        "As an AI, I cannot have opinions.",
        "I must respectfully decline.",
        "Sorry. I can't assist with that request.",
    ],
)
def test_refusals_are_seen(text: str) -> None:
    assert measures.is_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "You can't freeze eggs in their shells.",
        "I'm sorry to hear that. Rest, and drink tea.",
        "Penguins cannot fly.",
        "It works. " + "Really. " * 40 + "I cannot help you further.",
    ],
)
def test_answers_are_no_refusals(text: str) -> None:
    assert not measures.is_refusal(text)


@pytest.mark.parametrize(
    ("word", "count"),
    [("cat", 1), ("make", 1), ("table", 2), ("banana", 3), ("the", 1), ("free", 1), ("walked", 1), ("42", 1)],
)
def test_syllables(word: str, count: int) -> None:
    assert measures.syllables(word) == count


def test_reading_ease_by_hand() -> None:
    # 6 words in 2 sentences, one syllable each: 206.835 - 1.015 * 3 - 84.6 * 1
    assert measures.reading_ease("The cat sat. The dog ran.") == pytest.approx(119.19)
    assert measures.reading_ease("cat") == pytest.approx(121.22)
    with pytest.raises(ValueError, match="at least one word"):
        measures.reading_ease("...")


def test_repeated_share_by_hand() -> None:
    assert measures.repeated_share("a b a b a b", n=2) == pytest.approx(3 / 5)  # ab ba | ab ba ab
    assert measures.repeated_share("a b c d e") == 0.0
    assert measures.repeated_share("a b") == 0.0
    assert measures.repeated_share("no no no no no no no no no") == pytest.approx(5 / 6)


def test_words_are_compared_without_case_and_punctuation() -> None:
    assert measures.words("Don't STOP, please: 3 times!") == ["don't", "stop", "please", "3", "times"]


def test_bigrams_do_not_span_texts() -> None:
    assert measures.bigram_counts(["a b", "c", "a b c"]) == {("a", "b"): 2, ("b", "c"): 1}


@pytest.mark.parametrize("value", [{"a": 1}, [1, 2], "text", 3, True])
def test_json_bare_and_fenced(value: object) -> None:
    assert measures.parse_json(json.dumps(value)) == value
    assert measures.parse_json(f"```json\n{json.dumps(value)}\n```\n") == value


@pytest.mark.parametrize("text", ["", "{a: 1}", 'Here: {"a": 1}', "```\n```", "[" * 100_000])
def test_other_text_is_no_json(text: str) -> None:
    assert measures.parse_json(text) is None


@settings(deadline=None)  # the first call loads the model
@given(st.text())
def test_the_languages_of_any_text_are_probabilities(text: str) -> None:
    found = measures.languages(text)
    assert math.isclose(sum(found.values()), 1)
    assert all(0 <= probability <= 1 for probability in found.values())
    assert {"en", "de", "fr", "zh", "ru", "ar"} <= set(found)
