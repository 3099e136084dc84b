"""What tables are made of: numbers, names, and text that somebody else wrote.

Text that a model or a file wrote reaches the terminal through `plain` alone: never as rich markup, and without control
characters that could move the cursor, colour the screen or hide what is said.
"""

import re
import unicodedata

from rich import box
from rich.table import Table
from rich.text import Text

MISSING = "–"
"""Stands where nothing was measured."""

_ESCAPE = re.compile(
    r"""\x1b\[[0-?]*[ -/]*[@-~]            # CSI: colours, cursor
    | \x1b[\]PX^_].*?(?:\x07|\x1b\\|$)     # OSC, DCS and the like: titles, links, up to their end
    | \x1b[ -/]*[0-~]                      # other two-letter sequences
    """,
    re.VERBOSE | re.DOTALL,
)
_DIRECTION = frozenset("\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def plain(text: str, *, limit: int | None = None, style: str = "") -> Text:
    """Return foreign text as it is safe to show: no markup, no escape sequences, no control or direction characters.

    Line breaks stay, tabs become spaces, lone surrogates (which no terminal can print) become U+FFFD. Past `limit`
    characters it is cut, with an ellipsis.
    """
    text = _ESCAPE.sub("", text).replace("\r\n", "\n").replace("\r", "\n").replace("\t", "    ")
    shown = "".join(_shown(character) for character in text)
    if limit is not None and len(shown) > limit:
        shown = shown[:limit].rstrip() + " …"
    return Text(shown, style=style)


def _shown(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Cs":
        return "\N{REPLACEMENT CHARACTER}"
    if category in ("Zl", "Zp"):
        return "\n"
    hidden = (category == "Cc" and character != "\n") or character in _DIRECTION
    return "" if hidden else character


def number(value: float | None, digits: int = 2) -> str:
    """Return a number with a true minus sign, none before a zero, or `MISSING`."""
    if value is None:
        return MISSING
    written = f"{value:.{digits}f}"
    return written.lstrip("-") if float(written) == 0 else written.replace("-", "−")


def counted(count: int, name: str) -> str:
    """Return a number with what is counted: ``1 call``, ``2 calls``."""
    return f"{count} {name}" if count == 1 else f"{count} {name}s"


def percent(share: float | None) -> str:
    """Return a share of 0 to 1 as a percentage, or `MISSING`."""
    return MISSING if share is None else f"{100 * share:.0f} %"


def table(title: str, *columns: str) -> Table:
    """Return an empty table in the house style: the first column names, the others are numbers."""
    made = Table(title=Text(title, "bold"), title_justify="left", title_style="", box=box.SIMPLE_HEAD, pad_edge=False)
    made.min_width = len(title) + 1  # rich breaks a title at the width of its table
    for index, column in enumerate(columns):
        made.add_column(Text(column), justify="right" if index else "left", overflow="fold")
    return made


def add_row(to: Table, *cells: str | Text, style: str | None = None) -> None:
    """Add a row whose strings are text, not markup."""
    to.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells), style=style)
