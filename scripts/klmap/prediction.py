"""Benchmark scores of models, predicted from their coordinates.

The protocol is that of Oyama et al. 2025 (ACL, "Mapping 1,000+ Language Models via the
Log-Likelihood Vector", section 5): ridge regression on the coordinates Q, outer folds by model
type and at random, five seeds, correlations of the pooled out-of-fold predictions. The learning
curve is klmap's own, and so is what :mod:`klmap.prediction_models` says of single models.

Scores are in the unit of their table, mostly percent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from klmap import correlation, folds, kernels
from klmap.arrays import Floats, Rows
from klmap.benchmarks import MEAN_TASKS, Benchmarks
from klmap.collect import Model
from klmap.errors import InputError
from klmap.folds import RANDOM, Sample
from klmap.prediction_files import (
    CONTROL,
    Accuracy,
    CurvePoint,
    Predicted,
    Prediction,
)
from klmap.prediction_models import Each
from klmap.store import MatrixFile

FEWEST = 10
"""Models with every task that a prediction needs."""

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


def predict(
    matrix: MatrixFile, models: Sequence[Model], benchmarks: Benchmarks, settings: Settings
) -> Prediction:
    """Predict every task from the coordinates, and say how well that works.

    The protocol is for the models that have every task. The predictions of single models use for
    each task all models that have its score.

    Args:
        matrix: of the K models.
        models: rows of models.tsv, in the order of the matrix.
        benchmarks: scores in the same order, with one task at least. If none is the mean of the
            others, ``mean`` is added for the models that have them all.
        settings: what is computed.

    Raises:
        InputError: fewer than ten models have every task.
    """
    benchmarks = with_mean(benchmarks)
    sample = folds.sample(models, _complete(benchmarks), benchmarks.tasks, benchmarks.values)
    control = kernels.mean_loglik(matrix)[sample.rows]
    full = folds.with_control(sample, control)
    tests = folds.draw(sample.types, settings.folds, settings.seeds)
    scored = np.flatnonzero(np.isfinite(benchmarks.values).any(axis=1))
    tasks = [*benchmarks.tasks, CONTROL]
    rows = [
        _baseline(task, sample.targets[:, n], control) for n, task in enumerate(benchmarks.tasks)
    ]
    curve: list[CurvePoint] = []
    predictions: list[Predicted] = []
    for features in settings.features:
        kernel = kernels.read(matrix, features, scored)
        own = kernel.among(full.rows)
        found: dict[str, Floats] = {}
        for split, seeds in tests.items():
            found[split] = folds.out_of_fold(own, full, seeds, f"fits on {features} by {split}")
            rows += [
                _accuracy(task, features, split, len(seeds[0]), full.targets[:, n], each)
                for n, (task, each) in enumerate(
                    zip(tasks, np.moveaxis(found[split], 2, 0), strict=True)
                )
            ]
        if features == settings.features[0]:
            kept = {split: values[:, :, :-1] for split, values in found.items()}
            each = Each(kernel, models, benchmarks, settings.folds, settings.seeds, sample, kept)
            predictions = each.predictions()
            if settings.curve:
                curve = _curve(own, sample, benchmarks.tasks, tests[RANDOM], kept[RANDOM])
    rows.sort(key=lambda row: tasks.index(row.task))
    return Prediction(benchmarks.tasks, rows, predictions, curve)


def with_mean(benchmarks: Benchmarks) -> Benchmarks:
    """The same with a task ``mean`` where there are several tasks and none is their mean."""
    if len(benchmarks.tasks) < 2 or set(MEAN_TASKS) & set(benchmarks.tasks):
        return benchmarks
    # The mean of a row with an unknown score is unknown.
    values = np.column_stack([benchmarks.values, benchmarks.values.mean(axis=1)])
    return Benchmarks([*benchmarks.tasks, MEAN_TASKS[-1]], values)


def _complete(benchmarks: Benchmarks) -> Rows:
    """Rows of the models that have every task, if they are enough."""
    rows = benchmarks.complete()
    if len(rows) < FEWEST:
        counts = np.isfinite(benchmarks.values).sum(axis=0)
        listed = ", ".join(f"{t} {n}" for t, n in zip(benchmarks.tasks, counts, strict=True))
        raise InputError(
            f"{len(rows)} models of the map have a score for every task, and {FEWEST} are needed "
            f"to predict; models with a score: {listed or 'none'}. Add scores to the tables, or "
            "name the tasks that more models have"
        )
    return rows


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


def _curve(
    kernel: Floats, sample: Sample, tasks: Sequence[str], tests: list[list[Rows]], full: Floats
) -> list[CurvePoint]:
    """Accuracy with fewer training models; ``full`` (S, n, T) is with all of them.

    Smaller training sets are drawn from the larger ones, anew for each fold and seed.
    """
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
        for number, task in enumerate(tasks)
        for size, values in results.items()
    ]


def _point(size: int, task: str, measured: Floats, predicted: Floats) -> CurvePoint:
    pearson = np.array([correlation.both(measured, seed)[0] for seed in predicted])
    mae = np.abs(predicted - measured).mean(axis=1)
    return CurvePoint(
        size, task, float(pearson.mean()), float(pearson.std()), float(mae.mean()), float(mae.std())
    )
