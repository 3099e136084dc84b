"""What every test shares: one thread, no network, a tiny model on disk."""

import os
import socket
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest

_connect = socket.socket.connect


def _loopback_only(self: socket.socket, address: object) -> None:
    host = address[0] if isinstance(address, tuple) else str(address)
    if self.family in (socket.AF_INET, socket.AF_INET6) and host not in ("127.0.0.1", "::1", "localhost"):
        raise RuntimeError(f"a test tried to reach {host}: tests use no network")
    _connect(self, address)


socket.socket.connect = _loopback_only  # type: ignore[method-assign,assignment]


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random llama and a byte-level tokenizer."""
    from tests import tiny

    return tiny.saved(tmp_path_factory.mktemp("tiny-llama"))
