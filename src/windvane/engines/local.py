"""The engine that runs a transformers model in this process: it generates and it scores."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch

from windvane.engines.cache import is_attention_only
from windvane.engines.decoding import Decoded, decode
from windvane.engines.logprobs import Layout, choose_layout, evaluating, sequence_logprobs
from windvane.engines.models import LoadedModel, load_model
from windvane.engines.protocols import Advance, no_progress
from windvane.engines.rows import ResponseGroup
from windvane.engines.settings import EngineSettings
from windvane.errors import ConfigError, DataError, ModelError
from windvane.types import Completion, Logprob, Message, Prompt, Sampling, ScoreRequest

__all__ = ["EngineSettings", "LoadedModel", "LocalEngine", "load_model"]

_GROUP_WORTH_A_BATCH = 8
"""Prompts that must share their leading turns before they get batches of their own."""


class _Task(NamedTuple):
    place: int
    """Place among the requests."""
    ids: list[int]
    seed: int


class _ScoreTask(NamedTuple):
    place: int
    group: ResponseGroup

    @property
    def longest(self) -> int:
        """Tokens of the prompt and its longest response."""
        return len(self.group.prompt) + max(map(len, self.group.responses))

    @property
    def width(self) -> int:
        """Tokens of the group as one row."""
        return len(self.group.prompt) + sum(map(len, self.group.responses))


class LocalEngine:
    """A `Generator` and a `Scorer` over one loaded model.

    The model's weights are read at each call, so an engine over a model in training speaks for the model as it is.
    """

    def __init__(self, loaded: LoadedModel, settings: EngineSettings) -> None:
        self.loaded = loaded
        self.settings = settings
        self.tokens_generated = 0
        """Sampled tokens so far, end tokens included."""
        self.tokens_scored = 0
        """Response tokens scored so far."""
        self._attention_only = is_attention_only(loaded.model)
        self._layouts: dict[bool, Layout] = {}

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, advance: Advance = no_progress
    ) -> list[Completion]:
        """Return one completion for each prompt, in order; see `Generator.generate`.

        Raises `ConfigError` for sampling that makes no sense, and `DataError` for a prompt that leaves no room for the
        response, naming it; both before anything is computed.
        """
        _check_sampling(sampling)
        tasks = [_Task(i, self.loaded.chat.prompt_ids(p.messages), p.seed) for i, p in enumerate(prompts)]
        for task in tasks:
            self._check_length(len(task.ids), sampling.max_new_tokens, prompts[task.place].messages)
        done: dict[int, Completion] = {}
        for batch in self._batches(tasks, prompts, sampling.max_new_tokens):
            decoded = decode(
                self.loaded.model,
                [task.ids for task in batch],
                [task.seed for task in batch],
                sampling,
                stop_ids=self.loaded.stop_ids,
                pad_id=self.loaded.pad_id,
                attention_only=self._attention_only,
            )
            for task, response in zip(batch, decoded, strict=True):
                done[task.place] = self._completion(response)
            advance(len(batch))
        return [done[index] for index in range(len(prompts))]

    def score(self, requests: Sequence[ScoreRequest], *, advance: Advance = no_progress) -> list[tuple[Logprob, ...]]:
        """Return for each request one log-probability per response, in order; see `Scorer.score`.

        Raises `DataError` for an empty response and for one that does not fit the model, `ModelError` for NaN.
        """
        tasks = [_ScoreTask(index, self._group(request)) for index, request in enumerate(requests)]
        layout = self._layout_for(tasks)
        done: dict[int, tuple[Logprob, ...]] = {}
        for batch in self._score_batches(tasks, layout):
            rows = layout.rows([task.group for task in batch], pad_id=self.loaded.pad_id).to(self.loaded.device)
            with torch.inference_mode(), evaluating(self.loaded.model):
                result = sequence_logprobs(self.loaded.model, rows)
            if not torch.isfinite(result.sum).all():
                raise ModelError(
                    "The model gave NaN or infinite log-probabilities. Its weights are finite, so the number format "
                    "overflows: set engine.dtype to float32 or bfloat16."
                )
            values = iter(
                [Logprob(sum=s, tokens=n) for s, n in zip(result.sum.tolist(), result.tokens.tolist(), strict=True)]
            )
            for task in batch:
                done[task.place] = tuple(next(values) for _ in task.group.responses)
                self.tokens_scored += sum(map(len, task.group.responses))
            advance(len(batch))
        return [done[index] for index in range(len(requests))]

    def _completion(self, response: Decoded) -> Completion:
        self.tokens_generated += len(response.token_ids)
        return Completion(
            text=self.loaded.chat.decode(response.token_ids),
            token_ids=response.token_ids,
            finish="stop" if response.stopped else "length",
        )

    def _batches(self, tasks: Sequence[_Task], prompts: Sequence[Prompt], new_tokens: int) -> Iterator[list[_Task]]:
        """Yield batches: prompts that share their leading turns together, longest first, within the limits."""
        for bundle in self._bundles(tasks, prompts):
            batch: list[_Task] = []
            for task in sorted(bundle, key=lambda task: -len(task.ids)):
                width = len(batch[0].ids) if batch else len(task.ids)
                full = len(batch) == self.settings.batch_rows
                too_big = (len(batch) + 1) * (width + new_tokens) > self.settings.batch_tokens
                uneven = not self._attention_only and len(task.ids) != width
                if batch and (full or too_big or uneven):
                    yield batch
                    batch = []
                batch.append(task)
            if batch:
                yield batch

    def _bundles(self, tasks: Sequence[_Task], prompts: Sequence[Prompt]) -> Iterator[list[_Task]]:
        by_lead: dict[tuple[Message, ...], list[_Task]] = defaultdict(list)
        for task in tasks:
            by_lead[prompts[task.place].messages[:-1]].append(task)
        rest: list[_Task] = []
        for lead, bundle in by_lead.items():
            if lead and len(bundle) >= _GROUP_WORTH_A_BATCH:
                yield bundle
            else:
                rest.extend(bundle)
        if rest:
            yield rest

    def _group(self, request: ScoreRequest) -> ResponseGroup:
        if not request.responses:
            raise DataError(f"There is no response to score for the query {_shown(request.messages)}.")
        prompt = self.loaded.chat.prompt_ids(request.messages)
        for response in request.responses:
            if not response.token_ids:
                raise DataError(
                    f"A response to the query {_shown(request.messages)} has no tokens, so it has no log-probability. "
                    "Drop empty responses before they are scored."
                )
            self._check_length(len(prompt), len(response.token_ids), request.messages, setting=None)
        return ResponseGroup(prompt, tuple(response.token_ids for response in request.responses))

    def _layout_for(self, tasks: Sequence[_ScoreTask]) -> Layout:
        """Return the layout for these tasks: of them alone, not of earlier calls, so that a resumed run repeats it."""
        longest = max((task.longest for task in tasks), default=1)
        window = getattr(self.loaded.model.config.get_text_config(decoder=True), "sliding_window", None)
        beyond = window is not None and longest > window
        if beyond not in self._layouts:
            self._layouts[beyond] = choose_layout(self.loaded.model, longest=longest)
        return self._layouts[beyond]

    def _score_batches(self, tasks: Sequence[_ScoreTask], layout: Layout) -> Iterator[list[_ScoreTask]]:
        """Yield batches of similar length whose rows fit into `score_tokens`."""
        shared = layout.name == "shared"
        sized = sorted(((task.width if shared else task.longest, task) for task in tasks), key=lambda pair: -pair[0])
        batch: list[_ScoreTask] = []
        rows, width = 0, 0
        for size, task in sized:
            more = 1 if shared else len(task.group.responses)
            width = width or size  # the first of a batch is its longest
            if batch and (rows + more) * width > self.settings.score_tokens:
                yield batch
                batch, rows, width = [], 0, size
            batch.append(task)
            rows += more
        if batch:
            yield batch

    def check_room(
        self, conversations: Iterable[Sequence[Message]], max_new_tokens: int, *, setting: str = "max_new_tokens"
    ) -> None:
        """Raise `DataError` for the first conversation that leaves no room for so long a response as `setting` asks."""
        for messages in conversations:
            self._check_length(len(self.loaded.chat.prompt_ids(messages)), max_new_tokens, messages, setting=setting)

    def _check_length(
        self, prompt: int, response: int, messages: Sequence[Message], *, setting: str | None = "max_new_tokens"
    ) -> None:
        """Refuse a prompt and a response that are longer than the model; `setting` is None where both are given."""
        limit = self.loaded.context_length
        if limit is not None and prompt + response > limit:
            way_out = f"Shorten or drop the query, or lower {setting}." if setting else "Shorten or drop the pair."
            raise DataError(
                f"The query {_shown(messages)} takes {prompt} tokens and its response {'up to ' if setting else ''}"
                f"{response} more, but the model {self.loaded.name!r} takes {limit} in all. {way_out}"
            )


def _check_sampling(sampling: Sampling) -> None:
    if sampling.max_new_tokens < 1:
        raise ConfigError(f"max_new_tokens is {sampling.max_new_tokens}; a response has at least 1 token.")
    if not 0 <= sampling.temperature < float("inf"):
        raise ConfigError(f"temperature is {sampling.temperature}; it is 0 (greedy) or a positive number.")
    if not 0 < sampling.top_p <= 1:
        raise ConfigError(f"top_p is {sampling.top_p}; it lies above 0 and at most at 1, which turns it off.")


def _shown(messages: Sequence[Message]) -> str:
    text = " ".join(messages[-1].content.split()) if messages else ""
    return repr(text if len(text) <= 60 else text[:60] + "…")
