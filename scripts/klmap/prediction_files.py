"""The tables of predicted benchmark scores: how well it works, each model, fewer models."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

from klmap.errors import InputError
from klmap.files import read_tsv, write_tsv

CONTROL = "mean log-likelihood"
"""The control as a task, and the baseline as a feature: nats per text, after clipping."""

OUT_OF_FOLD, NEW = "out of fold", "new"


@dataclass(frozen=True)
class Accuracy:
    """How well one task is predicted; a row of accuracy.tsv. NaN where not defined.

    Attributes:
        task: name of the task.
        features: ``Q``, ``L``, or ``mean log-likelihood``: its plain correlation with the score,
            without a regression.
        split: ``type`` if no type is in training and test set, ``random``; empty for the baseline.
        models: how many have every task that is predicted together with this one.
        folds: outer folds; 0 for the baseline.
        pearson: of the pooled out-of-fold predictions with the scores, mean over seeds.
        pearson_std: population standard deviation over seeds.
        spearman: the same of ranks.
        spearman_std: population standard deviation over seeds.
        pearson_mean: of the mean prediction of all seeds.
        spearman_mean: the same of ranks.
        mae: mean absolute error in the unit of the score, mean over seeds.
    """

    task: str
    features: str
    split: str
    models: int
    folds: int
    pearson: float
    pearson_std: float
    spearman: float
    spearman_std: float
    pearson_mean: float
    spearman_mean: float
    mae: float


@dataclass(frozen=True)
class Predicted:
    """The predicted score of one model for one task; a row of predictions.tsv.

    Attributes:
        model: its name on the map.
        task: name of the task.
        measured: the score, NaN if unknown.
        predicted: what the other models say of it.
        low: lower end of the interval, NaN where ``far``.
        high: upper end of the interval, NaN where ``far``.
        how: ``out of fold`` for a model with a score, the mean over seeds of predictions from
            models of other folds; ``new`` for one without, predicted from all models with one.
        split: by which folds, ``type`` or ``random``, the errors behind the interval were made.
        distance: KL, bits per byte, to the nearest of the models that it was predicted from: the
            median over seeds of those of other folds, or of all with the score.
        far: whether the distance is one that the folds say nothing of, so that there is no
            interval (:func:`klmap.prediction_models.reach`).
    """

    model: str
    task: str
    measured: float
    predicted: float
    low: float
    high: float
    how: str
    split: str
    distance: float
    far: bool

    @property
    def guess(self) -> bool:
        """Whether nothing tells how wrong it may be: no error of the folds, and no score."""
        return self.far and self.how == NEW


@dataclass(frozen=True)
class CurvePoint:
    """Accuracy with so many training models; a row of curve.tsv. Random folds, first features.

    Attributes:
        models: number of training models.
        task: name of the task.
        pearson: of the pooled out-of-fold predictions with the scores, mean over seeds.
        pearson_std: population standard deviation over seeds.
        mae: mean absolute error in the unit of the score, mean over seeds.
        mae_std: population standard deviation over seeds.
    """

    models: int
    task: str
    pearson: float
    pearson_std: float
    mae: float
    mae_std: float


@dataclass(frozen=True)
class Prediction:
    """All that the analysis finds.

    Attributes:
        tasks: names of the tasks, without the control.
        accuracy: of each task and the control, by features and split.
        predictions: of each model and task, by task, then in the order of the map.
        curve: by task, then number of training models; empty if not asked for.
    """

    tasks: list[str]
    accuracy: list[Accuracy]
    predictions: list[Predicted]
    curve: list[CurvePoint]


def write(folder: Path, found: Prediction) -> None:
    """Write accuracy.tsv, predictions.tsv and curve.tsv; what is not defined is an empty cell."""
    _write(folder / "accuracy.tsv", Accuracy, found.accuracy)
    _write(folder / "predictions.tsv", Predicted, found.predictions)
    _write(folder / "curve.tsv", CurvePoint, found.curve)


def _write(path: Path, kind: type[Any], rows: Iterable[Any]) -> None:
    write_tsv(path, [item.name for item in fields(kind)], ([*map(_cell, astuple(r))] for r in rows))


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    return None if isinstance(value, float) and math.isnan(value) else value


def read_predictions(path: Path, models: Sequence[str] | None = None) -> list[Predicted]:
    """Read predictions.tsv.

    Args:
        path: the table.
        models: names of the map's models; every row has to be one of them.

    Raises:
        InputError: the file is missing or broken, or has other models.
    """
    try:
        rows = [_predicted(row) for row in read_tsv(path)]
    except KeyError as error:
        raise InputError(f"{path}: no column {error}; remove it and run again") from None
    except ValueError as error:
        raise InputError(f"{path}: {error}; remove it and run again") from None
    known = None if models is None else set(models)
    for row in rows:
        if known is not None and row.model not in known:
            raise InputError(
                f"{path}: {row.model!r} is not on the map; remove the table and run again"
            )
    return rows


def _predicted(row: dict[str, str]) -> Predicted:
    def number(name: str) -> float:
        return float(row[name] or math.nan)

    return Predicted(
        model=row["model"],
        task=row["task"],
        measured=number("measured"),
        predicted=number("predicted"),
        low=number("low"),
        high=number("high"),
        how=row["how"],
        split=row["split"],
        distance=number("distance"),
        far=row["far"] == "true",
    )
