"""What every selector returns."""

from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType
from typing import Generic, NamedTuple, TypeVar

from windvane.types import Dropped, Record

Kept = TypeVar("Kept", bound=Record)
"""The records that a selector selects among, such as `ScoredPair`."""


class SelectionSummary(Record):
    """A selection on one screen."""

    pairs: int
    kept: int
    dropped: dict[str, int]
    """Pairs by reason, the most frequent reason first."""
    thresholds: dict[str, float]
    """What was compared with: of the steering filter nats per token, of margins what their reward is in. A step that
    was off or that nothing reached has none."""


class Selection(NamedTuple, Generic[Kept]):
    """Every pair once: kept, or dropped with a reason and the numbers behind it; each in the order of the input."""

    kept: tuple[Kept, ...]
    dropped: tuple[Dropped, ...]
    thresholds: Mapping[str, float] = MappingProxyType({})
    """What the steps compared with, by name."""

    def summary(self) -> SelectionSummary:
        """Return the counts and thresholds."""
        counts = Counter(record.reason for record in self.dropped)
        return SelectionSummary(
            pairs=len(self.kept) + len(self.dropped),
            kept=len(self.kept),
            dropped=dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))),
            thresholds=dict(self.thresholds),
        )
