"""From log-likelihoods on the disk to coordinates on the disk, a block of models at a time.

The numbers are those of :func:`klmap.geometry.clip_threshold` and
:func:`klmap.geometry.double_centre` on the whole matrix, bit by bit, whatever the block size.
"""

from __future__ import annotations

import math

import numpy as np

from klmap import geometry
from klmap.arrays import Floats
from klmap.blocks import ranges
from klmap.design import Design
from klmap.log import Progress
from klmap.store import MatrixWriter

_SPARE = 1 << 20


class LowQuantile:
    """A low quantile of values that are seen once, with memory for the lowest of them alone.

    Args:
        quantile: the share of the values below it, between 0 and 1.
        most: the most values there can be; ``quantile`` times as many are kept, and half again.
    """

    def __init__(self, quantile: float, most: int) -> None:
        self.quantile = quantile
        self.seen = 0
        self._needed = min(most, math.floor((most - 1) * quantile) + 2)
        self._lowest = np.empty(self._needed + max(self._needed // 2, min(most, _SPARE)))
        self._filled = 0
        self._bound = math.inf

    def add(self, values: Floats) -> None:
        """See more values, of any shape; not-a-number and infinities are not among them."""
        self.seen += values.size
        rest = values.ravel()
        while rest.size:
            # What is not below the bound has as many lower values as will be asked for.
            rest = rest[rest < self._bound]
            part = rest[: len(self._lowest) - self._filled]
            self._lowest[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            rest = rest[len(part) :]
            if self._filled == len(self._lowest):
                self._lowest.partition(self._needed - 1)
                self._filled = self._needed
                self._bound = self._lowest[self._needed - 1]

    def value(self) -> float:
        """The quantile of what was seen, as ``numpy.quantile`` interpolates it."""
        position = (self.seen - 1) * self.quantile
        lower = math.floor(position)
        upper = min(lower + 1, self.seen - 1)
        lowest = self._lowest[: self._filled]
        lowest.partition((lower, upper))
        first, second, share = float(lowest[lower]), float(lowest[upper]), position - lower
        step = second - first
        return first + step * share if share < 0.5 else second - step * (1 - share)


def write_coordinates(file: MatrixWriter, threshold: float, design: Design | None = None) -> None:
    """Clip the log-likelihoods of a matrix in the making, centre them, and write that beside them.

    Two passes over the rows: one for the mean of every text, one that subtracts it.

    Args:
        file: its log-likelihoods have all been appended.
        threshold: nats; lower values count as this one.
        design: how the texts stand for those of a reference, if they do.

    Raises:
        OSError: the disk is full.
    """
    models, texts = file.models, file.texts
    progress = Progress(2 * models, "rows centred")
    # The sum so far is the first row of every block, so that rows are added one after another
    # as they would be in a single block.
    total = np.zeros((1, texts))
    for begin, end in ranges(models, 8 * texts):
        rows = geometry.centre_texts(file.loglik(begin, end), threshold, design)
        total[0] = np.concatenate([total, rows]).sum(axis=0)
        progress.add(end - begin)
    mean = total / max(models, 1)
    for begin, end in ranges(models, 8 * texts):
        rows = geometry.centre_texts(file.loglik(begin, end), threshold, design)
        rows -= mean
        file.write_coordinates(begin, rows.astype(np.float32))
        progress.add(end - begin)
