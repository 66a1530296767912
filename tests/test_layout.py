from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from klmap import geometry, layout
from klmap.collect import Collection
from klmap.errors import InputError
from klmap.layout import Place
from tests.mapfiles import Folder, zoo


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    return zoo(tmp_path_factory.mktemp("layout") / "demo").collect()


def plane(places: list[Place]) -> geometry.Floats:
    return np.array([(place.x, place.y) for place in places])


@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean"])
def test_tsne_is_the_same_bit_for_bit(collection: Collection, metric: str) -> None:
    first, second = (
        layout.place(collection.matrix, collection.models, metric=metric, iterations=300)  # type: ignore[arg-type]
        for _ in range(2)
    )
    assert first == second
    assert {place.method for place in first} == {f"tsne-{metric}"}


def test_metrics_and_seeds_differ(collection: Collection) -> None:
    results = [
        plane(layout.place(collection.matrix, collection.models, iterations=300, **options))  # type: ignore[arg-type]
        for options in ({}, {"metric": "sqeuclidean"}, {"method": "pca"})
    ]
    assert not np.allclose(results[0], results[1])
    assert not np.allclose(results[0], results[2])


def test_tsne_keeps_neighbours(collection: Collection) -> None:
    """Models of one domain and family end up nearer than strangers."""
    names = collection.matrix.model
    xy = plane(layout.place(collection.matrix, collection.models))
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
    assert (squared <= kl + 1e-9).all()
    assert squared.sum() > 0.4 * kl.sum()
    assert {place.method for place in places} == {"pca"}


def test_rows_enter_tsne_by_creation_date_and_name(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def spy(points: geometry.Floats, *_: object) -> geometry.Floats:
        seen.append(points)
        return points[:, :2]

    monkeypatch.setattr(layout, "_tsne", spy)
    models = collection.models
    dated = [replace(m, created_at=f"20{99 - i:02d}-01-01") for i, m in enumerate(models)]
    first = layout.place(collection.matrix, models)
    second = layout.place(collection.matrix, dated)
    assert np.array_equal(seen[1], seen[0][::-1])
    assert first == second


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_few_models(tmp_path: Path, count: int) -> None:
    folder = Folder(tmp_path / "demo")
    for i in range(count):
        folder.add(f"org--m{i}")
    found = folder.collect()
    places = layout.place(found.matrix, found.models, iterations=250)
    assert len(places) == count
    assert np.isfinite(plane(places)).all()
    assert places[0].method == ("pca" if count < 5 else "tsne-euclidean")
    if count == 1:
        assert (places[0].x, places[0].y) == (0, 0)


def test_identical_models_are_placed_too(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "demo")
    value = folder.values()
    for i in range(6):
        folder.add(f"org--m{i}", value)
    found = folder.collect()
    assert np.isfinite(plane(layout.place(found.matrix, found.models, iterations=250))).all()


def test_table_is_read_in_the_order_of_the_models(collection: Collection, tmp_path: Path) -> None:
    places = layout.place(collection.matrix, collection.models, method="pca")
    path = tmp_path / "layout.tsv"
    layout.write_layout(path, places[::-1])
    read = layout.read_layout(path, collection.models)
    assert [place.model for place in read] == collection.matrix.model
    np.testing.assert_allclose(plane(read), plane(places), rtol=1e-5)
    layout.write_layout(path, places[1:])
    with pytest.raises(InputError, match=collection.models[0].model):
        layout.read_layout(path, collection.models)
