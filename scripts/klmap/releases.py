"""What the import of a release leaves for others: names of its scores, and its clip threshold.

``results/published/<name>/`` holds ``index.tsv``, ``benchmarks.tsv`` and ``report.json``. The
scores themselves lie with all others of their text set.
"""

from __future__ import annotations

from pathlib import Path

from klmap.errors import InputError
from klmap.files import read_json, read_tsv

FOLDER = "published"
"""The folder of all releases below the results."""


def score_names(results: Path) -> set[str]:
    """Names of the score files that were imported: nothing was computed for them here.

    Args:
        results: the results folder. Tables that cannot be read are left out.
    """
    found = set()
    for table in (results / FOLDER).glob("*/index.tsv"):
        try:
            found |= {f"{row['model']}.{row['fingerprint']}.h5" for row in read_tsv(table)}
        except (InputError, KeyError):
            continue
    return found


def count(results: Path, name: str) -> int | None:
    """Number of models of a release; None where it was not imported yet."""
    try:
        return len(read_tsv(results / FOLDER / name / "index.tsv"))
    except InputError:
        return None


def clip_threshold(report: Path) -> float:
    """The clip threshold of a release, nats: models that are added to its map reuse it.

    Raises:
        InputError: the report is missing or holds no number.
    """
    value = read_json(report).get("clip_threshold")
    if not isinstance(value, float):
        raise InputError(f"{report}: clip_threshold is {value!r}, expected a number; remove it")
    return value
