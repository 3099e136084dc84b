"""The benchmark's tables in small, with fixed seeds; `benchmarks/prompt_search.py` has them in full."""

import asyncio
import math
import random
import statistics
from pathlib import Path

import pytest
from benchmarks.prompt_search import (
    GAIN,
    World,
    default,
    marks,
    published,
    reach,
    share,
    simulations,
    step,
)
from benchmarks.prompt_search_time import critical_path

from tests.prompt_search import trees
from tests.prompt_search.test_paper import recorded_file
from windvane.prompt_search.paper import PaperSettings
from windvane.prompt_search.replay import read_trees


def test_with_all_prompts_equal_the_proof_hardly_ever_claims_a_gain() -> None:
    outcomes = simulations(40, default, proof=True, up=0.0, down=0.0)
    assert share([one.changed for one in outcomes]) > 0.3  # the search alone is fooled often
    assert share([one.claimed for one in outcomes]) <= 0.05


def test_a_true_gain_is_proved() -> None:
    outcomes = simulations(25, default, proof=True, up=0.5, down=0.1)
    better = [one for one in outcomes if one.better]
    assert len(better) >= 20
    assert share([one.claimed for one in better]) > 0.8
    assert not any(one.claimed for one in outcomes if one.worse)


def test_the_default_finds_a_gain_with_fewer_calls_and_more_often_than_the_published_search() -> None:
    ours = simulations(50, default, up=0.25, down=0.25)
    theirs = simulations(50, published, up=0.25, down=0.25)
    assert share([one.better for one in ours]) > share([one.better for one in theirs]) + 0.05
    assert statistics.median(one.found for one in ours) < statistics.median(one.found for one in theirs)
    assert not any(one.worse for one in ours)
    assert max(one.calls for one in (*ours, *theirs)) <= 260


def test_the_simulated_noise_is_that_of_the_recorded_trees() -> None:
    # recorded: mean 4.20, variance between queries 1.02, variance of a difference 0.32, half of them 0
    rng = random.Random(4)
    rows = [reach(rng) for _ in range(2000)]
    pairs = [[statistics.fmean(marks(rng, row, 0.0)) for _ in range(2)] for row in rows]
    assert statistics.fmean(one for pair in pairs for one in pair) == pytest.approx(4.2, abs=0.1)
    assert statistics.variance(statistics.fmean(pair) for pair in pairs) == pytest.approx(1.02, abs=0.15)
    assert statistics.fmean((one - other) ** 2 for one, other in pairs) == pytest.approx(0.32, abs=0.06)
    assert share([one == other for one, other in pairs]) == pytest.approx(0.5, abs=0.1)
    gains = [statistics.fmean(marks(rng, row, step())) - statistics.fmean(marks(rng, row, 0.0)) for row in rows]
    assert statistics.fmean(gains) == pytest.approx(GAIN, abs=0.05)


def test_a_world_pays_for_what_it_is_asked() -> None:
    world = World(0, up=0.2, down=0.2)
    assert math.isinf(world.room)
    result = asyncio.run(published(world, lambda _: None))
    aspects = result.levels[-1].number
    assert world.calls == 2 * len(result.evaluations) + aspects + result.proposals


def test_the_longest_chain_of_a_tree_by_hand(tmp_path: Path) -> None:
    (tree,) = read_trees(trees.written(tmp_path / "tree.jsonl"))
    # an answer and its marks on each of 6 levels, and new prompts before 4 of them: on level 4 both were kept
    found = critical_path(tree, trees.SETTINGS)
    assert found.same
    assert found.seconds == 6 * 2 + 4
    assert found.calls == 2 * 22 + 6 + 6  # an answer and marks a node, aspects a level, new prompts 6 times


def test_every_recorded_search_takes_a_third_of_the_time() -> None:
    calls = in_vain = 0
    for tree in read_trees(recorded_file()):
        plain = critical_path(tree, PaperSettings(ahead_from=None))
        usual = critical_path(tree, PaperSettings())
        assert plain.same
        assert usual.same
        assert plain.calls / usual.seconds >= 3  # of as many calls, one after the other
        calls, in_vain = calls + plain.calls, in_vain + usual.calls - plain.calls
    assert in_vain / calls < 0.005
