"""A plane for each edit of the prompt, on which models and their shifts are both seen, for arrows.

The two principal components of the models show little of the shifts, which go where no model is,
and those of the shifts hide the models. So the plane of an edit is made of one direction of each:
across, the first principal component of the models with the prompts as they are, the same for all
edits; up, the direction of the edit, the mean shift of all models (Takase et al. 2026), less what
lies across. A model that stands high is without the edit as others are with it. Projections are
linear, so an arrow is what is seen of the shift. Planes and shares are klmap's own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from klmap.arrays import Floats, Rows
from klmap.prompt_edits import Edited
from klmap.prompts import Edit

MOST_MODELS = 1000
"""Models that the direction across is of; of more, evenly spaced ones."""

_ROUNDING = 1e-9


@dataclass(frozen=True)
class Planes:
    """M models on the planes of E edits.

    Attributes:
        rows: (M,) rows of the models, those with an edit at least.
        begin: (E, M, 2) the models as they are, around their mean, root of bits per byte.
        end: (E, M, 2) with the edit; NaN where a model lacks it.
        across: share of the models' squared distances from their mean that the first axis shows.
        seen: (E,) share of the squared shifts of each edit that its plane shows; NaN without any.
    """

    rows: Rows
    begin: Floats
    end: Floats
    across: float
    seen: Floats


def find(some: Edited, edits: Sequence[Edit]) -> Planes:
    """The planes, with all models and their ends.

    Args:
        some: the models and edits.
        edits: what was measured of each edit.

    Raises:
        InputError: a file is truncated.
    """
    rows = np.flatnonzero(some.under.any(axis=0))
    mean, first = _across(some, rows)
    axes = np.array([[first, _up(edit.direction, first)] for edit in edits])
    begin = np.empty((len(edits), len(rows), 2))
    end = np.full_like(begin, math.nan)
    total, inside = np.zeros((2, len(edits)))
    spread, done = 0.0, 0
    for block in some.blocks(rows):
        points = (block.base - mean) * some.scale
        spread += float(np.square(points).sum())
        for edit, (places, shift) in enumerate(zip(block.places, block.shifts, strict=True)):
            begin[edit, done : done + len(points)] = points @ axes[edit].T
            step = shift @ axes[edit].T * some.scale
            end[edit, done + places] = begin[edit, done + places] + step
            total[edit] += np.square(shift * some.scale).sum()
            inside[edit] += np.square(step).sum()
        done += len(points)
    shown = float(np.square(begin[0, :, 0]).sum())
    return Planes(
        rows, begin, end, shown / spread if spread > 0 else math.nan,
        inside / np.where(total > 0, total, math.nan),
    )  # fmt: skip


def _across(some: Edited, rows: Rows) -> tuple[Floats, Floats]:
    """(N,) mean of the models, nats, and (N,) their first component of length 1; 0 for one model.

    Its sign is that of its largest entry, so that no linear algebra library decides it.
    """
    total = np.zeros(some.texts)
    for block in some.blocks(rows, []):
        total += block.base.sum(axis=0)
    mean = total / len(rows)
    kept = np.round(np.linspace(0, len(rows) - 1, min(len(rows), MOST_MODELS))).astype(np.intp)
    points = np.concatenate([block.base - mean for block in some.blocks(rows[kept], [])])
    values, weights = np.linalg.eigh(points @ points.T)
    axis = weights[:, -1] @ points
    length = float(np.sqrt(axis @ axis))
    if values[-1] <= 0 or length <= 0:
        return mean, np.zeros(some.texts)
    return mean, axis * (np.sign(axis[np.abs(axis).argmax()]) / length)


def _up(direction: Floats, across: Floats) -> Floats:
    """(N,) the direction of an edit less what lies across, of length 1; 0 where nothing is left."""
    rest = direction - (direction @ across) * across
    length = float(np.sqrt(rest @ rest))
    if length <= _ROUNDING * float(np.sqrt(direction @ direction)):
        return np.zeros(len(rest))
    return np.asarray(rest / length, np.float64)
