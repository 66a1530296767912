"""Products of models: what a regression in the dual form needs of their thousands of features.

The features of a selection, whose texts stand for those of a reference (:mod:`klmap.design`), are
weighted: a product of two models over d texts estimates that over all N, so that penalties keep
their meaning (Oyama et al., EMNLP 2025 Findings, section 3, for Q; of L it is klmap's own).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from klmap import ridge
from klmap.arrays import Floats, Floats32, Rows
from klmap.blocks import in_order, ranges
from klmap.geometry import nats_per_unit
from klmap.store import MatrixFile

Features = Floats | Floats32

FEATURES = ("Q", "L")
"""Double-centred coordinates, and clipped log-likelihoods as they are, times their weights."""


_ROWS = 512


@dataclass(frozen=True)
class Kernel:
    """Some models of a map, and the products of their features.

    Attributes:
        matrix: where the features of other models are.
        features: one of ``FEATURES``.
        rows: (n,) rows of the models on the map, rising.
        values: (n, N) their features, nats.
        origin: (N,) mean of each column over them.
        gram: (n, n) products, nats^2, seen from ``origin``.
        level: (n,) mean of each row over texts, seen from ``origin``: weighted where the features
            are.
    """

    matrix: MatrixFile
    features: str
    rows: Rows
    values: Features
    origin: Floats
    gram: Floats
    level: Floats

    def among(self, rows: Rows) -> Floats:
        """(m, m) products of some of the models, given by their rows on the map."""
        places = np.searchsorted(self.rows, rows)
        return self.gram[np.ix_(places, places)]

    def kl(self, rows: Rows) -> Floats:
        """(m, m) KL, bits per byte, among some of the models, given by their rows on the map."""
        places = np.searchsorted(self.rows, rows)
        own = self.gram[np.ix_(places, places)]
        return self._kl(own, np.diagonal(own), self.level[places], places)

    def cross(self, others: Rows, rows: Rows) -> Iterator[tuple[Floats, Floats]]:
        """Products and KLs of any models of the map with some of the kernel's.

        Args:
            others: (M,) rows on the map, rising.
            rows: (m,) rows on the map of models of the kernel.

        Yields:
            (B, m) nats^2 and (B, m) bits per byte, the others in their order, a block at a time.
        """
        places = np.searchsorted(self.rows, rows)
        for _, block in _blocks(self.matrix, self.features, others):
            with threadpool_limits(1):
                found = ridge.products(block, self.values, self.origin)[:, places]
            seen = block - self.origin
            square, level = np.einsum("ks,ks->k", seen, seen), _level(self.matrix, seen)
            yield found, self._kl(found, square, level, places)

    def _kl(self, products: Floats, square: Floats, level: Floats, places: Rows) -> Floats:
        """Of models with these products, squared norms and levels with some of the kernel's.

        A KL is a variance over texts, so that a difference of levels, which log-likelihoods have
        and coordinates have not, is taken away. Of nearly equal models it is right to rounding.
        """
        texts, design = self.matrix.texts, self.matrix.design
        kl = square[:, None] + np.diagonal(self.gram)[places] - 2 * products
        times = texts if design is None else float(design.times.sum())
        kl -= times * np.square(level[:, None] - self.level[places])
        kl /= 2 * texts * nats_per_unit(self.matrix.mean_bytes)
        return np.maximum(kl, 0, out=kl)


def read(matrix: MatrixFile, features: str, rows: Rows) -> Kernel:
    """The kernel of some models.

    Args:
        matrix: of the K models.
        features: one of ``FEATURES``.
        rows: (n,) rows of the models, rising; their features have to fit in memory.
    """
    shape = len(rows), len(matrix.domain)
    values: Features = np.empty(shape)
    if features == "Q":
        values = np.empty(shape, np.float32)
    for begin, block in _blocks(matrix, features, rows):
        values[begin : begin + len(block)] = block
    origin = values.mean(axis=0, dtype=np.float64)
    # By ranges of rows, so that the same bits are found on any number of threads.
    parts = in_order(
        lambda begin, end: ridge.products(values[begin:end], values, origin),
        ranges(len(rows), 1, _ROWS),
    )
    gram = np.concatenate(list(parts))
    if matrix.design is None:
        level = values.mean(axis=1, dtype=np.float64) - origin.mean()
    else:
        level = _level(matrix, values) - _level(matrix, origin[None])
    return Kernel(matrix, features, rows, values, origin, gram, level)


def mean_loglik(matrix: MatrixFile) -> Floats:
    """(K,) mean log-likelihood of each model after clipping, nats per text; weighted if need be."""
    everyone = np.arange(len(matrix.model))
    return np.concatenate([_level(matrix, block) for _, block in _blocks(matrix, "L", everyone)])


def _level(matrix: MatrixFile, features: Features) -> Floats:
    """Mean over texts of what was weighted: of ``w f`` the mean of ``f`` weighted by ``w^2``."""
    if matrix.design is None:
        return np.asarray(features.mean(axis=1), np.float64)
    weight = matrix.design.weight / matrix.design.times.sum()
    return np.asarray(np.einsum("ks,s->k", features, weight), np.float64)


def _blocks(matrix: MatrixFile, features: str, rows: Rows) -> Iterator[tuple[int, Features]]:
    """Features of the rows, a block at a time, and the number of the block's first row."""
    done = 0
    for begin, end in ranges(len(matrix.model), 8 * len(matrix.domain)):
        inside = rows[(rows >= begin) & (rows < end)] - begin
        if not len(inside):
            continue
        if features == "Q":
            yield done, matrix.coordinates(begin, end)[inside]
        else:
            clipped = np.maximum(matrix.loglik(begin, end)[inside], matrix.clip_threshold)
            yield done, clipped if matrix.design is None else clipped * matrix.design.weight
        done += len(inside)
