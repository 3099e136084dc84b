"""The reference policy: scored once, a frozen copy, or the model with its adapter switched off."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import cast

import torch
from torch import nn

from windvane.engines.logprobs import Layout, evaluating, sequence_logprobs
from windvane.engines.protocols import Advance, no_progress
from windvane.engines.rows import Rows
from windvane.engines.sums import SequenceLogprobs
from windvane.errors import ConfigError
from windvane.losses import View
from windvane.training.examples import ReferenceSums, TrainingExample, join_reference, make_batch

Reference = Callable[[Rows], SequenceLogprobs]
"""Returns the reference's log-probabilities of a batch of rows, without gradient."""


def frozen_copy(model: nn.Module) -> Reference:
    """Return the reference that a copy of `model`, as it is now, gives; the copy's weights are its own."""
    kept = copy.deepcopy(model).eval().requires_grad_(False)

    def score(rows: Rows) -> SequenceLogprobs:
        with torch.no_grad():
            return sequence_logprobs(kept, rows)

    return score


def adapter_off(model: nn.Module) -> Reference:
    """Return the reference that `model` gives while its adapters are switched off: the model below them.

    That is the model training started from only if the adapter starts at nothing. Raises `ConfigError` for a model
    without an adapter, which would be its own reference.
    """
    if not hasattr(model, "disable_adapter"):
        raise ConfigError(
            f"training.reference is adapter_off, but {type(model).__name__} has no adapter: the policy would be its "
            "own reference. Set training.lora, or training.reference to scored or frozen."
        )
    switch_off = cast("Callable[[], AbstractContextManager[None]]", model.disable_adapter)

    def score(rows: Rows) -> SequenceLogprobs:
        with torch.no_grad(), evaluating(model), switch_off():
            return sequence_logprobs(model, rows)

    return score


def score_reference(
    model: nn.Module,
    examples: Sequence[TrainingExample],
    *,
    views: tuple[View, ...],
    layout: Layout,
    pad_id: int,
    batch_tokens: int = 4096,
    advance: Advance = no_progress,
) -> list[TrainingExample]:
    """Return the examples with the log-probabilities that `model` gives them now, in their order.

    One pass over all pairs, sorted by length, about `batch_tokens` tokens at a time. It draws no random numbers and
    leaves the model as it was. `advance` is called with the number of examples done.
    """
    found: dict[str, ReferenceSums] = {}
    device = next(model.parameters()).device
    with torch.no_grad(), evaluating(model):
        for group in _by_length(examples, batch_tokens):
            batch = make_batch(group, [1.0] * len(group), views=views, layout=layout, pad_id=pad_id)
            by_view = batch.by_view(sequence_logprobs(model, batch.rows.to(device)).to("cpu"))
            for number, example in enumerate(group):
                found[example.id] = {
                    view: (sides.chosen.sum[number].item(), sides.rejected.sum[number].item())
                    for view, sides in by_view.items()
                }
            advance(len(group))
    return join_reference(examples, found, views=views)


def _by_length(examples: Sequence[TrainingExample], batch_tokens: int) -> Iterator[list[TrainingExample]]:
    group: list[TrainingExample] = []
    for example in sorted(examples, key=lambda each: (-each.tokens, each.id)):
        if group and (len(group) + 1) * group[0].tokens > batch_tokens:
            yield group
            group = []
        group.append(example)
    if group:
        yield group
