"""Many values in one row of a figure: their density, or dots that do not hide each other."""

from __future__ import annotations

import numpy as np

from klmap.arrays import Floats

_GRID = 220
_WIDE, _HIGH = 0.012, 0.085


def density(values: Floats, low: float, high: float) -> tuple[Floats, Floats]:
    """A Gaussian kernel density with Silverman's width, its highest point 1.

    Args:
        values: (P,) what is spread; logarithms here.
        low: where it begins.
        high: where it ends.

    Returns:
        Places and heights. Values are counted in bins first, so that any number takes no time.
    """
    edges = np.linspace(low, high, _GRID + 1)
    centres = (edges[:-1] + edges[1:]) / 2
    counts = np.histogram(values, edges)[0].astype(np.float64)
    quarters = float(np.subtract(*np.quantile(values, [0.75, 0.25]))) / 1.34
    deviation = min((part for part in (float(values.std()), quarters) if part > 0), default=0.0)
    width = max(0.9 * deviation * len(values) ** -0.2, edges[1] - edges[0])
    kernel = np.exp(-0.5 * ((centres[:, None] - centres[None, :]) / width) ** 2)
    heights = kernel @ counts
    return centres, heights / max(float(heights.max()), 1e-300)


def spread(values: Floats, low: float, high: float) -> Floats:
    """Heights at which dots near each other do not hide each other.

    Args:
        values: (P,) where the dots stand; logarithms here.
        low: where the axis begins.
        high: where it ends.

    Returns:
        (P,) in shares of a row, around 0; the first dot of a place has 0.
    """
    order = np.argsort(values, kind="stable")
    heights = np.zeros(len(values))
    taken: list[tuple[float, float]] = []
    for place in order:
        x = (values[place] - low) / (high - low)
        near = {height for other, height in taken if abs(other - x) < _WIDE}
        choices = [0.0] + [sign * step * _HIGH for step in (1, 2, 3, 4) for sign in (-1, 1)]
        heights[place] = next((choice for choice in choices if choice not in near), 0.0)
        taken.append((x, heights[place]))
    return heights
