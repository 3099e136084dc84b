"""What a user may hand to the trainer as pairs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase

from windvane.data import DataSource, OfflinePair
from windvane.data.shapes import preference_of
from windvane.data.source import BadRow
from windvane.engines.chat import ChatFormat
from windvane.errors import ConfigError, DataError
from windvane.training.examples import TrainingExample, encode_pair
from windvane.types import Pair


def as_examples(rows: Iterable[Any], tokenizer: PreTrainedTokenizerBase | None) -> list[TrainingExample]:
    """Return training examples made of such, of `Pair` s, `OfflinePair` s, or rows in TRL's preference format.

    Raises `DataError` naming the row that cannot be used, and `ConfigError` where text is given without a tokenizer.
    """
    chat: ChatFormat | None = None
    examples = []
    for number, row in enumerate(rows):
        if isinstance(row, TrainingExample):
            examples.append(row)
            continue
        if chat is None:
            chat = _chat(tokenizer)
        examples.append(encode_pair(chat, row if isinstance(row, Pair | OfflinePair) else _offline_pair(row, number)))
    return examples


def _chat(tokenizer: PreTrainedTokenizerBase | None) -> ChatFormat:
    if tokenizer is None:
        raise ConfigError("the training pairs are text, so PreferenceTrainer needs processing_class: the tokenizer")
    return ChatFormat(tokenizer)


def _offline_pair(row: Any, number: int) -> OfflinePair:
    if not isinstance(row, Mapping):
        raise DataError(
            f"row {number} of train_dataset is a {type(row).__name__}: rows are TrainingExample, OfflinePair, or "
            "mappings with the columns prompt, chosen and rejected"
        )
    try:
        prompt, chosen, rejected = preference_of(row, DataSource(path="train_dataset"))
    except BadRow as error:
        raise DataError(f"row {number} of train_dataset: {error}") from error
    return OfflinePair(id=str(row.get("id", f"row-{number}")), prompt=prompt, chosen=chosen, rejected=rejected)
