"""How exact KLs by fewer texts are expected to be, and how many texts a wanted error takes.

All of it is klmap's own. P is the number of pairs of models, K that of models, N that of texts;
``q`` holds double-centred coordinates on all N texts, in nats.
"""

from __future__ import annotations

import numpy as np
from scipy.special import erf

from klmap.arrays import Floats, Floats32
from klmap.pair_sums import Pairs
from klmap.resampling import expected_unique, inclusion, smallest

MOST_UNIQUE = 0.95
"""Draws with replacement end where they would find this share of the texts: all of them is near."""


def pair_error(
    q: Floats | Floats32 | Pairs, probability: Floats, n: int, replacement: bool
) -> Floats:
    """Relative standard error of the KL of each pair by a selection; klmap's own.

    The exact variance of ``sum_u w_u^2 y_u`` over draws, with ``y_s = (q_is - q_js)^2``: with
    replacement ``(sum_s y_s^2 / pi_s - (sum_s y_s)^2) / n``; without, for a fixed number of texts
    (Hajek's approximation), ``sum_s (1 / p_s - 1) y_s^2 - (sum_s (1 - p_s) y_s)^2 / sum_s p_s (1 -
    p_s)``. The latter holds for texts in any order; in that of :func:`spread` errors are smaller.

    Args:
        q: (K, N) double-centred, nats; or its pairs, where they are needed more than once.
        probability: (N,) from :func:`probabilities`.
        n: number of draws, or of texts.
        replacement: how they are drawn.

    Returns:
        (P,) of the pairs with a KL above 0; the others have no relative error.

    Raises:
        ValueError: no pair has a KL above 0, or without replacement there are fewer than n texts.
    """
    pairs = _differing(q)
    if not replacement:
        return _once(pairs, probability, n)
    return np.asarray(_repeated(pairs, probability) / np.sqrt(n), np.float64)


def share_within(relative_se: Floats, error: float) -> float:
    """Which share of the pairs an error is expected to keep within a bound; klmap's own.

    The mean over pairs of ``P(|Z| < error / se)`` for a normal Z, with the standard errors of
    :func:`pair_error`; the bound is relative to the KL, too.
    """
    with np.errstate(divide="ignore"):
        return float(erf(error / (np.sqrt(2) * relative_se)).mean())


def texts_for(
    q: Floats | Floats32 | Pairs, probability: Floats, replacement: bool, error: float, share: float
) -> int:
    """The smallest number of draws, or of texts, that makes KLs exact enough; klmap's own.

    Args:
        q: (K, N) double-centred, nats; or its pairs, where they are needed more than once.
        probability: (N,) from :func:`probabilities`.
        replacement: how they are drawn.
        error: largest relative error of a KL.
        share: of how many pairs it shall hold, from 0 to 1.

    Returns:
        n of :func:`draw`, at least 2.

    Raises:
        ValueError: no pair has a KL above 0, or so many draws would find nearly all texts.
    """
    pairs = _differing(q)
    possible = int(np.count_nonzero(probability))
    if not replacement:
        # All texts that can be drawn have no error, so it is not looked at.
        return smallest(
            lambda n: share_within(_with_mean(_once(pairs, probability, n), n), error) >= share,
            2,
            possible,
        )
    single = _repeated(pairs, probability)
    n = smallest(
        lambda n: share_within(_with_mean(single / np.sqrt(n), n), error) >= share,
        2,
    )
    unique = expected_unique(probability, n)
    if unique > MOST_UNIQUE * possible:
        raise ValueError(
            f"an error within {error:.3g} for {share:.3g} of the pairs takes {n:,} draws with "
            f"replacement, which find {unique:,.0f} of the {possible:,} texts; use replacement: "
            "false, or a larger error"
        )
    return n


def _with_mean(relative_se: Floats, n: int) -> Floats:
    """With the error of the mean over the texts, which lowers a KL by a share of about 1 / n.

    It is that times a chi-square variable with one degree of freedom, whose mean square is 3. Only
    for few draws it counts, and there it is all that is left where a method suits a pair exactly.
    """
    return np.asarray(np.sqrt(relative_se**2 + 3 / n**2), np.float64)


def _differing(q: Floats | Floats32 | Pairs) -> Pairs:
    pairs = q if isinstance(q, Pairs) else Pairs(q)
    if not (pairs.squares > 0).any():
        raise ValueError("no two models differ on these texts, so a KL has no relative error")
    return pairs


def _repeated(pairs: Pairs, probability: Floats) -> Floats:
    """Relative standard errors of one draw with replacement."""
    seen = probability > 0
    inverse = np.divide(1, probability, out=np.zeros(len(probability)), where=seen)
    return _relative(pairs, pairs.fourths(inverse) - pairs.squares**2)


def _once(pairs: Pairs, probability: Floats, n: int) -> Floats:
    """Relative standard errors of n texts without replacement."""
    included = inclusion(probability, n)
    inverse = np.divide(1, included, out=np.ones(len(included)), where=included > 0)
    variance = pairs.fourths(inverse - 1)
    free = float(included @ (1 - included))
    if free > 0:
        variance -= pairs.sums(np.where(included > 0, 1 - included, 0)) ** 2 / free
    return _relative(pairs, variance)


def _relative(pairs: Pairs, variance: Floats) -> Floats:
    differ = pairs.squares > 0
    return np.asarray(np.sqrt(np.maximum(variance[differ], 0)) / pairs.squares[differ], np.float64)
