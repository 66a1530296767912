"""How far two sets of distances between the same models agree.

The Mantel correlation is that of the distances of all pairs; its significance comes from models
that are exchanged at random in one of the two (Mantel 1967). The Procrustes correlation is what
remains of one configuration of points when it is turned onto the other (Gower 1975); with the same
test it is PROTEST (Jackson 1995, Peres-Neto and Jackson 2001). To apply them to maps, and the share
of nearest models that both have, is klmap's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from klmap.arrays import Floats, Rows
from klmap.correlation import product, ranks, standard
from klmap.geometry import principal_components

NEIGHBORS = 10
"""How many nearest models are compared, where there are more than twenty."""

PERMUTATIONS = 999
"""Random exchanges of the models in a test; the smallest p-value is one in a thousand."""

TESTED = 100
"""Leading principal coordinates by which the Procrustes correlation is tested. A singular value
decomposition in all dimensions, a thousand times, would take a quarter of an hour."""


@dataclass(frozen=True)
class Side:
    """The KLs of all pairs of models, prepared to be compared.

    Attributes:
        pairs: (P,) float64, KL of the pairs i < j, bits per byte.
        linear: (P,) the same with mean 0 and norm 1; zeros where all are equal.
        ranks: (P,) their ranks, ties sharing their mean, with mean 0 and norm 1; likewise.
        nearest: (K, K) bool, whether a column's model is among the nearest of the row's.
        neighbors: how many nearest there are, ten, or fewer than half of the models; may be 0.
    """

    pairs: Floats
    linear: Floats
    ranks: Floats
    nearest: npt.NDArray[np.bool_]
    neighbors: int


@dataclass(frozen=True)
class Agreement:
    """How far two sets of KLs agree; NaN where there are too few models to say.

    Attributes:
        pearson: correlation of the KLs over pairs of models.
        spearman: the same of their ranks.
        rms: root mean square of their differences, relative to that of their means.
        median: median over pairs of the difference relative to the mean of the two.
        neighbors: share of each model's nearest in the one that are so in the other.
    """

    pearson: float
    spearman: float
    rms: float
    median: float
    neighbors: float


def side(kl: Floats) -> Side:
    """Prepare KLs to be compared.

    Args:
        kl: (K, K) bits per byte, symmetric.
    """
    models = len(kl)
    pairs = kl[np.triu_indices(models, 1)]
    k = min(NEIGHBORS, max((models - 1) // 2, 0))
    nearest = np.zeros((models, models), np.bool_)
    if k:
        others = kl.copy()
        np.fill_diagonal(others, np.inf)
        found = np.argpartition(others, k - 1, axis=1)[:, :k]
        np.put_along_axis(nearest, found, True, axis=1)
    return Side(pairs, standard(pairs), ranks(pairs), nearest, k)


def agreement(first: Side, second: Side) -> Agreement:
    """How far the KLs of the same models agree."""
    difference, mean = np.abs(first.pairs - second.pairs), (first.pairs + second.pairs) / 2
    apart = mean > 0
    rms, median = math.nan, math.nan
    if apart.any():
        rms = float(np.linalg.norm(difference) / np.linalg.norm(mean))
        median = float(np.median(difference[apart] / mean[apart]))
    return Agreement(
        pearson=product(first.linear, second.linear),
        spearman=product(first.ranks, second.ranks),
        rms=rms,
        median=median,
        neighbors=kept(first, second),
    )


def kept(first: Side, second: Side) -> float:
    """Share of each model's nearest in the one that are so in the other; NaN without any."""
    if not first.neighbors:
        return math.nan
    return float((first.nearest & second.nearest).sum() / first.nearest.sum())


@dataclass(frozen=True)
class Test:
    """A correlation and what exchanging models at random makes of it.

    Attributes:
        value: the correlation; NaN where there is none.
        p: share of the exchanges, the identity among them, that reach it; NaN likewise.
    """

    value: float
    p: float


def mantel(first: Floats, second: Floats, seed: int, permutations: int = PERMUTATIONS) -> Test:
    """The Mantel correlation of two sets of distances, with a one-sided p-value.

    Args:
        first: (K, K) distances, symmetric, zero on the diagonal.
        second: the same of the same models.
        seed: of the exchanges.
        permutations: how many exchanges.
    """
    models = len(first)
    upper = np.triu_indices(models, 1)
    fixed = np.zeros((models, models))
    fixed[upper] = standard(first[upper])
    moved = np.zeros((models, models))
    moved[upper] = standard(second[upper])
    moved += moved.T

    def statistic(order: Rows) -> float:
        return float(np.vdot(fixed, moved[np.ix_(order, order)]))

    known = fixed.any() and moved.any()
    return _permuted(statistic, models, seed, permutations) if known else Test(math.nan, math.nan)


def procrustes(first: Floats, second: Floats, seed: int, permutations: int = PERMUTATIONS) -> Test:
    """The Procrustes correlation of two configurations in all their dimensions.

    It is ``sqrt(1 - m2)``, with ``m2`` the sum of squares that is left of one configuration when
    the other, both of unit size, is shifted, turned, mirrored and scaled onto it. Where there are
    more than ``TESTED`` dimensions the p-value is that of the leading ones alone.

    Args:
        first: (K, D) points of the models.
        second: (K, E) points of the same models.
        seed: of the exchanges.
        permutations: how many exchanges.
    """
    one, other = (_unit(principal_components(points)) for points in (first, second))
    if not (one.any() and other.any()):
        return Test(math.nan, math.nan)
    value = _overlap(one, other)
    left, right = _unit(one[:, :TESTED]), _unit(other[:, :TESTED])

    def statistic(order: Rows) -> float:
        return _overlap(left, right[order])

    return Test(value, _permuted(statistic, len(one), seed, permutations).p)


def _unit(points: Floats) -> Floats:
    size = float(np.linalg.norm(points))
    return points / size if size > 0 else points


def _overlap(first: Floats, second: Floats) -> float:
    """The sum of the singular values, the overlap that the best rotation reaches."""
    return float(min(np.linalg.svd(first.T @ second, compute_uv=False).sum(), 1.0))


def _permuted(
    statistic: Callable[[Rows], float], models: int, seed: int, permutations: int
) -> Test:
    rng = np.random.default_rng(seed)
    value = statistic(np.arange(models))
    # Exchanges that change nothing must not fall below the value by rounding.
    least = value - 1e-12 * abs(value)
    reached = sum(statistic(rng.permutation(models)) >= least for _ in range(permutations))
    return Test(value, (reached + 1) / (permutations + 1))
