"""Data in and out: files, folders and hub datasets to records, records to TRL's preference format.

The shapes that are read: TRL's prompt-only and preference formats, standard and conversational, explicit and implicit
prompts; Alpaca (instruction, input); ShareGPT (conversations of from and value); OpenAI messages; and the
``Human:``/``Assistant:`` transcripts of HH-RLHF. System messages and earlier turns are kept.
"""

from windvane.data.preferences import OfflinePair, PreferenceSet, load_preferences, read_preferences
from windvane.data.queries import QuerySet, load_queries, normalised_prompt, read_queries
from windvane.data.source import DataSource, PreferenceSource
from windvane.data.splitting import QuerySplit, leave_out, split_queries
from windvane.data.writing import write_offline_preferences, write_preferences

__all__ = [
    "DataSource",
    "OfflinePair",
    "PreferenceSet",
    "PreferenceSource",
    "QuerySet",
    "QuerySplit",
    "leave_out",
    "load_preferences",
    "load_queries",
    "normalised_prompt",
    "read_preferences",
    "read_queries",
    "split_queries",
    "write_offline_preferences",
    "write_preferences",
]
