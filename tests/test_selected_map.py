"""The map of a text selection: places, ellipses, tree and domains beside those of its reference."""

from __future__ import annotations

import json
import runpy
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from klmap import (
    alignment,
    bootstrap,
    domain_maps,
    embedding,
    files,
    fixed,
    geometry,
    layout,
    models_table,
    neighbors,
    placement,
    store,
    tree,
)
from klmap.arrays import Floats, Ints
from klmap.bootstrap import Ellipse
from klmap.design import Design
from klmap.embedding import Settings
from klmap.models_table import Model
from klmap.quality import Quality
from klmap.store import Matrix
from tests import mapfiles

SCRIPTS = Path(__file__).parents[1] / "scripts"
BYTES = 700.0
FAST = Settings(iterations=300)


def matrix_of(models: int, texts: int, seed: int = 0) -> Matrix:
    """Five groups of models; some texts tell them apart ten times as well as others."""
    rng = np.random.default_rng(seed)
    where = rng.normal(0, 0.6, (models, 8))
    where += (3 * rng.normal(size=(5, 8)))[np.arange(models) % 5]
    values = where @ rng.normal(size=(8, texts)) + rng.normal(0, 1, (models, texts))
    loglik = -600 + 25 * (rng.gamma(0.7, 1, texts) + 0.05) * values
    return Matrix(
        loglik,
        geometry.double_centre(loglik, -1e9).astype(np.float32),
        [f"m{row:03d}" for row in range(models)],
        [mapfiles.DOMAINS[text % 3] for text in range(texts)],
        rng.integers(300, 1100, texts).astype(np.int32),
        0.02,
        -1e9,
        BYTES,
        "a" * 64,
    )


def half_of_twins(matrix: Matrix) -> tuple[Matrix, Matrix]:
    """A reference that has every text twice, and the selection of one of each two.

    No estimate is needed there: whatever is measured on the selection is what the reference has.
    """
    texts = matrix.loglik.shape[1]
    twice = replace(
        matrix,
        loglik=np.hstack([matrix.loglik] * 2),
        coordinates=np.hstack([matrix.coordinates] * 2),
        domain=matrix.domain * 2,
        n_bytes=np.hstack([matrix.n_bytes] * 2),
    )
    times = np.full(texts, np.sqrt(2.0))
    design = Design(times, np.zeros(texts), np.ones(texts), 2 * texts)
    return twice, mapfiles.selected(twice, design, np.arange(texts))


def selection_of(matrix: Matrix, n: int, replacement: bool = True) -> tuple[Design, Ints]:
    """Texts drawn by the variance of their log-likelihoods."""
    chances = np.square(geometry.double_centre(matrix.loglik, matrix.clip_threshold)).sum(axis=0)
    return mapfiles.drawn(chances, n, np.random.default_rng(4), replacement)


def squares_of(points: Floats) -> Floats:
    return np.asarray(((points[:, None] - points[None]) ** 2).sum(axis=2))


def points_of(matrix: Matrix) -> Floats:
    found = (matrix.loglik, matrix.clip_threshold, matrix.mean_bytes, matrix.design)
    return layout.points_of(*found)


# ---- the points


def test_points_of_a_selection_are_as_far_apart_as_those_of_the_reference() -> None:
    twice, half = half_of_twins(matrix_of(12, 90))
    np.testing.assert_allclose(squares_of(points_of(half)), squares_of(points_of(twice)), rtol=1e-9)


def test_a_replicate_of_a_selection_counts_texts_as_the_reference_would() -> None:
    matrix = matrix_of(9, 60)
    twice, _ = half_of_twins(matrix)
    times = np.random.default_rng(1).gamma(2.0, 1.0, 60)
    found = bootstrap.kl_of_sample(matrix.loglik, times, BYTES, texts=120)
    double = np.hstack([times / 2] * 2)
    np.testing.assert_allclose(
        found, bootstrap.kl_of_sample(twice.loglik, double, BYTES, texts=120), rtol=1e-9
    )
    d = matrix.loglik[2] - matrix.loglik[7]
    d = d - (times @ d) / times.sum()
    expected = (times @ d**2) / (2 * 120 * BYTES * np.log(2))
    assert found[2, 7] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("replacement", [True, False])
def test_spread_over_replicates_is_the_standard_error_with_a_design(replacement: bool) -> None:
    matrix = matrix_of(5, 900, seed=3)
    design, index = selection_of(matrix, 400, replacement)
    found = mapfiles.selected(matrix, design, index)
    q = geometry.double_centre(found.loglik, -1e9, design)
    kl, se = geometry.pairwise_kl(q, BYTES, design)
    drawn = np.array(list(bootstrap.replicates(found, 400, seed=3)))
    pairs = np.triu_indices(5, 1)
    np.testing.assert_allclose(drawn.std(axis=0)[pairs], se[pairs], rtol=0.2)
    np.testing.assert_allclose(drawn.mean(axis=0)[pairs], kl[pairs], rtol=0.03)


# ---- the tree


def distances_of(matrix: Matrix, reference: Matrix | None = None) -> store.Distances:
    known = None if reference is None else distances_of(reference)
    return neighbors.measure(matrix, 5, 5000, known)[0]


def test_replicates_vary_about_what_is_known_of_the_pair_by_its_own_error() -> None:
    matrix = matrix_of(6, 900, seed=5)
    design, index = selection_of(matrix, 40)
    complete = np.array([True, True, True, True, False, False])
    found = mapfiles.selected(matrix, design, index, complete)
    known = distances_of(found, matrix)
    plain = np.array(list(bootstrap.replicates(found, 200, 9)))
    about = np.array(list(bootstrap.replicates(found, 200, 9, known)))
    assert known.kl is not None
    assert known.se is not None
    away = np.abs(plain.mean(axis=0) - known.kl)[:4, :4]
    assert away.max() > 0.4 * known.se.max(), "these few texts say another thing"
    assert (plain.std(axis=0) / np.maximum(known.se, 1e-9))[:4, :4].max() > 1.3, "and less of it"
    for a, b in ((0, 1), (1, 3), (0, 2)):
        assert about[:, a, b].mean() == pytest.approx(
            known.kl[a, b], abs=0.2 * float(known.se[a, b])
        )
        assert about[:, a, b].std() == pytest.approx(known.se[a, b], rel=0.2)
    np.testing.assert_allclose(about[:, 4:], plain[:, 4:], rtol=1e-4, atol=1e-9)


def test_a_tree_of_models_of_the_reference_alone_is_supported_as_there() -> None:
    matrix = matrix_of(14, 800, seed=2)
    matrix.loglik[:7] += np.random.default_rng(5).normal(0, 20, 800)
    design, index = mapfiles.drawn(np.ones(800), 60, np.random.default_rng(3))
    found = mapfiles.selected(matrix, design, index)

    def support(of: Matrix, distances: store.Distances) -> dict[frozenset[str], float]:
        root = tree.build(distances)
        tree.add_support(root, of.model, bootstrap.replicates(of, 60, 1, distances))
        return {frozenset(n.leaves()): n.support for n in root.walk() if n.support is not None}

    there, here = support(matrix, distances_of(matrix)), support(found, distances_of(found, matrix))
    assert there.keys() == here.keys()
    differences = [abs(there[group] - here[group]) for group in there]
    assert np.mean(differences) < 0.15


# ---- the layout


class Run:
    """A reference and a selection of its texts as files, and the scripts in this process."""

    def __init__(self, root: Path, added: int = 3, models: int = 24) -> None:
        self.root = root
        self.matrix = matrix_of(models, 300)
        held = np.arange(models) < models - added
        self.reference = self.write("reference", part(self.matrix, held), None)
        design, index = selection_of(self.matrix, 150)
        self.found = mapfiles.selected(self.matrix, design, index, held)
        self.selection = self.write("selection", self.found, part(self.matrix, held))
        self.held = [
            name for name, all_texts in zip(self.found.model, held, strict=True) if all_texts
        ]

    def write(self, name: str, matrix: Matrix, reference: Matrix | None) -> Path:
        folder = self.root / name
        store.write_matrix(folder / "matrix.h5", matrix)
        rows = [Model(model, bits_per_byte=1.0, mean_loglik=-5.0) for model in matrix.model]
        models_table.write_models(folder / "models.tsv", rows)
        store.write_distances(folder / "kl.h5", distances_of(matrix, reference))
        return folder

    def script(self, name: str, *arguments: object) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [name, *map(str, arguments)])
            runpy.run_path(str(SCRIPTS / f"{name}.py"))["main"]()

    def layout(self, folder: Path, *options: object) -> dict[str, tuple[str, ...]]:
        """Lines of layout.tsv by model."""
        self.script(
            "layout", "--matrix", folder / "matrix.h5", "--kl", folder / "kl.h5",
            "--models", folder / "models.tsv", "--layout", folder / "layout.tsv",
            "--report", folder / "layout.json", "--iterations", 300, *options,
        )  # fmt: skip
        lines = [line.split("\t") for line in (folder / "layout.tsv").read_text().splitlines()]
        return {line[0]: tuple(line[1:3]) for line in lines[1:]}

    def beside(self, *options: object) -> dict[str, tuple[str, ...]]:
        """The same of the selection, with its reference's layout."""
        return self.layout(
            self.selection, "--reference-layout", self.reference / "layout.tsv",
            "--reference-report", self.reference / "layout.json", *options,
        )  # fmt: skip

    @property
    def report(self) -> layout.Report:
        return layout.read_report(self.selection / "layout.json")


def part(matrix: Matrix, rows: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Matrix:
    names = [name for name, kept in zip(matrix.model, rows, strict=True) if kept]
    loglik = matrix.loglik[rows]
    return replace(
        matrix, loglik=loglik, coordinates=matrix.coordinates[rows], model=names,
        noise=matrix.noise[rows], complete=matrix.complete[rows],
    )  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def test_models_of_the_reference_keep_their_places_to_the_last_digit(run: Run) -> None:
    there = run.layout(run.reference)
    here = run.beside()
    assert {name: here[name] for name in run.held} == there
    assert len(here) == len(there) + 3
    report = run.report
    assert report.reference == files.sha256_of(run.reference / "layout.tsv")
    assert report.reason == ""
    assert report.stable is not None
    assert (report.stable.kept, report.stable.new, report.stable.largest) == (21, 3, 0)
    said = "21 models stand where they do on the map of all texts; 3 were placed among them."
    assert said in layout.sentence(report)
    assert "reference" not in json.loads((run.reference / "layout.json").read_text())


def test_added_models_stand_among_their_nearest(run: Run) -> None:
    run.layout(run.reference)
    here = run.beside()
    xy = np.array([here[name] for name in run.found.model], np.float64)
    for row in (21, 22, 23):
        apart = np.linalg.norm(xy[:21] - xy[row], axis=1)
        assert {near % 5 for near in np.argsort(apart)[:2]} == {row % 5}, "its own group"


@pytest.mark.parametrize("method", ["tsne", "pca"])
def test_the_layout_before_does_not_matter(run: Run, method: str) -> None:
    run.layout(run.reference, "--method", method)
    run.beside("--method", method)
    table, report = (run.selection / name for name in ("layout.tsv", "layout.json"))
    first = table.read_bytes(), report.read_bytes()
    run.beside("--method", method)
    assert (table.read_bytes(), report.read_bytes()) == first
    run.layout(run.selection, "--method", method, "--fresh")
    run.beside("--method", method, "--fixed")
    assert (table.read_bytes(), report.read_bytes()) == first


@pytest.mark.parametrize("method", ["umap", "pca"])
def test_other_methods_begin_at_the_reference_and_are_turned_onto_it(run: Run, method: str) -> None:
    there = run.layout(run.reference, "--method", method)
    here = run.beside("--method", method)
    report = run.report
    assert report.reference
    assert report.stable is not None
    assert 0 < report.stable.median < 0.1
    assert "stand near where they do" in layout.sentence(report)
    old, new = (np.array([of[name] for name in run.held], np.float64) for of in (there, here))
    turned = alignment.onto(new, np.arange(len(new)), old, scaled=False)
    np.testing.assert_allclose(turned, new, atol=1e-3 * alignment.width(new))


def test_a_name_alone_gives_no_place(run: Run) -> None:
    """A model that the reference has, but whose score here is of the chosen texts alone."""
    there = run.layout(run.reference)
    found = replace(run.found, complete=run.found.complete & (np.arange(24) != 4))
    store.write_matrix(run.selection / "matrix.h5", found)
    here = run.beside()
    assert here["m004"] != there["m004"]
    assert run.report.stable is not None
    assert (run.report.stable.kept, run.report.stable.new) == (20, 4)


def test_a_complete_model_that_the_reference_has_not_placed_is_placed_like_new_ones(
    run: Run,
) -> None:
    run.layout(run.reference)
    store.write_matrix(
        run.selection / "matrix.h5", replace(run.found, complete=np.ones(24, np.bool_))
    )
    run.beside()
    assert run.report.stable is not None
    assert (run.report.stable.kept, run.report.stable.new) == (21, 3)


def test_other_settings_hold_the_places_and_are_told(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    there = run.layout(run.reference)
    here = run.beside("--perplexity", 5, "--seed", 7)
    assert {name: here[name] for name in run.held} == there
    assert "made with perplexity 30, models are placed on it with 5.0" in caplog.text
    assert "made with seed 42, models are placed on it with 7" in caplog.text
    assert "metric" not in caplog.text


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("gone", "layout.tsv: no such file"),
        ("edited", "is not the table"),
        ("another method", "the one before was made by pca, this one by tsne"),
        ("two models", "only 2 places of these models"),
    ],
)
def test_a_reference_without_a_usable_layout_is_a_fresh_start(
    run: Run, damage: str, reason: str
) -> None:
    run.layout(run.reference, *(["--method", "pca"] if damage == "another method" else []))
    table = run.reference / "layout.tsv"
    if damage == "gone":
        table.unlink()
        (run.reference / "layout.json").unlink()
    elif damage == "edited":
        table.write_text(table.read_text().replace("m003", "m03"))
    elif damage == "two models":
        complete = np.arange(24) < 2
        store.write_matrix(run.selection / "matrix.h5", replace(run.found, complete=complete))
    run.beside()
    assert reason in run.report.reason
    assert run.report.stable is None
    assert run.report.reference == ""
    fresh = (run.selection / "layout.tsv").read_bytes()
    run.layout(run.selection, "--fresh")
    assert (run.selection / "layout.tsv").read_bytes() == fresh


def test_another_selection_of_the_same_texts_is_another_layout(run: Run) -> None:
    """Where it goes on from its own: the weights belong to what a layout follows from."""
    clouds = []
    for name in ("5e1ec7ed0000", "5e1ec7ed0001"):
        store.write_matrix(run.selection / "matrix.h5", replace(run.found, selection=name))
        distances = store.read_distances(run.selection / "kl.h5")
        with store.open_matrix(run.selection / "matrix.h5") as matrix:
            models = models_table.read_models(run.selection / "models.tsv", matrix.model)
            clouds.append(placement.cloud(matrix, distances, models, 5000))
    assert clouds[0].digest != clouds[1].digest
    assert clouds[0].vectors == clouds[1].vectors


# ---- the ellipses


@dataclass
class Held:
    """Models that were held out of a map and placed on it by a selection."""

    found: Matrix
    places: list[layout.Place]
    by_all: Floats
    known: dict[str, Ellipse]
    new: Ints
    report: layout.Report


def held_out(seed: int, replacement: bool, out: int = 6, share: float = 0.3) -> Held:
    matrix = matrix_of(40, 400, seed)
    rng = np.random.default_rng(seed)
    new = np.sort(rng.choice(40, out, replace=False))
    held = np.setdiff1d(np.arange(40), new)
    points = layout.points_of(matrix.loglik, -1e9, BYTES)
    plane = embedding.fresh(geometry.principal_components(points[held]), FAST)
    targets = np.array([[float(f"{value:.6g}") for value in row] for row in plane])
    by_all = fixed.place(points, held, targets, FAST, quiet=True)
    chances = np.square(geometry.double_centre(matrix.loglik[held], -1e9)).sum(axis=0)
    design, index = mapfiles.drawn(chances, int(share * 400), rng, replacement)
    found = mapfiles.selected(matrix, design, index, ~np.isin(np.arange(40), new))
    here = fixed.place(points_of(found), held, targets, FAST, quiet=True)
    places = layout.places_of(matrix.model, here, "tsne-euclidean")
    known = {
        places[row].model: Ellipse(places[row].model, places[row].x, places[row].y, 0.3, 0.1, 12.0)
        for row in held
    }
    faithful = Quality(10, 1.0, 1.0, 40, 40)
    report = layout.Report(
        "a" * 64, "tsne", "euclidean", 30, 42, 300, "", "", faithful, None, "", reference="r"
    )
    return Held(found, places, by_all, known, new, report)


def within(ellipse: Ellipse, place: Floats) -> bool:
    angle = np.radians(ellipse.angle)
    along, across = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) @ (
        place - (ellipse.x, ellipse.y)
    )
    return bool((along / ellipse.major) ** 2 + (across / ellipse.minor) ** 2 <= 1)


@pytest.mark.parametrize("replacement", [True, False])
def test_ellipses_of_added_models_hold_where_all_texts_would_put_them(replacement: bool) -> None:
    hits, areas, moved = [], [], []
    for seed in range(4):
        case = held_out(seed, replacement)
        rows = bootstrap.ellipses(case.found, case.places, case.report, 25, seed, case.known)
        sides = np.ptp(layout.plane_of(case.places), axis=0)
        for row in case.new:
            hits.append(within(rows[row], case.by_all[row]))
            areas.append(np.pi * rows[row].major * rows[row].minor / sides.prod())
            here = np.array([case.places[row].x, case.places[row].y])
            moved.append(np.linalg.norm(here - case.by_all[row]) / sides.max())
    assert np.mean(hits) >= 0.9
    assert max(moved) > 1e-4, "texts do matter here"
    assert np.median(areas) < 0.01, "of the map"


def test_models_that_are_held_keep_the_ellipses_of_the_reference() -> None:
    case = held_out(1, replacement=True)
    rows = bootstrap.ellipses(case.found, case.places, case.report, 3, 0, case.known)
    assert [row.model for row in rows] == case.found.model
    for row, place in zip(rows, case.places, strict=True):
        assert (row.x, row.y) == (place.x, place.y)
        if place.model in case.known:
            assert row == case.known[place.model]
    assert {row.model for row in rows} - case.known.keys() == {f"m{row:03d}" for row in case.new}


def test_the_chosen_texts_themselves_move_no_added_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "reweigh", lambda design, *_: design.times)
    case = held_out(2, replacement=True)
    rows = bootstrap.ellipses(case.found, case.places, case.report, 2, 0, case.known)
    for row in case.new:
        axes = rows[row].major, rows[row].minor, rows[row].angle
        assert axes == pytest.approx((0.3, 0.1, 12.0), rel=1e-3), "those of all around it"


def test_an_added_model_is_never_surer_than_those_around_it() -> None:
    case = held_out(2, replacement=True)
    rows = bootstrap.ellipses(case.found, case.places, case.report, 5, 0, case.known)
    for row in case.new:
        assert rows[row].major * rows[row].minor > 0.3 * 0.1
        assert rows[row].major > 0.3


def test_a_model_that_lands_in_two_groups_has_an_ellipse_that_reaches_both(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = held_out(0, replacement=True, out=1)
    row = int(case.new[0])
    here = np.array([case.places[row].x, case.places[row].y])
    far = here + np.array([30.0, 0])
    landed = iter([here, far] * 2)
    monkeypatch.setattr(fixed, "among", lambda *_: next(landed)[None])
    found = bootstrap.ellipses(case.found, case.places, case.report, 4, 0, case.known)[row]
    assert found.angle == pytest.approx(0, abs=1e-3)
    assert found.major > 30
    assert (found.x, found.y) == tuple(here)


@pytest.mark.parametrize("lost", ["ellipses", "reference", "method"])
def test_without_held_places_all_models_have_ellipses_by_replicates(lost: str) -> None:
    case = held_out(3, replacement=True)
    report = case.report
    if lost == "reference":
        report = replace(report, reference="")
    elif lost == "method":
        report = replace(report, method="pca")
    known = {} if lost == "ellipses" else case.known
    rows = bootstrap.ellipses(case.found, case.places, report, 3, 0, known)
    assert len(rows) == 40
    assert not any(row == case.known.get(row.model) for row in rows)
    assert all(row.major > 0 for row in rows)


def test_the_script_takes_the_ellipses_of_the_reference(run: Run) -> None:
    run.layout(run.reference)
    run.beside()

    def ellipses(folder: Path, *options: object) -> list[str]:
        run.script(
            "ellipses", "--matrix", folder / "matrix.h5", "--models", folder / "models.tsv",
            "--layout", folder / "layout.tsv", "--layout-report", folder / "layout.json",
            "--bootstrap", 3, "--ellipses", folder / "ellipses.tsv", *options,
        )  # fmt: skip
        return (folder / "ellipses.tsv").read_text().splitlines()

    there = ellipses(run.reference, "--reference-ellipses")
    for _ in range(2):
        here = ellipses(run.selection, "--reference-ellipses", run.reference / "ellipses.tsv")
        assert here[: len(there)] == there, "the same lines"
        assert [line.split("\t")[0] for line in here[len(there) :]] == ["m021", "m022", "m023"]


# ---- the maps of domains


def maps_of(root: Path, matrix: Matrix) -> list[domain_maps.DomainMap]:
    store.write_matrix(root / "matrix.h5", matrix)
    places = layout.places_of(matrix.model, points_of(matrix)[:, :2], "pca")
    report = layout.Report(
        "", "pca", "euclidean", 30, 42, 300, "", "", Quality(5, 1.0, 1.0, 9, 9), None, ""
    )
    with store.open_matrix(root / "matrix.h5") as file:
        return domain_maps.make(file, places, report, 42)


def test_maps_of_domains_are_those_of_the_reference(tmp_path: Path) -> None:
    twice, half = half_of_twins(matrix_of(15, 180))
    there, here = maps_of(tmp_path / "a", twice), maps_of(tmp_path / "b", half)
    assert [item.domain for item in there] == [item.domain for item in here]
    for one, other in zip(there, here, strict=True):
        assert one.correlation == pytest.approx(other.correlation, abs=1e-9)
        assert (one.texts, other.texts) == (120, 60), "as many as were chosen"
        np.testing.assert_allclose(squares_of(one.points), squares_of(other.points), rtol=1e-3)


def test_the_kl_of_a_domain_is_the_weighted_one_of_its_texts(tmp_path: Path) -> None:
    """Of three models the plane shows all of it."""
    matrix = matrix_of(3, 600, seed=8)
    found = mapfiles.selected(matrix, *selection_of(matrix, 300))
    design = found.design
    assert design is not None
    maps = maps_of(tmp_path, found)
    assert len(maps) == 3
    for item in maps:
        own = np.array(found.domain) == item.domain
        times = design.times[own]
        for a, b in ((0, 1), (0, 2), (1, 2)):
            d = found.loglik[a, own] - found.loglik[b, own]
            d = d - times @ d / times.sum()
            kl = times @ d**2 / (2 * np.log(2) * (times @ found.n_bytes[own]))
            shown = ((item.points[a] - item.points[b]) ** 2).sum()
            assert shown == pytest.approx(kl, rel=1e-9)
