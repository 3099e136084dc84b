"""Log-probabilities of given token ids under a model, with or without gradient.

``logp(y|x) = Σ_t log softmax(logits_t)[y_t]``, in float32 whatever the model computes in. The vocabulary projection
runs on the positions that predict a response token, and on no other.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
import transformers.modeling_utils
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel

from windvane.engines.rows import ResponseGroup, Rows, plain_rows, shared_prefix_rows
from windvane.engines.sums import SequenceLogprobs

DEFAULT_CHUNK = 1024
"""Positions whose logits are turned into log-probabilities, or into their gradient, at once."""

LayoutName = Literal["shared", "plain"]


class Layout(NamedTuple):
    """How groups become rows for a model, and why."""

    name: LayoutName
    reason: str

    def rows(self, groups: list[ResponseGroup], *, pad_id: int) -> Rows:
        """Lay out `groups`."""
        make = shared_prefix_rows if self.name == "shared" else plain_rows
        return make(groups, pad_id=pad_id)


def sequence_logprobs(model: nn.Module, rows: Rows, *, chunk: int = DEFAULT_CHUNK) -> SequenceLogprobs:
    """Return the log-probability of every response of `rows`, differentiable in the model's parameters.

    The model's own treatment of its logits (soft caps, scales) is kept. The log-softmax and its gradient run in float32
    over `chunk` kept positions at a time, so that no float32 copy of 16-bit logits is ever held. What is held are the
    logits of all kept positions in the model's number format, and in the backward pass their gradient: a smaller batch
    is what makes these smaller. `rows` and `model` must be on the same device.
    """
    logits = _kept_logits(model, rows)  # [kept, vocabulary]
    logprobs: Tensor = _TokenLogprobs.apply(logits, rows.target_row, rows.targets, chunk)  # type: ignore[no-untyped-call]
    total = torch.zeros(rows.responses, dtype=torch.float32, device=logprobs.device)
    return SequenceLogprobs(sum=total.index_add(0, rows.segment, logprobs), tokens=rows.lengths)


class _TokenLogprobs(torch.autograd.Function):
    """``log softmax(logits[row])[target]`` of each token, [tokens] float32.

    The gradient is written out, because autograd would hold four tensors of the logits' size for it: one scattered from
    the picked logits, one in pieces from the chunks, the pieces joined, and the sum.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, row: Tensor, target: Tensor, chunk: int) -> Tensor:
        normaliser = torch.cat([part.float().logsumexp(-1) for part in torch.split(logits, chunk)])  # [kept]
        ctx.save_for_backward(logits, row, target, normaliser)
        ctx.chunk = chunk
        return logits[row, target].float() - normaliser[row]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        """``Σ over a row's tokens of gradient · (onehot(target) - softmax(logits))``."""
        logits, row, target, normaliser = ctx.saved_tensors
        weight = torch.zeros_like(normaliser).index_add(0, row, gradient)  # [kept]
        result = torch.empty_like(logits)
        for start in range(0, len(logits), ctx.chunk):
            rows = slice(start, min(start + ctx.chunk, len(logits)))
            part = torch.sub(logits[rows], normaliser[rows, None]).exp_().mul_(-weight[rows, None])  # float32
            # Tokens of other chunks add 0 at the edge: picking out those of this one would make a GPU wait.
            inside = (row >= rows.start) & (row < rows.stop)
            place = (row - rows.start).clamp(0, len(part) - 1)
            part.index_put_((place, target), gradient.where(inside, gradient.new_zeros(())), accumulate=True)
            result[rows] = part
        return result, None, None, None


def _kept_logits(model: nn.Module, rows: Rows) -> Tensor:
    """Run the model and return the logits at `rows.predict`, [kept, vocabulary]."""
    inner = unwrapped(model)
    takes = forward_arguments(inner)
    inputs: dict[str, Any] = {"input_ids": rows.input_ids, "attention_mask": _model_mask(inner, rows.attention_mask)}
    if "position_ids" in takes:
        inputs["position_ids"] = rows.position_ids
    if "use_cache" in takes:
        inputs["use_cache"] = False
    keeps = "logits_to_keep" in takes and _slices_by_mask(type(inner))
    if keeps:
        inputs["logits_to_keep"] = rows.predict
    logits: Tensor = model(**inputs).logits
    return logits if keeps else logits[rows.predict]


def unwrapped(model: nn.Module) -> PreTrainedModel:
    """Return the transformers model inside data-parallel and adapter wrappers."""
    inner: Any = model
    while not isinstance(inner, PreTrainedModel):
        inner = inner.get_base_model() if hasattr(inner, "get_base_model") else inner.module
    return inner


def forward_arguments(model: nn.Module) -> frozenset[str]:
    """Return what the model's forward takes by name, wrappers (which take anything) looked through."""
    return frozenset(inspect.signature(type(unwrapped(model)).forward).parameters)


def _slices_by_mask(kind: type[nn.Module]) -> bool:
    """Whether ``logits_to_keep`` may be a boolean mask: transformers' own models, since it has one slicing function."""
    return kind.__module__.startswith("transformers.") and hasattr(transformers.modeling_utils, "slice_logits_to_keep")


def _model_mask(model: PreTrainedModel, mask: Tensor) -> Tensor:
    """Return the mask in the form that the model's attention reads."""
    if mask.ndim == 2:
        return mask.long()
    if getattr(model.config, "_attn_implementation", None) != "eager":
        return mask
    dtype = getattr(model, "dtype", torch.float32)
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)


def choose_layout(
    model: nn.Module, *, longest: int | None = None, wanted: Literal["auto", "shared", "plain"] = "auto"
) -> Layout:
    """Return the layout for a model: ``shared`` wherever it gives the log-probabilities that ``plain`` gives.

    `longest` is the largest count of prompt and response tokens together that will occur; it matters for models with a
    sliding window, which a custom mask switches off. What the model says of itself is checked on a probe of a few
    tokens.
    """
    if wanted == "plain":
        return Layout("plain", "asked for")
    obstacle = _obstacle(unwrapped(model), longest) or _probe(model)
    if obstacle is None:
        return Layout("shared", "each prompt is computed once for all its responses")
    return Layout("plain", obstacle)


def _obstacle(model: PreTrainedModel, longest: int | None) -> str | None:
    """Return why the model's architecture rules out shared rows, or None."""
    config = model.config.get_text_config()
    attention = getattr(config, "_attn_implementation", None)
    if attention not in ("sdpa", "eager"):
        return f"attention '{attention}' takes no custom mask"
    if "position_ids" not in forward_arguments(model):
        return f"{type(model).__name__} takes no position ids (recurrent, or positions made from the mask)"
    recurrent = set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if recurrent:
        return f"layers of type {', '.join(sorted(recurrent))} take no custom mask"
    window = getattr(config, "sliding_window", None)
    reach = longest if longest is not None else getattr(config, "max_position_embeddings", None)
    if window is not None and getattr(config, "use_sliding_window", True) and (reach is None or reach > window):
        return f"the sliding window of {window} tokens is shorter than a sequence of {reach}"
    return None


def _probe(model: nn.Module) -> str | None:
    """Compare both layouts on a few tokens; return what went wrong, or None."""
    inner = unwrapped(model)
    tokens = [5 + index * 7 % 89 for index in range(12)]
    top = int(inner.config.get_text_config().vocab_size) - 1
    tokens = [min(token, top) for token in tokens]
    groups = [
        ResponseGroup(tokens[:5], (tokens[5:8], tokens[8:12])),
        ResponseGroup(tokens[:3], (tokens[3:4], tokens[4:9])),
    ]
    device = next(inner.parameters()).device
    with evaluating(model), torch.no_grad():
        plain = sequence_logprobs(model, plain_rows(groups, pad_id=0).to(device)).sum
        try:
            shared = sequence_logprobs(model, shared_prefix_rows(groups, pad_id=0).to(device)).sum
        except (RuntimeError, ValueError, TypeError, IndexError, KeyError) as error:
            return f"{type(inner).__name__} refuses a custom mask ({type(error).__name__})"
    difference = (shared - plain).abs().max().item()
    tolerance = 1e-3 if getattr(inner, "dtype", torch.float32) == torch.float32 else 0.5
    if not difference <= tolerance:
        return (
            f"{type(inner).__name__} gave other log-probabilities for shared rows on a probe (by {difference:.2g} nats)"
        )
    return None


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch every module to evaluation (no dropout) and each back to its own mode afterwards."""
    training = {id(module): module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module in model.modules():
            module.training = training[id(module)]
