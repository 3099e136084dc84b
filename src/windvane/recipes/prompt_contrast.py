"""The bridge from prompts to weights: what `windvane drpo` found becomes the good principle of SSO.

The policy answers under the found prompt, with its in-context examples, and learns to answer so without them.
"""

from collections.abc import Sequence
from typing import NamedTuple

from windvane.errors import ConfigError, RunDirectoryError
from windvane.principles import PromptPrinciples, write_opposite
from windvane.principles.features import same_words
from windvane.prompt_search.rendering import shown_turns
from windvane.recipes.prompt import FoundPrompt
from windvane.recipes.session import Session
from windvane.reporting.cells import plain
from windvane.run import RunDirectory
from windvane.types import Principle, Query, Record


class Opposite(Record):
    """The opposite of a found prompt."""

    text: str


class PromptContrast(NamedTuple):
    """A found prompt, and the one that it is set against."""

    found: FoundPrompt
    bad: str

    def principles(self, queries: Sequence[Query]) -> list[Principle]:
        """Return both prompts for each query, with the in-context examples that the search would show it."""
        source = self.found.source()
        return [
            Principle(
                query_id=query.id,
                features=(),
                good=self.found.system_prompt,
                bad=self.bad,
                origin="prompt",
                shown=shown_turns(source.examples_for(query)),
            )
            for query in queries
        ]


def prompt_contrast(session: Session, settings: PromptPrinciples, *, writer: str, seed: int) -> PromptContrast:
    """Return the two prompts; `writer` is the model that writes the opposite where one is wanted and none is given.

    Raises what `read_prompt` does.
    """
    found = read_prompt(settings)
    bad = _given(found, settings)
    if bad is None:
        bad = _opposite(session, found.system_prompt, writer=writer, seed=seed)
    return PromptContrast(found, bad)


def read_prompt(settings: PromptPrinciples) -> FoundPrompt:
    """Return the found prompt.

    Raises `RunDirectoryError` where `from_prompt` names no finished search, `ConfigError` where it found no other
    prompt than it began with, or the opposite says the same.
    """
    try:
        found = FoundPrompt.read(RunDirectory.read(settings.from_prompt))
    except RunDirectoryError as error:
        raise RunDirectoryError(f"principles.from_prompt: {error}") from error
    bad = _given(found, settings)
    if bad is not None and same_words(found.system_prompt, bad) and not found.examples:
        way_out = "set principles.bad: opposite" if settings.bad == "start" else "write another principles.opposite"
        raise ConfigError(
            f"the prompt that {settings.from_prompt} found and the bad one ({settings.bad}) say the same, so there is "
            f"no contrast to learn from: {way_out}"
        )
    return found


def _given(found: FoundPrompt, settings: PromptPrinciples) -> str | None:
    """Return the bad prompt; None where a model is to write it. An empty one is a prompt as well."""
    return found.start_prompt if settings.bad == "start" else settings.opposite


def _opposite(session: Session, prompt: str, *, writer: str, seed: int) -> str:
    run, bench, _ = session

    def write(prompts: Sequence[str]) -> list[Opposite]:
        written = [Opposite(text=write_opposite(each, bench.engine(writer), seed=seed)) for each in prompts]
        run.say(
            f"the bad principle, which {writer} wrote as the opposite of the prompt: {plain(written[0].text).plain}"
        )
        return written

    (written,) = run.map(
        "opposite", [prompt], write, Opposite, shard_size=1, label="opposite prompt", inputs=bench.identity(writer)
    )
    return written.text
