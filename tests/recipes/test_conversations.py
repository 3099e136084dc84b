"""Prompts of several turns, with and without a system message of their own, go through every stage."""

import json
from pathlib import Path

import pytest

from tests.recipes import small
from windvane.data import load_preferences
from windvane.data.source import PreferenceSource
from windvane.recipes.augment import AugmentConfig, run_augment
from windvane.recipes.preference import TrainConfig, run_train
from windvane.recipes.sso import SSOConfig, run_sso
from windvane.types import Query, ScoredPair

ROLES = (["user"], ["user", "assistant", "user"], ["system", "user", "assistant", "user"])


@pytest.fixture(scope="module")
def conversations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine prompts of each of the three shapes."""
    path = tmp_path_factory.mktemp("conversations") / "queries.jsonl"
    rows = [
        {
            "id": f"q{number:02}",
            "messages": [
                {"role": role, "content": f"{role} {turn} {number}"} for turn, role in enumerate(ROLES[number % 3])
            ],
        }
        for number in range(27)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_conversations_go_through_every_stage(model: Path, conversations: Path, tmp_path: Path) -> None:
    places = small.sso_overrides(model, conversations, tmp_path / "run", "iterations=1", "max_queries=9")
    asked = "principles={type: generated, choice: model, max_new_tokens: 16}"
    result = run_sso(small.load(SSOConfig, "sso", [*places, asked, "evaluation.holdout=6"]), console=small.QUIET)
    assert result.evaluation is not None
    assert result.evaluation.n == 6
    held_out = small.records(result.run / "evaluation" / "queries.jsonl", Query)
    kept = small.records(result.run / "iteration-1" / "kept.jsonl", ScoredPair)
    for found in ([query.messages for query in held_out], [scored.pair.prompt for scored in kept]):
        assert {len(messages) for messages in found} == {1, 3, 4}
    # A system message of the prompt's own stays in x⁺ and x⁻, which is why both differ from x in all three shapes.
    assert all(one.scores.chosen_good.sum != one.scores.chosen_plain.sum != one.scores.chosen_bad.sum for one in kept)


def test_conversations_are_trained_on_from_a_file(model: Path, conversations: Path, tmp_path: Path) -> None:
    rows = [
        {
            "prompt": json.loads(line)["messages"],
            "chosen": [{"role": "assistant", "content": f"yes {number}"}],
            "rejected": [{"role": "assistant", "content": f"no {number}"}],
        }
        for number, line in enumerate(conversations.read_text(encoding="utf-8").splitlines()[:6])
    ]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert {len(pair.prompt) for pair in load_preferences(PreferenceSource(path=str(file)))} == {1, 3, 4}
    places = [f"model={model}", f"preferences={file}", f"output_dir={tmp_path / 'run'}", *small.TRAINING]
    config = small.load(TrainConfig, "train", [*places, "training.lora=null"])
    assert run_train(config, console=small.QUIET).trained.note.pairs == 6


def test_new_queries_are_made_from_those_of_one_turn(model: Path, conversations: Path, tmp_path: Path) -> None:
    places = [f"model={model}", f"queries={conversations}", f"output_dir={tmp_path / 'run'}"]
    settings = "augment={count: 2, max_new_tokens: 16, requests_per_query: 1}"
    made = run_augment(small.load(AugmentConfig, "augment", [*places, settings]), console=small.QUIET).augmentation
    assert made.requests == 2


def test_a_run_goes_on_from_another_folder(
    model: Path, conversations: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a run lies is in none of its results, so it may be moved, or named from elsewhere, half way."""

    def run(output: str) -> None:
        more = ["iterations=2", "max_queries=4", "evaluation=null"]
        places = small.sso_overrides(model, conversations, Path(output), *more)
        run_sso(small.load(SSOConfig, "sso", places), console=small.QUIET)

    monkeypatch.chdir(tmp_path)
    run("whole")
    run("moved")
    (tmp_path / "elsewhere").mkdir()
    moved = (tmp_path / "moved").rename(tmp_path / "elsewhere" / "run")
    second = [path for path in (moved / "iteration-2").iterdir() if path.is_file()]
    for path in (*second, *(moved / ".windvane" / "stages" / "iteration-2").iterdir()):
        path.unlink()
    (moved / "iteration-2" / "policy").rename(tmp_path / "away")
    monkeypatch.chdir(tmp_path / "elsewhere")
    run("run")
    for name in ("responses.jsonl", "kept.jsonl", "policy/windvane.json", "policy/model.safetensors"):
        assert (moved / "iteration-2" / name).read_bytes() == (tmp_path / "whole" / "iteration-2" / name).read_bytes()
