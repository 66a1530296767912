"""Tables and labelled lines in plain text, for a terminal of any width."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

NARROWEST = 60
"""Columns below which nothing is squeezed any more."""

LABEL = 14
"""Columns of the labels of a list of entries."""


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    width: int,
    below: Sequence[Sequence[str]] = (),
    left: int = 1,
) -> list[str]:
    """Lines of a table; a name that is too long for the first column has a line to itself.

    Args:
        header: names of the columns.
        rows: one cell per column.
        width: columns of the terminal.
        below: for each row the paragraphs that stand under it; none at all by default.
        left: number of columns that are aligned to the left; numbers are to the right.
    """
    cells = [header, *rows]
    widths = [max(len(line[index]) for line in cells) for index in range(len(header))]
    room = max(width, NARROWEST) - sum(widths[1:]) - 2 * len(widths)
    widths[0] = max(min(widths[0], room), len(header[0]))
    lines = [_line(header, widths, left)]
    for number, row in enumerate(rows):
        lines.append(_line(row, widths, left))
        for text in below[number] if below else ():
            lines += wrapped(text, width, " " * 6)
    return lines


def _line(cells: Sequence[str], widths: Sequence[int], left: int) -> str:
    name, *others = cells
    above = f"  {name}\n" if len(name) > widths[0] else ""
    parts = ["" if above else name, *others]
    row = [
        cell.ljust(size) if column < left else cell.rjust(size)
        for column, (cell, size) in enumerate(zip(parts, widths, strict=True))
    ]
    return above + ("  " + "  ".join(row)).rstrip()


def entries(pairs: Iterable[tuple[str, str]], width: int) -> list[str]:
    """Lines of labelled texts; an empty label goes on with the one above."""
    lines = []
    for label, text in pairs:
        lines += wrapped(text, width, f"{label:<{LABEL}}", " " * LABEL)
    return lines


def wrapped(text: str, width: int, first: str, others: str | None = None) -> list[str]:
    """A paragraph in lines, with what stands before the first one and before the others."""
    return textwrap.wrap(
        text,
        max(width, NARROWEST),
        initial_indent=first,
        subsequent_indent=first if others is None else others,
        break_long_words=False,
        break_on_hyphens=False,
    )
