"""Numbers in the page: arrays as text, pairs in three bytes, domains in a few coordinates.

The codes are klmap's own. Every function says what a decoder has to do.
"""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from klmap import split
from klmap.arrays import Floats, Floats32

Array = npt.NDArray[Any]

_TYPES = {"u1": "<u1", "u2": "<u2", "u4": "<u4", "i2": "<i2", "f4": "<f4", "f8": "<f8"}
_WIDEST_KL = 26.0
_WIDEST_ERROR = 15.0
_DENSE = 1500
_EXTRA = 10
_ITERATIONS = 4


@dataclass(frozen=True)
class Component:
    """One domain's coordinates of all models, as the page holds them.

    Attributes:
        codes: (K, r) int16.
        scale: (r,) float32; a coordinate is its code times this.
        residual: (K,) float32, norm of what the coordinates leave out, 0 where that is nothing.
    """

    codes: npt.NDArray[np.int16]
    scale: Floats32
    residual: Floats32


def packed(values: Array, dtype: str) -> dict[str, Any]:
    """An array as JSON: its type, its shape, and its little-endian bytes in base64.

    Args:
        values: of any shape.
        dtype: ``u1``, ``u2``, ``u4``, ``i2``, ``f4`` or ``f8``.
    """
    data = np.ascontiguousarray(values, _TYPES[dtype]).tobytes()
    return {
        "dtype": dtype,
        "shape": list(values.shape),
        "data": base64.b64encode(data).decode("ascii"),
    }


def pairs(kl: Floats, se: Floats32) -> dict[str, Any]:
    """KL and standard error of all pairs in three bytes each.

    ``kl`` is 0 for code 0, else ``exp(low + (code - 1) * step)``; ``se`` is
    ``kl * exp(se_low + code * se_step)``. Relative errors are below 2e-4 and 3 %. KLs are held
    to within a factor of ``exp(26)`` of the largest, errors to one of ``exp(15)``.

    Args:
        kl: (K, K) bits per byte.
        se: (K, K) bits per byte.

    Returns:
        ``low``, ``step``, ``kl`` u2 [K(K-1)/2], ``se_low``, ``se_step``, ``se`` u1 of the same
        length; pairs row by row above the diagonal.
    """
    upper = np.triu_indices(len(kl), 1)
    values = kl[upper]
    positive = values > 0
    logs = np.log(values, out=np.full(len(values), -np.inf), where=positive)
    low, step = _range(logs[positive], 65534, _WIDEST_KL)
    codes = np.zeros(len(values))
    codes[positive] = np.clip(np.round((logs[positive] - low) / step), 0, 65534) + 1

    errors = se[upper].astype(np.float64)
    known = positive & (errors > 0)
    ratios = np.full(len(values), -np.inf)
    ratios[known] = np.log(errors[known]) - logs[known]
    se_low, se_step = _range(ratios[known], 255, _WIDEST_ERROR)
    return {
        "low": low,
        "step": step,
        "kl": packed(codes, "u2"),
        "se_low": se_low,
        "se_step": se_step,
        "se": packed(np.clip(np.round((ratios - se_low) / se_step), 0, 255), "u1"),
    }


def _range(logs: Floats, codes: int, widest: float) -> tuple[float, float]:
    """The lowest logarithm that has a code, and the step from one code to the next."""
    if not logs.size:
        return 0.0, 1.0
    high = float(logs.max())
    low = max(float(logs.min()), high - widest)
    return low, (high - low) / codes or 1.0


def component(block: Floats, rank: int, seed: int = 0) -> Component:
    """A domain's part of every KL in ``rank`` coordinates of each model.

    The part of a pair is the squared distance of their coordinates plus both residuals squared,
    which is exact (but for 16 bits) where ``rank`` reaches the rank of the block. Otherwise it
    takes what is left out of the two models as orthogonal.

    Args:
        block: (K, n) texts of one domain, from :func:`klmap.split.blocks`; left as it is.
        rank: columns of the result; those beyond the rank of the block are 0.
        seed: of the random start that large domains need (Halko, Martinsson and Tropp 2011,
            algorithm 4.4).
    """
    centred = block - block.mean(axis=0)
    most = min(len(block) - 1, block.shape[1])
    points = _leading(centred, min(rank, most), seed)
    residual = np.zeros(len(block))
    if rank < most:
        squares = np.einsum("ks,ks->k", centred, centred) - np.einsum("kr,kr->k", points, points)
        residual = np.sqrt(np.maximum(squares, 0))
    largest = np.abs(points).max(axis=0, initial=0)
    scale = np.zeros(rank, np.float32)
    scale[: len(largest)] = largest / 32767
    codes = np.zeros((len(block), rank), np.int16)
    used = scale[: len(largest)].astype(np.float64)
    steps = np.divide(points, used, out=np.zeros_like(points), where=used > 0)
    codes[:, : len(largest)] = np.clip(np.round(steps), -32767, 32767)
    return Component(codes, scale, residual.astype(np.float32))


def _leading(centred: Floats, rank: int, seed: int) -> Floats:
    """The leading principal components of centred rows, with fixed signs."""
    models, texts = centred.shape
    if rank == 0:
        return np.zeros((models, 0))
    if models <= min(texts, _DENSE):
        values, vectors = np.linalg.eigh(centred @ centred.T)
        points = vectors[:, ::-1] * np.sqrt(np.maximum(values[::-1], 0))
    else:
        reduced = centred if texts <= _DENSE else centred @ _subspace(centred, rank, seed)
        points = reduced @ np.linalg.eigh(reduced.T @ reduced)[1][:, ::-1]
    points = points[:, :rank]
    largest = np.abs(points).argmax(axis=0)
    signs = np.sign(points[largest, np.arange(rank)])
    return np.asarray(points * np.where(signs == 0, 1.0, signs), np.float64)


def _subspace(centred: Floats, rank: int, seed: int) -> Floats:
    """(n, r) an orthonormal basis near the leading right singular vectors."""
    width = min(rank + _EXTRA, *centred.shape)
    basis = np.random.default_rng(seed).standard_normal((centred.shape[1], width))
    for _ in range(_ITERATIONS):
        left = np.linalg.qr(centred @ basis)[0]
        basis = np.linalg.qr(centred.T @ left)[0]
    return basis


def components(
    matrix: split.Rows, domains: split.Domains, rank: int
) -> tuple[npt.NDArray[np.int16], Floats32, Floats32]:
    """The coordinates of every domain.

    Returns:
        ``points`` (D, K, r) int16, ``scale`` (D, r) and ``residual`` (D, K) float32.
    """
    count, models = len(domains.names), len(matrix.model)
    points = np.zeros((count, models, rank), np.int16)
    scale = np.zeros((count, rank), np.float32)
    residual = np.zeros((count, models), np.float32)
    for block in split.blocks(matrix, domains, whole=True):
        for number in np.unique(block.domains):
            begin, end = np.searchsorted(block.domains, [number, number + 1])
            found = component(block.values[:, begin:end], rank)
            points[number], scale[number] = found.codes, found.scale
            residual[number] = found.residual
    return points, scale, residual


def estimate(
    points: npt.NDArray[np.int16], scale: Floats32, residual: Floats32, first: Array, second: Array
) -> Floats:
    """What a page makes of the coordinates: the part of every domain in the KL of some pairs.

    Args:
        points: (D, K, r) from :func:`components`.
        scale: (D, r).
        residual: (D, K).
        first: (P,) rows.
        second: (P,) other rows.

    Returns:
        (P, D) bits per byte.
    """
    result = np.empty((len(first), len(points)))
    for number, (codes, step, left) in enumerate(zip(points, scale, residual, strict=True)):
        difference = (codes[first].astype(np.float64) - codes[second]) * step
        rest = left.astype(np.float64) ** 2
        result[:, number] = (difference**2).sum(axis=1) + rest[first] + rest[second]
    return result


def spread(errors: Floats) -> dict[str, float]:
    """Median, 95th percentile and largest of some errors; 0 where there are none."""
    if not errors.size:
        return {"median": 0.0, "p95": 0.0, "largest": 0.0}
    middle, most = (float(np.quantile(errors, q)) for q in (0.5, 0.95))
    largest = float(errors.max())
    return {"median": middle, "p95": most, "largest": largest if math.isfinite(largest) else 0.0}
