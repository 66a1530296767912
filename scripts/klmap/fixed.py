"""A map that stays exactly as it is: only new models are placed.

t-SNE (van der Maaten and Hinton 2008) compares for each model how near all others are by KL and on
the plane. Here the others stay where they are, so every new model has a best place of its own,
which is found by itself. New models do not see each other. So models that were scored on some
texts alone come onto the map of all of them. The procedure is klmap's own; that of openTSNE, which
embeds new points into an existing map, is alike.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize

from klmap import embedding
from klmap.arrays import Floats
from klmap.embedding import Rows, Settings
from klmap.log import Progress

_STARTS = 3
_NEAREST = 5
_LEAST_KL = 1e-12


def scale_of(held: Floats, targets: Floats, settings: Settings) -> float:
    """The factor between the units of a map and those in which t-SNE would have made it.

    Args:
        held: (n, r) points of the models that are held, square root of bits per byte.
        targets: (n, 2) where they are.
        settings: metric and perplexity of t-SNE.
    """
    return embedding.natural_scale(held, targets, settings) if len(held) > 1 else 1.0


def place(
    points: Floats,
    rows: Rows,
    targets: Floats,
    settings: Settings,
    scale: float | None = None,
    quiet: bool = False,
) -> Floats:
    """Places of all models, of which some are held.

    Args:
        points: (K, r) principal components, square root of bits per byte.
        rows: (n,) the models that are held; at least one.
        targets: (n, 2) where.
        settings: metric and perplexity of t-SNE.
        scale: from :func:`scale_of`; by default that of these points.
        quiet: say nothing of the progress.

    Returns:
        (K, 2) float64; the rows of ``rows`` are ``targets``, to the bit.
    """
    plane = np.empty((len(points), 2))
    plane[rows] = targets
    new = np.setdiff1d(np.arange(len(points)), rows)
    held = points[rows]
    scale = scale_of(held, targets, settings) if scale is None else scale
    progress = None if quiet else Progress(len(new), "new models")
    for row in new:
        squared = ((held - points[row]) ** 2).sum(axis=1)
        plane[row] = _best(squared, scale * targets, settings) / scale
        if progress:
            progress.add(1)
    if progress:
        progress.close()
    return plane


def among(squared: Floats, targets: Floats, settings: Settings, scale: float) -> Floats:
    """Places of new models alone, from their distances.

    Args:
        squared: (m, n) KL of each new model and each that is held, bits per byte.
        targets: (n, 2) where these are.
        settings: metric and perplexity of t-SNE.
        scale: from :func:`scale_of`.

    Returns:
        (m, 2) float64.
    """
    places = scale * targets
    found = [_best(row, places, settings) / scale for row in squared]
    return np.array(found, np.float64).reshape(-1, 2)


def _best(squared: Floats, places: Floats, settings: Settings) -> Floats:
    """The place of one model that costs t-SNE least, from several starts."""
    near = np.argsort(squared, kind="stable")[:_NEAREST]
    weights = 1 / np.maximum(squared[near], _LEAST_KL)
    middle = weights @ places[near] / weights.sum()
    affinity = embedding.affinities(
        (squared**2 if settings.metric == "sqeuclidean" else squared)[None],
        embedding.perplexity(len(places) + 1, settings),
    )[0]
    found = [
        minimize(_cost, start, (places, affinity), jac=True, method="L-BFGS-B")
        for start in (middle, *places[near[:_STARTS]])
    ]
    return np.asarray(min(found, key=lambda each: float(each.fun)).x, np.float64)


def _cost(place: Floats, places: Floats, affinity: Floats) -> tuple[float, Floats]:
    """t-SNE's cost of one model, ``sum p log(1 + d^2) + log sum 1 / (1 + d^2)``, and its slope."""
    way = place - places
    closeness = 1 / (1 + (way**2).sum(axis=1))
    total = closeness.sum()
    cost = float(np.log(total) - affinity @ np.log(closeness))
    pull = (affinity - closeness / total) * closeness
    return cost, 2 * pull @ way
