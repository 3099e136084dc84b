"""Engines: where text and log-probabilities come from."""

from windvane.engines.protocols import Generator, Scorer

__all__ = ["Generator", "Scorer"]
