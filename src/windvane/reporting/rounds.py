"""Tables of SeRA's rounds and of the accuracy of an implicit reward."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from windvane.evaluation.reward_accuracy import RewardAccuracy
from windvane.reporting.cells import MISSING, add_row, number, percent, plain, table
from windvane.selection import PairMargin
from windvane.types import Pair


def rounds_table(rounds: Sequence[Mapping[str, Any]]) -> Table:
    """Return one column a round: what was kept and added, how noise was told apart, what the policy prefers.

    Takes the entries of ``rounds`` in ``summary.json``; a line that no round has anything to say to is left out.
    """
    made = table("Rounds", "", *(f"round {place}" for place in range(1, len(rounds) + 1)))
    flat = [_flat(each) for each in rounds]
    lines = {
        "offline pairs kept": [_count(each, "pairs_kept") for each in flat],
        "offline pairs dropped": [_count(each, "pairs_dropped") for each in flat],
        "pairs added": [_count(each, "pairs_added") for each in flat],
        "flipped pairs told apart, AUC [95 %]": [_with_interval(each, "noise.auc") for each in flat],
        "dropped pairs that were flipped": [_share(each, "noise.precision") for each in flat],
        "flipped pairs that were dropped": [_share(each, "noise.recall") for each in flat],
        "held-out accuracy [95 %]": [_with_interval(each, "held_out.accuracy") for each in flat],
        "steps": [_count(each, "steps") for each in flat],
        "final loss": [_number(each, "final_loss", 4) for each in flat],
    }
    for name, cells in lines.items():
        if any(cell not in (MISSING, "0") for cell in cells):
            add_row(made, name, *map(plain, cells))
    return made


AGREEMENT = "Pairs whose label the policy agrees with (margin above 0)"
HELD_OUT = "Held-out pairs whose chosen response has the larger implicit reward"


def accuracy_table(accuracy: RewardAccuracy, *, title: str = HELD_OUT) -> Table:
    """Return how often the implicit reward prefers the chosen response, over all pairs and by source."""
    made = table(title, "", "pairs", "share", "95 %")
    rows = [("all", accuracy.n, accuracy.accuracy, accuracy.accuracy_ci)]
    rows += [(each.source, each.n, each.accuracy, each.accuracy_ci) for each in accuracy.by_source]
    for name, n, share, interval in rows:
        between = MISSING if interval is None else f"{interval[0]:.2f} to {interval[1]:.2f}"
        add_row(made, plain(name), str(n), number(share), between)
    return made


def doubted_table(margins: Sequence[PairMargin], pairs: Sequence[Pair], *, limit: int = 5) -> Table:
    """Return the `limit` pairs of the smallest margins: the labels that the policy doubts most."""
    made = table("The smallest margins: labels that the policy is least sure of", "id", "margin", "chosen", "rejected")
    for column in made.columns[2:]:
        column.justify = "left"
    by_id = {pair.id: pair for pair in pairs}
    finite = [margin for margin in margins if math.isfinite(margin.margin)]
    for each in sorted(finite, key=lambda margin: (margin.margin, margin.id))[:limit]:
        pair = by_id[each.id]
        texts = (plain(side.text.strip(), limit=60) for side in (pair.chosen, pair.rejected))
        made.add_row(plain(each.id, limit=24), number(each.margin), *texts)
    return made


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a round and those of its groups, under dotted names."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        group = value.model_dump() if hasattr(value, "model_dump") else value
        if isinstance(group, Mapping):
            found |= {f"{name}.{key}": each for key, each in group.items()}
        else:
            found[name] = group
    return found


def _count(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name)
    return MISSING if value is None else str(value)


def _number(values: Mapping[str, Any], name: str, digits: int = 2) -> str:
    value = values.get(name)
    return number(value, digits) if isinstance(value, int | float) else MISSING


def _share(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name)
    return percent(value) if isinstance(value, int | float) else MISSING


def _with_interval(values: Mapping[str, Any], name: str) -> str:
    interval = values.get(f"{name}_ci")
    between = f" [{number(interval[0])}, {number(interval[1])}]" if interval else ""
    return f"{_number(values, name)}{between}"
