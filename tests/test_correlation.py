import math

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from klmap import correlation


@pytest.mark.parametrize("count", [3, 10, 500])
def test_correlations_are_those_of_scipy_ties_among_them(count: int) -> None:
    rng = np.random.default_rng(count)
    first = rng.integers(0, 5, count) + np.arange(count) % 2
    second = first + rng.normal(0, 2, count).round(1)
    pearson, spearman = correlation.both(first.astype(float), second)
    assert pearson == pytest.approx(pearsonr(first, second).statistic)
    assert spearman == pytest.approx(spearmanr(first, second).statistic)


def test_what_does_not_vary_has_no_correlation() -> None:
    rising = np.arange(4.0)
    for flat in (np.full(4, 0.1), np.zeros(4), np.array([1, 1, 1, 1 + 1e-15])):
        assert all(math.isnan(value) for value in correlation.both(flat, rising))
        assert all(math.isnan(value) for value in correlation.both(rising, flat))
    assert all(math.isnan(value) for value in correlation.both(np.zeros(0), np.zeros(0)))
