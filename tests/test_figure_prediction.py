from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from scipy.stats import pearsonr, spearmanr

from klmap import figure_prediction, style
from klmap import prediction_files as tables
from klmap.models_table import Model
from klmap.prediction_files import Accuracy, CurvePoint, Predicted, Prediction
from tests import mapfiles

TEXTS = "400 texts of “demo”"


def made(
    models: Sequence[Model],
    tasks: Sequence[str] = ("ARC", "MMLU", "mean"),
    new: int = 3,
    sizes: Sequence[int] = (25, 50, 80),
    features: Sequence[str] = ("Q", "L"),
) -> Prediction:
    """A made-up result; the last ``new`` models have no scores."""
    rng = np.random.default_rng(0)
    rows, accuracy, curve = [], [], []
    for task in tasks:
        for number, model in enumerate(models):
            truth = float(rng.uniform(20, 80))
            guess = float(truth + rng.normal(0, 4))
            known = number < len(models) - new
            rows.append(
                Predicted(
                    model.model, task, truth if known else math.nan, guess, guess - 6, guess + 6,
                    tables.OUT_OF_FOLD if known else tables.NEW, "type", 0.5, False,
                )
            )  # fmt: skip
        for kind, split in [(f, s) for f in features for s in ("type", "random")]:
            accuracy.append(
                Accuracy(task, kind, split, 80, 5, 0.95, 0.004, 0.94, 0.006, 0.951, 0.941, 3.2)
            )
        nan = math.nan
        accuracy.append(
            Accuracy(task, tables.CONTROL, "", 80, 0, 0.4, nan, 0.5, nan, 0.4, 0.5, nan)
        )
        curve += [CurvePoint(n, task, 1 - 1 / n, 0.01, 40 / n**0.5, 0.2) for n in sizes]
    return Prediction(list(tasks), accuracy, rows, curve)


def words(figure: Figure) -> str:
    return " ".join(text.get_text() for text in figure.findobj(lambda a: hasattr(a, "get_text")))  # type: ignore[attr-defined]


@pytest.mark.parametrize("count", [12, 200])
def test_every_panel_shows_all_models_with_the_score_and_marks_the_others(count: int) -> None:
    models = mapfiles.models(count)
    found = made(models)
    figure = figure_prediction.scatter(found, models, TEXTS)
    assert len(figure.axes) == 3
    for axes, task in zip(figure.axes, found.tasks, strict=True):
        points = np.concatenate([item.get_offsets() for item in axes.collections])
        assert len(points) == count - 3
        rows = [row for row in found.predictions if row.task == task]
        marks = [line for line in axes.lines if line.get_marker() == "_"]
        np.testing.assert_allclose(marks[0].get_ydata(), [row.predicted for row in rows[-3:]])  # type: ignore[arg-type]
        measured = [row.measured for row in rows[:-3]]
        predicted = [row.predicted for row in rows[:-3]]
        pearson, spearman = pearsonr(measured, predicted)[0], spearmanr(measured, predicted)[0]
        title = axes.get_title("left")
        assert title == f"{task}  r {pearson:.3f}, ranks {spearman:.3f}".replace("0.", ".")
        low, high = axes.get_xlim()
        assert (low, high) == axes.get_ylim()
        assert low < min(measured + predicted)
        assert high > max(measured + predicted)
    assert f"{count - 3} models with scores" in words(figure)
    assert "3 of them without any" in words(figure)


def test_new_models_that_are_far_are_left_out_and_counted() -> None:
    models = mapfiles.models(40)
    found = made(models, new=3)
    away = {models[-1].model, models[-2].model, models[0].model}
    rows = [
        replace(row, low=math.nan, high=math.nan, distance=12.0, far=True)
        if row.model in away
        else row
        for row in found.predictions
    ]
    figure = figure_prediction.scatter(replace(found, predictions=rows), models, TEXTS)
    for axes, task in zip(figure.axes, found.tasks, strict=True):
        own = [row for row in rows if row.task == task]
        points = np.concatenate([item.get_offsets() for item in axes.collections])
        assert len(points) == 37, "a far model with a score is tried out like every other"
        marks = [line for line in axes.lines if line.get_marker() == "_"]
        np.testing.assert_allclose(marks[0].get_ydata(), [own[-3].predicted])  # type: ignore[arg-type]
        dashed = [line for line in axes.lines if line.is_dashed()]
        below, above = (line.get_ydata()[0] - line.get_xdata()[0] for line in dashed)  # type: ignore[index]
        assert (below, above) == pytest.approx((-6, 6)), "errors of the others"
    said = " ".join(words(figure).split())
    assert "1 of them without any" in said
    assert "Left out: 2 models without a score" in said
    alone = [row for row in rows if row.far or row.how == tables.OUT_OF_FOLD]
    figure = figure_prediction.scatter(replace(found, predictions=alone), models, TEXTS)
    assert "Marks at the left edge" not in words(figure)
    assert "Left out" not in words(figure_prediction.scatter(found, models, TEXTS))


def test_colours_are_those_of_the_map() -> None:
    models = mapfiles.models(60, families=20)
    found = made(models, ["ARC"], new=0)
    each, _ = style.categories([model.family for model in models])
    axes = figure_prediction.scatter(found, models, TEXTS).axes[0]
    for row, category in zip(found.predictions, each, strict=True):
        place = next(
            item
            for item in axes.collections
            if (np.abs(item.get_offsets() - [row.measured, row.predicted]) < 1e-9).all(1).any()  # type: ignore[operator]
        )
        expected = to_rgba(category.color)
        np.testing.assert_allclose(np.asarray(place.get_facecolor())[0], expected)
    assert not [line for line in axes.lines if line.get_marker() == "_"]


def test_accuracy_shows_every_way_and_the_baseline() -> None:
    found = made(mapfiles.models(9))
    figure = figure_prediction.accuracy(found, TEXTS)
    pearson, spearman, mae = figure.axes
    for axes, each in ((pearson, 5), (spearman, 5), (mae, 4)):
        assert len(axes.containers) == each * 3
    assert [label.get_text() for label in pearson.get_yticklabels()] == ["ARC", "MMLU", "mean"]
    for name, *_ in figure_prediction.WAYS.values():
        assert name in words(figure)
    only = figure_prediction.accuracy(made(mapfiles.models(9), features=["Q"]), TEXTS)
    assert "log-likelihoods L" not in words(only)


def test_correlations_near_one_are_told_apart() -> None:
    found = made(mapfiles.models(9))
    axes = figure_prediction.accuracy(found, TEXTS).axes[0]
    places = axes.transData.transform([[0.4, 0], [0.9, 0], [0.99, 0]])[:, 0]
    assert places[2] - places[1] == pytest.approx(
        (np.arctanh(0.99) - np.arctanh(0.9)) / (np.arctanh(0.9) - np.arctanh(0.4))
        * (places[1] - places[0])
    )  # fmt: skip


def test_the_curve_has_a_line_for_each_task_and_a_tick_for_each_size() -> None:
    found = made(mapfiles.models(9))
    figure = figure_prediction.curve(found, TEXTS)
    left, right = figure.axes
    assert len(left.containers) == len(right.containers) == 3
    assert list(left.xaxis.get_ticklocs()) == [25, 50, 80]
    for container, task in zip(right.containers, found.tasks, strict=True):
        points = [point for point in found.curve if point.task == task]
        drawn = container.lines[0].get_xydata()  # type: ignore[attr-defined]
        np.testing.assert_allclose(drawn, [(p.models, p.mae) for p in points])


@pytest.mark.parametrize(
    ("sizes", "said"), [((), "was not asked for"), ((8,), "too few models with scores")]
)
def test_without_a_curve_the_figure_says_why(sizes: Sequence[int], said: str) -> None:
    figure = figure_prediction.curve(made(mapfiles.models(12), sizes=sizes), TEXTS)
    assert said in words(figure)


def test_a_task_that_cannot_be_predicted_does_not_stop_the_figures() -> None:
    models = mapfiles.models(12)
    found = made(models, ["flat"])
    nan = math.nan
    rows = [
        Predicted(
            row.model, row.task, 50.0, 50.0, 50.0, 50.0, tables.OUT_OF_FOLD, "random", 1, False
        )
        for row in found.predictions
    ]
    accuracy = [
        Accuracy("flat", "Q", "random", 12, 5, nan, nan, nan, nan, nan, nan, 0.0),
        Accuracy("flat", tables.CONTROL, "", 12, 0, nan, nan, nan, nan, nan, nan, nan),
    ]
    curve = [CurvePoint(n, "flat", nan, nan, 0.0, 0.0) for n in (25, 50)]
    flat = Prediction(["flat"], accuracy, rows, curve)
    assert "r unknown, ranks unknown" in words(figure_prediction.scatter(flat, models, TEXTS))
    for figure in (figure_prediction.accuracy(flat, TEXTS), figure_prediction.curve(flat, TEXTS)):
        figure.canvas.draw()


def test_numbers_of_models_are_said_by_task_where_they_differ() -> None:
    models = mapfiles.models(60)
    found = made(models)
    for figure in (figure_prediction.scatter(found, models, TEXTS), *pair(found)):
        assert "57 models" not in words(figure).replace("57 models with scores", "")
        assert "(80)" not in words(figure)
    assert "80 models with every score" in words(pair(found)[0])
    sparse = replace(
        found,
        predictions=[
            replace(row, measured=math.nan, how=tables.NEW)
            if row.task == "MMLU" and n % 60 >= 12
            else row
            for n, row in enumerate(found.predictions)
        ],
        accuracy=[replace(row, models=12) if row.task == "MMLU" else row for row in found.accuracy],
        curve=[p for p in found.curve if p.task != "MMLU"] + [CurvePoint(9, "MMLU", 0, 1, 2, 1)],
    )
    panels = figure_prediction.scatter(sparse, models, TEXTS).axes
    assert [[text.get_text() for text in axes.texts] for axes in panels] == [
        ["57 models"], ["12 models"], ["57 models"]
    ]  # fmt: skip
    accuracy, curve = pair(sparse)
    labels = [label.get_text() for label in accuracy.axes[0].get_yticklabels()]
    assert labels == ["ARC (80)", "MMLU (12)", "mean (80)"]
    assert "12 to 80 models, in brackets by task" in words(accuracy)
    for said in (*labels, "task (models)"):
        assert said in words(curve)
    assert list(curve.axes[0].xaxis.get_ticklocs()) == [9, 25, 50, 80]


def pair(found: Prediction) -> tuple[Figure, Figure]:
    return figure_prediction.accuracy(found, TEXTS), figure_prediction.curve(found, TEXTS)


def test_two_tasks_of_few_models_make_no_curve() -> None:
    found = made(mapfiles.models(12), ["ARC", "MMLU"], sizes=(8,))
    points = [replace(found.curve[0]), replace(found.curve[1], models=9)]
    figure = figure_prediction.curve(replace(found, curve=points), TEXTS)
    assert "too few models with scores" in words(figure)
