"""The columns of models.tsv as a page can colour and search them: numbers, dates, categories."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from klmap.arrays import Floats
from klmap.benchmarks import Benchmarks
from klmap.explorer_arrays import packed
from klmap.files import read_tsv
from klmap.prediction_files import Predicted

FEW_LEVELS = 12
"""So few different values make a category, unless each stands there only once."""

_KINDS = {
    "id": "text",
    "revision": "text",
    "commit": "text",
    "family": "category",
    "variant": "category",
    "architecture": "category",
    "base_model": "category",
    "license": "category",
    "likelihood": "category",
    "dtype": "category",
    "prefix": "category",
    "overlength": "category",
    "created_at": "date",
    "parameters": "number",
    "tokens": "number",
    "truncated": "number",
    "texts": "number",
    "bits_per_byte": "number",
    "mean_loglik": "number",
    "pmi_bits_per_byte": "number",
    "mean_pmi": "number",
    "noise_nats": "number",
}
_LABELS = {
    "base_model": "base model",
    "bits_per_byte": "bits per byte",
    "created_at": "created",
    "dtype": "number format",
    "license": "licence",
    "likelihood": "kind of likelihood",
    "mean_loglik": "mean log-likelihood (nats/text)",
    "mean_pmi": "mean PMI (nats/response)",
    "noise_nats": "numerical noise (nats/text)",
    "overlength": "longer texts",
    "pmi_bits_per_byte": "bits per byte that prompts add",
    "prefix": "first token",
    "texts": "scored texts",
    "tokens": "scored tokens",
    "truncated": "texts cut",
}
_LOGARITHMIC = ("parameters", "tokens")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_NONE = {"", "nan", "inf", "-inf", "+inf"}
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_DECADES = 1e3
_NO_LEVEL = {"u2": 65535, "u4": 2**32 - 1}


def columns(path: Path) -> list[dict[str, Any]]:
    """Every column of models.tsv but the models' names, known to klmap or not.

    Columns that klmap writes have their kind; of others, what is a number in every row is a
    number, what is a date a date, and words are a category unless most of them stand there once.

    Args:
        path: models.tsv.

    Returns:
        Per column ``name``, ``label``, ``kind``, and

        - ``number``: ``values`` f8, NaN where unknown; ``log``, whether its scale is logarithmic;
        - ``date``: ``values`` f8, days since 1970, NaN where unknown;
        - ``category``: ``levels`` by falling count, then by name; ``codes`` u2, or u4 where there
          are more levels than that, with the largest number for an empty cell;
        - ``text``: ``values``, the strings.

    Raises:
        InputError: the file is missing or broken.
    """
    rows = read_tsv(path)
    names = list(rows[0]) if rows else []
    return [_column(name, [row[name] for row in rows]) for name in names if name != "model"]


def scores(
    found: Benchmarks,
    predictions: Sequence[Predicted],
    models: Sequence[str],
    taken: Collection[str] = (),
) -> list[dict[str, Any]]:
    """Columns of benchmark scores, each followed by what is predicted of it.

    Args:
        found: the measured scores, in the order of the models.
        predictions: of some of the tasks; none where nothing was predicted. Those that nothing
            tells the error of are unknown on the page.
        models: names of the models of the map.
        taken: names of other columns; a task of that name gets a longer one.

    Returns:
        Columns of numbers, as :func:`columns` gives them, and

        - ``task``: the name of the task;
        - ``predicted``: whether its scores are predicted ones.
    """
    row_of = {name: row for row, name in enumerate(models)}
    predicted: dict[str, Floats] = {}
    for item in predictions:
        values = predicted.setdefault(item.task, np.full(len(models), np.nan))
        values[row_of[item.model]] = np.nan if item.guess else item.predicted
    measured = dict(zip(found.tasks, found.values.T, strict=True))
    result = []
    for task in dict.fromkeys([*measured, *predicted]):
        own = f"{task} (benchmark)" if {task, f"{task}, predicted"} & set(taken) else task
        for name, known in ((own, measured), (f"{own}, predicted", predicted)):
            if task in known:
                result.append(
                    {
                        "name": name,
                        "label": name,
                        "kind": "number",
                        "log": False,
                        "values": packed(known[task], "f8"),
                        "task": task,
                        "predicted": known is predicted,
                    }
                )
    return result


def _column(name: str, cells: Sequence[str]) -> dict[str, Any]:
    head = {"name": name, "label": _LABELS.get(name, name.replace("_", " "))}
    kind = _KINDS.get(name) or _guess(cells)
    if kind == "number":
        values = [_number(cell) for cell in cells]
        known = [value for value in values if math.isfinite(value)]
        return {
            **head,
            "kind": kind,
            "log": _logarithmic(name, known),
            "values": packed(np.array(values), "f8"),
        }
    if kind == "date":
        return {**head, "kind": kind, "values": packed(np.array([_day(c) for c in cells]), "f8")}
    if kind == "text":
        return {**head, "kind": kind, "values": list(cells)}
    return {**head, "kind": kind, **_levels(cells)}


def _guess(cells: Sequence[str]) -> str:
    known = [cell for cell in cells if cell]
    if not known:
        return "text"
    if any(cell.lower() not in _NONE for cell in known) and all(
        cell.lower() in _NONE or _NUMBER.fullmatch(cell) for cell in known
    ):
        return "number"
    if all(math.isfinite(_day(cell)) for cell in known):
        return "date"
    levels = len(set(known))
    few = levels <= FEW_LEVELS or 2 * levels <= len(known)
    return "category" if few and levels < len(known) else "text"


def _number(cell: str) -> float:
    if not _NUMBER.fullmatch(cell):
        return math.nan
    value = float(cell)
    return value if math.isfinite(value) else math.nan


def _logarithmic(name: str, known: Sequence[float]) -> bool:
    """Whether equal factors should look alike: sizes do, and what spans three decades does."""
    if not known or min(known) <= 0:
        return name in _LOGARITHMIC
    return name in _LOGARITHMIC or max(known) / min(known) >= _DECADES


def _day(cell: str) -> float:
    """Days since 1970 of an ISO 8601 date; NaN if it is none."""
    if not _DATE.match(cell):
        return math.nan
    try:
        moment = datetime.fromisoformat(cell)
    except ValueError:
        return math.nan
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() / 86400


def _levels(cells: Sequence[str]) -> Mapping[str, Any]:
    counts = Counter(cell for cell in cells if cell)
    levels = sorted(counts, key=lambda level: (-counts[level], level))
    dtype = "u2" if len(levels) < _NO_LEVEL["u2"] else "u4"
    code = {level: number for number, level in enumerate(levels)}
    codes = np.array([code.get(cell, _NO_LEVEL[dtype]) for cell in cells], np.uint32)
    return {"levels": levels, "codes": packed(codes, dtype)}
