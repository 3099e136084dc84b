"""The decode loop: one batch of prompts in, their responses out.

Attention models work on left-padded rows over a `GrowingCache`, the common prefix of the batch computed once. Models
with a recurrent state (Mamba and its hybrids) take prompts of one length at a time, so that no padding enters the
state. In both, finished rows leave the batch.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache

from windvane.engines.cache import GrowingCache, Moves, close_up, closing_moves
from windvane.engines.drawing import next_tokens, uniforms
from windvane.engines.logprobs import evaluating, forward_arguments
from windvane.errors import ModelError
from windvane.types import Sampling

SHORTEST_PREFIX = 8
"""Tokens; a shorter common prefix is not worth a forward pass of its own."""

PREFILL_TOKENS = 8192
"""Most prompt tokens in one forward pass: bounds the memory of its activations."""

LEAST_FILL = 0.8
"""How long a prompt must be, against the longest, to be computed in the same pass: bounds the padding computed."""


class Decoded(NamedTuple):
    """The sampled token ids of one response; the last one is a stop id exactly if `stopped`."""

    token_ids: tuple[int, ...]
    stopped: bool


class _Rows(Protocol):
    """The rows still at work: their cache, masks and positions."""

    def start(self) -> Tensor:
        """Compute the prompts; return the logits after each, ``[rows, vocabulary]``."""

    def step(self, tokens: Tensor) -> Tensor:
        """Append one token ``[rows]`` to each row; return the logits after it, ``[rows, vocabulary]``."""

    def close_up(self, moves: Moves) -> None:
        """Let the finished rows go."""


def decode(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    sampling: Sampling,
    *,
    stop_ids: frozenset[int],
    pad_id: int,
    attention_only: bool,
) -> list[Decoded]:
    """Return one response for each prompt, in order.

    Prompts of a model that is not `attention_only` must have one length. Raises `ModelError` if the model gives NaN.
    """
    with torch.inference_mode(), evaluating(model):
        rows = _AttentionRows(model, prompts, pad_id) if attention_only else _RecurrentRows(model, prompts)
        return _loop(rows, len(prompts), seeds, sampling, stop_ids, model.device)


def _loop(
    rows: _Rows,
    count: int,
    seeds: Sequence[int],
    sampling: Sampling,
    stop_ids: frozenset[int],
    device: torch.device,
) -> list[Decoded]:
    drawing_device = device if device.type != "mps" else torch.device("cpu")  # MPS has no float64 to draw in
    table = uniforms(seeds, sampling.max_new_tokens).to(drawing_device)
    written: list[list[int]] = [[] for _ in range(count)]
    active = torch.arange(count)  # row of the batch -> index of its prompt
    logits = rows.start()
    for position in range(sampling.max_new_tokens):
        tokens = _checked_draw(logits.to(drawing_device), sampling, table[active.to(drawing_device), position])
        sampled = tokens.tolist()
        for index, token in zip(active.tolist(), sampled, strict=True):
            written[index].append(token)
        keep = [token not in stop_ids for token in sampled]
        if position + 1 == sampling.max_new_tokens or not any(keep):
            break
        if not all(keep):
            moves = closing_moves(keep)
            active, tokens = close_up(active, moves), close_up(tokens, moves)
            rows.close_up(moves)
        logits = rows.step(tokens.to(device))
    return [Decoded(tuple(ids), ids[-1] in stop_ids) for ids in written]


def _checked_draw(logits: Tensor, sampling: Sampling, uniform: Tensor) -> Tensor:
    """Draw a token for each row; NaN in a row's logits makes its maximum NaN, which is what is looked at."""
    logits = logits.float()
    if not torch.isfinite(logits.amax(-1)).all():
        raise ModelError(
            "The model gave NaN or infinite logits. Its weights are finite, so the number format overflows: "
            "set engine.dtype to float32 or bfloat16."
        )
    return next_tokens(logits, sampling, uniform)


def common_prefix(sequences: Sequence[Sequence[int]]) -> int:
    """Return how many leading tokens all sequences share, the last token of the shortest one not counted."""
    ordered = sorted(map(tuple, sequences))
    first, last = ordered[0], ordered[-1]  # what these two share, all in between share
    limit = min(map(len, sequences)) - 1
    for index in range(limit):
        if first[index] != last[index]:
            return index
    return limit


class _AttentionRows:
    """Left-padded rows over a `GrowingCache`."""

    def __init__(self, model: PreTrainedModel, prompts: Sequence[Sequence[int]], pad_id: int) -> None:
        self._model = model
        self._prompts = [list(prompt) for prompt in prompts]
        self._pad_id = pad_id
        self._cache = GrowingCache()
        self._takes_positions = "position_ids" in forward_arguments(model)
        self._options = _last_logits_only(model)
        self._mask = torch.empty(0, dtype=torch.long)  # [rows, positions so far]
        self._next_position = torch.empty(0, dtype=torch.long)  # [rows, 1]

    def start(self) -> Tensor:
        """Compute the common prefix once, then the rest of each prompt after it, rows of like length together."""
        shared = common_prefix(self._prompts) if len(self._prompts) > 1 else 0
        if shared < SHORTEST_PREFIX:
            shared = 0
        prefix = self._computed_prefix(self._prompts[0][:shared])
        rests = [prompt[shared:] for prompt in self._prompts]
        parts, logits = [], []
        for part in like_lengths(rests):
            cache = prefix.expanded(len(part)) if shared else GrowingCache()
            logits.append(self._computed_rests(part, shared, cache))
            parts.append(cache)
        self._cache = GrowingCache.joined(parts, shared)
        lengths = torch.tensor([[len(rest)] for rest in rests], device=self._model.device)
        self._mask = _left_padded_mask(lengths, shared)
        self._next_position = shared + lengths
        return torch.cat(logits)

    def step(self, tokens: Tensor) -> Tensor:
        """Append one token to each row."""
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens), 1)], dim=1)
        positions, self._next_position = self._next_position, self._next_position + 1
        return self._forward(tokens[:, None], self._mask, positions, self._cache)

    def close_up(self, moves: Moves) -> None:
        """Let the finished rows go."""
        self._mask = close_up(self._mask, moves)
        self._next_position = close_up(self._next_position, moves)
        self._cache.close_up(moves)

    def _computed_prefix(self, prefix: list[int]) -> GrowingCache:
        cache = GrowingCache()
        if prefix:
            ids = torch.tensor([prefix], device=self._model.device)
            self._forward(ids, torch.ones_like(ids), torch.arange(len(prefix), device=ids.device)[None], cache)
        return cache

    def _computed_rests(self, rests: Sequence[list[int]], shared: int, cache: GrowingCache) -> Tensor:
        width, device = max(map(len, rests)), self._model.device
        ids = torch.tensor([[self._pad_id] * (width - len(rest)) + rest for rest in rests], device=device)
        mask = _left_padded_mask(torch.tensor([[len(rest)] for rest in rests], device=device), shared)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, shared:]
        return self._forward(ids, mask, positions, cache)

    def _forward(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: GrowingCache) -> Tensor:
        options: dict[str, Any] = {"position_ids": positions} if self._takes_positions else {}
        output = self._model(
            input_ids=ids,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
            **options,
            **self._options,
        )
        logits: Tensor = output.logits[:, -1]
        return logits


def like_lengths(sequences: Sequence[list[int]]) -> list[Sequence[list[int]]]:
    """Cut a list of sequences, sorted by length or not, into runs that waste little on padding."""
    runs, first = [], 0
    for index, sequence in enumerate(sequences):
        width = len(sequences[first])
        too_many = (index + 1 - first) * width > PREFILL_TOKENS
        if index > first and (too_many or not LEAST_FILL * width <= len(sequence) <= width):
            runs.append(sequences[first:index])
            first = index
    runs.append(sequences[first:])
    return runs


def _left_padded_mask(lengths: Tensor, shared: int) -> Tensor:
    """Return ``[rows, shared + longest]``: ones for the prefix and for the last `lengths` ``[rows, 1]`` columns."""
    width = int(lengths.max())
    real = (torch.arange(width, device=lengths.device) >= width - lengths).long()
    return torch.cat([real.new_ones(len(lengths), shared), real], dim=1)


class _RecurrentRows:
    """Rows of one length over the model's own cache, which is selected by row."""

    def __init__(self, model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> None:
        assert len({len(prompt) for prompt in prompts}) == 1
        self._model = model
        self._prompts = prompts
        self._cache = DynamicCache(config=model.config)
        names = forward_arguments(model)
        self._options = _last_logits_only(model)
        self._cache_name = "past_key_values" if "past_key_values" in names else "cache_params"
        if self._cache_name not in names:
            raise ModelError(
                f"{type(model).__name__} takes no cache, so it cannot generate here. "
                "Serve it with a program that can, or use another model."
            )

    def start(self) -> Tensor:
        """Compute the prompts."""
        return self._forward(torch.tensor([list(prompt) for prompt in self._prompts], device=self._model.device))

    def step(self, tokens: Tensor) -> Tensor:
        """Append one token to each row."""
        return self._forward(tokens[:, None])

    def close_up(self, moves: Moves) -> None:
        """Let the finished rows go: the same order that `close_up` gives every other tensor."""
        rows = torch.arange(moves.rows)
        rows[moves.target] = moves.source
        order = cast(torch.LongTensor, rows.to(self._model.device))
        for layer in self._cache.layers:
            layer.reorder_cache(order)

    def _forward(self, ids: Tensor) -> Tensor:
        output = self._model(input_ids=ids, use_cache=True, **{self._cache_name: self._cache}, **self._options)
        logits: Tensor = output.logits[:, -1]
        return logits


def _last_logits_only(model: PreTrainedModel) -> dict[str, int]:
    return {"logits_to_keep": 1} if "logits_to_keep" in forward_arguments(model) else {}
