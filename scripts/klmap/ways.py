"""Files of ways, which the page draws as arrows on the map, and what places their ends.

Which way a model goes is for each analysis to say (:mod:`klmap.prompt_ways`,
:mod:`klmap.mixture_ways`). Nothing here is from a paper.
"""

from __future__ import annotations

import numpy as np

from klmap.arrays import Floats, Rows

COLUMNS = ("group", "model", "step", "x", "y", "label")
"""Of ways.tsv."""

MOST_HELD = 4000
"""Models of the map among which others are placed; of more, evenly spaced ones."""


def evenly(rows: Rows, most: int) -> Rows:
    """So many of the rows at most, evenly spaced."""
    kept = np.linspace(0, len(rows) - 1, min(len(rows), most))
    return np.asarray(rows[np.round(kept).astype(np.intp)], np.intp)


def projection(points: Floats, places: Floats) -> Floats:
    """How a map of principal components places vectors: the smallest of all fitting linear maps.

    Args:
        points: (n, N) vectors of models of the map, centred.
        places: (n, 2) of these.

    Returns:
        (2, N), to be multiplied with a difference of two vectors.
    """
    inverse = np.linalg.pinv(points @ points.T, rcond=1e-10, hermitian=True)
    return np.asarray((inverse @ (places - places.mean(axis=0))).T @ points, np.float64)
