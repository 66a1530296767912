"""What finished scores have cost, as plain text: the most wasteful and the slowest, then totals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from klmap import terminal
from klmap.efficiency import Cost
from klmap.files import size_in_words
from klmap.preflight_table import count, duration, rate

LISTED = 12
"""Scores of one kind that are listed one by one; a table has the rest."""

_HEADER = ("model", "texts", "size", "GPUs", "time", "scoring", "tokens/s", "speed", "memory")


def render(costs: Sequence[Cost], table: Path, width: int = 100) -> str:
    """The whole of it, ready to print.

    Args:
        costs: what each finished score has cost.
        table: where the complete table is.
        width: columns of the terminal.
    """
    done = [cost for cost in costs if cost.status == "ok" and cost.seconds > 0]
    lines: list[str] = []
    if done:
        lines += _list("most time without scoring", done, lambda cost: cost.waste, width)
    if len(done) > LISTED:
        lines += _list("slowest", done, lambda cost: (_speed(cost), cost.score), width)
    if done:
        lines += ["by device", *_devices(done, width), ""]
    return "\n".join([*lines, *terminal.entries(_totals(costs, done, table), width)]) + "\n"


def _list(
    title: str, costs: Sequence[Cost], order: Callable[[Cost], tuple[float, str]], width: int
) -> list[str]:
    shown = sorted(costs, key=order)[:LISTED]
    rows = [
        (
            *(cost.model, cost.texts),
            count(cost.parameters) if cost.parameters else "",
            str(cost.gpus) if cost.gpus else "CPU",
            duration(cost.seconds),
            f"{cost.scoring_seconds / cost.seconds:.0%}",
            f"{cost.tokens_per_second:,.0f}",
            rate(_speed(cost)) if cost.tflops else "",
            size_in_words(cost.memory) if cost.share is None else f"{cost.share:.0%}",
        )
        for cost in shown
    ]
    return [title, *terminal.table(_HEADER, rows, width, left=2), ""]


def _speed(cost: Cost) -> float:
    """Operations per second of one GPU, or of the CPU."""
    return cost.tflops * 1e12 / max(cost.gpus, 1)


def _devices(costs: Sequence[Cost], width: int) -> list[str]:
    """One line per kind of device: hours, and speed and memory over all its scores."""
    kinds: dict[tuple[bool, str], list[Cost]] = {}
    for cost in costs:
        kinds.setdefault((cost.gpus == 0, cost.device), []).append(cost)
    rows = []
    for (is_cpu, device), found in sorted(kinds.items()):
        hours = sum(max(cost.gpus, 1) * cost.seconds for cost in found) / 3600
        scored = sum(max(cost.gpus, 1) * cost.scoring_seconds for cost in found)
        work = sum(cost.tflops * 1e12 * cost.scoring_seconds for cost in found)
        used = max(found, key=lambda cost: cost.share or cost.memory)
        memory = size_in_words(used.memory) if used.share is None else f"{used.share:.0%}"
        rows.append(
            (
                device or "unknown",
                *(f"{len(found):,}", f"{hours:,.1f} {'CPU' if is_cpu else 'GPU'}"),
                *(f"{scored / 3600 / hours:.0%}", rate(work / scored) if work else "", memory),
            )
        )
    header = ("device", "scores", "hours", "scoring", "speed", "most memory")
    return terminal.table(header, rows, width)


def _totals(costs: Sequence[Cost], done: Sequence[Cost], table: Path) -> list[tuple[str, str]]:
    failed = sum(cost.status == "failed" for cost in costs)
    number = f"{len(done):,} finished" + (f", {failed:,} failed for good" if failed else "")
    entries = [("scores", number)]
    on_gpu = [cost for cost in done if cost.gpus]
    if on_gpu:
        hours = sum(cost.gpu_hours for cost in on_gpu)
        idle = sum(cost.idle_hours for cost in on_gpu) / hours
        entries += [
            ("GPU hours", f"{hours:,.1f}, {idle:.0%} of them for loading and error bars"),
            ("speed", "2 operations per parameter and token, of one GPU, while it scores"),
            ("memory", "used at most, of hardware.gpu_memory_gb times the number of GPUs"),
            (
                "host memory",
                "not in the score files of GPUs; where your cluster keeps accounts, "
                "sacct --format JobID,ReqMem,MaxRSS has it",
            ),
        ]
    return [*entries, ("table", str(table))]
