"""YAML and dotted overrides in, one frozen and fully checked object out.

Every module keeps its own settings class, derived from `Settings`, beside the code that reads it; a recipe's
configuration is the tree of them. This package knows how to read, explain, write, compare and tabulate such a tree.
"""

from windvane.config.loading import load_config
from windvane.config.settings import Settings
from windvane.config.table import markdown_table
from windvane.config.writing import differences, to_yaml

__all__ = ["Settings", "differences", "load_config", "markdown_table", "to_yaml"]
