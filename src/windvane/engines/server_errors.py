"""What can go wrong with a server, and what is said about it."""

import difflib
from collections.abc import Sequence
from typing import NamedTuple

from windvane.engines.server_settings import ServerSettings
from windvane.errors import ConfigError, NoReply, RunFailed


class Trouble(NamedTuple):
    """One request that was not answered."""

    why: str
    """A clause, without the key."""
    status: int | None = None
    """HTTP status, where there was one."""
    charged: bool = False
    """Whether the server may have charged for it: it may have worked before it was lost."""
    unreachable: bool = False
    """Whether nobody was there."""
    lost: bool = False
    """Whether the connection was, which may have been an old one that the server had closed."""
    rest: float | None = None
    """Seconds for which the server asked to be left alone."""
    decisive: bool = False
    """Whether to send it again is no use."""

    @property
    def wrong_settings(self) -> bool:
        """Whether the key, the address or the name of the model is wrong."""
        return self.status in (401, 403, 404, 405)

    @property
    def refused(self) -> bool:
        """Whether it is the request that the server found fault with."""
        return self.status in (400, 413, 422)


def missing_key(variable: str) -> ConfigError:
    """Return the error for a key that is not in the environment."""
    return ConfigError(
        f"api_key_env names the environment variable {variable}, which is not set. "
        f"Run `export {variable}=...` first, or leave api_key_env out for a server that asks for no key."
    )


def trouble_at_start(trouble: Trouble, url: str, settings: ServerSettings, models: Sequence[str] = ()) -> ConfigError:
    """Return the error for an endpoint that cannot be used as asked."""
    return ConfigError(f"{url}: {trouble.why}. {_way_out(trouble, settings, models)}")


def _way_out(trouble: Trouble, settings: ServerSettings, models: Sequence[str]) -> str:
    if trouble.status in (401, 403):
        if settings.api_key_env is None:
            return "Put the name of the environment variable that holds the key into api_key_env."
        return f"Check the key in {settings.api_key_env}, and that base_url is the server that it is for."
    if trouble.status in (404, 405):
        return f"{_which_model(settings.model, models)} An address usually ends in /v1; check base_url."
    if trouble.refused:
        return _which_model(settings.model, models)
    return "Start the server, or correct base_url; it usually ends in /v1."


def _which_model(model: str, models: Sequence[str]) -> str:
    if not models:
        return f"Check the name of the model, {model!r}."
    near = difflib.get_close_matches(model, models, n=1, cutoff=0.4)
    hint = f" Did you mean {near[0]}?" if near else ""
    shown = ", ".join(models[:8]) + (" …" if len(models) > 8 else "")
    return f"The model asked for is {model!r}; the server lists {shown}.{hint}"


def gave_up(
    trouble: Trouble, attempts: int, where: str, *, kind: type[ConfigError | RunFailed], log: str = ""
) -> ConfigError | RunFailed:
    """Return the error for a request that got no reply, of a kind that says what was wrong."""
    times = "" if attempts == 1 else f" in {attempts} attempts; the last time"
    if kind is NoReply:
        return NoReply(f"{where} has no reply to one request{times}: {trouble.why}.")
    if trouble.wrong_settings or kind is ConfigError:
        way_out = "Check model, base_url and the key."
    else:
        way_out = "What was answered is on file; go on when it is back."
    return kind(f"{where} gave no reply{times}: {trouble.why}. {way_out}{log}")
