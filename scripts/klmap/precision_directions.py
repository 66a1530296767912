"""Whether precisions shift models in one direction: cosines between shifts of likelihood space.

The cosine of two shifts is the correlation of their differences over the texts (Kishino et al. 2026
compare shifts of models; errors and controls are klmap's own). Two of unrelated direction have a
cosine about 0 with standard deviation ``sqrt(sum a^2 b^2 / (sum a^2 sum b^2))``, that of random
signs of the texts: ``1 / sqrt(N)`` where large differences fall on texts of their own, more where
both have them on the same, long texts. A cosine from two shifts of one model has its error in
full precision on both sides, which alone gives ``e^2 / (2 B ln 2)`` over the root of both KLs.

Pairs of models grow with the square of their number, and all of them say no more than a part does:
of one method on two models, of one family or of two, a random sample is compared.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from klmap.arrays import Floats, Rows
from klmap.blocks import ranges
from klmap.correlation import standard
from klmap.files import write_tsv
from klmap.log import logger
from klmap.precision_shift import Shifts

COLUMNS = (
    "first", "second", "kind", "family", "methods", "cosine", "se", "null_sd", "beside_length",
    "shared_noise", "pairs",
)  # fmt: skip

KINDS = ("methods", "family", "families")
"""Two methods on one model; one method on two models of a family; on models of two families."""

MOST_PAIRS = 2000
"""Pairs of one method within families, and across them, that are compared; of more, a sample."""

MOST_SHOWN = 1000
"""Shifts that are all compared with each other, for a picture; of more, those of some models."""

_SEED = 42


@dataclass(frozen=True)
class Compared:
    """Two shifts with something in common: the model or the method.

    Attributes:
        first: number of the one.
        second: number of the other, larger.
        kind: one of ``KINDS``.
        methods: the method, or both of them.
        of: how many pairs there are of the same kind and methods, compared or not.
    """

    first: int
    second: int
    kind: str
    methods: str
    of: int


@dataclass(frozen=True)
class Cosines:
    """Cosines between shifts, of P pairs with errors and controls, of M shifts all.

    Attributes:
        pairs: the P pairs.
        cosine: (P,) float64; NaN where a model is not shifted at all.
        se: (P,) standard errors over texts, as a bootstrap gives them in the limit (delta method).
        null_sd: (P,) standard deviation where the two directions are unrelated.
        beside_length: (P,) correlation of what the number of bytes of the texts leaves: longer
            texts lose more, which alone makes shifts alike.
        shown: (M,) numbers of shifts, rising.
        between: (M, M) float64, their cosines.
    """

    pairs: list[Compared]
    cosine: Floats
    se: Floats
    null_sd: Floats
    beside_length: Floats
    shown: Rows
    between: Floats


def cosines(shifts: Shifts) -> Cosines:
    """Cosines between shifts, with errors and controls.

    Raises:
        InputError: a file is truncated.
    """
    pairs = compared(shifts)
    texts = len(shifts.n_bytes)
    parts = [_of_pairs(shifts, pairs[a:b]) for a, b in ranges(len(pairs), 16 * texts)]
    shown = _shown(shifts)
    cosine, se, null_sd, beside = np.concatenate([np.empty((4, 0)), *parts], axis=1)
    return Cosines(pairs, cosine, se, null_sd, beside, shown, _of_all(shifts, shown))


def _shown(shifts: Shifts) -> Rows:
    """Numbers of shifts for a picture: all methods of models that are evenly spaced by family."""
    numbers = _by_model(shifts)
    models = sorted(
        numbers.values(), key=lambda own: (shifts.full(own[0]).family, shifts.full(own[0]).model)
    )
    count = min(len(models), max(MOST_SHOWN * len(models) // max(len(shifts.pairs), 1), 1))
    kept = np.linspace(0, len(models) - 1, count).astype(np.intp)
    return np.array(sorted(n for place in kept for n in models[place]), np.intp)


def _by_model(shifts: Shifts) -> dict[int, list[int]]:
    """Numbers of the shifts of each model, by its row in full precision."""
    found: dict[int, list[int]] = {}
    for number, pair in enumerate(shifts.pairs):
        found.setdefault(pair.full, []).append(number)
    return found


def _unit(shifts: Shifts, numbers: Rows) -> Floats:
    """(n, N) shifts with the mean square 1; NaN for one that is none."""
    vector, _ = shifts.read(numbers)
    norm = np.sqrt(np.mean(vector**2, axis=1, keepdims=True))
    vector /= np.where(norm > 0, norm, np.nan)
    return vector


def _of_pairs(shifts: Shifts, pairs: Sequence[Compared]) -> Floats:
    """(4, P) cosines, their errors and what is expected of them, as in :class:`Cosines`."""
    numbers, inverse = np.unique(
        [*(pair.first for pair in pairs), *(pair.second for pair in pairs)], return_inverse=True
    )
    left, right = inverse[: len(pairs)], inverse[len(pairs) :]
    unit = _unit(shifts, numbers)
    texts = unit.shape[1]
    lengths = unit @ standard(shifts.n_bytes.astype(np.float64)) / math.sqrt(texts)
    fourths = np.mean(unit**4, axis=1)
    one, other = unit[left], unit[right]
    product = one * other
    cosine = np.clip(product.mean(axis=1), -1, 1)
    both = np.mean(product**2, axis=1)
    # Mean square of z1 z2 - r (z1^2 + z2^2) / 2, the influence of a text on a correlation.
    thirds = np.einsum("pn,pn->p", product, one**2 + other**2) / texts
    influence = both - cosine * thirds
    influence += cosine**2 / 4 * (fourths[left] + fourths[right] + 2 * both)
    rest = np.sqrt(np.maximum(1 - lengths**2, 0))
    with np.errstate(invalid="ignore", divide="ignore"):
        beside = (cosine - lengths[left] * lengths[right]) / (rest[left] * rest[right])
    return np.stack([
        cosine, np.sqrt(np.maximum(influence, 0) / texts), np.sqrt(both / texts),
        np.clip(beside, -1, 1),
    ])  # fmt: skip


def _of_all(shifts: Shifts, numbers: Rows) -> Floats:
    """(M, M) cosines, from two blocks of shifts at a time."""
    texts = len(shifts.n_bytes)
    found = np.empty((len(numbers), len(numbers)))
    parts = [slice(*ends) for ends in ranges(len(numbers), 8 * texts)]
    for place, here in enumerate(parts):
        unit = _unit(shifts, numbers[here])
        for there in parts[: place + 1]:
            other = unit if here == there else _unit(shifts, numbers[there])
            found[here, there] = unit @ other.T / texts
            found[there, here] = found[here, there].T
    return np.clip(found, -1, 1)


def compared(shifts: Shifts) -> list[Compared]:
    """Pairs of shifts with something in common, by the second and the first.

    Two methods on one model: all. One method on two models: at most ``MOST_PAIRS`` of each method
    within families, and across them; of more, a random sample, the same one each time.
    """
    both = [
        (first, second, f"{shifts.pairs[first].method}, {shifts.pairs[second].method}")
        for numbers in _by_model(shifts).values()
        for first, second in itertools.combinations(numbers, 2)
    ]
    counts = Counter(methods for _, _, methods in both)
    found = [
        Compared(first, second, KINDS[0], methods, counts[methods])
        for first, second, methods in both
    ]
    rng = np.random.default_rng(_SEED)
    for method in shifts.methods:
        numbers = shifts.of(method)
        family = _starts([shifts.full(number).family for number in numbers])
        model = _starts([shifts.pairs[number].full for number in numbers])
        for kind, low, high in (
            (KINDS[1], family, model), (KINDS[2], np.zeros_like(family), family),
        ):  # fmt: skip
            some, total = _drawn(low, high, rng)
            both_ends = numbers[some].tolist()
            found += [Compared(one, other, kind, method, total) for one, other in both_ends]
    return sorted(found, key=lambda pair: (pair.second, pair.first))


def _starts(values: Sequence[object]) -> Rows:
    """Where the run of equal values begins in which each of them is."""
    places = np.arange(len(values))
    new = [True, *(one != other for one, other in itertools.pairwise(values))]
    return np.maximum.accumulate(np.where(new, places, 0))


def _drawn(low: Rows, high: Rows, rng: np.random.Generator) -> tuple[Rows, int]:
    """Some of the pairs of each place with those from ``low`` to before ``high``, and how many."""
    width = high - low
    ends = np.cumsum(width)
    total = int(ends[-1])
    some = np.arange(total)
    if total > MOST_PAIRS:
        some = rng.choice(total, MOST_PAIRS, replace=False)
    second = np.searchsorted(ends, some, side="right")
    first = high[second] - (ends[second] - some)
    return np.stack([first, second], axis=1), total


def shared_noise(shifts: Shifts, first: int, second: int) -> float:
    """The cosine that the error of one score in full precision gives; 0 where there are two."""
    if shifts.pairs[first].full != shifts.pairs[second].full:
        return 0.0
    size = math.sqrt(shifts.kl[first] * shifts.kl[second])
    return min(float(shifts.shared[first]) / size, 1.0) if size > 0 else math.nan


def write(path: Path, shifts: Shifts, found: Cosines) -> None:
    """Write cosines.tsv, and say of what it holds a sample."""

    def known(value: float) -> float | None:
        return None if math.isnan(value) else float(value)

    write_tsv(path, COLUMNS, (
        (
            shifts.lower(item.first).model, shifts.lower(item.second).model, item.kind,
            _families(shifts, item), item.methods,
            *(
                known(values[place])
                for values in (found.cosine, found.se, found.null_sd, found.beside_length)
            ),
            known(shared_noise(shifts, item.first, item.second)), item.of,
        )
        for place, item in enumerate(found.pairs)
    ))  # fmt: skip
    listed = Counter((item.kind, item.methods, item.of) for item in found.pairs)
    for (kind, methods, total), count in listed.items():
        if count < total:
            logger.info(
                "cosines.tsv: a random sample, %s of %s pairs of %s %s",
                f"{count:,}", f"{total:,}", methods,
                "within families" if kind == KINDS[1] else "across families",
            )  # fmt: skip


def _families(shifts: Shifts, item: Compared) -> str:
    first, second = (shifts.full(number).family for number in (item.first, item.second))
    return first if first == second else f"{first}, {second}"
