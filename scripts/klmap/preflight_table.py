"""Pre-flight as plain text: what is wrong with which model, what is ready, what the run will take.

Problems come first, each with its reason and the fix; the totals stand at the end, where a
terminal shows them without scrolling.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from klmap import estimates
from klmap.estimates import Speed
from klmap.files import size_in_words
from klmap.preflight import BLOCKING, BUILT_HERE, FINE, READY, SCORED, UNUSABLE, Outlook, Row
from klmap.questions import is_demo

LISTED = 40
"""Models of one state that are listed one by one; a table names the rest."""

NARROWEST = 60

_ORDER = (
    *BLOCKING,
    *("needs a token", "gone", "not a causal LM", "of another kind", "needs remote code", UNUSABLE),
    *FINE,
)
_HEADER = ("model", "state", "parameters", "download", "GPUs", "time")
_LABEL = 14


def render(outlook: Outlook, table: Path, width: int = 100) -> str:
    """The whole of it, ready to print.

    Args:
        outlook: what pre-flight found.
        table: where the complete table is; named where rows are left out.
        width: columns of the terminal.
    """
    width = max(width, NARROWEST)
    groups: dict[str, list[Row]] = {}
    for row in outlook.rows:
        groups.setdefault(row.state, []).append(row)
    states = sorted(groups, key=_rank)
    shown = [row for state in states for row in groups[state][:LISTED]]
    columns = _columns(shown, width)
    lines = [_line(_HEADER, columns)]
    for state in states:
        for row in groups[state][:LISTED]:
            lines += _paragraph(row, columns, width)
        left = len(groups[state]) - LISTED
        if left > 0:
            lines.append(f"  ... and {left:,} more {state}: {table}")
        if state not in FINE or states[-1] != state:
            lines.append("")
    return (
        "\n".join([*lines, *([] if lines[-1] == "" else [""]), *_totals(outlook, table, width)])
        + "\n"
    )


def _rank(state: str) -> int:
    return _ORDER.index(state) if state in _ORDER else _ORDER.index(UNUSABLE)


def _cells(row: Row) -> tuple[str, ...]:
    card = row.card
    return (
        row.model,
        row.state,
        count(card.parameters) if card and card.parameters else "",
        size_in_words(row.download) if row.download and row.state != SCORED else "",
        str(row.gpus) if row.gpus and row.state != SCORED else "",
        "" if row.seconds is None else duration(row.seconds),
    )


def _columns(rows: Sequence[Row], width: int) -> list[int]:
    """Widths of the columns; that of the names takes what is left."""
    cells = [_HEADER, *map(_cells, rows)]
    widths = [max(len(line[index]) for line in cells) for index in range(len(_HEADER))]
    rest = sum(widths[1:]) + 2 * len(widths)
    return [min(widths[0], width - rest), *widths[1:]]


def _line(cells: Sequence[str], columns: Sequence[int]) -> str:
    """One line of the table; a name that is too long for its column has a line to itself."""
    name, state, *numbers = cells
    row = [state.ljust(columns[1])]
    row += [cell.rjust(width) for cell, width in zip(numbers, columns[2:], strict=True)]
    above = f"  {name}\n" if len(name) > columns[0] else ""
    first = "" if above else name
    return above + f"  {first:<{columns[0]}}  {'  '.join(row)}".rstrip()


def _paragraph(row: Row, columns: Sequence[int], width: int) -> list[str]:
    """A line of the table and, below it, what is wrong and what to do."""
    reason = row.reason
    revision = row.source.revision
    for name in (f"{row.source.id}@{revision}: ", f"{row.source.id}: ", f"{row.model}: "):
        reason = reason.removeprefix(name)
    indent = " " * 6
    wrapped = textwrap.wrap(
        reason,
        width,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [_line(_cells(row), columns), *wrapped]


def _totals(outlook: Outlook, table: Path, width: int) -> list[str]:
    ready = [row for row in outlook.rows if row.state == READY]
    entries = [("models", _models(outlook)), ("download", _download(ready, outlook))]
    entries += _times(ready, outlook, table.parent)
    entries += _verdict(outlook)
    lines = []
    for label, text in entries:
        lines += textwrap.wrap(
            text,
            width,
            initial_indent=f"{label:<{_LABEL}}",
            subsequent_indent=" " * _LABEL,
            break_long_words=False,
            break_on_hyphens=False,
        )
    return lines


def _models(outlook: Outlook) -> str:
    found = Counter(row.state for row in outlook.rows)
    parts = [f"{number:,} {state}" for state, number in sorted(found.items(), key=_last_first)]
    return f"{len(outlook.rows):,}: {', '.join(parts)}"


def _last_first(item: tuple[str, int]) -> tuple[int, str]:
    """Order of the states in a sentence: what is fine, then the problems."""
    return (0 if item[0] in FINE else 1, f"{_rank(item[0]):02d}{item[0]}")


def _download(ready: Iterable[Row], outlook: Outlook) -> str:
    budget = f"disk budget {size_in_words(outlook.hardware.disk_budget_gb * 1e9)} at a time"
    sources = {row.source.name: row.download for row in ready if row.download}
    if not sources:
        return f"nothing; {budget}"
    largest = max(sorted(sources), key=lambda name: sources[name])
    number = (
        f"{len(sources):,} models, the largest {largest} with {size_in_words(sources[largest])}"
    )
    if len(sources) == 1:
        number = largest
    return f"{size_in_words(sum(sources.values()))}: {number}; {budget}"


def _times(ready: Sequence[Row], outlook: Outlook, results: Path) -> list[tuple[str, str]]:
    """Device hours of what is ready, on GPUs and on CPUs, and what the estimate rests on."""
    entries = []
    kinds = ((False, outlook.speed), (True, outlook.demo_speed))
    for demo, speed in kinds:
        rows = [row for row in ready if is_demo(row.source) is demo]
        if rows:
            entries.append(("GPU hours" if speed.gpu else "CPU hours", _time(rows, speed)))
    unknown = [name for name, tokens in sorted(outlook.tokens.items()) if tokens is None]
    if unknown and ready:
        made = " ".join(f"{results / name / 'texts.json'}" for name in unknown)
        entries.append(("", f"not counted: texts of unknown number; `snakemake {made}` makes them"))
    if any(row.state == BUILT_HERE for row in outlook.rows):
        entries.append(("", "not counted: models that are built here, each seconds to score"))
    return entries


def _time(rows: Sequence[Row], speed: Speed) -> str:
    scores = sum(row.missing for row in rows)
    noun = "score" if scores == 1 else "scores"
    if not speed.is_known:
        return f"unknown for {scores:,} {noun}: no finished one to measure the speed from yet"
    known = [row.seconds for row in rows if row.seconds is not None]
    if not known:
        return f"unknown for {scores:,} {noun}"
    hours = sum(known) / 3600
    amount = f"about {hours:,.0f}" if hours >= 10 else f"about {hours:.1f}"
    amount = amount if hours >= 0.05 else "less than 0.1"
    where = "" if speed.gpu else " on this machine"
    if not speed.sample:
        basis = (
            f"nothing is measured yet, {rate(estimates.ASSUMED_FLOPS)} per GPU and "
            f"{estimates.ASSUMED_STARTUP:.0f} s to start are assumed"
        )
    else:
        speeds = sorted(found.flops for found in speed.sample)
        number = len(speeds)
        of = f"{number:,} finished scores" if number > 1 else "one finished score"
        basis = f"{rate(speeds[number // 2])} and {speed.startup:.0f} s to start, measured on {of}"
    return f"{amount}{where} for {scores:,} {noun}; {basis}"


def _verdict(outlook: Outlook) -> list[tuple[str, str]]:
    entries = []
    skipped = [row for row in outlook.rows if outlook.is_skipped(row)]
    if skipped:
        text = f"{_number(skipped)}: the map is drawn without, failures.tsv says why"
        entries.append(("skipped", text))
    blocking = outlook.blocking
    if not blocking:
        return [*entries, ("the run", "can go through")]
    text = f"not yet: {_number(blocking)} to mend first, see above"
    if any(row.state not in BLOCKING for row in blocking):
        text += (
            "; or on_model_failure: skip in config.yaml, which leaves out those that cannot be used"
        )
    return [*entries, ("the run", text)]


def _number(rows: Sequence[Row]) -> str:
    return "1 model" if len(rows) == 1 else f"{len(rows):,} models"


def count(value: int) -> str:
    """A number of parameters in words, such as ``6.9 B``."""
    for unit, digits in (("B", 1e9), ("M", 1e6)):
        if value >= digits:
            return f"{value / digits:,.{0 if value >= 100 * digits else 1}f} {unit}"
    return f"{value / 1e3:.0f} k"


def duration(seconds: float) -> str:
    """Device time in words, such as ``12 min``."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:,.1f} h"


def rate(flops: float) -> str:
    """Operations per second in words, such as ``210 TFLOP/s``."""
    if flops >= 1e12:
        return f"{flops / 1e12:,.0f} TFLOP/s"
    return f"{flops / 1e9:,.{0 if flops >= 1e10 else 1}f} GFLOP/s"
