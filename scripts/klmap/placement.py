"""Layouts that stay: every model is placed near the place that it had before.

The layout that is there is where the next one begins: models that it has start at their places,
new ones among their nearest. All are then moved by the layout method, and the result is turned
onto the old places. Nothing moves where nothing has changed. The procedure is klmap's own.

The map of a text selection has no past of its own. It goes on from the map of all texts: models
that were scored on all of them keep their places there, under t-SNE to the last digit, and the
others are placed among them (:mod:`klmap.fixed`).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from klmap import alignment, embedding, fixed, layout, quality
from klmap.alignment import Movement
from klmap.arrays import Bools, Floats
from klmap.embedding import Settings
from klmap.errors import InputError
from klmap.files import sha256_of
from klmap.layout import Place, Report
from klmap.log import logger
from klmap.models_table import Model
from klmap.quality import Quality
from klmap.store import Distances, MatrixFile

ASKED_FOR = "it was asked for"
FIRST = "it is the first of this text set"

_FEWEST_KEPT = 3
"""Fewer places say nothing of where the other models belong."""

_NEAREST_OLD = 5
_JITTER = 1e-3
_LEAST_KL = 1e-12
_HASHED_ROWS = 256


@dataclass(frozen=True)
class Cloud:
    """What is to be placed.

    Attributes:
        names: K models.
        points: (K, r) float64 principal components, square root of bits per byte.
        order: (K,) rows by creation date and name.
        texts_sha256: hash of the text set.
        digest: hash of names, order, log-likelihoods and clip threshold.
        vectors: K hashes of each model's log-likelihoods, 16 hexadecimal digits.
    """

    names: list[str]
    points: Floats
    order: npt.NDArray[np.intp]
    texts_sha256: str
    digest: str
    vectors: list[str]


@dataclass(frozen=True)
class Previous:
    """The layout that is there.

    Attributes:
        places: coordinates by model.
        report: how they were made.
        reference: whether it is that of all texts, and what is to be placed has some of them.
    """

    places: dict[str, tuple[float, float]]
    report: Report
    reference: bool = False


@dataclass(frozen=True)
class Layout:
    """A finished layout.

    Attributes:
        places: in the order of the models.
        movement: how it differs from the one before; None if it is fresh.
        reason: why it is fresh; empty if it is not.
        reference: SHA-256 of the layout of all texts that it goes on from, if it does from one.
    """

    places: list[Place]
    movement: Movement | None
    reason: str
    reference: str = ""


def cloud(
    matrix: MatrixFile, distances: Distances, models: Sequence[Model], dense_limit: int
) -> Cloud:
    """The models as points: from the log-likelihoods or, of very many models, from kl.h5.

    Args:
        matrix: models and texts; read by rows.
        distances: of the same models.
        models: what is known of them, in the order of the matrix.
        dense_limit: above this many models the principal components of ``distances`` are used.

    Raises:
        InputError: kl.h5 is of other models, or has no principal components where they are needed.
    """
    if (distances.model, distances.texts_sha256) != (matrix.model, matrix.texts_sha256):
        raise InputError(f"{matrix.path}: kl.h5 beside it is of other models or texts; remove both")
    order = layout.order_of(models)
    digest = hashlib.sha256(json.dumps([matrix.model, order.tolist()]).encode())
    digest.update(repr(matrix.clip_threshold).encode())
    if matrix.design is not None:
        digest.update(matrix.selection.encode())
    dense = len(models) <= dense_limit
    vectors: list[str] = []
    loglik = np.zeros((len(models) if dense else 0, len(matrix.domain)))
    for begin in range(0, len(models), _HASHED_ROWS):
        block = matrix.loglik(begin, begin + _HASHED_ROWS)
        digest.update(block.tobytes())
        vectors += [hashlib.sha256(row.tobytes()).hexdigest()[:16] for row in block]
        if dense:
            loglik[begin : begin + _HASHED_ROWS] = block
    if dense:
        points = layout.points_of(loglik, matrix.clip_threshold, matrix.mean_bytes, matrix.design)
    elif distances.pca_points is not None:
        points = distances.pca_points.astype(np.float64)
    else:
        raise InputError(
            f"kl.h5 beside {matrix.path} has no principal components, which so many models "
            f"({len(models):,}, above dense_limit) need; remove kl.h5 and run again"
        )
    return Cloud(matrix.model, points, order, matrix.texts_sha256, digest.hexdigest(), vectors)


def previous(table: Path, report: Path) -> Previous | str:
    """The layout that is there, or why there is none to begin with.

    A pair of files that is broken, or does not belong together, is no error: it is said in the
    log, and the next layout is fresh.

    Args:
        table: layout.tsv.
        report: layout.json.
    """
    if not table.exists() and not report.exists():
        return FIRST
    try:
        found = layout.read_report(report)
        rows = layout.read_places(table)
    except (InputError, OSError) as error:
        return _warned(str(error).partition("; ")[0])
    if sha256_of(table) != found.table:
        return _warned(f"{table} is not the table that {report} was written for")
    finite = [row for row in rows if math.isfinite(row.x) and math.isfinite(row.y)]
    if len(finite) < len(rows):
        logger.warning("%s: %d models have no place", table, len(rows) - len(finite))
    return Previous({row.model: (row.x, row.y) for row in finite}, found)


def reference(table: Path, report: Path, models: Sequence[str], complete: Bools) -> Previous | str:
    """The layout of all texts as what that of some of them goes on from.

    A model that was not scored on all texts has no place there that would be its own, even where
    one bears its name.

    Args:
        table: layout.tsv of the reference.
        report: layout.json of the reference.
        models: K names of what is to be placed.
        complete: (K,) whether each was scored on all texts.

    Returns:
        It, or why there is none to go on from.
    """
    found = previous(table, report)
    if isinstance(found, str):
        return f"{table}: no such file" if found == FIRST else found
    partial = {name for name, all_texts in zip(models, complete, strict=True) if not all_texts}
    places = {name: place for name, place in found.places.items() if name not in partial}
    return Previous(places, found.report, reference=True)


def _warned(reason: str) -> str:
    logger.warning("the layout before cannot be continued: %s", reason)
    return reason


def make(found: Cloud, settings: Settings, before: Previous | str) -> Layout:
    """The layout of the models, continued from the one before where that can be.

    Args:
        found: the models.
        settings: how.
        before: the layout that is there, or why there is none to continue.
    """
    reason = before if isinstance(before, str) else _differs(found, settings, before)
    if isinstance(before, str) or reason:
        plane = embedding.fresh(found.points, settings, found.order)
        logger.info("%d models placed afresh: %s", len(plane), reason)
        return Layout(_named(found, settings, plane), None, reason)
    if before.reference:
        return replace(_continued(found, settings, before), reference=before.report.table)
    if before.report.input == _input(found, settings) and before.places.keys() == set(found.names):
        logger.info("nothing has changed, so nothing moves")
        plane = np.array([before.places[name] for name in found.names])
        return Layout(_named(found, settings, plane), before.report.stable, before.report.reason)
    return _continued(found, settings, before)


def _differs(found: Cloud, settings: Settings, before: Previous) -> str:
    """Why a layout cannot begin at the one before; empty if it can."""
    report, used = before.report, settings.used(len(found.names))
    if report.texts_sha256 != found.texts_sha256 and not before.reference:
        return "the one before is of another text set"
    if embedding.family(report.method) != embedding.family(used):
        return f"the one before was made by {report.method}, this one by {used}"
    kept = [before.places[name] for name in found.names if name in before.places]
    if used == "pca":
        return "" if kept else "the one before has none of these models"
    for name in ("metric", "perplexity", "seed"):
        then, now = getattr(report, name), getattr(settings, name)
        if then != now and before.reference:
            logger.warning(
                "the layout of all texts was made with %s %s, models are placed on it with %s",
                name, then, now,
            )  # fmt: skip
        elif then != now:
            return f"the one before was made with {name} {then}, this one with {now}"
    if len(set(kept)) < _FEWEST_KEPT:
        return f"the one before has only {len(set(kept))} places of these models"
    return ""


def _continued(found: Cloud, settings: Settings, before: Previous) -> Layout:
    models = len(found.names)
    rows, targets = _kept(found, before)
    same = np.full(len(rows), before.reference)
    if settings.fixed and not before.reference:
        same = _unchanged(found, before, rows)
    if same.any() and embedding.family(settings.used(models)) == "tsne":
        plane = fixed.place(found.points, rows[same], targets[same], settings)
        return _moved(found, settings, before, plane)
    # Where most models are new it is another map, which takes the time of a fresh one.
    mostly_new = 2 * len(rows) < models
    plane = embedding.continued(
        found.points,
        _start(found.points, rows, targets, before, settings.seed),
        settings,
        found.order,
        settings.iterations if mostly_new else embedding.CONTINUED,
    )
    plane = alignment.onto(plane, rows, targets, scaled=settings.used(models) != "pca")
    return _moved(found, settings, before, plane)


def _unchanged(found: Cloud, before: Previous, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.bool_]:
    """Which of some models have the log-likelihoods by which they were placed before."""
    known = before.report.vectors
    return np.array([known.get(found.names[row]) == found.vectors[row] for row in rows], np.bool_)


def _moved(found: Cloud, settings: Settings, before: Previous, plane: Floats) -> Layout:
    places = _named(found, settings, plane)
    rows, targets = _kept(found, before)
    gone = len(before.places.keys() - set(found.names))
    moved = alignment.movement(layout.plane_of(places), rows, targets, gone)
    logger.info("%s", alignment.sentence(moved))
    return Layout(places, moved, "")


def _kept(found: Cloud, before: Previous) -> tuple[npt.NDArray[np.intp], Floats]:
    """(n,) rows of the models that were placed before, and (n, 2) where."""
    rows = np.array([row for row, name in enumerate(found.names) if name in before.places], np.intp)
    return rows, np.array([before.places[found.names[row]] for row in rows], np.float64)


def _start(
    points: Floats, rows: npt.NDArray[np.intp], targets: Floats, before: Previous, seed: int
) -> Floats:
    """(K, 2) old models at their places, new ones at the weighted mean of their nearest.

    The weights are one over KL. A small random step tells new models apart that have the same
    nearest, or are the same.
    """
    start = np.zeros((len(points), 2))
    start[rows] = targets
    new = np.setdiff1d(np.arange(len(points)), rows)
    if new.size:
        count = min(_NEAREST_OLD, len(rows))
        index, distance = embedding.nearest(points[new], points[rows], count)
        weights = 1 / np.maximum(distance**2, _LEAST_KL)
        weights /= weights.sum(axis=1, keepdims=True)
        side = alignment.width(np.array(list(before.places.values())))
        step = np.random.default_rng(seed).normal(0, _JITTER * side, (len(new), 2))
        start[new] = np.einsum("nk,nkd->nd", weights, targets[index]) + step
    return start


def _named(found: Cloud, settings: Settings, plane: Floats) -> list[Place]:
    return layout.places_of(found.names, plane, settings.label(len(plane)))


def _input(found: Cloud, settings: Settings) -> str:
    """Hash of all that places follow from, but the layout before."""
    relevant = json.dumps(settings.relevant(len(found.names)), sort_keys=True)
    return hashlib.sha256(f"{found.digest} {found.texts_sha256} {relevant}".encode()).hexdigest()


def measured(made: Layout, distances: Distances) -> Quality:
    """How faithful a layout is to the distances, of all pairs or by principal components.

    Raises:
        InputError: kl.h5 has neither.
    """
    divergence = quality.divergence_of(distances)
    if divergence is None:
        raise InputError(
            "kl.h5 has neither all pairs nor principal components; remove it and run again"
        )
    return quality.measure(divergence, layout.plane_of(made.places))


def write(
    made: Layout, found: Cloud, settings: Settings, faithful: Quality, table: Path, report: Path
) -> None:
    """Write layout.tsv and then layout.json, which names it by hash.

    Args:
        made: the layout.
        found: the models that it places.
        settings: how it was made.
        faithful: how faithful it is.
        table: layout.tsv.
        report: layout.json.
    """
    layout.write_layout(table, made.places)
    described = Report(
        texts_sha256=found.texts_sha256,
        method=settings.used(len(found.names)),
        metric=settings.metric,
        perplexity=settings.perplexity,
        seed=settings.seed,
        iterations=settings.iterations,
        input=_input(found, settings),
        table=sha256_of(table),
        quality=faithful,
        stable=made.movement,
        reason=made.reason,
        vectors=dict(zip(found.names, found.vectors, strict=True)),
        reference=made.reference,
    )
    layout.write_report(report, described)
    logger.info("%s", layout.sentence(described))
