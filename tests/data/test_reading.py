"""Every format and every shape gives the same records."""

import csv
import gzip
import json
from pathlib import Path

import datasets
import pytest

from windvane.data import DataSource, load_preferences, load_queries, read_preferences, read_queries
from windvane.errors import DataError
from windvane.types import Dropped, Message, Query


def said(*turns: str) -> tuple[Message, ...]:
    """Messages from ``user: text``."""
    return tuple(Message(role=turn.split(": ")[0], content=turn.split(": ", 1)[1]) for turn in turns)  # type: ignore[arg-type]


def rows_to(path: Path, rows: list[dict]) -> DataSource:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".jsonl", ".ndjson"):
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif path.suffix == ".parquet":
        datasets.Dataset.from_list(rows).to_parquet(str(path))
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, rows[0], delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows({k: json.dumps(v) if isinstance(v, list) else v for k, v in row.items()} for row in rows)
    return DataSource(path=str(path))


QUERIES = [
    {"id": "a", "prompt": "Name a river.", "source": "mine", "level": 1},
    {"id": "b", "prompt": 'Two\nlines, a "quote"; ü', "source": "mine", "level": 2},
]
PAIRS = [
    {
        "id": "p",
        "prompt": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}],
        "chosen": [{"role": "assistant", "content": "Hello!"}],
        "rejected": [{"role": "assistant", "content": "What."}],
        "weight": 2,
    }
]


@pytest.mark.parametrize("suffix", [".jsonl", ".ndjson", ".json", ".parquet", ".csv", ".tsv"])
def test_every_format_gives_the_same_records(tmp_path, suffix):
    assert load_queries(rows_to(tmp_path / f"q{suffix}", QUERIES)) == [
        Query(id="a", messages=said("user: Name a river."), source="mine"),
        Query(id="b", messages=said('user: Two\nlines, a "quote"; ü'), source="mine"),
    ]
    (pair,) = load_preferences(rows_to(tmp_path / f"p{suffix}", PAIRS))
    assert (pair.id, pair.prompt) == ("p", said("system: Be kind.", "user: Hi"))
    assert (pair.chosen, pair.rejected, pair.source) == ("Hello!", "What.", "p")
    assert {name: str(value) for name, value in pair.extra.items()} == {"weight": "2"}


def test_json_objects_and_json_lines_by_another_name(tmp_path):
    wrapped = tmp_path / "wrapped.json"
    wrapped.write_text(json.dumps({"version": 1, "data": QUERIES}))
    assert [q.id for q in load_queries(DataSource(path=str(wrapped)))] == ["a", "b"]
    lines = rows_to(tmp_path / "lines.jsonl", QUERIES)
    (tmp_path / "lines.json").write_bytes(Path(lines.path).read_bytes())
    assert load_queries(DataSource(path=str(tmp_path / "lines.json"))) == load_queries(lines)


def test_a_byte_order_mark_windows_ends_and_blank_lines_do_no_harm(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "a"}\r\n\r\n{"prompt": "b"}')
    assert [q.text for q in load_queries(DataSource(path=str(path)))] == ["a", "b"]


def test_a_folder_is_read_in_the_order_of_its_files_and_by_split(tmp_path):
    rows_to(tmp_path / "b-test.jsonl", [{"prompt": "t"}])
    rows_to(tmp_path / "a-train-0.parquet", [{"prompt": "1"}])
    rows_to(tmp_path / "deep" / "train" / "x.csv", [{"prompt": "2"}])
    rows_to(tmp_path / ".cache" / "x.jsonl", [{"prompt": "hidden"}])
    (tmp_path / "README.md").write_text("about")
    folder = DataSource(path=str(tmp_path))
    assert [q.text for q in load_queries(folder)] == ["1", "t", "2"]
    assert [q.source for q in load_queries(folder)] == ["a-train-0", "b-test", "x"]
    assert [q.text for q in load_queries(folder.model_copy(update={"split": "train"}))] == ["1", "2"]
    with pytest.raises(
        DataError, match=r"has no split 'dev': no file is named for it\. The files are a-train-0\.parquet"
    ):
        load_queries(folder.model_copy(update={"split": "dev"}))


def test_data_saved_by_the_datasets_library(tmp_path):
    train, test = datasets.Dataset.from_list([{"prompt": "a"}]), datasets.Dataset.from_list([{"prompt": "b"}])
    train.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": train, "test": test}).save_to_disk(str(tmp_path / "two"))
    assert [q.text for q in load_queries(DataSource(path=str(tmp_path / "one")))] == ["a"]
    assert [q.text for q in load_queries(DataSource(path=str(tmp_path / "two")))] == ["a"]
    assert [q.text for q in load_queries(DataSource(path=str(tmp_path / "two"), split="test"))] == ["b"]
    with pytest.raises(DataError, match=r"two has no split 'dev'; choose one of train, test\."):
        load_queries(DataSource(path=str(tmp_path / "two"), split="dev"))
    with pytest.raises(DataError, match=r"one is a single data set and has no split 'dev'; remove split\."):
        load_queries(DataSource(path=str(tmp_path / "one"), split="dev"))


def test_a_hub_dataset_is_asked_for_by_name_subset_and_split(monkeypatch):
    asked = []

    def load_dataset(path, *, name, split):
        asked.append((path, name, split))
        return datasets.Dataset.from_list([{"question": "How many?"}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    (query,) = load_queries(DataSource(path="openai/gsm8k", subset="main", split="train[:1]"))
    assert (query.text, query.source) == ("How many?", "openai/gsm8k")
    load_queries(DataSource(path="squad"))
    assert asked == [("openai/gsm8k", "main", "train[:1]"), ("squad", None, "train")]


SHAPES = {
    "TRL prompt, standard": ({"prompt": "Hi"}, said("user: Hi")),
    "TRL prompt, conversational": ({"prompt": [{"role": "user", "content": "Hi"}]}, said("user: Hi")),
    "multi-turn": (
        {"prompt": [{"role": r, "content": c} for r, c in (("user", "Hi"), ("assistant", "Yes?"), ("user", "Why?"))]},
        said("user: Hi", "assistant: Yes?", "user: Why?"),
    ),
    "OpenAI messages with an answer": (
        {"messages": [{"role": r, "content": r} for r in ("system", "user", "assistant")]},
        said("system: system", "user: user"),
    ),
    "OpenAI parts and developer": (
        {
            "messages": [
                {"role": "developer", "content": "Short."},
                {"role": "user", "content": [{"type": "text", "text": "He"}, {"type": "text", "text": "llo"}]},
            ]
        },
        said("system: Short.", "user: Hello"),
    ),
    "ShareGPT": (
        {
            "conversations": [
                {"from": "system", "value": "S"},
                {"from": "human", "value": "Q1"},
                {"from": "gpt", "value": "A1"},
                {"from": "human", "value": "Q2"},
                {"from": "gpt", "value": "A2"},
            ]
        },
        said("system: S", "user: Q1", "assistant: A1", "user: Q2"),
    ),
    "ShareGPT with a system column": (
        {"system": "S", "conversations": [{"from": "human", "value": "Q"}]},
        said("system: S", "user: Q"),
    ),
    "Alpaca": ({"instruction": "Sum up.", "input": "", "output": "x"}, said("user: Sum up.")),
    "Alpaca with input": ({"instruction": "Sum up.", "input": "A b.", "output": "x"}, said("user: Sum up.\n\nA b.")),
    "question": ({"question": "Q?", "answer": "A"}, said("user: Q?")),
    "nulls beside it": ({"prompt": None, "messages": [{"role": "user", "content": "Hi"}]}, said("user: Hi")),
    "UltraFeedback": ({"prompt": "Hi", "messages": [{"role": "user", "content": "other"}]}, said("user: Hi")),
}


@pytest.mark.parametrize(("row", "messages"), SHAPES.values(), ids=SHAPES)
def test_every_shape_of_prompt(tmp_path, row, messages):
    (query,) = load_queries(rows_to(tmp_path / "q.jsonl", [row]))
    assert query.messages == messages


def test_named_columns(tmp_path):
    source = rows_to(tmp_path / "q.csv", [{"Frage": "Wo?", "nr": "7", "prompt": "no"}])
    (query,) = load_queries(source.model_copy(update={"prompt_column": "Frage", "id_column": "nr"}))
    assert (query.id, query.text) == ("7", "Wo?")


def test_ids_are_given_or_the_hash_of_the_content(tmp_path):
    rows = [{"prompt": "a"}, {"id": 7, "prompt": "b"}, {"id": None, "prompt": "c"}]
    first, given, third = load_queries(rows_to(tmp_path / "q.jsonl", rows))
    assert given.id == "7"
    again = load_queries(rows_to(tmp_path / "other.json", list(reversed(rows))))
    assert [q.id for q in again] == [third.id, given.id, first.id]
    assert len({first.id, third.id}) == 2


def test_the_same_prompt_twice_is_dropped_and_counted(tmp_path):
    rows = [{"prompt": "Name a river."}, {"prompt": "  name A\nriver. "}, {"prompt": "Name a river.", "system": "S"}]
    source = rows_to(tmp_path / "q.jsonl", rows)
    queries, dropped = read_queries(source)
    assert [len(query.messages) for query in queries] == [1, 2]
    assert dropped == [
        Dropped(id=f"{source.path}, line 2", reason="duplicate_prompt", detail=f"same as {source.path}, line 1")
    ]


def test_the_limit_counts_usable_rows_and_stops_reading(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text('{"prompt": "a"}\n{"prompt": "A"}\n{"prompt": "b"}\nbroken\n')
    assert [q.text for q in load_queries(DataSource(path=str(path)), limit=2)] == ["a", "b"]


def test_bad_rows_can_be_dropped_by_reason(tmp_path):
    rows = [{"prompt": ""}, {"prompt": 3}, {"id": "x", "prompt": "a"}, {"id": "x", "prompt": "b"}, {"other": 1}]
    source = rows_to(tmp_path / "q.jsonl", rows).model_copy(update={"bad_rows": "drop"})
    queries, dropped = read_queries(source)
    assert [query.text for query in queries] == ["a"]
    assert [drop.reason for drop in dropped] == ["empty", "not_text", "duplicate_id", "no_prompt"]


def test_the_same_pair_twice_is_dropped_but_not_another_pair_of_the_prompt(tmp_path):
    rows = [{"prompt": "a", "chosen": c, "rejected": "z"} for c in ("x", "x", "y")]
    pairs, dropped = read_preferences(rows_to(tmp_path / "p.jsonl", rows))
    assert [pair.chosen for pair in pairs] == ["x", "y"]
    assert [drop.reason for drop in dropped] == ["duplicate_pair"]


def test_preference_data_serve_as_queries(tmp_path):
    (query,) = load_queries(rows_to(tmp_path / "p.jsonl", PAIRS))
    assert query.messages == said("system: Be kind.", "user: Hi")


def test_compressed_data_are_named(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_bytes(gzip.compress(b'{"prompt": "a"}'))
    with pytest.raises(
        DataError, match=r"q\.jsonl is not a \.jsonl file but compressed with gzip; unpack it with gunzip\."
    ):
        load_queries(DataSource(path=str(path)))
