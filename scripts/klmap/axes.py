"""The principal axes of a map: what varies between its models, which texts and scores go with it.

Principal components of the coordinates Q (Oyama et al. 2025, section 3), in units in which a
squared distance is a KL divergence in bits per byte. Of the published map 42 components reach
90 % of the variance, 82 reach 95 % (section 4). Texts and domains at the ends of the axes are
klmap's own.

An axis has no sign of its own. Here the model that lies farthest from the middle of an axis is at
its high end; among models equally far it is the first. Texts at the high end are those on which
models at the high end do well, beside how well they do on all texts.

Of a selection, whose texts stand for those of a reference (:mod:`klmap.design`), variances, places
and shares are estimates of those over all N texts. A loading is that of the text itself, as it
would be among all N, and not times its weight: a text that was drawn often is not more extreme.
That is klmap's own, like the effective number of texts of a domain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from klmap import code_lengths, components, correlation, geometry
from klmap.arrays import Floats, Floats32
from klmap.benchmarks import Benchmarks
from klmap.blocks import ranges
from klmap.design import Design
from klmap.files import write_tsv
from klmap.log import logger
from klmap.models_table import Model
from klmap.split import Domains
from klmap.store import MatrixFile
from klmap.texts import Text, excerpt

EXACT_MODELS = 5000
"""Above this many models the components are those of :mod:`klmap.components`, 128 at most."""

TOLD = 0.99
"""Share of the variance up to which components are listed."""

FEWEST = 3
"""Models with a score without which a correlation is not computed."""

_COLUMNS = 2048
_EQUAL = 1e-6
_NOTHING = 1e-12


@dataclass(frozen=True)
class Axes:
    """The first C principal axes of K models on N texts.

    Attributes:
        points: (K, C) float64, places of the models, square root of bits per byte.
        loadings: (N, C) float64, directions of length 1 among the texts; of a selection, its texts'
            entries in directions among all texts of the reference.
        variance: (M,) float64, mean square of the models' places on each component, bits per
            byte, falling; up to 99 % of the total or C, or as many as were computed. The mean KL of
            two models, a model and itself included, is twice the sum over all components.
        total: of all components, bits per byte.
        exact: whether all components were computed.
        design: how these texts stand for those of a reference, if they do.
    """

    points: Floats
    loadings: Floats
    variance: Floats
    total: float
    exact: bool
    design: Design | None = None

    @property
    def shares(self) -> Floats:
        """(M,) share of the total variance of each component."""
        return self.variance / (self.total or 1.0)

    def reaching(self, share: float) -> int | None:
        """How many components reach a share of the variance; None if those listed do not."""
        sums = np.cumsum(self.shares)
        enough = np.flatnonzero(sums >= share * (1 - _NOTHING))
        return int(enough[0]) + 1 if len(enough) else None


@dataclass(frozen=True)
class Correlations:
    """How F features of the models go with T benchmark tasks.

    Attributes:
        features: F names: ``mean_loglik``, ``mean_loglik: <domain>`` and ``axis<number>``.
        tasks: T names.
        models: (F, T) how many models have both.
        pearson: (F, T), NaN with fewer than three models or where one of the two is constant.
        spearman: (F, T), the same of ranks.
    """

    features: list[str]
    tasks: list[str]
    models: npt.NDArray[np.intp]
    pearson: Floats
    spearman: Floats


def find(matrix: MatrixFile, count: int) -> Axes:
    """Principal components of the models of a map.

    Up to 5,000 models they are exact, from the products of all models with each other.

    Args:
        matrix: K models and N texts; the coordinates are held in memory as float32.
        count: how many axes to keep; there are fewer where fewer models or texts vary.
    """
    models, texts = len(matrix.model), len(matrix.domain)
    exact = models <= EXACT_MODELS
    if exact:
        values, vectors, total = _exact(matrix)
    else:
        found = components.principal(
            matrix.coordinates, models, texts, matrix.mean_bytes, reference=matrix.texts
        )
        values, total = found.variance, found.total_variance
        vectors = np.asarray(found.points[:, :count], np.float64)
    real = int((values > _NOTHING * max(total, _NOTHING)).sum())
    told = np.cumsum(values[:real])
    listed = min(int((told < TOLD * total).sum()) + 1, real)
    kept = min(count, real)
    points = _signed(vectors[:, :kept])
    loadings = _directions(matrix, points)
    logger.info("%d axes hold %.1f %% of the variance", kept, 100 * values[:kept].sum() / total
                if total else 0.0)  # fmt: skip
    variance = np.asarray(values[: max(listed, kept)])
    return Axes(points, loadings, variance, total, exact, matrix.design)


def _exact(matrix: MatrixFile) -> tuple[Floats, Floats, float]:
    """Variances, places on all components, and the sum of the variances."""
    models, texts = len(matrix.model), len(matrix.domain)
    coordinates = np.empty((models, texts), np.float32)
    for begin, end in ranges(models, coordinates.itemsize * texts):
        coordinates[begin:end] = matrix.coordinates(begin, end)
    products = np.zeros((models, models))
    for begin in range(0, texts, _COLUMNS):
        block = coordinates[:, begin : begin + _COLUMNS].astype(np.float64)
        products += block @ block.T
    # The scale of klmap.geometry.features, squared, and a mean over the models.
    products /= 2 * matrix.texts * geometry.nats_per_unit(matrix.mean_bytes) * models
    values, vectors = np.linalg.eigh(products)
    values = np.maximum(values[::-1], 0)
    points = vectors[:, ::-1] * np.sqrt(values * models)
    return values, points, float(values.sum())


def _signed(points: Floats) -> Floats:
    """The same axes, turned so that the model farthest from the middle is at the high end."""
    size = np.abs(points)
    first = (size >= (1 - _EQUAL) * size.max(axis=0, initial=0)).argmax(axis=0)
    return np.asarray(
        points * np.where(points[first, np.arange(points.shape[1])] < 0, -1.0, 1.0), np.float64
    )


def _directions(matrix: MatrixFile, points: Floats) -> Floats:
    """(N, C) the directions among the texts that lead to the places of the models.

    With a design the coordinates of a text are ``w`` times its own, so their direction is too; its
    length over the d texts estimates that over all N.
    """
    models, texts = len(matrix.model), len(matrix.domain)
    total = np.zeros((texts, points.shape[1]))
    for begin, end in ranges(models, np.dtype(np.float64).itemsize * texts):
        rows: Floats32 = matrix.coordinates(begin, end)
        total += rows.astype(np.float64).T @ points[begin:end]
    length = np.linalg.norm(total, axis=0)
    total /= np.where(length > 0, length, 1.0)
    return total if matrix.design is None else total / matrix.design.weight[:, None]


def domain_shares(axes: Axes, domains: Domains) -> tuple[Floats, Floats]:
    """How much of each axis is due to each domain, and at which end it stands.

    Returns:
        (C, D) share of the axis' variance that is in the domain's texts, rows adding up to 1; and
        (C, D) mean loading of the domain's texts times sqrt(N), so that 1 is as much as the
        root mean square of all loadings. Of a selection both count a text as often as it stands
        for texts of the reference, whose number is N.
    """
    member = np.zeros((len(domains.code), len(domains.names)))
    member[np.arange(len(domains.code)), domains.code] = _times(axes, domains)
    count = len(domains.code) if axes.design is None else axes.design.texts
    mean = (axes.loadings.T @ member) / member.sum(axis=0) * np.sqrt(count)
    return np.asarray((axes.loadings**2).T @ member), np.asarray(mean)


def effective_sizes(axes: Axes, domains: Domains) -> Floats:
    """(D,) as many texts as would give the domain's mean loading its precision (Kish 1965).

    The number of texts of the domain, where all count alike; less where they differ.
    """
    times, count = _times(axes, domains), len(domains.names)
    total = np.bincount(domains.code, times, count)
    return np.asarray(total**2 / np.bincount(domains.code, times**2, count), np.float64)


def _times(axes: Axes, domains: Domains) -> Floats:
    """(N,) how often each text counts."""
    return np.ones(len(domains.code)) if axes.design is None else axes.design.times


def correlate(
    matrix: code_lengths.Texts,
    models: Sequence[Model],
    axes: Axes,
    benchmarks: Benchmarks,
) -> Correlations:
    """Correlations of mean log-likelihoods and axes with every benchmark task.

    The mean log-likelihood over all texts is that of models.tsv, before clipping; those of the
    domains are clipped (:func:`klmap.code_lengths.by_domain`).

    Args:
        matrix: the K models and N texts.
        models: rows of models.tsv.
        axes: of these models.
        benchmarks: scores in the same order; without any there are no features either.
    """
    if not benchmarks.tasks:
        empty = np.zeros((0, 0))
        return Correlations([], [], np.zeros((0, 0), np.intp), empty, empty.copy())
    domains = code_lengths.told_apart(matrix.domain)
    values = np.column_stack(
        [
            np.array([model.mean_loglik for model in models]),
            -code_lengths.by_domain(matrix, domains),
            axes.points,
        ]
    )
    features = ["mean_loglik"]
    features += [f"mean_loglik: {name}" for name in domains.names]
    features += [f"axis{number + 1}" for number in range(axes.points.shape[1])]
    shape = (len(features), len(benchmarks.tasks))
    counts, pearson, spearman = np.zeros(shape, np.intp), np.full(shape, np.nan), np.zeros(shape)
    spearman[:] = np.nan
    for place in np.ndindex(shape):
        left, right = values[:, place[0]], benchmarks.values[:, place[1]]
        both = np.isfinite(left) & np.isfinite(right)
        counts[place] = both.sum()
        left, right = left[both], right[both]
        if len(left) >= FEWEST:
            pearson[place], spearman[place] = correlation.both(left, right)
    return Correlations(features, list(benchmarks.tasks), counts, pearson, spearman)


def at_ends(loadings: Floats, count: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Texts at the low and at the high end of an axis, the outermost first.

    Args:
        loadings: (N,) of one axis.
        count: how many texts at each end; at most half of all, so that none is at both.
    """
    order = np.argsort(loadings, kind="stable")
    count = min(count, len(loadings) // 2)
    return order[:count], order[::-1][:count]


def write(
    folder: Path,
    axes: Axes,
    models: Sequence[Model],
    domains: Domains,
    texts: Sequence[Text],
    ends: int,
) -> None:
    """Write variance.tsv, places.tsv, texts.tsv and domains.tsv.

    Args:
        folder: to write to.
        axes: of the models.
        models: rows of models.tsv.
        domains: of the texts.
        texts: the N texts.
        ends: how many texts of each end of each axis.
    """
    sums = np.cumsum(axes.shares)
    rows = [
        (number + 1, float(axes.variance[number]), float(axes.shares[number]), float(sums[number]))
        for number in range(len(axes.variance))
    ]
    write_tsv(folder / "variance.tsv", ("component", "variance", "share", "cumulative"), rows)
    count = axes.points.shape[1]
    header = ("model", *(f"axis{number + 1}" for number in range(count)))
    places = (
        (model.model, *(float(value) for value in row))
        for model, row in zip(models, axes.points, strict=True)
    )
    write_tsv(folder / "places.tsv", header, places)
    found = []
    for number in range(count):
        loadings = axes.loadings[:, number]
        for end, some in zip(("low", "high"), at_ends(loadings, ends), strict=True):
            found += [
                (number + 1, end, rank + 1, int(index), texts[index].domain,
                 float(loadings[index]), excerpt(texts[index].text))
                for rank, index in enumerate(some)
            ]  # fmt: skip
    header = ("component", "end", "rank", "index", "domain", "loading", "text")
    write_tsv(folder / "texts.tsv", header, found)
    shares, means = domain_shares(axes, domains)
    parts = [
        (number + 1, name, size, float(shares[number, place]), float(means[number, place]))
        for number in range(count)
        for place, (name, size) in enumerate(zip(domains.names, domains.sizes, strict=True))
    ]
    header = ("component", "domain", "texts", "share", "mean_loading")
    write_tsv(folder / "domains.tsv", header, parts)


def write_correlations(path: Path, found: Correlations) -> None:
    """Write correlations.tsv; an empty cell where there are too few models."""
    rows = [
        (feature, task, int(found.models[place]), *_known(found.pearson[place]),
         *_known(found.spearman[place]))
        for row, feature in enumerate(found.features)
        for column, task in enumerate(found.tasks)
        for place in [(row, column)]
    ]  # fmt: skip
    write_tsv(path, ("feature", "task", "models", "pearson", "spearman"), rows)


def _known(value: float) -> tuple[float | None]:
    return (None if np.isnan(value) else float(value),)
