"""Prompt search: the weights stay, a search finds the system prompt, and a proof says whether it is better.

`racing_search` is the default and `paper_search` the published beam; both ask an `Evaluator` and a `Proposer` and
return a `SearchResult`, whose finalists `prove` sets against the start prompt on queries that the search never saw.
"""
