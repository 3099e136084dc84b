"""How alike two texts are, by the n-grams that they share; quick enough for many thousands of them."""

import re
import unicodedata
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from datasketch import MinHash

NGRAM = 5
"""Characters. Requests are short: in one of seven words, a single changed word breaks three of five word trigrams."""
PERMUTATIONS = 128
SLACK = 0.15
"""The sketch looks this far below the threshold, so that it misses next to nothing; the exact value decides."""


class Match(NamedTuple):
    """The most similar text that is known."""

    similarity: float
    """Shared n-grams over all n-grams of both texts (Jaccard), 0 to 1."""
    text: str


class NearDuplicates:
    """Known texts, asked for the one that another text is most like.

    MinHash with locality-sensitive hashing (datasketch) proposes candidates, their exact overlap decides; the same
    texts in the same order give the same answers on any machine.
    """

    def __init__(self, threshold: float) -> None:
        from datasketch import MinHashLSH

        self.threshold = threshold
        self._index = MinHashLSH(threshold=max(0.05, threshold - SLACK), num_perm=PERMUTATIONS)
        self._texts: list[str] = []
        self._grams: list[frozenset[str]] = []

    def add(self, text: str) -> None:
        """Make a text known."""
        grams = ngrams(text)
        self._index.insert(len(self._texts), _sketch(grams))
        self._texts.append(text)
        self._grams.append(grams)

    def closest(self, text: str) -> Match | None:
        """Return the known text most like `text`, the first of equals; None where none reaches the threshold."""
        grams = ngrams(text)
        best: Match | None = None
        for index in sorted(self._index.query(_sketch(grams))):
            similarity = overlap(grams, self._grams[index])
            if similarity >= self.threshold and (best is None or similarity > best.similarity):
                best = Match(similarity, self._texts[index])
        return best


def ngrams(text: str) -> frozenset[str]:
    """Return the character n-grams of a text's words, whatever their case, spacing and punctuation."""
    words = " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold()))
    return frozenset(words[start : start + NGRAM] for start in range(max(1, len(words) - NGRAM + 1)))


def overlap(one: frozenset[str], other: frozenset[str]) -> float:
    """Return the Jaccard similarity of two sets, 0 to 1."""
    return len(one & other) / len(one | other)


def _sketch(grams: frozenset[str]) -> "MinHash":
    from datasketch import MinHash

    sketch = MinHash(num_perm=PERMUTATIONS, seed=1)
    sketch.update_batch([gram.encode() for gram in sorted(grams)])
    return sketch
