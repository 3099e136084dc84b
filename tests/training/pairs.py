"""Random pairs of unequal lengths, and a loaded tiny model, for the tests of training."""

import random

from tests import tiny
from windvane.engines.chat import ChatFormat
from windvane.engines.models import LoadedModel
from windvane.training import EncodedPair, TrainingExample

END = 2
ALL_VIEWS = ("plain", "good", "bad")


def tokens(rng, low, high):
    return tuple(rng.randrange(5, 261) for _ in range(rng.randrange(low, high)))


def examples(count, *, views=("plain",), seed=0):
    rng = random.Random(seed)
    made = []
    for number in range(count):
        prompt, good, bad, original = tokens(rng, 3, 12), *((*tokens(rng, 1, 12), END) for _ in range(3))
        every = {
            "plain": EncodedPair(prompt, good, bad),
            "good": EncodedPair((*tokens(rng, 2, 5), *prompt), good, bad),
            "bad": EncodedPair((*tokens(rng, 2, 5), *prompt), original, good),
        }
        made.append(TrainingExample(f"pair-{number}", {view: every[view] for view in views}))
    return made


def loaded(family="llama", **changes):
    tokenizer = tiny.tokenizer()
    return LoadedModel(tiny.model(family, **changes), tokenizer, ChatFormat(tokenizer), "tiny")
