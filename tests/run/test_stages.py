"""Stages of records and of folders: what is accepted from file, and what is not."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.run.program import QUIET, Config, Number
from windvane.errors import RunDirectoryError, RunFailed
from windvane.run import RunDirectory
from windvane.run.layout import Layout
from windvane.run.shards import (
    Shard,
    decode_records,
    decode_shard,
    encode_records,
    encode_shard,
    fingerprint,
    json_text,
)
from windvane.types import Completion, Record

ITEMS = list(range(10))


class Stop(Exception):
    """Ends a run in the middle."""


def open_run(root: Path) -> RunDirectory:
    return RunDirectory.open(root, Config(), command="test", console=QUIET)


def squares(
    run: RunDirectory, calls: list[int], *, stop_at: int | None = None
) -> Callable[[Sequence[int]], list[Number]]:
    def work(part: Sequence[int]) -> list[Number]:
        if stop_at is not None and stop_at in part:
            raise Stop
        calls.extend(part)
        run.count("calls", len(part))
        return [Number(index=item, value=item * item) for item in part]

    return work


def do_squares(
    root: Path, *, stop_at: int | None = None, items: Sequence[int] = ITEMS, name: str = "a/squares"
) -> list[int]:
    """Run one stage, interrupted or not, and return the items that were really worked on."""
    calls: list[int] = []
    try:
        with open_run(root) as run:
            found = run.map(name, items, squares(run, calls, stop_at=stop_at), Number, shard_size=3, label="squares")
            assert [number.value for number in found] == [item * item for item in items]
            assert run.counts().get("calls", 0) == len(items)
            assert run.reused().get("calls", 0) == len(items) - len(calls)
    except Stop:
        pass
    return calls


def test_finished_shards_are_not_done_again(tmp_path: Path) -> None:
    assert do_squares(tmp_path, stop_at=7) == [0, 1, 2, 3, 4, 5]
    assert do_squares(tmp_path) == [6, 7, 8, 9]
    assert do_squares(tmp_path) == []
    assert list((tmp_path / ".windvane").rglob("0*.jsonl")) == []


def test_no_items_make_an_empty_stage(tmp_path: Path) -> None:
    assert do_squares(tmp_path, items=[]) == []
    assert (tmp_path / "a/squares.jsonl").read_bytes() == b""


@pytest.mark.parametrize("damage", ["cut", "line lost", "line doubled", "changed", "empty", "no seal", "not text"])
def test_a_damaged_shard_is_done_again(tmp_path: Path, damage: str) -> None:
    do_squares(tmp_path, stop_at=7)
    shard = Layout(tmp_path).shard("a/squares", 1)
    content = shard.read_bytes()
    first = content.index(b"\n") + 1
    shard.write_bytes(
        {
            "cut": content[:-4],
            "line lost": content[first:],
            "line doubled": content[:first] + content,
            "changed": content.replace(b"9.0", b"8.0"),
            "empty": b"",
            "no seal": content[: content.rindex(b"\n", 0, -1) + 1],
            "not text": b"\xff\xfe" + content,
        }[damage]
    )
    assert shard.read_bytes() != content
    assert do_squares(tmp_path) == [3, 4, 5, 6, 7, 8, 9]
    starts = [event.fields for event in RunDirectory.read(tmp_path).events() if event.kind == "stage started"]
    assert starts[-1]["damaged"] == [1]


def test_a_left_over_temporary_file_is_swept_up(tmp_path: Path) -> None:
    do_squares(tmp_path, stop_at=7)
    torn = Layout(tmp_path).temporary / "0-99"
    torn.write_bytes(b'{"index":6,"va')
    with open_run(tmp_path):
        assert not torn.exists()


def test_a_stage_file_that_was_changed_is_refused(tmp_path: Path) -> None:
    do_squares(tmp_path)
    path = tmp_path / "a/squares.jsonl"
    content = path.read_bytes()
    path.write_bytes(content.replace(b"49", b"50"))
    with pytest.raises(RunDirectoryError, match=r"squares.jsonl was changed after the run wrote it"):
        do_squares(tmp_path)
    path.write_bytes(content)
    assert do_squares(tmp_path) == []


def test_a_stage_file_that_was_deleted_is_made_again(tmp_path: Path) -> None:
    do_squares(tmp_path)
    (tmp_path / "a/squares.jsonl").unlink()
    assert do_squares(tmp_path) == ITEMS


def test_a_file_of_the_users_is_not_overwritten(tmp_path: Path) -> None:
    open_run(tmp_path).close()
    (tmp_path / "a").mkdir()
    (tmp_path / "a/squares.jsonl").write_text("mine")
    with pytest.raises(RunDirectoryError, match="was not written by this run"):
        do_squares(tmp_path)
    assert (tmp_path / "a/squares.jsonl").read_text() == "mine"


@pytest.mark.parametrize("stop_at", [None, 7])
def test_other_items_than_those_it_was_begun_with_are_refused(tmp_path: Path, stop_at: int | None) -> None:
    do_squares(tmp_path, stop_at=stop_at)
    with pytest.raises(RunDirectoryError, match=r"inputs of stage a/squares .* are not those"):
        do_squares(tmp_path, items=[*ITEMS[:-1], 11])


def test_other_inputs_of_a_single_piece_are_refused(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        run.once("one", lambda: [Number(index=1, value=1)], Number, inputs=["x"])
        run.folder("folder", lambda folder: None, inputs="x")
    with open_run(tmp_path) as run:
        with pytest.raises(RunDirectoryError, match="inputs of stage one"):
            run.once("one", lambda: [], Number, inputs=["y"])
        with pytest.raises(RunDirectoryError, match="inputs of stage folder"):
            run.folder("folder", lambda folder: None, inputs="y")


def test_a_damaged_manifest_is_refused_with_the_way_out(tmp_path: Path) -> None:
    do_squares(tmp_path)
    Layout(tmp_path).manifest("a/squares").write_text("{")
    with pytest.raises(RunDirectoryError, match=r"squares.json is damaged. Delete it"):
        do_squares(tmp_path)


def test_stages_whose_names_begin_alike_keep_out_of_each_others_way(tmp_path: Path) -> None:
    do_squares(tmp_path, stop_at=7, name="a/b")
    calls: list[int] = []
    with open_run(tmp_path) as run:
        run.map("a", ITEMS, squares(run, calls), Number, shard_size=4, label="a")
        run.map("a/b", ITEMS, squares(run, calls), Number, shard_size=3, label="b")
    assert calls == [*ITEMS, 6, 7, 8, 9]


@pytest.mark.parametrize("name", ["", "/a", "../a", "a/../b", "a//b", ".hidden", "a b", "a@", "a/"])
def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    with open_run(tmp_path) as run, pytest.raises(ValueError, match="cannot name a stage"):
        run.once(name, list, Number)


def test_work_must_return_a_record_for_each_item(tmp_path: Path) -> None:
    with (
        pytest.raises(RunFailed, match=r"stage a: 3 items gave 2 records, so none of them was stored"),
        open_run(tmp_path) as run,
    ):
        run.map("a", ITEMS, lambda part: [Number(index=i, value=0) for i in part[1:]], Number, shard_size=3, label="a")
    assert not Layout(tmp_path).shard("a", 0).exists()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_is_not_finite_is_not_stored(tmp_path: Path, value: float) -> None:
    with pytest.raises(RunFailed, match="stage a made a record that cannot be stored"), open_run(tmp_path) as run:
        run.once("a", lambda: [Number(index=0, value=value)], Number)


def test_what_a_stage_returns_is_what_is_on_file(tmp_path: Path) -> None:
    class Loose(Record):
        detail: dict[str, object]

    with open_run(tmp_path) as run:
        made = run.once("a", lambda: [Loose(detail={"pair": (1, 2)})], Loose)
        again = run.once("a", lambda: [], Loose)
    assert made == again
    assert made[0].detail == {"pair": [1, 2]}


def test_a_count_outside_a_stage_is_a_mistake(tmp_path: Path) -> None:
    with open_run(tmp_path) as run, pytest.raises(RuntimeError, match="outside the work of a stage"):
        run.count("calls")


def test_a_stage_inside_another_is_a_mistake(tmp_path: Path) -> None:
    with open_run(tmp_path) as run, pytest.raises(RuntimeError, match="inside the work of another"):
        run.once("a", lambda: run.once("b", list, Number), Number)


# Folders


def test_a_folder_is_seen_only_when_it_is_whole(tmp_path: Path) -> None:
    seen: list[str] = []

    def build(folder: Path, stop: bool) -> None:
        seen.extend(path.name for path in run.scratch("it/policy").iterdir())
        (run.scratch("it/policy") / "step-1").write_text("1")
        (folder / "weights").write_text("1")
        assert not (tmp_path / "it/policy").exists()
        if stop:
            raise Stop
        run.count("steps", 5)

    with pytest.raises(Stop), open_run(tmp_path) as run:
        run.folder("it/policy", lambda folder: build(folder, stop=True))
    with open_run(tmp_path) as run:
        path = run.folder("it/policy", lambda folder: build(folder, stop=False))
        assert run.counts() == {"steps": 5}
    assert seen == ["step-1"]
    assert (path / "weights").read_text() == "1"
    assert not Layout(tmp_path).scratch("it/policy").exists()
    with open_run(tmp_path) as run:
        assert run.folder("it/policy", lambda folder: build(folder, stop=True)) == path
        assert run.reused() == {"steps": 5}


def test_a_folder_that_was_changed_is_refused_and_one_that_was_deleted_is_built_again(tmp_path: Path) -> None:
    built: list[Path] = []

    def build(folder: Path) -> None:
        built.append(folder)
        (folder / "w").write_bytes(b"12")

    def policy() -> Path:
        with open_run(tmp_path) as run:
            return run.folder("policy", build)

    path = policy()
    (path / "notes.txt").write_text("the user's own")
    policy()
    (path / "w").write_bytes(b"1")
    with pytest.raises(RunDirectoryError, match=r"policy was changed after the run built it \(w\)"):
        policy()
    for file in path.iterdir():
        file.unlink()
    path.rmdir()
    policy()
    assert len(built) == 2
    assert (path / "w").read_bytes() == b"12"


def test_a_folder_of_the_users_is_not_replaced(tmp_path: Path) -> None:
    open_run(tmp_path).close()
    (tmp_path / "policy").mkdir()
    with open_run(tmp_path) as run, pytest.raises(RunDirectoryError, match="was not built by this run"):
        run.folder("policy", lambda folder: None)


# Formats

texts = st.text(st.characters(exclude_categories=["Cs"]))
completions = st.builds(
    Completion,
    text=texts,
    token_ids=st.lists(st.integers(0, 2**31)).map(tuple),
    finish=st.sampled_from(["stop", "length"]),
)
numbers = st.builds(Number, index=st.integers(-(2**60), 2**60), value=st.floats(allow_nan=False, allow_infinity=False))


@given(st.lists(completions), st.lists(numbers), st.dictionaries(texts, st.integers(0, 2**60)))
def test_records_and_shards_are_read_back_as_they_were(
    completions: list[Completion], numbers: list[Number], counts: dict[str, int]
) -> None:
    assert decode_records(encode_records(completions, stage="x"), Completion) == completions
    lines = encode_records(numbers, stage="x")
    assert decode_records(lines, Number) == numbers
    content = encode_shard(Shard(lines, counts))
    assert decode_shard(content) == Shard(lines, counts)
    assert all(decode_shard(content[:end]) is None for end in range(0, len(content), 7))


class Point(NamedTuple):
    x: object
    y: object


@dataclass(frozen=True)
class Thing:
    name: str
    parts: tuple[object, ...]


def test_a_fingerprint_tells_values_apart() -> None:
    values = [
        None, 0, 0.0, False, "", "0", (), ((),), ("a", "b"), ("ab",), ("a", ("b",)), {"a": 1}, {"a": "1"}, {"b": 1},
        Number(index=0, value=0), Number(index=0, value=1), Thing("a", (1,)), Thing("a", (2,)), Path("a"), Point(1, 2),
        ("a", None),
    ]  # fmt: skip
    assert len({fingerprint(value) for value in values}) == len(values)
    assert fingerprint([1, 2]) == fingerprint((1, 2)) == fingerprint(Point(1, 2))
    with pytest.raises(TypeError, match="cannot tell whether a object is the same"):
        fingerprint([object()])


def test_json_for_readers() -> None:
    text = json_text({"a": math.nan, "b": (1, Path("x/y")), "c": Number(index=1, value=2), "d": Point(1, "é")})
    assert text == (
        '{\n  "a": null,\n  "b": [\n    1,\n    "x/y"\n  ],\n  "c": {\n    "index": 1,\n    "value": 2.0\n  },\n'
        '  "d": {\n    "x": 1,\n    "y": "é"\n  }\n}\n'
    )
