"""What a run reads is still what it read: with other inputs it must not look finished and report old numbers."""

import hashlib
import json
from pathlib import Path

import pytest

from tests import tiny
from tests.recipes import small
from windvane.engines.identity import model_identity
from windvane.errors import RunDirectoryError
from windvane.recipes.augment import AugmentConfig, run_augment
from windvane.recipes.evaluate import EvaluateConfig, run_evaluate
from windvane.recipes.pairs import PairsConfig, run_pairs
from windvane.types import Completion

PRINCIPLES = small.EXAMPLES / "principles" / "concise.yaml"


@pytest.fixture
def own_model(tmp_path: Path) -> Path:
    """A model that a test may change."""
    folder = tmp_path / "model"
    tiny.model("llama", max_position_embeddings=4096).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


def make_pairs(model: Path, queries: Path, tmp_path: Path, *more: str) -> None:
    places = [f"model={model}", f"queries={queries}", f"output_dir={tmp_path / 'run'}", "max_queries=4"]
    run_pairs(small.load(PairsConfig, "pairs", [*places, *small.SAMPLING[:1], *more]), console=small.QUIET)


def test_a_principle_file_that_was_edited_is_noticed(model: Path, queries: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(PRINCIPLES.read_text(encoding="utf-8"), encoding="utf-8")
    make_pairs(model, queries, tmp_path, f"principles={own}")
    before = (tmp_path / "run" / "pairs.jsonl").read_bytes()
    make_pairs(model, queries, tmp_path, f"principles={own}")
    own.write_text(own.read_text(encoding="utf-8").replace("short", "terse"), encoding="utf-8")
    with pytest.raises(RunDirectoryError, match=r"stage pairs/principles .* principle file"):
        make_pairs(model, queries, tmp_path, f"principles={own}")
    assert (tmp_path / "run" / "pairs.jsonl").read_bytes() == before


def test_a_chat_template_that_was_edited_is_noticed(model: Path, queries: Path, tmp_path: Path) -> None:
    template = tmp_path / "chat.jinja"
    template.write_text(tiny.CHATML, encoding="utf-8")
    make_pairs(model, queries, tmp_path, f"engine.chat_template={template}")
    template.write_text(tiny.CHATML + " ", encoding="utf-8")
    with pytest.raises(RunDirectoryError, match="stage pairs/principles"):
        make_pairs(model, queries, tmp_path, f"engine.chat_template={template}")


def test_a_policy_that_was_trained_anew_is_not_evaluated_by_its_forerunners_answers(
    model: Path, own_model: Path, queries: Path, tmp_path: Path
) -> None:
    places = [f"base={model}", f"policy={own_model}", f"queries={queries}", f"output_dir={tmp_path / 'run'}"]
    config = small.load(EvaluateConfig, "evaluate", [*places, "max_queries=3", "max_new_tokens=6"])
    run_evaluate(config, console=small.QUIET)
    run_evaluate(config, console=small.QUIET)
    tiny.model("llama", seed=1, max_position_embeddings=4096).save_pretrained(own_model)
    with pytest.raises(RunDirectoryError, match=r"stage evaluation/after .* a model's folder"):
        run_evaluate(config, console=small.QUIET)


def test_new_evaluation_queries_do_not_pass_over_what_was_augmented(
    model: Path, queries: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model is asked the same, but of its replies others may stay."""

    def request_in(reply: Completion) -> list[str]:
        digest = hashlib.sha256(reply.to_json().encode()).hexdigest()
        return [" ".join(digest[start : start + 8] for start in range(0, 64, 8))]

    monkeypatch.setattr("windvane.queries.augmenting.read_instructions", request_in)
    reserved = small.write_queries(tmp_path / "reserved.jsonl", ["a whale"])
    places = [f"model={model}", f"queries={queries}", f"output_dir={tmp_path / 'run'}"]
    settings = "augment={count: 4, max_new_tokens: 16, requests_per_query: 3}"
    config = small.load(AugmentConfig, "augment", [*places, settings, f"evaluation_queries={reserved}"])
    made = run_augment(config, console=small.QUIET).augmentation
    rows = [json.dumps({"prompt": query.text}) for query in made.queries]
    reserved.write_text("\n".join(rows), encoding="utf-8")
    with pytest.raises(RunDirectoryError, match="the inputs of stage"):
        run_augment(config, console=small.QUIET)


def test_a_name_stands_for_itself() -> None:
    assert model_identity("owner/model") == "name:owner/model"


def test_a_folder_is_known_by_its_model_and_not_by_its_place_or_our_note(own_model: Path, tmp_path: Path) -> None:
    first = model_identity(str(own_model))
    moved = own_model.rename(tmp_path / "elsewhere")
    (moved / "windvane.json").write_text("{}", encoding="utf-8")
    assert model_identity(str(moved)) == first
    (moved / "generation_config.json").write_text("{}", encoding="utf-8")
    assert model_identity(str(moved)) != first


@pytest.mark.parametrize("place", [0, 1, 12_345_678])
def test_large_weights_are_sampled(tmp_path: Path, place: int) -> None:
    """A hundredth of a file that changed is seen; 256 places are looked at."""
    weights = tmp_path / "model.safetensors"
    content = bytearray(20_000_000)
    weights.write_bytes(content)
    first = model_identity(str(tmp_path))
    content[place : place + 200_000] = b"\1" * 200_000
    weights.write_bytes(content)
    assert model_identity(str(tmp_path)) != first
