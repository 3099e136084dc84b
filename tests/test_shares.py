"""Shares become counts by one rule: half up, of the number as it was written."""

from decimal import ROUND_HALF_UP, Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windvane.shares import share_of


@pytest.mark.parametrize(
    ("share", "count", "expected"),
    [
        (0.25, 10, 3),  # 2.5: half to even would give 2
        (0.25, 6, 2),  # 1.5
        (0.25, 2, 1),  # 0.5: half to even would give 0
        (0.5, 5, 3),
        (0.7, 35, 25),  # 24.5, but 24.499999999999996 as a product of floats
        (0.145, 100, 15),  # 14.5, but 14.499999999999998
        (0.1, 30, 3),  # 3, but 3.0000000000000004
        (0.24, 10, 2),
        (1, 7, 7),
        (1.0, 7, 7),
        (0.0, 7, 0),
        (1e-9, 7, 0),
    ],
)
def test_a_half_is_rounded_up(share: float, count: int, expected: int) -> None:
    assert share_of(share, count) == expected


@given(st.integers(0, 1000), st.integers(0, 5000))
def test_it_is_what_decimal_arithmetic_says(thousandths: int, count: int) -> None:
    exact = Decimal(thousandths) / 1000 * count
    assert share_of(thousandths / 1000, count) == int(exact.quantize(Decimal(1), rounding=ROUND_HALF_UP))
