"""Distances of a whole matrix, and the table of each model's nearest models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from klmap import geometry
from klmap import nearest as search
from klmap.arrays import Bools, Floats, Floats32
from klmap.components import principal
from klmap.errors import InputError
from klmap.files import read_tsv, write_tsv
from klmap.log import logger
from klmap.models_table import Model
from klmap.nearest import Found
from klmap.store import Distances, Matrix, MatrixFile

COLUMNS = ("model", "rank", "neighbor", "kl", "se", "flags")

BEYOND = "beyond"
"""Flag: the estimate is above 8 bits per byte, outside the range where it is a KL."""

BELOW_NOISE = "below_noise"
"""Flag: the estimate is below the numerical noise of the two scores."""


@dataclass(frozen=True)
class Neighbor:
    """One row of neighbors.tsv.

    Attributes:
        model: the model whose neighbour this is.
        rank: 1 for the nearest.
        neighbor: the neighbour's name.
        kl: bits per byte.
        se: standard error of ``kl`` over texts, bits per byte.
        flags: ``beyond``, ``below_noise``, or none.
    """

    model: str
    rank: int
    neighbor: str
    kl: float
    se: float
    flags: tuple[str, ...] = ()


def measure(
    matrix: Matrix | MatrixFile,
    count: int,
    dense_limit: int,
    reference: Distances | None = None,
) -> tuple[Distances, geometry.Neighbors]:
    """All distances of a matrix, in bits per byte, and which of them its numerical errors hide.

    Up to ``dense_limit`` models all is computed from the clipped float64 log-likelihoods. Above
    it neighbours are searched among the float32 coordinates, the only array of K x N numbers in
    memory then, and their distances are computed from differences of these.

    Where the texts stand for those of a reference, a KL is an estimate of that over all texts
    of the reference, and its error holds the choice of the texts too. What is known better is
    not estimated: two models that were both scored on all texts keep the KL and the error that
    they have there. Taking these over is klmap's own.

    Args:
        matrix: the models and texts.
        count: neighbours of each model.
        dense_limit: up to this many models all pairs are kept, above it only neighbours.
        reference: distances of the models that were scored on all texts of the reference. Used
            up to the dense limit, and where they hold all pairs.

    Raises:
        InputError: the distances are not of the reference of this matrix.
    """
    models, texts, mean_bytes = len(matrix.model), len(matrix.domain), matrix.mean_bytes
    design, number = matrix.design, matrix.texts
    kl = se = None
    if models <= dense_limit:
        loglik = matrix.loglik if isinstance(matrix, Matrix) else matrix.loglik(0, models)
        q = geometry.double_centre(loglik, matrix.clip_threshold, design)
        components = principal(
            lambda begin, end: q[begin:end], models, texts, mean_bytes, reference=number
        )
        kl, se = geometry.pairwise_kl(q, mean_bytes, design)
        if reference is not None:
            _take_over(matrix, reference, kl, se)
        found = Found(geometry.nearest(kl, se, count), 1.0, models)
    else:
        low = matrix.coordinates if isinstance(matrix, Matrix) else matrix.coordinates(0, models)
        components = principal(
            lambda begin, end: low[begin:end], models, texts, mean_bytes, reference=number
        )
        found = search.nearest(low, components, mean_bytes, count, design)
    nearest, noise = found.neighbors, matrix.noise
    distances = Distances(
        model=matrix.model,
        neighbor_index=nearest.index,
        neighbor_kl=nearest.kl,
        kl=kl,
        se=se,
        texts_sha256=matrix.texts_sha256,
        n_texts=number,
        mean_bytes=mean_bytes,
        noise=noise,
        neighbor_below_noise=geometry.below_noise(nearest.kl, noise, mean_bytes, nearest.index),
        below_noise=None if kl is None else geometry.below_noise(kl, noise, mean_bytes),
        pca_points=components.points,
        pca_residual=components.residual,
        pca_variance=components.variance,
        total_variance=components.total_variance,
        recall=found.recall,
        recall_sample=found.sample,
    )
    return distances, nearest


def _take_over(matrix: Matrix | MatrixFile, reference: Distances, kl: Floats, se: Floats32) -> None:
    """Put what a reference knows of pairs of its models in place of what some texts say."""
    # Sizes of texts and not hashes, because the texts of the two are not the same.
    found = reference.n_texts, reference.mean_bytes
    if found != (matrix.texts, matrix.mean_bytes):
        raise InputError(
            f"kl.h5 of the reference is of {found[0]} texts of {found[1]:g} bytes, the selection "
            f"stands for {matrix.texts} of {matrix.mean_bytes:g}; remove the selection's matrix.h5 "
            "and run again"
        )
    if reference.kl is None or reference.se is None:
        return
    place = {model: row for row, model in enumerate(reference.model)}
    rows = [
        row
        for row, (model, complete) in enumerate(zip(matrix.model, matrix.complete, strict=True))
        if complete and model in place
    ]
    there = [place[matrix.model[row]] for row in rows]
    kl[np.ix_(rows, rows)] = reference.kl[np.ix_(there, there)]
    se[np.ix_(rows, rows)] = reference.se[np.ix_(there, there)]
    logger.info("%d of %d models keep the distances of the reference", len(rows), len(kl))


def table(
    nearest: geometry.Neighbors, models: Sequence[Model], below_noise: Bools
) -> list[Neighbor]:
    """The rows of neighbors.tsv.

    Args:
        nearest: row indices into ``models``.
        models: in the order of the matrix.
        below_noise: (K, k) which of the neighbours are below the noise of the two scores, from
            :func:`measure`.
    """
    rows = []
    for model, *found in zip(
        models, nearest.index, nearest.kl, nearest.se, below_noise, strict=True
    ):
        for rank, (other, kl, se, below) in enumerate(zip(*found, strict=True), start=1):
            name = models[int(other)].model
            flags = tuple(_flags(float(kl), bool(below)))
            rows.append(Neighbor(model.model, rank, name, float(kl), float(se), flags))
    beyond = {row.model for row in rows if BEYOND in row.flags and row.rank == 1}
    for name in sorted(beyond):
        logger.warning("%s: even its nearest model is above %g bits/byte", name, geometry.BEYOND)
    return rows


def _flags(kl: float, below_noise: bool) -> Iterator[str]:
    if kl > geometry.BEYOND:
        yield BEYOND
    if below_noise:
        yield BELOW_NOISE


def write_neighbors(path: Path, rows: Sequence[Neighbor]) -> None:
    """Write neighbors.tsv; ``flags`` are joined by commas."""
    cells = ((r.model, r.rank, r.neighbor, r.kl, r.se, ",".join(r.flags)) for r in rows)
    write_tsv(path, COLUMNS, cells)


def read_neighbors(path: Path) -> list[Neighbor]:
    """Read neighbors.tsv.

    Raises:
        InputError: the file is missing, a column is missing, or a number is none.
    """
    try:
        return [
            Neighbor(
                row["model"],
                int(row["rank"]),
                row["neighbor"],
                float(row["kl"]),
                float(row["se"]),
                tuple(flag for flag in row["flags"].split(",") if flag),
            )
            for row in read_tsv(path)
        ]
    except (KeyError, ValueError) as error:
        raise InputError(f"{path}: {error} is missing or no number; remove it and run again") from (
            None
        )
