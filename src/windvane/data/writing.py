"""Pairs out: TRL's conversational preference format, with everything else in columns beside it."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from windvane.data.preferences import OfflinePair
from windvane.errors import DataError
from windvane.types import Logprob, Pair, PairScores

SUFFIXES = (".jsonl", ".parquet")


def write_preferences(path: Path, pairs: Iterable[Pair], *, scores: Mapping[str, PairScores] | None = None) -> int:
    """Write pairs to a .jsonl or .parquet file, whole or not at all, and return how many rows it has.

    Columns: ``prompt``, ``chosen``, ``rejected`` (lists of messages), ``id``, ``source``, ``iteration``,
    ``chosen_finish``, ``rejected_finish``; for contrast pairs ``original`` (the text of yᵒ), ``original_finish``,
    ``query_id``, ``features``, ``principle_origin``, ``principle_good``, ``principle_bad`` (the system messages p⁺ and
    p⁻), ``principle_shown`` (turns of in-context examples that belong to p⁺); for a pair
    whose id is in `scores`, ``logp_<response>_<prompt>`` (nats, summed) and ``tokens_<response>``.
    Every row has the same columns; one that no row fills is left out, so that readers find a type for each.
    """
    return _write_rows(path, [_row(pair, (scores or {}).get(pair.id)) for pair in pairs])


def write_offline_preferences(
    path: Path, pairs: Iterable[OfflinePair], *, columns: Mapping[str, Mapping[str, Any]]
) -> int:
    """Write pairs that came with the data, with their other columns and those of `columns` (by id), as above."""
    return _write_rows(path, [_offline_row(pair) | dict(columns.get(pair.id, {})) for pair in pairs])


def _write_rows(path: Path, rows: list[dict[str, Any]]) -> int:
    if path.suffix not in SUFFIXES:
        raise DataError(
            f"{path}: pairs are written as {' or '.join(SUFFIXES)}, not as {path.suffix or 'a file without suffix'}."
        )
    if not rows:
        raise DataError(f"{path}: there are no pairs to write.")
    names = dict.fromkeys(name for row in rows for name in row)
    filled = [name for name in names if any(row.get(name) is not None for row in rows)]
    table = [{name: row.get(name) for name in filled} for row in rows]
    try:
        _write(path, table)
    except OSError as error:
        raise DataError(
            f"{path} cannot be written: {error.strerror or error}. Choose another folder or free it."
        ) from None
    return len(rows)


def _write(path: Path, table: list[dict[str, Any]]) -> None:
    """Write beside the path, flush to disk, rename: another process sees the old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    if path.suffix == ".parquet":
        import datasets

        datasets.Dataset.from_list(table).to_parquet(str(partial))
    else:
        partial.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in table), encoding="utf-8")
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    partial.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def _offline_row(pair: OfflinePair) -> dict[str, Any]:
    return {
        "prompt": [message.model_dump() for message in pair.prompt],
        "chosen": [{"role": "assistant", "content": pair.chosen}],
        "rejected": [{"role": "assistant", "content": pair.rejected}],
        "id": pair.id,
        "source": pair.source,
        **pair.extra,
    }


def _row(pair: Pair, scores: PairScores | None) -> dict[str, Any]:
    principle, original = pair.principle, pair.original
    return {
        "prompt": [message.model_dump() for message in pair.prompt],
        "chosen": [{"role": "assistant", "content": pair.chosen.text}],
        "rejected": [{"role": "assistant", "content": pair.rejected.text}],
        "id": pair.id,
        "source": pair.source,
        "iteration": pair.iteration,
        "chosen_finish": pair.chosen.finish,
        "rejected_finish": pair.rejected.finish,
        "original": original and original.text,
        "original_finish": original and original.finish,
        "query_id": principle and principle.query_id,
        "features": principle and list(principle.features),
        "principle_origin": principle and principle.origin,
        "principle_good": principle and principle.good,
        "principle_bad": principle and principle.bad,
        "principle_shown": (principle and [turn.model_dump() for turn in principle.shown]) or None,
        **(_scores(scores) if scores else {}),
    }


def _scores(scores: PairScores) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for name in PairScores.model_fields:
        measured: Logprob | None = getattr(scores, name)
        if measured is not None:
            columns[f"logp_{name}"] = measured.sum
            columns[f"tokens_{name.split('_')[0]}"] = measured.tokens
    return columns
