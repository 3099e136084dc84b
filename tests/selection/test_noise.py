"""Label noise: which labels are turned round, and the numbers that say whether a margin and a selector noticed."""

import math
import random
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st
from pydantic import ValidationError

from windvane.errors import DataError
from windvane.selection import NoiseSettings, PairMargin, flip_labels, noise_removal
from windvane.selection.noise import swapped
from windvane.types import Completion, Message, Pair


def said(text: str) -> Completion:
    return Completion(text=text, token_ids=tuple(range(len(text))), finish="stop")


def pair(name: str, chosen: str = "yes", rejected: str = "no, not at all") -> Pair:
    return Pair(
        id=name,
        prompt=(Message(role="user", content=f"Is it {name}?"),),
        chosen=said(chosen),
        rejected=said(rejected),
        original=said("perhaps"),
        source="forum",
    )


def pairs(count: int) -> list[Pair]:
    return [pair(f"p{number}") for number in range(count)]


def flipped(given: list[Pair], flip: float = 0.3, seed: int = 0) -> frozenset[str]:
    return flip_labels(given, NoiseSettings(flip=flip, seed=seed)).flipped


@pytest.mark.parametrize(
    ("flip", "given", "turned"),
    [(0.2, 10, 2), (0.1, 5, 1), (0.3, 5, 2), (0.25, 5, 1), (0.9, 1, 1)],
)
def test_the_share_is_rounded_half_up(flip: float, given: int, turned: int) -> None:
    assert len(flipped(pairs(given), flip)) == turned


def test_only_the_sides_of_the_flipped_change_places() -> None:
    given = pairs(20)
    noisy = flip_labels(given, NoiseSettings(flip=0.4))
    assert len(noisy.flipped) == 8
    for before, after in zip(given, noisy.pairs, strict=True):
        if before.id in noisy.flipped:
            assert (after.chosen, after.rejected) == (before.rejected, before.chosen)
            assert after.model_copy(update={"chosen": before.chosen, "rejected": before.rejected}) == before
        else:
            assert after == before


def test_flipping_twice_restores() -> None:
    given, settings = pairs(20), NoiseSettings(flip=0.4)
    once = flip_labels(given, settings)
    twice = flip_labels(once.pairs, settings)
    assert once.pairs != given
    assert twice.pairs == given
    assert twice.flipped == once.flipped
    assert swapped(swapped(given[0])) == given[0]


def test_neither_order_nor_text_decides_who_is_flipped() -> None:
    given = pairs(40)
    expected = flipped(given)
    assert flipped(random.Random(1).sample(given, 40)) == expected
    assert flipped([pair(each.id, "other words", "and more of them") for each in given]) == expected


def test_the_seed_decides_and_a_higher_rate_flips_the_same_and_more() -> None:
    given = pairs(40)
    assert len({flipped(given, seed=seed) for seed in range(5)}) == 5
    assert flipped(given, 0.2) < flipped(given, 0.4)


@pytest.mark.parametrize("given", [{}, {"flip": 0}, {"flip": 1}, {"flip": -0.1}, {"flip": 0.2, "seed": -1}])
def test_bad_settings_are_refused(given: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        NoiseSettings.model_validate(given)


def margins(**values: float) -> list[PairMargin]:
    return [PairMargin(id=name, margin=value, last=value) for name, value in values.items()]


EXAMPLE = margins(clean1=3, clean2=1, clean3=1, noisy1=1, noisy2=0)
NOISY = {"noisy1", "noisy2"}


def test_auc_by_hand_with_ties() -> None:
    # clean 3 beats both; each clean 1 ties with 1 and beats 0: 2 + 1.5 + 1.5 of 6 couples
    assert noise_removal(EXAMPLE, flipped=NOISY, dropped=()).auc == pytest.approx(5 / 6)


def test_its_interval_by_hand() -> None:
    found = noise_removal(EXAMPLE, flipped=NOISY, dropped=()).auc_ci
    # Half a case more than the 2 flipped: A = (5/6 · 2 + ½)/3 = 13/18. Then Hanley and McNeil, with 3 clean ones:
    # Q1 = A/(2-A) = 13/23, Q2 = 2A²/(1+A) = 169/279
    variance = (13 / 18 * 5 / 18 + 2 * (13 / 23 - 169 / 324) + (169 / 279 - 169 / 324)) / 6
    assert found == pytest.approx((13 / 18 - NormalDist().inv_cdf(0.975) * math.sqrt(variance), 1.0))


def test_a_perfect_auc_is_no_certainty() -> None:
    def low(clean: int, noisy: int) -> float:
        margins = [PairMargin(id=f"{n}", margin=n, last=n) for n in range(noisy + clean)]
        found = noise_removal(margins, flipped={str(n) for n in range(noisy)}, dropped=())
        assert found.auc == 1
        assert found.auc_ci is not None
        assert found.auc_ci[1] == 1
        return found.auc_ci[0]

    assert low(1, 1) == 0
    assert 0.6 < low(14, 4) < 0.9
    assert 0.9 < low(96, 24) < 0.97


def test_a_share_that_flips_nothing_is_refused() -> None:
    with pytest.raises(DataError, match=r"noise.flip: 0.1 of 4 pairs is none"):
        flipped(pairs(4), 0.1)


def test_the_interval_narrows_with_the_number_of_pairs() -> None:
    widths = []
    for times in (10, 40, 160):
        many = [each.model_copy(update={"id": f"{each.id}-{n}"}) for n in range(times) for each in EXAMPLE]
        noisy = {each.id for each in many if each.id.startswith("noisy")}
        result = noise_removal(many, flipped=noisy, dropped=())
        assert result.auc == pytest.approx(5 / 6)
        assert result.auc_ci is not None
        widths.append(result.auc_ci[1] - result.auc_ci[0])
    assert widths[0] / widths[1] == pytest.approx(2, rel=0.05)
    assert widths[1] / widths[2] == pytest.approx(2, rel=0.02)


VALUES = st.lists(st.integers(-4, 4).map(float), min_size=1, max_size=8)


@profile(deadline=None)
@given(clean=VALUES, noisy=VALUES)
def test_exchanging_flipped_and_clean_mirrors_the_auc(clean: list[float], noisy: list[float]) -> None:
    given = margins(**{f"c{n}": value for n, value in enumerate(clean)}, **{f"n{n}": v for n, v in enumerate(noisy)})
    names = [each.id for each in given]
    one = noise_removal(given, flipped=[name for name in names if name[0] == "n"], dropped=()).auc
    other = noise_removal(given, flipped=[name for name in names if name[0] == "c"], dropped=()).auc
    assert one is not None
    assert other == pytest.approx(1 - one)


def test_margins_that_tell_all_or_nothing_apart() -> None:
    apart = margins(a=2, b=1, c=-1, d=-2)
    assert noise_removal(apart, flipped={"c", "d"}, dropped=()).auc == 1
    assert noise_removal(apart, flipped={"a", "b"}, dropped=()).auc == 0
    assert noise_removal(margins(a=0, b=0, c=0), flipped={"c"}, dropped=()).auc == 0.5


@pytest.mark.parametrize("noisy", [set(), {each.id for each in EXAMPLE}])
def test_one_kind_alone_has_no_auc(noisy: set[str]) -> None:
    result = noise_removal(EXAMPLE, flipped=noisy, dropped=())
    assert result.auc is None
    assert result.auc_ci is None
    assert result.flipped == len(noisy)


def test_precision_and_recall_by_hand() -> None:
    result = noise_removal(margins(a=5, b=4, c=3, d=2, e=1, f=0), flipped={"b", "e", "f"}, dropped=["c", "d", "e", "f"])
    assert (result.pairs, result.flipped, result.removed) == (6, 3, 4)
    assert result.precision == 0.5  # e and f of c, d, e, f
    assert result.recall == pytest.approx(2 / 3)  # e and f of b, e, f


def test_a_share_of_nothing_is_none_and_a_miss_is_zero() -> None:
    kept_all = noise_removal(EXAMPLE, flipped=NOISY, dropped=())
    assert (kept_all.removed, kept_all.precision, kept_all.recall) == (0, None, 0.0)
    none_flipped = noise_removal(EXAMPLE, flipped=(), dropped={"clean1"})
    assert (none_flipped.flipped, none_flipped.precision, none_flipped.recall) == (0, 0.0, None)
    nothing = noise_removal([], flipped=NOISY, dropped=NOISY)
    assert (nothing.pairs, nothing.auc, nothing.precision, nothing.recall) == (0, None, None, None)


def test_ids_of_pairs_that_have_no_margin_do_not_count() -> None:
    expected = noise_removal(EXAMPLE, flipped=NOISY, dropped={"noisy2"})
    assert noise_removal(EXAMPLE, flipped=[*NOISY, "x"], dropped=["noisy2", "y"]) == expected


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_margin_that_is_no_number_stays_out_of_the_auc_alone(value: float) -> None:
    odd = margins(odd1=value, odd2=value)
    result = noise_removal([odd[0], *EXAMPLE, odd[1]], flipped={*NOISY, "odd1"}, dropped={"odd1", "odd2", "noisy2"})
    assert result.auc == pytest.approx(5 / 6)
    assert result.auc_ci == noise_removal(EXAMPLE, flipped=NOISY, dropped=()).auc_ci
    assert (result.pairs, result.flipped, result.removed) == (7, 3, 3)
    assert result.precision == pytest.approx(2 / 3)
    assert result.recall == pytest.approx(2 / 3)
    assert noise_removal([*odd, *margins(a=1)], flipped={"odd1", "odd2"}, dropped=()).auc is None


def test_the_numbers_come_back_from_their_line() -> None:
    result = noise_removal(EXAMPLE, flipped=NOISY, dropped={"noisy2"})
    assert type(result).from_json(result.to_json()) == result
