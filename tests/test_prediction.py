from __future__ import annotations

import logging
import math
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GroupKFold, KFold

from klmap import folds, geometry, kernels, models_table, prediction, store
from klmap import prediction_files as tables
from klmap.benchmark_tasks import main_tasks
from klmap.benchmarks import Benchmarks, read_benchmarks
from klmap.errors import InputError
from klmap.models_table import Model
from klmap.prediction import Settings
from klmap.prediction_models import half_width, reach
from klmap.store import MatrixFile
from tests import release

ROOT = Path(__file__).parents[1]

Splits = list[list[tuple[np.ndarray, np.ndarray]]]


@pytest.fixture
def heard(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> pytest.LogCaptureFixture:
    """What the log says."""
    monkeypatch.setattr(logging.getLogger("klmap"), "propagate", True)
    caplog.set_level(logging.INFO, "klmap")
    return caplog


@contextmanager
def small(
    folder: Path, models: int, texts: int = 60, families: int = 8, noise: float = 2.0, seed: int = 0
) -> Iterator[tuple[MatrixFile, list[Model], Benchmarks]]:
    """A matrix, its models, and two scores that are linear in the coordinates but for noise."""
    rng = np.random.default_rng(seed)
    loglik = rng.normal(0, 8, (models, texts)) - rng.uniform(200, 900, texts)
    loglik += 25 * rng.normal(size=(models, 4)) @ rng.normal(size=(4, texts))
    threshold = geometry.clip_threshold(loglik)
    q = geometry.double_centre(loglik, threshold)
    along = np.linalg.svd(q, full_matrices=False)[2][:2].T
    scores = q @ along
    scores = 50 + 12 * scores / scores.std(axis=0) + rng.normal(0, noise, scores.shape)
    names = [f"org--model-{row:03d}" for row in range(models)]
    store.write_matrix(
        folder / "matrix.h5",
        store.Matrix(
            loglik, q.astype(np.float32), names, ["all"] * texts, np.full(texts, 700, np.int32),
            geometry.CLIP_QUANTILE, threshold, 700.0, "0" * 64,
        ),
    )  # fmt: skip
    # Ids in another order than the names: the protocol goes by ids.
    found = [
        Model(
            name, id=f"org/{(7 * row) % 1000:03d}", family=f"type-{row % families}",
            bits_per_byte=1.0, mean_loglik=float(loglik[row].mean()),
        )
        for row, name in enumerate(names)
    ]  # fmt: skip
    with store.open_matrix(folder / "matrix.h5") as matrix:
        yield matrix, found, Benchmarks(["one", "two"], scores)


def primal(
    features: np.ndarray, scores: np.ndarray, splits: Splits, alphas: np.ndarray, clip: bool
) -> np.ndarray:
    """(S, n) out-of-fold predictions of scikit-learn's RidgeCV on the raw columns."""
    predicted = np.empty((len(splits), len(scores)))
    for seed, parts in enumerate(splits):
        for train, test in parts:
            fit = RidgeCV(alphas=alphas, cv=5).fit(features[train], scores[train])
            predicted[seed, test] = fit.predict(features[test])
    return np.clip(predicted, 0, 100) if clip else predicted


def test_the_protocol_is_that_of_ridgecv_on_the_columns(tmp_path: Path) -> None:
    with small(tmp_path, 42, 40) as (matrix, models, scores):
        scores.values[[3, 17], 1] = np.nan
        found = prediction.predict(matrix, models, scores, Settings(folds=3, seeds=2, curve=False))
        q, raw = matrix.coordinates(0, 42).astype(np.float64), matrix.loglik(0, 42)
        clipped = np.maximum(raw, matrix.clip_threshold)
    rows = sorted(set(range(42)) - {3, 17}, key=lambda row: models[row].id)
    types = [models[row].family for row in rows]
    targets = {
        "one": scores.values[rows, 0],
        "two": scores.values[rows, 1],
        "mean": scores.values[rows].mean(axis=1),
        tables.CONTROL: clipped[rows].mean(axis=1),
    }
    by_type = [GroupKFold(3, shuffle=True, random_state=seed) for seed in range(2)]
    at_random = [KFold(3, shuffle=True, random_state=seed) for seed in range(2)]
    splits = {
        "type": [list(made.split(rows, groups=types)) for made in by_type],
        "random": [list(made.split(rows)) for made in at_random],
    }
    regressions = [row for row in found.accuracy if row.split]
    assert len(regressions) == 4 * 2 * 2
    for row in regressions:
        measured = targets[row.task]
        control = row.task == tables.CONTROL
        alphas = 10.0 ** (np.arange(-4, 5) if control else np.arange(1, 10))
        features = {"Q": q, "L": clipped}[row.features][rows]
        expected = primal(features, measured, splits[row.split], alphas, not control)
        pearson = [pearsonr(measured, one).statistic for one in expected]
        spearman = [spearmanr(measured, one).statistic for one in expected]
        mean = expected.mean(axis=0)
        assert (row.models, row.folds) == (40, 3)
        assert [row.pearson, row.pearson_std] == pytest.approx(
            [np.mean(pearson), np.std(pearson)], abs=1e-7
        )
        assert [row.spearman, row.spearman_std] == pytest.approx(
            [np.mean(spearman), np.std(spearman)], abs=1e-7
        )
        assert row.pearson_mean == pytest.approx(pearsonr(measured, mean).statistic, abs=1e-7)
        assert row.spearman_mean == pytest.approx(spearmanr(measured, mean).statistic, abs=1e-7)
        assert row.mae == pytest.approx(np.abs(expected - measured).mean(), abs=1e-6)
    for row in found.accuracy:
        if not row.split:
            level, measured = targets[tables.CONTROL], targets[row.task]
            assert row.features == tables.CONTROL
            assert row.pearson == pytest.approx(pearsonr(level, measured).statistic)
            assert row.spearman == pytest.approx(spearmanr(level, measured).statistic)
            assert math.isnan(row.mae)


def test_no_type_is_in_training_and_test_set() -> None:
    types = [f"type-{row % 7}" for row in range(50)]
    drawn = folds.draw(types, 5, 3)
    for seed in drawn["type"]:
        assert sorted(np.concatenate(seed)) == list(range(50))
        for one in seed:
            rest = set(range(50)) - set(one)
            assert not {types[row] for row in one} & {types[row] for row in rest}
    assert any(
        {types[row] for row in one} & {types[row] for row in set(range(50)) - set(one)}
        for one in drawn["random"][0]
    )
    first, second = drawn["type"][:2]
    assert {frozenset(one) for one in first} != {frozenset(one) for one in second}


def test_fewer_types_than_folds_make_fewer_folds_and_a_warning(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("klmap"), "propagate", True)
    drawn = folds.draw(["a"] * 9 + ["b"] * 3 + ["c"] * 4, 5, 2)
    assert [len(seed) for seed in drawn["type"]] == [3, 3]
    assert [len(seed) for seed in drawn["random"]] == [5, 5]
    assert "3 model types for 5 folds: 3 folds by type" in caplog.text
    assert set(folds.draw(["a"] * 12, 5, 1)) == {"random"}
    assert "1 model type for 5 folds: no prediction by type" in caplog.text


def test_models_of_one_type_are_predicted_by_random_folds(tmp_path: Path) -> None:
    with small(tmp_path, 30, families=1) as (matrix, models, scores):
        found = prediction.predict(matrix, models, scores, Settings(("Q",), seeds=2))
    assert {row.split for row in found.accuracy} == {"random", ""}
    assert {row.split for row in found.predictions} == {"random"}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("release")
    return release.write_results(release.make_release(folder / "files"), folder / "published")


def test_planted_scores_of_a_release_are_found_by_type(published: Path) -> None:
    with store.open_matrix(published / "matrix.h5") as matrix:
        models = models_table.read_models(published / "models.tsv", matrix.model)
        scores = read_benchmarks([published / "benchmarks.tsv"], models)
        found = prediction.predict(matrix, models, scores, Settings(("Q",), seeds=2, curve=False))
    assert found.tasks == release.TASKS, "6-TaskMean is the mean, no other is added"
    rows = [row for row in found.accuracy if row.split == "type" and row.task in found.tasks]
    assert len(rows) == 7
    assert min(row.pearson for row in rows) > 0.9
    assert {row.models for row in rows} == {len(scores.complete())}
    for number, task in enumerate(found.tasks):
        own = [row for row in found.predictions if row.task == task]
        assert [row.model for row in own] == [model.model for model in models]
        for row, measured in zip(own, scores.values[:, number], strict=True):
            assert row.how == (tables.NEW if math.isnan(measured) else tables.OUT_OF_FOLD)
            assert row.far or row.low <= row.predicted <= row.high
            assert math.isnan(row.low) == math.isnan(row.high) == row.far
            np.testing.assert_equal(row.measured, measured)


def test_a_mean_is_added_where_no_task_is_one() -> None:
    values = np.array([[1.0, 3.0, 9.0], [2.0, np.nan, 9.0]])
    added = prediction.with_mean(Benchmarks(["a", "b", "c"], values), ["a", "b"])
    assert added.tasks == ["a", "b", "c", "mean"]
    np.testing.assert_equal(added.values[:, 3], [2.0, np.nan])
    for tasks in (["a", "6-TaskMean", "c"], ["mean", "a", "c"]):
        assert prediction.with_mean(Benchmarks(tasks, values), tasks).tasks == tasks
    assert prediction.with_mean(Benchmarks(["a", "b", "c"], values), ["a"]).tasks == ["a", "b", "c"]


def test_no_mean_is_added_of_tasks_in_different_units(heard: pytest.LogCaptureFixture) -> None:
    values = np.array([[50.0, 2000.0, 0.5], [40.0, 10.0, 0.7]])
    scores = Benchmarks(["ARC", "perplexity", "own"], values)
    for tasks in (["ARC", "perplexity"], ["ARC", "own"], ["perplexity", "own"]):
        assert prediction.with_mean(scores, tasks).tasks == scores.tasks
    assert "different units: ARC 40 to 50, perplexity 10 to 2000" in heard.text


def test_too_few_models_with_scores_are_explained(tmp_path: Path) -> None:
    with small(tmp_path, 30) as (matrix, models, scores):
        scores.values[8:, 0] = np.nan
        scores.values[9:, 1] = np.nan
        with pytest.raises(InputError, match=r"no task has the 10 models .*: one 8, two 9"):
            prediction.predict(matrix, models, scores, Settings())


def with_others(scores: Benchmarks, **others: int) -> Benchmarks:
    """The same with tasks that only the last so many models have."""
    columns = [scores.values]
    for count in others.values():
        own = scores.values[:, :1] * 0.5 + 20
        own[: len(own) - count] = np.nan
        columns.append(own)
    return Benchmarks([*scores.tasks, *others], np.column_stack(columns))


def test_a_task_that_few_models_have_changes_nothing_for_the_others(
    tmp_path: Path, heard: pytest.LogCaptureFixture
) -> None:
    settings = Settings(seeds=2)
    with small(tmp_path, 60) as (matrix, models, scores):
        scores.values[:3, 0] = np.nan
        alone = prediction.predict(matrix, models, scores, settings)
        table = with_others(scores, ours=12, theirs=47, few=9)
        found = prediction.predict(matrix, models, table, settings)
        single = prediction.predict(matrix, models, table.of(["ours"]), settings)
    assert found.tasks == ["one", "two", "ours", "theirs", "mean"]
    assert "few is left out: 9 models of the map have it, and 10 are needed" in heard.text
    assert "ours is predicted by itself, for the 12 models that have it" in heard.text
    assert "it would be for 12 instead of 57" in heard.text
    assert "one, two, mean: 57 of 60 models; without a score: one 3, mean 3" in heard.text
    for of_all, of_some in (
        (found.accuracy, alone.accuracy), (found.curve, alone.curve),
        (found.predictions, alone.predictions),
    ):  # fmt: skip
        # By their cells, because a NaN is not even equal to itself.
        assert [repr(row) for row in of_some] == [
            repr(row) for row in of_all if row.task not in ("ours", "theirs")
        ]
    counts = {row.task: row.models for row in found.accuracy}
    assert counts == {
        "one": 57, "two": 57, "mean": 57, "ours": 12, "theirs": 47, tables.CONTROL: 57
    }  # fmt: skip
    own = [row for row in found.accuracy if row.task == "ours"]
    expected = [row for row in single.accuracy if row.task == "ours"]
    assert [row.split for row in own] == ["", "type", "random", "type", "random"]
    for row, other in zip(own, expected, strict=True):
        assert row.pearson == pytest.approx(other.pearson, abs=1e-6)
    assert {point.models for point in found.curve if point.task == "ours"} == {9}
    assert sum(row.task == "ours" for row in found.predictions) == 60


def test_tasks_are_together_while_four_of_five_models_of_the_best_have_them_all() -> None:
    values = np.full((100, 5), 1.0)
    values[90:, 1] = np.nan
    values[:10, 2] = np.nan
    values[:11, 3] = np.nan
    values[:, 4] = np.where(np.arange(100) < 85, np.nan, 1.0)
    table = Benchmarks(["a", "b", "c", "d", "e"], values)
    assert main_tasks(table, 10) == ["a", "b", "c"], "80 of 100; with d there are 79"
    assert main_tasks(table, 81) == ["a", "b"]
    assert main_tasks(table.of(["d", "e"]), 10) == ["d"]
    assert main_tasks(table.of(["e"]), 20) == ["e"], "the best covered is there in any case"
    assert main_tasks(table.of(["d", "c", "a"]), 10) == ["d", "c", "a"], "in the order of tables"


@pytest.mark.parametrize("count", [10, 12])
def test_a_handful_of_models_is_enough(tmp_path: Path, count: int) -> None:
    with small(tmp_path, count, families=3) as (matrix, models, scores):
        found = prediction.predict(matrix, models, scores, Settings(seeds=2))
    assert all(np.isfinite([row.predicted, row.low, row.high]).all() for row in found.predictions)
    assert {point.models for point in found.curve} == {count - math.ceil(count / 5)}


def test_predictions_stay_on_the_scale_that_all_scores_keep(tmp_path: Path) -> None:
    with small(tmp_path, 50, noise=0) as (matrix, models, scores):
        scores.values[:, 0] = np.clip(scores.values[:, 0], 40, 60) * 5 - 200
        scores.values[:, 1] *= 10
        found = prediction.predict(matrix, models, scores, Settings(("Q",), seeds=1, curve=False))
    by_task = {task: [row for row in found.predictions if row.task == task] for task in found.tasks}
    ends = [(row.low, row.predicted, row.high) for row in by_task["one"]]
    assert np.min(ends) == 0
    assert np.max(ends) == 100
    assert max(row.predicted for row in by_task["two"]) > 500


@pytest.mark.parametrize("new_types", [False, True], ids=["of a known type", "of a new type"])
def test_nine_of_ten_new_models_are_within_their_intervals(tmp_path: Path, new_types: bool) -> None:
    inside, widths = [], []
    for seed in range(4):
        folder = tmp_path / str(seed)
        folder.mkdir()
        with small(folder, 150, families=12, noise=4.0, seed=seed) as (matrix, models, scores):
            truth = scores.values[:, 0].copy()
            hidden = [row for row in range(150) if row % (4 if new_types else 5) == 0]
            scores.values[hidden] = np.nan
            settings = Settings(("Q",), seeds=2, curve=False)
            found = prediction.predict(matrix, models, scores.of(["one"]), settings)
        new = [found.predictions[row] for row in hidden]
        assert {row.how for row in new} == {tables.NEW}
        by = [row.split == ("type" if new_types else "random") for row in new]
        assert np.mean(by) > 0.9
        told = [(n, row) for n, row in zip(hidden, new, strict=True) if not row.far]
        assert len(told) > 0.9 * len(hidden)
        inside += [row.low <= truth[n] <= row.high for n, row in told]
        widths += [row.high - row.low for _, row in told]
    assert 0.84 <= np.mean(inside) <= 0.97
    assert np.mean(widths) < 4 * truth.std(), "not so wide that they say nothing"


def test_half_of_an_interval_is_the_conformal_quantile() -> None:
    measured = np.zeros(19)
    predicted = np.arange(1.0, 20.0)[None, :]
    assert half_width(measured, predicted) == 18, "the 18th of 19 errors: 0.9 * 20"
    assert half_width(measured[:5], predicted[:, :5]) == 5, "too few: the largest"
    assert half_width(measured, -predicted) == 18


def test_errors_reach_as_far_as_the_distances_of_99_in_100_models() -> None:
    distances = np.random.default_rng(0).permutation(np.arange(1.0, 201.0))
    assert reach(distances) == 198
    assert reach(distances[distances <= 100]) == 99
    assert reach(np.array([3.0, 1.0, 40.0])) == 40, "of few models the largest"


@pytest.mark.parametrize("features", kernels.FEATURES)
def test_distances_are_the_kls_to_the_models_that_one_is_predicted_from(
    tmp_path: Path, features: str
) -> None:
    with small(tmp_path, 45) as (matrix, models, scores):
        new = [4, 31, 44]
        scores.values[new, 0] = np.nan
        settings = Settings((features,), folds=3, seeds=4, curve=False)
        found = prediction.predict(matrix, models, scores.of(["one"]), settings)
        clipped = np.maximum(matrix.loglik(0, 45), matrix.clip_threshold)
        unit = 2 * geometry.nats_per_unit(matrix.mean_bytes)
    kl = np.var(clipped[:, None] - clipped, axis=2) / unit
    scored = sorted(set(range(45)) - set(new), key=lambda row: models[row].id)
    drawn = folds.draw([models[row].family for row in scored], 3, 4)["type"]
    other_types = []
    for row, model in enumerate(models):
        trained = [[other for other in scored if row in new] for _ in drawn]
        for others, tests in zip(trained, drawn, strict=True):
            for test in tests:
                if row in [scored[place] for place in test]:
                    others += [scored[n] for n in range(len(scored)) if n not in test]
        expected = np.median([min(kl[row, others]) for others in trained])
        assert found.predictions[row].distance == pytest.approx(expected, rel=1e-5)
        other_types.append(min(kl[row, n] for n in scored if models[n].family != model.family))
    away = np.array([row.distance for row in found.predictions]) > np.array(other_types) * 1.001
    assert away.any(), "the nearest of another type may be held out too"


def random_weights(folder: Path, rows: Sequence[int]) -> None:
    """Move models of :func:`small` by a KL of twelve bits per byte, each its own way."""
    path = folder / "matrix.h5"
    old = store.read_matrix(path)
    rng = np.random.default_rng(1)
    q = old.coordinates.astype(np.float64)
    scale = np.sqrt(12 * 2 * geometry.nats_per_unit(old.mean_bytes))
    for row in rows:
        away = rng.normal(size=q.shape[1])
        q[row] += scale * away / away.std()
    store.write_matrix(path, replace(old, coordinates=q.astype(np.float32)))


def test_a_new_model_far_from_all_others_has_no_interval_and_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("klmap"), "propagate", True)
    with small(tmp_path, 60) as (_, models, scores):
        pass
    random_weights(tmp_path, [7, 8])
    scores.values[[3, 7, 8]] = np.nan
    with store.open_matrix(tmp_path / "matrix.h5") as matrix:
        found = prediction.predict(matrix, models, scores, Settings(("Q",), seeds=2, curve=False))
    by_task = {task: [row for row in found.predictions if row.task == task] for task in found.tasks}
    for task, rows in by_task.items():
        assert [n for n, row in enumerate(rows) if row.how == tables.NEW] == [3, 7, 8], task
        assert [n for n, row in enumerate(rows) if row.far] == [7, 8]
        for row in (rows[7], rows[8]):
            assert row.guess
            assert np.isnan([row.low, row.high]).all()
            assert math.isfinite(row.predicted)
            assert 10 < row.distance < 20
        assert rows[3].low < rows[3].predicted < rows[3].high
    assert "no interval for predictions of 2 models without a score" in caplog.text
    for row in (7, 8):
        assert models[row].model in caplog.text
    assert models[3].model not in caplog.text


def test_a_model_unlike_its_own_type_has_the_errors_of_other_types(tmp_path: Path) -> None:
    with small(tmp_path, 80) as (matrix, models, scores):
        near = geometry.pairwise_kl(matrix.coordinates(0, 80).astype(np.float64), 700.0)[0]
        np.fill_diagonal(near, np.inf)
        strange = int(near.min(axis=1).argsort()[-1])
        usual = int(near.min(axis=1).argsort()[0])
        scores.values[[strange, usual]] = np.nan
        found = prediction.predict(matrix, models, scores, Settings(("Q",), curve=False))
    rows = {row.model: row for row in found.predictions if row.task == "one"}
    assert rows[models[usual].model].split == "random"
    row = rows[models[strange].model]
    known = [other.distance for other in rows.values() if other.how == tables.OUT_OF_FOLD]
    assert row.split == "type"
    assert row.far == (row.distance > max(known))


def test_a_new_model_is_predicted_from_all_with_the_score(tmp_path: Path) -> None:
    with small(tmp_path, 50) as (matrix, models, scores):
        new = [4, 31, 49]
        scores.values[new, 0] = np.nan
        scores.values[0, 1] = np.nan
        found = prediction.predict(matrix, models, scores, Settings(("Q",), seeds=1, curve=False))
        q = matrix.coordinates(0, 50).astype(np.float64)
    rows = sorted(set(range(50)) - set(new), key=lambda row: models[row].id)
    fit = RidgeCV(alphas=10.0 ** np.arange(1, 10), cv=5).fit(q[rows], scores.values[rows, 0])
    predicted = [row for row in found.predictions if row.task == "one" and row.how == tables.NEW]
    assert [row.model for row in predicted] == [models[row].model for row in new]
    np.testing.assert_allclose([row.predicted for row in predicted], fit.predict(q[new]), rtol=1e-6)


def test_the_curve_rises_to_what_all_training_models_reach(tmp_path: Path) -> None:
    with small(tmp_path, 140, noise=6.0) as (matrix, models, scores):
        found = prediction.predict(matrix, models, scores, Settings(("Q",), seeds=3))
    assert [point.models for point in found.curve if point.task == "one"] == [25, 50, 112]
    for task in found.tasks:
        points = [point for point in found.curve if point.task == task]
        reached = next(row for row in found.accuracy if (row.task, row.split) == (task, "random"))
        assert points[-1].pearson == pytest.approx(reached.pearson)
        assert points[-1].mae == pytest.approx(reached.mae)
        assert points[0].pearson < points[-1].pearson
        assert points[0].mae > points[-1].mae


def test_a_kernel_read_by_blocks_is_that_of_the_whole_matrix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small(tmp_path, 40) as (matrix, _, _):
        monkeypatch.setattr(
            kernels,
            "ranges",
            lambda total, *_: ((n, min(n + 7, total)) for n in range(0, total, 7)),
        )
        rows = np.array([0, 5, 6, 7, 20, 39])
        others = np.array([1, 2, 30, 38])
        for features in kernels.FEATURES:
            values = (
                matrix.coordinates(0, 40).astype(np.float64)
                if features == "Q"
                else np.maximum(matrix.loglik(0, 40), matrix.clip_threshold)
            )
            values = values - values[rows].mean(axis=0)
            kernel = kernels.read(matrix, features, rows)
            some = rows[[4, 1]]
            np.testing.assert_allclose(kernel.among(some), values[some] @ values[some].T, rtol=1e-5)
            pairs = list(kernel.cross(others, some))
            crossed, kl = (np.concatenate(part) for part in zip(*pairs, strict=True))
            unit = 2 * geometry.nats_per_unit(matrix.mean_bytes)
            apart = np.var(values[others][:, None] - values[some], axis=2) / unit
            np.testing.assert_allclose(kl, apart, rtol=1e-4)
            apart = np.var(values[rows][:, None] - values[rows], axis=2) / unit
            np.testing.assert_allclose(kernel.kl(rows), apart, rtol=1e-4, atol=1e-9)
            np.testing.assert_allclose(
                crossed, values[others] @ values[some].T, rtol=1e-5, atol=1e-2
            )
        clipped = np.maximum(matrix.loglik(0, 40), matrix.clip_threshold)
        np.testing.assert_allclose(kernels.mean_loglik(matrix), clipped.mean(axis=1))


def test_predictions_are_read_as_they_were_written(tmp_path: Path) -> None:
    rows = [
        tables.Predicted(
            "a", "one", 50.5, 49.25, 40.0, 58.5, tables.OUT_OF_FOLD, "type", 0.5, False
        ),
        tables.Predicted(
            "b", "one", math.nan, 1.5, math.nan, math.nan, tables.NEW, "random", 12.25, True
        ),
    ]
    tables.write(tmp_path, tables.Prediction(["one"], [], rows, []))
    first, second = tables.read_predictions(tmp_path / "predictions.tsv", ["a", "b", "c"])
    assert first == rows[0]
    assert np.isnan([second.measured, second.low, second.high]).all()
    assert (second.predicted, second.how, second.split) == (1.5, "new", "random")
    assert (second.distance, second.far) == (12.25, True)
    with pytest.raises(InputError, match="'b' is not on the map"):
        tables.read_predictions(tmp_path / "predictions.tsv", ["a"])
    (tmp_path / "other.tsv").write_text("model\ttask\tpredicted\tlow\thigh\nb\tx\t1\t1\t1\n")
    with pytest.raises(InputError, match="no column 'measured'"):
        tables.read_predictions(tmp_path / "other.tsv")


def test_the_command_writes_the_same_on_any_number_of_threads(tmp_path: Path) -> None:
    made = release.make_release(tmp_path / "files", 60, 60)
    published = release.write_results(made, tmp_path / "published")
    written = []
    for threads in ("1", "2"):
        folder = tmp_path / threads
        done = subprocess.run(
            [
                sys.executable, ROOT / "scripts" / "predict.py",
                "--matrix", published / "matrix.h5", "--models", published / "models.tsv",
                "--benchmarks", published / "benchmarks.tsv", "--tasks", "ARC", "MMLU",
                "--features", "Q", "--seeds", "1", "--curve", "false", "--folder", folder,
            ],
            capture_output=True, text=True, env={"OMP_NUM_THREADS": threads},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        written.append({path.name: path.read_bytes() for path in folder.iterdir()})
    names = {f"{name}.tsv" for name in ("accuracy", "predictions", "curve")}
    figures = ("scatter", "accuracy", "curve")
    names |= {f"{name}.{end}" for name in figures for end in ("png", "svg")}
    assert set(written[0]) == names
    assert written[0] == written[1]
