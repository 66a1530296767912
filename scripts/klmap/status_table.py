"""What a run is doing, as plain text: what is at work, what went wrong, and the totals.

The totals stand at the end, where a terminal shows them without scrolling.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from klmap import estimates, terminal
from klmap.files import size_in_words
from klmap.preflight_table import duration, rate
from klmap.status import Overview
from klmap.status_rows import (
    DONE,
    FAILED,
    INTERRUPTED,
    QUEUED,
    RUNNING,
    SILENT,
    STARTING,
    WAITING,
    Row,
    moment,
)

LISTED = 30
"""Scores of one state that are listed one by one; a table names the rest."""

_ORDER = (DONE, RUNNING, STARTING, SILENT, QUEUED, WAITING, INTERRUPTED, FAILED)


def render(overview: Overview, table: Path, width: int = 100) -> str:
    """The whole of it, ready to print.

    Args:
        overview: what is going on.
        table: where the complete table is; named where rows are left out.
        width: columns of the terminal.
    """
    by_state: dict[str, list[Row]] = {}
    for row in overview.rows:
        by_state.setdefault(row.state, []).append(row)
    lines = _running(by_state.get(RUNNING, []), overview, table, width)
    lines += _downloads(overview, width)
    lines += _queued(by_state, table, width)
    for state in (SILENT, INTERRUPTED, FAILED):
        lines += _wrong(state, by_state.get(state, []), table, width)
    return "\n".join([*lines, *terminal.entries(_totals(by_state, overview), width)]) + "\n"


def _more(rows: Sequence[Row], table: Path) -> list[str]:
    left = len(rows) - LISTED
    return [f"  ... and {left:,} more: {table}"] if left > 0 else []


def _running(rows: Sequence[Row], overview: Overview, table: Path, width: int) -> list[str]:
    if not rows:
        return []
    cells = [
        (
            *(row.wanted.model, row.wanted.texts, row.host, row.job),
            "" if row.since is None else moment(row.since, overview.now),
            "" if row.share is None else f"{row.share:.0%}",
            "" if row.rate is None else f"{row.rate:,.0f}",
            "loading" if row.left is None else duration(row.left),
        )
        for row in sorted(rows, key=lambda row: (row.left is None, -(row.left or 0.0)))[:LISTED]
    ]
    header = ("running", "texts", "host", "SLURM job", "since", "done", "tokens/s", "left")
    return [*terminal.table(header, cells, width, left=4), *_more(rows, table), ""]


def _downloads(overview: Overview, width: int) -> list[str]:
    if not overview.downloads:
        return []
    cells = [
        (
            found.source,
            found.host,
            moment(found.since, overview.now),
            size_in_words(found.found) if found.granted else "waits for room",
            size_in_words(found.size),
        )
        for found in overview.downloads
    ]
    header = ("fetching", "host", "since", "here", "of")
    return [*terminal.table(header, cells, width, left=2), ""]


def _queued(by_state: dict[str, list[Row]], table: Path, width: int) -> list[str]:
    rows = [*by_state.get(STARTING, []), *by_state.get(QUEUED, [])]
    if not rows:
        return []
    cells = [
        (row.wanted.model, row.wanted.texts, row.state, row.job, row.reason)
        for row in rows[:LISTED]
    ]
    header = ("in the queue", "texts", "state", "SLURM job", "reason")
    return [*terminal.table(header, cells, width, left=5), *_more(rows, table), ""]


def _wrong(state: str, rows: Sequence[Row], table: Path, width: int) -> list[str]:
    """Scores that need a look, each with what is known: those that failed for good first."""
    if not rows:
        return []
    shown = sorted(rows, key=lambda row: not row.final)[:LISTED]
    cells = [(row.wanted.model, row.wanted.texts, _next(row)) for row in shown]
    below = [[row.reason, *([row.log] if row.log else [])] for row in shown]
    lines = terminal.table((state, "texts", "next"), cells, width, below, left=3)
    return [*lines, *_more(rows, table), ""]


def _next(row: Row) -> str:
    if row.final:
        return "never, as configured"
    return "is tried again"


def _totals(by_state: dict[str, list[Row]], overview: Overview) -> list[tuple[str, str]]:
    entries = [("scores", _scores(by_state, overview.rows))]
    waiting = Counter(row.reason for row in by_state.get(WAITING, []))
    if waiting:
        parts = (f"{number:,} {reason}" for reason, number in waiting.most_common())
        entries.append(("waiting", "; ".join(parts)))
    if overview.disk:
        entries.append(("disk", f"{size_in_words(overview.disk)} of weights"))
    entries += _hours(overview)
    entries += _cluster(overview)
    is_unfinished = len(by_state.get(DONE, [])) < len(overview.rows)
    return [*entries, ("the run", _run(overview, is_unfinished))]


def _scores(by_state: dict[str, list[Row]], rows: Sequence[Row]) -> str:
    parts = []
    for state in _ORDER:
        found = by_state.get(state, [])
        if found or state == DONE:
            parts.append(f"{len(found):,} {state}")
        final = sum(row.final for row in found)
        if final > 0:
            parts[-1] += f" ({final:,} for good)"
    return f"{', '.join(parts)}, of {len(rows):,}"


def _hours(overview: Overview) -> list[tuple[str, str]]:
    """Device hours that finished scores took, and those that the others will take."""
    entries = []
    gpu = [cost for cost in overview.costs if cost.gpus]
    cpu = [cost for cost in overview.costs if not cost.gpus and cost.seconds]
    on_gpu = [row for row in overview.rows if overview.speed.gpu and not row.demo]
    on_cpu = [row for row in overview.rows if row.demo or not overview.speed.gpu]
    missing = f" ({overview.uncounted:,} more files are read by later calls)"
    missing *= bool(overview.uncounted)
    for label, costs, rows in (("GPU hours", gpu, on_gpu), ("CPU hours", cpu, on_cpu)):
        open_rows = [row for row in rows if row.state != DONE and not row.final]
        if costs or open_rows:
            hours = sum(max(cost.gpus, 1) * cost.seconds for cost in costs) / 3600
            used = f"{_amount(hours)} for {len(costs):,} finished {_noun(len(costs))}"
            text = f"{used if costs else 'none yet'}{missing}; {_left(open_rows, overview)}"
            entries.append((label, text))
    return entries


def _left(rows: Sequence[Row], overview: Overview) -> str:
    """Device hours of what is not finished, and how long that is with what is at work now."""
    if not rows:
        return "nothing is left"
    known = [row.seconds for row in rows if row.seconds is not None]
    unknown = len(rows) - len(known)
    if not known:
        return f"unknown for {unknown:,} {_noun(unknown)} to come"
    hours = sum(known) / 3600
    amount = _amount(hours) if hours < 0.05 else f"about {_amount(hours)}"
    text = f"{amount} to come for {len(known):,} {_noun(len(known))}"
    if unknown:
        text += f", unknown for {unknown:,}"
    at_work = sum(max(row.gpus, 1) for row in rows if row.state == RUNNING)
    if at_work and not rows[0].demo and overview.speed.gpu:
        gpus = "GPU" if at_work == 1 else f"{at_work:,} GPUs"
        text += f" ({duration(sum(known) / at_work)} with the {gpus} now at work)"
    if overview.speed.gpu and not overview.speed.sample and not rows[0].demo:
        text += f"; assumed are {rate(estimates.ASSUMED_FLOPS)} per GPU"
    return text


def _amount(hours: float) -> str:
    if hours < 0.05:
        return "less than 0.1"
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.1f}"


def _noun(number: int) -> str:
    return "score" if number == 1 else "scores"


def _cluster(overview: Overview) -> list[tuple[str, str]]:
    """The queue in numbers, and jobs that nobody waits for any more."""
    queue = overview.queue
    if queue.trouble:
        return [("SLURM", f"the queue is unknown, all else is from files: {queue.trouble}")]
    if not queue.jobs:
        return []
    states = Counter(job.state.lower() for job in queue.jobs)
    entries = [("SLURM", f"{len(queue.jobs):,} jobs of this folder: {_counted(states)}")]
    # A run is at work elsewhere, or was killed: nobody here can know.
    left = queue.orphans if overview.heads else queue.runs
    for run, found in sorted(left.items()):
        whose = "an earlier run, which has ended"
        if run not in queue.orphans:
            whose = "a run that is not at work on this machine; if it was killed"
        entries.append(("", f"{_counted(found)} of {whose}: let them go on, or end them with"))
        entries.append(("", f"scancel --name={run}"))
    return entries


def _counted(states: Counter[str]) -> str:
    return ", ".join(f"{number:,} {state}" for state, number in _sorted(states))


def _sorted(states: Counter[str]) -> Iterable[tuple[str, int]]:
    return sorted(states.items(), key=lambda item: (item[0] != "running", item[0]))


def _run(overview: Overview, is_unfinished: bool) -> str:
    if overview.heads:
        names = (
            f"process {head.pid}, since {moment(head.began, overview.now)}"
            for head in overview.heads
        )
        return f"at work on this machine: {'; '.join(names)}"
    text = "no Snakemake is at work in this folder on this machine"
    if overview.queue.jobs:
        return f"{text}; without one on another machine, nothing is submitted after these jobs"
    return f"{text}; the next one goes on where this stands" if is_unfinished else text
