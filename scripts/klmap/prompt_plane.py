"""A plane of models as they are and with their prompts edited together, for arrows between them.

The plane is that of the first two principal components of all these vectors. It is linear, so an
arrow on it is what is seen of the shift (Takase et al. 2026), and that of two edits is the sum of
theirs where shifts add up. How much is seen is told: the share of the squared shifts that lies in
the plane. Plane and shares are klmap's own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from klmap.arrays import Floats, Rows
from klmap.prompt_edits import Edited

MOST_VECTORS = 2000
"""Vectors that the components are of; of more, those of evenly spaced models."""


@dataclass(frozen=True)
class Plane:
    """M models and their ends under E edits.

    Attributes:
        rows: (M,) rows of the models, those with an edit at least.
        begin: (M, 2) the models as they are, root of bits per byte.
        end: (E, M, 2) with an edit; NaN where a model lacks it.
        spread: share of the models' squared distances from their mean that lies in the plane.
        seen: (E,) share of the squared shifts of each edit that does; NaN where there are none.
    """

    rows: Rows
    begin: Floats
    end: Floats
    spread: float
    seen: Floats


def find(some: Edited) -> Plane:
    """The plane, with all models and their ends.

    Raises:
        InputError: a file is truncated.
    """
    rows = np.flatnonzero(some.under.any(axis=0))
    mean, axes = _axes(some, rows)
    begin = np.empty((len(rows), 2))
    end = np.full((len(some.names), len(rows), 2), np.nan)
    total, inside = np.zeros((2, len(some.names)))
    total_of_models, done = 0.0, 0
    centre = _mean(some, rows)
    for block in some.blocks(rows):
        part = slice(done, done + len(block.rows))
        begin[part] = (block.base - mean) @ axes.T * some.scale
        total_of_models += float(np.square((block.base - centre) * some.scale).sum())
        for edit, (places, shift) in enumerate(zip(block.places, block.shifts, strict=True)):
            step = shift @ axes.T * some.scale
            end[edit, done + places] = begin[done + places] + step
            total[edit] += np.square(shift * some.scale).sum()
            inside[edit] += np.square(step).sum()
        done += len(block.rows)
    within = float(np.square(begin - begin.mean(axis=0)).sum())
    return Plane(
        rows, begin, end, within / total_of_models if total_of_models > 0 else np.nan,
        inside / np.where(total > 0, total, np.nan),
    )  # fmt: skip


def _mean(some: Edited, rows: Rows) -> Floats:
    """(N,) mean of models, centred, nats."""
    total = np.zeros(some.texts)
    for block in some.blocks(rows, []):
        total += block.base.sum(axis=0)
    return np.asarray(total / len(rows), np.float64)


def _axes(some: Edited, rows: Rows) -> tuple[Floats, Floats]:
    """(N,) mean, nats, and (2, N) axes of length 1, of signs that do not depend on the machine."""
    count = max(MOST_VECTORS // (1 + len(some.names)), 1)
    kept = np.round(np.linspace(0, len(rows) - 1, min(len(rows), count))).astype(np.intp)
    vectors = []
    for block in some.blocks(rows[kept]):
        vectors.append(block.base)
        vectors += [
            block.base[places] + shift
            for places, shift in zip(block.places, block.shifts, strict=True)
        ]
    points = np.concatenate(vectors)
    mean = points.mean(axis=0)
    points -= mean
    values, weights = np.linalg.eigh(points @ points.T)
    axes = np.zeros((2, some.texts))
    for place in range(min(2, len(points))):
        if values[-1 - place] > 0:
            axis = weights[:, -1 - place] @ points
            axis *= np.sign(axis[np.abs(axis).argmax()])
            axes[place] = axis / max(float(np.sqrt(axis @ axis)), 1e-300)
    return mean, axes
