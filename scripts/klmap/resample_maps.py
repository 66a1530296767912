"""How much a map moves where its texts are chosen again, and where new models land.

That maps of repeated choices are turned onto one another and compared is as in Oyama et al., EMNLP
2025 Findings. klmap's own: a map is continued from the one that is there (as in ``bootstrap``), new
models are placed on it alone (``fixed``), and their ellipses come from one choice of the texts,
because that is all that is known of a model scored on a selection.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from klmap import alignment, bootstrap, fixed, geometry, layout
from klmap.arrays import Floats, Rows
from klmap.bootstrap import COVERAGE, half_axes
from klmap.embedding import FEWEST, Settings, family
from klmap.layout import Report
from klmap.log import Progress
from klmap.models_table import Model
from klmap.resample_draws import FIFTH, Kind, Reference, points_on
from klmap.resampling import Drawn

COMPARED = (Kind("ls", True), Kind("ls", False), Kind("uniform", True))
"""How texts are chosen where maps and places are compared, each at a fifth of the texts."""

NEIGHBORS = 10
"""Nearest models by which a new one is judged; fewer where that is more than half of them."""

MOST_NEW, FEWEST_NEW = 50, 3

_FEWEST_REPLICATES = 20
_PLACED = 1500
"""Places, about, that all replicates of one kind of choice may take."""


@dataclass(frozen=True)
class Stability:
    """Maps of one kind of choice.

    Attributes:
        kind: how texts are chosen; None for all N texts drawn again with replacement.
        n: draws, or texts where there is no replacement.
        texts: different texts, mean over the maps.
        radius: (K,) mean distance of a model's places from their mean, share of the map's width.
        ellipses: (K, 3) half axes in units of the map, and the angle of the longer one in degrees.
    """

    kind: Kind | None
    n: int
    texts: float
    radius: Floats
    ellipses: Floats


@dataclass(frozen=True)
class Landing:
    """Where one new model lands by some of the texts, and where by all.

    Attributes:
        row: of the matrix.
        kind: how the texts were chosen.
        texts: how many different ones.
        by_all: its place by all texts.
        by_some: its place by those chosen.
        distance: between the two, share of the map's width.
        ellipse: half axes in units of the map, and the angle of the longer one in degrees, around
            ``by_some``.
        within: whether ``by_all`` is inside.
        error: median relative error of the KL to its nearest models by all texts.
        kept: how many of these are among its nearest by the texts chosen.
        neighbors: how many nearest models there are.
    """

    row: int
    kind: Kind
    texts: int
    by_all: Floats
    by_some: Floats
    distance: float
    ellipse: Floats
    within: bool
    error: float
    kept: int
    neighbors: int


def stability(
    reference: Reference, plane: Floats, report: Report, maps: int, seed: int
) -> list[Stability]:
    """Maps of repeated choices of a fifth of the texts, and of all texts drawn again.

    Args:
        reference: the models on all texts.
        plane: (K, 2) their places on the map.
        report: how the map was made.
        maps: how many of each kind.
        seed: of the draws.

    Returns:
        One item for each of ``COMPARED``, then the set itself; nothing for less than two models.
    """
    if len(plane) < 2 or maps < 2:
        return []
    progress = Progress(maps * (len(COMPARED) + 1), "maps of some texts")
    side = alignment.width(plane) or 1.0
    result = []
    for kind in (*COMPARED, None):
        used = kind or Kind("uniform", True)
        n = _fifth(reference, used) if kind else reference.texts
        found, texts = np.empty((maps, *plane.shape)), []
        for number, drawn in enumerate(reference.several(used, n, seed, maps)):
            points = reference.points(drawn)
            if report.method == "pca":
                points = geometry.principal_components(points)
            found[number] = layout.continued(points, plane, report, report.seed)
            texts.append(len(drawn.index))
            progress.add(1)
        away = found - found.mean(axis=0)
        radius = np.linalg.norm(away, axis=2).mean(axis=0) / side
        axes = np.array([half_axes(np.cov(cloud.T)) for cloud in found.transpose(1, 0, 2)])
        result.append(Stability(kind, n, float(np.mean(texts)), radius, axes))
    progress.close()
    return result


def _fifth(reference: Reference, kind: Kind) -> int:
    """What to ask for a fifth of the texts, or for all that have any variance if they are fewer."""
    possible = int((reference.probability[kind.method] > 0).sum())
    wanted = max(1, min(round(FIFTH * reference.texts), possible - 1))
    return reference.number(kind, wanted)


def newest(models: Sequence[Model], share: float, seed: int) -> tuple[Rows, bool]:
    """Rows of the newest models, ascending, and whether their dates are known.

    Args:
        models: rows of models.tsv.
        share: of the models; at least ``FEWEST_NEW`` and at most ``MOST_NEW`` are taken, and so
            many stay that a map can be made of them.
        seed: by which they are drawn if fewer dates are known.
    """
    wanted = min(max(round(share * len(models)), FEWEST_NEW), MOST_NEW)
    wanted = max(0, min(wanted, len(models) - FEWEST))
    dated = [row for row, model in enumerate(models) if model.created_at]
    if len(dated) >= 2 * wanted:
        dated.sort(key=lambda row: (models[row].created_at, models[row].model))
        return np.sort(np.array(dated[len(dated) - wanted :], np.intp)), True
    drawn = np.random.default_rng((seed, 4)).permutation(len(models))[:wanted]
    return np.sort(drawn), False


def replicates(new: int, draws: int) -> int:
    """How many samples of the texts an ellipse is made of: as many as asked for, or time allows."""
    return min(draws, max(_FEWEST_REPLICATES, _PLACED // max(new, 1)))


def landings(
    loglik: Floats, new: Rows, quantile: float, mean_bytes: float, domain: Sequence[str],
    plane: Floats, report: Report, count: int, seed: int,
) -> list[Landing]:  # fmt: skip
    """Take models out of the reference, and place them by some texts and by all.

    Threshold, probabilities and order of the texts follow from the other models alone, which keep
    their places.

    Args:
        loglik: (K, N) raw log-likelihoods, nats.
        new: (n,) which models are taken out.
        quantile: share of the others' values below the clip threshold.
        mean_bytes: UTF-8 bytes per text, B.
        domain: N labels of the texts.
        plane: (K, 2) places on the map.
        report: how the map was made.
        count: samples of the texts behind an ellipse, from :func:`replicates`.
        seed: of the choice of texts and of the ellipses.

    Returns:
        One item for each kind of ``COMPARED`` and each new model; nothing where there are none, or
        where the map is not made by t-SNE: no other method places a model alone.
    """
    held = np.setdiff1d(np.arange(len(loglik)), new)
    if not len(new) or len(held) < FEWEST or family(report.method) != "tsne":
        return []
    threshold = geometry.clip_threshold(loglik[held], quantile)
    q = geometry.double_centre(loglik, threshold)
    try:
        reference = Reference.of(q[held], domain, mean_bytes)
    except ValueError:
        return []
    site = _Site(held, new, plane, Settings("tsne", report.metric, report.perplexity))
    everything = geometry.features(q, mean_bytes)
    by_all = site.places(everything, site.scale(everything))
    progress = Progress(len(COMPARED) * (count + 1), "placements of new models")
    result = []
    for kind in COMPARED:
        drawn = reference.drawn(kind, _fifth(reference, kind), seed, 0)
        points = points_on(q, drawn, drawn.design.times, mean_bytes)
        scale = site.scale(points)
        by_some = site.places(points, scale)
        progress.add(1)
        clouds = np.empty((count, *by_some.shape))
        for number in range(count):
            times = bootstrap.reweigh(drawn.design, seed, number)
            clouds[number] = site.places(points_on(q, drawn, times, mean_bytes), scale)
            progress.add(1)
        result += site.judged(kind, drawn, everything, points, by_all, by_some, clouds)
    progress.close()
    return result


@dataclass(frozen=True)
class _Site:
    """A map on which some models are held and others are placed."""

    held: Rows
    new: Rows
    plane: Floats
    settings: Settings

    def scale(self, points: Floats) -> float:
        return fixed.scale_of(points[self.held], self.plane[self.held], self.settings)

    def places(self, points: Floats, scale: float) -> Floats:
        held = self.plane[self.held]
        return fixed.place(points, self.held, held, self.settings, scale, quiet=True)[self.new]

    def kl(self, points: Floats) -> Floats:
        """(n, h) KL of the new models to those that are held, bits per byte."""
        held, new = points[self.held], points[self.new]
        squares = (new**2).sum(axis=1)[:, None] + (held**2).sum(axis=1) - 2 * new @ held.T
        return np.asarray(np.maximum(squares, 0), np.float64)

    def judged(
        self, kind: Kind, drawn: Drawn, everything: Floats, points: Floats,
        by_all: Floats, by_some: Floats, clouds: Floats,
    ) -> list[Landing]:  # fmt: skip
        true, found = self.kl(everything), self.kl(points)
        count = min(NEIGHBORS, max(1, len(self.held) // 2))
        side = alignment.width(self.plane) or 1.0
        result = []
        for number, row in enumerate(self.new):
            near = np.argsort(true[number], kind="stable")[:count]
            also = np.argsort(found[number], kind="stable")[:count]
            known = near[true[number, near] > 0]
            off = np.abs(found[number, known] / true[number, known] - 1)
            away = clouds[:, number] - by_some[number]
            covariance = away.T @ away / len(away)
            result.append(
                Landing(
                    int(row), kind, len(drawn.index), by_all[number], by_some[number],
                    float(np.linalg.norm(by_some[number] - by_all[number])) / side,
                    np.array(half_axes(covariance)),
                    inside(by_all[number] - by_some[number], covariance),
                    float(np.median(off)) if off.size else math.nan,
                    len(np.intersect1d(near, also)), count,
                )
            )  # fmt: skip
        return result


def inside(way: Floats, covariance: Floats) -> bool:
    """Whether a step from the centre ends in the 95 % ellipse of such places.

    Args:
        way: (2,) from the centre.
        covariance: (2, 2).
    """
    values, vectors = np.linalg.eigh(covariance)
    along = vectors.T @ way
    if (values <= 0).any():
        return bool((along[values <= 0] == 0).all())
    return bool((along**2 / values).sum() <= -2 * math.log(1 - COVERAGE))
