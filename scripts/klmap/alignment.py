"""Turning one layout onto another, and how far its models have moved.

A layout is as good shifted, turned, mirrored or, by t-SNE and UMAP, at another scale. What these
can undo is no movement. The fit is the orthogonal Procrustes problem (Schönemann 1966), with a
scale as in Gower 1975.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from klmap.arrays import Floats

Rows = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Movement:
    """How a layout differs from the one before it.

    Attributes:
        kept: models that both have.
        new: models that the one before did not have.
        gone: models that only the one before had.
        median: of the distances that the kept models have moved, as a share of the map's width.
        p95: their 95th percentile.
        largest: the largest of them.
    """

    kept: int
    new: int
    gone: int
    median: float
    p95: float
    largest: float


def onto(places: Floats, rows: Rows, targets: Floats, scaled: bool) -> Floats:
    """Places shifted and turned, or mirrored, so that some of them come near their targets.

    Args:
        places: (K, 2).
        rows: (n,) integers, which of the places have a target; at least one.
        targets: (n, 2) where they should come.
        scaled: whether the scale may change as well.

    Returns:
        (K, 2) float64; the sum of squared distances from the targets is the smallest possible.
    """
    found = places[rows]
    centre, goal = found.mean(axis=0), targets.mean(axis=0)
    found = found - centre
    left, sizes, right = np.linalg.svd(found.T @ (targets - goal))
    turned = (places - centre) @ (left @ right)
    squares, overlap = float((found**2).sum()), float(sizes.sum())
    if scaled and squares > 0 and overlap > 0:
        turned *= overlap / squares
    return np.asarray(turned + goal, np.float64)


def width(places: Floats) -> float:
    """The larger side of the box around all places."""
    return float(np.ptp(places, axis=0).max()) if len(places) else 0.0


def movement(places: Floats, rows: Rows, targets: Floats, gone: int) -> Movement:
    """How far the models have moved that were there before.

    Args:
        places: (K, 2) of all models.
        rows: (n,) integers, which of them were there before.
        targets: (n, 2) where these were.
        gone: how many models have left.
    """
    side = width(places)
    moved = np.linalg.norm(places[rows] - targets, axis=1) / (side if side > 0 else 1.0)
    median, p95, largest = (float(np.quantile(moved, q)) for q in (0.5, 0.95, 1.0))
    return Movement(len(rows), len(places) - len(rows), gone, median, p95, largest)


def sentence(moved: Movement) -> str:
    """The movement in plain words.

    Example: 26 models kept their places (median movement 0.4 % of the map's width); 2 are new.
    """
    words = f"{moved.kept:,} models kept their places"
    if moved.kept == 1:
        words = "1 model kept its place"
    parts = [f"{words} (median movement {100 * moved.median:.1f} % of the map's width)"]
    if moved.new:
        parts.append(f"{moved.new:,} {'is' if moved.new == 1 else 'are'} new")
    if moved.gone:
        parts.append(f"{moved.gone:,} {'has' if moved.gone == 1 else 'have'} left")
    return "; ".join(parts) + "."
