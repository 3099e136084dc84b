"""Which pairs go together: optimizer steps by seed, micro-batches by length."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from torch.utils.data import Sampler

from windvane.seeds import derive_seed


class Slot(NamedTuple):
    """One pair's place in a micro-batch."""

    pair: int
    """Number of the example."""
    weight: float
    """1, or 0 for a pair that fills a process's otherwise empty micro-batch."""


class BatchPlan(NamedTuple):
    """How pairs are dealt out. ``accumulation · micro_batch · processes`` pairs make an optimizer step."""

    micro_batch: int
    accumulation: int
    processes: int
    seed: int

    @property
    def pairs_per_step(self) -> int:
        """Pairs in a full optimizer step."""
        return self.micro_batch * self.accumulation * self.processes

    def micro_batches(self, pairs: int) -> int:
        """Micro-batches of one process in one epoch over `pairs` pairs."""
        full, rest = divmod(pairs, self.pairs_per_step)
        return full * self.accumulation + -(-rest // (self.micro_batch * self.processes))


def deal(lengths: Sequence[int], plan: BatchPlan, *, epoch: int, process: int) -> list[list[Slot]]:
    """Return the micro-batches of one process in one epoch.

    Which pairs make up an optimizer step depends on the seed and the epoch alone: not on micro-batches or processes. In
    a step the pairs are sorted by length, so that those in one forward pass need little padding. The last step takes
    what is left. Every process gets the same count of micro-batches.
    """
    order = list(range(len(lengths)))
    random.Random(derive_seed(plan.seed, "pair-order", epoch)).shuffle(order)
    batches: list[list[Slot]] = []
    for start in range(0, len(order), plan.pairs_per_step):
        step = sorted(order[start : start + plan.pairs_per_step], key=lambda index: (-lengths[index], index))
        rounds = -(-len(step) // (plan.micro_batch * plan.processes))
        shares = _even_shares(step, rounds * plan.processes)
        for turn in range(rounds):
            share = shares[turn * plan.processes + process]
            batches.append([Slot(index, 1.0) for index in share] or [Slot(step[-1], 0.0)])
    return batches


def _even_shares(step: Sequence[int], count: int) -> list[Sequence[int]]:
    """Cut a step into `count` consecutive shares whose sizes differ by at most one."""
    size, larger = divmod(len(step), count)
    shares, start = [], 0
    for number in range(count):
        end = start + size + (number < larger)
        shares.append(step[start:end])
        start = end
    return shares


class PairBatches(Sampler[list[Slot]]):
    """The batch sampler of a training run: deals anew in each epoch."""

    def __init__(self, lengths: Sequence[int], plan: BatchPlan, *, process: int, epoch: Callable[[], int]) -> None:
        self._lengths = lengths
        self._plan = plan
        self._process = process
        self._epoch = epoch

    def __len__(self) -> int:
        return self._plan.micro_batches(len(self._lengths))

    def __iter__(self) -> Iterator[list[Slot]]:
        yield from deal(self._lengths, self._plan, epoch=self._epoch(), process=self._process)
