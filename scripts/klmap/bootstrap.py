"""The bootstrap over texts: what another sample of texts of the same kind would have given.

A replicate draws N texts with replacement from the N of the text set (Efron 1979) and computes the
distances of all models anew: log-likelihoods are centred over the texts that were drawn, and KL is
their variance. Clip threshold and bytes per text stay those of the map, so that a replicate differs
from it by its texts alone. That the unit resampled is a text, and a tree or a map is what is
repeated, is klmap's own.

It measures the chance that lies in the choice of texts. It does not measure what texts of another
kind would show, the numerical noise of the scores (``noise_nats``), or what the second-order
approximation of the KL divergence leaves out.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from klmap import geometry
from klmap.geometry import Floats
from klmap.log import Progress
from klmap.store import Matrix

Counts = npt.NDArray[np.int64]

_COLUMNS = 1024
_ROUNDING = 1e-12


def draw(n_texts: int, seed: int, replicate: int) -> Counts:
    """How often each text is drawn, N times in all, with replacement.

    Args:
        n_texts: number of texts, N.
        seed: of the whole bootstrap.
        replicate: number of the replicate from 0; it does not depend on how many there are.

    Returns:
        (N,) int64 that add up to N.
    """
    texts = np.random.default_rng([seed, replicate]).integers(0, n_texts, n_texts)
    return np.bincount(texts, minlength=n_texts).astype(np.int64)


def kl_of_sample(q: Floats, counts: Counts, mean_bytes: float) -> Floats:
    """KL of all pairs of models on texts that count as often as they were drawn.

    Equals :func:`geometry.pairwise_kl` of the columns ``np.repeat(arange(N), counts)``, centred
    anew, without making them: with weighted means taken out,
    ``sum_s w_s d_s^2 = G_ii + G_jj - 2 G_ij``, G being the Gram matrix with weights. Texts that
    were not drawn, a third of all, are left out of it.

    Args:
        q: (K, N) float64 nats per text, from :func:`geometry.double_centre`; any constant that
            was taken out of a model or of a text cancels.
        counts: (N,) from :func:`draw`.
        mean_bytes: UTF-8 bytes per text, B.

    Returns:
        (K, K) float64 in bits per byte; symmetric, 0 on the diagonal and where two models differ
        by rounding alone. Takes four such arrays of memory.
    """
    models = len(q)
    total = int(counts.sum())
    drawn = np.flatnonzero(counts)
    sums = np.zeros(models)
    squares = np.zeros((models, models))
    for begin in range(0, len(drawn), _COLUMNS):
        columns = drawn[begin : begin + _COLUMNS]
        block = q[:, columns]
        times = counts[columns].astype(np.float64)
        sums += block @ times
        block *= np.sqrt(times)
        squares += block @ block.T
    squares -= np.outer(sums, sums / total)
    norm = np.diagonal(squares).copy()
    scale = norm[:, None] + norm[None, :]
    squares *= -2
    squares += scale
    squares[squares <= _ROUNDING * scale] = 0
    np.fill_diagonal(squares, 0)
    squares /= 2 * total * geometry.nats_per_unit(mean_bytes)
    return squares


def replicates(matrix: Matrix, count: int, seed: int) -> Iterator[Floats]:
    """KL of all pairs in one replicate after another; progress is logged.

    Args:
        matrix: the models and texts.
        count: number of replicates.
        seed: of the whole bootstrap.

    Yields:
        (K, K) float64 in bits per byte, see :func:`kl_of_sample`.
    """
    q = geometry.double_centre(matrix.loglik, matrix.clip_threshold)
    progress = Progress(count, "bootstrap samples")
    for replicate in range(count):
        counts = draw(q.shape[1], seed, replicate)
        yield kl_of_sample(q, counts, matrix.mean_bytes)
        progress.add(1)
    progress.close()
