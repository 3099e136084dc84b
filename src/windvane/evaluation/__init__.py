"""How good it got: answers before and after, signal statistics, intervals."""
