"""What a check reports."""

from typing import Literal

from windvane.types import Record

Verdict = Literal["ok", "warn", "bad"]
"""``bad``: something cannot work; ``warn``: it works worse than it could; ``ok``: nothing to change."""


class Finding(Record):
    """One fact about this machine and what to do about it."""

    name: str
    value: str
    verdict: Verdict = "ok"
    advice: str = ""
    """What to change; empty where nothing needs to."""
