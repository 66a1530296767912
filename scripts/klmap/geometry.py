"""From log-likelihoods to divergences: clip, centre, KL, standard errors, neighbours, PCA.

The formulas are those of Oyama et al. 2025 (ACL, "Mapping 1,000+ Language Models via the
Log-Likelihood Vector", section 3), ``2 KL(p_i, p_j) = Var_s(l_i(x_s) - l_j(x_s))`` to second
order. The standard errors, the mark ``beyond`` and the noise floor are klmap's own.

Throughout, K is the number of models, N the number of texts and B the mean number of UTF-8
bytes of a text; a log-likelihood is in nats per text, a KL divergence in bits per byte. Where d
texts stand for the N of a reference (:mod:`klmap.design`), B is that of the reference.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from klmap.arrays import Bools, Floats, Floats32, Ints
from klmap.design import Design

Numbers = TypeVar("Numbers", float, Floats)
Coordinates = TypeVar("Coordinates", Floats, Floats32)

CLIP_QUANTILE = 0.02
"""Share of all K*N log-likelihoods that is raised to the clip threshold (Oyama et al. 2025)."""

BEYOND = 8.0
"""Bits per byte above which an estimate is no KL: a code that knows nothing costs that much."""

CANCELLATION = 1e-5
"""Squared distance relative to the squared norms below which a pair is computed directly."""

_ROUNDING = 1e-12
_COLUMNS = 2048
_PAIR_VALUES = 1 << 20


@dataclass(frozen=True)
class Neighbors:
    """The nearest models of each model, nearest first; ties in the order of the rows.

    Attributes:
        index: (K, k) int32, rows of the neighbours; k is smaller than asked for if K - 1 is.
        kl: (K, k) float64, bits per byte.
        se: (K, k) float64, standard errors of ``kl``, bits per byte.
    """

    index: Ints
    kl: Floats
    se: Floats


def clip_threshold(loglik: Floats, quantile: float = CLIP_QUANTILE) -> float:
    """The log-likelihood, in nats, below which the given share of all values lies.

    Args:
        loglik: (K, N) nats, all models of the map together.
        quantile: the share, between 0 and 1.
    """
    return float(np.quantile(loglik, quantile))


def double_centre(loglik: Floats, threshold: float, design: Design | None = None) -> Floats:
    """Coordinates of the models: clipped, then centred over texts, then over models.

    Args:
        loglik: (K, N) raw log-likelihoods, nats; left as they are.
        threshold: nats; lower values count as this one.
        design: how these texts stand for those of a reference, if they do. The mean over texts is
            then weighted, and each column multiplied by its weight (Oyama et al., EMNLP 2025
            Findings, section 3), so that squared distances estimate those over all texts.

    Returns:
        (K, N) float64 in nats, the matrix Q of Oyama et al. 2025, section 3.
    """
    q = centre_texts(loglik, threshold, design)
    q -= q.mean(axis=0, keepdims=True)
    return q


def centre_texts(loglik: Floats, threshold: float, design: Design | None = None) -> Floats:
    """The first half of :func:`double_centre`, which takes each model alone.

    Args:
        loglik: (K, N) raw log-likelihoods, nats; left as they are.
        threshold: nats; lower values count as this one.
        design: how these texts stand for those of a reference, if they do.

    Returns:
        (K, N) float64 in nats; a row has the same bits whatever other rows there are, and
        however they lie in memory.
    """
    # Rows in one piece: the order in which numbers are added up depends on how they lie.
    q = np.maximum(loglik, threshold, order="C")
    if design is None:
        q -= q.mean(axis=1, keepdims=True)
    else:
        # Not a product of matrices, whose last bits depend on the number of rows.
        q -= (q * design.share).sum(axis=1, keepdims=True)
        q *= design.weight
    return q


def nats_per_unit(mean_bytes: float) -> float:
    """How many nats per text one bit per byte is, ``B ln 2``; 673.96 for the published texts."""
    return mean_bytes * math.log(2)


def bits_per_byte(mean_loglik: float, mean_bytes: float) -> float:
    """Code length of the texts under a model, from its mean log-likelihood in nats per text."""
    return -mean_loglik / nats_per_unit(mean_bytes)


def pairwise_kl(
    q: Floats, mean_bytes: float, design: Design | None = None
) -> tuple[Floats, Floats32]:
    """KL divergence of all pairs of models and its standard error over texts.

    With ``d = q_i - q_j``, ``KL = mean(d^2) / (2 B ln 2)`` and
    ``se = sqrt((mean d^4 - (mean d^2)^2) / N) / (2 B ln 2)``. Both come from three matrix
    products, because ``sum d^4 = S4_i + S4_j + 6 q_i^2.q_j^2 - 4 q_i^3.q_j - 4 q_i.q_j^3``.
    Pairs so near that these sums would cancel are computed from their differences.

    With a design, ``KL = sum d^2 / (2 N B ln 2)`` and ``se = sqrt(sum g d^4
    - (sum v a d^2)^2 / sum v a^2 - (sum d^2)^2 / N) / (2 N B ln 2)`` with ``g = v + 1 / w^2``
    (Oyama et al., EMNLP 2025 Findings, section 3, and klmap's own, see :mod:`klmap.design`).

    Args:
        q: (K, N) float64, nats, from :func:`double_centre`.
        mean_bytes: UTF-8 bytes per text, B.
        design: how these texts stand for those of a reference, if they do.

    Returns:
        ``kl`` (K, K) float64 and ``se`` (K, K) float32 in bits per byte; symmetric, zero on the
        diagonal and for models with equal log-likelihoods.
    """
    squares, scale = _squares(q)
    if design is None:
        texts, fourths = q.shape[1], _fourths(q)
    else:
        texts, fourths = design.texts, _fourths(q * _spread(design) ** 0.25)
        fixed = design.variance * design.balance
        if np.ptp(fixed) > _ROUNDING * fixed.max():
            balanced = _squares(q * np.sqrt(fixed))[0]
            balanced *= balanced
            balanced /= fixed @ design.balance
        else:
            balanced = squares * squares
            balanced *= fixed[0] / design.balance.sum()
        fourths -= balanced

    near = squares <= CANCELLATION * scale
    first, second = np.nonzero(np.triu(near, 1))
    exact_squares, exact_fourths = _direct(q, first, second, design)
    for array, exact in ((squares, exact_squares), (fourths, exact_fourths)):
        array[first, second] = exact
        array[second, first] = exact
        np.fill_diagonal(array, 0)
    return _kl(squares, texts, mean_bytes), _se(squares, fourths, texts, mean_bytes).astype(
        np.float32
    )


def fourth_powers(power: Floats, design: Design | None = None) -> Floats:
    """What the standard errors of some pairs need beside the sums of squares.

    Args:
        power: (P, N) squares of the differences ``d = q_i - q_j`` of P pairs, nats^2.
        design: how these texts stand for those of a reference, if they do.

    Returns:
        (P,) nats^4, ``sum d^4``; with a design ``sum g d^4 - (sum v a d^2)^2 / sum v a^2`` as in
        :func:`pairwise_kl`.
    """
    if design is None:
        return np.asarray(np.einsum("ps,ps->p", power, power), np.float64)
    fourths = np.einsum("ps,ps,s->p", power, power, _spread(design))
    fixed = design.variance * design.balance
    if fixed.any():
        fourths -= (power @ fixed) ** 2 / (fixed @ design.balance)
    return np.asarray(fourths, np.float64)


def nearest(kl: Floats, se: Floats32, count: int) -> Neighbors:
    """The nearest models of each model, from all pairs.

    Args:
        kl: (K, K) bits per byte.
        se: (K, K) bits per byte.
        count: how many neighbours of each model, at most K - 1.
    """
    count = min(count, len(kl) - 1)
    others = kl.copy()
    np.fill_diagonal(others, np.inf)
    index = np.argsort(others, axis=1, kind="stable")[:, :count].astype(np.int32)
    return Neighbors(
        index=index,
        kl=np.take_along_axis(kl, index, axis=1),
        se=np.take_along_axis(se, index, axis=1).astype(np.float64),
    )


def as_neighbors(
    index: Ints, squares: Floats, fourths: Floats, texts: int, mean_bytes: float
) -> Neighbors:
    """Neighbours from sums over their differences ``d = q_i - q_j``.

    Args:
        index: (K, k) rows of the neighbours.
        squares: (K, k) sums of ``d^2`` over the texts, nats^2.
        fourths: (K, k) from :func:`fourth_powers`, nats^4.
        texts: number of texts, N; with a design that of the reference.
        mean_bytes: UTF-8 bytes per text, B.
    """
    return Neighbors(
        index=index,
        kl=_kl(squares, texts, mean_bytes),
        se=_se(squares, fourths, texts, mean_bytes),
    )


def noise_floor(first: Numbers, second: Numbers, mean_bytes: float) -> Numbers:
    """The KL, in bits per byte, below which two models cannot be told apart.

    Args:
        first: RMS error of one model's log-likelihoods, nats per text, NaN if unknown.
        second: the same of the other model; independent errors add in their squares.
        mean_bytes: UTF-8 bytes per text, B.

    Returns:
        ``(first^2 + second^2) / (2 B ln 2)``; NaN if one of the errors is unknown.
    """
    return (first**2 + second**2) / (2 * nats_per_unit(mean_bytes))


def below_noise(kl: Floats, noise: Floats, mean_bytes: float, index: Ints | None = None) -> Bools:
    """Which pairs of models are nearer than the numerical errors of their scores can tell.

    Args:
        kl: (K, K) of all pairs, or (K, k) of the neighbours of each model; bits per byte.
        noise: (K,) RMS error of each model's log-likelihoods, nats per text, NaN if unknown.
        mean_bytes: UTF-8 bytes per text, B.
        index: (K, k) rows of the neighbours; None for all pairs.

    Returns:
        Array of the shape of ``kl``, True where it is below :func:`noise_floor`. False for a
        model and itself, and where the error of one of the two is unknown.
    """
    marks = np.zeros(kl.shape, np.bool_)
    # By blocks of rows, because the floors of all pairs would be as large as ``kl``.
    rows = max(1, _PAIR_VALUES // max(kl.shape[1], 1))
    for begin in range(0, len(kl), rows):
        block = slice(begin, begin + rows)
        others = noise[None, :] if index is None else noise[index[block]]
        np.less(kl[block], noise_floor(noise[block, None], others, mean_bytes), out=marks[block])
    if index is None:
        np.fill_diagonal(marks, False)
    return marks


def features(q: Coordinates, mean_bytes: float, texts: int | None = None) -> Coordinates:
    """Coordinates whose squared Euclidean distance is KL in bits per byte.

    Args:
        q: (K, d) from :func:`double_centre`, nats.
        mean_bytes: UTF-8 bytes per text, B.
        texts: number of texts that distances are of, N; by default those of ``q``. With a design
            that of the reference.

    Returns:
        (K, d) in the type of ``q``, ``q / sqrt(2 N B ln 2)``.
    """
    return q / math.sqrt(2 * (texts or q.shape[1]) * nats_per_unit(mean_bytes))


def principal_components(points: Floats) -> Floats:
    """All principal components of the points: distances stay, dimensions shrink to K.

    Args:
        points: (K, D) float64; centred here.

    Returns:
        (K, min(K, D)) float64, by falling variance. The sign of a component is fixed by its
        largest entry, so that the result does not depend on the linear algebra library.
    """
    centred = points - points.mean(axis=0)
    if centred.shape[0] <= centred.shape[1]:
        values, vectors = np.linalg.eigh(centred @ centred.T)
        components = vectors[:, ::-1] * np.sqrt(np.maximum(values[::-1], 0))
    else:
        components = centred @ np.linalg.eigh(centred.T @ centred)[1][:, ::-1]
    largest = np.abs(components).argmax(axis=0)
    signs = np.sign(components[largest, np.arange(components.shape[1])])
    return np.asarray(components * np.where(signs == 0, 1.0, signs), np.float64)


def _squares(q: Floats) -> tuple[Floats, Floats]:
    """``sum d^2`` of all pairs, and the sum of their two squared norms."""
    squares = np.zeros((len(q), len(q)))
    for begin in range(0, q.shape[1], _COLUMNS):
        block = np.ascontiguousarray(q[:, begin : begin + _COLUMNS])
        squares += block @ block.T
    norm = np.diagonal(squares).copy()
    scale = norm[:, None] + norm[None, :]
    squares *= -2
    squares += scale
    return squares, scale


def _fourths(q: Floats) -> Floats:
    """``sum d^4`` of all pairs."""
    fourths = np.zeros((len(q), len(q)))
    for begin in range(0, q.shape[1], _COLUMNS):
        block = np.ascontiguousarray(q[:, begin : begin + _COLUMNS])
        power = block * block
        fourths += 6 * (power @ power.T)
        power *= block
        mixed = power @ block.T
        mixed += mixed.T.copy()
        fourths -= 4 * mixed
    norm = np.einsum("ks,ks->k", q * q, q * q)
    fourths += norm[:, None] + norm[None, :]
    return fourths


def _spread(design: Design) -> Floats:
    """(d,) what ``d^4`` of each text counts in the variance of a sum of ``d^2``."""
    return np.asarray(design.variance + 1 / design.times, np.float64)


def _direct(
    q: Floats,
    first: npt.NDArray[np.intp],
    second: npt.NDArray[np.intp],
    design: Design | None,
) -> tuple[Floats, Floats]:
    """Sums of squares and :func:`fourth_powers` of ``q[first] - q[second]``, pair by pair."""
    squares = np.zeros(len(first))
    fourths = np.zeros(len(first))
    step = max(1, _PAIR_VALUES // max(q.shape[1], 1))
    for begin in range(0, len(first), step):
        part = slice(begin, begin + step)
        power = q[first[part]] - q[second[part]]
        power *= power
        squares[part] = power.sum(axis=1)
        fourths[part] = fourth_powers(power, design)
    return squares, fourths


def _kl(squares: Floats, texts: int, mean_bytes: float) -> Floats:
    return squares / (2 * texts * nats_per_unit(mean_bytes))


def _se(squares: Floats, fourths: Floats, texts: int, mean_bytes: float) -> Floats:
    variance = fourths / texts - (squares / texts) ** 2
    result: Floats = np.sqrt(np.maximum(variance, 0) / texts) / (2 * nats_per_unit(mean_bytes))
    return result
