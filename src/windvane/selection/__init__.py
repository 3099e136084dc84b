"""Which pairs go on to training: one file per selector, each returns what it kept and what it dropped, with reasons."""

from windvane.selection.margins import PairLogprobs, implicit_reward_margin
from windvane.selection.result import Selection, SelectionSummary
from windvane.selection.steering import SteeringFilterSettings, gap_chosen, gap_rejected, steering_filter

__all__ = [
    "PairLogprobs",
    "Selection",
    "SelectionSummary",
    "SteeringFilterSettings",
    "gap_chosen",
    "gap_rejected",
    "implicit_reward_margin",
    "steering_filter",
]
