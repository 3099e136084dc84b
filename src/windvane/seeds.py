"""Every random choice has a seed of its own, derived from what it is for."""

import hashlib


def derive_seed(run_seed: int, *path: str | int) -> int:
    """Return a 63-bit seed for one choice, such as ``derive_seed(0, "iteration-1", "good", query.id)``.

    The same path gives the same seed whatever the batch size, the worker or the order; another path gives an
    unrelated one.
    """
    name = "\x1f".join([str(run_seed), *map(str, path)])
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1
