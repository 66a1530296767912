from __future__ import annotations

import itertools
import math
import tracemalloc

import numpy as np
import pytest

from klmap import geometry
from klmap.arrays import Floats

BYTES = 972.3188


def vectors(models: int = 7, texts: int = 300, seed: int = 1) -> Floats:
    rng = np.random.default_rng(seed)
    lengths = rng.uniform(250, 1024, texts)
    return -0.7 * lengths + rng.normal(0, 60, (models, texts)) * rng.uniform(0.3, 2, texts)


def coordinates(loglik: Floats) -> Floats:
    return geometry.double_centre(loglik, -np.inf)


def test_squared_distance_is_n_times_the_variance_of_differences() -> None:
    loglik = vectors()
    q = coordinates(loglik)
    for i, j in itertools.combinations(range(len(loglik)), 2):
        expected = loglik.shape[1] * np.var(loglik[i] - loglik[j])
        assert np.sum((q[i] - q[j]) ** 2) == pytest.approx(expected, rel=1e-9)


def test_all_pairs_equal_the_slow_loop() -> None:
    loglik = vectors(texts=5000)
    kl, se = geometry.pairwise_kl(coordinates(loglik), BYTES)
    unit = 2 * BYTES * math.log(2)
    for i, j in itertools.product(range(len(loglik)), repeat=2):
        d = (loglik[i] - loglik[i].mean()) - (loglik[j] - loglik[j].mean())
        assert kl[i, j] == pytest.approx(np.var(loglik[i] - loglik[j]) / unit, rel=1e-9)
        slow = math.sqrt((np.mean(d**4) - np.mean(d**2) ** 2) / len(d)) / unit
        assert se[i, j] == pytest.approx(slow, rel=1e-5)


def test_distances_are_symmetric_with_zero_diagonal() -> None:
    kl, se = geometry.pairwise_kl(coordinates(vectors(40)), BYTES)
    for array in (kl, se):
        assert np.array_equal(array, array.T)
        assert not np.diagonal(array).any()
    assert (kl[~np.eye(40, dtype=bool)] > 0).all()


def test_near_models_are_not_lost_to_cancellation() -> None:
    """Four models at 1e-8 of their distance from the rest: the Gram form alone knows nothing."""
    rng = np.random.default_rng(3)
    loglik = vectors(6)
    near = loglik[0] + rng.normal(0, 1e-5, (3, loglik.shape[1]))
    loglik = np.vstack([loglik, near])
    kl, se = geometry.pairwise_kl(coordinates(loglik), BYTES)
    unit = 2 * BYTES * math.log(2)
    for i, j in itertools.combinations((0, 6, 7, 8), 2):
        assert kl[i, j] == pytest.approx(np.var(loglik[i] - loglik[j]) / unit, rel=1e-6, abs=0)
        d = loglik[i] - loglik[j]
        d = d - d.mean()
        slow = math.sqrt((np.mean(d**4) - np.mean(d**2) ** 2) / len(d)) / unit
        assert se[i, j] == pytest.approx(slow, rel=1e-4, abs=0)


def test_equal_models_are_exactly_zero_apart() -> None:
    loglik = vectors(5)
    loglik[3] = loglik[1]
    kl, se = geometry.pairwise_kl(coordinates(loglik), BYTES)
    assert kl[1, 3] == 0
    assert se[1, 3] == 0


def test_bits_per_byte_by_hand() -> None:
    """Two texts of 100 bytes; differences 10 and 30 nats have a variance of 100."""
    loglik = np.array([[-100.0, -200.0], [-110.0, -230.0]])
    kl, se = geometry.pairwise_kl(coordinates(loglik), 100.0)
    assert kl[0, 1] == pytest.approx(100 / (2 * 100 * math.log(2)))
    assert se[0, 1] == pytest.approx(0, abs=1e-6)  # both deviations have the same square
    assert geometry.bits_per_byte(-150.0, 100.0) == pytest.approx(150 / 100 / math.log(2))
    assert geometry.nats_per_unit(BYTES) == pytest.approx(673.96, abs=0.005)


def test_toy_universe_where_the_true_kl_is_known() -> None:
    """20,000 outcomes, log-linear tilts of a Dirichlet p0: half the variance tends to the KL."""
    rng = np.random.default_rng(0)
    p0 = rng.dirichlet(np.ones(20_000))
    tilts = rng.normal(size=(6, 20_000))
    texts = rng.choice(20_000, 60_000, p=p0)
    nats = 1 / math.log(2)  # B ln 2 = 1
    gaps = []
    for theta, nominal in ((2.0, 4.0), (1.0, 0.999), (0.2, 0.0398)):
        weights = p0 * np.exp(theta * tilts)
        weights /= weights.sum(axis=1, keepdims=True)
        logs = np.log(weights)
        true = np.array([[(p * (np.log(p) - log)).sum() for log in logs] for p in weights])
        if theta <= 1:
            assert true[~np.eye(6, dtype=bool)].mean() == pytest.approx(nominal, rel=0.05)
        estimate, _ = geometry.pairwise_kl(coordinates(logs[:, texts]), nats)
        mean = logs @ p0
        exact = np.einsum(
            "ijs,s->ij", (logs[:, None] - logs - (mean[:, None] - mean)[..., None]) ** 2, p0
        )
        np.testing.assert_allclose(estimate, exact / 2, rtol=0.05)
        off = ~np.eye(6, dtype=bool)
        gaps.append(np.abs(exact[off] / 2 - true[off]).mean() / true[off].mean())
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 0.01


def test_standard_errors_match_a_bootstrap() -> None:
    loglik = vectors(3, 2000)
    _, se = geometry.pairwise_kl(coordinates(loglik), BYTES)
    rng = np.random.default_rng(4)
    unit = 2 * BYTES * math.log(2)
    for i, j in ((0, 1), (1, 2)):
        d = loglik[i] - loglik[j]
        draws = d[rng.integers(0, len(d), (2000, len(d)))]
        assert se[i, j] == pytest.approx(np.std(draws.var(axis=1) / unit), rel=0.1)


def test_clipping_and_the_reused_threshold() -> None:
    loglik = vectors(10)
    threshold = geometry.clip_threshold(loglik)
    assert np.mean(loglik < threshold) == pytest.approx(0.02, abs=0.001)
    q = geometry.double_centre(loglik, threshold)
    clipped = np.maximum(loglik, threshold)
    expected = clipped - clipped.mean(axis=1, keepdims=True)
    expected = expected - expected.mean(axis=0)
    np.testing.assert_allclose(q, expected, atol=1e-9)
    # A model added later changes no distance between the others when the threshold is reused.
    added = np.vstack([loglik, vectors(1, seed=9) - 500])
    before, _ = geometry.pairwise_kl(q, BYTES)
    after, _ = geometry.pairwise_kl(geometry.double_centre(added, threshold), BYTES)
    np.testing.assert_allclose(after[:10, :10], before, rtol=1e-9, atol=1e-15)
    moved, _ = geometry.pairwise_kl(
        geometry.double_centre(added, geometry.clip_threshold(added)), BYTES
    )
    assert not np.allclose(moved[:10, :10], before, rtol=1e-4)


def test_double_centring_leaves_its_input_alone() -> None:
    loglik = vectors()
    copy = loglik.copy()
    geometry.double_centre(loglik, -500.0)
    assert np.array_equal(loglik, copy)


def test_neighbours_are_sorted_and_never_the_model_itself() -> None:
    loglik = vectors(9)
    loglik[2] = loglik[7]
    found = geometry.nearest(*geometry.pairwise_kl(coordinates(loglik), BYTES), 4)
    assert (np.diff(found.kl, axis=1) >= 0).all()
    assert not (found.index == np.arange(9)[:, None]).any()
    assert found.index[2, 0] == 7
    assert found.index[7, 0] == 2


@pytest.mark.parametrize("models", [1, 2])
def test_one_and_two_models(models: int) -> None:
    q = coordinates(vectors(models))
    kl, se = geometry.pairwise_kl(q, BYTES)
    assert kl.shape == (models, models)
    assert geometry.nearest(kl, se, 10).index.shape == (models, models - 1)
    assert geometry.principal_components(q).shape[0] == models


def test_features_and_components_keep_the_distances() -> None:
    q = coordinates(vectors(12))
    kl, _ = geometry.pairwise_kl(q, BYTES)
    features = geometry.features(q, BYTES)
    for points in (features, geometry.principal_components(features)):
        squared = ((points[:, None] - points[None]) ** 2).sum(axis=2)
        np.testing.assert_allclose(squared, kl, rtol=1e-9, atol=1e-12)


def test_components_are_ordered_and_their_signs_fixed() -> None:
    points = np.random.default_rng(0).normal(size=(9, 30)) * np.linspace(3, 0.1, 30)
    components = geometry.principal_components(points)
    variance = components.var(axis=0)
    assert (np.diff(variance) <= 1e-12).all()
    mirrored = geometry.principal_components(-points)
    np.testing.assert_allclose(np.abs(mirrored[:, :5]), np.abs(components[:, :5]), rtol=1e-9)
    for column in components.T[:5]:
        assert column[np.abs(column).argmax()] > 0
    tall = geometry.principal_components(points.T)
    assert tall.shape == (30, 9)


def test_noise_floor_is_the_kl_of_independent_errors() -> None:
    rng = np.random.default_rng(2)
    truth = vectors(1, 200_000)[0]
    loglik = truth + np.array([[0.5], [1.5]]) * rng.normal(size=(2, 200_000))
    kl, _ = geometry.pairwise_kl(coordinates(loglik), BYTES)
    assert kl[0, 1] == pytest.approx(geometry.noise_floor(0.5, 1.5, BYTES), rel=0.02)


def test_marks_by_hand() -> None:
    """B = 1 / (2 ln 2) bytes, so that the floor of a pair is the sum of the squared errors."""
    noise = np.array([3.0, 4.0, 0.0, np.nan])
    floors = np.array([[18, 25, 9, 0], [25, 32, 16, 0], [9, 16, 0, 0], [0, 0, 0, 0]])
    kl = np.array(
        [[0, 24.9, 9.1, 0], [24.9, 0, 16.1, 0], [9.1, 16.1, 0, 0], [0, 0, 0, 0]], np.float64
    )
    bytes_ = 1 / (2 * math.log(2))
    assert geometry.noise_floor(3.0, 4.0, bytes_) == pytest.approx(25)
    marks = geometry.below_noise(kl, noise, bytes_)
    assert marks.dtype == np.bool_
    # Only 24.9 < 25; zeros on the diagonal and beside an unknown error are not marked.
    assert np.argwhere(marks).tolist() == [[0, 1], [1, 0]]
    below = geometry.below_noise(np.where(floors > 0, floors - 0.1, 0), noise, bytes_)
    assert np.argwhere(np.triu(below)).tolist() == [[0, 1], [0, 2], [1, 2]]
    index = np.array([[1, 2], [0, 2], [0, 3], [2, 0]], np.int32)
    of_neighbors = geometry.below_noise(np.take_along_axis(kl, index, axis=1), noise, bytes_, index)
    assert of_neighbors.tolist() == [[True, False], [True, False], [False, False], [False, False]]


def test_a_pair_at_its_floor_is_not_below_it() -> None:
    noise = np.array([0.3, 0.7])
    floor = geometry.noise_floor(0.3, 0.7, BYTES)
    kl = np.array([[0, floor], [floor, 0]])
    assert not geometry.below_noise(kl, noise, BYTES).any()
    assert geometry.below_noise(np.nextafter(kl, 0), noise, BYTES).sum() == 2


def test_blocks_mark_what_all_pairs_at_once_do(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    kl, se = geometry.pairwise_kl(coordinates(vectors(37)), BYTES)
    noise = rng.uniform(0, 120, 37)
    noise[rng.integers(0, 37, 5)] = np.nan
    expected = kl < (noise[:, None] ** 2 + noise**2) / (2 * BYTES * math.log(2))
    np.fill_diagonal(expected, False)
    assert 0 < expected.sum() < 37 * 36
    monkeypatch.setattr(geometry, "_PAIR_VALUES", 5 * 37)
    marks = geometry.below_noise(kl, noise, BYTES)
    assert np.array_equal(marks, expected)
    assert np.array_equal(marks, marks.T)
    near = geometry.nearest(kl, se, 6)
    assert np.array_equal(
        geometry.below_noise(near.kl, noise, BYTES, near.index),
        np.take_along_axis(expected, near.index, axis=1),
    )


def test_marking_all_pairs_needs_little_memory() -> None:
    """A map of 2,000 models: no float64 array of all pairs is made beside ``kl``."""
    kl = np.ones((2000, 2000))
    noise = np.full(2000, 0.5)
    tracemalloc.start()
    geometry.below_noise(kl, noise, BYTES)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < kl.nbytes
