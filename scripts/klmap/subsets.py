"""KL divergences by some of the texts alone: what a smaller text set would have given.

Each part of the texts has its own centring, as a text set of its own would (Oyama et al. 2025,
section 3); the clip threshold and the bytes per text are those of all texts, so that only the
texts differ. KLs follow from sums over texts, so those of the rest are found by subtraction. Parts
of a text set are klmap's own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from klmap import concordance, geometry
from klmap.arrays import Floats, Floats32, Rows
from klmap.blocks import ranges
from klmap.concordance import Side
from klmap.log import logger
from klmap.store import MatrixFile

MOST_MODELS = 1000
"""Of more models so many are drawn at random."""

_TEXTS = 4096
_ROUNDING = 1e-12


class Coordinates:
    """The coordinates of some models, text by text, and KLs of any of the texts.

    Attributes:
        points: (N, K) float32, double-centred, nats: a row is a text.
        texts: N.
        models: K.
        mean_bytes: UTF-8 bytes per text, B.
    """

    def __init__(self, points: Floats32, mean_bytes: float) -> None:
        self.points = points
        self.texts, self.models = points.shape
        self.mean_bytes = mean_bytes

    @classmethod
    def read(cls, matrix: MatrixFile, rows: Rows) -> Coordinates:
        """Read some rows, ascending, of a matrix."""
        points = np.empty((len(matrix.domain), len(rows)), np.float32)
        for begin, end in ranges(len(matrix.model), 4 * len(points)):
            place = np.flatnonzero((rows >= begin) & (rows < end))
            if place.size:
                points[:, place] = matrix.coordinates(begin, end)[rows[place] - begin].T
        return cls(points, matrix.mean_bytes)

    def sums(self, texts: Rows) -> Sums:
        """What KLs follow from, of some of the texts."""
        products, totals = np.zeros((self.models, self.models)), np.zeros(self.models)
        for begin in range(0, len(texts), _TEXTS):
            block = self.points[texts[begin : begin + _TEXTS]].astype(np.float64)
            products += block.T @ block
            totals += block.sum(axis=0)
        return Sums(products, totals, len(texts))

    def side(self, sums: Sums) -> Side:
        """The KLs of all pairs of models, bits per byte, prepared to be compared."""
        return concordance.side(sums.kl(self.mean_bytes))


@dataclass(frozen=True)
class Sums:
    """Sums over some texts; those of two groups of texts are added and subtracted.

    Attributes:
        products: (K, K) sums of ``q_is q_js``, nats^2.
        totals: (K,) sums of ``q_is``, nats.
        texts: how many texts.
    """

    products: Floats
    totals: Floats
    texts: int

    def without(self, part: Sums) -> Sums:
        """The sums over the texts that are not in a part of these."""
        return Sums(
            self.products - part.products, self.totals - part.totals, self.texts - part.texts
        )

    def kl(self, mean_bytes: float) -> Floats:
        """(K, K) KL by these texts alone, bits per byte, with their own centring."""
        products = self.products - np.outer(self.totals, self.totals) / self.texts
        norm = np.diagonal(products)
        scale = norm[:, None] + norm[None, :]
        squares = scale - 2 * products
        # Of equal models nothing but rounding is left.
        squares[squares <= _ROUNDING * scale] = 0
        np.fill_diagonal(squares, 0)
        return squares / (2 * self.texts * geometry.nats_per_unit(mean_bytes))


def sampled(models: int, seed: int, most: int = MOST_MODELS) -> Rows:
    """Rows of the models that are compared, ascending: all, or so many at random."""
    if models <= most:
        return np.arange(models)
    logger.info("%d of %d models are compared, drawn at random", most, models)
    return np.sort(np.random.default_rng(seed).choice(models, most, replace=False))
