"""Every file that a configuration names: where it is not there, the key that names it is said."""

from pathlib import Path
from typing import get_args

import pytest

from tests.recipes import small
from windvane.config import Settings, load_config
from windvane.config.explain import members
from windvane.data import DataSource
from windvane.errors import UserError
from windvane.recipes.configs import config_classes
from windvane.recipes.preference import TrainConfig, run_train
from windvane.recipes.select import SelectConfig, run_select
from windvane.recipes.session import RunConfig, check_inputs

MODEL = ["model=m", "output_dir=run"]
QUERIES = [*MODEL, "queries=here.jsonl"]
PAIRS = [*MODEL, "preferences=here.jsonl"]
PRINCIPLES = "principles={type: user, path: gone.yaml}"
FROM_PROMPT = "principles={from_prompt: gone}"
INPUTS: dict[str, dict[str, list[str]]] = {
    "sso": {
        "queries": [*MODEL, "queries=gone.jsonl"],
        "evaluation.queries": [*QUERIES, "evaluation.queries=gone.jsonl"],
        "principles.path": [*QUERIES, PRINCIPLES],
        "principles.from_prompt": [*QUERIES, FROM_PROMPT],
    },
    "sera": {
        "preferences": [*MODEL, "preferences=gone.jsonl"],
        "evaluation.queries": [*PAIRS, "evaluation.queries=gone.jsonl"],
    },
    "drpo": {
        "queries": [*MODEL, "queries=gone.jsonl"],
        "examples": [*QUERIES, "examples={path: gone.jsonl}"],
        "judge.aspects": [*QUERIES, "judge.aspects=gone.yaml"],
        "proposer.path": [*QUERIES, "proposer={type: guidelines, path: gone.yaml}"],
    },
    "pairs": {
        "queries": [*MODEL, "queries=gone.jsonl"],
        "principles.path": [*QUERIES, PRINCIPLES],
        "principles.from_prompt": [*QUERIES, FROM_PROMPT],
    },
    "select": {"run": ["run=gone", "output_dir=run"]},
    "select --by margin": {
        "preferences": ["policy=m", "reference=n", "output_dir=run", "preferences=gone.jsonl"],
    },
    "train": {"preferences": [*MODEL, "preferences=gone.jsonl"]},
    "evaluate": {"queries": ["base=m", "policy=n", "output_dir=run", "queries=gone.jsonl"]},
    "queries augment": {
        "queries": [*MODEL, "queries=gone.jsonl"],
        "evaluation_queries": [*QUERIES, "evaluation_queries=gone.jsonl"],
    },
}
"""For each command and each key that names an input, overrides in which that input alone is not there."""
CASES = [(command, key, overrides) for command, keys in INPUTS.items() for key, overrides in keys.items()]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small.write_queries(tmp_path / "here.jsonl")
    (tmp_path / "gone.json").touch()


@pytest.mark.parametrize(("command", "key", "overrides"), CASES, ids=[f"{each[0]}: {each[1]}" for each in CASES])
def test_an_input_that_is_not_there_is_named_by_its_key(command: str, key: str, overrides: list[str]) -> None:
    config = load_config(config_classes()[command], None, overrides)
    assert isinstance(config, RunConfig)
    with pytest.raises(UserError) as caught:
        check_inputs(config)
    said = str(caught.value)
    assert said.startswith(f"{key}: gone")
    assert f"--set {key}=..." in said
    assert "Near it: gone.json" in said


def inputs(kind: type[Settings], prefix: str = "") -> set[str]:
    """Return the keys of a class that name a file or folder to read."""
    found = set()
    for name, field in kind.model_fields.items():
        groups = list(members(field.annotation))
        if Path in (field.annotation, *get_args(field.annotation)) and name != "output_dir":
            found.add(f"{prefix}{name}")
        for group in groups:
            found |= {f"{prefix}{name}"} if issubclass(group, DataSource) else inputs(group, f"{prefix}{name}.")
    return found


def test_no_input_is_left_out() -> None:
    assert {command: inputs(kind) for command, kind in config_classes().items()} == {
        command: set(keys) for command, keys in INPUTS.items()
    }


def test_a_run_says_so_before_its_directory_is_made() -> None:
    """The way out is then free: the same directory with the right name."""
    with pytest.raises(UserError, match=r"preferences: gone\.jsonl does not exist"):
        run_train(load_config(TrainConfig, None, INPUTS["train"]["preferences"]), console=small.QUIET)
    with pytest.raises(UserError, match="run: gone is not there"):
        run_select(load_config(SelectConfig, None, INPUTS["select"]["run"]), console=small.QUIET)
    assert not Path("run").exists()


def test_a_name_on_the_hub_is_no_file_that_is_missing() -> None:
    check_inputs(load_config(TrainConfig, None, [*MODEL, "preferences=trl-lib/some-pairs"]))
