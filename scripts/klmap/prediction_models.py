"""Benchmark scores of single models: predictions, their intervals, and where there is none.

All of this is klmap's own, but for the predictions of models with a score, which are those of the
protocol (:mod:`klmap.prediction`), averaged over seeds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from klmap import folds, ridge
from klmap.arrays import Floats, Rows
from klmap.benchmarks import Benchmarks
from klmap.folds import RANDOM, TYPE, Sample
from klmap.kernels import Kernel
from klmap.log import logger
from klmap.models_table import Model
from klmap.prediction_files import NEW, OUT_OF_FOLD, Predicted

COVERAGE = 0.9
"""Share of the models whose score the intervals are made to hold."""

REACH = 0.99
"""Share of the out-of-fold predictions from whose distances it follows how far errors hold."""

_NAMED = 10


def half_width(measured: Floats, predicted: Floats) -> float:
    """Half of an interval's width, from the errors of out-of-fold predictions; klmap's own.

    As in split conformal prediction the ``ceil((n + 1) c)``-th of n absolute errors, with c =
    ``COVERAGE``, here of the errors of all seeds together. That errors of models in other folds
    stand for those of a fit on all models is as in cross-conformal prediction: a good
    approximation, not a guarantee, and wide rather than narrow, because a fit on all models knows
    more.

    A new model of a type that the sample has gets the errors of random folds, in which most models
    have others of their type in the training set, unless it is unlike all of them: then, and if it
    is of a new type, it gets those by type. One that is farther from all models than even these
    were (:func:`reach`) gets none.

    Args:
        measured: (n,) scores.
        predicted: (S, n) out-of-fold predictions, S seeds.
    """
    seeds, count = predicted.shape
    # Rounded, because 0.9 is none in binary numbers.
    rank = min(math.ceil(round((count + 1) * COVERAGE, 9)), count)
    return float(np.sort(np.abs(predicted - measured), axis=None)[rank * seeds - 1])


def reach(distances: Floats) -> float:
    """The distance up to which the errors of out-of-fold predictions hold; klmap's own.

    The errors of some folds were made by models that had another one so near to them. Of a model
    with none, as one with random weights, they say nothing. The ``ceil(n c)``-th of n distances,
    with c = ``REACH``: of a hundred models or fewer the largest; of more, a few models that are
    like no other do not stretch it, and are beyond it themselves.

    Args:
        distances: (n,) of each model to those that it was predicted from (:func:`nearest`).
    """
    return float(np.quantile(distances, REACH, method="inverted_cdf"))


def nearest(kl: Floats, tests: Sequence[Sequence[Rows]]) -> Floats:
    """How far each model is from those that it was predicted from; klmap's own.

    Args:
        kl: (n, n) KL among the models, bits per byte.
        tests: test sets by seed, then fold.

    Returns:
        (n,) KL to the nearest model of the training set, median over seeds.
    """
    found = np.empty((len(tests), len(kl)))
    for seed, parts in enumerate(tests):
        for test in parts:
            train = np.setdiff1d(np.arange(len(kl)), test)
            found[seed, test] = kl[np.ix_(test, train)].min(axis=1)
    return np.median(found, axis=0)


@dataclass(frozen=True)
class Tried:
    """Out-of-fold predictions of one task.

    Attributes:
        tests: test sets by split, seed and fold.
        found: (S, n) predictions by split.
    """

    tests: dict[str, list[list[Rows]]]
    found: dict[str, Floats]


@dataclass(frozen=True)
class _How:
    """How a model is predicted: its place among those predicted alike, and columns of the table."""

    how: str
    place: int
    split: str
    distance: float
    far: bool


@dataclass(frozen=True)
class Each:
    """Predictions of single models.

    Attributes:
        kernel: of all models with any score.
        models: the K models of the map.
        benchmarks: their scores.
        folds: outer folds.
        seeds: how many times they are drawn.
        tried: by task, the out-of-fold predictions of models that were chosen for it, which are
            made anew where others have it as well.
    """

    kernel: Kernel
    models: Sequence[Model]
    benchmarks: Benchmarks
    folds: int
    seeds: int
    tried: dict[str, Tried]

    def predictions(self) -> list[Predicted]:
        """Of all models and tasks; tasks that the same models have are fitted together."""
        known = np.isfinite(self.benchmarks.values)
        groups: dict[bytes, list[int]] = {}
        for number in range(known.shape[1]):
            groups.setdefault(known[:, number].tobytes(), []).append(number)
        by_task: dict[int, list[Predicted]] = {}
        for columns in groups.values():
            rows = np.flatnonzero(known[:, columns[0]])
            by_task.update(zip(columns, self._group(rows, columns), strict=True))
        found = [row for number in sorted(by_task) for row in by_task[number]]
        _tell_far(found)
        return found

    def _group(self, rows: Rows, columns: list[int]) -> Iterator[list[Predicted]]:
        """Predictions for each of some tasks that the models ``rows``, and no others, have."""
        tasks = [self.benchmarks.tasks[column] for column in columns]
        scores = self.benchmarks.values[:, columns]
        sample = folds.sample(self.models, rows, tasks, scores)
        tests, found = self._out_of_fold(sample, tasks)
        others = np.setdiff1d(np.arange(len(self.models)), rows)
        new, away = self._new(sample, others)
        made = self._made(sample, others, away, tests)
        for number, task in enumerate(tasks):
            measured = sample.targets[:, number]
            half = {
                split: half_width(measured, values[:, :, number]) for split, values in found.items()
            }
            mean = {split: values[:, :, number].mean(axis=0) for split, values in found.items()}
            low, high = (float(end) for end in sample.limits[:, number])
            rows_of_task = []
            for row, how in sorted(made.items()):
                value = float((new[:, number] if how.how == NEW else mean[how.split])[how.place])
                ends = max(value - half[how.split], low), min(value + half[how.split], high)
                rows_of_task.append(
                    Predicted(
                        self.models[row].model,
                        task,
                        float(scores[row, number]),
                        value,
                        *((math.nan, math.nan) if how.far else ends),
                        how.how,
                        how.split,
                        how.distance,
                        how.far,
                    )
                )
            yield rows_of_task

    def _made(
        self, sample: Sample, others: Rows, away: Floats, tests: dict[str, list[list[Rows]]]
    ) -> dict[int, _How]:
        """How each row of the map is predicted; ``away`` (M,) as :meth:`_new` gives it."""
        kl = self.kernel.kl(sample.rows)
        near = {split: nearest(kl, seeds) for split, seeds in tests.items()}
        limits = {split: reach(values) for split, values in near.items()}
        main = TYPE if TYPE in near else RANDOM
        types = set(sample.types)
        made = {}
        for place, row in enumerate(sample.rows):
            distance = float(near[main][place])
            made[int(row)] = _How(OUT_OF_FOLD, place, main, distance, distance > limits[main])
        for place, row in enumerate(others):
            distance = float(away[place])
            known = self.models[row].family in types and distance <= limits[RANDOM]
            split = RANDOM if known else main
            made[int(row)] = _How(NEW, place, split, distance, distance > limits[split])
        return made

    def _out_of_fold(
        self, sample: Sample, tasks: Sequence[str]
    ) -> tuple[dict[str, list[list[Rows]]], dict[str, Floats]]:
        """Test sets and (S, n, T) predictions, by split."""
        tried = [self.tried[task] for task in tasks]
        if all(one.found[RANDOM].shape[1] == len(sample.rows) for one in tried):
            tests = tried[0].tests
            return tests, {s: np.stack([one.found[s] for one in tried], axis=2) for s in tests}
        tests = folds.draw(sample.types, self.folds, self.seeds)
        own, named = self.kernel.among(sample.rows), ", ".join(tasks)
        return tests, {
            split: folds.out_of_fold(own, sample, seeds, f"fits for {named} by {split}")
            for split, seeds in tests.items()
        }

    def _new(self, sample: Sample, others: Rows) -> tuple[Floats, Floats]:
        """Predictions of models without these scores, from all that have them.

        Returns:
            (M, T) predictions and (M,) KL to the nearest model with the scores, bits per byte.
        """
        if not len(others):
            return np.zeros((0, len(sample.alphas))), np.zeros(0)
        everyone = np.arange(len(sample.rows))
        own = self.kernel.among(sample.rows)
        with threadpool_limits(1):
            fit = ridge.fit(own, everyone, sample.targets, sample.alphas)
        blocks = [
            (fit.predict(products), kl.min(axis=1))
            for products, kl in self.kernel.cross(others, sample.rows)
        ]
        predicted, near = (np.concatenate(part) for part in zip(*blocks, strict=True))
        return np.clip(predicted, *sample.limits), near


def _tell_far(predictions: Sequence[Predicted]) -> None:
    """Name the new models that no out-of-fold prediction is like."""
    far = {row.model: row.distance for row in predictions if row.far and row.how == NEW}
    if not far:
        return
    listed = [f"{name} ({kl:.2g} bits/byte)" for name, kl in sorted(far.items())[:_NAMED]]
    more = [f"{len(far) - _NAMED:,} more"] if len(far) > _NAMED else []
    logger.warning(
        "no interval for predictions of %d model%s without a score, farther from those with one "
        "than 99 of 100 that were tried out: %s",
        len(far), "s" if len(far) != 1 else "", ", ".join([*listed, *more]),
    )  # fmt: skip
