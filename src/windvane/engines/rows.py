"""Token rows: how prompts and their responses are laid out as one batch of tensors.

Two layouts give the same log-probabilities:

- **shared**: a group is ONE row ``[prompt; response; response; …]``. A block mask lets every response see the prompt
  and itself, never its neighbours, and the positions of each response start at the prompt's length, so that the prompt
  is computed once for all its responses.
- **plain**: a row for every response, ``[prompt; response]``, with an ordinary padding mask, for models that take no
  custom mask.

A response's last token predicts nothing that is asked for, so neither layout feeds it to the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple, Self

import torch
from torch import Tensor


class ResponseGroup(NamedTuple):
    """A prompt and the responses to it, as token ids; none of them may be empty."""

    prompt: Sequence[int]
    responses: tuple[Sequence[int], ...]


@dataclass(frozen=True)
class Rows:
    """A batch for one forward pass, and which of its logits make up which response.

    Responses are numbered through all groups, in order. ``tokens`` counts response tokens of the whole batch, ``kept``
    the positions that `predict` marks; kept positions are numbered row by row, from left to right.
    """

    input_ids: Tensor
    """[rows, width] int64."""
    position_ids: Tensor
    """[rows, width] int64; 0 in the padding."""
    attention_mask: Tensor
    """bool, True = may attend: [rows, 1, width, width] (query, key) in shared rows, [rows, width] in plain rows."""
    predict: Tensor
    """[rows, width] bool: positions whose next-token logits are needed, each once."""
    targets: Tensor
    """[tokens] int64: the response tokens."""
    target_row: Tensor
    """[tokens] int64: the kept position that predicts each of them."""
    segment: Tensor
    """[tokens] int64: the response that each of them belongs to."""
    lengths: Tensor
    """[responses] int64: tokens in each response."""

    @property
    def responses(self) -> int:
        """Responses in the batch."""
        return self.lengths.shape[0]

    def to(self, device: torch.device | str) -> Self:
        """Return the same rows on `device`."""
        return type(self)(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


class _Row(NamedTuple):
    """One row before it is padded."""

    prompt: Sequence[int]
    responses: tuple[Sequence[int], ...]

    @property
    def width(self) -> int:
        return len(self.prompt) + sum(len(response) - 1 for response in self.responses)


def shared_prefix_rows(groups: Sequence[ResponseGroup], *, pad_id: int) -> Rows:
    """Return one row for each group: the prompt once, then all its responses.

    Raises ``ValueError`` for an empty prompt, an empty response or a group without responses.
    """
    rows = [_Row(group.prompt, group.responses) for group in _checked(groups)]
    batch = _fill(rows, pad_id)
    mask = torch.stack([_block_mask(row, batch.input_ids.shape[1]) for row in rows]).unsqueeze(1)
    return _with_mask(batch, mask)


def plain_rows(groups: Sequence[ResponseGroup], *, pad_id: int) -> Rows:
    """Return one right-padded row for each response; the prompt is repeated.

    Raises ``ValueError`` for an empty prompt, an empty response or a group without responses.
    """
    rows = [_Row(group.prompt, (response,)) for group in _checked(groups) for response in group.responses]
    batch = _fill(rows, pad_id)
    widths = torch.tensor([row.width for row in rows])
    return _with_mask(batch, torch.arange(batch.input_ids.shape[1]) < widths[:, None])


def _checked(groups: Sequence[ResponseGroup]) -> Sequence[ResponseGroup]:
    if not groups:
        raise ValueError("no group to lay out: a batch needs one at least")
    for number, group in enumerate(groups):
        if not len(group.prompt) or not group.responses:
            raise ValueError(f"group {number} has no prompt tokens or no response: each group needs both")
        for index, response in enumerate(group.responses):
            if not len(response):
                raise ValueError(f"response {index} of group {number} is empty: it has no log-probability")
    return groups


def _fill(rows: Sequence[_Row], pad_id: int) -> Rows:
    """Lay out ids, positions and targets; the mask is left for the caller."""
    width = max(row.width for row in rows)
    input_ids = torch.full((len(rows), width), pad_id, dtype=torch.long)
    position_ids = torch.zeros((len(rows), width), dtype=torch.long)
    predict = torch.zeros((len(rows), width), dtype=torch.bool)
    targets: list[int] = []
    target_row: list[int] = []
    lengths: list[int] = []
    kept = 0
    for index, row in enumerate(rows):
        last_prompt = len(row.prompt) - 1
        ids, positions = list(row.prompt), list(range(len(row.prompt)))
        first = kept  # the last prompt token predicts the first token of every response
        kept += 1
        for response in row.responses:
            inner = len(response) - 1
            ids.extend(response[:-1])
            positions.extend(range(last_prompt + 1, last_prompt + 1 + inner))
            targets.extend(response)
            target_row.extend([first, *range(kept, kept + inner)])
            lengths.append(len(response))
            kept += inner
        input_ids[index, : len(ids)] = torch.tensor(ids)
        position_ids[index, : len(ids)] = torch.tensor(positions)
        predict[index, last_prompt : len(ids)] = True
    counts = torch.tensor(lengths)
    return Rows(
        input_ids=input_ids,
        position_ids=position_ids,
        attention_mask=torch.empty(0, dtype=torch.bool),
        predict=predict,
        targets=torch.tensor(targets),
        target_row=torch.tensor(target_row),
        segment=torch.repeat_interleave(torch.arange(len(lengths)), counts),
        lengths=counts,
    )


def _with_mask(rows: Rows, mask: Tensor) -> Rows:
    values = {f.name: getattr(rows, f.name) for f in fields(rows)}
    return Rows(**{**values, "attention_mask": mask})


def _block_mask(row: _Row, width: int) -> Tensor:
    """Return [width, width] bool: causal inside the prompt and inside each response, responses see the whole prompt.

    Padding attends to itself alone, because a query with nothing to attend to gives NaN in some attention kernels.
    """
    mask = torch.eye(width, dtype=torch.bool)
    prompt = len(row.prompt)
    mask[:prompt, :prompt] = torch.ones(prompt, prompt, dtype=torch.bool).tril()
    start = prompt
    for response in row.responses:
        end = start + len(response) - 1
        mask[start:end, :prompt] = True
        mask[start:end, start:end] = torch.ones(end - start, end - start, dtype=torch.bool).tril()
        start = end
    return mask
