"""Margins alone: what ``windvane select --by margin`` refuses, before it scores anything."""

from pathlib import Path

import pytest

from tests import tiny
from tests.recipes import offline_pairs, small
from windvane.errors import DataError
from windvane.recipes.audit import AuditConfig, run_audit


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return offline_pairs.write_pairs(tmp_path / "pairs.jsonl")


def audit(policy: Path, reference: Path, pairs: Path, *more: str) -> AuditConfig:
    places = [
        f"policy={policy}",
        f"reference={reference}",
        f"preferences={pairs}",
        f"output_dir={pairs.parent / 'run'}",
    ]
    return small.load(AuditConfig, "select-margin", [*places, *more])


def other(folder: Path, **changes: str) -> Path:
    """Write the tiny model with another tokenizer."""
    tiny.model("llama", max_position_embeddings=4096).save_pretrained(folder)
    tokenizer = tiny.tokenizer()
    for name, value in changes.items():
        setattr(tokenizer, name, value)
    if not changes:
        tokenizer.add_tokens(["another token"])
    tokenizer.save_pretrained(folder)
    return folder


def test_a_reference_with_another_tokenizer_is_refused(model: Path, pairs: Path, tmp_path: Path) -> None:
    reference = other(tmp_path / "other")
    with pytest.raises(DataError, match=r"another tokenizer than the policy .* cannot be compared"):
        run_audit(audit(model, reference, pairs), console=small.QUIET)
    assert not (tmp_path / "run").exists()


def test_a_reference_with_another_template_is_refused(model: Path, pairs: Path, tmp_path: Path) -> None:
    reference = other(tmp_path / "other", chat_template=tiny.CHATML.replace("im_start|>{{", "im_start|> {{"))
    with pytest.raises(DataError, match=r"another chat template .* engine\.chat_template"):
        run_audit(audit(model, reference, pairs), console=small.QUIET)


def test_a_model_is_no_judge_of_itself(model: Path, pairs: Path) -> None:
    with pytest.raises(DataError, match="policy and reference are the same model"):
        run_audit(audit(model, model, pairs), console=small.QUIET)


def test_a_source_that_no_pair_has_is_named_before_anything_is_scored(model: Path, pairs: Path) -> None:
    with pytest.raises(DataError, match=r"'forum', which no pair has"):
        run_audit(audit(model, model, pairs, "selection.by_source={forum: 0.5}"), console=small.QUIET)
    assert not (pairs.parent / "run" / "scores").exists()
