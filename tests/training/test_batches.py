"""Dealing pairs out: every pair once an epoch, the same steps whatever the micro-batches and processes."""

import random

import pytest

from windvane.training.batches import BatchPlan, PairBatches, deal

LENGTHS = [random.Random(0).randrange(5, 60) for _ in range(21)]


def steps(plan, epoch=0):
    """The pairs of each optimizer step, over all processes."""
    dealt = [deal(LENGTHS, plan, epoch=epoch, process=process) for process in range(plan.processes)]
    assert len({len(batches) for batches in dealt}) == 1
    count = -(-len(dealt[0]) // plan.accumulation)
    return [
        sorted(
            slot.pair
            for batches in dealt
            for batch in batches[number * plan.accumulation : (number + 1) * plan.accumulation]
            for slot in batch
            if slot.weight
        )
        for number in range(count)
    ]


@pytest.mark.parametrize(
    ("micro", "accumulation", "processes"), [(8, 1, 1), (1, 8, 1), (2, 4, 1), (4, 1, 2), (2, 2, 2), (1, 2, 4)]
)
def test_steps_do_not_depend_on_how_they_are_cut(micro, accumulation, processes):
    plan = BatchPlan(micro, accumulation, processes, seed=5)
    dealt = steps(plan)
    assert dealt == steps(BatchPlan(8, 1, 1, seed=5))
    assert sorted(pair for step in dealt for pair in step) == list(range(21))
    assert [len(step) for step in dealt] == [8, 8, 5]
    for process in range(processes):
        batches = deal(LENGTHS, plan, epoch=0, process=process)
        assert len(batches) == plan.micro_batches(21)
        assert all(1 <= len(batch) <= micro for batch in batches)


def test_a_process_without_a_pair_in_the_last_step_gets_one_of_no_weight():
    plan = BatchPlan(1, 1, 4, seed=0)
    last = [deal(LENGTHS[:5], plan, epoch=0, process=process)[-1] for process in range(4)]
    assert [batch[0].weight for batch in last] == [1.0, 0.0, 0.0, 0.0]


def test_pairs_of_one_micro_batch_are_alike_in_length():
    for batch in deal(LENGTHS, BatchPlan(2, 4, 1, seed=1), epoch=0, process=0):
        lengths = [LENGTHS[slot.pair] for slot in batch]
        assert max(lengths) - min(lengths) <= 20


def test_epochs_and_seeds_deal_differently_and_repeatably():
    plan = BatchPlan(4, 2, 1, seed=1)
    assert steps(plan, 0) == steps(plan, 0)
    assert steps(plan, 0) != steps(plan, 1)
    assert steps(plan, 0) != steps(BatchPlan(4, 2, 1, seed=2), 0)


def test_the_sampler_knows_its_length_and_follows_the_epoch():
    epoch = 0
    sampler = PairBatches(LENGTHS, BatchPlan(4, 2, 1, seed=1), process=0, epoch=lambda: epoch)
    first = list(sampler)
    assert len(sampler) == len(first) == 6
    epoch = 1
    assert list(sampler) != first
