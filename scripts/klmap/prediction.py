"""Benchmark scores of models, predicted from their coordinates.

The protocol is that of Oyama et al. 2025 (ACL, "Mapping 1,000+ Language Models via the
Log-Likelihood Vector", section 5): ridge regression on the coordinates Q, outer folds by model
type and at random, five seeds, correlations of the pooled out-of-fold predictions. The learning
curve is klmap's own, and so are which tasks are predicted together
(:mod:`klmap.benchmark_tasks`) and what :mod:`klmap.prediction_models` says of single models.

Scores are in the unit of their table, mostly percent.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from klmap import correlation, folds, kernels
from klmap.arrays import Floats, Rows
from klmap.benchmark_tasks import coverage, main_tasks, one_unit, scales
from klmap.benchmarks import MEAN_TASKS, Benchmarks
from klmap.errors import InputError
from klmap.folds import RANDOM, Sample
from klmap.log import logger
from klmap.models_table import Model
from klmap.prediction_files import (
    CONTROL,
    Accuracy,
    CurvePoint,
    Predicted,
    Prediction,
)
from klmap.prediction_models import Each, Tried
from klmap.store import MatrixFile

FEWEST = 10
"""Models with a score without which a task is not predicted."""

CURVE = (25, 50, 100, 200, 400, 800, 1600, 3200)
"""Numbers of training models of the learning curve, as far as they go."""


@dataclass(frozen=True)
class Settings:
    """What is computed.

    Attributes:
        features: some of ``kernels.FEATURES``; single models are predicted from the first.
        folds: outer folds.
        seeds: how many times the folds are drawn, with seeds 0, 1, ...
        curve: whether the learning curve is computed.
    """

    features: tuple[str, ...] = kernels.FEATURES
    folds: int = 5
    seeds: int = 5
    curve: bool = True


@dataclass(frozen=True)
class _Group:
    """Tasks that are predicted together, for the models that have all of them.

    Attributes:
        tasks: T names.
        sample: the n models and their scores.
        full: the same; in the main group the control is one more target.
        tests: test sets by split, seed and fold.
    """

    tasks: list[str]
    sample: Sample
    full: Sample
    tests: dict[str, list[list[Rows]]]


def predict(
    matrix: MatrixFile, models: Sequence[Model], benchmarks: Benchmarks, settings: Settings
) -> Prediction:
    """Predict every task from the coordinates, and say how well that works.

    The protocol is for models that have every task, where about the same models have the tasks
    (:func:`klmap.benchmark_tasks.main_tasks`). Of any other task it is for all models that have
    it, which is klmap's own. The predictions of single models use for each task all models that
    have its score.

    Args:
        matrix: of the K models.
        models: rows of models.tsv, in the order of the matrix.
        benchmarks: scores in the same order, with one task at least. A task that fewer than ten
            models have is left out, with a warning. ``mean`` is added as :func:`with_mean` says.
        settings: what is computed.

    Raises:
        InputError: no task has ten models.
    """
    enough = _enough(benchmarks)
    main = main_tasks(enough, FEWEST)
    benchmarks = with_mean(enough, main)
    main += benchmarks.tasks[len(enough.tasks) :]
    level = kernels.mean_loglik(matrix)
    groups = _groups(models, benchmarks, main, level, settings)
    scored = np.flatnonzero(np.isfinite(benchmarks.values).any(axis=1))
    order = [*benchmarks.tasks, CONTROL].index
    rows = [
        _baseline(task, group.sample.targets[:, n], level[group.sample.rows])
        for group in groups
        for n, task in enumerate(group.tasks)
    ]
    curve: list[CurvePoint] = []
    predictions: list[Predicted] = []
    for features in settings.features:
        kernel = kernels.read(matrix, features, scored)
        tried: dict[str, Tried] = {}
        for group in groups:
            own = kernel.among(group.sample.rows)
            found = _out_of_fold(own, group, features)
            rows += _accuracies(group, features, found)
            if features == settings.features[0]:
                tried |= _by_task(group, found)
                if settings.curve:
                    curve += _curve(own, group, found[RANDOM])
        if tried:
            each = Each(kernel, models, benchmarks, settings.folds, settings.seeds, tried)
            predictions = each.predictions()
    rows.sort(key=lambda row: order(row.task))
    curve.sort(key=lambda point: order(point.task))
    return Prediction(benchmarks.tasks, rows, predictions, curve)


def with_mean(benchmarks: Benchmarks, main: Sequence[str]) -> Benchmarks:
    """The same with a task ``mean`` of some tasks, at the end, for the models that have them all.

    Not of a single task, not where any task is a mean of the others, and not of tasks in different
    units (:func:`klmap.benchmark_tasks.one_unit`).
    """
    if len(main) < 2 or set(MEAN_TASKS) & set(benchmarks.tasks):
        return benchmarks
    chosen = benchmarks.of(main)
    if not one_unit(chosen):
        logger.info("no mean of tasks in different units: %s", scales(chosen))
        return benchmarks
    # The mean of a row with an unknown score is unknown.
    values = np.column_stack([benchmarks.values, chosen.values.mean(axis=1)])
    return Benchmarks([*benchmarks.tasks, MEAN_TASKS[-1]], values)


def _enough(benchmarks: Benchmarks) -> Benchmarks:
    """The tasks that enough models have."""
    counts = np.isfinite(benchmarks.values).sum(axis=0)
    each = list(zip(benchmarks.tasks, counts, strict=True))
    enough = [task for task, count in each if count >= FEWEST]
    if not enough:
        listed = ", ".join(f"{task} {count}" for task, count in each)
        raise InputError(
            f"no task has the {FEWEST} models of the map with a score that are needed to predict "
            f"it; models with a score: {listed or 'none'}. Add scores to the tables"
        )
    for task, count in each:
        if count < FEWEST:
            logger.warning(
                "%s is left out: %d models of the map have it, and %d are needed to predict it",
                task, count, FEWEST,
            )  # fmt: skip
    return benchmarks.of(enough)


def _groups(
    models: Sequence[Model],
    benchmarks: Benchmarks,
    main: Sequence[str],
    level: Floats,
    settings: Settings,
) -> list[_Group]:
    """The tasks ``main`` together, and each other task by itself."""
    logger.info("tasks predicted together: %s: %s", ", ".join(main), coverage(benchmarks.of(main)))
    groups: list[_Group] = []
    for tasks in (main, *([task] for task in benchmarks.tasks if task not in main)):
        part = benchmarks.of(tasks)
        sample = folds.sample(models, part.complete(), tasks, part.values)
        full = sample
        if tasks is main:
            full = folds.with_control(sample, level[sample.rows])
        else:
            logger.info(
                "%s is predicted by itself, for the %d models that have it: together with the "
                "others it would be for %d instead of %d",
                tasks[0], len(sample.rows), len(benchmarks.of([*main, *tasks]).complete()),
                len(groups[0].sample.rows),
            )  # fmt: skip
        tests = folds.draw(sample.types, settings.folds, settings.seeds)
        groups.append(_Group(list(tasks), sample, full, tests))
    return groups


def _out_of_fold(kernel: Floats, group: _Group, features: str) -> dict[str, Floats]:
    """(S, n, T) predictions by split; in the main group the control is one more task."""
    alone = "" if group.full is not group.sample else f" for {group.tasks[0]}"
    return {
        split: folds.out_of_fold(kernel, group.full, seeds, f"fits{alone} on {features} by {split}")
        for split, seeds in group.tests.items()
    }


def _accuracies(group: _Group, features: str, found: dict[str, Floats]) -> Iterator[Accuracy]:
    for split, values in found.items():
        count = len(group.tests[split][0])
        # Without the control there are only as many columns as tasks.
        for n, task in enumerate([*group.tasks, CONTROL][: values.shape[2]]):
            measured = group.full.targets[:, n]
            yield _accuracy(task, features, split, count, measured, values[:, :, n])


def _by_task(group: _Group, found: dict[str, Floats]) -> dict[str, Tried]:
    return {
        task: Tried(group.tests, {split: values[:, :, n] for split, values in found.items()})
        for n, task in enumerate(group.tasks)
    }


def _baseline(task: str, measured: Floats, level: Floats) -> Accuracy:
    pearson, spearman = correlation.both(measured, level)
    nan = math.nan
    return Accuracy(
        task, CONTROL, "", len(measured), 0, pearson, nan, spearman, nan, pearson, spearman, nan
    )


def _accuracy(
    task: str, features: str, split: str, count: int, measured: Floats, predicted: Floats
) -> Accuracy:
    """Of the predictions (S, n) of one task, S seeds."""
    each = np.array([correlation.both(measured, seed) for seed in predicted])
    (pearson, spearman), (pearson_std, spearman_std) = each.mean(axis=0), each.std(axis=0)
    return Accuracy(
        task,
        features,
        split,
        len(measured),
        count,
        float(pearson),
        float(pearson_std),
        float(spearman),
        float(spearman_std),
        *correlation.both(measured, predicted.mean(axis=0)),
        float(np.abs(predicted - measured).mean()),
    )


def _curve(kernel: Floats, group: _Group, full: Floats) -> list[CurvePoint]:
    """Accuracy with fewer training models; ``full`` (S, n, T) is with all of them.

    Smaller training sets are drawn from the larger ones, anew for each fold and seed.
    """
    sample, tests = group.sample, group.tests[RANDOM]
    count = len(sample.rows)
    everyone = np.arange(count)
    most = count - max(len(test) for seed in tests for test in seed)
    results: dict[int, Floats] = {}
    for size in [size for size in CURVE if 1.2 * size < most]:
        jobs = []
        for seed, seed_tests in enumerate(tests):
            rng = np.random.default_rng(seed)
            for test in seed_tests:
                train = rng.permutation(np.setdiff1d(everyone, test))[:size]
                jobs.append(folds.Task(np.sort(train), test))
        what = f"fits on {size} models"
        results[size] = folds.pooled(kernel, sample, jobs, len(tests), what)
    results[most] = full
    return [
        _point(size, task, sample.targets[:, number], values[:, :, number])
        for number, task in enumerate(group.tasks)
        for size, values in results.items()
    ]


def _point(size: int, task: str, measured: Floats, predicted: Floats) -> CurvePoint:
    pearson = np.array([correlation.both(measured, seed)[0] for seed in predicted])
    mae = np.abs(predicted - measured).mean(axis=1)
    return CurvePoint(
        size, task, float(pearson.mean()), float(pearson.std()), float(mae.mean()), float(mae.std())
    )
