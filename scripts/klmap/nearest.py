"""The nearest models of each of very many, without computing all pairs.

Candidates are found in the space of the principal components, and their distances computed over
all texts. Whether that finds the true neighbours is not assumed but measured, on a sample of
models of which all distances are computed. The procedure is klmap's own.

With the points ``p``, the residual norms ``r`` and the unknown correlation ``c`` of two residuals,
``KL = |p_i - p_j|^2 + r_i^2 + r_j^2 - 2 c r_i r_j``. Candidates are those of the smallest value
under one ``c`` for all pairs. Both this and the number of candidates are chosen on one sample of
models, and the recall is measured on another.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from klmap import geometry
from klmap.arrays import Floats32
from klmap.blocks import BLOCK_BYTES, in_order, ranges
from klmap.components import Components
from klmap.design import Design
from klmap.geometry import Neighbors
from klmap.log import Progress, logger

SAMPLE = 200
"""Models of which all distances are computed to choose, and as many again to measure."""

FEWEST_CANDIDATES = 64
MOST_CANDIDATES = 1024
GOAL = 0.998
"""Share of true neighbours that are to be among the candidates, in the first sample."""

ENOUGH = 0.95
"""Below this recall the log warns."""

_CORRELATIONS = (0.0, 0.5, 1.0)
_MARGIN = 64
_STRIDES = 32
_SEED = 0

Rows = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Found:
    """Neighbours, and how far they are to be trusted.

    Attributes:
        neighbors: of every model.
        recall: share of the true neighbours of the sample that are among them. A model as near
            as a true neighbour counts as one.
        sample: number of models in the sample.
    """

    neighbors: Neighbors
    recall: float
    sample: int


def nearest(
    q: Floats32,
    components: Components,
    mean_bytes: float,
    count: int,
    design: Design | None = None,
) -> Found:
    """The nearest models of each model.

    Args:
        q: (K, N) float32 double-centred coordinates, nats.
        components: of the same models.
        mean_bytes: UTF-8 bytes per text, B.
        count: how many neighbours of each model, at most K - 1.
        design: how the texts stand for those of a reference, if they do.
    """
    models = len(q)
    count = min(count, models - 1)
    drawn = np.random.default_rng(_SEED).permutation(models)
    first = np.sort(drawn[:SAMPLE])
    second = np.sort(drawn[SAMPLE : 2 * SAMPLE]) if models > SAMPLE else first
    correlation, candidates = _choose(q, components, first, count)
    logger.info(
        "%d candidates for each model, residuals taken to correlate by %g", candidates, correlation
    )
    found = _search(q, _Space(components, correlation), mean_bytes, count, candidates, design)
    truth = true_neighbors(q, second, count, mean_bytes, design)
    hits = found.kl[second] <= truth.kl[:, -1:] if count else np.ones((1, 1), np.bool_)
    recall = float(hits.mean())
    level = logging.INFO if recall >= ENOUGH else logging.WARNING
    said = "recall %.4f: the share of true neighbours found, of %d models measured against all"
    logger.log(level, said, recall, len(second))
    return Found(found, recall, len(second))


def true_neighbors(
    q: Floats32, rows: Rows, count: int, mean_bytes: float, design: Design | None = None
) -> Neighbors:
    """The nearest models of some models, from all texts and all other models.

    Products of the coordinates choose ``count`` and a margin; differences decide among these.

    Args:
        q: (K, N) float32, nats.
        rows: which models.
        count: how many neighbours of each.
        mean_bytes: UTF-8 bytes per text, B.
        design: how the texts stand for those of a reference, if they do.
    """
    models, texts = q.shape
    chosen = q[rows]
    squares = np.zeros((len(rows), models), np.float32)

    def products(begin: int, end: int) -> Floats32:
        block = q[begin:end]
        norm = np.einsum("ks,ks->k", block, block)
        return np.asarray(norm - 2 * (chosen @ block.T), np.float32)

    parts = list(ranges(models, q.itemsize * texts))
    for (begin, end), part in zip(parts, in_order(products, iter(parts)), strict=True):
        squares[:, begin:end] = part
    squares[np.arange(len(rows)), rows] = np.inf
    near = np.argsort(squares, axis=1, kind="stable")[:, : min(count + _MARGIN, models - 1)]
    return _ranked(q, rows, list(np.sort(near, axis=1)), count, mean_bytes, design)


class _Space:
    """The components such that one matrix product gives the values that rank candidates.

    Args:
        components: points and residual norms.
        correlation: of the residuals of two models, the same for all pairs.
    """

    def __init__(self, components: Components, correlation: float) -> None:
        points, residual = components.points, components.residual[:, None]
        ones = np.ones_like(residual)
        norm = np.einsum("kr,kr->k", points, points)[:, None] + residual**2
        self.left = np.hstack([-2 * points, -2 * correlation * residual, ones])
        self.right = np.ascontiguousarray(np.hstack([points, residual, norm]).T)

    def values(self, rows: Rows) -> Floats32:
        """KL of these models and all, less a number for each row; infinite with themselves."""
        values: Floats32 = self.left[rows] @ self.right
        values[np.arange(len(rows)), rows] = np.inf
        return values


def _choose(q: Floats32, components: Components, rows: Rows, count: int) -> tuple[float, int]:
    """The correlation under which the fewest candidates hold the true neighbours, and how many."""
    true = true_neighbors(q, rows, count, 1.0).index
    needed: list[tuple[int, float]] = []
    for correlation in _CORRELATIONS:
        values = _Space(components, correlation).values(rows)
        bounds = np.take_along_axis(values, true.astype(np.intp), axis=1)
        order = np.sort(values, axis=1)
        ranks = [
            np.searchsorted(line, bound, side="right")
            for line, bound in zip(order, bounds, strict=True)
        ]
        within = np.sort(np.concatenate(ranks)) if count else np.zeros(1)
        needed.append((int(within[int(GOAL * (len(within) - 1))]), correlation))
    fewest, correlation = min(needed)
    most = min(MOST_CANDIDATES, len(q) - 1)
    return correlation, min(most, max(FEWEST_CANDIDATES, 4 * count, fewest + fewest // 4))


def _search(
    q: Floats32,
    space: _Space,
    mean_bytes: float,
    count: int,
    candidates: int,
    design: Design | None,
) -> Neighbors:
    models = len(q)
    progress = Progress(models, "models searched")

    def search(begin: int, end: int) -> Neighbors:
        rows = np.arange(begin, end)
        found = _lowest(space.values(rows), candidates)
        return _ranked(q, rows, found, count, mean_bytes, design)

    index = np.zeros((models, count), np.int32)
    kl, se = np.zeros((2, models, count))
    begin = 0
    for part in in_order(search, ranges(models, 4 * models)):
        end = begin + len(part.index)
        index[begin:end], kl[begin:end], se[begin:end] = part.index, part.kl, part.se
        progress.add(end - begin)
        begin = end
    progress.close()
    return Neighbors(index, kl, se)


def _lowest(values: Floats32, count: int) -> list[Rows]:
    """The columns of the ``count`` lowest values of each row, in rising order of the columns.

    The minima of groups of columns bound the value that is looked for, so that few columns have
    to be sorted. Neighbours in the table are in different groups, because they are often alike.
    """
    columns = values.shape[1]
    groups = columns // _STRIDES
    if groups <= count:
        bounds = np.full(len(values), np.inf, np.float32)
    else:
        minima = values[:, : groups * _STRIDES].reshape(len(values), _STRIDES, groups).min(axis=1)
        minima.partition(count - 1, axis=1)
        bounds = minima[:, count - 1]
    found = []
    for line, bound in zip(values, bounds, strict=True):
        within = np.flatnonzero(line <= bound)
        order = np.argsort(line[within], kind="stable")[:count]
        found.append(np.sort(within[order]))
    return found


def _ranked(
    q: Floats32,
    rows: Rows,
    candidates: list[Rows],
    count: int,
    mean_bytes: float,
    design: Design | None,
) -> Neighbors:
    """The nearest candidates of each model, from differences; ties in the order of the rows.

    Sums in float32 put the candidates in order, but for those that are equal to a few digits. So
    somewhat more than are wanted are summed up again in float64.
    """
    texts = q.shape[1]
    index = np.zeros((len(rows), count), np.int32)
    squares, fourths = np.zeros((2, len(rows), count))
    step = max(1, BLOCK_BYTES // (8 * q.itemsize * texts))
    for place, (row, near) in enumerate(zip(rows, candidates, strict=True)):
        rough = np.zeros(len(near), np.float32)
        for begin in range(0, len(near), step):
            difference = q[near[begin : begin + step]]
            difference -= q[row]
            rough[begin : begin + step] = np.einsum("ps,ps->p", difference, difference)
        few = np.sort(near[np.argsort(rough, kind="stable")[: count + 8]])
        power = (q[few] - q[row]).astype(np.float64)
        power *= power
        exact = power.sum(axis=1)
        order = np.argsort(exact, kind="stable")[:count]
        index[place] = few[order]
        squares[place] = exact[order]
        fourths[place] = geometry.fourth_powers(power[order], design)
    number = texts if design is None else design.texts
    return geometry.as_neighbors(index, squares, fourths, number, mean_bytes)
