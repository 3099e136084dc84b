"""What can be measured of a text without a model: pure functions, text in, number out.

Words are runs without whitespace where length is counted (as in `Completion.words`), and runs of letters and digits,
lower-cased, where wording is compared.
"""

import functools
import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

_WORD = re.compile(r"\w+(?:['’]\w+)*")
_SENTENCE_END = re.compile(r"(?<=[.!?:])[\"'”’)*_]*\s+|\n+")
_FENCE = re.compile(r"^\s*(```|~~~)")
_LIST_LINE = re.compile(
    r"""^[\s>]*                                        # indented, or quoted
    (?: [-*+•‣◦▪▫●○■□·∙➤→✓✔–—]                         # a bullet or a dash
      | [*_]{0,2}\(?\d{1,3}[*_]{0,2}[.):]\)?[*_]{0,2}  # 1.  2)  (3)  4:  **5.**  **6**.
      | \(?[A-Za-z][.)]                                # a)  (b)  C.
      | \(?[ivx]{1,5}[.)]                              # i.  (iv)
      | \d\ufe0f?\u20e3                                # the keycap emoji
      | [*_]{0,2}step\s+\d{1,3}[*_]{0,2}[:.)]?[*_]{0,2}  # Step 1:
    )
    \s+ (?=.*\w)                                       # a space, then content: no rule (---), no -5, no 3.5 km
    """,
    re.VERBOSE | re.IGNORECASE,
)
_INTERJECTION = re.compile(
    r"""^(?:sure|certainly|absolutely|of\ course|definitely|gladly|okay|ok|alright|hello|hi|hey|thank\ you|thanks)\b
    (?:\ thing|\ there)? (?:[!.:]*$|,\s*)""",
    re.VERBOSE | re.IGNORECASE,
)
_OPENINGS = re.compile(
    r"""^(?:
      (?:thank\ you|thanks)\ for\b
    | (?:(?:that|this)(?:['’]s|\ is)\ an?\ |what\ an?\ )?
      (?:great|good|excellent|interesting|fantastic|wonderful)\ (?:question|topic|idea|choice)\b
    | i(?:['’]d|['’]ll|['’]m|\ would|\ will|\ am|\ can)\ (?:be\ )?
      (?:happy|glad|delighted|pleased|help|assist|do\ my\ best|here\ to)\b
    | as\ an?\ (?:ai|artificial|large\ language|language\ model|assistant|helpful)\b
    | (?:here|below)(?:['’]s|\ is|\ are|\ you\ go)\b[^.!?\n]*[:!]$
    | (?:let['’]s|let\ me|allow\ me\ to|i\ will\ now|to\ answer\ your\ question)\b
    | (?:you\ asked|your\ question|i\ understand\ (?:that\ )?you)\b
    )""",
    re.VERBOSE | re.IGNORECASE,
)
_CLOSINGS = re.compile(
    r"""^(?:
      i\ (?:really\ )?hope\ (?:this|that|these|it)\b
    | (?:please\ )?(?:let\ me\ know|feel\ free|do\ not\ hesitate|don['’]t\ hesitate)\b
    | if\ you\ (?:have|need|would\ like|want|['’]d\ like)\b[^.!?\n]*
      \b(?:questions?|help|assistance|more|else|details)\b
    | is\ there\ anything\ else\b
    | would\ you\ like\ (?:me\ to|more|to\ know)\b
    | (?:good\ luck|happy\ \w+ing|enjoy)\b[^.?\n]{0,40}[!.]?$
    )""",
    re.VERBOSE | re.IGNORECASE,
)
_REFUSALS = re.compile(
    r"""\b(?:
      i(?:['’]m|\ am)?\ (?:very\ |truly\ |so\ )?(?:sorry|afraid)\b[^.!?\n]{0,40}
      \b(?:can(?:['’]t|not)|unable|not\ able|won['’]t)\b
    | i\ (?:can(?:['’]t|not|\ not)|could\ not|couldn['’]t|won['’]t|will\ not)\ (?:\w+\ ){0,2}?
      (?:help|assist|provide|answer|fulfill?|comply|support|share|give|offer|do\ that|create|write|generate|engage
        |discuss|participate)\b
    | i(?:['’]m|\ am)\ (?:not\ able|unable|not\ allowed|not\ permitted|not\ comfortable|not\ going)\ to\b
    | i\ (?:must|have\ to|need\ to)\ (?:respectfully\ |politely\ )?(?:decline|refuse)\b
    | as\ an?\ (?:ai|artificial|language)\b[^.!?\n]{0,60}\b(?:can(?:['’]t|not)|unable|not\ able|don['’]t|do\ not)\b
    )""",
    re.VERBOSE | re.IGNORECASE,
)
_REFUSAL_WINDOW = 200
"""Characters from the start in which a refusal shows; a "can't" further down belongs to the subject."""


def is_empty(text: str) -> bool:
    """Return whether a text says nothing: no letter, no digit and no symbol (an emoji or "=" can be an answer)."""
    return not any(
        (category := unicodedata.category(character))[0] in "LN" or category in ("So", "Sm", "Sc") for character in text
    )


def words(text: str) -> list[str]:
    """Return the words of a text as they are compared: letters and digits, lower-cased, punctuation left out."""
    return _WORD.findall(text.lower())


def list_lines(text: str) -> tuple[int, int]:
    """Return how many lines are list items, and how many are not blank; fenced code counts as neither."""
    items = lines = 0
    fenced = False
    for line in text.splitlines():
        if _FENCE.match(line):
            fenced = not fenced
        elif not fenced and line.strip():
            lines += 1
            items += _LIST_LINE.match(line) is not None
    return items, lines


def list_share(text: str, *, min_items: int = 2) -> float:
    """Return the share, 0 to 1, of non-blank lines that are list items; 0 with fewer than `min_items` of them."""
    items, lines = list_lines(text)
    return items / lines if items >= min_items else 0.0


def is_list(text: str, *, min_items: int = 2) -> bool:
    """Return whether a text holds a list of at least `min_items` items."""
    return list_lines(text)[0] >= min_items


def sentences(text: str) -> list[str]:
    """Return the sentences of a text, cut at `.`, `!`, `?`, `:` and line ends: rough, but it needs no language data."""
    return [sentence.strip() for sentence in _SENTENCE_END.split(text) if sentence and sentence.strip()]


def filler_words(text: str) -> int:
    """Return how many words stand before and after the answer proper (English).

    Pleasantries, announcements and offers of help: whole sentences at both ends count, up to the first that is none of
    these, and the "Sure," that begins an answer. A text that is nothing else counts in full.
    """
    rest = sentences(text)
    count = 0
    while rest:
        if interjection := _INTERJECTION.match(rest[0]):
            count += len(interjection.group().split())
            rest[0] = rest[0][interjection.end() :]
        elif not rest[0]:
            rest.pop(0)
        elif _OPENINGS.match(rest[0]):
            count += len(rest.pop(0).split())
        else:
            break
    while rest and _CLOSINGS.match(rest[-1]):
        count += len(rest.pop().split())
    return count


def is_refusal(text: str) -> bool:
    """Return whether a text declines to answer (English), judged by its first 200 characters."""
    return _REFUSALS.search(text[:_REFUSAL_WINDOW]) is not None


def syllables(word: str) -> int:
    """Return an estimate of the syllables of an English word: vowel groups, a silent final e left out, at least one."""
    groups = len(re.findall(r"[aeiouy]+", word))
    silent = (word.endswith("e") and not word.endswith(("le", "ee"))) or (word.endswith(("es", "ed")) and len(word) > 4)
    return max(1, groups - (1 if silent and groups > 1 else 0))


def reading_ease(text: str) -> float:
    """Return Flesch's reading ease, ``206.835 - 1.015 words/sentence - 84.6 syllables/word`` (English).

    About 0 (hard) to 100 (easy), at most 121.22; syllables are those of `syllables`. A text without words is an error.
    """
    tokens = words(text)
    if not tokens:
        raise ValueError("reading ease needs at least one word")
    count = sum(1 for sentence in sentences(text) if words(sentence))
    return 206.835 - 1.015 * len(tokens) / count - 84.6 * sum(map(syllables, tokens)) / len(tokens)


def ngrams(tokens: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """Return the n-grams of a token sequence in order; none where it is shorter than n."""
    return [tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1)]


def repeated_share(text: str, *, n: int = 4) -> float:
    """Return the share, 0 to 1, of word n-grams that occurred earlier in the same text; 0 where it has no n-gram."""
    grams = ngrams(words(text), n)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def bigram_counts(texts: Iterable[str]) -> Counter[tuple[str, ...]]:
    """Return how often each word bigram occurs in a set of texts; none spans two texts."""
    return Counter(gram for text in texts for gram in ngrams(words(text), 2))


def parse_json(text: str) -> object | None:
    """Return the JSON value that a text is, one code fence around it allowed; None where it is none (or is null)."""
    fenced = re.fullmatch(r"\s*```(?:json)?\s*\n(.*?)\n?\s*```\s*", text, re.DOTALL | re.IGNORECASE)
    try:
        value: object = json.loads(fenced.group(1) if fenced else text)
    except (ValueError, RecursionError):
        return None
    return value


def languages(text: str) -> Mapping[str, float]:
    """Return how probable each language is for a text, by its code ("en", "de", "zh", ...); they sum to 1.

    A text without letters to go by (only digits, say) is equally probable in all. One of a few words is spread over
    several languages, so compare probabilities rather than trust the highest.
    """
    identifier = _identifier()
    scores = identifier.rank(text)
    scale = math.sqrt(len(text.encode("utf-8", "replace")) or 1)  # keeps probabilities calibrated across lengths
    weights = {code: math.exp((score - scores[0][1]) / scale) for code, score in scores}
    total = sum(weights.values())
    return {code: weight / total for code, weight in weights.items()}


@functools.cache
def _identifier() -> "LanguageIdentifier":
    """Return the language model that comes with py3langid: a naive Bayes over byte n-grams, 0.2 s to load."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE)
