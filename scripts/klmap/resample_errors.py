"""What fewer texts cost in accuracy: errors of distances over repeated choices of texts.

The absolute and the relative error, the sampling error of the text set itself and their total are
those of Oyama et al., EMNLP 2025 Findings, section 3. Errors of the KL of pairs, the choice without
replacement and the number of texts for a wanted error are klmap's own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields

import numpy as np

from klmap import pair_errors, resampling
from klmap.arrays import Bools, Floats
from klmap.log import Progress
from klmap.pair_sums import Pairs
from klmap.resample_draws import KINDS, Asked, Kind, Reference
from klmap.resampling import Drawn

FRACTIONS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8)
"""Shares of the texts at which errors are measured."""

WANTED = (0.01, 0.02, 0.05, 0.1, 0.2)
"""Relative errors of a KL for which the number of texts is looked for."""

CHECKS = 20
"""Draws, at most, that check whether a number of texts holds what it promises."""

MOST_FOR_NUMBERS = 300
"""Models, at most, on which the number of texts for a wanted error is computed."""

FEWEST_DRAWS = 5

_PRODUCTS = 4e12
"""Products of two numbers that all draws of the error report may take."""

_ROUNDING = 1e-12


@dataclass(frozen=True)
class Errors:
    """How far the distances by one choice of texts are from those by all.

    Attributes:
        absolute: of the matrix of squared distances, relative to its norm.
        relative: root mean square of the relative error of a squared distance, as in the paper.
        median: of the relative error of a KL without its sign, over pairs.
        q95: 95 % quantile of the same.
        within: share of the pairs whose KL is nearer than the wanted error.
    """

    absolute: float
    relative: float
    median: float
    q95: float
    within: float


MEASURES = tuple(own.name for own in fields(Errors))


@dataclass(frozen=True)
class Cost:
    """The errors of one way to choose so many texts.

    Attributes:
        kind: how; None for the set itself, all N texts drawn again with replacement.
        n: draws, or texts where there is no replacement.
        texts: different texts, mean over the draws.
        mean: over the draws.
        sd: over the draws.
        total: absolute error with that of the set itself, root of the sum of squares.
        ratio: absolute error of as many uniform texts with replacement over this one; NaN where
            there is none.
        name: of the selection that the configuration asks for; empty for one of the series.
    """

    kind: Kind | None
    n: int
    texts: float
    mean: Errors
    sd: Errors
    total: float
    ratio: float
    name: str = ""


@dataclass(frozen=True)
class Number:
    """How many texts hold a wanted error.

    Attributes:
        error: relative error of a KL that is wanted.
        share: of the pairs, that are to be within it.
        kind: how texts are chosen.
        n: draws, or texts where there is no replacement; 0 where no number is enough.
        texts: different texts that are expected; NaN where no number is enough.
        found: share of the pairs within the error, mean of the draws that check it.
    """

    error: float
    share: float
    kind: Kind
    n: int
    texts: float
    found: float


@dataclass(frozen=True)
class _Exact:
    """The distances by all texts, and those by some compared with them."""

    reference: Reference
    squares: Floats
    pairs: Floats
    apart: Bools

    @classmethod
    def of(cls, reference: Reference) -> _Exact:
        products = reference.q @ reference.q.T
        squares = resampling.squared_distances(products)
        upper = np.triu_indices(len(squares), 1)
        pairs, norm = squares[upper], np.diagonal(products)
        # Of equal models nothing but rounding is left.
        apart = pairs > _ROUNDING * (norm[upper[0]] + norm[upper[1]])
        return cls(reference, squares, pairs[apart], apart)

    def errors(self, drawn: Drawn, wanted: float) -> Errors:
        squares = resampling.squared_distances(resampling.gram(self.reference.q, drawn))
        found = squares[np.triu_indices(len(squares), 1)][self.apart]
        # The factor between a squared distance and a KL cancels.
        off = np.abs(found / self.pairs - 1)
        median, q95 = (float(value) for value in np.quantile(off, (0.5, 0.95)))
        return Errors(
            resampling.absolute_error(squares, self.squares),
            resampling.relative_error(squares, self.squares),
            median, q95, float((off <= wanted).mean()),
        )  # fmt: skip


def affordable(models: int, texts: int, draws: int) -> int:
    """How many draws of each kind the error report makes: as many as asked for, or as time allows.

    Args:
        models: that are compared, K.
        texts: of the reference, N.
        draws: that are asked for.
    """
    one = len(KINDS) * sum(FRACTIONS) * texts * models**2
    return min(draws, max(FEWEST_DRAWS, int(_PRODUCTS / one)))


def costs(
    reference: Reference, draws: int, wanted: float, seed: int, asked: Sequence[Asked] = ()
) -> list[Cost]:
    """The errors of every kind at rising numbers of texts; the set itself comes first.

    Args:
        reference: the models on all texts.
        draws: of each kind and number.
        wanted: relative error of a KL, for ``within``.
        seed: of the draws.
        asked: selections whose errors come last.

    Returns:
        Nothing where no two models differ.
    """
    exact = _Exact.of(reference)
    if not exact.apart.any():
        return []
    sizes = sorted({max(2, round(own * reference.texts)) for own in FRACTIONS})
    progress = Progress((len(sizes) * len(KINDS) + 1 + len(asked)) * draws, "choices of texts")

    def repeated(kind: Kind, n: int) -> tuple[float, Errors, Errors]:
        texts, found = [], []
        for drawn in reference.several(kind, n, seed, draws):
            texts.append(len(drawn.index))
            found.append(astuple(exact.errors(drawn, wanted)))
            progress.add(1)
        spread = np.std(found, axis=0, ddof=1 if draws > 1 else 0)
        return float(np.mean(texts)), Errors(*np.mean(found, axis=0)), Errors(*spread)

    itself = repeated(KINDS[0], reference.texts)
    own = itself[1].absolute
    result = [Cost(None, reference.texts, *itself, own, math.nan)]
    for size in sizes:
        uniform = math.nan
        for kind in KINDS:
            try:
                n = reference.number(kind, size)
            except ValueError:
                # So many texts have no variance that there are not so many to draw.
                progress.add(draws)
                continue
            found = repeated(kind, n)
            error = found[1].absolute
            if kind == KINDS[0]:
                uniform = error
            ratio = uniform / error if error > 0 else math.nan
            result.append(Cost(kind, n, *found, math.hypot(error, own), ratio))
    for each in asked:
        found = repeated(each.kind, each.n)
        total = math.hypot(found[1].absolute, own)
        result.append(Cost(each.kind, each.n, *found, total, math.nan, each.name))
    progress.close()
    return result


def numbers(
    reference: Reference, wanted: float, share: float, draws: int, seed: int
) -> list[Number]:
    """How many texts of each kind hold a wanted error, and whether draws agree.

    Args:
        reference: at most ``MOST_FOR_NUMBERS`` models on all texts.
        wanted: one more relative error of a KL than those of ``WANTED``.
        share: of the pairs, that are to be within the error.
        draws: that check each number; at most ``CHECKS`` are made.
        seed: of the draws.

    Returns:
        By rising error; nothing where no two models differ.
    """
    exact = _Exact.of(reference)
    if not exact.apart.any():
        return []
    errors = sorted({*WANTED, wanted})
    pairs = Pairs(reference.q)
    progress = Progress(len(errors) * len(KINDS), "wanted errors")
    result = []
    for error in errors:
        for kind in KINDS:
            result.append(_number(exact, pairs, kind, error, share, min(draws, CHECKS), seed))
            progress.add(1)
    progress.close()
    return result


def _number(
    exact: _Exact, pairs: Pairs, kind: Kind, error: float, share: float, draws: int, seed: int
) -> Number:
    reference = exact.reference
    probability = reference.probability[kind.method]
    try:
        n = pair_errors.texts_for(pairs, probability, kind.replacement, error, share)
    except ValueError:
        # With replacement, no number of draws is sure to find so many texts.
        return Number(error, share, kind, 0, math.nan, math.nan)
    texts = resampling.expected_unique(probability, n) if kind.replacement else float(n)
    found = [exact.errors(drawn, error).within for drawn in reference.several(kind, n, seed, draws)]
    return Number(error, share, kind, n, texts, float(np.mean(found)))
