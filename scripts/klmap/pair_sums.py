"""Weighted sums over texts for all pairs of models: what the error of a selection follows from.

By products of matrices, as distances and their standard errors are (Oyama et al. 2025, section
3), with a weight for each text. klmap's own.
"""

from __future__ import annotations

import numpy as np

from klmap.arrays import Floats, Floats32, Rows
from klmap.geometry import CANCELLATION

_COLUMNS = 2048
_PAIR_VALUES = 1 << 20


class Pairs:
    """Weighted sums over all texts for all pairs of models, of ``y_s = (q_is - q_js)^2``.

    From products of matrices, as in :func:`klmap.geometry.pairwise_kl`; pairs for which these
    would cancel are computed from their differences.

    Attributes:
        first: (P,) the models of each pair with ``first < second``.
        second: (P,)
        squares: (P,) ``sum_s y_s``, nats^2.
    """

    def __init__(self, q: Floats | Floats32) -> None:
        self._q = q
        self.first, self.second = np.triu_indices(len(q), 1)
        self._near: Rows = np.zeros(0, np.intp)
        plain = np.ones(q.shape[1])
        norm = np.zeros(len(q))
        for begin in range(0, q.shape[1], _COLUMNS):
            norm += np.square(self._block(begin)).sum(axis=1)
        squares = self.sums(plain)
        self._near = np.flatnonzero(
            squares <= CANCELLATION * (norm[self.first] + norm[self.second])
        )
        squares[self._near] = self._direct(plain, 1)
        self.squares = squares

    def sums(self, weight: Floats) -> Floats:
        """(P,) ``sum_s weight_s y_s``, nats^2."""
        norm, products = np.zeros(len(self._q)), np.zeros((len(self._q),) * 2)
        for begin in range(0, len(weight), _COLUMNS):
            block = self._block(begin)
            weighted = block * weight[begin : begin + _COLUMNS]
            norm += np.einsum("ks,ks->k", block, weighted)
            products += weighted @ block.T
        return self._finish(norm, -2 * products, weight, 1)

    def fourths(self, weight: Floats) -> Floats:
        """(P,) ``sum_s weight_s y_s^2``, nats^4."""
        norm, products = np.zeros(len(self._q)), np.zeros((len(self._q),) * 2)
        for begin in range(0, len(weight), _COLUMNS):
            block = self._block(begin)
            power = block * block
            weighted = power * weight[begin : begin + _COLUMNS]
            norm += np.einsum("ks,ks->k", power, weighted)
            products += 6 * (weighted @ power.T)
            mixed = (weighted * block) @ block.T
            products -= 4 * (mixed + mixed.T)
        return self._finish(norm, products, weight, 2)

    def _block(self, begin: int) -> Floats:
        return np.ascontiguousarray(self._q[:, begin : begin + _COLUMNS], np.float64)

    def _finish(self, norm: Floats, products: Floats, weight: Floats, power: int) -> Floats:
        result = products[self.first, self.second] + norm[self.first] + norm[self.second]
        result[self._near] = self._direct(weight, power)
        return np.asarray(result, np.float64)

    def _direct(self, weight: Floats, power: int) -> Floats:
        """``sum_s weight_s y_s^power`` of the near pairs, from their differences."""
        result = np.zeros(len(self._near))
        step = max(1, _PAIR_VALUES // len(weight))
        for begin in range(0, len(self._near), step):
            pairs = self._near[begin : begin + step]
            y = np.asarray(self._q[self.first[pairs]], np.float64) - self._q[self.second[pairs]]
            result[begin : begin + step] = (y ** (2 * power)) @ weight
        return result
