"""Ways on the page: where analyses expect models to go, read from their tables ``ways.tsv``.

A way begins where a model stands, or, of a model off the map, where it would stand, and leads over
one or more steps. How places of steps are found is each analysis's own; the page draws them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from klmap.errors import InputError
from klmap.explorer_arrays import packed
from klmap.files import read_tsv
from klmap.layout import Place

COLUMNS = ("group", "model", "step", "x", "y", "label")
"""Columns of ways.tsv."""

KINDS = {
    "prompts": (
        "Edit of the prompt",
        "An arrow leads to where a model would stand if its prompts were edited.",
        "Its length is no measure of the shift; hover over an arrow for that. Where it ends is "
        "found by placing the edited model among the others, a method of klmap's own.",
    ),
    "mixture": (
        "Mixture",
        "An arrow leads to where training on the mixture is expected to take a model.",
        "Its length is no measure of how far that is; hover over an arrow for that. Where it ends "
        "is found by placing what is expected among the models, a method of klmap's own.",
    ),
}
"""Per analysis, named as the folder of the table: what its groups are, what an arrow means in one
sentence, and what else is to be known of it."""

_NEAR = 1e-3


class _Step(NamedTuple):
    """One line of a table."""

    line: int
    step: int
    x: float
    y: float
    label: str


def read(paths: Sequence[Path], places: Sequence[Place]) -> list[dict[str, Any]]:
    """All groups of ways, as the page takes them.

    Args:
        paths: tables ``<analysis>/ways.tsv``.
        places: of the K models of the map.

    Returns:
        Per group of W ways with P steps together, in the order of the tables: ``key``,
        ``analysis/group``; ``kind``, ``name``, ``note`` and ``help``, words; ``rows`` u4 [W], the
        models, K and more for those of ``off``, the names of models off the map; ``steps`` u2 [W],
        how many a way has with its beginning; ``x`` and ``y`` f4 [P], way after way; ``label`` u4
        [P], rows of ``labels``, the words of each step.

    Raises:
        InputError: a table is missing or broken, is of an analysis that has no ways, or begins a
            way elsewhere than its model stands on this map.
    """
    groups = []
    for path in paths:
        if path.resolve().parent.name not in KINDS:
            raise InputError(
                f"{path}: ways are drawn of {' and '.join(KINDS)}, by the name of the folder, not "
                f"of {path.resolve().parent.name!r}"
            )
        for name, ways in _ways(path).items():
            _check(path, name, ways, places)
            groups.append(_group(path.resolve().parent.name, name, ways, places))
    return groups


def _ways(path: Path) -> dict[str, dict[str, list[_Step]]]:
    """The steps by group and model, in their order."""
    found: dict[str, dict[str, list[_Step]]] = {}
    for line, row in enumerate(read_tsv(path), start=2):
        if missing := [name for name in COLUMNS if name not in row]:
            raise InputError(f"{path}: no column {', '.join(missing)}; remove it and run again")
        step = _step(path, line, row)
        found.setdefault(row["group"], {}).setdefault(row["model"], []).append(step)
    for ways in found.values():
        for steps in ways.values():
            steps.sort(key=lambda one: one.step)
    return found


def _step(path: Path, line: int, row: Mapping[str, str]) -> _Step:
    try:
        step = _Step(line, int(row["step"]), float(row["x"]), float(row["y"]), row["label"])
    except ValueError as error:
        raise InputError(f"{path}:{line}: {error}; remove the file and run again") from None
    if not (math.isfinite(step.x) and math.isfinite(step.y)):
        raise InputError(
            f"{path}:{line}: x and y are {row['x']} and {row['y']}, expected two numbers; remove "
            "the file and run again"
        )
    return step


def _check(
    path: Path, name: str, ways: Mapping[str, Sequence[_Step]], places: Sequence[Place]
) -> None:
    """Refuse ways with holes, and those of another layout."""
    stands = {place.model: place for place in places}
    xs, ys = [place.x for place in places], [place.y for place in places]
    near = _NEAR * max(max(xs) - min(xs), max(ys) - min(ys))
    for model, steps in ways.items():
        where = f"{path}:{steps[0].line}: the way {name!r} of {model!r}"
        if len(steps) < 2 or [one.step for one in steps] != list(range(len(steps))):
            numbers = ", ".join(str(one.step) for one in steps)
            raise InputError(
                f"{where} has the steps {numbers}, expected 0, 1 and so on; remove the file and "
                "run again"
            )
        place = stands.get(model)
        if place and math.hypot(place.x - steps[0].x, place.y - steps[0].y) > near:
            raise InputError(
                f"{where} begins at {steps[0].x:g}, {steps[0].y:g}, but the model stands at "
                f"{place.x:g}, {place.y:g}; it is of another layout: remove the file and run again"
            )


def _group(
    analysis: str, name: str, ways: Mapping[str, Sequence[_Step]], places: Sequence[Place]
) -> dict[str, Any]:
    row_of = {place.model: row for row, place in enumerate(places)}
    off = [model for model in ways if model not in row_of]
    row_of |= {model: len(places) + row for row, model in enumerate(off)}
    steps = [one for way in ways.values() for one in way]
    labels = list(dict.fromkeys(one.label for one in steps))
    code = {label: number for number, label in enumerate(labels)}
    kind, note, more = KINDS[analysis]
    return {
        "key": f"{analysis}/{name}",
        "kind": kind,
        "name": name,
        "note": note,
        "help": more,
        "rows": packed(np.array([row_of[model] for model in ways]), "u4"),
        "off": off,
        "steps": packed(np.array([len(way) for way in ways.values()]), "u2"),
        "x": packed(np.array([one.x for one in steps]), "f4"),
        "y": packed(np.array([one.y for one in steps]), "f4"),
        "label": packed(np.array([code[one.label] for one in steps]), "u4"),
        "labels": labels,
    }
