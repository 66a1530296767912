"""Where a mixture would move its base on the map: the ways that the page draws.

Nothing here is from a paper. The vector that is expected at the end of a way belongs to no model,
so it is placed among those of the map, which are held (:mod:`klmap.fixed`). The base itself is left
out of these: it is by far the nearest to where a short way ends, and would keep it. So is done with
the base as it is, and the difference of the two places is drawn from where the base stands. A base
that is off the map begins where it would be placed. On a map of principal components the
difference is projected as the map projects the models.

A way says among which models a mixture leads. How far it leads is in plans.tsv: t-SNE keeps who is
near, not distances.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from klmap import fixed, mixture
from klmap.arrays import Floats
from klmap.embedding import Settings
from klmap.files import write_tsv
from klmap.gathered import Gathered
from klmap.geometry import features
from klmap.layout import Report
from klmap.log import logger
from klmap.mixture import Mixture
from klmap.ways import COLUMNS, MOST_HELD, evenly, projection


def find(found: Gathered, mixtures: Sequence[Mixture], places: Floats, report: Report) -> Floats:
    """Beginning and end of the way of each mixture.

    Args:
        found: the models; those of the map are the first of them.
        mixtures: what was found for each plan.
        places: (K, 2) of the map's models.
        report: how these were made.

    Returns:
        (P, 2, 2) places; NaN where no way leads to the target, or the map has no other model.

    Raises:
        InputError: a file is truncated.
    """
    ways = np.full((len(mixtures), 2, 2), np.nan)
    rows = evenly(np.arange(len(places)), MOST_HELD)
    held = mixture.centred(found.loglik(rows))
    for number, each in enumerate(mixtures):
        others = rows != each.plan.base
        if each.found.is_none or not others.any():
            continue
        start = mixture.centred(found.loglik([each.plan.base]))[0]
        directions = mixture.vectors(found, each.plan)[1]
        end = start + each.found.length * (each.found.weights @ directions)
        points = features(np.vstack([held[others], start, end]), found.mean_bytes)
        begin, moved = _placed(points, places[rows[others]], report)
        if each.plan.base < len(places):
            begin, moved = places[each.plan.base], places[each.plan.base] + moved - begin
        ways[number] = begin, moved
    return ways


def _placed(points: Floats, places: Floats, report: Report) -> Floats:
    """(2, 2) places of the last two points among all others, which have theirs."""
    held, new = points[:-2], points[-2:]
    if report.method == "pca":
        middle = held.mean(axis=0)
        axes = projection(held - middle, places)
        return np.asarray(places.mean(axis=0) + (new - middle) @ axes.T, np.float64)
    settings = Settings(metric=report.metric, perplexity=report.perplexity)
    squared = np.stack([np.square(held - point).sum(axis=1) for point in new])
    return fixed.among(squared, places, settings, fixed.scale_of(held, places, settings))


def write(path: Path, mixtures: Sequence[Mixture], ways: Floats) -> None:
    """Write ways.tsv: two lines for each way, its beginning and its end."""
    lines: list[tuple[str | float, ...]] = []
    for each, way in zip(mixtures, ways, strict=True):
        if np.isfinite(way).all():
            labels = (
                f"KL {each.kl[0]:.3g} bits/byte to {each.target}",
                f"towards {each.target}: {in_words(each)}; KL {each.end[0]:.3g} expected",
            )
            for step, ((x, y), label) in enumerate(zip(way, labels, strict=True)):
                lines.append((each.plan.name, each.base, step, float(x), float(y), label))
    write_tsv(path, COLUMNS, lines)
    logger.info("%d ways of %d plans", len(lines) // 2, len(mixtures))


def in_words(each: Mixture) -> str:
    """The largest weights of a mixture, by falling weight."""
    order = np.argsort(-each.found.weights, kind="stable")
    parts = [
        f"{each.plan.domains[row]} {100 * each.found.weights[row]:.0f} %"
        for row in order
        if each.found.weights[row] >= 0.005
    ]
    return ", ".join(parts[:3]) + (", ..." if len(parts) > 3 else "")
