"""Signal statistics against numbers worked out by hand."""

import math

import pytest

from tests.selection.samples import completion, scored, steered
from windvane.evaluation.signal import SignalStatistics, signal_statistics
from windvane.judging.rules import Shorter

SHORT, LONG = completion("one two"), completion("one two three four", finish="length")


def pairs() -> list:
    return [
        scored("right", (-1.0, math.log(0.5), -2.0, -1.0, math.log(0.2), -3.0), chosen=SHORT, rejected=LONG),
        scored("wrong", (-1.0, math.log(0.1), -4.0, -1.0, math.log(0.4), -2.0), chosen=LONG, rejected=SHORT),
        scored("tie", (-1.0, math.log(0.3), -1.0, -1.0, math.log(0.3), -1.0), chosen=SHORT, rejected=SHORT),
        steered("silent", chosen=-1.0, rejected=-1.0),
    ]


def test_numbers_by_hand() -> None:
    made = pairs()[:3]
    signal = signal_statistics(made, {"right", "tie"}, Shorter())
    assert (signal.n, signal.n_kept, signal.judged, signal.judged_kept) == (3, 2, 3, 2)
    assert signal.pair_accuracy == pytest.approx((1 + 0 + 0.5) / 3)
    assert signal.pair_accuracy_kept == pytest.approx(0.75)
    assert signal.onpolicy_prob_chosen == pytest.approx((0.5 + 0.1 + 0.3) / 3)
    assert signal.onpolicy_prob_rejected == pytest.approx(0.3)
    assert signal.onpolicy_prob_chosen_kept == pytest.approx(0.4)
    assert signal.gap_chosen == pytest.approx((1 + 3 + 0) / 3)
    assert signal.gap_rejected == pytest.approx((2 + 1 + 0) / 3)
    assert signal.gap_rejected_kept == pytest.approx(1.0)
    assert signal.mean_words_chosen == pytest.approx(8 / 3)
    assert signal.mean_words_rejected_kept == pytest.approx(3.0)
    assert signal.cutoff_share_chosen == pytest.approx(1 / 3)
    assert signal.cutoff_share_rejected_kept == pytest.approx(0.5)
    assert signal.pair_accuracy_ci is not None
    assert signal.pair_accuracy_ci[0] < 0.5 < signal.pair_accuracy_ci[1]
    assert SignalStatistics.from_json(signal.to_json()) == signal


def test_swapping_the_labels_turns_the_accuracy_round() -> None:
    made = pairs()[:3]
    swapped = [
        pair.model_copy(
            update={"pair": pair.pair.model_copy(update={"chosen": pair.pair.rejected, "rejected": pair.pair.chosen})}
        )
        for pair in made[:2]
    ]
    one, other = (signal_statistics(group, set(), Shorter()).pair_accuracy for group in (made[:2], swapped))
    assert one is not None
    assert other == pytest.approx(1 - one)


def test_what_cannot_be_measured_is_none_and_never_zero() -> None:
    nothing_kept = signal_statistics(pairs(), set(), None)
    assert nothing_kept.n_kept == 0
    assert nothing_kept.pair_accuracy is None
    assert nothing_kept.judged == 0
    assert nothing_kept.gap_chosen_kept is None
    assert nothing_kept.gap_chosen is not None
    assert nothing_kept.distinct2_chosen is None  # too few bigrams
    nothing = signal_statistics([], set(), Shorter())
    assert nothing.n == 0
    assert nothing.onpolicy_prob_chosen is None


def test_a_comparison_without_a_verdict_is_left_out_and_counted() -> None:
    silent = scored("mute", (-1.0,) * 6, chosen=completion("..."), rejected=completion(""))
    signal = signal_statistics([*pairs()[:1], silent], {"mute"}, Shorter())
    assert (signal.n, signal.judged, signal.pair_accuracy) == (2, 1, 1.0)
    assert (signal.judged_kept, signal.pair_accuracy_kept) == (0, None)


def test_diversity_is_on_the_same_number_of_bigrams() -> None:
    varied = scored("varied", (-1.0,) * 6, chosen=completion(" ".join(f"w{index}" for index in range(600))))
    same = scored("same", (-1.0,) * 6, chosen=completion("again and " * 300))
    signal = signal_statistics([varied, same], {"varied"})
    assert signal.distinct2_chosen_kept == pytest.approx(1.0)
    assert signal.distinct2_chosen is not None
    assert signal.distinct2_chosen < 0.6


def test_a_kept_pair_that_was_never_scored_is_an_error() -> None:
    with pytest.raises(ValueError, match="'stranger'"):
        signal_statistics(pairs(), {"right", "stranger"})
