"""How much of the truth a layout shows: neighbours kept, and trustworthiness.

Both compare the plane with the KL divergences themselves, never with what the layout method was
given. Trustworthiness is that of Venna and Kaski 2001 ("Neighborhood preservation in nonlinear
projection methods"), normalised as in scikit-learn. That ties count in a layout's favour, and the
sample of models, are klmap's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from klmap.arrays import Floats, Floats32, Rows
from klmap.store import Distances

NEIGHBORS = 10
"""How many nearest models are compared, where there are more than twenty."""

SAMPLE = 2000
"""Most models of which the neighbours are compared; the others are only among whom to look."""

_BLOCK_VALUES = 1 << 22

Divergence = Callable[[Rows], Floats]
"""``divergence(rows)``: (rows, K) KL of some models and all, in bits per byte."""


@dataclass(frozen=True)
class Quality:
    """How faithful a layout is.

    Attributes:
        neighbors: k, how many nearest models are compared; 0 where there are too few models.
        preserved: share of the k nearest on the map that are among the k nearest by KL; with
            ties at the k-th nearest, all of these count as such.
        trustworthiness: 1 where no model stands among another's k nearest on the map without
            being among its k nearest by KL; less, the farther away those are by rank.
        sampled: number of models it was computed for.
        models: number of models on the map.
    """

    neighbors: int
    preserved: float
    trustworthiness: float
    sampled: int
    models: int


def divergence_of(distances: Distances) -> Divergence | None:
    """KL of some models and all: exact, or without all pairs from components and residuals.

    Returns:
        None where the file has neither.
    """
    kl, points, residual = distances.kl, distances.pca_points, distances.pca_residual
    if kl is not None:
        return lambda rows: np.asarray(kl[rows], np.float64)
    if points is None or residual is None:
        return None
    return _ByComponents(points, residual)


class _ByComponents:
    """``KL(i, j) = |p_i - p_j|^2 + r_i^2 + r_j^2``, where residuals are uncorrelated.

    Args:
        points: (K, r) first principal components, square root of bits per byte.
        residual: (K,) norm of what they leave out.
    """

    def __init__(self, points: Floats32, residual: Floats32) -> None:
        self.points = points.astype(np.float64)
        self.norm = np.einsum("kr,kr->k", self.points, self.points) + residual**2

    def __call__(self, rows: Rows) -> Floats:
        found: Floats = self.points[rows] @ self.points.T
        found *= -2
        found += self.norm[rows, None]
        found += self.norm[None, :]
        return found


def measure(divergence: Divergence, places: Floats, seed: int = 0) -> Quality:
    """How faithful a layout is.

    Args:
        divergence: the truth.
        places: (K, 2) on the map.
        seed: of the sample, where there are more than ``SAMPLE`` models.
    """
    models = len(places)
    # scikit-learn's normalisation holds for fewer neighbours than half of the models.
    k = min(NEIGHBORS, (models - 1) // 2)
    if k < 1:
        return Quality(0, 1.0, 1.0, models, models)
    rows = np.arange(models)
    if models > SAMPLE:
        rows = np.sort(np.random.default_rng(seed).choice(models, SAMPLE, replace=False))
    kept, intrusion = 0, 0.0
    step = max(1, _BLOCK_VALUES // models)
    for begin in range(0, len(rows), step):
        block = rows[begin : begin + step]
        own = np.arange(len(block)), block
        truth = divergence(block)
        truth[own] = np.inf
        apart = ((places[block, None, :] - places[None, :, :]) ** 2).sum(axis=2)
        apart[own] = np.inf
        shown = np.argpartition(apart, k - 1, axis=1)[:, :k]
        values = np.take_along_axis(truth, shown, axis=1)
        ranks = 1 + (truth[:, None, :] < values[:, :, None]).sum(axis=2)
        kept += int((ranks <= k).sum())
        intrusion += float(np.maximum(ranks - k, 0).sum())
    preserved = kept / (len(rows) * k)
    worst = len(rows) * k * (2 * models - 3 * k - 1) / 2
    return Quality(k, preserved, 1 - intrusion / worst, len(rows), models)


def sentence(found: Quality) -> str:
    """The quality in plain words.

    Example: Of each model's 10 nearest, 71 % are among its 10 nearest on the map; trustworthiness
    0.98.
    """
    k, share = found.neighbors, f"{100 * found.preserved:.0f} %"
    if k < 1:
        return "There are too few models to say how faithful the map is."
    if k == 1:
        words = f"For {share} of the models the nearest is the nearest on the map as well"
    else:
        words = f"Of each model's {k} nearest, {share} are among its {k} nearest on the map"
    sampled = ""
    if found.sampled < found.models:
        sampled = f" (computed for {found.sampled:,} of {found.models:,} models)"
    return f"{words}; trustworthiness {found.trustworthiness:.2f}{sampled}."
