from pathlib import Path

import pytest

from windvane.errors import ConfigError
from windvane.judging.aspects import Aspect, aspect_bank, named, read_aspects

FOURTEEN = [
    "Helpfulness", "Clarity", "Factuality", "Depth", "Engagement", "Conciseness", "Safety", "Compliance", "Limitations",
    "Critical-Thinking", "Creativity", "Interactivity", "Empathy", "Sensitivity",
]  # fmt: skip


def test_the_bank_has_the_fourteen_with_all_their_texts() -> None:
    bank = aspect_bank()
    assert [aspect.name for aspect in bank] == FOURTEEN
    texts = [text for aspect in bank for text in (aspect.definition, aspect.score_1, aspect.score_3, aspect.score_5)]
    assert None not in texts
    assert len(set(texts)) == 4 * 14
    assert read_aspects(None) == bank


def test_an_aspect_describes_itself() -> None:
    assert Aspect(name="Rhyme", definition="whether it rhymes.", score_5="Every  line\nrhymes.").described() == (
        "- Rhyme: whether it rhymes.\n  5 = Every line rhymes."
    )


def test_a_users_own_aspects(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("aspects:\n  - {name: Rhyme, definition: whether it rhymes}\n  - {name: Metre, definition: beat}\n")
    own = read_aspects(path)
    assert [aspect.name for aspect in own] == ["Rhyme", "Metre"]
    assert [aspect.name for aspect in named(["metre", "RHYME", "Metre"], own)] == ["Metre", "Rhyme"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("aspects: []", "not empty"),
        ("{}", "aspects"),
        ("aspects: [{name: A}]", "definition"),
        ("aspects: [{name: A, definition: x, weight: 2}]", "weight"),
        ("aspects: [{name: '', definition: x}]", "empty"),
        ("aspects: [{name: '!!', definition: x}]", "no letter"),
        ("aspects: [{name: A, definition: ' '}]", "empty"),
        ("aspects: [{name: To-Do, definition: x}, {name: to do, definition: y}]", "share a name"),
        (f"aspects: [{{name: {'A' * 41}, definition: x}}]", "40"),
        ("aspects: [{name: 5, definition: x}]", "name"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_and_named(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=told) as error:
        read_aspects(path)
    assert "own.yaml" in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"own\.yaml.*is not there"):
        read_aspects(tmp_path / "own.yaml")


def test_an_unknown_name_is_told_its_neighbour() -> None:
    with pytest.raises(ConfigError, match=r"'Helpfullness' is no aspect\. Did you mean 'Helpfulness'\?"):
        named(["Helpfullness"], aspect_bank())
    with pytest.raises(ConfigError, match=r"'Zzz' is no aspect\. There are Helpfulness, Clarity"):
        named(["Zzz"], aspect_bank())
