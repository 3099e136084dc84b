"""A share of so many things, as a whole number: one rule for the whole library."""

import math
from fractions import Fraction


def share_of(share: float, count: int) -> int:
    """Return ``share · count``, rounded half up; the share counts as the decimal number that its user wrote.

    So 0.7 of 35 is 24.5 and gives 25, where the product of the floats is a little below.
    """
    return math.floor(Fraction(repr(share)) * count + Fraction(1, 2))
