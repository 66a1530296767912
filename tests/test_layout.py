from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from klmap import embedding, geometry, layout
from klmap.arrays import Floats
from klmap.collect import Collection
from klmap.embedding import Settings
from klmap.errors import InputError
from klmap.layout import Place
from tests.mapfiles import Folder, zoo


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    return zoo(tmp_path_factory.mktemp("layout") / "demo").collect()


def plane(places: list[Place]) -> Floats:
    return np.array([(place.x, place.y) for place in places])


@pytest.mark.parametrize("method", ["tsne", "opentsne", "umap"])
@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean"])
def test_a_layout_is_the_same_bit_for_bit(
    collection: Collection, method: embedding.Method, metric: embedding.Metric
) -> None:
    first, second = (
        layout.place(collection.matrix, collection.models, method, metric, iterations=300)
        for _ in range(2)
    )
    assert first == second
    label = method if method == "umap" else f"{method}-{metric}"
    assert {place.method for place in first} == {label}


def test_methods_metrics_and_seeds_differ(collection: Collection) -> None:
    ways = ({}, {"metric": "sqeuclidean"}, {"method": "pca"}, {"method": "umap"})
    results = [
        plane(layout.place(collection.matrix, collection.models, iterations=300, **options))  # type: ignore[arg-type]
        for options in ways
    ]
    for other in results[1:]:
        assert not np.allclose(results[0], other)


@pytest.mark.parametrize("method", ["tsne", "opentsne", "umap"])
def test_neighbours_stay_neighbours(collection: Collection, method: embedding.Method) -> None:
    """Models of one domain and family end up nearer than strangers."""
    names = collection.matrix.model
    xy = plane(layout.place(collection.matrix, collection.models, method))
    row = {name: xy[i] for i, name in enumerate(names)}

    def apart(a: str, b: str) -> float:
        return float(np.linalg.norm(row[f"demo--{a}"] - row[f"demo--{b}"]))

    assert apart("llama-code", "llama-code@step100") < apart("llama-code", "gpt2-legal")
    assert apart("merge", "tuned-prose") < apart("merge", "gpt2-prose")


def test_pca_distances_are_kl(collection: Collection) -> None:
    matrix = collection.matrix
    places = layout.place(matrix, collection.models, method="pca")
    q = geometry.double_centre(matrix.loglik, matrix.clip_threshold)
    kl, _ = geometry.pairwise_kl(q, matrix.mean_bytes)
    xy = plane(places)
    squared = ((xy[:, None] - xy[None]) ** 2).sum(axis=2)
    # Six digits of a coordinate are in the table.
    assert (squared <= kl + 1e-5).all()
    assert squared.sum() > 0.4 * kl.sum()
    assert {place.method for place in places} == {"pca"}


def test_rows_enter_the_method_by_creation_date_and_name(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def spy(points: Floats, _: Settings) -> Floats:
        seen.append(points)
        return points[:, :2]

    monkeypatch.setattr(embedding, "_fresh", spy)
    models = collection.models
    dated = [replace(m, created_at=f"20{99 - i:02d}-01-01") for i, m in enumerate(models)]
    first = layout.place(collection.matrix, models)
    second = layout.place(collection.matrix, dated)
    assert np.array_equal(seen[1], seen[0][::-1])
    assert first == second


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("method", ["tsne", "opentsne", "umap"])
def test_few_models(tmp_path: Path, count: int, method: embedding.Method) -> None:
    folder = Folder(tmp_path / "demo")
    for i in range(count):
        folder.add(f"org--m{i}")
    found = folder.collect()
    places = layout.place(found.matrix, found.models, method, iterations=250)
    assert len(places) == count
    assert np.isfinite(plane(places)).all()
    assert places[0].method.partition("-")[0] == ("pca" if count < 5 else method)
    if count == 1:
        assert (places[0].x, places[0].y) == (0, 0)


@pytest.mark.parametrize("method", ["tsne", "opentsne", "umap", "pca"])
def test_identical_models_are_placed_too(tmp_path: Path, method: embedding.Method) -> None:
    folder = Folder(tmp_path / "demo")
    value = folder.values()
    for i in range(6):
        folder.add(f"org--m{i}", value)
    found = folder.collect()
    places = layout.place(found.matrix, found.models, method, iterations=250)
    assert np.isfinite(plane(places)).all()


def test_many_models_are_placed_by_opentsne() -> None:
    settings = Settings(dense_limit=100)
    assert settings.label(100) == "tsne-euclidean"
    assert settings.label(101) == "opentsne-euclidean"
    assert replace(settings, method="umap").label(101) == "umap"


def test_only_settings_that_change_a_layout_are_relevant() -> None:
    first, second = Settings(iterations=500, seed=1), Settings(iterations=1000, seed=2)
    assert first.relevant(4) == second.relevant(4), "placed by pca"
    assert first.relevant(5) != second.relevant(5)
    assert Settings(dense_limit=10).relevant(9) == Settings().relevant(9)
    assert Settings(dense_limit=10).relevant(11) != Settings().relevant(11)


def test_large_layouts_are_the_same_bit_for_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the method of large ones, which interpolates forces on a grid."""
    monkeypatch.setattr(embedding, "_FFT_FROM", 100)
    points = np.random.default_rng(0).normal(size=(300, 8)) * np.geomspace(1, 0.1, 8)
    settings = Settings("opentsne", iterations=300)
    first, second = (embedding.fresh(points, settings) for _ in range(2))
    assert np.array_equal(first, second)
    assert np.isfinite(first).all()


def test_neighbours_are_exact_and_never_the_point_itself() -> None:
    points = np.random.default_rng(0).normal(size=(70, 5))
    points[1] = points[0]
    squared = ((points[:, None] - points[None]) ** 2).sum(axis=2)
    np.fill_diagonal(squared, np.inf)
    index, distance = embedding.nearest(points, None, 7)
    assert not (index == np.arange(70)[:, None]).any()
    np.testing.assert_allclose(distance, np.sqrt(np.sort(squared, axis=1)[:, :7]), atol=1e-6)
    among, _ = embedding.nearest(points[:3], points[10:], 1)
    np.testing.assert_array_equal(among[:, 0], squared[:3, 10:].argmin(axis=1))


def test_table_is_read_in_the_order_of_the_models(collection: Collection, tmp_path: Path) -> None:
    places = layout.place(collection.matrix, collection.models, method="pca")
    path = tmp_path / "layout.tsv"
    layout.write_layout(path, places[::-1])
    assert layout.read_layout(path, collection.models) == places, "to the last bit"
    layout.write_layout(path, places[1:])
    with pytest.raises(InputError, match=collection.models[0].model):
        layout.read_layout(path, collection.models)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"quality": 3, "stable": null}', "{"])
def test_a_broken_report_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "layout.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"layout\.json"):
        layout.read_report(path)


def test_heavy_libraries_are_imported_only_when_asked_for() -> None:
    code = (
        "import sys, json; sys.path.insert(0, 'scripts'); from klmap import placement; "
        "heavy = {'sklearn', 'openTSNE', 'umap', 'numba'}; "
        "print(json.dumps(sorted(heavy & set(sys.modules))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[1], capture_output=True, check=True
    )
    assert json.loads(done.stdout) == []


def test_a_start_of_another_scale_is_brought_to_that_of_tsne() -> None:
    points = np.random.default_rng(0).normal(size=(120, 6)) * np.geomspace(1, 0.1, 6)
    for settings in (Settings(), Settings(metric="sqeuclidean")):
        places = embedding.fresh(points, settings)
        assert embedding.natural_scale(points, places, settings) == 1.0, "left alone"
        for factor in (1 / 50, 50):
            scale = embedding.natural_scale(points, places * factor, settings)
            assert 0.5 < scale * factor < 2
    assert np.isfinite(embedding.natural_scale(points, np.zeros((120, 2)), Settings()))
