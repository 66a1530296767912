"""Which benchmark tasks are taken together; klmap's own.

Those that about the same models have (:func:`main_tasks`), and for a mean those in one unit
(:func:`one_unit`).
"""

from __future__ import annotations

import numpy as np

from klmap.benchmarks import Benchmarks

SHARE = 0.8
"""Of the models with the best covered task, those that tasks taken together have to keep."""


def main_tasks(benchmarks: Benchmarks, fewest: int) -> list[str]:
    """Tasks that about the same models have, so that few are lost by asking for all of them.

    Klmap's own: beginning with the best covered, each task joins if the models with all of them
    are still ``SHARE`` of those with the best covered one, and ``fewest`` at least.

    Args:
        benchmarks: of the K models.
        fewest: models with all of the tasks that have to be left.

    Returns:
        Their names in the order of the tables; the best covered is always among them.
    """
    known = np.isfinite(benchmarks.values)
    counts = known.sum(axis=0)
    # Rounded, because 0.8 is none in binary numbers.
    least = max(round(SHARE * counts.max(initial=0), 9), fewest)
    every = np.ones(len(known), dtype=bool)
    chosen: set[int] = set()
    for column in np.argsort(-counts, kind="stable"):
        both = every & known[:, column]
        if not chosen or both.sum() >= least:
            chosen.add(int(column))
            every = both
    return [task for column, task in enumerate(benchmarks.tasks) if column in chosen]


def coverage(benchmarks: Benchmarks) -> str:
    """How many models have every task, and how many with any lack which, for the log."""
    known = np.isfinite(benchmarks.values)
    scored = known[known.any(axis=1)]
    lacking = (~scored).sum(axis=0)
    words = [f"{t} {n:,}" for t, n in zip(benchmarks.tasks, lacking, strict=True) if n]
    without = f"; without a score: {', '.join(words)}" if words else ""
    return f"{scored.all(axis=1).sum():,} of {len(scored):,} models{without}"


def one_unit(benchmarks: Benchmarks) -> bool:
    """Whether a mean of the tasks means something: all are percentages, or all are fractions.

    Klmap's own. A task whose scores are all from 0 to 1 is one of fractions, another from 0 to 100
    one of percentages. Each task has a score at least; a single task is in one unit with itself.
    """
    low, high = np.nanmin(benchmarks.values, axis=0), np.nanmax(benchmarks.values, axis=0)
    if len(benchmarks.tasks) < 2:
        return True
    fractions = high <= 1
    return bool(
        (low >= 0).all()
        and (high <= 100).all()
        and (fractions.all() or not (high[fractions]).any())
    )


def scales(benchmarks: Benchmarks) -> str:
    """From where to where the scores of each task go, for a message."""
    low, high = np.nanmin(benchmarks.values, axis=0), np.nanmax(benchmarks.values, axis=0)
    return ", ".join(
        f"{task} {least:g} to {most:g}"
        for task, least, most in zip(benchmarks.tasks, low, high, strict=True)
    )
