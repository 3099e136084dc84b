"""The command line as a user meets it: what is wrong is said once, with its value and the way out."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import typer
import yaml

from tests import tiny
from tests.recipes import small
from windvane import __version__
from windvane.cli import app, main
from windvane.recipes.configs import config_classes
from windvane.recipes.sso_config import SSOConfig

CONFIG = {
    "model": "model",
    "queries": "queries.jsonl",
    "output_dir": "run",
    "iterations": 1,
    "max_queries": 4,
    "principles": "principles.yaml",
    "sampling": {"max_new_tokens": 6},
    "selection": {"ordering": False, "on_policy": None, "gap": None},
    "loss": {"type": "ipo"},
    "training": {"pairs_per_step": 2, "learning_rate": 1e-3, "guards": {"max_cut_share": None}},
    "evaluation": {"holdout": 2, "max_new_tokens": 6},
}
PRINCIPLES = small.EXAMPLES / "principles" / "concise.yaml"


NOTES = ("journal.jsonl", "provenance.json", "config.yaml", "lock")
"""What a run directory that holds no work yet may write again; the user's config.yaml is checked by every next use."""


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


class Place:
    """A user's folder: a model, queries, principles and a configuration; commands run in it."""

    def __init__(self, root: Path, capfd: pytest.CaptureFixture[str]) -> None:
        self.root, self._capfd = root, capfd

    def __call__(self, *arguments: str) -> Outcome:
        """Run a command in this process."""
        self._capfd.readouterr()
        sys.argv = ["windvane", *arguments]
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        return Outcome(code, *self._capfd.readouterr())

    def sso(self, *overrides: str) -> Outcome:
        """Run ``windvane sso config.yaml`` with overrides."""
        return self("sso", "config.yaml", *(word for each in overrides for word in ("--set", each)))

    def write(self, name: str, text: str) -> None:
        (self.root / name).write_text(text, encoding="utf-8")

    def rows(self, *rows: dict[str, Any], name: str = "queries.jsonl") -> None:
        """Write a JSONL file."""
        self.write(name, "".join(json.dumps(row) + "\n" for row in rows))

    def snapshot(self) -> dict[str, str]:
        """Return the checksum of each file."""
        files = (path for path in sorted(self.root.rglob("*")) if path.is_file() and path.name not in NOTES)
        return {str(path.relative_to(self.root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny.model().save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def place(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Place:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("WINDVANE_CACHE", str(tmp_path / "cache"))
    shutil.copytree(model, tmp_path / "model")
    small.write_queries(tmp_path / "queries.jsonl")
    shutil.copy(PRINCIPLES, tmp_path / "principles.yaml")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG), encoding="utf-8")
    return Place(tmp_path, capfd)


def refused(place: Place, run: Callable[[], Outcome], *parts: str) -> None:
    """Check that a command ends with 2 and one message that holds `parts`, and leaves every file as it was."""
    before = place.snapshot()
    outcome = run()
    assert outcome.code == 2, outcome
    assert "Traceback" not in outcome.out + outcome.err
    assert outcome.err.count("windvane: ") == 1
    said = " ".join(outcome.err.split())
    assert [part for part in parts if part not in said] == [], outcome.err
    after = place.snapshot()
    assert {name: after.get(name) for name in before} == before


SETTINGS = {
    "an unknown key": (["traning.epochs=2"], ["traning", "training"]),
    "an unknown key inside": (["training.epoch=2"], ["training.epoch", "epochs"]),
    "a wrong type": (["iterations=many"], ["iterations", "many"]),
    "a number for a text": (["model=5"], ["model", "5"]),
    "iterations 0": (["iterations=0"], ["iterations", "at least 1", "0"]),
    "a negative learning rate": (["training.learning_rate=-1e-5"], ["training.learning_rate", "than 0", "-1e-5"]),
    "pairs_per_step 0": (["training.pairs_per_step=0"], ["training.pairs_per_step", "0"]),
    "top_p above 1": (["sampling.top_p=1.5"], ["sampling.top_p", "1.5"]),
    "--set without =": (["iterations"], ["iterations", "key=value"]),
    "a key inside a value": (["iterations.x=1"], ["iterations"]),
    "generator mode without a generator": (["mode=generator"], ["mode", "generator"]),
    "a generator without its mode": (["generator={}"], ["mode: generator"]),
    "an unknown mode": (["mode=both"], ["mode", "both", "direct"]),
    "the generator's loss for the policy": (["loss.type=sso_generator"], ["sso_generator", "generator.loss"]),
    "SSO's loss in generator mode": (
        ["mode=generator", "generator={}", "loss={type: sso}"], ["base loss", "ipo"],
    ),
    "the first model as reference of a loss without one": (
        ["reference=initial", "loss={type: simpo}"], ["reference: initial", "simpo"],
    ),
    "the first model as reference, and a copy of the last": (
        ["reference=initial", "training.reference=frozen"], ["frozen", "scored"],
    ),
    "an unknown loss": (["loss.type=dop"], ["dop", "dpo"]),
    "an unknown parameter of a loss": (["loss.betta=0.1"], ["betta", "beta"]),
    "simpo's gamma on ipo": (["loss.gamma=0.5"], ["loss.gamma"]),
    "a wrong dtype": (["engine.dtype=float33"], ["engine.dtype", "float33", "float32"]),
    "a wrong device": (["engine.device=gpu"], ["engine.device", "gpu", "cuda"]),
    "a device that is not there": (["engine.device=cuda"], ["cuda", "engine.device"]),
    "an unknown rule": (["evaluation.rule.type=longer"], ["longer", "shorter"]),
    "no regular expression": (["pairs.extra_preambles=['(']"], ["pairs.extra_preambles", "regular expression"]),
    "an empty model name": (["model="], ["model"]),
    "a tracker that is not installed": (["training.report_to=[wandd]"], ["wandd"]),
    "LoRA layers that are not there": (["training.lora.target_modules=[w_pack]"], ["w_pack", "q_proj"]),
    "a LoRA layer number that is not there": (["training.lora={layers: [7]}"], ["layer 7", "0 to 1"]),
}  # fmt: skip


@pytest.mark.parametrize(("overrides", "parts"), SETTINGS.values(), ids=SETTINGS)
def test_a_wrong_setting(place: Place, overrides: list[str], parts: list[str]) -> None:
    refused(place, lambda: place.sso(*overrides), *parts)


FILES = {
    "an empty configuration": ("", ["config.yaml", "model"]),
    "broken YAML": ("model: [a\nqueries: b\n", ["config.yaml", "line 2"]),
    "a list": ("- model: a\n", ["config.yaml"]),
    "a key that is given twice": ("model: a\nmodel: b\n", ["config.yaml", "model", "line 2"]),
    "missing keys": ("model: a\n", ["queries", "output_dir"]),
    "a tab": ("model: a\n\tqueries: b\n", ["config.yaml", "line 2"]),
}


@pytest.mark.parametrize(("text", "parts"), FILES.values(), ids=FILES)
def test_a_configuration_that_cannot_be_read(place: Place, text: str, parts: list[str]) -> None:
    place.write("config.yaml", text)
    refused(place, place.sso, *parts)


OTHERS = {
    "sso": ("sera", ["sera"]),
    "sera": ("sso", ["sso"]),
    "drpo": ("sso", ["sso"]),
    "pairs": ("select", ["select"]),
    "select": ("select-margin", ["select --by margin"]),
    "select --by margin": ("select", ["select"]),
    "train": ("sera", ["sera"]),
    "evaluate": ("pairs", ["pairs"]),
    "queries augment": ("train", ["sera", "train"]),
}
"""An example of another command by command, and the commands that it may be for."""


@pytest.mark.parametrize(("command", "other"), OTHERS.items(), ids=OTHERS)
def test_the_configuration_of_another_command(place: Place, command: str, other: tuple[str, list[str]]) -> None:
    example, fitting = other
    named = " or ".join(f"`windvane {each}`" for each in fitting)
    file = str(small.EXAMPLES / f"{example}.yaml")
    refused(place, lambda: place(*command.split(), file), f"It looks like a configuration for {named}.")


def test_every_command_with_a_configuration_may_be_named() -> None:
    commands = [*typer.main.get_command(app).commands.items()]  # type: ignore[attr-defined]
    inner = [
        (f"{name} {sub}", command)
        for name, group in commands
        for sub, command in getattr(group, "commands", {}).items()
    ]
    taking = {name for name, command in [*commands, *inner] if any(each.name == "config" for each in command.params)}
    assert {*config_classes()} == {*taking, "select --by margin"}


def test_a_configuration_that_is_not_there(place: Place) -> None:
    (place.root / "folder").mkdir()
    (place.root / "latin.yaml").write_bytes("model: ü\n".encode("latin-1"))
    refused(place, lambda: place("sso", "confg.yaml"), "confg.yaml", "config.yaml")
    refused(place, lambda: place("sso", "folder"), "folder")
    refused(place, lambda: place("sso", "latin.yaml"), "latin.yaml", "UTF-8")


def query_rows(*more: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"prompt": "Name the sea."}, *more]


def test_queries_that_are_not_there(place: Place) -> None:
    refused(place, lambda: place.sso("queries=querys.jsonl"), "querys.jsonl", "queries.jsonl")


def test_broken_json_names_its_line(place: Place) -> None:
    place.write("queries.jsonl", '{"prompt": "a"}\n{"prompt": "b"}\n{"prompt": "c}\n')
    refused(place, place.sso, "queries.jsonl", "line 3")


def test_a_row_without_a_prompt_names_its_line(place: Place) -> None:
    place.rows(*query_rows({"text": "x"}))
    refused(place, place.sso, "queries.jsonl", "line 2", "prompt")


def test_ids_that_occur_twice_name_both_rows(place: Place) -> None:
    place.rows({"id": "a", "prompt": "One"}, {"id": "a", "prompt": "Two"})
    refused(place, place.sso, "'a'", "line 1", "line 2")


def test_no_queries(place: Place) -> None:
    place.write("queries.jsonl", "")
    refused(place, place.sso, "queries.jsonl")


def test_fewer_queries_than_are_needed(place: Place) -> None:
    place.rows(*query_rows({"prompt": "Name the sun."}))
    refused(place, lambda: place.sso("evaluation.holdout=2"), "2", "held-out")
    refused(place, lambda: place.sso("evaluation=null", "iterations=3", "max_queries=null"), "3", "2")


def test_evaluation_queries_that_are_the_training_queries(place: Place) -> None:
    refused(place, lambda: place.sso("evaluation.queries=queries.jsonl", "evaluation.holdout=24"), "queries.jsonl")


def test_a_query_that_is_longer_than_the_model(place: Place) -> None:
    rows = [{"id": f"long-{number}", "prompt": f"{number} " + "word " * 300} for number in range(4)]
    place.rows(*rows)
    refused(place, place.sso, "takes", "1024", "max_new_tokens")


def test_answers_that_are_longer_than_the_model_are_refused_before_anything_is_made(place: Place) -> None:
    refused(place, lambda: place.sso("evaluation.max_new_tokens=2000"), "1024", "evaluation.max_new_tokens")
    assert not (place.root / "run" / "iteration-1").exists()
    assert place.sso("evaluation.max_new_tokens=6").code == 0  # put right in the same directory


def test_principles_that_cannot_be_used(place: Place) -> None:
    feature = yaml.safe_load(PRINCIPLES.read_text(encoding="utf-8"))["features"][0]
    equal = {**feature, "bad_principle": feature["good_principle"]}
    place.write("broken.yaml", "features: [\n")
    place.write("none.yaml", "features: []\n")
    place.write("equal.yaml", yaml.safe_dump({"features": [equal]}))
    place.write("short.yaml", yaml.safe_dump({"features": [{"name": "x"}]}))
    refused(place, lambda: place.sso("principles=principle.yaml"), "principle.yaml")
    refused(place, lambda: place.sso("principles=broken.yaml"), "broken.yaml", "line")
    refused(place, lambda: place.sso("principles=none.yaml"), "none.yaml")
    refused(place, lambda: place.sso("principles=equal.yaml"), "equal.yaml", "line 2", "good and bad are both")
    refused(place, lambda: place.sso("principles=short.yaml"), "short.yaml", "good_principle")


def test_models_that_are_not_there(place: Place) -> None:
    # A directory each: a run that ended before it cost anything makes room for the corrected one.
    refused(place, lambda: place.sso("model=smolm2-135m", "output_dir=a"), "smolm2-135m", "Did you mean smollm2-135m?")
    refused(place, lambda: place.sso("model=./modle", "output_dir=b"), "./modle", "does not exist")
    refused(place, lambda: place.sso("model=queries.jsonl", "output_dir=c"), "queries.jsonl", "is a file")
    refused(place, lambda: place.sso("model=nobody/nothing", "output_dir=d"), "nobody/nothing", "windvane models list")


def test_a_folder_without_a_model(place: Place) -> None:
    (place.root / "model" / "config.json").unlink()
    refused(place, lambda: place.sso("model=./model"), "model", "config.json")


def test_weights_that_cannot_be_read(place: Place) -> None:
    weights = place.root / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    refused(place, lambda: place.sso("model=./model"), "model", "cannot be loaded")


def test_weights_that_are_no_numbers(place: Place) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(place.root / "model" / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, place.root / "model" / "model.safetensors", metadata={"format": "pt"})
    refused(place, lambda: place.sso("model=./model"), "NaN", "model.norm.weight")


def test_a_tokenizer_without_a_chat_template(place: Place) -> None:
    tiny.tokenizer(chat_template=None).save_pretrained(place.root / "model")
    (place.root / "model" / "chat_template.jinja").unlink(missing_ok=True)
    refused(place, lambda: place.sso("model=./model"), "chat template", "engine.chat_template", "plain")
    assert place.sso("engine.chat_template=plain", "evaluation=null").code == 0


def test_a_model_that_brings_code(place: Place) -> None:
    path = place.root / "model" / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    named = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    path.write_text(json.dumps({**config, "model_type": "own", "auto_map": named}), encoding="utf-8")
    place.write("model/own.py", "raise SystemExit('this must not run')\n")
    refused(place, lambda: place.sso("model=./model"), "code", "engine.trust_remote_code")


def test_an_adapter_is_no_model(place: Place) -> None:
    (place.root / "adapter").mkdir()
    place.write("adapter/adapter_config.json", json.dumps({"base_model_name_or_path": "some/base"}))
    refused(place, lambda: place.sso("model=./adapter"), "adapter", "some/base")


def test_a_template_that_refuses_a_system_role_is_no_obstacle(place: Place) -> None:
    """The principle goes into the user's turn, and the run ends well."""
    strict = tiny.CHATML.replace(
        "{% for message in messages %}",
        "{% for message in messages %}"
        "{% if message['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}",
    )
    tiny.tokenizer(chat_template=strict).save_pretrained(place.root / "model")
    assert place.sso("evaluation=null").code == 0


def test_places_that_cannot_be_a_run(place: Place) -> None:
    (place.root / "mine").mkdir()
    place.write("mine/thesis.tex", "years of work")
    refused(place, lambda: place.sso("output_dir=mine"), "mine", "thesis.tex", "not a run directory")
    refused(place, lambda: place.sso("output_dir=queries.jsonl"), "queries.jsonl", "is a file")
    refused(place, lambda: place.sso("output_dir=queries.jsonl/run"), "queries.jsonl", "is a file")
    refused(place, lambda: place.sso("output_dir=/proc/run"), "/proc/run", "cannot be written to")


def test_a_folder_without_permission(place: Place) -> None:
    (place.root / "locked").mkdir(mode=0o500)
    if os.access(place.root / "locked", os.W_OK):
        pytest.skip("this user may write everywhere")
    refused(place, lambda: place.sso("output_dir=locked/run"), "locked/run", "cannot be written to")


def test_the_directory_of_another_run(place: Place) -> None:
    assert place.sso("evaluation=null").code == 0
    refused(place, lambda: place.sso("evaluation=null", "loss.beta=0.3"), "loss.beta: 0.1 -> 0.3", "output_dir")
    place.write("pairs.yaml", yaml.safe_dump({key: CONFIG[key] for key in ("model", "queries", "output_dir")}))
    refused(place, lambda: place("pairs", "pairs.yaml"), "a run of sso, not of pairs", "output_dir")
    assert place.sso("evaluation=null").code == 0


def test_a_mistake_can_be_put_right_in_the_same_directory(place: Place) -> None:
    """What failed before it did anything does not hold the directory."""
    assert place.sso("model=./modle", "evaluation=null").code == 2
    assert place.sso("evaluation=null").code == 0


def test_a_filter_that_keeps_nothing(place: Place) -> None:
    tight = "selection={ordering: true, on_policy: 0.99, gap: 0.99}"
    refused(place, lambda: place.sso("max_queries=3", tight), "kept none of", "selection", "dropped.jsonl")


def test_answers_that_were_all_cut_off(place: Place) -> None:
    refused(place, lambda: place.sso("training.guards={}"), "cut off", "training.guards.max_cut_share")


def train(place: Place, *overrides: str, rows: list[dict[str, Any]]) -> Outcome:
    """Run ``windvane train`` on rows."""
    place.rows(*rows, name="preferences.jsonl")
    config = {"model": "model", "preferences": "preferences.jsonl", "output_dir": "trained"}
    place.write("train.yaml", yaml.safe_dump(config))
    return place("train", "train.yaml", *(word for each in overrides for word in ("--set", each)))


LONG = {"prompt": "x", "chosen": "a " * 900, "rejected": "b"}
GOOD = {"prompt": "Name it.", "chosen": "yes", "rejected": "no"}
PREFERENCES = {
    "a loss that needs principles": (["loss={type: sso}"], [GOOD], ["sso", "windvane sso"]),
    "pairs that are longer than asked for": (["training.max_length=5"], [GOOD], ["training.max_length", "5"]),
    "a row without its rejected": ([], [GOOD, {"prompt": "x", "chosen": "y"}], ["line 2", "rejected"]),
    "equal responses": ([], [{**GOOD, "rejected": "yes"}], ["preferences.jsonl"]),
    "a pair that is longer than the model": (["training.guards.max_length_ratio=null"], [LONG], ["1024", "model"]),
    "sides of very different length": (
        [],
        [{**LONG, "chosen": "a " * 100}],
        ["training.guards.max_length_ratio", "20"],
    ),
}


@pytest.mark.parametrize(("overrides", "rows", "parts"), PREFERENCES.values(), ids=PREFERENCES)
def test_preferences_that_cannot_be_trained_on(
    place: Place, overrides: list[str], rows: list[dict[str, Any]], parts: list[str]
) -> None:
    refused(place, lambda: train(place, *overrides, rows=rows), *parts)


def test_a_preference_file_that_changed_is_not_taken_for_the_old_one(place: Place) -> None:
    assert train(place, rows=[GOOD]).code == 0
    changed = train(place, rows=[GOOD, {**GOOD, "prompt": "Name another."}])
    assert changed.code == 2
    assert "has changed" in changed.err
    assert "another output_dir" in changed.err


def test_a_run_without_what_is_asked_of_it(place: Place) -> None:
    refused(place, lambda: place("show", "nowhere"), "nowhere", "does not exist")
    refused(place, lambda: place("show", "model"), "model", "not a run directory")
    refused(place, lambda: place("show", "config.yaml"), "config.yaml", "not a folder")
    select = {"run": "model", "output_dir": "selected"}
    place.write("select.yaml", yaml.safe_dump(select))
    refused(place, lambda: place("select", "select.yaml"), "model", "not a run directory")
    assert place.sso("evaluation=null").code == 0
    refused(place, lambda: place("select", "select.yaml", "--set", "run=run"), "'pairs'", "iteration-1")
    sets = ["run=run", "stage=iteration-1", *small.NO_FILTER]
    assert place("select", "select.yaml", *(word for each in sets for word in ("--set", each))).code == 0


def test_a_policy_to_evaluate_that_is_not_there(place: Place) -> None:
    config = {"base": "model", "policy": "./polcy", "queries": "queries.jsonl", "output_dir": "evaluated"}
    place.write("evaluate.yaml", yaml.safe_dump(config))
    refused(place, lambda: place("evaluate", "evaluate.yaml"), "./polcy", "does not exist")


def test_a_model_to_pull_that_nobody_knows(place: Place) -> None:
    refused(place, lambda: place("models", "pull", "smolm2"), "smolm2", "smollm2-135m")


def test_what_the_command_line_itself_refuses(place: Place) -> None:
    for arguments in (["so"], ["sso"], ["sso", "config.yaml", "--sett", "a=b"], ["models", "push"]):
        before = place.snapshot()
        outcome = place(*arguments)
        assert outcome.code == 2
        assert "Traceback" not in outcome.err
        assert "Try" in outcome.err or "Usage" in outcome.err
        assert place.snapshot() == before


def test_a_run_that_fails_on_the_way_ends_with_3(place: Place) -> None:
    """The guard stops it; what was done stays, and the same command would only say the same again."""
    outcome = place.sso("training.learning_rate=1e30", "training.epochs=4", "evaluation=null")
    assert outcome.code == 3, outcome
    assert "Traceback" not in outcome.err
    assert "training.learning_rate" in outcome.err
    assert "choose another output_dir" in outcome.err
    assert (place.root / "run" / "iteration-1" / "scored.jsonl").is_file()
    assert "failed" in place("show", "run").out
    assert place.sso("training.learning_rate=1e30", "training.epochs=4", "evaluation=null").code == 3


MEMORY = {
    "CUDA": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total ...\nSee ..."),
    "CPU": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: not enough memory: you tried to ..."
    ),
    "MPS": RuntimeError("MPS backend out of memory (MPS allocated: 17.98 GB)"),
    "Python": MemoryError(),
}


@pytest.mark.parametrize("error", MEMORY.values(), ids=MEMORY)
def test_no_memory_left_names_the_settings_that_need_less(
    place: Place, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run stays, and goes on where there is memory."""

    def no_memory(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as full:
        full.setattr("windvane.training.policy.train_policy", no_memory)
        outcome = place.sso("evaluation=null")
    assert outcome.code == 3, outcome
    assert "Traceback" not in outcome.err
    assert str(error).partition("\n")[0].rstrip(".") in outcome.err
    assert "another output_dir" in outcome.err
    named = {"engine": ["batch_tokens", "batch_rows", "score_tokens"]}
    named["training"] = ["micro_batch", "gradient_checkpointing", "lora"]
    for group, keys in named.items():
        for key in keys:
            assert f"{group}.{key}" in outcome.err
            assert key in SSOConfig.model_fields[group].annotation.model_fields  # type: ignore[union-attr]
    assert "failed" in place("show", "run").out
    assert place.sso("evaluation=null").code == 0


def test_any_other_error_of_torch_keeps_its_traceback(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def mistake(*_: object, **__: object) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied (1x2 and 3x4)")

    monkeypatch.setattr("windvane.training.policy.train_policy", mistake)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        place.sso("evaluation=null")


def test_what_is_shown(place: Place) -> None:
    assert place("--version").out == f"windvane {__version__}\n"
    assert place.sso().code == 0
    shown = place("show", "run")
    assert shown.code == 0
    assert "finished" in shown.out
    assert "iteration-1/policy" in shown.out
    listed = place("models", "list")
    assert listed.code == 0
    assert "smollm2-135m" in listed.out
    for command in ("sso", "pairs", "select", "train", "evaluate", "show", "doctor"):
        assert place(command, "--help").code == 0
        assert command in place("--help").out


def windvane(place: Place, *arguments: str) -> "subprocess.Popen[str]":
    """Start the command line in a process of its own."""
    code = "import sys; from windvane.cli import main; sys.argv[0] = 'windvane'; main()"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=place.root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.slow
def test_ctrl_c_ends_with_130_and_the_run_goes_on(place: Place) -> None:
    process = windvane(place, "sso", "config.yaml", "--set", "training.epochs=200")
    deadline = time.monotonic() + 60
    while not list(place.root.glob("run/iteration-1/scored.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "interrupted. What a run has finished is on file; the same command goes on from here." in err
    assert "interrupted" in place("show", "run").out
    before = (place.root / "run/iteration-1/responses.jsonl").read_bytes()
    assert place.sso("training.epochs=200").code == 0
    assert (place.root / "run/iteration-1/responses.jsonl").read_bytes() == before


@pytest.mark.slow
def test_a_real_process_says_the_same(place: Place) -> None:
    process = windvane(place, "sso", "config.yaml", "--set", "iterations=0")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert err.startswith("windvane: ")
    assert "Traceback" not in err
