"""What cannot be used: one message that names value, place and way out."""

import datasets
import pytest

from windvane.data import DataSource, load_preferences, load_queries
from windvane.errors import DataError

QUERY_FILES = {
    "broken JSON": (
        "q.jsonl",
        '{"prompt": "a"}\n\n{"prompt": "b",}\n',
        "q.jsonl, line 3: not valid JSON (Expecting property name enclosed in double quotes, column 16): "
        '\'{"prompt": "b",}\'. Correct the line.',
    ),
    "cut-off JSON": (
        "q.jsonl",
        '{"prompt": "a"}\n{"prompt": "b',
        "q.jsonl, line 2: not valid JSON (Unterminated string",
    ),
    "JSON document as lines": (
        "q.jsonl",
        '[\n{"prompt": "a"}\n]\n',
        "line 1: not valid JSON (Expecting value, column 1): '['. The file seems to be one JSON document",
    ),
    "JSON list as a line": ("q.jsonl", '[{"prompt": "a"}]\n', "A list of rows is a .json file."),
    "a text as a line": (
        "q.jsonl",
        '"What?"\n',
        'q.jsonl, line 1 is \'What?\'; a line is an object such as {"prompt": "',
    ),
    "nested beyond reason": ("q.jsonl", "[" * 100_000, "q.jsonl, line 1: nested too deeply to be a row of data."),
    "row without a prompt": (
        "q.jsonl",
        '{"prompt": "a"}\n{"id": 2, "text": "b"}\n',
        "q.jsonl, line 2: there is no prompt: the columns are id, text. Name one of them with prompt_column, or rename "
        "it to one of prompt, messages, conversations, instruction, question, query. To leave such rows out",
    ),
    "row of nothing": ("q.jsonl", "{}\n", "q.jsonl, line 1: there is no prompt: the columns are (none)."),
    "prompt is a number": ("q.jsonl", '{"prompt": 12}\n', "q.jsonl, line 1: prompt is 12, not text."),
    "prompt is an object": ("q.jsonl", '{"prompt": {"a": 1}}\n', "q.jsonl, line 1: prompt is {'a': 1}, not text."),
    "prompt is a list of texts": ("q.jsonl", '{"prompt": ["a", "b"]}\n', "line 1: prompt is ['a', 'b'], not text."),
    "empty prompt": ("q.jsonl", '{"prompt": ""}\n', "q.jsonl, line 1: prompt is empty."),
    "prompt of spaces": ("q.jsonl", '{"prompt": " \\n\\t "}\n', "q.jsonl, line 1: prompt is empty."),
    "null prompt": ("q.jsonl", '{"prompt": null}\n', "q.jsonl, line 1: prompt is empty."),
    "empty conversation": ("q.jsonl", '{"messages": []}\n', "q.jsonl, line 1: messages is an empty conversation"),
    "empty turn": (
        "q.jsonl",
        '{"prompt": [{"role": "user", "content": " "}]}\n',
        "q.jsonl, line 1: prompt[0], the user turn, is empty.",
    ),
    "turn without content": (
        "q.jsonl",
        '{"messages": [{"role": "user", "content": "a"}, {"role": "user"}]}\n',
        "q.jsonl, line 1: messages[1] is {'role': 'user'}; a message has the keys role and content.",
    ),
    "unknown role": (
        "q.jsonl",
        '{"messages": [{"role": "tool", "content": "a"}]}\n',
        "q.jsonl, line 1: messages[0] has the role 'tool'; roles are system, user and assistant.",
    ),
    "image": (
        "q.jsonl",
        '{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "u"}]}]}\n',
        "messages[0], the user turn, has a part of type 'image_url'; only text is read.",
    ),
    "ends with the assistant": (
        "q.jsonl",
        '{"prompt": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n',
        "q.jsonl, line 1: prompt ends with a turn of the assistant; a prompt ends with a user turn.",
    ),
    "only a system message": (
        "q.jsonl",
        '{"prompt": [{"role": "system", "content": "a"}]}\n',
        "q.jsonl, line 1: prompt has no user turn; a prompt ends with one.",
    ),
    "only an answer": (
        "q.jsonl",
        '{"conversations": [{"from": "gpt", "value": "b"}]}\n',
        "q.jsonl, line 1: conversations has no user turn; a prompt ends with one.",
    ),
    "assistant first": (
        "q.jsonl",
        '{"conversations": [{"from": "gpt", "value": "b"}, {"from": "human", "value": "a"}]}\n',
        "q.jsonl, line 1: conversations starts with a turn of the assistant; a conversation starts with the user.",
    ),
    "system in the middle": (
        "q.jsonl",
        '{"prompt": [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]}\n',
        "q.jsonl, line 1: prompt has a system message after its first turn; it belongs at the start.",
    ),
    "duplicate ids": (
        "q.jsonl",
        '{"id": "x", "prompt": "a"}\n{"id": "y", "prompt": "b"}\n{"id": "x", "prompt": "c"}\n',
        "q.jsonl, line 3: the id 'x' already stands at q.jsonl, line 1; give each row its own, or leave",
    ),
    "id is a list": (
        "q.jsonl",
        '{"id": [1], "prompt": "a"}\n',
        "q.jsonl, line 1: id is [1]; an id is a text or a whole",
    ),
    "no rows": ("q.jsonl", "\n\n", "q.jsonl has no rows, only blank lines; it needs one JSON object on each line."),
    "empty file": ("q.jsonl", "", "q.jsonl is empty; it needs one row at least."),
    "binary": (
        "q.jsonl",
        b'{"prompt": "\x00\x01"}',
        "q.jsonl, line 1: this is binary data, not text; check which file",
    ),
    "Parquet by another name": (
        "q.jsonl",
        b"PAR1....",
        "q.jsonl is not a .jsonl file but a Parquet file; rename it",
    ),
    "spreadsheet by another name": (
        "q.csv",
        b"PK\x03\x04....",
        "q.csv is not a .csv file but a zip archive (or a spreadsheet)",
    ),
    "Latin-1": (
        "q.jsonl",
        '{"prompt": "a"}\n{"prompt": "caf\xe9"}\n'.encode("latin-1"),
        "q.jsonl, line 2: the byte 0xe9 is not UTF-8; convert the file, for example with: iconv -f latin1 -t utf-8.",
    ),
    "UTF-16": (
        "q.jsonl",
        '{"prompt": "a"}'.encode("utf-16"),
        "q.jsonl is not a .jsonl file but encoded in UTF-16",
    ),
    "unknown suffix": (
        "q.txt",
        "What?\n",
        "q.txt has the suffix '.txt', which names no format that is read here: use one of .jsonl, .ndjson, .json, ",
    ),
    "no suffix": ("queries", "What?\n", "queries has no suffix, which names no format that is read here"),
    "broken .json": (
        "q.json",
        '[\n{"prompt": "a"},\n]\n',
        "q.json, line 3: not valid JSON (Expecting value, column 1)",
    ),
    ".json of a number": ("q.json", "3", "q.json holds 3; a list of objects is needed."),
    ".json without a list": ("q.json", '{"prompt": "a"}', "its lists are: none. Write the rows as a list of objects."),
    ".json with two lists": ("q.json", '{"a": [], "b": []}', "exactly one list of rows, but its lists are: a, b."),
    ".json of texts": ("q.json", '["a"]', "q.json, item 1 is 'a'; each item is an object such as"),
    ".json of nothing": ("q.json", "[]", "q.json: the list has no rows; it needs one object at least."),
    "not Parquet": ("q.parquet", "prompt\n", "q.parquet cannot be read as Parquet: "),
    "CSV without a usable column": (
        "q.csv",
        "name,text\na,b\n",
        "q.csv, line 2: there is no prompt: the columns are name, text.",
    ),
    "CSV with semicolons": (
        "q.csv",
        "prompt;id\na;b\n",
        "q.csv, line 2: there is no prompt: the columns are prompt;id.",
    ),
    "CSV with an empty cell": ("q.csv", "prompt,id\na,1\n,2\n", "q.csv, line 3: prompt is empty."),
    "CSV with too many cells": (
        "q.csv",
        'prompt,id\n"two\nlines",1\na, b,2\n',
        "q.csv, line 4: 3 cells under 2 columns; put quotes around cells that hold ','.",
    ),
    "CSV with an open quote": ("q.csv", 'prompt\n"a\n', "q.csv, line 2: not valid CSV (unexpected end of data)"),
    "CSV with a header only": ("q.csv", "prompt,id\n", "q.csv has a header and no rows."),
    "CSV with a header and blank lines": ("q.csv", "prompt,id\n\n\n", "q.csv has a header and no rows."),
    "CSV of one blank line": ("q.csv", "\n", "q.csv has a header and no rows."),
}


@pytest.mark.parametrize(("name", "content", "message"), QUERY_FILES.values(), ids=QUERY_FILES)
def test_a_query_file_that_cannot_be_used(tmp_path, monkeypatch, name, content, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(DataError) as caught:
        load_queries(DataSource(path=name))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


OTHER = '{"role": "assistant", "content": "t"}'
USER, SAME = '{"role": "user", "content": "q"}', '{"role": "assistant", "content": "s"}'
PAIR_ROWS = {
    "no chosen": (
        '{"prompt": "q", "rejected": "b"}',
        "there is no 'chosen': the columns are prompt, rejected. Name the two",
    ),
    "null rejected": ('{"prompt": "q", "chosen": "a", "rejected": null}', "there is no 'rejected'"),
    "empty chosen": ('{"prompt": "q", "chosen": " ", "rejected": "b"}', "chosen is empty."),
    "number": ('{"prompt": "q", "chosen": 1, "rejected": "b"}', "chosen is 1, not text."),
    "equal": (
        '{"prompt": "q", "chosen": "a", "rejected": "a "}',
        "chosen and rejected are the same ('a'); a pair needs two different responses. To leave such rows out, set",
    ),
    "equal and implicit": ('{"chosen": "q a", "rejected": "q a"}', "chosen and rejected are the same"),
    "text and messages": (
        f'{{"prompt": "q", "chosen": [{SAME}], "rejected": "b"}}',
        "chosen and rejected must both be text or both messages.",
    ),
    "ends with the user": (
        f'{{"prompt": "q", "chosen": [{USER}], "rejected": [{SAME}]}}',
        "chosen ends with a turn of the user; it must end with the assistant's.",
    ),
    "mismatch": (
        f'{{"prompt": "other", "chosen": [{USER}, {SAME}], "rejected": [{USER}, {OTHER}]}}',
        "chosen answers another prompt than the row's: 'q' instead of 'other'. Correct the row, or leave the",
    ),
    "no shared turn": (
        f'{{"chosen": [{USER}, {SAME}], "rejected": [{{"role": "user", "content": "r"}}, {SAME}]}}',
        "chosen and rejected share no turn, so they hold no common prompt; add a prompt column.",
    ),
    "part too early": (
        f'{{"chosen": [{USER}, {SAME}, {USER}, {SAME}], "rejected": [{USER}, {OTHER}]}}',
        "chosen and rejected part at turn 2; they must share all turns but the last.",
    ),
    "a conversation begins the other": (
        f'{{"chosen": [{USER}, {SAME}], "rejected": [{USER}, {SAME}, {USER}, {SAME}]}}',
        "one of chosen and rejected is the beginning of the other, so it has no response of its own.",
    ),
    "a text begins the other": (
        '{"chosen": "The sky is", "rejected": "The sky is blue"}',
        "one of chosen and rejected is the beginning of the other, so it has no response of its own.",
    ),
    "texts that share nothing": (
        '{"chosen": "blue", "rejected": "beige"}',
        "chosen and rejected do not begin with the same words, so they hold no prompt; add a prompt column.",
    ),
}


@pytest.mark.parametrize(("row", "message"), PAIR_ROWS.values(), ids=PAIR_ROWS)
def test_a_preference_row_that_cannot_be_used(tmp_path, row, message):
    path = tmp_path / "p.jsonl"
    path.write_text(row + "\n")
    with pytest.raises(DataError) as caught:
        load_preferences(DataSource(path=str(path)))
    assert f"p.jsonl, line 1: {message}" in str(caught.value)


def test_a_table_of_no_rows(tmp_path):
    datasets.Dataset.from_dict({"prompt": []}).to_parquet(str(tmp_path / "q.parquet"))
    with pytest.raises(DataError, match=r"q\.parquet holds no usable query: it has no rows\.$"):
        load_queries(DataSource(path=str(tmp_path / "q.parquet")))


def test_nothing_usable_is_said_with_the_reasons(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text('{"prompt": ""}\n{"prompt": ""}\n{"prompt": 1}\n')
    with pytest.raises(DataError, match=r"q\.jsonl holds no usable query: 3 rows dropped \(2 empty, 1 not_text\)\.$"):
        load_queries(DataSource(path=str(path), bad_rows="drop"))
    with pytest.raises(DataError, match=r"q\.jsonl holds no usable pair: 3 rows dropped \(3 no_response\)\.$"):
        load_preferences(DataSource(path=str(path), bad_rows="drop"))


def test_a_missing_file_names_those_near_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "queries.jsonl").write_text("{}")
    for name in ("querys.jsonl", "queries.json", "./queries.jsonlines", "queries.JSON"):
        with pytest.raises(DataError, match=r" does not exist\. Near it: queries\.jsonl\.$"):
            load_queries(DataSource(path=name))
    with pytest.raises(
        DataError, match=r"^no/such/q\.csv does not exist\. The folder no/such does not exist either\.$"
    ):
        load_queries(DataSource(path="no/such/q.csv"))
    with pytest.raises(DataError, match=r"^q\.csv does not exist\.$"):
        load_queries(DataSource(path="q.csv"))


def test_folders_and_files_that_are_none(tmp_path):
    with pytest.raises(DataError, match=r"The folder .* holds no data file; one of \.jsonl"):
        load_queries(DataSource(path=str(tmp_path)))
    (tmp_path / "q.jsonl").mkdir()
    with pytest.raises(DataError, match=r"holds no data file"):
        load_queries(DataSource(path=str(tmp_path / "q.jsonl")))
    (tmp_path / "q.csv").write_text("prompt\na\n")
    with pytest.raises(DataError, match=r"q\.csv is a file and has no split 'test'; remove split\.$"):
        load_queries(DataSource(path=str(tmp_path / "q.csv"), split="test"))


def test_a_hub_name_that_cannot_be_reached_names_near_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_queries.jsonl").write_text("{}")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError) as caught:
        load_queries(DataSource(path="my_queries"))
    assert str(caught.value).startswith(
        "my_queries is no file or folder here, and as a dataset of the hub it cannot be loaded: "
    )
    assert " Near it: my_queries.jsonl. Check the name and the connection, or give the path of a local file." in str(
        caught.value
    )


def test_a_hub_split_that_is_not_there_lists_those_that_are(monkeypatch):
    def load_dataset(path, *, name, split):
        raise ValueError(f"Unknown split {split!r}. Should be one of ['train_prefs', 'test_prefs'].")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(
        DataError,
        match=r"^some/data cannot give the split 'train': .* one of \['train_prefs', 'test_prefs'\]\. Set split",
    ):
        load_queries(DataSource(path="some/data"))


def test_wrong_column_names_are_listed(tmp_path):
    path = tmp_path / "q.csv"
    path.write_text("frage,nr\nWo?,1\n")
    with pytest.raises(
        DataError, match=r"line 2: there is no column 'Frage' \(prompt_column\): the columns are frage, nr\."
    ):
        load_queries(DataSource(path=str(path), prompt_column="Frage"))
