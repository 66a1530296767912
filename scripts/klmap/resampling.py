"""Fewer texts: how likely each is drawn, how they are drawn, and how far distances are then off.

Drawing with replacement by the length of the columns of Q (LS) or by what they add to the
distances (KL), weights and errors are those of Oyama et al., EMNLP 2025 Findings (arXiv
2505.15428, "Likelihood Variance as Text Importance for Resampling Texts to Map Language Models"),
section 3. Drawing without replacement, spread over domains, is klmap's own.

Throughout, K is the number of models and N the number of texts;
``q`` holds the double-centred coordinates of models on all N texts, in nats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from klmap.arrays import Floats, Floats32, Rows
from klmap.design import Design

METHODS = ("uniform", "ls", "kl")

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
    return smallest(lambda n: expected_unique(probability, n) >= unique, 1)


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


def smallest(enough: Callable[[int], bool], least: int, most: int | None = None) -> int:
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
