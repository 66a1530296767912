"""Linear regression that outliers do not bend, and how far each point is from the line.

Two steps, after Yohai 1987 ("High breakdown-point and high efficiency robust estimates for
regression"). The line with the least median of absolute residuals (Rousseeuw 1984) is found
among lines through a few points each; up to half of all points may be outliers, also where these
form a group. Tukey's biweight goes on from there with the scale of that line: points far from
the line weigh nothing, and where errors are normal little precision is lost. Huber's weights would
let every outlier pull, and a group of them at one end tilts such a line.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from klmap.arrays import Floats

BIWEIGHT = 4.685
"""Residuals, in units of the scale, from which on a point weighs nothing; 95 % efficiency."""

_NORMAL = 1.4826
_EFFICIENCY = 0.37
_STARTS = 500
_STEPS = 200
_ENOUGH = 1e-10
_LEAST_SCALE = 1e-9


@dataclass(frozen=True)
class Fit:
    """A robust line through n points with p coefficients.

    Attributes:
        coefficients: (p,) of the columns of the design.
        covariance: (p, p) inverse of the weighted product of the design with itself; times
            ``scale ** 2`` it is about the covariance of the coefficients.
        expected: (n,) what the line gives, in the unit of the target.
        residuals: (n,) target minus expected.
        weights: (n,) how much each point counts, 0 to 1.
        scale: median absolute residual as a standard deviation.
        studentised: (n,) externally studentised residuals: each is divided by the standard
            deviation that it would have if its point had no part in the line or in the scale.
        freedom: degrees of freedom of the t distribution that ``studentised`` has about where
            errors are normal. A median absolute residual is known only as well as a standard
            deviation from 0.37 as many points.
    """

    coefficients: Floats
    covariance: Floats
    expected: Floats
    residuals: Floats
    weights: Floats
    scale: float
    studentised: Floats
    freedom: float

    def chance(self, studentised: Floats) -> Floats:
        """Probability of residuals as large as these or larger, where errors are normal."""
        return np.asarray(stats.t.sf(studentised, self.freedom), np.float64)

    def spread(self, design: Floats) -> Floats:
        """(m,) standard deviation of new points around the line.

        Args:
            design: (m, p) columns as those of the fit.
        """
        lever = np.einsum("mp,pq,mq->m", design, self.covariance, design)
        return np.asarray(self.scale * np.sqrt(1 + lever), np.float64)


def fit(design: Floats, target: Floats, seed: int = 0) -> Fit:
    """Fit a line that up to half of the points cannot bend.

    Args:
        design: (n, p) float64, one column per coefficient; a column of ones for the intercept.
        target: (n,) float64.
        seed: of the points through which the first lines go.

    Returns:
        The fit. Columns that depend on each other share their coefficient. A scale of 0, where
        more than half of the points lie on one line, is taken as 1e-9 of the target's spread.
    """
    unit = np.sqrt((design**2).mean(axis=0))
    unit[unit == 0] = 1
    columns = design / unit
    coefficients = _start(columns, target, seed)
    count, rank = columns.shape
    floor = _LEAST_SCALE * max(float(np.std(target)), np.finfo(np.float64).tiny)
    # Rousseeuw and Leroy 1987 (chapter 5) widen the scale of so few points by this factor.
    widened = _NORMAL * (1 + 5 / max(count - rank, 1))
    scale = max(widened * float(np.median(np.abs(target - columns @ coefficients))), floor)
    weights = np.ones(count)
    for _ in range(_STEPS):
        weights = _weights((target - columns @ coefficients) / scale)
        root = np.sqrt(weights)
        better = np.linalg.lstsq(columns * root[:, None], target * root, rcond=None)[0]
        moved = float(np.abs(columns @ (better - coefficients)).max())
        coefficients = better
        if moved <= _ENOUGH * scale:
            break
    residuals = target - columns @ coefficients
    covariance = np.linalg.pinv((columns * weights[:, None]).T @ columns, hermitian=True)
    lever = np.einsum("np,pq,nq->n", columns, covariance, columns)
    own = weights * lever
    # Without the point its residual is r / (1 - own), and varies by 1 + lever / (1 - own).
    part = np.sqrt(np.maximum(1 - own, _LEAST_SCALE) * np.maximum(1 - own + lever, _LEAST_SCALE))
    factor = _NORMAL * np.sqrt((count - 1) / max(count - 1 - rank, 1))
    apart = np.maximum(factor * _medians_without(np.abs(residuals)), floor)
    scale = max(float(factor * np.median(np.abs(residuals))), floor)
    return Fit(
        coefficients=coefficients / unit,
        covariance=covariance / np.outer(unit, unit),
        expected=columns @ coefficients,
        residuals=residuals,
        weights=weights,
        scale=scale,
        studentised=residuals / (apart * part),
        freedom=max(_EFFICIENCY * (count - rank - 1), 1.0),
    )


def _start(columns: Floats, target: Floats, seed: int) -> Floats:
    """Among lines through a few points each, the one with the least median absolute residual."""
    count, rank = columns.shape
    generator = np.random.default_rng(seed)
    drawn = generator.random((_STARTS, count)).argpartition(rank, axis=1)[:, :rank]
    lines = np.einsum("spq,sq->sp", np.linalg.pinv(columns[drawn]), target[drawn])
    medians = np.median(np.abs(target - lines @ columns.T), axis=1)
    return np.asarray(lines[int(medians.argmin())], np.float64)


def _weights(residuals: Floats) -> Floats:
    """Tukey's biweight of residuals in units of the scale, 0 to 1."""
    return np.asarray(np.maximum(1 - (residuals / BIWEIGHT) ** 2, 0) ** 2, np.float64)


def _medians_without(values: Floats) -> Floats:
    """(n,) the median of all other values, for each one."""
    ordered = np.sort(values)
    count = len(values)
    rank = np.argsort(np.argsort(values, kind="stable"), kind="stable")
    low, high = (count - 2) // 2, (count - 1) // 2
    below = ordered[low + (rank <= low)]
    above = ordered[high + (rank <= high)]
    return np.asarray((below + above) / 2, np.float64)
