"""Which pairs go on to training: one file per selector, each returns what it kept and what it dropped, with reasons."""

from windvane.selection.margins import PairLogprobs, implicit_reward_margin

__all__ = ["PairLogprobs", "implicit_reward_margin"]
