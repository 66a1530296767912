"""The bootstrap over texts: what another sample of texts of the same kind would have given.

A replicate draws N texts with replacement from the N of the text set (Efron 1979) and computes the
distances of all models anew: log-likelihoods are centred over the texts that were drawn, and KL is
their variance. Clip threshold and bytes per text stay those of the map, so that a replicate differs
from it by its texts alone. That the unit resampled is a text, and a tree or a map is what is
repeated, is klmap's own.

It measures the chance that lies in the choice of texts. It does not measure what texts of another
kind would show, the numerical noise of the scores (``noise_nats``), or what the second-order
approximation of the KL divergence leaves out. An ellipse says what another sample of texts would do
to this very picture: each replicate is continued from it, so groups stay where they are as long as
the distances allow. It does not say whether a fresh layout, of another seed or method, would have
put the groups elsewhere. The optimisation of t-SNE never ends at quite the same point, so that its
ellipses have half axes of some thousandths of the map's width even where texts decide nothing.

Where some texts stand for all, a replicate changes how often each one counts
(:meth:`klmap.design.Design.multipliers`): by the choice of the texts of the reference, and by what
a selection from these would have drawn. What the reference says of the models that were scored on
all texts stays, their places, ellipses and distances.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.linalg import eigh
from threadpoolctl import threadpool_limits

from klmap import embedding, fixed, geometry, layout
from klmap.arrays import Bools, Floats
from klmap.design import Design
from klmap.embedding import Settings
from klmap.errors import InputError
from klmap.files import read_tsv, write_tsv
from klmap.layout import Place, Report
from klmap.log import Progress
from klmap.models_table import Model
from klmap.store import Distances, Matrix

Counts = npt.NDArray[np.int64]

COLUMNS = ("model", "x", "y", "major", "minor", "angle")

COVERAGE = 0.95
"""Share of the places of a model that its ellipse holds, if they are normally distributed."""

_ROUNDING = 1e-12
_NEAREST = 5


def draw(n_texts: int, seed: int, replicate: int) -> Counts:
    """How often each text is drawn, N times in all, with replacement.

    Args:
        n_texts: number of texts, N.
        seed: of the whole bootstrap.
        replicate: number of the replicate from 0; it does not depend on how many there are.

    Returns:
        (N,) int64 that add up to N.
    """
    texts = np.random.default_rng([seed, replicate]).integers(0, n_texts, n_texts)
    return np.bincount(texts, minlength=n_texts).astype(np.int64)


def reweigh(design: Design, seed: int, replicate: int) -> Floats:
    """How many texts of the reference each text of a selection stands for in a replicate.

    Args:
        design: how the texts stand for those of the reference.
        seed: of the whole bootstrap.
        replicate: number of the replicate from 0.

    Returns:
        (d,) float64, in the mean ``design.times``.
    """
    return design.times * design.multipliers(np.random.default_rng([seed, replicate]))


def sample_points(
    q: Floats, counts: Counts | Floats, mean_bytes: float, texts: int | None = None
) -> Floats:
    """Coordinates of the models on texts that count as often as they were drawn.

    The squared distance of two models is their KL, as :func:`geometry.pairwise_kl` gives it for the
    columns ``np.repeat(arange(N), counts)``, centred anew. A text that was drawn ``w`` times stands
    here once, times ``sqrt(w)``; texts that were not drawn, a third of all, are left out.

    Args:
        q: (K, N) float64 nats per text, from :func:`geometry.double_centre` without a design; any
            constant that was taken out of a model or of a text cancels.
        counts: (N,) from :func:`draw`, or from :func:`reweigh`.
        mean_bytes: UTF-8 bytes per text, B.
        texts: number of texts that the counts stand for; by default their sum.

    Returns:
        (K, n) float64, square root of bits per byte, n being the number of different texts drawn.
    """
    drawn = np.flatnonzero(counts)
    times = counts[drawn].astype(np.float64)
    total = times.sum()
    points = q[:, drawn]
    points -= np.einsum("kn,n->k", points, times / total)[:, None]
    stand_for = total if texts is None else texts
    points *= np.sqrt(times / (2 * stand_for * geometry.nats_per_unit(mean_bytes)))
    return points


def kl_of_sample(
    q: Floats, counts: Counts | Floats, mean_bytes: float, texts: int | None = None
) -> Floats:
    """KL of all pairs of models on texts that count as often as they were drawn.

    Args:
        q: (K, N) float64 nats per text, as :func:`sample_points` takes it.
        counts: (N,) how often each text counts.
        mean_bytes: UTF-8 bytes per text, B.
        texts: number of texts that the counts stand for; by default their sum.

    Returns:
        (K, K) float64 in bits per byte; symmetric, 0 on the diagonal and where two models differ
        by rounding alone. Takes three such arrays of memory beside :func:`sample_points`.
    """
    points = sample_points(q, counts, mean_bytes, texts)
    kl = points @ points.T
    norm = np.diagonal(kl).copy()
    scale = norm[:, None] + norm[None, :]
    kl *= -2
    kl += scale
    kl[kl <= _ROUNDING * scale] = 0
    np.fill_diagonal(kl, 0)
    return np.asarray(kl, np.float64)


def replicates(
    matrix: Matrix, count: int, seed: int, distances: Distances | None = None
) -> Iterator[Floats]:
    """KL of all pairs in one replicate after another; progress is logged.

    Args:
        matrix: the models and texts.
        count: number of replicates.
        seed: of the whole bootstrap.
        distances: of the same models, with all pairs; used where some texts stand for all. Pairs
            of which they know more than these texts vary about that, by as many standard errors.

    Yields:
        (K, K) float64 in bits per byte, see :func:`kl_of_sample`.
    """
    q = geometry.double_centre(matrix.loglik, matrix.clip_threshold)
    known = _Known(matrix, distances) if distances is not None and matrix.design else None
    progress = Progress(count, "bootstrap samples")
    for replicate in range(count):
        kl = kl_of_sample(q, *_times(matrix, seed, replicate))
        yield kl if known is None else known.about(kl)
        progress.add(1)
    progress.close()


def _times(matrix: Matrix, seed: int, replicate: int) -> tuple[Counts | Floats, float, int]:
    """What a replicate makes of the texts, their mean size, and how many they stand for."""
    if matrix.design is None:
        return draw(matrix.texts, seed, replicate), matrix.mean_bytes, matrix.texts
    return reweigh(matrix.design, seed, replicate), matrix.mean_bytes, matrix.texts


class _Known:
    """Replicates of the KL of pairs of which more is known than the texts of a selection say.

    ``kl + (replicate - estimate) se / se_estimate``, at least 0: as many standard errors as the
    replicate is away from the estimate by these texts, it is away from the distance by all texts.
    Where the distance is the estimate itself, this changes nothing.
    """

    def __init__(self, matrix: Matrix, distances: Distances) -> None:
        q = geometry.double_centre(matrix.loglik, matrix.clip_threshold, matrix.design)
        self.estimate, error = geometry.pairwise_kl(q, matrix.mean_bytes, matrix.design)
        if distances.kl is None or distances.se is None or distances.kl.shape != error.shape:
            raise InputError("kl.h5 and matrix.h5 do not hold the same models; run again")
        self.kl = distances.kl
        self.share = np.divide(distances.se, error, out=np.ones_like(error), where=error > 0)

    def about(self, kl: Floats) -> Floats:
        """(K, K) float64 in bits per byte, of a replicate; ``kl`` is overwritten."""
        kl -= self.estimate
        kl *= self.share
        kl += self.kl
        return np.maximum(kl, 0, out=kl)


@dataclass(frozen=True)
class Ellipse:
    """One row of ellipses.tsv, in the units of the map.

    Attributes:
        model: its name.
        x: of the centre, which is the model's place on the map.
        y: of the centre.
        major: the longer half axis.
        minor: the shorter half axis.
        angle: of the longer one, degrees counter-clockwise from the x axis, from -90 to 90.
    """

    model: str
    x: float
    y: float
    major: float
    minor: float
    angle: float


def ellipses(
    matrix: Matrix,
    places: Sequence[Place],
    report: Report,
    count: int,
    seed: int,
    known: Mapping[str, Ellipse] | None = None,
) -> list[Ellipse]:
    """The 95 % ellipse of each model's place over replicates; progress is logged.

    In each replicate the layout is continued from the map with the replicate's distances, with the
    layout's own settings and seed, and turned onto the map; under ``pca`` it is projected anew. The
    covariance of a model's places gives its ellipse by the chi-square distribution with two degrees
    of freedom. It is centred on the model's place on the map: continuing a layout moves it a little
    even with the distances it was made of, and that is no uncertainty.

    On a map that holds the models of its reference in their places (``report.reference``, under
    t-SNE), these keep their ellipses too. In each replicate the others alone are placed among
    them, as they were on the map. Their covariance is taken about the place on the map, not about
    the mean of the replicates: where half of them land in another group the ellipse reaches it, and
    it always says something of the place that is shown. To that is added how far other texts would
    move the models among which it stands: the mean covariance of its nearest ones' own ellipses, by
    the law of total variance. So an added model is never surer than its surroundings (klmap's own).

    Args:
        matrix: the models and texts.
        places: the map, in the order of the matrix.
        report: how the map was made.
        count: number of replicates, at least two.
        seed: of the bootstrap.
        known: the ellipses of the reference, by model.

    Returns:
        One ellipse per model, in the order of the matrix.
    """
    held = _held(matrix.complete, places, known or {})
    if held.any() and report.reference and embedding.family(report.method) == "tsne":
        return _among(matrix, places, report, count, seed, known or {}, held)
    start = layout.plane_of(places)
    found = np.empty((count, *start.shape))
    progress = Progress(count, "bootstrap layouts")
    # One thread, because sums split over threads depend on their number.
    with threadpool_limits(1):
        q = geometry.double_centre(matrix.loglik, matrix.clip_threshold)
        for replicate in range(count):
            points = sample_points(q, *_times(matrix, seed, replicate))
            if report.method == "pca":
                points = _first_two(points)
            found[replicate] = layout.continued(points, start, report, report.seed)
            progress.add(1)
    progress.close()
    return [
        Ellipse(place.model, place.x, place.y, *half_axes(np.cov(cloud.T)))
        for place, cloud in zip(places, found.transpose(1, 0, 2), strict=True)
    ]


def _held(complete: Bools, places: Sequence[Place], known: Mapping[str, Ellipse]) -> Bools:
    """(K,) which models stand where the reference has them."""
    found = [known.get(place.model) for place in places]
    same = [
        row is not None and (row.x, row.y) == (place.x, place.y)
        for row, place in zip(found, places, strict=True)
    ]
    return complete & np.array(same, np.bool_)


def _among(
    matrix: Matrix,
    places: Sequence[Place],
    report: Report,
    count: int,
    seed: int,
    known: Mapping[str, Ellipse],
    held: Bools,
) -> list[Ellipse]:
    """Ellipses on a map of which some models are held."""
    start = layout.plane_of(places)
    settings = Settings(report.method, report.metric, report.perplexity)
    new, targets = ~held, start[held]
    spread = np.zeros((len(start), 2, 2))
    theirs = np.stack(
        [_covariance(known[places[row].model]) for row in map(int, np.flatnonzero(held))]
    )
    progress = Progress(count, "bootstrap layouts")
    # One thread, because sums split over threads depend on their number.
    with threadpool_limits(1):
        design, threshold = matrix.design, matrix.clip_threshold
        points = layout.points_of(matrix.loglik, threshold, matrix.mean_bytes, design)
        scale = fixed.scale_of(points[held], targets, settings)
        order = np.argsort(_squares(points[new], points[held]), axis=1, kind="stable")
        spread[new] = theirs[order[:, :_NEAREST]].mean(axis=1)
        q = geometry.double_centre(matrix.loglik, threshold)
        for replicate in range(count):
            points = sample_points(q, *_times(matrix, seed, replicate))
            squared = _squares(points[new], points[held])
            away = fixed.among(squared, targets, settings, scale) - start[new]
            spread[new] += away[:, :, None] * away[:, None, :] / count
            progress.add(1)
    progress.close()
    return [
        known[place.model] if kept else Ellipse(place.model, place.x, place.y, *half_axes(about))
        for place, kept, about in zip(places, held, spread, strict=True)
    ]


def _squares(points: Floats, others: Floats) -> Floats:
    """(m, n) squared distances of some points from some others."""
    found = points @ others.T
    found *= -2
    found += np.einsum("kn,kn->k", points, points)[:, None]
    found += np.einsum("kn,kn->k", others, others)
    return np.asarray(np.maximum(found, 0, out=found), np.float64)


def _first_two(points: Floats) -> Floats:
    """The first two principal components of points that are centred, up to their signs."""
    last = len(points) - 1
    values, vectors = eigh(points @ points.T, subset_by_index=(max(last - 1, 0), last))
    return np.asarray(vectors[:, ::-1] * np.sqrt(np.maximum(values[::-1], 0)), np.float64)


def half_axes(covariance: Floats) -> tuple[float, float, float]:
    """Half axes, and the angle of the longer one in degrees, of the 95 % ellipse.

    Args:
        covariance: (2, 2) of places that are normally distributed.
    """
    values, vectors = np.linalg.eigh(covariance)
    minor, major = np.sqrt(-2 * math.log(1 - COVERAGE) * np.maximum(values, 0))
    along = vectors[:, 1] * (1 if vectors[0, 1] >= 0 else -1)
    return float(major), float(minor), math.degrees(math.atan2(along[1], along[0]))


def _covariance(ellipse: Ellipse) -> Floats:
    """The (2, 2) covariance that an ellipse was made from."""
    angle = math.radians(ellipse.angle)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    squares = np.square([ellipse.major, ellipse.minor]) / (-2 * math.log(1 - COVERAGE))
    return np.asarray(turn @ np.diag(squares) @ turn.T, np.float64)


def write_ellipses(path: Path, rows: Sequence[Ellipse]) -> None:
    """Write ellipses.tsv."""
    write_tsv(path, COLUMNS, [astuple(row) for row in rows])


def read_rows(path: Path) -> dict[str, Ellipse]:
    """Read ellipses.tsv, whichever models it has, by model.

    Raises:
        InputError: the file is missing or broken.
    """
    try:
        return {
            row["model"]: Ellipse(row["model"], *(float(row[key]) for key in COLUMNS[1:]))
            for row in read_tsv(path)
        }
    except KeyError as error:
        raise InputError(f"{path}: {error} is missing; remove it and run again") from None
    except ValueError as error:
        raise InputError(f"{path}: {error}; remove it and run again") from None


def read_ellipses(path: Path, models: Sequence[Model]) -> list[Ellipse]:
    """Read ellipses.tsv in the order of ``models``.

    Raises:
        InputError: the file is missing or broken, or has not these models.
    """
    rows = read_rows(path)
    try:
        return [rows[model.model] for model in models]
    except KeyError as error:
        raise InputError(f"{path}: {error} is missing; remove it and run again") from None
