"""What a user can set about a server that speaks OpenAI's chat completions. Imports neither torch nor the client."""

import hashlib
import json
import os
import re
from typing import Any, Literal, Self
from urllib.parse import SplitResult, urlsplit

from pydantic import Field, field_validator, model_validator

from windvane.config import Settings

PORT = "{port}"
"""Stands in a command, and may stand in an address, for a free port that is found when the server is started."""
_OURS = (
    "model", "messages", "stream", "n", "max_tokens", "max_completion_tokens", "temperature", "top_p", "seed",
    "response_format",
)  # fmt: skip
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
_KEY_OPTION = re.compile(r"--?(?:api[-_]?key|hf[-_]?token|hft|auth[-_]?token|password)(?==|$)", re.IGNORECASE)
_KEY_VARIABLE = re.compile(r"[A-Z0-9_]*(?:KEY|TOKEN|SECRET|PASSWORD)(?==)")


def _has_valid_port(parts: SplitResult) -> bool:
    try:
        return parts.port != 0
    except ValueError:
        return False


def _expanded(text: str) -> str:
    return os.path.expanduser(text) if text.startswith("~/") else text


class ServerSettings(Settings):
    """A model behind one or more OpenAI-compatible endpoints, and how patiently it is asked."""

    type: Literal["server"] = "server"
    model: str = Field(min_length=1)
    """Name of the model as the server knows it; of one that was started on a folder, that folder."""
    base_url: str | tuple[str, ...] | None = None
    """Address up to and with `/v1`, or several addresses of the same model that share the work. Left out where
    `command` starts the server."""
    command: tuple[str, ...] = ()
    """Starts the server for this run and ends it with the run, such as `[vllm, serve, M, --port, "{port}"]`; a free
    port is put in for `{port}`, and `~/` begins a path in the home directory. Empty: the server runs already."""
    ready_within: float = Field(default=900.0, gt=0)
    """Seconds that a server started by `command` may take to load its model."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the key, such as `OPENAI_API_KEY`; never the key itself. Left out
    where the server asks for none."""
    timeout: float = Field(default=300.0, gt=0)
    """Seconds after which a request counts as lost."""
    retries: int = Field(default=5, ge=0)
    """Times that a request is sent again after 429, 5xx, a timeout, a lost connection or an unreadable reply."""
    backoff: float = Field(default=1.0, ge=0)
    """Seconds before the first retry, more or less; twice as many before each further one, up to 30."""
    max_wait: float = Field(default=120.0, ge=0)
    """Longest wait in seconds that a server may ask for (Retry-After); where it asks for more, the request fails."""
    concurrency: int = Field(default=16, ge=1, le=1000)
    """Most requests in flight at each endpoint."""
    samples_per_request: int = Field(default=8, ge=1)
    """Most samples of one conversation asked for in one request (`n`); 1 for a server that gets this wrong."""
    leave_out: tuple[Literal["temperature", "top_p", "seed", "response_format"], ...] = ()
    """Fields that are never sent, for a server that refuses them; what it does instead is its own choice."""
    extra_body: dict[str, Any] = Field(default_factory=dict)
    """Further fields of every request, such as `{top_k: 20}` or `{chat_template_kwargs: {enable_thinking: false}}`.
    docs/runs.md has the one that `transformers serve` needs to sample."""

    @field_validator("base_url")
    @classmethod
    def _addresses(cls, given: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        """Refuse what is no address, and what carries a secret; neither is repeated in the message."""
        urls = [given] if isinstance(given, str) else list(given or ())
        if given is not None and not urls:
            raise ValueError("it is an empty list; give one address such as http://127.0.0.1:8000/v1")
        for url in urls:
            parts = urlsplit(url.replace(PORT, "1"))
            if "@" in parts.netloc or parts.query or parts.fragment:
                raise ValueError(
                    "an address here has no user name, password, query or fragment, since it is written into files; "
                    "put a key into an environment variable and its name into api_key_env"
                )
            if parts.scheme not in ("http", "https") or not parts.hostname or not _has_valid_port(parts):
                raise ValueError(f"{url!r} is no address such as http://127.0.0.1:8000/v1")
        if len(set(urls)) < len(urls):
            raise ValueError("the same address stands there twice; raise concurrency instead")
        return given

    @field_validator("api_key_env")
    @classmethod
    def _is_a_name(cls, name: str | None) -> str | None:
        """Refuse what may be a key, without repeating it."""
        if name is not None and not _VARIABLE.fullmatch(name):
            raise ValueError(
                "it is the NAME of an environment variable in capitals, such as OPENAI_API_KEY, and what stands there "
                "is none. A key itself does not belong into a configuration: export it, and replace it if it was saved"
            )
        return name

    @field_validator("model")
    @classmethod
    def _model_at_home(cls, name: str) -> str:
        return _expanded(name)

    @field_validator("command")
    @classmethod
    def _parts_at_home(cls, command: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(_expanded, command))  # no shell does it

    @field_validator("command")
    @classmethod
    def _holds_no_key(cls, command: tuple[str, ...]) -> tuple[str, ...]:
        words = [word for part in command for word in part.split()]  # those of a shell command, too
        for word in words:
            if found := _KEY_OPTION.match(word) or _KEY_VARIABLE.match(word):
                raise ValueError(
                    f"{found[0]} would write a key into files and process lists; leave it out (the server is for this "
                    "run), or export the server's own environment variable, such as VLLM_API_KEY or HF_TOKEN, before"
                )
        return command

    @field_validator("extra_body")
    @classmethod
    def _leaves_ours_alone(cls, extra: dict[str, Any]) -> dict[str, Any]:
        taken = sorted(set(extra) & set(_OURS))
        if taken:
            raise ValueError(f"{', '.join(taken)} cannot stand there: windvane sets {', '.join(_OURS)} itself")
        return extra

    @model_validator(mode="after")
    def _says_where(self) -> Self:
        urls = self.urls
        if not urls and not self.command:
            raise ValueError("a server needs base_url (where it is), or command (how to start it)")
        if self.command and len(urls) > 1:
            raise ValueError(f"command starts one server, but base_url lists {len(urls)} addresses")
        if any(PORT in url for url in urls) and not self.command:
            raise ValueError(f"{PORT} in base_url stands for the port of a server that command starts; there is none")
        ported = any(PORT in part for part in self.command)
        if self.command and ported != (not urls or PORT in urls[0]):
            raise ValueError(
                f"{PORT} must stand in command, and in base_url where that is given as well: it is where a free port "
                "goes. Or leave it out of both and give a fixed port"
            )
        return self

    @property
    def urls(self) -> tuple[str, ...]:
        """The addresses, none where only a command is given."""
        given = (self.base_url,) if isinstance(self.base_url, str) else self.base_url or ()
        return tuple(url.rstrip("/") for url in given)

    @property
    def reply_name(self) -> str:
        """What tells this engine's replies from another's: the model, and all that changes what it would say.

        The address is no part of it: the same model at another address (or port) gives the same replies.
        """
        changes = {"command": self.command, "extra_body": self.extra_body, "leave_out": sorted(self.leave_out)}
        if not any(changes.values()):
            return f"server:{self.model}"
        digest = hashlib.sha256(json.dumps(changes, sort_keys=True).encode()).hexdigest()
        return f"server:{self.model}#{digest[:12]}"
