"""What is created, resumed and refused."""

import errno
import json
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console
from safetensors import SafetensorError

from tests.run.program import QUIET, Config, Number, program, tree
from windvane.config import Settings
from windvane.errors import DataError, RunDirectoryError, RunFailed
from windvane.run import RunDirectory, lock
from windvane.run.layout import Layout


def open_run(root: Path, config: Settings | None = None, command: str = "test") -> RunDirectory:
    return RunDirectory.open(root, config or Config(), command=command, console=QUIET)


def snapshot(root: Path) -> dict[str, tuple[bytes, int]]:
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in root.rglob("*") if path.is_file()}


def test_a_new_run_says_what_it_is(tmp_path: Path) -> None:
    with open_run(tmp_path / "a" / "b", Config(seed=5)):
        pass
    provenance = json.loads((tmp_path / "a" / "b" / "provenance.json").read_text())
    assert provenance["seed"] == 5
    assert provenance["command"] == "test"
    assert {"windvane", "torch", "transformers"} <= provenance["packages"].keys()
    assert provenance["python"] == ".".join(map(str, sys.version_info[:3]))
    assert provenance["cpus"] >= 1
    assert "seed: 5" in (tmp_path / "a" / "b" / "config.yaml").read_text()


def test_git_state_is_that_of_the_folder_the_command_runs_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = tmp_path / "repository"
    repository.mkdir()
    monkeypatch.chdir(repository)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "init.defaultBranch=main"]
    with open_run(tmp_path / "outside"):
        pass
    assert json.loads((tmp_path / "outside" / "provenance.json").read_text())["git"] is None
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "x"]):
        subprocess.run([*git, *words], check=True)
    (repository / "new").write_text("untracked files are no change")
    with open_run(tmp_path / "clean"):
        pass
    state = json.loads((tmp_path / "clean" / "provenance.json").read_text())["git"]
    assert len(state["commit"]) == 40
    assert state["dirty"] is False
    subprocess.run([*git, "add", "new"], check=True)
    with open_run(tmp_path / "dirty"):
        pass
    assert json.loads((tmp_path / "dirty" / "provenance.json").read_text())["git"]["dirty"] is True


def test_an_empty_folder_is_used(tmp_path: Path) -> None:
    program(tmp_path)
    assert (tmp_path / "result.json").exists()


def test_another_configuration_is_refused_with_what_changed(tmp_path: Path) -> None:
    program(tmp_path / "run")
    before = snapshot(tmp_path)
    with pytest.raises(RunDirectoryError) as refusal:
        program(tmp_path / "run", Config(seed=3, size=8))
    text = str(refusal.value)
    assert "seed: 0 -> 3" in text
    assert "size: 7 -> 8" in text
    assert "another output_dir" in text
    assert f"delete {tmp_path / 'run'}" in text
    assert {name: content for name, (content, _) in snapshot(tmp_path).items()} == {
        name: content for name, (content, _) in before.items()
    }


def thirds(run: RunDirectory) -> list[Number]:
    run.count("made", 7)
    return [Number(index=index, value=index / 3) for index in range(7)]


def test_a_setting_that_may_change_keeps_the_shards_as_they_were_cut(tmp_path: Path) -> None:
    program(tmp_path / "whole")
    with open_run(tmp_path / "run") as run:
        numbers = run.once("numbers", lambda: thirds(run), Number)
        with pytest.raises(ZeroDivisionError):
            run.map("round-1/halves", numbers, lambda part: 1 // 0, Number, shard_size=3, label="halves")
    program(tmp_path / "run", Config(shard_size=2))
    resumed = [event for event in RunDirectory.read(tmp_path / "run").events() if event.kind == "resumed"]
    assert resumed[0].fields["settings"] == ["shard_size: 3 -> 2"]
    begun = [event.fields for event in RunDirectory.read(tmp_path / "run").events() if event.kind == "stage started"]
    assert [fields["shards"] for fields in begun if fields["stage"] == "round-1/halves"] == [3, 3]
    assert (tmp_path / "run/round-1/halves.jsonl").read_bytes() == (
        tmp_path / "whole/round-1/halves.jsonl"
    ).read_bytes()


def test_a_setting_that_may_change_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="names no setting of Config: shardsize"):
        RunDirectory.open(
            tmp_path / "run", Config(), command="test", may_change=frozenset({"shardsize"}), console=QUIET
        )
    assert not (tmp_path / "run").exists()


def test_another_command_is_refused(tmp_path: Path) -> None:
    program(tmp_path / "run")
    with pytest.raises(RunDirectoryError, match="holds a run of test, not of train"):
        open_run(tmp_path / "run", command="train")


def test_a_run_directory_may_be_moved(tmp_path: Path) -> None:
    program(tmp_path / "run")
    (tmp_path / "run").rename(tmp_path / "moved")
    before = tree(tmp_path / "moved")
    program(tmp_path / "moved")
    assert tree(tmp_path / "moved") == before


@pytest.mark.parametrize("names", [["notes.txt"], ["config.yaml", "model.bin"], [".windvane/lock", "notes.txt"]])
def test_a_folder_of_something_else_is_refused_and_stays_as_it_is(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    before = snapshot(tmp_path)
    with pytest.raises(RunDirectoryError, match=r"not a run directory.*Nothing in it was touched"):
        open_run(tmp_path)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("place", ["file", "file/run"])
def test_a_file_in_the_way_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunDirectoryError, match="file is a file, and the run directory"):
        open_run(tmp_path / place)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("place", ["a\0b", "x" * 300])
def test_a_name_that_no_folder_can_have_is_refused(tmp_path: Path, place: str) -> None:
    with pytest.raises(RunDirectoryError, match="cannot be written to"):
        open_run(tmp_path / place)


def test_a_folder_that_is_not_writable_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: object, mode: int = 0o777) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(os, "mkdir", denied)  # root, whom tests may run as, is denied nothing
    with pytest.raises(RunDirectoryError, match="cannot be written to: Permission denied"):
        open_run(tmp_path / "run")


def test_two_processes_never_share_a_run(tmp_path: Path) -> None:
    with open_run(tmp_path / "run"), pytest.raises(RunDirectoryError) as refusal:
        open_run(tmp_path / "run")
    assert f"in use by process {os.getpid()} on " in str(refusal.value)
    open_run(tmp_path / "run").close()


def test_a_look_at_a_run_does_not_keep_others_out(tmp_path: Path) -> None:
    open_run(tmp_path / "run").close()
    for _ in range(10):
        assert not lock.is_held(Layout(tmp_path / "run").lock)
        open_run(tmp_path / "run").close()


def test_the_lock_of_a_dead_process_does_not_count(tmp_path: Path) -> None:
    script = (
        "import sys, os; from pathlib import Path; from tests.run.test_opening import open_run\n"
        "open_run(Path(sys.argv[1])); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "run")], cwd=Path(__file__).parents[2], check=False)
    assert lock.read_owner(Layout(tmp_path / "run").lock) is not None
    open_run(tmp_path / "run").close()


def test_changed_versions_are_said_and_noted(tmp_path: Path) -> None:
    open_run(tmp_path).close()
    provenance = json.loads((tmp_path / "provenance.json").read_text())
    provenance["packages"]["torch"] = "1.0"
    (tmp_path / "provenance.json").write_text(json.dumps(provenance))
    with open(tmp_path.parent / "said.txt", "w", encoding="utf-8") as said:
        RunDirectory.open(tmp_path, Config(), command="test", console=Console(file=said, width=400)).close()
    text = (tmp_path.parent / "said.txt").read_text()
    assert "other circumstances" in text
    assert "torch: 1.0 -> " in text
    assert RunDirectory.read(tmp_path).events()[-1].fields["surroundings"][0].startswith("torch: 1.0 -> ")


@pytest.mark.parametrize("name", ["config.yaml", "provenance.json"])
def test_a_damaged_description_is_refused(tmp_path: Path, name: str) -> None:
    program(tmp_path)
    (tmp_path / name).write_text("{ broken")
    with pytest.raises(RunDirectoryError, match=f"{name} is damaged"):
        program(tmp_path)


def test_a_torn_journal_line_is_cut_off(tmp_path: Path) -> None:
    program(tmp_path)
    events = RunDirectory.read(tmp_path).events()
    with open(tmp_path / "journal.jsonl", "ab") as journal:
        journal.write(b'{"time": "2026-01-01T00:00:00+00:00", "eve')
    assert RunDirectory.read(tmp_path).events() == events
    program(tmp_path)
    lines = (tmp_path / "journal.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines][len(events)] == "resumed"


def test_a_full_disk_stops_the_run_and_a_later_command_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "whole")
    fsync, left = os.fsync, 60

    def full(descriptor: int) -> None:
        nonlocal left
        left -= 1
        if left <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunFailed, match=r"No space left on device.*Make room.*same command again"):
        program(tmp_path / "run")
    monkeypatch.undo()
    program(tmp_path / "run")
    assert tree(tmp_path / "run") == tree(tmp_path / "whole")


def test_a_disk_that_fills_up_while_a_folder_is_built(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder / "weights"))

    with pytest.raises(RunFailed, match=r"No space left on device: .*weights"), open_run(tmp_path / "run") as run:
        run.folder("policy", build)
    assert not (tmp_path / "run" / "policy").exists()


def test_a_disk_that_fills_up_is_known_by_what_others_say_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def weights(folder: Path) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    def checkpoint(folder: Path) -> None:
        raise RuntimeError("unexpected pos 64 vs 0")

    with open_run(tmp_path / "run") as run:
        with pytest.raises(RunFailed, match="Make room"):
            run.folder("policy", weights)
        with pytest.raises(RuntimeError, match=r"^unexpected pos"):
            run.folder("policy", checkpoint)
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=0))
        with pytest.raises(RunFailed, match=r"unexpected pos 64 vs 0. Nothing that was finished is lost"):
            run.folder("policy", checkpoint)


@pytest.mark.parametrize("place", ["nothing", "plain", "file"])
def test_reading_what_is_no_run_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "plain").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(RunDirectoryError, match=r"Name the output_dir of a run"):
        RunDirectory.read(tmp_path / place)


def test_a_run_that_has_done_nothing_that_takes_time_takes_another_configuration(tmp_path: Path) -> None:
    with suppress(DataError), open_run(tmp_path / "run", Config(seed=1)) as run:
        run.once("stage/queries", lambda: [Number(index=1, value=1)], Number)
        raise DataError("there is no such model")
    with open_run(tmp_path / "run", Config(seed=2)) as run:
        assert run.once("stage/queries", lambda: [Number(index=2, value=2)], Number) == [Number(index=2, value=2)]
    assert "seed: 2" in (tmp_path / "run" / "config.yaml").read_text()
    assert tree(tmp_path / "run") == tree(_fresh(tmp_path / "fresh"))


def _fresh(root: Path) -> Path:
    with open_run(root, Config(seed=2)) as run:
        run.once("stage/queries", lambda: [Number(index=2, value=2)], Number)
    return root


@pytest.mark.parametrize("work", ["calls", "checkpoint", "folder", "end"])
def test_one_model_call_one_checkpoint_one_policy_or_its_end_is_enough_to_refuse_it(tmp_path: Path, work: str) -> None:
    def make() -> list[Number]:
        if work == "calls":
            run.count("model_calls")
        return [Number(index=1, value=1)]

    with suppress(DataError), open_run(tmp_path / "run", Config(seed=1)) as run:
        run.once("stage", make, Number)
        if work == "folder":
            run.folder("policy", lambda folder: None)
        if work != "end":
            raise DataError("something that the user can put right")
    if work == "checkpoint":
        checkpoint = Layout(tmp_path / "run").scratch("policy") / "checkpoint-1"
        checkpoint.mkdir(parents=True)  # an empty folder is made before training, and is no work done
        (checkpoint / "model.safetensors").write_bytes(b"weights")
    before = tree(tmp_path / "run")
    with pytest.raises(RunDirectoryError, match="another configuration"):
        open_run(tmp_path / "run", Config(seed=2))
    assert tree(tmp_path / "run") == before
