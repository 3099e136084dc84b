"""Holds the one local model that a recipe works with at the moment, loaded when it is first needed."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from windvane.engines.chat import ChatFormat
from windvane.engines.identity import model_identity
from windvane.engines.protocols import Advance, no_progress
from windvane.engines.settings import EngineSettings
from windvane.types import Completion, Logprob, Message, Prompt, Sampling, ScoreRequest

if TYPE_CHECKING:
    from windvane.engines.local import LocalEngine
    from windvane.engines.models import LoadedModel

_FLOAT32_BYTES = 4

Count = Callable[[str, int], None]
"""Adds to a counter by name, such as `RunDirectory.count`."""


class Workbench:
    """At most one local model in memory.

    Engines are handed out for the asking and load their model at the first call that needs it. So a stage that finds
    its records on file costs nothing, and resuming a finished run loads no model at all.
    """

    def __init__(self, settings: EngineSettings, *, say: Callable[[str], None], count: Count) -> None:
        self._settings = settings
        self._say = say
        self._count = count
        self._reference: str | None = None
        self._held: LocalEngine | None = None

    def engine(self, reference: str | Path) -> BenchEngine:
        """Return the engine of a model, by its folder or name; nothing is loaded yet."""
        return BenchEngine(self, str(reference), self._count)

    def identity(self, reference: str | Path) -> tuple[str, ...]:
        """Return what tells a model from the one that was there before: an input of every stage that works with it."""
        template = self._settings.template_file
        texts = () if template is None or not template.is_file() else (template.read_text(encoding="utf-8"),)
        return (model_identity(str(reference)), *texts)

    def load(self, reference: str) -> LocalEngine:
        """Return the engine with its model in memory, in place of any other."""
        if self._held is None or self._reference != reference:
            from windvane.engines.local import LocalEngine  # torch: not before a model is needed

            self._held = LocalEngine(self._loaded(reference, self._settings), self._settings)
            self._reference = reference
        return self._held

    def take(self, reference: str | Path, *, float32: bool = False) -> LoadedModel:
        """Hand the model over to someone who will change its weights; the bench keeps nothing.

        `float32` asks for the weights as they are on file, whatever format the engine computes in: a policy that was
        trained before and is trained on would lose to 16 bits most of what it has learned.
        """
        held = self._held if self._reference == str(reference) else None
        if held is None or (float32 and held.loaded.model.dtype.itemsize < _FLOAT32_BYTES):
            del held  # or two models would be in memory
            settings = self._settings.model_copy(update={"dtype": "float32"}) if float32 else self._settings
            return self._loaded(str(reference), settings)
        self.clear()
        return held.loaded

    def _loaded(self, reference: str, settings: EngineSettings) -> LoadedModel:
        from windvane.engines.models import load_model

        self.clear()
        self._say(f"loading {reference}")
        return load_model(reference, settings)

    def clear(self) -> None:
        """Free the memory."""
        self._held, self._reference = None, None
        gc.collect()


class BenchEngine:
    """A `Generator` and `Scorer` that loads its model on demand and counts what it does."""

    def __init__(self, bench: Workbench, reference: str, count: Count) -> None:
        self._bench, self._reference, self._count = bench, reference, count

    @property
    def chat(self) -> ChatFormat:
        """How the model's tokenizer turns conversations and responses into token ids."""
        return self._bench.load(self._reference).loaded.chat

    def check_room(
        self, conversations: Iterable[Sequence[Message]], max_new_tokens: int, *, setting: str = "max_new_tokens"
    ) -> None:
        """Raise `DataError` for the first conversation that leaves no room for so long a response as `setting` asks."""
        self._bench.load(self._reference).check_room(conversations, max_new_tokens, setting=setting)

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, advance: Advance = no_progress
    ) -> list[Completion]:
        """Return one completion for each prompt; see `Generator.generate`."""
        engine = self._bench.load(self._reference)
        before = engine.tokens_generated
        completions = engine.generate(prompts, sampling, advance=advance)
        self._count("model_calls", len(prompts))
        self._count("tokens_generated", engine.tokens_generated - before)
        return completions

    def score(self, requests: Sequence[ScoreRequest], *, advance: Advance = no_progress) -> list[tuple[Logprob, ...]]:
        """Return the log-probabilities of each request's responses; see `Scorer.score`."""
        engine = self._bench.load(self._reference)
        before = engine.tokens_scored
        scores = engine.score(requests, advance=advance)
        self._count("model_calls", len(requests))
        self._count("tokens_scored", engine.tokens_scored - before)
        return scores
