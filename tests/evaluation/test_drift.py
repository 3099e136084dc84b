"""The guard between iterations."""

import pytest

from windvane.errors import TrainingDiverged
from windvane.evaluation.drift import DriftLimits, check_drift
from windvane.evaluation.signal import SignalStatistics, signal_statistics


def signal(*, words: float | None = 40.0, gap: float | None = 0.5) -> SignalStatistics:
    plain = signal_statistics([], [])
    return plain.model_copy(update={"mean_words_original": words, "gap_chosen": gap, "gap_rejected": gap})


@pytest.mark.parametrize("words", [160.0, 10.0, 40.0, None])
def test_lengths_within_the_limit_pass(words: float | None) -> None:
    check_drift(signal(), signal(words=words), DriftLimits(length_ratio=4.0))


@pytest.mark.parametrize("words", [161.0, 9.9])
def test_a_length_beyond_the_limit_stops_the_run_in_either_direction(words: float) -> None:
    with pytest.raises(TrainingDiverged, match=rf"40.0 to {words} words.*length_ratio = 4"):
        check_drift(signal(), signal(words=words), DriftLimits(length_ratio=4.0))


def test_a_gap_beyond_the_limit_stops_the_run_and_a_smaller_one_does_not() -> None:
    check_drift(signal(gap=0.5), signal(gap=0.1), DriftLimits(gap_ratio=2.0))
    with pytest.raises(TrainingDiverged, match=r"0.50 to 1.01 nats per token.*gap_ratio = 2"):
        check_drift(signal(gap=0.5), signal(gap=1.01), DriftLimits(gap_ratio=2.0))


def test_null_turns_a_limit_off() -> None:
    check_drift(signal(), signal(words=4000.0, gap=50.0), DriftLimits(length_ratio=None, gap_ratio=None))


def test_a_quantity_without_a_ratio_is_passed_over() -> None:
    check_drift(signal(words=None, gap=-0.1), signal(words=1.0, gap=9.0), DriftLimits())
