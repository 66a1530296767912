"""MAUVE of two sets of texts, from the package of its authors where that is installed.

MAUVE (Pillutla et al. 2021) says how well the texts of one model can be told from those of another:
between 0 and 1, more where they are alike. Texts are first turned into features by a model. The
paper takes GPT-2 large; here they are means of the last hidden states of the first model of the
pair, which is there anyway (klmap's own). So values of two pairs can be compared where the same
model stands first in both.

The package is an optional extra, in envs/extras.txt, and is under the GPL; nothing else of klmap
needs it. It imports torch where there is torch, so it is imported only when it is asked for.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from klmap.arrays import Floats32
from klmap.log import logger

LEAST = 10
"""Texts of each model below which no value is given: they are sorted into a tenth as many bins."""

Compute = Callable[..., Any]


def package() -> Compute | None:
    """What computes MAUVE; None where the package is not installed, and the log says so."""
    try:
        found: Compute = importlib.import_module("mauve").compute_mauve
    except ImportError as error:
        logger.warning(
            "MAUVE is left out: %s; to have it, pip install -r envs/extras.txt and run again", error
        )
        return None
    return found


def score(compute: Compute, first: Floats32, second: Floats32, seed: int) -> float:
    """MAUVE of two sets of features.

    Args:
        compute: from :func:`package`.
        first: (n, d) features of the texts of one model, NaN where a text has none.
        second: (m, d) of the other.
        seed: of the clustering.

    Returns:
        A number between 0 and 1; NaN for fewer than ``LEAST`` texts, or where all are alike.
    """
    one, other = (side[np.isfinite(side).all(axis=1)] for side in (first, second))
    if min(len(one), len(other)) < LEAST or not np.ptp(np.vstack([one, other]), axis=0).any():
        return math.nan
    with threadpool_limits(1):  # sums in another order would give other clusters
        return float(compute(p_features=one, q_features=other, seed=seed).mauve)
