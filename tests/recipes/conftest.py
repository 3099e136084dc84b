"""A tiny model with room for few-shot prompts, and queries, made once."""

from pathlib import Path

import pytest

from tests.recipes import small


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random llama; a byte is a token, so it has more positions than other tests need."""
    from tests import tiny

    folder = tmp_path_factory.mktemp("tiny-llama-4k")
    tiny.model("llama", max_position_embeddings=4096).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def queries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A JSONL file of 24 short queries."""
    return small.write_queries(tmp_path_factory.mktemp("queries") / "queries.jsonl")
