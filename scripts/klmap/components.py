"""Principal components of very many models, by blocks of rows.

A randomised range finder with power iterations (Halko, Martinsson and Tropp 2011, "Finding
structure with randomness", algorithms 4.4 and 5.1) on the coordinates Q of Oyama et al. 2025
(section 3). What the components leave out is kept as one number per model; the bounds that
follow from it are klmap's own.

The components are those of the models' coordinates in units in which a squared distance is a KL
divergence in bits per byte (:func:`klmap.geometry.features`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from klmap import geometry
from klmap.arrays import Floats, Floats32
from klmap.blocks import in_order, ranges

RANK = 128
"""How many components are kept: enough that most neighbours are told by them alone."""

_OVERSAMPLING = 32
_ITERATIONS = 4
_SEED = 0

Rows = Callable[[int, int], npt.NDArray[np.floating]]
"""``rows(begin, end)``: the coordinates of some models, from memory or from the disk."""


@dataclass(frozen=True)
class Components:
    """The models in the space of their first r principal components.

    Attributes:
        points: (K, r) float32, square root of bits per byte, by falling variance. The largest
            entry of each component is positive.
        residual: (K,) float32, norm of what the components leave out of each model.
        variance: (r,) float64, mean square of each component over the models, bits per byte.
        total_variance: mean squared norm of the models, bits per byte.
    """

    points: Floats32
    residual: Floats32
    variance: Floats
    total_variance: float


def principal(
    rows: Rows,
    models: int,
    texts: int,
    mean_bytes: float,
    rank: int = RANK,
    reference: int | None = None,
) -> Components:
    """The first principal components of the models, with what they leave out.

    Products are computed in the type of the rows and added up in float64. Every number of
    threads gives the same bits.

    Args:
        rows: double-centred coordinates by ranges of models, (rows, N) float64 or float32, nats.
        models: number of models, K.
        texts: number of texts, N.
        mean_bytes: UTF-8 bytes per text, B.
        rank: the most components to keep.
        reference: number of texts that distances are of, where these texts stand for those of a
            reference (:func:`klmap.geometry.features`).

    Returns:
        min(K - 1, N, rank) components; exact where these are all there are.
    """
    rank = min(models - 1, texts, rank)
    width = min(models, texts, rank + _OVERSAMPLING)
    row_bytes = np.dtype(np.float64).itemsize * texts

    def parts() -> Iterator[tuple[int, int]]:
        return ranges(models, row_bytes)

    def spread(basis: Floats) -> Floats:
        """``Q^T Q basis``, in blocks."""

        def product(begin: int, end: int) -> npt.NDArray[np.floating]:
            block = rows(begin, end)
            return block.T @ (block @ basis.astype(block.dtype))

        total = np.zeros((texts, width))
        for part in in_order(product, parts()):
            total += part
        return total

    basis = np.random.default_rng(_SEED).normal(size=(texts, width))
    for _ in range(_ITERATIONS):
        basis = np.linalg.qr(spread(basis))[0]
    inner = basis.T @ spread(basis)
    axes = basis @ np.linalg.eigh((inner + inner.T) / 2)[1][:, ::-1][:, :rank]

    def project(begin: int, end: int) -> tuple[Floats32, Floats32, float]:
        block = geometry.features(rows(begin, end), mean_bytes, reference)
        directions = axes.astype(block.dtype)
        points = block @ directions
        total = float(np.einsum("ks,ks->", block, block, dtype=np.float64))
        block -= points @ directions.T
        square = np.einsum("ks,ks->k", block, block, dtype=np.float64)
        return points.astype(np.float32), np.sqrt(square).astype(np.float32), total

    points = np.zeros((models, rank), np.float32)
    residual = np.zeros(models, np.float32)
    total_variance = 0.0
    for (begin, end), (some, left, total) in zip(parts(), in_order(project, parts()), strict=True):
        points[begin:end], residual[begin:end] = some, left
        total_variance += total / models
    largest = np.abs(points).argmax(axis=0)
    points *= np.where(points[largest, np.arange(rank)] < 0, np.float32(-1), np.float32(1))
    variance = np.einsum("kr,kr->r", points, points, dtype=np.float64) / models
    return Components(points, residual, variance, total_variance)
