"""Loading a model with its tokenizer and chat template, or saying in one sentence why that cannot be done."""

import difflib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from windvane.engines import shelf
from windvane.engines.chat import PLAIN_TEMPLATE, ChatFormat
from windvane.engines.hardware import pick_device, pick_dtype
from windvane.engines.settings import EngineSettings
from windvane.errors import ConfigError, ModelError

_LOADING_ERRORS = (OSError, ValueError, KeyError, ImportError, RuntimeError, TypeError, SafetensorError)


@dataclass(frozen=True)
class LoadedModel:
    """A model, ready to work: on its device, in evaluation mode, its weights finite."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    chat: ChatFormat
    name: str
    """What the user called it."""

    @property
    def device(self) -> torch.device:
        """Where its inputs go."""
        return self.model.device

    @property
    def pad_id(self) -> int:
        """The id that fills rows; never told from real tokens by its value, because it may equal the end token."""
        pad = self.tokenizer.pad_token_id
        return int(pad if isinstance(pad, int) else self.chat.end_id)

    @property
    def stop_ids(self) -> frozenset[int]:
        """Every id that ends a response: the model's, the tokenizer's and the chat template's."""
        return stop_ids(self.model, self.chat)

    @property
    def context_length(self) -> int | None:
        """Most tokens the model takes, or None where it states no limit."""
        config = self.model.config.get_text_config(decoder=True)
        length = getattr(config, "max_position_embeddings", None)
        return int(length) if length else None


def load_model(reference: str, settings: EngineSettings) -> LoadedModel:
    """Load a model by alias (`smollm2-135m`), folder or hub name.

    Raises `ModelError` for a name or folder that is not there (naming near ones), for files that cannot be read, for
    weights that are missing, NaN or infinite, and for a tokenizer without a chat template; `ConfigError` for a device
    or a number format that this machine has not got.
    """
    device = pick_device(settings.device)
    dtype = pick_dtype(settings.dtype, device)
    source = shelf.locate(reference)
    with quiet_transformers(), _explained(reference, settings):
        tokenizer = _load_tokenizer(source, settings)
        chat = ChatFormat(tokenizer)
        model = _load_weights(source, settings, dtype)
    _check_weights(model, reference)
    model.to(device)  # type: ignore[arg-type]  # transformers wraps the method and loses its signature
    model.train(False)
    return LoadedModel(model=model, tokenizer=tokenizer, chat=chat, name=reference)


def load_chat(reference: str, settings: EngineSettings) -> ChatFormat:
    """Load a model's tokenizer alone, with its chat template; raises as `load_model` does."""
    with quiet_transformers(), _explained(reference, settings):
        return ChatFormat(_load_tokenizer(shelf.locate(reference), settings))


def stop_ids(model: PreTrainedModel, chat: ChatFormat) -> frozenset[int]:
    """Return all end ids: `generation_config.eos_token_id` (one or a list), the tokenizer's, the chat template's."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    listed = configured if isinstance(configured, list | tuple) else [configured]
    ids = [*listed, chat.tokenizer.eos_token_id, chat.end_id]
    return frozenset(int(token) for token in ids if isinstance(token, int))


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' progress bars and warnings from the user's screen; what matters we say ourselves."""
    log = transformers.utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity(logging.CRITICAL)
    log.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()  # type: ignore[no-untyped-call]


def _load_tokenizer(source: str, settings: EngineSettings) -> PreTrainedTokenizerBase:
    template = _chosen_template(settings)
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=settings.trust_remote_code)
    if template is not None:
        tokenizer.chat_template = template
    return tokenizer


def _chosen_template(settings: EngineSettings) -> str | None:
    if settings.chat_template == "plain":
        return PLAIN_TEMPLATE
    if settings.template_file is None:
        return None
    try:
        return settings.template_file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"engine.chat_template names {str(settings.template_file)!r}, which cannot be read ({error}). "
            "Give the path of a jinja file, or plain for the built-in template."
        ) from error


def _load_weights(source: str, settings: EngineSettings, dtype: torch.dtype) -> PreTrainedModel:
    config = AutoConfig.from_pretrained(source, trust_remote_code=settings.trust_remote_code)
    options: dict[str, Any] = {"dtype": dtype, "config": config, "trust_remote_code": settings.trust_remote_code}
    if settings.attention != "auto":
        options["attn_implementation"] = settings.attention
    # Weights of another shape are only let through so that the report names them; without it the error names none.
    options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
    loaded: Any = AutoModelForCausalLM.from_pretrained(source, **options)
    model, report = loaded
    missing, mismatched = sorted(report["missing_keys"]), report["mismatched_keys"]
    if missing or mismatched:
        named = [*missing, *(str(entry[0]) for entry in mismatched)]
        raise ModelError(
            f"The model {source!r} lacks {len(named)} of its weights or has them in another shape, {named[0]} for one; "
            "they would start out random. Use the complete checkpoint, and one made for a causal language model."
        )
    assert isinstance(model, PreTrainedModel)
    return model


def _check_weights(model: PreTrainedModel, reference: str) -> None:
    """Raise `ModelError` if a weight is NaN or infinite: everything after it would be too."""
    for name, weight in model.named_parameters():
        if weight.is_floating_point() and weight.numel() and weight.device.type != "meta":
            low, high = torch.aminmax(weight.detach())
            if not (torch.isfinite(low) and torch.isfinite(high)):
                kind = "NaN" if torch.isnan(low) or torch.isnan(high) else "infinite"
                raise ModelError(
                    f"The model {reference!r} has {kind} weights, in {name} for one, and can only produce NaN. "
                    "Use an intact checkpoint; if it is in float16, load it with engine.dtype float32 or bfloat16."
                )


@contextmanager
def _explained(reference: str, settings: EngineSettings) -> Iterator[None]:
    """Turn what transformers raises about a user's model into one clear `ModelError`."""
    try:
        yield
    except (ModelError, ConfigError):
        raise
    except _LOADING_ERRORS as error:
        raise ModelError(_explanation(reference, settings, error)) from error


def _explanation(reference: str, settings: EngineSettings, error: BaseException) -> str:
    reason = " ".join(str(error).split())
    shown = reason if len(reason) <= 300 else reason[:300] + "…"
    if "trust_remote_code" in reason and not settings.trust_remote_code:
        return (
            f"The model {reference!r} brings Python code of its own. Read it; if you trust it, set "
            "engine.trust_remote_code to true."
        )
    if settings.attention != "auto" and "attention" in reason.lower():
        return f"The model {reference!r} cannot use engine.attention {settings.attention!r}: {shown} Set it to auto."
    if reference in shelf.ALIASES and not Path(shelf.locate(reference)).is_dir():
        way = shelf.way_without_hub(reference)
        return f"The model {reference!r} is not in the cache, and the hub gave none ({shown}). {way}"
    if Path(reference).is_dir() or reference in shelf.ALIASES:
        return f"The model {reference!r} cannot be loaded: {type(error).__name__}: {shown}"
    near = difflib.get_close_matches(reference, [entry.name for entry in shelf.available()], n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return (
        f"The model {reference!r} is neither a folder here nor a name that can be fetched from the model hub.{hint} "
        f"`windvane models list` shows what is here. ({type(error).__name__}: {shown})"
    )
