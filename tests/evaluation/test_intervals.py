import random

import pytest

from windvane.evaluation.intervals import bootstrap_interval, wilson_interval, win_rate


def test_wilson_against_published_values() -> None:
    # Newcombe, Statistics in Medicine 17 (1998), table I, score method without continuity correction
    for wins, n, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        assert wilson_interval(wins / n, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_is_symmetric_and_keeps_a_width_at_the_ends() -> None:
    low, high = wilson_interval(1.0, 64)
    assert high == 1.0
    assert low == pytest.approx(0.9434, abs=1e-4)
    assert wilson_interval(0.0, 64) == pytest.approx((1 - high, 1 - low))


def test_wilson_covers() -> None:
    source = random.Random(3)
    covered = 0
    for _ in range(1000):
        share = sum(source.random() < 0.85 for _ in range(64)) / 64
        low, high = wilson_interval(share, 64)
        covered += low <= 0.85 <= high
    assert covered >= 930


@pytest.mark.parametrize(("share", "n"), [(0.5, 0), (1.1, 4), (-0.1, 4)])
def test_wilson_refuses_what_is_no_share(share: float, n: int) -> None:
    with pytest.raises(ValueError, match="an interval needs"):
        wilson_interval(share, n)


def test_win_rate_counts_ties_as_halves_and_leaves_out_the_unscored() -> None:
    result = win_rate([1.0, 1.0, 0.5, 0.0, None])
    assert (result.n, result.wins, result.ties, result.losses, result.unscored) == (4, 2, 1, 1, 1)
    assert result.rate == 0.625
    assert result.interval == wilson_interval(0.625, 4)


def test_swapped_verdicts_mirror_the_win_rate() -> None:
    verdicts = [1.0, 1.0, 0.5, 0.0, 1.0]
    forward, backward = win_rate(verdicts), win_rate([1 - verdict for verdict in verdicts])
    assert forward.rate is not None
    assert forward.interval is not None
    assert backward.rate == pytest.approx(1 - forward.rate)
    assert backward.interval == pytest.approx((1 - forward.interval[1], 1 - forward.interval[0]))


def test_no_verdict_is_no_rate() -> None:
    assert win_rate([None, None]) == (0, None, None, 0, 0, 0, 2)
    assert win_rate([]).rate is None
    with pytest.raises(ValueError, match="a verdict is"):
        win_rate([0.7])


def test_bootstrap_is_seeded_and_covers_the_mean() -> None:
    values = [float(value) for value in range(50)]
    interval = bootstrap_interval(values, seed=1)
    assert interval == bootstrap_interval(values, seed=1)
    assert interval != bootstrap_interval(values, seed=2)
    assert interval is not None
    # the normal approximation: 24.5 +- 1.96 * 14.43 / sqrt(50)
    assert interval == pytest.approx((20.5, 28.5), abs=0.5)


def test_bootstrap_of_few_or_equal_values() -> None:
    assert bootstrap_interval([], seed=0) is None
    assert bootstrap_interval([1.0], seed=0) is None
    assert bootstrap_interval([2.0, 2.0, 2.0], seed=0) == (2.0, 2.0)
