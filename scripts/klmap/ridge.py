"""Ridge regression in the dual form, with its penalty chosen by inner cross-validation.

For N features and K << N models all that ridge regression needs of the features is the Gram
matrix of the models. One eigendecomposition of the centred Gram matrix of a training set gives
the solutions for all penalties and all targets. The result is that of scikit-learn's
``RidgeCV(alphas, cv=5)`` on the N columns, the regression of Oyama et al. 2025 (ACL, "Mapping
1,000+ Language Models via the Log-Likelihood Vector", section 5).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from klmap.arrays import Floats, Floats32, Rows

INNER_FOLDS = 5
"""Parts of a training set that take turns in choosing the penalty (Oyama et al. 2025)."""

_COLUMNS = 2048


@dataclass(frozen=True)
class Fit:
    """A ridge regression of T targets on n models, with an intercept that is not penalised.

    Attributes:
        coefficients: (n, T) dual coefficients; each column adds up to 0.
        intercept: (T,) what is added to the kernel with the n models times ``coefficients``.
        alpha: (T,) the penalty of each target, in the unit of the Gram matrix.
    """

    coefficients: Floats
    intercept: Floats
    alpha: Floats

    def predict(self, cross: Floats) -> Floats:
        """Predictions of other models.

        Args:
            cross: (M, n) products of their features with those of the n models, all seen from
                the origin of the kernel that was fitted.

        Returns:
            (M, T) in the unit of the targets.
        """
        predicted: Floats = cross @ self.coefficients + self.intercept
        return predicted


@dataclass(frozen=True)
class _Spectrum:
    """Eigenvectors (n, r) of a centred Gram matrix, eigenvalues (r,), column means (n,)."""

    values: Floats
    vectors: Floats
    mean: Floats


def products(first: Floats | Floats32, second: Floats | Floats32, origin: Floats) -> Floats:
    """Products of rows of two matrices, seen from ``origin``, the mean of some models.

    Seen from 0, log-likelihoods would have products of 1e10 that differ in their last digits.

    Args:
        first: (M, N).
        second: (K, N).
        origin: (N,) is taken away from every row.

    Returns:
        (M, K) float64.
    """
    total = np.zeros((len(first), len(second)))
    for begin in range(0, len(origin), _COLUMNS):
        columns = slice(begin, begin + _COLUMNS)
        left = first[:, columns] - origin[columns]
        right = left if first is second else second[:, columns] - origin[columns]
        total += left @ right.T
    return total


def choose(kernel: Floats, rows: Rows, targets: Floats, alphas: Floats) -> Floats:
    """The penalties with the best mean R2 over inner folds; of equal ones the first.

    The folds are ranges of ``rows`` in their order, as scikit-learn's ``KFold`` without
    shuffling makes them: five, or fewer where a fold would have a single model, for which R2 is
    not defined. For fewer than four models there are none, and the largest penalty is taken
    (klmap's own).

    Args:
        kernel: (K, K) from :func:`products`, seen from anywhere.
        rows: (n,) the models to fit.
        targets: (K, T).
        alphas: (T, A) penalties to choose from, for each target its own.

    Returns:
        (T,) penalties.
    """
    if len(rows) < 4:
        largest: Floats = alphas.max(axis=1)
        return largest
    score = np.zeros(alphas.shape)
    parts = np.array_split(np.arange(len(rows)), min(INNER_FOLDS, len(rows) // 2))
    for part in parts:
        train, test = np.delete(rows, part), rows[part]
        predicted = _path(kernel, train, test, targets, alphas)
        measured = targets[test]
        wrong = np.square(measured[:, :, None] - predicted).sum(axis=0)
        spread = np.square(measured - measured.mean(axis=0)).sum(axis=0)
        # Where all measured values are equal R2 is not defined, and no penalty is better.
        known = spread > 0
        score[known] += 1 - wrong[known] / spread[known, None]
    best = score.argmax(axis=1)
    chosen: Floats = alphas[np.arange(len(alphas)), best]
    return chosen


def fit(kernel: Floats, rows: Rows, targets: Floats, alphas: Floats) -> Fit:
    """Fit with the penalties that :func:`choose` finds.

    Args:
        kernel: (K, K) from :func:`products`, seen from anywhere.
        rows: (n,) the models to fit.
        targets: (K, T).
        alphas: (T, A) penalties to choose from, for each target its own.
    """
    alpha = choose(kernel, rows, targets, alphas)
    found = _spectrum(kernel, rows)
    centre = targets[rows].mean(axis=0)
    along = found.vectors.T @ (targets[rows] - centre)
    coefficients = found.vectors @ (along / (found.values[:, None] + alpha))
    return Fit(coefficients, centre - found.mean @ coefficients, alpha)


def _path(kernel: Floats, train: Rows, test: Rows, targets: Floats, alphas: Floats) -> Floats:
    """(M, T, A) predictions of the test rows for every penalty."""
    found = _spectrum(kernel, train)
    centre = targets[train].mean(axis=0)
    along = found.vectors.T @ (targets[train] - centre)
    scaled = along[:, :, None] / (found.values[:, None, None] + alphas)
    places = (kernel[np.ix_(test, train)] - found.mean) @ found.vectors
    flat: Floats = places @ scaled.reshape(len(found.values), -1)
    predicted: Floats = flat.reshape(len(test), *alphas.shape) + centre[:, None]
    return predicted


def _spectrum(kernel: Floats, rows: Rows) -> _Spectrum:
    """Of the rows' own Gram matrix, centred on their mean.

    Directions in which the models do not differ but for rounding are left out: a model has no
    place along them, while a small penalty would make their coefficients large.
    """
    own = kernel[np.ix_(rows, rows)]
    mean = own.mean(axis=0)
    own -= mean
    own -= own.mean(axis=1, keepdims=True)
    # numpy's lets other threads work meanwhile, scipy's does not.
    values, vectors = np.linalg.eigh(own)
    kept = values > len(rows) * np.finfo(np.float64).eps * max(values[-1], 0.0)
    return _Spectrum(values[kept], vectors[:, kept], mean)
