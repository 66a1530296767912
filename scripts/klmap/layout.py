"""The layout of a map: a place for every model, and the report of how it was made.

layout.json says which layout.tsv it belongs to, by hash. The table is written first: a job that is
killed between the two leaves a pair that does not fit, and nothing is continued from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from klmap import alignment, embedding, geometry, quality
from klmap.alignment import Movement
from klmap.arrays import Floats
from klmap.design import Design
from klmap.embedding import Method, Metric, Settings
from klmap.errors import InputError
from klmap.files import read_json, read_tsv, write_json, write_tsv
from klmap.models_table import Model
from klmap.quality import Quality
from klmap.store import Matrix

COLUMNS = ("model", "x", "y", "method")

METHODS = {
    "pca": "principal components",
    "tsne-euclidean": "t-SNE on √KL",
    "tsne-sqeuclidean": "t-SNE on KL",
    "opentsne-euclidean": "t-SNE on √KL (openTSNE)",
    "opentsne-sqeuclidean": "t-SNE on KL (openTSNE)",
    "umap": "UMAP on √KL",
}
"""The methods of layout.tsv in words, for whatever shows a map."""


@dataclass(frozen=True)
class Place:
    """One row of layout.tsv."""

    model: str
    x: float
    y: float
    method: str


@dataclass(frozen=True)
class Report:
    """What layout.json says of the layout beside it.

    Attributes:
        texts_sha256: hash of the text set.
        method: ``tsne``, ``opentsne``, ``umap`` or ``pca``: what was really used.
        metric: ``euclidean`` or ``sqeuclidean``.
        perplexity: as configured.
        seed: as configured.
        iterations: as configured.
        input: hash of all that the places follow from but the layout before.
        table: SHA-256 of the layout.tsv that it belongs to.
        quality: how faithful the layout is.
        stable: how it differs from the one before; None if it is fresh.
        reason: why it is fresh; empty if it is not.
        vectors: a hash of each model's log-likelihoods; none in a layout of an earlier klmap.
        reference: SHA-256 of the layout.tsv of all texts, from which this one goes on; empty
            where there is none. ``stable`` then compares the two.
    """

    texts_sha256: str
    method: Method
    metric: Metric
    perplexity: float
    seed: int
    iterations: int
    input: str
    table: str
    quality: Quality
    stable: Movement | None
    reason: str
    vectors: dict[str, str] = field(default_factory=dict)
    reference: str = ""


def place(
    matrix: Matrix,
    models: Sequence[Model],
    method: Method = "tsne",
    metric: Metric = "euclidean",
    perplexity: float = 30,
    iterations: int = 1000,
    seed: int = 42,
) -> list[Place]:
    """A fresh layout of a matrix in memory; the same input gives the same bits.

    Args:
        matrix: the models and texts.
        models: what is known of them, in the order of the matrix.
        method: see :class:`klmap.embedding.Settings`, as for all that follow.
        metric: what t-SNE calls a distance.
        perplexity: of t-SNE.
        iterations: of t-SNE.
        seed: of the optimisation.

    Returns:
        One place per model in the order of ``models``.
    """
    settings = Settings(method, metric, perplexity, iterations, seed, dense_limit=len(models))
    points = points_of(matrix.loglik, matrix.clip_threshold, matrix.mean_bytes, matrix.design)
    plane = embedding.fresh(points, settings, order_of(models))
    return places_of(matrix.model, plane, settings.label(len(models)))


def continued(points: Floats, start: Floats, report: Report, seed: int) -> Floats:
    """A layout of other distances between the same models, begun at theirs and turned onto it.

    Args:
        points: (K, r) principal components, square root of bits per byte.
        start: (K, 2) the layout to begin with.
        report: how that was made.
        seed: of the optimisation.

    Returns:
        (K, 2) float64 places.
    """
    settings = Settings(
        method=report.method,
        metric=report.metric,
        perplexity=report.perplexity,
        iterations=report.iterations,
        seed=seed,
        dense_limit=len(points),
    )
    plane = embedding.continued(points, start, settings)
    scaled = settings.used(len(points)) != "pca"
    return alignment.onto(plane, np.arange(len(points)), start, scaled)


def sentence(described: Report) -> str:
    """What every map says of itself: how faithful it is, and how far its models moved."""
    words = [quality.sentence(described.quality)]
    if described.stable is not None:
        if described.reference:
            words.append(_beside(described.stable))
        else:
            words.append(alignment.sentence(described.stable))
    return " ".join(words)


def _beside(moved: Movement) -> str:
    """How a map lies beside that of all texts.

    Example: 898 models stand where they do on the map of all texts; 120 were placed among them.
    """
    one = moved.kept == 1
    words = f"{moved.kept:,} model{'' if one else 's'} stand{'s' if one else ''}"
    where = "where it does" if one else "where they do"
    if moved.largest:
        where = f"near where {'it does' if one else 'they do'}"
        where = f"{where} (median {100 * moved.median:.1f} % of the map's width away)"
    words = f"{words} {where} on the map of all texts"
    if moved.new:
        were = "was" if moved.new == 1 else "were"
        words += f"; {moved.new:,} {were} placed among {'it' if one else 'them'}"
    return f"{words}."


def order_of(models: Sequence[Model]) -> npt.NDArray[np.intp]:
    """(K,) rows by creation date and name: the order in which the methods take them."""
    keys = [(model.created_at, model.model) for model in models]
    return np.array(sorted(range(len(models)), key=keys.__getitem__), np.intp)


def points_of(
    loglik: Floats, threshold: float, mean_bytes: float, design: Design | None = None
) -> Floats:
    """All principal components of models in memory.

    Args:
        loglik: (K, N) raw log-likelihoods, nats.
        threshold: nats; lower values count as this one.
        mean_bytes: UTF-8 bytes per text, B.
        design: how these texts stand for those of a reference, if they do.

    Returns:
        (K, min(K, N)) float64, square root of bits per byte.
    """
    # One thread, because sums split over threads depend on their number.
    with threadpool_limits(1):
        q = geometry.double_centre(loglik, threshold, design)
        texts = None if design is None else design.texts
        return geometry.principal_components(geometry.features(q, mean_bytes, texts))


def places_of(names: Sequence[str], plane: Floats, method: str) -> list[Place]:
    """Places of (K, 2) coordinates, as exact as the table holds them: six digits."""
    return [
        Place(name, float(f"{x:.6g}"), float(f"{y:.6g}"), method)
        for name, (x, y) in zip(names, plane, strict=True)
    ]


def plane_of(places: Sequence[Place]) -> Floats:
    """(K, 2) float64 coordinates."""
    return np.array([(row.x, row.y) for row in places], np.float64).reshape(-1, 2)


def write_layout(path: Path, places: Sequence[Place]) -> None:
    """Write layout.tsv."""
    write_tsv(path, COLUMNS, ((row.model, row.x, row.y, row.method) for row in places))


def read_layout(path: Path, models: Sequence[Model]) -> list[Place]:
    """Read layout.tsv in the order of ``models``.

    Raises:
        InputError: the file is missing or broken, or does not place these models.
    """
    places = {row.model: row for row in read_places(path)}
    try:
        return [places[model.model] for model in models]
    except KeyError as error:
        raise InputError(f"{path}: {error} is missing; remove it and run again") from None


def read_places(path: Path) -> list[Place]:
    """Read layout.tsv, whichever models it has.

    Raises:
        InputError: the file is missing or broken.
    """
    try:
        return [
            Place(row["model"], float(row["x"]), float(row["y"]), row["method"])
            for row in read_tsv(path)
        ]
    except KeyError as error:
        raise InputError(f"{path}: {error} is missing; remove it and run again") from None
    except ValueError as error:
        raise InputError(f"{path}: {error}; remove it and run again") from None


def write_report(path: Path, report: Report) -> None:
    """Write layout.json."""
    found = asdict(report)
    if not report.reference:
        del found["reference"]
    write_json(path, found)


def read_report(path: Path) -> Report:
    """Read layout.json.

    Raises:
        InputError: the file is missing or broken, or lacks something.
    """
    found: dict[str, Any] = read_json(path)
    try:
        stable = found["stable"]
        found["stable"] = None if stable is None else Movement(**stable)
        found["quality"] = Quality(**found["quality"])
        return Report(**found)
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: {error}; remove it and run again") from None
