"""Tables of benchmark scores, joined to the models of a map by name."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from klmap.arrays import Floats
from klmap.errors import InputError
from klmap.files import read_tsv
from klmap.log import logger
from klmap.models_table import Model
from klmap.vectors import slug

MEAN_TASKS = ("6-TaskMean", "mean")
"""Columns that are the mean of others, the published one first."""

_SHOWN = 5


@dataclass(frozen=True)
class Benchmarks:
    """Benchmark scores of the models of a map.

    Attributes:
        tasks: T names, in the order of the tables.
        values: (K, T) float64 in the order of the models, NaN where unknown.
    """

    tasks: list[str]
    values: Floats

    def complete(self) -> npt.NDArray[np.intp]:
        """Rows of the models that have a score for every task."""
        return np.flatnonzero(np.isfinite(self.values).all(axis=1))

    def of(self, tasks: Sequence[str]) -> Benchmarks:
        """Only some tasks, in the order asked for; all of them for an empty list.

        Raises:
            InputError: there is no such task.
        """
        for task in tasks:
            if task not in self.tasks:
                raise InputError(
                    f"no benchmark table has a column {task!r}; columns: {', '.join(self.tasks)}"
                )
        columns = [self.tasks.index(task) for task in tasks or self.tasks]
        return Benchmarks([self.tasks[column] for column in columns], self.values[:, columns])


def read_benchmarks(paths: Sequence[Path], models: Sequence[Model]) -> Benchmarks:
    """Read tables of benchmark scores and join them to the models.

    Args:
        paths: tab-separated tables with a column ``model``, a name on the map or an id, and one
            column per task. A task may stand in several tables. An id that several models of the
            map have is that of the one whose name is made from it.
        models: the models of the map.

    Returns:
        Scores in the order of ``models``; models that no table names have none. Rows that belong
        to no model, or to several, are left out, with a warning.

    Raises:
        InputError: a table has no column ``model``, a cell is no number, or a model has two
            different scores for one task.
    """
    rows = _rows_by_name(models)
    several = rows_by_id(models)
    tasks: dict[str, int] = {}
    found: dict[tuple[int, int], tuple[float, str]] = {}
    for path in paths:
        unknown: list[str] = []
        ambiguous: dict[str, list[str]] = {}
        for number, line in enumerate(read_tsv(path), start=2):
            place = f"{path}:{number}"
            if "model" not in line:
                raise InputError(f"{path}: no column 'model'; columns: {', '.join(line)}")
            name = line["model"]
            row = rows.get(name)
            if row is None:
                if name in several:
                    ambiguous[name] = [models[row].model for row in several[name]]
                else:
                    unknown.append(name)
                continue
            for task, value in _scores(line, place):
                cell = row, tasks.setdefault(task, len(tasks))
                known, where = found.setdefault(cell, (value, place))
                if known != value:
                    raise InputError(
                        f"{place}: {task} of {name!r} is {value:g}, but {known:g} at "
                        f"{where}; keep one of them"
                    )
        _tell_unknown(path, unknown, models)
        _tell_ambiguous(path, ambiguous)
    values = np.full((len(models), len(tasks)), np.nan)
    for cell, (value, _) in found.items():
        values[cell] = value
    return Benchmarks(list(tasks), values)


def _rows_by_name(models: Sequence[Model]) -> dict[str, int]:
    """Rows of the models by their names, and by ids that mean one of them."""
    alone = {id_: rows[0] for id_, rows in rows_by_id(models).items() if len(rows) == 1}
    return alone | {model.model: row for row, model in enumerate(models)}


def rows_by_id(models: Sequence[Model]) -> dict[str, list[int]]:
    """Which models an id means: one, if only one has it or bears the name made from it.

    A release's model that is scored again under a name of its own has the same id as the first,
    which is called after it.

    Args:
        models: the models of a map.

    Returns:
        Rows of the models by their ids, ascending; several where none is called after the id.
    """
    rows: dict[str, list[int]] = {}
    for row, model in enumerate(models):
        if model.id:
            rows.setdefault(model.id, []).append(row)
    for id_, found in rows.items():
        if len(found) > 1:
            rows[id_] = [row for row in found if models[row].model == slug(id_)] or found
    return rows


def _scores(line: Mapping[str, str], place: str) -> list[tuple[str, float]]:
    """Tasks and finite scores of one line of a table."""
    scores = []
    for task, cell in line.items():
        if task == "model" or not cell.strip():
            continue
        try:
            value = float(cell)
        except ValueError:
            raise InputError(
                f"{place}: {task} is {cell!r}, which is no number; leave the cell empty where the "
                "score is unknown"
            ) from None
        if math.isfinite(value):
            scores.append((task, value))
    return scores


def _tell_unknown(path: Path, unknown: Sequence[str], models: Sequence[Model]) -> None:
    """Say in the log which names of a table no model of the map has, and what they may mean."""
    if not unknown:
        return
    known = [name for model in models for name in {model.model, model.id} if name]
    words = []
    for name in unknown[:_SHOWN]:
        close = difflib.get_close_matches(name, known, n=1)
        words.append(f"{name!r}" + (f" (the map has {close[0]!r})" if close else ""))
    rest = f" and {len(unknown) - _SHOWN:,} more" if len(unknown) > _SHOWN else ""
    logger.warning(
        "%s: %d models are not on this map: %s%s", path, len(unknown), ", ".join(words), rest
    )


def _tell_ambiguous(path: Path, ambiguous: Mapping[str, Sequence[str]]) -> None:
    """Say in the log which ids of a table several models of the map have."""
    if not ambiguous:
        return
    words = [
        f"{id_!r} ({', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''})"
        for id_, names in list(ambiguous.items())[:_SHOWN]
    ]
    rest = f" and {len(ambiguous) - _SHOWN:,} more" if len(ambiguous) > _SHOWN else ""
    logger.warning(
        "%s: %d ids are those of several models of this map, none of which is called after the "
        "id, and are left out: %s%s; write the names on the map instead",
        *(path, len(ambiguous), ", ".join(words), rest),
    )
