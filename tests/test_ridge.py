from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.linear_model import RidgeCV

from klmap import ridge

TASKS = 10.0 ** np.arange(1, 10)
CONTROL = 10.0 ** np.arange(-4, 5)


def made(models: int, texts: int, spread: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features with a column level of hundreds of nats, and three targets, the last constant."""
    rng = np.random.default_rng(seed)
    features = spread * rng.normal(size=(models, texts)) - rng.uniform(100, 900, texts)
    along = rng.normal(size=texts) / np.sqrt(texts)
    linear = 40 + 10 / spread * (features - features.mean(axis=0)) @ along
    targets = [linear + rng.normal(0, 3, models), rng.normal(50, 5, models), np.full(models, 3.0)]
    return features, np.column_stack(targets)


def gram(features: np.ndarray) -> np.ndarray:
    return ridge.products(features, features, features.mean(axis=0))


@pytest.mark.parametrize("alphas", [TASKS, CONTROL], ids=["tasks", "control"])
@pytest.mark.parametrize(
    ("models", "texts", "spread"),
    [(70, 400, 30.0), (90, 25, 5.0), (60, 45, 20.0), (61, 61, 1.0), (14, 3000, 40.0)],
)
def test_the_dual_equals_ridgecv_on_the_columns(
    models: int, texts: int, spread: float, alphas: np.ndarray
) -> None:
    features, targets = made(models, texts, spread)
    rng = np.random.default_rng(1)
    train, test = np.split(rng.permutation(models), [int(0.8 * models)])
    train.sort()
    kernel = gram(features)
    found = ridge.fit(kernel, train, targets, np.tile(alphas, (3, 1)))
    predicted = found.predict(kernel[np.ix_(test, train)])
    for target in range(3):
        peer = RidgeCV(alphas=alphas, cv=5).fit(features[train], targets[train, target])
        assert found.alpha[target] == pytest.approx(peer.alpha_)
        np.testing.assert_allclose(
            predicted[:, target], peer.predict(features[test]), rtol=0, atol=1e-6
        )


def test_targets_that_are_fitted_together_do_not_touch_each_other() -> None:
    features, targets = made(50, 200, 20.0)
    kernel = gram(features)
    train, grids = np.arange(40), np.stack([TASKS, CONTROL, TASKS])
    together = ridge.fit(kernel, train, targets, grids)
    for target in range(3):
        alone = ridge.fit(kernel, train, targets[:, [target]], grids[[target]])
        assert alone.alpha[0] == together.alpha[target]
        np.testing.assert_allclose(
            alone.coefficients[:, 0], together.coefficients[:, target], atol=1e-12
        )


def test_the_order_of_the_models_decides_the_inner_folds() -> None:
    features, targets = made(40, 300, 10.0, seed=3)
    # Half of the models differ from the rest, so that ranges of rows are unlike random parts.
    targets[:20, 0] += 60
    kernel = gram(features)
    grid = np.tile(TASKS, (3, 1))
    mixed = np.random.default_rng(0).permutation(40)
    peers = [
        RidgeCV(alphas=TASKS, cv=5).fit(features[rows], targets[rows, 0]).alpha_
        for rows in (np.arange(40), mixed)
    ]
    found = [ridge.choose(kernel, rows, targets, grid)[0] for rows in (np.arange(40), mixed)]
    assert found == peers


def test_copies_of_a_model_do_not_make_a_small_penalty_explode() -> None:
    features, targets = made(40, 500, 30.0)
    features[20:] = features[:20]
    kernel = gram(features)
    small = np.full((3, 1), 1e-4)
    found = ridge.fit(kernel, np.arange(40), targets, small)
    halves = (targets[:20] + targets[20:]) / 2
    np.testing.assert_allclose(found.predict(kernel)[:20], halves, atol=1e-6)
    assert np.abs(found.coefficients).max() < 1


def test_products_keep_what_differs_by_little() -> None:
    rng = np.random.default_rng(0)
    small = rng.integers(-4, 5, (6, 5000)).astype(np.float64)
    level = np.round(rng.uniform(-1500, -200, 5000))
    exact = small - small.mean(axis=0)
    np.testing.assert_allclose(gram(small + level), exact @ exact.T, rtol=1e-12)
    origin = level + small.mean(axis=0)
    np.testing.assert_allclose(
        ridge.products(small[:2] + level, small + level, origin), exact[:2] @ exact.T, rtol=1e-12
    )


@pytest.mark.parametrize("count", [1, 2, 3])
def test_too_few_models_for_inner_folds_predict_about_their_mean(count: int) -> None:
    features, targets = made(10, 50, 1.0)
    kernel = gram(features)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = ridge.fit(kernel, np.arange(count), targets, np.tile(TASKS, (3, 1)))
    assert (found.alpha == TASKS.max()).all()
    np.testing.assert_allclose(
        found.predict(kernel[:, :count]), np.tile(targets[:count].mean(axis=0), (10, 1)), rtol=1e-3
    )
