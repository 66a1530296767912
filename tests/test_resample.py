"""What fewer texts cost: against errors that are written out, and promises that draws must keep."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from klmap import (
    alignment,
    bootstrap,
    embedding,
    figure_resample,
    figure_resample_maps,
    files,
    geometry,
    layout,
    models_table,
    resample,
    resample_errors,
    resample_maps,
    resampling,
    store,
)
from klmap.arrays import Floats
from klmap.design import Design
from klmap.errors import InputError
from klmap.layout import Place, Report
from klmap.models_table import Model
from klmap.quality import Quality
from klmap.resample import Resample, Settings
from klmap.resample_draws import KINDS, Asked, Kind, Reference
from klmap.resample_errors import Cost
from klmap.resample_maps import COMPARED, Landing
from klmap.store import Matrix
from tests import mapfiles

SCRIPT = Path(__file__).parents[1] / "scripts" / "resample.py"
BYTES = 700.0
LS, UNIFORM = Kind("ls", True), Kind("uniform", True)
FEW = Settings(draws=4, maps=3)


def loglik(models: int, texts: int, uneven: float, seed: int = 0) -> Floats:
    """Four groups of models; the texts differ in how much they say of a model."""
    rng = np.random.default_rng(seed)
    groups = rng.normal(0, 25, (4, 3))[np.arange(models) % 4] + rng.normal(0, 8, (models, 3))
    size = np.exp(uneven * rng.normal(0, 1, texts))
    own = rng.normal(0, 8, (models, texts))
    return np.asarray(-600 + (groups @ rng.normal(0, 1, (3, texts)) + own) * size)


def matrix_of(values: Floats, quantile: float = 0.02) -> Matrix:
    threshold = geometry.clip_threshold(values, quantile)
    texts = values.shape[1]
    return Matrix(
        loglik=values,
        coordinates=geometry.double_centre(values, threshold).astype(np.float32),
        model=[model.model for model in mapfiles.models(len(values))],
        domain=["code", "prose", "legal", "mail"] * (texts // 4) + ["code"] * (texts % 4),
        n_bytes=np.full(texts, int(BYTES), np.int32),
        clip_quantile=quantile,
        clip_threshold=threshold,
        mean_bytes=BYTES,
        texts_sha256="0" * 64,
    )


def reference(models: int = 24, texts: int = 300, uneven: float = 1.0) -> Reference:
    matrix = matrix_of(loglik(models, texts, uneven))
    return Reference.of(matrix.coordinates.astype(np.float64), matrix.domain, BYTES)


def report_of(method: str = "tsne", perplexity: float = 5) -> Report:
    faithful = Quality(sampled=1, models=1, neighbors=1, preserved=1.0, trustworthiness=1.0)
    settings = embedding.Settings(method, perplexity=perplexity)  # type: ignore[arg-type]
    return Report(
        "0" * 64, settings.method, settings.metric, perplexity, 42, 1000, "", "", faithful, None,
        "first",
    )  # fmt: skip


def found_by(
    costs: list[Cost], kind: Kind | None, texts: int, measure: str = "absolute"
) -> float:  # fmt: skip
    """The error of one kind at about so many texts."""
    own = [cost for cost in costs if cost.kind == kind and not cost.name]
    nearest = min(own, key=lambda cost: abs(cost.texts - texts))
    return float(getattr(nearest.mean, measure))


# Errors


def test_an_error_is_that_of_distances_written_out() -> None:
    some = reference(models=7, texts=40)
    drawn = some.drawn(LS, 25, seed=3, draw=0)
    chance = some.probability["ls"][drawn.index]
    # Every draw counts 1 / (n pi), and each model is centred on the mean of what was drawn.
    times = drawn.count / (25 * chance)
    part = some.q[:, drawn.index]
    middle = (part * times).sum(axis=1) / times.sum()
    truth, estimate = np.zeros((7, 7)), np.zeros((7, 7))
    for i in range(7):
        for j in range(7):
            truth[i, j] = ((some.q[i] - some.q[j]) ** 2).sum()
            way = part[i] - part[j] - (middle[i] - middle[j])
            estimate[i, j] = (times * way**2).sum()
    pairs = np.triu_indices(7, 1)
    off = np.abs(estimate[pairs] / truth[pairs] - 1)
    asked = [Asked("own", LS, 25)]
    own = resample_errors.costs(some, 1, 0.2, seed=3, asked=asked)[-1]
    assert own.name == "own"
    assert own.texts == len(drawn.index)
    norm = np.linalg.norm
    assert own.mean.absolute == pytest.approx(norm(estimate - truth) / norm(truth), rel=1e-9)
    relative = np.sqrt(np.mean(((estimate - truth) / np.maximum(truth, 1e-3)) ** 2))
    assert own.mean.relative == pytest.approx(relative, rel=1e-9)
    assert own.mean.median == pytest.approx(np.median(off), rel=1e-9)
    assert own.mean.q95 == pytest.approx(np.quantile(off, 0.95), rel=1e-9)
    assert own.mean.within == pytest.approx((off <= 0.2).mean())


def test_ls_beats_uniform_where_texts_say_unequally_much() -> None:
    costs = resample_errors.costs(reference(uneven=1.0), 30, 0.05, seed=0)
    for own in costs:
        if own.kind == LS and not own.name:
            assert own.ratio > 1.3
            assert own.ratio == pytest.approx(
                found_by(costs, UNIFORM, round(own.texts)) / own.mean.absolute
            )


def test_ls_is_no_better_where_all_texts_say_alike() -> None:
    rng = np.random.default_rng(0)
    q = rng.normal(0, 10, (24, 300))
    q -= q.mean(axis=1, keepdims=True)
    q /= np.sqrt((q**2).mean(axis=0))
    costs = resample_errors.costs(Reference.of(q, ["x"] * 300, BYTES), 30, 0.05, seed=0)
    for own in costs:
        if own.kind == LS:
            assert own.ratio == pytest.approx(1, abs=0.12)


def test_errors_fall_with_more_texts_and_end_at_none() -> None:
    some = reference(texts=200)
    costs = resample_errors.costs(some, 20, 0.05, seed=0)
    for kind in (LS, Kind("ls", False), UNIFORM):
        errors = [own.mean.absolute for own in costs if own.kind == kind]
        assert len(errors) == len(resample_errors.FRACTIONS)
        assert errors[-1] < 0.5 * errors[0]
        assert all(later < 1.15 * earlier for earlier, later in itertools.pairwise(errors))
    everything = [Asked("all", Kind(method, False), 200) for method in ("uniform", "ls", "kl")]
    for own in resample_errors.costs(some, 3, 0.05, seed=0, asked=everything)[-3:]:
        assert own.mean.absolute < 1e-12
        assert own.mean.within == 1


def test_without_replacement_errs_less_than_with() -> None:
    costs = resample_errors.costs(reference(), 30, 0.05, seed=0)
    for texts in (60, 120, 195):
        assert found_by(costs, Kind("ls", False), texts) < found_by(costs, LS, texts)


def test_the_set_itself_comes_first_and_adds_to_every_total() -> None:
    costs = resample_errors.costs(reference(), 20, 0.05, seed=0)
    assert [own.kind for own in costs].count(None) == 1
    assert costs[0].kind is None
    assert costs[0].n == 300
    assert costs[0].texts == pytest.approx(300 * (1 - math.exp(-1)), rel=0.02)
    for own in costs[1:]:
        assert own.total == pytest.approx(math.hypot(own.mean.absolute, costs[0].mean.absolute))


def test_kinds_are_compared_at_the_same_number_of_different_texts() -> None:
    costs = resample_errors.costs(reference(), 40, 0.05, seed=0)
    for share in resample_errors.FRACTIONS:
        own = [c.texts for c in costs[1:] if abs(c.texts - share * 300) < 0.05 * share * 300]
        assert len(own) == len(KINDS)


def test_texts_without_variance_are_never_too_few() -> None:
    q = np.zeros((10, 100))
    q[:, :30] = np.random.default_rng(0).normal(0, 5, (10, 30))
    some = Reference.of(q, ["x"] * 100, BYTES)
    costs = resample_errors.costs(some, 3, 0.05, seed=0)
    assert max(own.texts for own in costs if own.kind == LS) < 30
    assert max(own.texts for own in costs if own.kind == UNIFORM) > 75
    few = resample_maps.stability(some, np.zeros((10, 2)), report_of("pca"), 2, seed=0)
    assert few[0].texts <= 30


def test_very_many_draws_are_limited_by_what_they_cost() -> None:
    assert resample_errors.affordable(28, 600, 100) == 100
    assert resample_errors.FEWEST_DRAWS <= resample_errors.affordable(1000, 10_000, 100) < 100
    assert resample_errors.affordable(1000, 10**6, 100) == resample_errors.FEWEST_DRAWS
    assert resample_errors.affordable(1000, 10**6, 2) == 2


# Numbers of texts


def test_a_number_of_texts_holds_what_it_promises() -> None:
    numbers = resample_errors.numbers(reference(texts=500), 0.07, 0.9, 20, seed=0)
    assert {own.error for own in numbers} == {*resample_errors.WANTED, 0.07}
    held = [own for own in numbers if own.n]
    assert len(held) >= len(numbers) // 2
    for own in held:
        assert own.found > 0.9 - 0.06
        assert own.texts <= 500
        if not own.kind.replacement:
            assert own.texts == own.n


def test_a_smaller_error_takes_more_texts() -> None:
    numbers = resample_errors.numbers(reference(), 0.05, 0.95, 2, seed=0)
    for kind in KINDS:
        texts = [own.texts for own in numbers if own.kind == kind and own.n]
        assert texts == sorted(texts, reverse=True)


def test_with_replacement_a_small_error_is_out_of_reach() -> None:
    numbers = resample_errors.numbers(reference(texts=100), 0.001, 0.95, 2, seed=0)
    own = next(each for each in numbers if each.kind == UNIFORM and each.error == 0.001)
    assert own.n == 0
    assert math.isnan(own.texts)


# Maps


def test_the_radius_is_the_mean_distance_from_the_mean_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plane = np.array([[0.0, 0.0], [20.0, 0.0], [0.0, 10.0], [5.0, 5.0], [9.0, 3.0]])
    shifts = iter([(2.0, 0.0), (-2.0, 0.0)] * 4)
    monkeypatch.setattr(layout, "continued", lambda *_: plane + next(shifts))
    some = reference(models=5, texts=60)
    found = resample_maps.stability(some, plane, report_of(), 2, seed=0)
    assert [own.kind for own in found] == [*COMPARED, None]
    for own in found:
        assert own.radius == pytest.approx([2 / 20] * 5)
        # Two places 4 apart along x have variance 8, and nothing along y.
        scale = math.sqrt(-2 * math.log(0.05))
        assert own.ellipses[:, 0] == pytest.approx([scale * math.sqrt(8)] * 5)
        assert own.ellipses[:, 1:] == pytest.approx(np.zeros((5, 2)), abs=1e-6)


def test_maps_of_ls_move_less_than_maps_of_uniform_texts() -> None:
    some = reference(models=24, texts=300, uneven=1.3)
    models = mapfiles.models(24)
    plane = layout.plane_of(layout.place(matrix_of(loglik(24, 300, 1.3)), models, perplexity=5))
    found = {own.kind: own for own in resample_maps.stability(some, plane, report_of(), 6, seed=0)}
    assert found[LS].radius.mean() < found[UNIFORM].radius.mean()
    assert found[Kind("ls", False)].radius.mean() < found[LS].radius.mean()
    assert found[LS].texts == pytest.approx(60, rel=0.05)


@pytest.mark.parametrize("angle", [0.0, 0.4, 2.0, -1.1])
def test_a_step_to_the_edge_of_an_ellipse_is_just_inside(angle: float) -> None:
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    covariance = turn @ np.diag([9.0, 1.0]) @ turn.T
    major, minor, degrees = bootstrap.half_axes(covariance)
    along = np.array([math.cos(math.radians(degrees)), math.sin(math.radians(degrees))])
    across = np.array([-along[1], along[0]])
    for step, length in ((along, major), (across, minor)):
        assert resample_maps.inside(0.999 * length * step, covariance)
        assert not resample_maps.inside(1.001 * length * step, covariance)


# New models


def test_the_newest_models_are_taken_out() -> None:
    models = [
        replace(model, created_at=f"2024-{month:02d}-01T00:00:00+00:00")
        for model, month in zip(
            mapfiles.models(12), [5, 12, 3, 1, 11, 2, 4, 10, 6, 7, 8, 9], strict=True
        )
    ]
    rows, dated = resample_maps.newest(models, 0.1, seed=0)
    assert dated
    assert rows.tolist() == [1, 4, 7]


@pytest.mark.parametrize(
    ("count", "taken"), [(4, 0), (5, 0), (7, 2), (28, 3), (100, 10), (900, 50)]
)
def test_enough_models_stay_to_make_a_map(count: int, taken: int) -> None:
    rows, dated = resample_maps.newest(mapfiles.models(count), 0.1, seed=0)
    assert dated == (not taken)
    assert len(set(rows.tolist())) == taken
    assert rows.tolist() == sorted(rows.tolist())


def landed(
    models: int = 48, texts: int = 400, taken: int = 14, replicates: int = 30
) -> list[Landing]:
    values = loglik(models, texts, 1.0, seed=5)
    matrix = matrix_of(values)
    plane = layout.plane_of(layout.place(matrix, mapfiles.models(models), perplexity=8))
    return resample_maps.landings(
        values, np.arange(models - taken, models), 0.02, BYTES, matrix.domain, plane,
        report_of(perplexity=8), replicates, 0,
    )  # fmt: skip


def test_new_models_land_within_their_ellipse_and_near_their_place() -> None:
    found = landed()
    assert [own.kind for own in found] == [kind for kind in COMPARED for _ in range(14)]
    for kind in COMPARED:
        own = [each for each in found if each.kind == kind]
        assert np.mean([each.within for each in own]) >= 0.85
        assert np.mean([each.kept / each.neighbors for each in own]) > 0.7
    errors = {kind: np.median([o.error for o in found if o.kind == kind]) for kind in COMPARED}
    assert errors[LS] < errors[UNIFORM]
    assert errors[Kind("ls", False)] < errors[UNIFORM]


def test_what_a_text_counts_does_not_follow_from_the_new_models(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Floats] = []
    probabilities = resampling.moments

    def noted(blocks: list[Floats], texts: int) -> resampling.Moments:
        seen.extend(blocks)
        return probabilities(blocks, texts)

    monkeypatch.setattr(resampling, "moments", noted)
    values = loglik(20, 80, 1.0)
    plane = np.random.default_rng(0).normal(size=(20, 2))

    def run(own: Floats) -> list[Landing]:
        return resample_maps.landings(
            own, np.array([3, 8]), 0.02, BYTES, ["x"] * 80, plane, report_of(), 2, 0
        )

    first = run(values)
    others = values.copy()
    others[[3, 8]] -= 300
    run(others)
    assert len(seen[0]) == 18
    assert seen[0] == pytest.approx(seen[1], abs=1e-9)
    assert {own.row for own in first} == {3, 8}


def test_all_texts_put_a_new_model_where_the_distance_says() -> None:
    for own in landed(taken=3, replicates=2):
        assert own.distance >= 0
        assert own.neighbors == 10
        assert 0 <= own.kept <= 10


# Everything together


def measured(
    path: Path, values: Floats, settings: Settings = FEW, method: str = "", dated: bool = False
) -> tuple[Resample, list[Model], list[Place]]:
    matrix = matrix_of(values)
    models = mapfiles.models(len(values))
    if dated:
        models = [
            replace(own, created_at=f"2024-01-{i % 28 + 1:02d}") for i, own in enumerate(models)
        ]
    method = method or ("tsne" if len(models) >= embedding.FEWEST else "pca")
    plane = np.random.default_rng(0).normal(0, 20, (len(models), 2))
    places = layout.places_of(matrix.model, plane, f"{method}-euclidean")
    path.mkdir(parents=True, exist_ok=True)
    store.write_matrix(path / "matrix.h5", matrix)
    models_table.write_models(path / "models.tsv", models)
    layout.write_layout(path / "layout.tsv", places)
    layout.write_report(path / "layout.json", report_of(method))
    with store.open_matrix(path / "matrix.h5") as file:
        asked = [Asked("small", LS, 20)]
        found = resample.measure(file, models, places, report_of(method), settings, asked)
    return found, models, places


def words_of(figure: Figure) -> str:
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    return "\n".join([*texts, *(text.get_text() for text in figure.texts)])


def test_tables_have_what_they_are_said_to_have(tmp_path: Path) -> None:
    found, models, _ = measured(tmp_path, loglik(12, 80, 1.0), dated=True)
    resample.write(tmp_path, found, models)
    errors = list(files.read_tsv(tmp_path / "errors.tsv"))
    assert tuple(errors[0]) == resample.ERROR_COLUMNS
    assert errors[0]["method"] == "set"
    assert errors[-1]["selection"] == "small"
    assert {row["draws"] for row in errors} == {"4"}
    numbers = list(files.read_tsv(tmp_path / "numbers.tsv"))
    assert tuple(numbers[0]) == resample.NUMBER_COLUMNS
    stability = list(files.read_tsv(tmp_path / "stability.tsv"))
    assert tuple(stability[0]) == resample.STABILITY_COLUMNS
    assert [row["method"] for row in stability] == ["ls", "ls", "uniform", "set"]
    ellipses = list(files.read_tsv(tmp_path / "ellipses.tsv"))
    assert tuple(ellipses[0]) == resample.ELLIPSE_COLUMNS
    assert len(ellipses) == 4 * 12
    radius = np.mean([float(row["radius"]) for row in ellipses[:12]])
    assert radius == pytest.approx(float(stability[0]["radius"]), rel=1e-4)
    places = list(files.read_tsv(tmp_path / "places.tsv"))
    assert tuple(places[0]) == resample.PLACE_COLUMNS
    assert [row["model"] for row in places] == [own.model for own in models[-3:]] * 3
    for row in places:
        by_all = np.array([float(row["x"]), float(row["y"])])
        by_some = np.array([float(row["x_selection"]), float(row["y_selection"])])
        side = alignment.width(layout.plane_of(layout.read_places(tmp_path / "layout.tsv")))
        away = np.linalg.norm(by_all - by_some) / side
        assert float(row["distance"]) == pytest.approx(away, abs=1e-3)


@pytest.mark.parametrize("count", [1, 2, 4, 5, 6, 300])
def test_maps_of_any_size_have_tables_and_figures(tmp_path: Path, count: int) -> None:
    found, models, places = measured(tmp_path, loglik(count, 40, 0.5), Settings(draws=2, maps=2))
    resample.write(tmp_path, found, models)
    plane = layout.plane_of(places)
    for figure in (
        figure_resample.draw(found, "pile"),
        figure_resample_maps.draw_stability(found, models, plane, "pile"),
        figure_resample_maps.draw_places(found, models, plane, "pile"),
    ):
        figure.savefig(tmp_path / "figure.png", dpi=30)
    assert bool(found.costs) == (count > 1)
    assert bool(found.landings) == (count > 5)


def test_equal_models_are_said_to_be_alike(tmp_path: Path) -> None:
    found, _, _ = measured(tmp_path, np.tile(loglik(1, 40, 0.5), (6, 1)))
    assert not found.costs
    assert not found.numbers
    assert "All models are alike" in words_of(figure_resample.draw(found, "pile"))


@pytest.mark.parametrize("method", ["pca", "umap"])
def test_t_sne_alone_has_places_of_new_models(method: str) -> None:
    values = loglik(12, 60, 0.5)
    plane = np.random.default_rng(0).normal(size=(12, 2))
    given = (values, np.array([3, 8]), 0.02, BYTES, ["x"] * 60, plane)
    assert not resample_maps.landings(*given, report_of(method), 2, 0)
    assert resample_maps.landings(*given, report_of(), 2, 0)


def test_the_figures_say_what_was_found(tmp_path: Path) -> None:
    found, models, places = measured(tmp_path, loglik(16, 100, 1.0))
    errors = words_of(figure_resample.draw(found, "pile"))
    assert "16 models · 100 texts of “pile” · means over 4 draws" in errors
    assert "small" in errors
    plane = layout.plane_of(places)
    stability = words_of(figure_resample_maps.draw_stability(found, models, plane, "pile"))
    for own in found.stability:
        assert f"radius {100 * own.radius.mean():.1f} % of the map's width" in stability
    landed = words_of(figure_resample_maps.draw_places(found, models, plane, "pile"))
    assert "3 models, drawn at random, placed among 13" in landed


def test_of_many_models_a_sample_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resample, "MOST_MODELS", 10)
    monkeypatch.setattr(resample, "MOST_FOR_NUMBERS", 7)
    found, _, _ = measured(tmp_path, loglik(20, 60, 1.0))
    assert (found.compared, found.counted, found.of) == (10, 7, 20)
    assert len(found.shown) == 10
    assert {own.row for own in found.landings} <= set(found.shown.tolist())
    assert len(found.stability[0].radius) == 10


def test_a_selection_is_no_reference(tmp_path: Path) -> None:
    matrix = matrix_of(loglik(6, 40, 0.5))
    design = Design(np.full(10, 2.0), np.full(10, 0.75), np.ones(10), 40)
    chosen = mapfiles.selected(matrix, design, np.arange(0, 40, 4, dtype=np.int32))
    store.write_matrix(tmp_path / "matrix.h5", chosen)
    models = mapfiles.models(6)
    places = layout.places_of(chosen.model, np.zeros((6, 2)), "pca")
    with (
        store.open_matrix(tmp_path / "matrix.h5") as file,
        pytest.raises(InputError, match="a selection already; name its reference"),
    ):
        resample.measure(file, models, places, report_of(), FEW)


def test_selections_are_named_with_method_and_number() -> None:
    assert resample.asked(["pile-2k=ls,with,2900", "a=b=uniform,without,7"]) == [
        Asked("pile-2k", LS, 2900),
        Asked("a=b", Kind("uniform", False), 7),
    ]
    for wrong in ("pile-2k", "=ls,with,3", "x=best,with,3", "x=ls,perhaps,3", "x=ls,with,0"):
        with pytest.raises(InputError, match="not NAME=METHOD"):
            resample.asked([wrong])


def test_the_command_writes_the_same_bytes_again(tmp_path: Path) -> None:
    settings = Settings(draws=3, maps=2)
    found, models, places = measured(tmp_path / "pile", loglik(12, 60, 1.0), settings)
    here, there = tmp_path / "here", tmp_path / "there"
    resample.write(here, found, models)
    figure_resample.write(here, found, "pile")
    figure_resample_maps.write(here, found, models, places, "pile")
    source = tmp_path / "pile"
    arguments = [
        "--matrix", source / "matrix.h5", "--models", source / "models.tsv",
        "--layout", source / "layout.tsv", "--layout-report", source / "layout.json",
        "--draws", 3, "--maps", 2, "--selections", "small=ls,with,20", "--folder", there,
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    first, second = (
        {path.name: path.read_bytes() for path in folder.iterdir()} for folder in (here, there)
    )
    tables = ["errors", "numbers", "stability", "ellipses", "places"]
    figures = itertools.product(("errors", "stability", "places"), ("png", "svg"))
    names = [*(f"{name}.tsv" for name in tables), *map(".".join, figures)]
    assert sorted(first) == sorted(names)
    assert first == second
