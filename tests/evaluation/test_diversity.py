import itertools
import random
from collections import Counter

import pytest

from windvane.evaluation.diversity import distinct2
from windvane.judging.measures import bigram_counts


def test_the_whole_corpus_gives_plain_distinct_2() -> None:
    counts = bigram_counts(["the cat sat on the mat", "the cat ran"])
    assert distinct2(counts, counts.total()) == pytest.approx(6 / 7)
    assert distinct2(counts, 1) == pytest.approx(1.0)


def test_rarefaction_is_the_mean_over_all_draws() -> None:
    tokens = [("a", "b")] * 3 + [("b", "c")] * 2 + [("c", "d")]
    for drawn in range(1, 7):
        draws = list(itertools.combinations(tokens, drawn))
        expected = sum(len(set(draw)) / drawn for draw in draws) / len(draws)
        assert distinct2(Counter(tokens), drawn) == pytest.approx(expected)


def test_length_alone_changes_nothing() -> None:
    """Longer answers from the same source look poorer by plain distinct-2, and the same here."""
    source = random.Random(0)
    vocabulary = [str(index) for index in range(60)]

    def corpus(words: int) -> Counter[tuple[str, ...]]:
        return bigram_counts(" ".join(source.choices(vocabulary, k=words)) for _ in range(64))

    long, short = corpus(60), corpus(15)
    drawn = min(long.total(), short.total())
    assert distinct2(long, long.total()) < 0.85 * distinct2(short, short.total())
    assert distinct2(long, drawn) == pytest.approx(distinct2(short, drawn), rel=0.03)


def test_the_same_answer_to_everything_shows() -> None:
    varied = bigram_counts(f"answer number {index} differs" for index in range(20))
    collapsed = bigram_counts("it depends on you" for _ in range(20))
    drawn = min(varied.total(), collapsed.total())
    assert distinct2(collapsed, drawn) < 0.2 * distinct2(varied, drawn)


@pytest.mark.parametrize("drawn", [0, 4])
def test_no_more_can_be_drawn_than_there_is(drawn: int) -> None:
    with pytest.raises(ValueError, match="cannot draw"):
        distinct2(bigram_counts(["a b c d"]), drawn)
