"""Whether precisions shift models in one direction: cosines between shifts of likelihood space.

The cosine of two shifts is the correlation of their differences over the texts (Kishino et al. 2026
compare shifts of models; errors and controls are klmap's own). Two of unrelated direction have a
cosine about 0 with standard deviation ``sqrt(sum a^2 b^2 / (sum a^2 sum b^2))``, that of random
signs of the texts: ``1 / sqrt(N)`` where large differences fall on texts of their own, more where
both have them on the same, long texts. A cosine from two shifts of one model has its error in
full precision on both sides, which alone gives ``e^2 / (2 B ln 2)`` over the root of both KLs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from klmap.arrays import Floats
from klmap.correlation import standard
from klmap.files import write_tsv
from klmap.precision_shift import Shifts

COLUMNS = (
    "first", "second", "kind", "family", "methods", "cosine", "se", "null_sd", "beside_length",
    "shared_noise",
)  # fmt: skip

KINDS = ("methods", "family", "families")
"""Two methods on one model; one method on two models of a family; on models of two families."""


@dataclass(frozen=True)
class Cosines:
    """Cosines between the shifts of R models.

    Attributes:
        cosine: (R, R) float64; NaN for a model that is not shifted at all.
        se: (R, R) standard errors over texts, as a bootstrap gives them in the limit (delta
            method).
        null_sd: (R, R) standard deviation where the two directions are unrelated.
        beside_length: (R, R) correlation of what the number of bytes of the texts leaves: longer
            texts lose more, which alone makes shifts alike.
    """

    cosine: Floats
    se: Floats
    null_sd: Floats
    beside_length: Floats


@dataclass(frozen=True)
class Compared:
    """Two shifts.

    Attributes:
        first: number of the one.
        second: number of the other, larger.
        kind: one of ``KINDS``.
        methods: the method, or both of them.
    """

    first: int
    second: int
    kind: str
    methods: str


def cosines(shifts: Shifts) -> Cosines:
    """Cosines between all shifts, with errors and controls."""
    texts = shifts.vector.shape[1]
    norm = np.sqrt(np.mean(shifts.vector**2, axis=1, keepdims=True))
    with np.errstate(invalid="ignore", divide="ignore"):
        unit = np.where(norm > 0, shifts.vector / norm, np.nan)
    cosine = np.clip(unit @ unit.T / texts, -1, 1)
    squares = unit**2
    both = squares @ squares.T / texts
    third = unit**3 @ unit.T / texts
    fourth = np.diagonal(both)
    # Mean square of z1 z2 - r (z1^2 + z2^2) / 2, the influence of a text on a correlation.
    influence = both - cosine * (third + third.T)
    influence += cosine**2 / 4 * (fourth[:, None] + fourth[None, :] + 2 * both)
    length = unit @ standard(shifts.n_bytes) / math.sqrt(texts)
    rest = np.sqrt(np.maximum(1 - length**2, 0))
    with np.errstate(invalid="ignore", divide="ignore"):
        beside = (cosine - np.outer(length, length)) / np.outer(rest, rest)
    np.fill_diagonal(influence, 0)
    return Cosines(
        cosine=cosine,
        se=np.sqrt(np.maximum(influence, 0) / texts),
        null_sd=np.sqrt(both / texts),
        beside_length=np.clip(beside, -1, 1),
    )


def compared(shifts: Shifts) -> Iterator[Compared]:
    """Pairs of shifts with something in common: the model or the method."""
    pairs = shifts.pairs
    for second, other in enumerate(pairs):
        for first, one in enumerate(pairs[:second]):
            if one.full == other.full and one.row != other.row:
                yield Compared(first, second, "methods", f"{one.method}, {other.method}")
            elif one.method == other.method and one.full != other.full:
                alike = shifts.full(first).family == shifts.full(second).family
                yield Compared(first, second, KINDS[1 if alike else 2], one.method)


def shared_noise(shifts: Shifts, first: int, second: int) -> float:
    """The cosine that the error of one score in full precision gives; 0 where there are two."""
    if shifts.pairs[first].full != shifts.pairs[second].full:
        return 0.0
    size = math.sqrt(shifts.kl[first] * shifts.kl[second])
    return min(float(shifts.shared[first]) / size, 1.0) if size > 0 else math.nan


def write(path: Path, shifts: Shifts, found: Cosines) -> None:
    """Write cosines.tsv."""

    def known(value: float) -> float | None:
        return None if math.isnan(value) else float(value)

    write_tsv(path, COLUMNS, (
        (
            shifts.lower(item.first).model, shifts.lower(item.second).model, item.kind,
            _families(shifts, item), item.methods,
            *(
                known(values[item.first, item.second])
                for values in (found.cosine, found.se, found.null_sd, found.beside_length)
            ),
            known(shared_noise(shifts, item.first, item.second)),
        )
        for item in compared(shifts)
    ))  # fmt: skip


def _families(shifts: Shifts, item: Compared) -> str:
    first, second = (shifts.full(number).family for number in (item.first, item.second))
    return first if first == second else f"{first}, {second}"
