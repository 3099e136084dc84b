"""The opposite of a system prompt, in a model's words."""

from windvane.engines.chat import split_thinking
from windvane.engines.protocols import Generator
from windvane.errors import ConfigError
from windvane.principles.features import same_words
from windvane.principles.prompts import opposite_messages
from windvane.seeds import derive_seed
from windvane.types import Completion, Prompt, Sampling

OPPOSITE_SAMPLING = Sampling(max_new_tokens=256, temperature=0.7, top_p=0.8)
"""Not greedy, so that the second attempt is another one."""
_ATTEMPTS = 2


def write_opposite(prompt: str, generator: Generator, *, seed: int) -> str:
    """Return a system prompt that asks for the opposite of `prompt`, as a model writes it.

    Raises `ConfigError` where two replies cannot be used: an empty one, one that the token limit cut off, one that
    repeats the prompt.
    """
    complaint = None
    for attempt in range(_ATTEMPTS):
        asked = Prompt(opposite_messages(prompt, complaint), derive_seed(seed, "principles", "opposite", attempt))
        (reply,) = generator.generate([asked], OPPOSITE_SAMPLING)
        text = split_thinking(reply.text).answer.strip()
        complaint = _flaw(text, reply, prompt)
        if complaint is None:
            return text
    raise ConfigError(
        f"the model wrote no opposite of the prompt that can be used ({complaint}): write one yourself as "
        "principles.opposite, name another principles_model, or set principles.bad: start"
    )


def _flaw(text: str, reply: Completion, prompt: str) -> str | None:
    if not any(sign.isalpha() for sign in text):
        return "it is empty"
    if reply.finish == "length":
        return "it was cut off"
    return "it repeats the prompt" if same_words(text, prompt) else None
