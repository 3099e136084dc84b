"""A key-value cache that grows in place and lets finished rows go at the price of moving one row each."""

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

_ROOM = 128
"""Positions allocated ahead: each reallocation copies the cache once, so one copy for every `_ROOM` tokens."""


class Moves(NamedTuple):
    """How a batch closes up over its finished rows: the last rows move into the gaps, the others stay in place."""

    rows: int
    """Rows that remain."""
    source: Tensor
    target: Tensor


def closing_moves(keep: Sequence[bool]) -> Moves:
    """Return the fewest moves after which the kept rows are the first ones."""
    rows = sum(keep)
    gaps = [row for row in range(rows) if not keep[row]]
    late = [row for row in range(rows, len(keep)) if keep[row]]
    return Moves(rows, torch.tensor(late, dtype=torch.long), torch.tensor(gaps, dtype=torch.long))


def close_up(tensor: Tensor, moves: Moves) -> Tensor:
    """Return the kept rows of a tensor, moved in place; its first dimension is the batch."""
    if moves.source.numel():
        tensor[moves.target.to(tensor.device)] = tensor[moves.source.to(tensor.device)]
    return tensor[: moves.rows]


class GrowingLayer(DynamicLayer):  # type: ignore[no-untyped-call]  # __init_subclass__ is untyped
    """Keys and values of one layer, ``[rows, heads, room, dim]``, of which the first `length` positions are in use.

    Serves sliding-window layers too: it keeps every position, and the model's mask hides those outside the window.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)  # type: ignore[no-untyped-call]
        self.length = 0
        self._room: tuple[Tensor, Tensor] | None = None

    @property
    def rows(self) -> int:
        """Rows in the batch."""
        return self._states()[0].shape[0]

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Append new positions and return all keys and values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self.length + key_states.shape[-2]
        room = self._with_room(key_states, value_states, end)
        for store, new in zip(room, (key_states, value_states), strict=True):
            store[:, :, self.length : end] = new
        self.length = end
        self.keys, self.values = (store[:, :, :end] for store in room)
        return self.keys, self.values

    def expanded(self, rows: int) -> "GrowingLayer":
        """Return a layer of many rows that continue this one, the single row of a common prefix."""
        assert self._room is not None
        keys, values = (store[:, :, : self.length].expand(rows, -1, -1, -1) for store in self._room)
        many = GrowingLayer()
        many.update(keys, values)
        return many

    @staticmethod
    def joined(parts: Sequence["GrowingLayer"], prefix: int) -> "GrowingLayer":
        """Return the rows of all parts as one layer: the first `prefix` positions in front, the rest left-padded.

        The padding is zeros, not leftover memory: a mask hides a number, but not NaN.
        """
        length = max(part.length for part in parts)
        rows = sum(part.rows for part in parts)
        whole, first = GrowingLayer(), 0
        whole.lazy_initialization(*parts[0]._states())
        stores = [part.new_zeros((rows, part.shape[1], length + _ROOM, part.shape[3])) for part in parts[0]._states()]
        for part in parts:
            last = first + part.rows
            for store, states in zip(stores, part._states(), strict=True):
                store[first:last, :, :prefix] = states[:, :, :prefix]
                store[first:last, :, length - part.length + prefix : length] = states[:, :, prefix:]
            first = last
        whole.length, whole._room = length, (stores[0], stores[1])
        whole.keys, whole.values = (store[:, :, :length] for store in stores)
        return whole

    def close_up(self, moves: Moves) -> None:
        """Let the finished rows go."""
        assert self._room is not None
        for store in self._room:
            close_up(store[:, :, : self.length], moves)
        self._room = (self._room[0][: moves.rows], self._room[1][: moves.rows])
        self.keys, self.values = (store[:, :, : self.length] for store in self._room)

    def _states(self) -> tuple[Tensor, Tensor]:
        assert self.keys is not None
        assert self.values is not None
        return self.keys, self.values

    def _with_room(self, keys: Tensor, values: Tensor, end: int) -> tuple[Tensor, Tensor]:
        if self._room is None:
            shapes = [(*new.shape[:2], end + _ROOM, new.shape[-1]) for new in (keys, values)]
            self._room = (keys.new_empty(shapes[0]), values.new_empty(shapes[1]))
        elif end > self._room[0].shape[-2]:
            self._reallocate(end + _ROOM)
        return self._room

    def _reallocate(self, room: int) -> None:
        assert self._room is not None
        grown = [store.new_empty((*store.shape[:2], room, store.shape[-1])) for store in self._room]
        for new, old in zip(grown, self._room, strict=True):
            new[:, :, : self.length] = old[:, :, : self.length]
        self._room = (grown[0], grown[1])
        self.keys, self.values = (store[:, :, : self.length] for store in self._room)


class GrowingCache(Cache):
    """One `GrowingLayer` for each layer of the model, made when the layer is first computed."""

    def __init__(self) -> None:
        super().__init__(layer_class_to_replicate=GrowingLayer)

    def expanded(self, rows: int) -> "GrowingCache":
        """Return a cache of many rows that continue the single row of this one."""
        return _cache_of([layer.expanded(rows) for layer in self.growing_layers()])

    @staticmethod
    def joined(parts: Sequence["GrowingCache"], prefix: int) -> "GrowingCache":
        """Return the rows of all parts as one left-padded cache; see `GrowingLayer.joined`."""
        if len(parts) == 1:
            return parts[0]
        layers = zip(*(part.growing_layers() for part in parts), strict=True)
        return _cache_of([GrowingLayer.joined(layer, prefix) for layer in layers])

    def close_up(self, moves: Moves) -> None:
        """Let the finished rows go in every layer."""
        for layer in self.growing_layers():
            layer.close_up(moves)

    def growing_layers(self) -> list[GrowingLayer]:
        """Return all layers."""
        return cast(list[GrowingLayer], self.layers)


def _cache_of(layers: Sequence[GrowingLayer]) -> GrowingCache:
    cache = GrowingCache()
    cache.layers.extend(layers)
    return cache


def is_attention_only(model: PreTrainedModel) -> bool:
    """Whether all that the model remembers are keys and values by position, so that a `GrowingCache` serves it."""
    if getattr(model, "_is_stateful", False):
        return False
    kinds = {type(layer) for layer in DynamicCache(config=model.config).layers}
    return bool(kinds) and kinds <= {DynamicLayer, DynamicSlidingWindowLayer}
