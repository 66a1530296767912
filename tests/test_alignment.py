"""Turning layouts onto each other, and how faithful they are; against slow or other oracles."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.manifold import trustworthiness

from klmap import alignment, quality
from klmap.arrays import Floats
from klmap.geometry import principal_components
from klmap.quality import Quality
from klmap.store import Distances


def turned(places: Floats, angle: float, scale: float = 1.0, mirrored: bool = False) -> Floats:
    c, s = np.cos(angle), np.sin(angle)
    matrix = np.array([[c, -s], [s, c]]) @ np.diag([1, -1 if mirrored else 1])
    return scale * places @ matrix + [3, -2]


@pytest.mark.parametrize("mirrored", [False, True])
def test_what_was_shifted_turned_and_scaled_is_turned_back(mirrored: bool) -> None:
    places = np.random.default_rng(0).normal(size=(30, 2))
    rows = np.arange(5, 30)
    moved = turned(places, 1.0, 2.5, mirrored)
    np.testing.assert_allclose(alignment.onto(moved, rows, places[rows], True), places, atol=1e-12)


def test_no_other_turn_is_nearer() -> None:
    rng = np.random.default_rng(0)
    places, rows = rng.normal(size=(20, 2)), np.arange(12)
    targets = rng.normal(size=(12, 2)) + places[rows]

    def cost(found: Floats) -> float:
        return float(((found[rows] - targets) ** 2).sum())

    for scaled in (True, False):
        best = alignment.onto(places, rows, targets, scaled)
        for angle in np.linspace(-3, 3, 13):
            for scale in (0.8, 1.0, 1.3) if scaled else (1.0,):
                for mirrored in (False, True):
                    other = turned(best, float(angle), scale, mirrored)
                    other += targets.mean(axis=0) - other[rows].mean(axis=0)
                    assert cost(best) <= cost(other) + 1e-9


def test_without_scale_distances_stay() -> None:
    rng = np.random.default_rng(0)
    places = rng.normal(size=(20, 2))
    found = alignment.onto(places, np.arange(20), 7 * rng.normal(size=(20, 2)), False)

    def apart(xy: Floats) -> Floats:
        return np.asarray(np.linalg.norm(xy[:, None] - xy[None], axis=2))

    np.testing.assert_allclose(apart(found), apart(places), atol=1e-12)


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_common_models_are_enough(count: int) -> None:
    places = np.random.default_rng(0).normal(size=(5, 2))
    targets = np.array([[10.0, 0.0], [10.0, 1.0]])[:count]
    found = alignment.onto(places, np.arange(count), targets, True)
    np.testing.assert_allclose(found[:count], targets, atol=1e-12)


def test_places_that_coincide_are_only_shifted() -> None:
    found = alignment.onto(np.zeros((4, 2)), np.arange(4), np.ones((4, 2)), True)
    np.testing.assert_array_equal(found, np.ones((4, 2)))
    assert alignment.movement(found, np.arange(4), np.ones((4, 2)), 0).largest == 0


def test_movement_is_a_share_of_the_larger_side_of_all_places() -> None:
    places = np.array([[0.0, 0], [1, 0], [2, 0], [0, 20]])
    targets = places[:3] + np.array([[0, 0], [0, 1], [0, 2]])
    moved = alignment.movement(places, np.arange(3), targets, gone=4)
    assert (moved.kept, moved.new, moved.gone) == (3, 1, 4)
    assert moved.median == pytest.approx(1 / 20)
    assert moved.largest == pytest.approx(2 / 20)
    assert moved.median < moved.p95 < moved.largest


def squares(points: Floats) -> Floats:
    found: Floats = ((points[:, None] - points[None]) ** 2).sum(axis=2)
    return found


@pytest.mark.parametrize("models", [3, 5, 12, 21, 22, 90])
def test_trustworthiness_is_that_of_scikit_learn(models: int) -> None:
    points = np.random.default_rng(models).normal(size=(models, 6))
    plane = points[:, :2] + 0.1
    truth = squares(points)
    found = quality.measure(lambda rows: truth[rows].copy(), plane)
    k = min(10, (models - 1) // 2)
    assert (found.neighbors, found.sampled, found.models) == (k, models, models)
    assert found.trustworthiness == pytest.approx(trustworthiness(points, plane, n_neighbors=k))


def test_neighbours_kept_are_counted_one_by_one() -> None:
    points = np.random.default_rng(0).normal(size=(40, 6))
    truth, plane = squares(points), points[:, :2]
    shown = squares(plane)
    hits = 0
    for row in range(40):
        by_kl = [other for other in np.argsort(truth[row]) if other != row][:10]
        on_map = [other for other in np.argsort(shown[row]) if other != row][:10]
        hits += len(set(by_kl) & set(on_map))
    assert quality.measure(lambda rows: truth[rows].copy(), plane).preserved == hits / 400


def test_a_plane_that_shows_everything_is_faithful() -> None:
    plane = np.random.default_rng(0).normal(size=(50, 2))
    truth = squares(plane)
    found = quality.measure(lambda rows: truth[rows].copy(), plane)
    assert (found.preserved, found.trustworthiness) == (1.0, 1.0)


def test_equal_models_are_each_others_neighbours_wherever_they_are() -> None:
    plane = np.random.default_rng(0).normal(size=(30, 2))
    found = quality.measure(lambda rows: np.zeros((len(rows), 30)), plane)
    assert (found.preserved, found.trustworthiness) == (1.0, 1.0)


@pytest.mark.parametrize("models", [1, 2])
def test_one_and_two_models_have_no_neighbours_to_keep(models: int) -> None:
    found = quality.measure(lambda rows: np.zeros((len(rows), models)), np.zeros((models, 2)))
    assert found.neighbors == 0
    assert "too few models" in quality.sentence(found)


def test_of_many_models_a_sample_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    points = np.random.default_rng(0).normal(size=(400, 6))
    plane, truth = points[:, :2], squares(points)

    def measured() -> Quality:
        return quality.measure(lambda rows: truth[rows].copy(), plane)

    whole = measured()
    monkeypatch.setattr(quality, "SAMPLE", 200)
    monkeypatch.setattr(quality, "_BLOCK_VALUES", 7 * 400)
    part = measured()
    assert part == measured(), "always the same sample"
    assert (part.sampled, part.models) == (200, 400)
    assert part.preserved == pytest.approx(whole.preserved, abs=0.03)
    assert part.trustworthiness == pytest.approx(whole.trustworthiness, abs=0.02)
    assert "200 of 400 models" in quality.sentence(part)


def test_without_all_pairs_components_and_residuals_are_the_truth() -> None:
    points = np.random.default_rng(0).normal(size=(30, 8))
    components = principal_components(points)
    nothing = np.zeros((30, 1))
    distances = Distances(
        [f"m{row}" for row in range(30)], nothing.astype(np.int32), nothing, None, None, "t", 1, 1.0
    )
    assert quality.divergence_of(distances) is None
    distances.pca_points = components[:, :5].astype(np.float32)
    distances.pca_residual = np.linalg.norm(components[:, 5:], axis=1).astype(np.float32)
    divergence = quality.divergence_of(distances)
    assert divergence is not None
    rows = np.array([3, 17])
    left = (components[:, 5:] ** 2).sum(axis=1)
    expected = squares(components[:, :5])[rows] + left[rows, None] + left[None]
    np.testing.assert_allclose(divergence(rows), expected, atol=1e-5)
    assert np.array_equal(divergence(rows), divergence(rows)), "and can be asked again"


def test_the_quality_is_said_in_plain_words() -> None:
    assert quality.sentence(Quality(10, 0.712, 0.9812, 500, 500)) == (
        "Of each model's 10 nearest, 71 % are among its 10 nearest on the map; "
        "trustworthiness 0.98."
    )
    assert quality.sentence(Quality(1, 1.0, 1.0, 3, 3)) == (
        "For 100 % of the models the nearest is the nearest on the map as well; "
        "trustworthiness 1.00."
    )
