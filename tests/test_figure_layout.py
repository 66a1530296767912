from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import spearmanr

from klmap import figure_layout, figures, quality
from tests import mapfiles
from tests.scenes import synthetic


def test_every_pair_is_shown_with_its_kl_and_its_distance() -> None:
    scene = synthetic(mapfiles.models(15))
    kl, apart = figure_layout.pairs(scene.distances, scene.points)
    found = iter(zip(kl, apart, strict=True))
    side = max(np.ptp(scene.points[:, 0]), np.ptp(scene.points[:, 1]))
    assert scene.distances.kl is not None
    for i in range(15):
        for j in range(i + 1, 15):
            expected = (
                scene.distances.kl[i, j],
                np.hypot(*(scene.points[i] - scene.points[j])) / side,
            )
            assert next(found) == pytest.approx(expected)
    assert next(found, None) is None


def test_of_too_many_pairs_some_are_drawn_at_random(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figure_layout, "MOST_PAIRS", 4000)
    scene = synthetic(mapfiles.models(600))
    kl, _ = figure_layout.pairs(scene.distances, scene.points)
    assert scene.distances.kl is not None
    assert len(kl) == 4000
    assert kl.min() > 0
    everything = scene.distances.kl[np.triu_indices(600, 1)]
    np.testing.assert_allclose(
        np.quantile(kl, (0.1, 0.5)), np.quantile(everything, (0.1, 0.5)), rtol=0.1
    )
    assert (kl == figure_layout.pairs(scene.distances, scene.points)[0]).all()


def test_without_all_pairs_kl_is_estimated_from_components() -> None:
    scene = synthetic(mapfiles.models(20))
    exact, apart = figure_layout.pairs(scene.distances, scene.points)
    values, vectors = np.linalg.eigh(_gram(scene.distances.kl))
    points = (vectors * np.sqrt(np.maximum(values, 0))).astype(np.float32)
    without = replace(
        scene.distances, kl=None, pca_points=points, pca_residual=np.zeros(20, np.float32)
    )
    kl, same = figure_layout.pairs(without, scene.points)
    np.testing.assert_allclose(kl, exact, rtol=1e-3)
    assert (same == apart).all()
    only = replace(without, pca_points=None, pca_residual=None)
    assert len(figure_layout.pairs(only, scene.points)[0]) == scene.distances.neighbor_index.size


def _gram(kl: np.ndarray | None) -> np.ndarray:
    assert kl is not None
    centre = np.eye(len(kl)) - 1 / len(kl)
    return -centre @ kl @ centre / 2


@pytest.mark.parametrize("count", [2, 3, 8, 40])
def test_neighbours_kept_agree_with_the_quality_of_the_layout(count: int) -> None:
    scene = synthetic(mapfiles.models(count))
    kept, nearest = figure_layout.neighbors_kept(scene.distances, scene.points)
    truth = quality.divergence_of(scene.distances)
    assert truth is not None
    for row in range(count):
        apart = np.linalg.norm(scene.points - scene.points[row], axis=1)
        shown = set(np.argsort(apart)[: nearest + 1]) - {row}
        true = set(np.argsort(truth(np.array([row]))[0])[: nearest + 1]) - {row}
        assert kept[row] == len(shown & true)
    if count == 40:
        assert nearest == 5, "no more are stored"
    if count == 8:
        found = quality.measure(truth, scene.points)
        assert found.neighbors == nearest
        assert kept.mean() / nearest == pytest.approx(found.preserved)


def test_models_at_one_place_are_nobodys_own_neighbours() -> None:
    scene = synthetic(mapfiles.models(9))
    kept, nearest = figure_layout.neighbors_kept(scene.distances, np.zeros((9, 2)))
    assert kept.max() <= nearest


def test_the_figure_gives_the_rank_correlation_and_counts_all_models() -> None:
    scene = synthetic(mapfiles.models(30))
    figure = figures.FIGURES["layout"](scene)
    left, plane, bars = figure.axes
    expected = spearmanr(*figure_layout.pairs(scene.distances, scene.points)).statistic
    assert f"rank correlation {expected:.2f}" in left.get_title("left")
    assert len(plane.collections[0].get_offsets()) == 30  # type: ignore[arg-type]
    assert sum(bar.get_height() for bar in bars.patches) == 30  # type: ignore[attr-defined]
