"""Training examples: pairs as token ids, and how they become the tensors of one micro-batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Self

import torch
from torch import Tensor

from windvane.data import OfflinePair
from windvane.engines.chat import ChatFormat, steered_prompts
from windvane.engines.logprobs import Layout
from windvane.engines.rows import ResponseGroup, Rows
from windvane.engines.sums import SequenceLogprobs
from windvane.errors import DataError
from windvane.losses import PairLogprobs, View
from windvane.types import Completion, Message, Pair, ReferencedPair, ScoredPair


class EncodedPair(NamedTuple):
    """One pair under one prompt, as token ids."""

    prompt: Sequence[int]
    chosen: Sequence[int]
    rejected: Sequence[int]

    @property
    def longest(self) -> int:
        """Tokens of the prompt and the longer response."""
        return len(self.prompt) + max(len(self.chosen), len(self.rejected))

    @property
    def tokens(self) -> int:
        """Tokens of the prompt and both responses: what a shared-prefix row holds."""
        return len(self.prompt) + len(self.chosen) + len(self.rejected)


ReferenceSums = Mapping[View, tuple[float, float]]
"""Summed log-probabilities (chosen, rejected) of each view under the reference, nats."""


@dataclass(frozen=True)
class TrainingExample:
    """One preference pair in the views that an objective needs."""

    id: str
    views: Mapping[View, EncodedPair]
    reference: ReferenceSums | None = None

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt with a response."""
        return max(pair.longest for pair in self.views.values())

    @property
    def tokens(self) -> int:
        """Tokens of all views."""
        return sum(pair.tokens for pair in self.views.values())


def encode_pair(chat: ChatFormat, pair: Pair | OfflinePair) -> TrainingExample:
    """Return a pair as token ids, in its plain view.

    Token ids that were sampled are taken as they are; text is tokenised apart from its prompt and closed with the end
    of the turn, unless it was cut off: the columns ``chosen_finish`` and ``rejected_finish`` of a pair from a file say
    so with ``length``. Raises `DataError` naming the pair for an empty response or two equal ones.
    """
    prompt = tuple(chat.prompt_ids(pair.prompt))
    if isinstance(pair, OfflinePair):
        chosen, rejected = _from_file(pair.chosen, pair, "chosen"), _from_file(pair.rejected, pair, "rejected")
    else:
        chosen, rejected = pair.chosen, pair.rejected
    encoded = EncodedPair(prompt, _response_ids(chat, chosen), _response_ids(chat, rejected))
    return TrainingExample(pair.id, {"plain": _checked(encoded, pair.id)})


def encode_referenced_pair(chat: ChatFormat, given: ReferencedPair) -> TrainingExample:
    """Return a pair in its plain view, with the reference that lies beside it, if any."""
    example, reference = encode_pair(chat, given.pair), given.reference
    if reference is None:
        return example
    return replace(example, reference={"plain": (reference.chosen.sum, reference.rejected.sum)})


def encode_steering_pair(chat: ChatFormat, scored: ScoredPair) -> TrainingExample:
    """Return a contrast pair in its three views, with the scores of its sampling policy as the reference.

    Raises `DataError` for a pair without a principle or without yᵒ.
    """
    pair, scores = scored.pair, scored.scores
    if pair.principle is None or pair.original is None:
        raise DataError(f"pair {pair.id!r} has no principle or no original response, so it has no steered views")
    good, bad, original = (_response_ids(chat, side) for side in (pair.chosen, pair.rejected, pair.original))
    steered = steered_prompts(pair.prompt, pair.principle)
    prompts: dict[View, tuple[Message, ...]] = {"plain": pair.prompt, "good": steered.good, "bad": steered.bad}
    sides = {"plain": (good, bad), "good": (good, bad), "bad": (original, good)}
    views = {view: EncodedPair(tuple(chat.prompt_ids(prompt)), *sides[view]) for view, prompt in prompts.items()}
    reference: ReferenceSums = {
        "plain": (scores.chosen_plain.sum, scores.rejected_plain.sum),
        "good": (scores.chosen_good.sum, scores.rejected_good.sum),
        "bad": (scores.original_bad.sum, scores.chosen_bad.sum),
    }
    _checked(views["plain"], pair.id)
    return TrainingExample(pair.id, views, reference)


def _from_file(text: str, pair: OfflinePair, side: str) -> Completion:
    cut_off = pair.extra.get(f"{side}_finish") == "length"
    return Completion(text=text, token_ids=(), finish="length" if cut_off else "stop")


def _response_ids(chat: ChatFormat, response: Completion) -> tuple[int, ...]:
    return response.token_ids or chat.response_ids(response.text, response.finish)


def _checked(pair: EncodedPair, name: str) -> EncodedPair:
    for side in ("chosen", "rejected"):
        if not getattr(pair, side):
            raise DataError(f"pair {name!r}: the {side} response is empty; drop the pair or fill it in")
    if tuple(pair.chosen) == tuple(pair.rejected):
        raise DataError(f"pair {name!r}: chosen and rejected are the same {len(pair.chosen)} tokens; drop the pair")
    return pair


def join_reference(
    examples: Sequence[TrainingExample], reference: Mapping[str, ReferenceSums], *, views: tuple[View, ...]
) -> list[TrainingExample]:
    """Return the examples with their reference, looked up by id.

    Raises `DataError` naming the examples that `reference` has no entry for, or not in all of `views`.
    """
    missing = [example.id for example in examples if not set(views) <= reference.get(example.id, {}).keys()]
    if missing:
        names = ", ".join(map(repr, missing[:5])) + (", …" if len(missing) > 5 else "")
        raise DataError(
            f"{len(missing)} of {len(examples)} examples have no reference log-probabilities: {names}. Score these "
            "examples too, or train with `reference: frozen`."
        )
    return [replace(example, reference=reference[example.id]) for example in examples]


@dataclass(frozen=True)
class PairBatch:
    """The tensors of one micro-batch: every view of every pair in one forward pass.

    Responses are numbered pair by pair, in each by view, in each chosen before rejected.
    """

    rows: Rows
    views: tuple[View, ...]
    weight: Tensor
    """[pairs] float32: 1, or 0 for a pair that only keeps this process in step with the others."""
    reference: Tensor | None
    """[pairs, views, 2] float32, nats."""

    def to(self, device: torch.device | str) -> Self:
        """Return the same batch on `device`."""
        reference = None if self.reference is None else self.reference.to(device)
        return replace(self, rows=self.rows.to(device), weight=self.weight.to(device), reference=reference)

    def by_view(self, logprobs: SequenceLogprobs) -> dict[View, PairLogprobs]:
        """Sort the log-probabilities of the batch's responses into pairs."""
        return self._split(logprobs.sum.view(-1, len(self.views), 2))

    def reference_by_view(self) -> dict[View, PairLogprobs] | None:
        """Return the reference's log-probabilities, or None where they were not scored."""
        return None if self.reference is None else self._split(self.reference)

    def _split(self, sums: Tensor) -> dict[View, PairLogprobs]:
        tokens = self.rows.lengths.view(-1, len(self.views), 2)

        def side(view: int, which: Literal[0, 1]) -> SequenceLogprobs:
            return SequenceLogprobs(sums[:, view, which], tokens[:, view, which])

        return {name: PairLogprobs(side(view, 0), side(view, 1)) for view, name in enumerate(self.views)}


def make_batch(
    examples: Sequence[TrainingExample],
    weights: Sequence[float],
    *,
    views: tuple[View, ...],
    layout: Layout,
    pad_id: int,
) -> PairBatch:
    """Lay out examples as one micro-batch; the reference is there if all of them have one."""
    groups = []
    for example in examples:
        for view in views:
            pair = example.views[view]
            groups.append(ResponseGroup(pair.prompt, (pair.chosen, pair.rejected)))
    reference = None
    known = [example.reference for example in examples if example.reference is not None]
    if len(known) == len(examples):
        reference = torch.tensor([[sums[view] for view in views] for sums in known], dtype=torch.float32)
    return PairBatch(
        rows=layout.rows(groups, pad_id=pad_id),
        views=views,
        weight=torch.tensor(weights, dtype=torch.float32),
        reference=reference,
    )


def check_examples(examples: list[TrainingExample], views: tuple[View, ...]) -> list[TrainingExample]:
    """Return the examples if they can be trained on: some are there, each id once, each with all `views`.

    Raises `DataError`.
    """
    if not examples:
        raise DataError("there is no pair to train on: the data set is empty, or every pair was filtered out")
    seen: set[str] = set()
    for example in examples:
        if example.id in seen:
            raise DataError(f"the id {example.id!r} stands twice among the training pairs: give each pair its own")
        seen.add(example.id)
        if lacking := [view for view in views if view not in example.views]:
            raise DataError(
                f"pair {example.id!r} has no {', '.join(lacking)} view, which the loss needs: a loss with steering "
                "trains on pairs made from principles; for other pairs choose a loss such as dpo or ipo"
            )
    return examples
