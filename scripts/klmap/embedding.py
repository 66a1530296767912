"""The layout methods: t-SNE by scikit-learn or openTSNE, UMAP, principal components.

Each method makes a layout afresh or continues one that is there. t-SNE (van der Maaten and Hinton
2008) is continued without early exaggeration, which is what tears a layout apart to arrange it
anew; UMAP (McInnes, Healy and Melville 2018) with a small learning rate. Both are klmap's own.

Points are (K, r) principal components whose squared distance is KL in bits per byte. The same
points give the same places, bit for bit: gradients are computed in one thread, and the search for
neighbours gives the same bits on any number of threads. openTSNE and umap-learn take seconds to
import and are imported where they are used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from klmap.arrays import Floats, Floats32
from klmap.log import Progress

Method = Literal["tsne", "opentsne", "umap", "pca"]
Metric = Literal["euclidean", "sqeuclidean"]
Rows = npt.NDArray[np.intp]

FEWEST = 5
"""Below this many models neighbourhoods mean nothing and principal components say it all."""

CONTINUED = 250
"""Iterations that continue a t-SNE layout: enough that its quality is that of a fresh one, as
``benchmarks/bench_layout.py`` shows, and the fewest that scikit-learn makes."""

_EXAGGERATED = 250
"""Iterations with early exaggeration, as scikit-learn has them."""
_EXAGGERATION = 12.0
_INITIAL_SPREAD = 1e-4
_FFT_FROM = 5000
_SCALES = 2.0 ** np.arange(-8, 8.1, 0.25)
_SCALE_SLACK = 2.0
_SCALE_SAMPLE = 200
_UMAP_SIDE = 10.0
_UMAP_MIN_DIST = 0.1
_UMAP_NEGATIVE_SAMPLES = 5.0
_UMAP_CONTINUED = (100, 0.02)
"""Epochs and learning rate that continue a UMAP layout."""


@dataclass(frozen=True)
class Settings:
    """How a layout is made.

    Attributes:
        method: ``tsne``, scikit-learn's, and openTSNE's above ``dense_limit`` models; ``opentsne``
            for any number; ``umap``; ``pca``.
        metric: ``euclidean``, the square root of KL (Kishino et al. 2026); or ``sqeuclidean``, KL
            itself as in the published map (Oyama et al. 2025). t-SNE squares either.
        perplexity: t-SNE's, lowered to (K - 1) / 3 where there are few models; rounded, the
            number of neighbours of UMAP.
        iterations: of t-SNE.
        seed: of the optimisation, and of the places in which new models begin.
        dense_limit: most models that scikit-learn places.
        fixed: models whose log-likelihoods are the same stay exactly where they were.
    """

    method: Method = "tsne"
    metric: Metric = "euclidean"
    perplexity: float = 30
    iterations: int = 1000
    seed: int = 42
    dense_limit: int = 5000
    fixed: bool = False

    def used(self, models: int) -> Method:
        """The method that places so many models: fewer than five are placed by ``pca``."""
        if models < FEWEST:
            return "pca"
        if self.method == "tsne" and models > self.dense_limit:
            return "opentsne"
        return self.method

    def label(self, models: int) -> str:
        """The method as layout.tsv names it."""
        used = self.used(models)
        return f"{used}-{self.metric}" if used in ("tsne", "opentsne") else used

    def relevant(self, models: int) -> dict[str, str | float]:
        """The settings that change the places of so many models."""
        used = self.used(models)
        found: dict[str, str | float] = {"method": used}
        if used != "pca":
            found |= {"metric": self.metric, "perplexity": self.perplexity, "seed": self.seed}
        if used in ("tsne", "opentsne"):
            found["iterations"] = self.iterations
        return found


def family(method: str) -> str:
    """What layouts are alike enough to continue one another: both t-SNEs are one family."""
    return "tsne" if method == "opentsne" else method


def fresh(points: Floats, settings: Settings, order: Rows | None = None) -> Floats:
    """A layout that knows of none before it; it begins with the first two components.

    Args:
        points: (K, r) principal components, square root of bits per byte.
        settings: how.
        order: (K,) the order in which the method takes the points; it decides the last digits.

    Returns:
        (K, 2) float64 places, in the order of ``points``.
    """
    if order is None:
        return _fresh(points, settings)
    plane = np.empty((len(points), 2))
    plane[order] = _fresh(points[order], settings)
    return plane


def continued(
    points: Floats,
    start: Floats,
    settings: Settings,
    order: Rows | None = None,
    iterations: int = CONTINUED,
) -> Floats:
    """A layout that goes on from where every model is placed already.

    Args:
        points: (K, r) principal components, square root of bits per byte.
        start: (K, 2) places, in the units that the method makes.
        settings: how. ``pca`` has nothing to continue and is made afresh.
        order: (K,) the order in which the method takes the points.
        iterations: of t-SNE.

    Returns:
        (K, 2) float64 places in the order of ``points``, not yet aligned to the start.
    """
    if order is None:
        return _continued(points, start, settings, iterations)
    plane = np.empty((len(points), 2))
    plane[order] = _continued(points[order], start[order], settings, iterations)
    return plane


def _fresh(points: Floats, settings: Settings) -> Floats:
    used, start = settings.used(len(points)), first_two(points)
    if used == "pca":
        return start
    if used == "umap":
        side = float(np.ptp(start, axis=0).max())
        scaled = start * (_UMAP_SIDE / side) if side > 0 else start
        return _umap(points, scaled, settings, 500 if len(points) <= 10_000 else 200, 1.0)
    spread = start[:, 0].std()
    if spread > 0:
        start = start / spread * _INITIAL_SPREAD
    return _tsne(used)(points, start, settings, settings.iterations, _EXAGGERATION)


def _continued(points: Floats, start: Floats, settings: Settings, iterations: int) -> Floats:
    used = settings.used(len(points))
    if used == "pca":
        return first_two(points)
    if used == "umap":
        return _umap(points, start, settings, *_UMAP_CONTINUED)
    start = start * natural_scale(points, start, settings)
    return _tsne(used)(points, start, settings, iterations, 1.0)


def first_two(points: Floats) -> Floats:
    """(K, 2) the first two components; zeros where there are fewer."""
    plane = np.zeros((len(points), 2))
    width = min(2, points.shape[1])
    plane[:, :width] = points[:, :width]
    return plane


def nearest(
    points: npt.NDArray[np.floating], others: npt.NDArray[np.floating] | None, count: int
) -> tuple[Rows, Floats]:
    """The exact nearest points of each point, by blocks.

    Args:
        points: (K, r).
        others: (M, r) among which to search; None for the points themselves, each without itself.
        count: how many, at most as many as there are.

    Returns:
        ``index`` (K, count) and ``distance`` (K, count) float64, Euclidean, nearest first.
    """
    from sklearn.neighbors import NearestNeighbors

    among = points if others is None else others
    search = NearestNeighbors(n_neighbors=count, algorithm="brute").fit(among)
    distance, index = search.kneighbors(None if others is None else points)
    return np.asarray(index, np.intp), np.asarray(distance, np.float64)


def natural_scale(points: Floats, start: Floats, settings: Settings) -> float:
    """The factor at which places cost t-SNE least, if it is far from one.

    t-SNE arranges quickly and changes its scale slowly. A map of few models may be ten times as
    wide as t-SNE would make it of more; begun there, neighbours would never meet. The cost is
    t-SNE's own, of a sample of models: ``sum p log(1 + d^2) + log sum 1 / (1 + d^2)``.

    Args:
        points: (K, r) principal components, square root of bits per byte.
        start: (K, 2) places.
        settings: metric and perplexity.
    """
    models, wanted = len(points), perplexity(len(points), settings)
    rows = np.unique(np.linspace(0, models - 1, _SCALE_SAMPLE).astype(np.intp))
    index, distance = nearest(points[rows], points, min(int(3 * wanted) + 2, models))
    squared = distance**4 if settings.metric == "sqeuclidean" else distance**2
    affinity = affinities(np.where(index == rows[:, None], np.inf, squared), wanted)
    near = ((start[rows, None] - start[index]) ** 2).sum(axis=2)
    far = ((start[rows, None] - start[None]) ** 2).sum(axis=2)
    costs = [
        (affinity * np.log1p(factor**2 * near)).sum() / len(rows)
        # Each model's own term is one.
        + np.log((1 / (1 + factor**2 * far)).sum() - len(rows))
        for factor in _SCALES
    ]
    best = float(_SCALES[int(np.argmin(costs))])
    return best if not 1 / _SCALE_SLACK <= best <= _SCALE_SLACK else 1.0


def affinities(squared: Floats, perplexity: float) -> Floats:
    """Gaussian weights of each row, of sum one and this perplexity, by bisection.

    Args:
        squared: (n, m) squared distances, infinite for what is no neighbour.
        perplexity: at most as many as there are neighbours.

    Returns:
        (n, m) float64.
    """
    squared = squared - squared.min(axis=1, keepdims=True)
    low, high = np.full((2, len(squared), 1), [[[-60.0]], [[60.0]]])
    for _ in range(60):
        middle = (low + high) / 2
        weights = np.exp(-squared * np.exp(middle))
        weights /= weights.sum(axis=1, keepdims=True)
        entropy = -(weights * np.log(np.maximum(weights, 1e-300))).sum(axis=1, keepdims=True)
        narrow = entropy < np.log(perplexity)
        low, high = np.where(narrow, low, middle), np.where(narrow, middle, high)
    return np.asarray(weights, np.float64)


def _tsne(used: Method) -> Callable[[Floats, Floats, Settings, int, float], Floats]:
    return _scikit_learn if used == "tsne" else _opentsne


def perplexity(models: int, settings: Settings) -> float:
    """t-SNE's perplexity for so many models."""
    return min(settings.perplexity, (models - 1) / 3)


def _scikit_learn(
    points: Floats, start: Floats, settings: Settings, iterations: int, exaggeration: float
) -> Floats:
    from sklearn.manifold import TSNE

    tsne = TSNE(
        perplexity=perplexity(len(points), settings),
        early_exaggeration=exaggeration,
        learning_rate="auto",
        max_iter=iterations,
        init=start.astype(np.float32),
        metric=settings.metric,
        random_state=settings.seed,
        n_jobs=1,
    )
    with threadpool_limits(1):
        return np.asarray(tsne.fit_transform(points), np.float64)


def _opentsne(
    points: Floats, start: Floats, settings: Settings, iterations: int, exaggeration: float
) -> Floats:
    from openTSNE import TSNEEmbedding
    from openTSNE.affinity import PerplexityBasedNN
    from openTSNE.nearest_neighbors import PrecomputedNeighbors

    wanted = perplexity(len(points), settings)
    index, distance = _graph(points, int(3 * wanted), settings.metric)
    weights = PerplexityBasedNN(
        knn_index=PrecomputedNeighbors(index, distance), perplexity=wanted, n_jobs=1
    )
    progress = Progress(iterations, "iterations")
    every = 50

    def count(*_: object) -> None:
        progress.add(every)

    embedding = TSNEEmbedding(
        np.ascontiguousarray(start),
        weights,
        negative_gradient_method="fft" if len(points) >= _FFT_FROM else "bh",
        random_state=settings.seed,
        n_jobs=1,
        callbacks=count,
        callbacks_every_iters=every,
    )
    early = _EXAGGERATED if exaggeration > 1 else 0
    with threadpool_limits(1):
        if early:
            embedding.optimize(early, exaggeration=exaggeration, momentum=0.5, inplace=True)
        embedding.optimize(iterations - early, momentum=0.8, inplace=True)
    progress.close()
    return np.array(embedding, np.float64)


def _graph(points: Floats, count: int, metric: Metric) -> tuple[Rows, Floats]:
    index, distance = nearest(points, None, min(count, len(points) - 1))
    return index, distance**2 if metric == "sqeuclidean" else distance


def _umap(
    points: Floats, start: Floats, settings: Settings, epochs: int, learning_rate: float
) -> Floats:
    """UMAP's own graph and gradient descent, from any start.

    Its class would stretch both sides of what it begins with to one length.
    """
    from umap.layouts import optimize_layout_euclidean
    from umap.umap_ import find_ab_params, fuzzy_simplicial_set, make_epochs_per_sample

    neighbors = max(2, min(round(settings.perplexity), len(points) - 1))
    index, distance = _graph(points, neighbors - 1, settings.metric)
    themselves = np.arange(len(points))[:, None]
    random = np.random.RandomState(settings.seed)
    graph = fuzzy_simplicial_set(
        points,
        neighbors,
        random,
        settings.metric,
        knn_indices=np.hstack([themselves, index]),
        knn_dists=np.hstack([np.zeros((len(points), 1)), distance]).astype(np.float32),
    )[0].tocoo()
    graph.sum_duplicates()
    # As UMAP does: edges that no epoch would draw.
    graph.data[graph.data < graph.data.max() / epochs] = 0
    graph.eliminate_zeros()
    a, b = find_ab_params(1.0, _UMAP_MIN_DIST)
    places: Floats32 = np.ascontiguousarray(start, np.float32)
    optimize_layout_euclidean(
        places,
        places,
        graph.row,
        graph.col,
        epochs,
        len(points),
        make_epochs_per_sample(graph.data, epochs),
        a,
        b,
        random.randint(-(2**31) + 1, 2**31 - 1, 3).astype(np.int64),
        initial_alpha=learning_rate,
        negative_sample_rate=_UMAP_NEGATIVE_SAMPLES,
        move_other=True,
    )
    return places.astype(np.float64)
