"""Models in folds, each predicted from the others.

The folds are those of Oyama et al. 2025 (ACL, "Mapping 1,000+ Language Models via the
Log-Likelihood Vector", section 5): by model type, so that no type is in training and test set,
and at random, each drawn anew for every seed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import GroupKFold, KFold

from klmap import ridge
from klmap.arrays import Floats, Rows
from klmap.blocks import in_order, ranges
from klmap.log import Progress, logger
from klmap.models_table import Model

TYPE, RANDOM = "type", "random"

ALPHAS = tuple(10.0**power for power in range(1, 10))
"""Penalties to choose from for a benchmark task, nats^2 (Oyama et al. 2025, section 5)."""

CONTROL_ALPHAS = tuple(10.0**power for power in range(-4, 5))
"""The same for the control, the mean log-likelihood itself."""

_SCALE = (0.0, 100.0)


@dataclass(frozen=True)
class Sample:
    """Models that have all of some scores, in the order of their ids, and what is to be fitted.

    Attributes:
        rows: (n,) their rows on the map.
        types: (n,) their model types.
        targets: (n, T) scores.
        alphas: (T, A) penalties to choose from.
        limits: (2, T) between which predictions are kept.
    """

    rows: Rows
    types: list[str]
    targets: Floats
    alphas: Floats
    limits: Floats


@dataclass(frozen=True)
class Task:
    """A training set and the models predicted from it, as rows of a sample."""

    train: Rows
    test: Rows


def sample(models: Sequence[Model], rows: Rows, tasks: Sequence[str], scores: Floats) -> Sample:
    """What is to be fitted for some benchmark tasks.

    Predictions are kept between 0 and 100, as Oyama et al. 2025 do, where all scores of a task
    are; those of a task on another scale are left as they are (klmap's own).

    Args:
        models: the K models of the map.
        rows: rows of those that have the scores.
        tasks: T names.
        scores: (K, T) all scores.
    """
    ordered = np.array(sorted(rows, key=lambda row: (models[row].id, models[row].model)), np.intp)
    targets = scores[ordered]
    inside = ((targets >= _SCALE[0]) & (targets <= _SCALE[1])).all(axis=0)
    for task in np.array(tasks)[~inside]:
        logger.info("%s: not all scores are between 0 and 100; predictions may leave it", task)
    return Sample(
        ordered,
        [models[row].family for row in ordered],
        targets,
        np.tile(ALPHAS, (len(tasks), 1)),
        np.where(inside, np.array(_SCALE)[:, None], np.array([[-math.inf], [math.inf]])),
    )


def with_control(found: Sample, control: Floats) -> Sample:
    """The same with one more target, (n,) nats, that has penalties of its own and no limits."""
    return Sample(
        found.rows,
        found.types,
        np.column_stack([found.targets, control]),
        np.vstack([found.alphas, CONTROL_ALPHAS]),
        np.column_stack([found.limits, [-math.inf, math.inf]]),
    )


def draw(types: Sequence[str], folds: int, seeds: int) -> dict[str, list[list[Rows]]]:
    """Test sets by kind of split, then seed, then fold.

    Where there are fewer types than folds, there are as many folds by type as types; of a single
    type there are none.

    Args:
        types: (n,) model types.
        folds: outer folds.
        seeds: how many times they are drawn, with seeds 0, 1, ...
    """
    found: dict[str, list[list[Rows]]] = {}
    count = len(set(types))
    if count < folds:
        logger.warning(
            "%d model type%s for %d folds: %s", count, "s" if count != 1 else "", folds,
            "no prediction by type" if count == 1 else f"{count} folds by type",
        )  # fmt: skip
    places = np.zeros((len(types), 1))
    for kind, number in ((TYPE, min(folds, count)), (RANDOM, min(folds, len(types)))):
        if number < 2:
            continue
        splitter = GroupKFold if kind == TYPE else KFold
        groups = types if kind == TYPE else None
        found[kind] = [
            [test for _, test in made.split(places, groups=groups)]
            for made in (splitter(number, shuffle=True, random_state=n) for n in range(seeds))
        ]
    return found


def out_of_fold(kernel: Floats, found: Sample, tests: list[list[Rows]], what: str) -> Floats:
    """Predict every model of a sample from the other folds.

    Args:
        kernel: (n, n) of the sample.
        found: the sample, with T targets.
        tests: by seed, then fold.
        what: what the log calls the fits.

    Returns:
        (S, n, T) predictions, S seeds.
    """
    everyone = np.arange(len(found.rows))
    tasks = [Task(np.setdiff1d(everyone, test), test) for seed in tests for test in seed]
    return pooled(kernel, found, tasks, len(tests), what)


def pooled(kernel: Floats, found: Sample, tasks: Sequence[Task], seeds: int, what: str) -> Floats:
    """Fit each training set and predict its test set.

    Args:
        kernel: (n, n) of the sample.
        found: the sample, with T targets.
        tasks: by seed, then fold, the same number of folds for each of the seeds.
        seeds: how many.
        what: what the log calls the fits.

    Returns:
        (S, n, T) predictions, NaN for models that are in no test set of a seed.
    """
    predicted = np.full((seeds, *found.targets.shape), np.nan)

    def one(begin: int, _: int) -> Floats:
        train, test = tasks[begin].train, tasks[begin].test
        fit = ridge.fit(kernel, train, found.targets, found.alphas)
        return fit.predict(kernel[np.ix_(test, train)])

    progress = Progress(len(tasks), what)
    for number, values in enumerate(in_order(one, ranges(len(tasks), 1, 1))):
        seed = number * seeds // len(tasks)
        predicted[seed, tasks[number].test] = np.clip(values, *found.limits)
        progress.add(1)
    progress.close()
    return predicted
