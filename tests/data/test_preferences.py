"""The shapes of preference data; where a prompt ends that is only implied; out again and into TRL."""

import datetime
import json
from pathlib import Path

import datasets
import pytest
from trl.data_utils import extract_prompt, is_conversational, maybe_extract_prompt

from tests.data.test_reading import rows_to, said
from windvane.data import DataSource, OfflinePair, PreferenceSource, load_preferences, write_preferences
from windvane.errors import DataError
from windvane.types import Completion, Logprob, Message, Pair, PairScores, Principle


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def load_one(tmp_path: Path, row: dict) -> OfflinePair:
    (pair,) = load_preferences(rows_to(tmp_path / "p.jsonl", [row]))
    return pair


U, A, B = turn("user", "q"), turn("assistant", "a"), turn("assistant", "b")
MORE = [turn("system", "s"), turn("user", "q0"), turn("assistant", "a0"), U]
SHAPES = {
    "standard": ({"prompt": "q", "chosen": "a", "rejected": "b"}, said("user: q")),
    "conversational": ({"prompt": [U], "chosen": [A], "rejected": [B]}, said("user: q")),
    "multi-turn with system": (
        {"prompt": MORE, "chosen": [A], "rejected": [B]},
        said("system: s", "user: q0", "assistant: a0", "user: q"),
    ),
    "prompt repeated": (
        {"prompt": MORE, "chosen": [*MORE, A], "rejected": [*MORE, B]},
        said("system: s", "user: q0", "assistant: a0", "user: q"),
    ),
    "prompt repeated without its system": (
        {"prompt": [*MORE[:1], U], "chosen": [U, A], "rejected": [U, B]},
        said("system: s", "user: q"),
    ),
    "implicit, conversational": ({"chosen": [U, A], "rejected": [U, B]}, said("user: q")),
    "implicit, multi-turn": (
        {"chosen": [*MORE, A], "rejected": [*MORE, B]},
        said("system: s", "user: q0", "assistant: a0", "user: q"),
    ),
    "text beside conversations": ({"prompt": "q", "chosen": [U, A], "rejected": [U, B]}, said("user: q")),
    "first turn beside conversations": (
        {"prompt": "q0", "chosen": [*MORE[1:], A], "rejected": [*MORE[1:], B]},
        said("user: q0", "assistant: a0", "user: q"),
    ),
    "text beside single answers": ({"prompt": "q", "chosen": [A], "rejected": [B]}, said("user: q")),
    "ShareGPT": (
        {
            "conversations": [{"from": "human", "value": "q"}],
            "chosen": {"from": "gpt", "value": "a"},
            "rejected": {"from": "gpt", "value": "b"},
        },
        said("user: q"),
    ),
    "Alpaca": ({"instruction": "q", "input": "i", "chosen": "a", "rejected": "b"}, said("user: q\n\ni")),
    "system column": ({"system": "s", "question": "q", "chosen": "a", "rejected": "b"}, said("system: s", "user: q")),
    "system column and implicit": ({"system": "s", "chosen": [U, A], "rejected": [U, B]}, said("system: s", "user: q")),
    "HH-RLHF": (
        {
            "chosen": "\n\nHuman: q0\n\nAssistant: a0\n\nHuman: q\n\nAssistant: a",
            "rejected": "\n\nHuman: q0\n\nAssistant: a0\n\nHuman: q\n\nAssistant: b",
        },
        said("user: q0", "assistant: a0", "user: q"),
    ),
}


@pytest.mark.parametrize(("row", "prompt"), SHAPES.values(), ids=SHAPES)
def test_every_shape_of_pair(tmp_path, row, prompt):
    pair = load_one(tmp_path, row)
    assert (pair.prompt, pair.chosen, pair.rejected) == (prompt, "a", "b")


def test_an_implied_prompt_ends_between_words(tmp_path):
    row = {"chosen": "The sky is blue today.", "rejected": "The sky is beige."}
    pair = load_one(tmp_path, row)
    assert (pair.prompt, pair.chosen, pair.rejected) == (said("user: The sky is"), "blue today.", "beige.")
    assert extract_prompt(row)["prompt"] == "The sky is b"  # the peer's cut, which tears the first word apart


def test_the_first_words_of_a_transcript_s_answers_stay_in_the_answers(tmp_path):
    ask = "\n\nHuman: Can I?\n\nAssistant: "
    pair = load_one(tmp_path, {"chosen": f"{ask}I think so.", "rejected": f"{ask}I doubt it."})
    assert (pair.prompt, pair.chosen, pair.rejected) == (said("user: Can I?"), "I think so.", "I doubt it.")


def test_answers_of_a_conversation_may_share_their_beginning_or_be_each_other_s(tmp_path):
    pair = load_one(tmp_path, {"chosen": [U, turn("assistant", "Yes")], "rejected": [U, turn("assistant", "Yes, no")]})
    assert (pair.chosen, pair.rejected) == ("Yes", "Yes, no")


def test_conversational_extraction_agrees_with_trl(tmp_path):
    row = {"chosen": [*MORE, A], "rejected": [*MORE, B]}
    theirs = extract_prompt(row)
    ours = load_one(tmp_path, row)
    assert [message.model_dump() for message in ours.prompt] == theirs["prompt"]
    assert ([ours.chosen], [ours.rejected]) == (
        [m["content"] for m in theirs["chosen"]],
        [m["content"] for m in theirs["rejected"]],
    )


def test_other_columns_are_kept_and_ids_do_not_depend_on_them(tmp_path):
    plain = load_one(tmp_path, {"prompt": "q", "chosen": "a", "rejected": "b"})
    rich = load_one(tmp_path / "2", {"prompt": "q", "chosen": "a", "rejected": "b", "score": [1, None], "source": "x"})
    assert (rich.id, rich.source, rich.extra) == (plain.id, "x", {"score": [1, None]})
    assert OfflinePair.from_json(rich.to_json()) == rich
    swapped = load_one(tmp_path / "3", {"prompt": "q", "chosen": "b", "rejected": "a"})
    assert swapped.id != plain.id


def test_values_that_json_has_no_word_for_become_text(tmp_path):
    row = {"prompt": "q", "chosen": "a", "rejected": "b", "when": datetime.date(2025, 1, 2), "raw": b"\xff"}
    (pair,) = load_preferences(rows_to(tmp_path / "p.parquet", [row]))
    assert pair.extra == {"when": "2025-01-02", "raw": "b'\\xff'"}
    assert OfflinePair.from_json(pair.to_json()) == pair


def test_named_columns(tmp_path):
    source = rows_to(tmp_path / "p.jsonl", [{"query": "q", "win": "a", "lose": "b", "chosen": 3}])
    (pair,) = load_preferences(PreferenceSource(path=source.path, chosen_column="win", rejected_column="lose"))
    assert (pair.chosen, pair.rejected, pair.extra) == ("a", "b", {"chosen": 3})


# --------------------------------------------------------------------------------------------------------- out


def completion(text: str, finish: str = "stop") -> Completion:
    return Completion(text=text, token_ids=(1, 2), finish=finish)  # type: ignore[arg-type]


def contrast(name: str) -> Pair:
    principle = Principle(
        query_id=f"q-{name}", features=("Concision",), good="Be ‘short’.", bad="Be long.", origin="user"
    )
    return Pair(
        id=name,
        prompt=said("user: Hi", "assistant: Yes?", "user: Why\n?"),
        chosen=completion("Because."),
        rejected=completion("Well, it is a long story", "length"),
        original=completion("So."),
        principle=principle,
        source="mine",
        iteration=2,
    )


SCORES = PairScores(
    **{
        name: Logprob(sum=-float(index) / 3, tokens=4 if "chosen" in name else 7)
        for index, name in enumerate(list(PairScores.model_fields)[:7])
    }
)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_written_pairs_are_read_back_by_us_by_datasets_and_by_trl(tmp_path, suffix):
    path = tmp_path / "out" / f"pairs{suffix}"
    assert write_preferences(path, [contrast("a"), contrast("b")], scores={"a": SCORES}) == 2
    assert list(path.parent.iterdir()) == [path]  # nothing half-written stays

    ours = load_preferences(DataSource(path=str(path)).model_copy(update={"bad_rows": "stop"}), limit=1)[0]
    assert (ours.id, ours.chosen, ours.rejected, ours.source) == ("a", "Because.", "Well, it is a long story", "mine")
    assert ours.prompt == contrast("a").prompt
    assert ours.extra["principle_good"] == "Be ‘short’."

    kind = "json" if suffix == ".jsonl" else "parquet"
    read = datasets.load_dataset(kind, data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    row = read[0]
    assert is_conversational(row)
    assert maybe_extract_prompt(row) == row
    assert row["prompt"][-1] == {"role": "user", "content": "Why\n?"}
    assert (row["chosen_finish"], row["rejected_finish"], row["iteration"], row["features"]) == (
        "stop",
        "length",
        2,
        ["Concision"],
    )
    assert row["logp_chosen_good"] == SCORES.chosen_good.sum
    assert (row["tokens_chosen"], row["tokens_rejected"], row["tokens_original"]) == (4, 7, 7)
    assert read[1]["logp_chosen_good"] is None


def test_pairs_without_principles_have_no_empty_columns(tmp_path):
    pair = Pair(id="x", prompt=(Message(role="user", content="Hi"),), chosen=completion("a"), rejected=completion("b"))
    write_preferences(tmp_path / "p.jsonl", [pair])
    (line,) = (tmp_path / "p.jsonl").read_text().splitlines()
    assert list(json.loads(line)) == [
        "prompt",
        "chosen",
        "rejected",
        "id",
        "iteration",
        "chosen_finish",
        "rejected_finish",
    ]


def test_what_cannot_be_written_is_refused_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text("old")
    with pytest.raises(DataError, match=r"p\.jsonl: there are no pairs to write"):
        write_preferences(path, [])
    with pytest.raises(DataError, match=r"p\.csv: pairs are written as \.jsonl or \.parquet, not as \.csv"):
        write_preferences(tmp_path / "p.csv", [contrast("a")])
    assert path.read_text() == "old"
    with pytest.raises(DataError, match=r"p\.jsonl/x\.jsonl cannot be written: .*\. Choose another folder"):
        write_preferences(path / "x.jsonl", [contrast("a")])
