"""A place on the plane for every model: t-SNE or principal components of the coordinates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from klmap import geometry
from klmap.collect import Model
from klmap.errors import InputError
from klmap.files import read_tsv, write_tsv
from klmap.geometry import Floats
from klmap.log import logger
from klmap.store import Matrix

COLUMNS = ("model", "x", "y", "method")

FEWEST_FOR_TSNE = 5
"""Below this many models neighbourhoods mean nothing and principal components say it all."""

_INITIAL_SPREAD = 1e-4


@dataclass(frozen=True)
class Place:
    """One row of layout.tsv."""

    model: str
    x: float
    y: float
    method: str


def place(
    matrix: Matrix,
    models: Sequence[Model],
    method: Literal["tsne", "pca"] = "tsne",
    metric: Literal["euclidean", "sqeuclidean"] = "euclidean",
    perplexity: float = 30,
    iterations: int = 1000,
    seed: int = 42,
) -> list[Place]:
    """Place every model on the plane; the same input gives the same bits.

    Rows enter t-SNE by (created_at, name), it starts from the principal components, and
    everything runs in one thread, because sums split over threads depend on their number.

    Args:
        matrix: the models and texts.
        models: what is known of them, in the order of the matrix.
        method: ``tsne``, or ``pca``; fewer than five models are always placed by ``pca``.
        metric: ``euclidean``, the square root of KL (Kishino et al. 2026); or ``sqeuclidean``,
            KL itself as in the published map (Oyama et al. 2025). t-SNE squares either.
        perplexity: t-SNE perplexity, lowered to (K - 1) / 3 where there are few models.
        iterations: t-SNE iterations.
        seed: t-SNE's random state.

    Returns:
        One place per model in the order of ``models``.
    """
    names = [model.model for model in models]
    with threadpool_limits(1):
        q = geometry.double_centre(matrix.loglik, matrix.clip_threshold)
        points = geometry.principal_components(geometry.features(q, matrix.mean_bytes))
        order = sorted(range(len(models)), key=lambda row: (models[row].created_at, names[row]))
        if method == "pca" or len(models) < FEWEST_FOR_TSNE:
            plane, used = _first_two(points), "pca"
        else:
            plane = np.empty((len(models), 2))
            plane[order] = _tsne(points[order], metric, perplexity, iterations, seed)
            used = f"tsne-{metric}"
    logger.info("%d models placed by %s", len(models), used)
    return [
        Place(name, float(x), float(y), used) for name, (x, y) in zip(names, plane, strict=True)
    ]


def _tsne(points: Floats, metric: str, perplexity: float, iterations: int, seed: int) -> Floats:
    start = _first_two(points)
    spread = start[:, 0].std()
    tsne = TSNE(
        perplexity=min(perplexity, (len(points) - 1) / 3),
        learning_rate="auto",
        max_iter=iterations,
        init=(start / spread * _INITIAL_SPREAD if spread > 0 else start).astype(np.float32),
        metric=metric,
        random_state=seed,
        n_jobs=1,
    )
    return np.asarray(tsne.fit_transform(points), np.float64)


def _first_two(components: Floats) -> Floats:
    plane = np.zeros((len(components), 2))
    width = min(2, components.shape[1])
    plane[:, :width] = components[:, :width]
    return plane


def write_layout(path: Path, places: Sequence[Place]) -> None:
    """Write layout.tsv."""
    write_tsv(path, COLUMNS, ((row.model, row.x, row.y, row.method) for row in places))


def read_layout(path: Path, models: Sequence[Model]) -> list[Place]:
    """Read layout.tsv in the order of ``models``.

    Raises:
        InputError: the file is missing or broken, or does not place these models.
    """
    try:
        places = {
            row["model"]: Place(row["model"], float(row["x"]), float(row["y"]), row["method"])
            for row in read_tsv(path)
        }
        return [places[model.model] for model in models]
    except KeyError as error:
        raise InputError(f"{path}: {error} is missing; remove it and run again") from None
    except ValueError as error:
        raise InputError(f"{path}: {error}; remove it and run again") from None
