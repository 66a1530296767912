"""Correlations of numbers and of their ranks, not defined where one side does not vary."""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import rankdata

from klmap.arrays import Floats

_ROUNDING = 1e-12


def standard(values: Floats) -> Floats:
    """The values (n,) with mean 0 and norm 1; zeros where they differ by no more than rounding."""
    if not values.size or np.ptp(values) <= _ROUNDING * np.abs(values).max():
        return np.zeros(len(values))
    centred = values - values.mean()
    return np.asarray(centred / np.linalg.norm(centred), np.float64)


def ranks(values: Floats) -> Floats:
    """The same of their ranks, ties sharing their mean."""
    if not standard(values).any():
        return np.zeros(len(values))
    return standard(np.asarray(rankdata(values), np.float64))


def product(first: Floats, second: Floats) -> float:
    """Correlation of two results of :func:`standard`; NaN where one of them is zeros."""
    return float(first @ second) if first.any() and second.any() else math.nan


def both(first: Floats, second: Floats) -> tuple[float, float]:
    """Pearson's and Spearman's correlation of two vectors; NaN where one of them is constant."""
    return product(standard(first), standard(second)), product(ranks(first), ranks(second))
