"""More queries from few: invented after examples (as self-instruct does) or evolved from one that is there."""

from windvane.queries.augmenting import Augmentation, AugmentSettings, augment_queries

__all__ = ["AugmentSettings", "Augmentation", "augment_queries"]
