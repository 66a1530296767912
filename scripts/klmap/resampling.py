"""Fewer texts: how likely each is drawn, how they are drawn, and how exact KLs of them are.

Drawing with replacement by the length of the columns of Q (LS) or by what they add to the
distances (KL), weights and errors are those of Oyama et al., EMNLP 2025 Findings (arXiv
2505.15428, "Likelihood Variance as Text Importance for Resampling Texts to Map Language Models"),
section 3. Drawing without replacement, spread over domains, and a number of texts that follows from
the error that is wanted are klmap's own.

Throughout, K is the number of models, N the number of texts and P the number of pairs of models;
``q`` holds the double-centred coordinates of models on all N texts, in nats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import erf

from klmap.arrays import Floats, Floats32, Rows
from klmap.design import Design
from klmap.pair_sums import Pairs

METHODS = ("uniform", "ls", "kl")

MOST_UNIQUE = 0.95
"""Draws with replacement end where they would find this share of the texts: all of them is near."""

_CERTAIN = 1 - 1e-9


@dataclass(frozen=True)
class Moments:
    """What the probabilities of all methods follow from.

    Attributes:
        sums: (4, N) float64, ``S_m = sum_i q_is^m`` for m from 1 to 4, nats^m.
        models: K.
    """

    sums: Floats
    models: int


@dataclass(frozen=True)
class Drawn:
    """A selection of texts.

    Attributes:
        index: (d,) the texts, rising.
        count: (d,) how often each one was drawn; 1 without replacement.
        probability: (d,) of each draw, or, without replacement, of being in the selection.
        design: how these texts stand for all.
    """

    index: Rows
    count: Rows
    probability: Floats
    design: Design


def moments(blocks: Iterable[Floats | Floats32], texts: int) -> Moments:
    """Add up powers of the coordinates, a block of models at a time.

    Args:
        blocks: (rows, N) parts of Q, nats; all of them once.
        texts: N.
    """
    sums = np.zeros((4, texts))
    models = 0
    for block in blocks:
        models += len(block)
        values = np.asarray(block, np.float64)
        power = values.copy()
        for order in range(4):
            sums[order] += power.sum(axis=0)
            power *= values
    return Moments(sums, models)


def probabilities(found: Moments, method: str) -> Floats:
    """How likely each text is drawn (Oyama et al., EMNLP 2025 Findings, section 3).

    Args:
        found: moments of Q.
        method: ``uniform``: every text alike; ``ls``: by the variance of its log-likelihoods,
            ``S_2``; ``kl``: by the root of ``sum_ij (q_is - q_js)^4 = 2 K S_4 + 6 S_2^2 - 8 S_1
            S_3``.

    Returns:
        (N,) float64 that add up to 1. By ``ls`` and ``kl`` a text on which all models agree has 0.

    Raises:
        ValueError: the method is unknown, or all models agree on every text.
    """
    first, second, third, fourth = found.sums
    if method == "uniform":
        size = np.ones_like(second)
    elif method == "ls":
        size = second
    elif method == "kl":
        pairs = 2 * found.models * fourth + 6 * second**2 - 8 * first * third
        size = np.sqrt(np.maximum(pairs, 0))
    else:
        raise ValueError(f"method is {method!r}, not one of {', '.join(METHODS)}")
    total = size.sum()
    if not total > 0:
        raise ValueError(
            f"all {found.models} models agree on every text, so none is more important than "
            "another; use method: uniform, or a reference with models that differ"
        )
    return np.asarray(size / total, np.float64)


def expected_unique(probability: Floats, n: float) -> float:
    """How many different texts n draws with replacement find, ``sum_s 1 - (1 - pi_s)^n``."""
    with np.errstate(divide="ignore"):
        return float(-np.expm1(n * np.log1p(-probability)).sum())


def draws_for(probability: Floats, unique: float) -> int:
    """The fewest draws with replacement that find so many different texts in the mean.

    Raises:
        ValueError: there are not more texts than that; no number of draws is sure of all.
    """
    possible = int(np.count_nonzero(probability))
    if unique > 1 and not unique < possible:
        raise ValueError(
            f"{unique:,.0f} different texts are asked for, of {possible:,} that can be drawn; ask "
            "for fewer, or draw without replacement"
        )
    return _smallest(lambda n: expected_unique(probability, n) >= unique, 1)


def inclusion(probability: Floats, n: int) -> Floats:
    """Probabilities of being in a selection of n texts without replacement.

    In proportion to the given ones; where that would be more than 1, the text is always taken and
    the rest share what is left.

    Returns:
        (N,) float64, at most 1, that add up to n.

    Raises:
        ValueError: fewer than n texts can be drawn.
    """
    possible = int(np.count_nonzero(probability))
    if n > possible:
        raise ValueError(
            f"{n:,} texts are asked for without replacement, of {possible:,} that can be drawn; "
            "lower n"
        )
    result = np.zeros(len(probability))
    certain = np.zeros(len(probability), np.bool_)
    while True:
        rest = np.where(certain, 0, probability)
        total = rest.sum()
        left = n - int(certain.sum())
        result = np.where(certain, 1, left * rest / total if total > 0 else 0)
        more = (result >= _CERTAIN) & ~certain
        if not more.any():
            return np.asarray(result, np.float64)
        certain |= more


def spread(code: npt.NDArray[np.integer], axis: Floats) -> Rows:
    """The order in which texts are gone through without replacement: like beside like.

    Each stretch of the order gives as many texts as it should, so no kind of text is left out by
    chance. klmap's own.

    Args:
        code: (N,) the domain of each text.
        axis: (N,) its place along the first principal axis of the models.

    Returns:
        (N,) the texts by domain, then along the axis.
    """
    return np.asarray(np.lexsort((axis, code)), np.intp)


def draw(probability: Floats, n: int, replacement: bool, order: Rows | None, seed: int) -> Drawn:
    """Draw a selection of texts.

    With replacement: n independent draws, ``w_u = sqrt(c_u / (n pi_u))`` for a text drawn
    ``c_u`` times (Oyama et al., EMNLP 2025 Findings, section 3). The draws of a smaller n with the
    same seed come first among those of a larger one. Without (klmap's own): systematic sampling
    with a random start (Madow 1949, "On the theory of systematic sampling, II") and ``w_u =
    1 / sqrt(p_u)`` (Horvitz and Thompson 1952) with the probabilities of :func:`inclusion`.

    Args:
        probability: (N,) from :func:`probabilities`; a text with 0 is never drawn.
        n: number of draws, or of texts.
        replacement: whether a text can be drawn more than once.
        order: (N,) from :func:`spread`, for systematic sampling; None for the texts as they stand.
        seed: of numpy's generator; the same one draws the same texts.

    Raises:
        ValueError: n is less than 1, or without replacement more than there are texts.
    """
    if n < 1:
        raise ValueError(f"n is {n}; at least one text has to be drawn")
    texts = len(probability)
    generator = np.random.default_rng(seed)
    if replacement:
        total = np.cumsum(probability)
        places = np.searchsorted(total / total[-1], generator.random(n), side="right")
        index, count = np.unique(places, return_counts=True)
        chance = probability[index]
        times, variance, balance = count / (n * chance), 1 / count, count.astype(np.float64)
    else:
        included = inclusion(probability, n)
        index = np.sort(
            _systematic(included, np.arange(texts) if order is None else order, generator)
        )
        count, chance = np.ones(len(index), np.intp), included[index]
        times, variance, balance = 1 / chance, 1 - chance, np.ones(len(index))
    design = Design(np.sqrt(times), np.asarray(variance, np.float64), balance, texts)
    return Drawn(index.astype(np.intp), count.astype(np.intp), chance, design)


def _systematic(included: Floats, order: Rows, generator: np.random.Generator) -> Rows:
    """Every text that is certain, and of the others each one at which the sum passes a step."""
    start = generator.random()
    certain = np.flatnonzero(included == 1)
    open_texts = order[(included[order] > 0) & (included[order] < 1)]
    total = np.cumsum(included[open_texts])
    steps = round(float(total[-1])) if len(total) else 0
    if not steps:
        return certain
    found = np.searchsorted(total * (steps / total[-1]), start + np.arange(steps), side="right")
    return np.concatenate([certain, open_texts[found]])


def gram(q: Floats | Floats32, drawn: Drawn) -> Floats:
    """Inner products of the models by a selection, an estimate of those by all texts, ``q q^T``.

    Args:
        q: (K, N) double-centred, nats.
        drawn: of these N texts.

    Returns:
        (K, K) float64, nats^2, of the centred and weighted coordinates (Oyama et al., EMNLP 2025
        Findings, section 3).
    """
    design = drawn.design
    points = np.asarray(q[:, drawn.index], np.float64)
    points -= (points @ design.share)[:, None]
    points *= design.weight
    return np.asarray(points @ points.T, np.float64)


def squared_distances(products: Floats) -> Floats:
    """(K, K) squared distances between the models, nats^2, from their inner products."""
    norm = np.diagonal(products)
    squares = np.maximum(norm[:, None] + norm[None, :] - 2 * products, 0)
    np.fill_diagonal(squares, 0)
    return np.asarray(squares, np.float64)


def absolute_error(estimate: Floats, exact: Floats) -> float:
    """``||G' - G||_F / ||G||_F`` (Oyama et al., EMNLP 2025 Findings, section 3).

    There, G is the (K, K) matrix of :func:`squared_distances`, and the errors of several draws are
    put together as the root of the mean of their squares.
    """
    return float(np.linalg.norm(estimate - exact) / np.linalg.norm(exact))


def relative_error(estimate: Floats, exact: Floats, least: float = 1e-3) -> float:
    """``sqrt(mean(((G' - G) / max(G, least))^2))`` (the same paper and section).

    G is the matrix of :func:`squared_distances` in nats^2, with its diagonal, which has no error.
    """
    return float(np.sqrt(np.mean(np.square((estimate - exact) / np.maximum(exact, least)))))


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
        return _smallest(
            lambda n: share_within(_with_mean(_once(pairs, probability, n), n), error) >= share,
            2,
            possible,
        )
    single = _repeated(pairs, probability)
    n = _smallest(
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


def _smallest(enough: Callable[[int], bool], least: int, most: int | None = None) -> int:
    """The smallest number from ``least`` on that is enough, as every larger one has to be.

    ``most`` is known to be enough; without it, one is looked for.
    """
    low, high = least - 1, least if most is None else max(most, least)
    while most is None and not enough(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if enough(middle):
            high = middle
        else:
            low = middle
    return high
