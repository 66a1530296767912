"""Labels beside points, without overlaps: each goes to the best of many places around its point."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_ANGLES = 24
_GAPS = (1.0, 5.0, 11.0, 19.0, 30.0, 44.0, 62.0, 84.0)
_SWEEPS = 12
_MOST_HIDDEN = 0.02

# What a bad place costs, in units of one label height of distance from the point.
_ON_LABEL = 60.0
_ON_MARKER = 14.0
_ON_LINE = 2.5
_OUTSIDE = 100.0
_AWAY = 0.5
_LEFT = 0.25


@dataclass(frozen=True)
class Placement:
    """Where a label goes.

    Attributes:
        center: x and y of the middle of its box.
        anchor: the point of the box nearest to the marker, where a leader line ends.
        gap: free space between marker and box.
    """

    center: tuple[float, float]
    anchor: tuple[float, float]
    gap: float


def arrange(
    points: Floats,
    radii: Floats,
    sizes: Floats,
    bounds: tuple[float, float, float, float],
    lines: Floats,
) -> list[Placement | None]:
    """Place one label beside each point; the result depends on the input alone.

    Every label starts at its cheapest place and moves, in turns, to the place that is cheapest
    given the others. What a label costs is how much of it lies on other labels, markers and
    lines or outside the frame, and how far it is from its point.

    Args:
        points: (M, 2) points to label, in the unit of everything else here.
        radii: (M,) radius of the points' markers.
        sizes: (M, 2) width and height of the labels.
        bounds: left, bottom, right and top of the frame.
        lines: (S, 2) samples of the lines that labels should stay clear of.

    Returns:
        One placement per point, None for a label that would cover another one.
    """
    if not len(points):
        return []
    centers, gaps = _candidates(points, radii, sizes)
    fixed = _fixed_costs(centers, gaps, points, radii, sizes, bounds, lines)
    chosen = fixed.argmin(axis=1)
    crowding = np.sort(fixed, axis=1)[:, : centers.shape[1] // 3].mean(axis=1)
    order = np.argsort(-crowding, kind="stable")
    placed = np.take_along_axis(centers, chosen[:, None, None], axis=1)[:, 0]
    for _ in range(_SWEEPS):
        moved = False
        for label in order:
            others = np.arange(len(points)) != label
            hidden = _overlap(centers[label], sizes[label], placed[others], sizes[others])
            cost = fixed[label] + _ON_LABEL * hidden.sum(axis=1) / sizes[label].prod()
            best = int(cost.argmin())
            if best != chosen[label]:
                chosen[label], moved = best, True
                placed[label] = centers[label, best]
        if not moved:
            break
    kept = _without_hidden(placed, sizes)
    return [
        _placement(placed[row], sizes[row], points[row], gaps[row, chosen[row]])
        if kept[row]
        else None
        for row in range(len(points))
    ]


def sample_segments(segments: Sequence[Floats], step: float) -> Floats:
    """Points along polylines, ``step`` apart, as (S, 2)."""
    samples = [np.zeros((0, 2))]
    for line in segments:
        for begin, end in itertools.pairwise(line):
            count = max(2, int(np.hypot(*(end - begin)) / step))
            share = np.linspace(0, 1, count)[:, None]
            samples.append(begin + share * (end - begin))
    return np.concatenate(samples)


def _candidates(points: Floats, radii: Floats, sizes: Floats) -> tuple[Floats, Floats]:
    """(M, C, 2) centres of boxes around each point, and (M, C) their distance from the marker."""
    angle = 2 * np.pi * np.arange(_ANGLES) / _ANGLES
    direction = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    gap = np.repeat(np.array(_GAPS), _ANGLES)
    direction = np.tile(direction, (len(_GAPS), 1))
    # Walking outwards, the box clears the marker when one of its sides does.
    reach = (radii[:, None] + gap)[:, :, None] * direction
    offset = reach + np.clip(direction * 3, -1, 1) * sizes[:, None, :] / 2
    return points[:, None, :] + offset, np.broadcast_to(gap, (len(points), len(gap))).copy()


def _fixed_costs(
    centers: Floats,
    gaps: Floats,
    points: Floats,
    radii: Floats,
    sizes: Floats,
    bounds: tuple[float, float, float, float],
    lines: Floats,
) -> Floats:
    """(M, C) what each place costs whatever the other labels do."""
    left, bottom, right, top = bounds
    frame = np.array([[(left + right) / 2, (bottom + top) / 2]])
    size_of_frame = np.array([[right - left, top - bottom]])
    costs = _AWAY * gaps / sizes[:, 1:] + _LEFT * (centers[:, :, 0] < points[:, None, 0])
    squares = np.repeat(2 * radii[:, None], 2, axis=1)
    for row, size in enumerate(sizes):
        area = size.prod()
        inside = _overlap(centers[row], size, frame, size_of_frame)[:, 0]
        costs[row] += _OUTSIDE * (1 - inside / area)
        costs[row] += _ON_MARKER * (
            _overlap(centers[row], size + 2, points, squares) / squares.prod(axis=1)
        ).sum(axis=1)
        away = np.abs(lines[None, :, :] - centers[row][:, None, :])
        costs[row] += _ON_LINE * (away < size / 2 + 1).all(axis=2).sum(axis=1)
    return costs


def _overlap(centers: Floats, size: Floats, others: Floats, other_sizes: Floats) -> Floats:
    """(C, O) area shared by boxes of one size at many centres with other boxes."""
    distance = np.abs(centers[:, None, :] - others[None, :, :])
    shared = np.minimum((size + other_sizes) / 2 - distance, np.minimum(size, other_sizes))
    return np.asarray(np.maximum(shared, 0).prod(axis=2), np.float64)


def _without_hidden(placed: Floats, sizes: Floats) -> npt.NDArray[np.bool_]:
    """Which labels stay when those that still cover another one are left out."""
    kept = np.ones(len(placed), np.bool_)
    hidden = np.stack(
        [
            _overlap(placed[row : row + 1], sizes[row], placed, sizes)[0] / sizes[row].prod()
            for row in range(len(placed))
        ]
    )
    np.fill_diagonal(hidden, 0)
    while True:
        worst = np.where(kept, (hidden * kept).max(axis=1), 0)
        if worst.max() <= _MOST_HIDDEN:
            return kept
        kept[worst.argmax()] = False


def _placement(center: Floats, size: Floats, point: Floats, gap: float) -> Placement:
    anchor = np.clip(point, center - size / 2, center + size / 2)
    return Placement(
        (float(center[0]), float(center[1])), (float(anchor[0]), float(anchor[1])), float(gap)
    )
