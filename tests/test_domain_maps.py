"""One map for each domain: its own distances, laid over the overall map, honestly labelled."""

from __future__ import annotations

import logging
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from scipy.stats import spearmanr

from klmap import domain_maps, figure_domains, geometry, layout, models_table, store, style
from klmap.arrays import Floats
from klmap.domain_maps import DomainMap
from klmap.errors import InputError
from klmap.layout import Place, Report
from klmap.quality import Quality
from klmap.scene import Scene
from tests.mapfiles import zoo
from tests.pagefiles import MapFiles, write_map

ROOT = Path(__file__).resolve().parents[1]


def report(method: str = "tsne") -> Report:
    quality = Quality(neighbors=5, preserved=1.0, trustworthiness=1.0, sampled=10, models=10)
    return Report(
        texts_sha256="", method=method, metric="euclidean", perplexity=30, seed=42,
        iterations=1000, input="", table="", quality=quality, stable=None, reason="",
    )  # fmt: skip


def overall(matrix: store.Matrix, models: list[models_table.Model], method: str) -> list[Place]:
    q = geometry.double_centre(matrix.loglik, matrix.clip_threshold)
    points = geometry.principal_components(geometry.features(q, matrix.mean_bytes))
    points = np.pad(points, ((0, 0), (0, 2)))
    return [
        Place(model.model, float(x), float(y), method)
        for model, (x, y) in zip(models, points[:, :2], strict=True)
    ]


def maps_of(path: Path, places: list[Place], described: Report, seed: int = 42) -> list[DomainMap]:
    with store.open_matrix(path) as matrix:
        return domain_maps.make(matrix, places, described, seed)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MapFiles:
    return write_map(tmp_path_factory.mktemp("domains"), 40, 300, 4)


@pytest.fixture(scope="module")
def maps(made: MapFiles) -> list[DomainMap]:
    matrix = store.read_matrix(made.path("matrix.h5"))
    places = overall(matrix, made.models, "tsne-euclidean")
    return maps_of(made.path("matrix.h5"), places, report())


def kl_of(matrix: store.Matrix, texts: list[int]) -> Floats:
    """All pairs as if these were all texts there are."""
    q = geometry.double_centre(matrix.loglik[:, texts], matrix.clip_threshold)
    return geometry.pairwise_kl(q, float(matrix.n_bytes[texts].mean()))[0]


def test_a_domain_has_the_distances_that_its_texts_alone_would_give(tmp_path: Path):
    collected = zoo(tmp_path / "demo").collect()
    matrix = collected.matrix
    store.write_matrix(tmp_path / "matrix.h5", matrix)
    places = overall(matrix, collected.models, "pca")
    found = maps_of(tmp_path / "matrix.h5", places, report("pca"))
    assert sorted(item.domain for item in found) == ["code", "legal", "prose"]
    upper = np.triu_indices(len(collected.models), 1)
    everything = kl_of(matrix, list(range(len(matrix.domain))))[upper]
    for item in found:
        texts = [s for s, name in enumerate(matrix.domain) if name == item.domain]
        kl = kl_of(matrix, texts)
        assert item.texts == len(texts)
        assert item.correlation == pytest.approx(spearmanr(kl[upper], everything)[0], abs=1e-6)
        squares = ((item.points[:, None] - item.points[None]) ** 2).sum(axis=2)
        # A projection: never farther than the KL, and in its units for the largest ones.
        assert (squares <= kl * (1 + 1e-9) + 1e-12).all()
        assert squares.max() > 0.5 * kl.max()


def test_domains_come_by_size_and_lie_over_the_overall_map(made: MapFiles, maps: list[DomainMap]):
    sizes = [item.texts for item in maps]
    assert sizes == sorted(sizes, reverse=True)
    assert sum(sizes) == 300
    matrix = store.read_matrix(made.path("matrix.h5"))
    start = layout.plane_of(overall(matrix, made.models, ""))
    for item in maps:
        assert item.correlation > 0.8
        np.testing.assert_allclose(item.points.mean(axis=0), start.mean(axis=0), atol=1e-6)
        turned = np.linalg.svd((item.points - item.points.mean(0)).T @ (start - start.mean(0)))
        np.testing.assert_allclose(turned[0] @ turned[2], np.eye(2), atol=1e-6)


def test_all_texts_in_one_domain_agree_with_the_map(tmp_path: Path):
    made = write_map(tmp_path, 30, 120, 1)
    matrix = store.read_matrix(made.path("matrix.h5"))
    places = overall(matrix, made.models, "pca")
    (found,) = maps_of(made.path("matrix.h5"), places, report("pca"))
    assert found.correlation == pytest.approx(1)
    np.testing.assert_allclose(found.points, layout.plane_of(places), atol=1e-9)


def test_a_domain_that_tells_another_story_has_a_low_correlation(tmp_path: Path):
    made = write_map(tmp_path, 40, 400, 2)
    matrix = store.read_matrix(made.path("matrix.h5"))
    small = np.flatnonzero(np.array(matrix.domain) == "PubMed Central")
    shuffled = np.random.default_rng(1).permutation(40)
    matrix.loglik[:, small] = matrix.loglik[np.ix_(shuffled, small)]
    store.write_matrix(tmp_path / "matrix.h5", matrix)
    places = overall(matrix, made.models, "pca")
    large, other = maps_of(tmp_path / "matrix.h5", places, report("pca"))
    assert other.domain == "PubMed Central"
    assert other.correlation < large.correlation - 0.2


def test_the_same_input_gives_the_same_places(made: MapFiles, maps: list[DomainMap]):
    matrix = store.read_matrix(made.path("matrix.h5"))
    places = overall(matrix, made.models, "tsne-euclidean")
    again = maps_of(made.path("matrix.h5"), places, report())
    for one, other in zip(maps, again, strict=True):
        np.testing.assert_array_equal(one.points, other.points)
        assert one.correlation == other.correlation


@pytest.mark.parametrize(
    ("sizes", "names", "said"),
    [
        ((50, 15, 12), ["Pile-CC", "2 smaller domains"], "joined: ArXiv, PubMed Central; 27 texts"),
        ((50, 30, 9), ["Pile-CC", "PubMed Central"], "left out: ArXiv; 9 texts"),
        ((19, 19), ["2 smaller domains"], "joined: Pile-CC, PubMed Central; 38 texts"),
        ((10, 9), ["2 smaller domains"], "joined: Pile-CC, PubMed Central; 19 texts"),
    ],
)
def test_small_domains_are_joined_or_left_out_and_named(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    sizes: tuple[int, ...],
    names: list[str],
    said: str,
):
    made = write_map(tmp_path, 8, sum(sizes), 3)
    matrix = store.read_matrix(made.path("matrix.h5"))
    labels = ("Pile-CC", "PubMed Central", "ArXiv")
    matrix.domain = [name for name, n in zip(labels, sizes, strict=False) for _ in range(n)]
    store.write_matrix(tmp_path / "matrix.h5", matrix)
    with caplog.at_level(logging.INFO, "klmap"):
        found = maps_of(tmp_path / "matrix.h5", overall(matrix, made.models, "pca"), report("pca"))
    assert [item.domain for item in found] == names
    assert said in caplog.text


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_models_are_placed_without_a_correlation_that_means_nothing(tmp_path: Path, count: int):
    made = write_map(tmp_path, count, 60, 2)
    matrix = store.read_matrix(made.path("matrix.h5"))
    found = maps_of(made.path("matrix.h5"), overall(matrix, made.models, "pca"), report("pca"))
    for item in found:
        assert item.points.shape == (count, 2)
        assert math.isnan(item.correlation) == (count < 3)


def test_what_is_written_is_read_again(made: MapFiles, maps: list[DomainMap], tmp_path: Path):
    path = tmp_path / "domains.tsv"
    unknown = [*maps, replace(maps[0], domain="un\tknown", correlation=math.nan)]
    domain_maps.write_domains(path, made.models, unknown)
    assert path.read_text().splitlines()[0].split("\t") == list(domain_maps.COLUMNS)
    found = domain_maps.read_domains(path, made.models)
    assert [(item.domain, item.texts) for item in found] == [
        (item.domain.replace("\t", " "), item.texts) for item in unknown
    ]
    for one, other in zip(found, unknown, strict=True):
        np.testing.assert_allclose(one.points, other.points, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(one.correlation, other.correlation, rtol=1e-5)
    turned = domain_maps.read_domains(path, made.models[::-1])
    np.testing.assert_array_equal(turned[0].points, found[0].points[::-1])

    domain_maps.write_domains(path, made.models[1:], [replace(maps[0], points=maps[0].points[1:])])
    with pytest.raises(InputError, match=r"domains\.tsv: .* is missing"):
        domain_maps.read_domains(path, made.models)
    path.write_text("\t".join(domain_maps.COLUMNS) + "\na\tmany\tm\t0\t0\t1\n")
    with pytest.raises(InputError, match=r"domains\.tsv: invalid literal"):
        domain_maps.read_domains(path, [models_table.Model("m")])


def scene(made: MapFiles, color_by: str = "family") -> Scene:
    matrix = store.read_matrix(made.path("matrix.h5"))
    return Scene(
        models=models_table.read_models(made.path("models.tsv")),
        places=overall(matrix, made.models, "tsne-euclidean"),
        distances=store.read_distances(made.path("kl.h5")),
        tree=None,
        texts="demo",
        color_by=color_by,
    )


def drawn(made: MapFiles, maps: list[DomainMap], color_by: str = "family") -> mpl.figure.Figure:
    with mpl.rc_context(style.RC):
        figure = figure_domains.draw(scene(made, color_by), maps)
        figure.canvas.draw()
    return figure


def words(figure: mpl.figure.Figure) -> str:
    found = [text.get_text() for text in figure.texts]
    found += [text.get_text() for axes in figure.axes for text in axes.texts]
    return "\n".join(found)


def test_every_panel_says_of_what_and_how_far_it_agrees(made: MapFiles, maps: list[DomainMap]):
    figure = drawn(made, maps)
    assert len(figure.axes) == 1 + len(maps)
    said = words(figure)
    assert "972 bytes each" in said
    assert "rank correlation" in said
    assert "Not shown" not in said
    for item in maps:
        assert item.domain in said
        assert f"{item.texts} texts · r = {item.correlation:.2f}" in said
    assert len({axes.get_xlim() for axes in figure.axes}) == 1


def test_texts_without_a_panel_are_counted(made: MapFiles, maps: list[DomainMap]):
    rest = maps[-1].texts
    assert f"Not shown: {rest} texts of domains with fewer than 20." in words(
        drawn(made, maps[:-1])
    )


@pytest.mark.parametrize(("count", "color_by"), [(1, "parameters"), (4, "family"), (23, "family")])
def test_panels_do_not_overlap_and_stay_on_the_page(made: MapFiles, count: int, color_by: str):
    rng = np.random.default_rng(count)
    name = "a domain with $a_{very}$ long name, and more of it"
    maps = [
        DomainMap(f"{name} {number}", 30, math.nan, rng.normal(size=(40, 2)) * (30, 9))
        for number in range(count)
    ]
    figure = drawn(made, maps, color_by)
    renderer = figure.canvas.get_renderer()
    boxes = [axes.get_window_extent(renderer) for axes in figure.axes]
    titles = [t.get_window_extent(renderer) for a in figure.axes[: count + 1] for t in a.texts]
    legend = figure.legends[0].get_window_extent(renderer)
    notes = [text.get_window_extent(renderer) for text in figure.texts]
    page = figure.bbox
    for box in [*boxes, *titles, legend, *notes]:
        assert box.x0 >= page.x0
        assert box.x1 <= page.x1
        assert box.y0 >= page.y0
        assert box.y1 <= page.y1
    solid = [*boxes[: count + 1], *titles, legend, *notes]
    for number, one in enumerate(solid):
        for other in solid[:number]:
            assert not one.overlaps(other)


def test_the_script_writes_the_table(made: MapFiles, tmp_path: Path):
    matrix = store.read_matrix(made.path("matrix.h5"))
    layout.write_layout(tmp_path / "layout.tsv", overall(matrix, made.models, "pca"))
    layout.write_report(tmp_path / "layout.json", report("pca"))
    done = subprocess.run(
        [
            sys.executable, ROOT / "scripts" / "domains.py",
            "--matrix", made.path("matrix.h5"), "--models", made.path("models.tsv"),
            "--layout", tmp_path / "layout.tsv", "--layout-report", tmp_path / "layout.json",
            "--seed", "42", "--domains", tmp_path / "domains.tsv",
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = domain_maps.read_domains(tmp_path / "domains.tsv", made.models)
    assert sum(item.texts for item in found) == 300
