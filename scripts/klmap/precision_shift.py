"""What a lower precision does to models: how far, and in which direction of likelihood space.

A quantised model, or one in a shorter number format, is a model of its own beside the same weights
in full precision. With ``d`` the difference of their log-likelihoods, the KL is ``Var_s(d) /
(2 B ln 2)`` (Oyama et al. 2025, section 3), and ``d`` centred over the texts is the shift between
their two vectors (Kishino et al. 2026). Which rows are compared, the test of whether a shift is
real, the errors of cosines, the parts by domain and the intervals are klmap's own.

What is not in a KL by chance alone: both scores have numerical errors, which do not cancel and add
the noise floor of the pair to it on average, however many texts there are. The standard error over
texts knows nothing of that. So a shift is called real only where the KL exceeds the floor, taken
with the larger of the two error bars because that of quantised weights leaves out their dtype, by
more than twice what both the texts and the few texts that the error bars are of leave open.
The error bar of a 16-bit score is of its arithmetic, with weights rounded already: what a number
format adds to the floor is the rounding of the weights, and nothing where they are stored in it.

Nor does an error over texts know how the rounding of the weights happens to fall. A small model
whose hidden units are put in another order computes the same, and is quantised in other blocks: of
seven orders of a llama of the demo the KL of nf4 varied threefold. Whether nf4 costs one such model
less than fp4 is chance; over many models, or in a large one, it evens out.

The code length that a model loses, by the mean of ``d``, is not in the KL, which is of the centred
differences.

Differences are read block by block of shifts wherever they are needed: all of them at once would
not fit in memory with 30,000 models. What is held at a time is some blocks of 32 MB, and numbers
per shift.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from klmap.arrays import Bools, Floats, Ints, Rows
from klmap.blocks import ranges
from klmap.errors import InputError
from klmap.gathered import Gathered
from klmap.geometry import nats_per_unit
from klmap.log import logger
from klmap.models_table import Model
from klmap.precisions import Pair, ladder, lowered, orphans
from klmap.split import Domains, domains_of

SURE = 2.0
"""Standard errors from which something counts as more than chance."""

NOISE_TEXTS = 64
"""Texts that the error bar of a score is measured on."""


NOTHING = (
    "No model in a lower precision beside the same one in full precision.\n"
    "Add quantizations: [none, int8, nf4, fp4] to a model in config.yaml."
)
"""What figures say where there is nothing to compare."""


@dataclass(frozen=True)
class Shifts:
    """R models in a lower precision, each against the same model in full precision.

    Attributes:
        found: where log-likelihoods are read, for as long as it is open.
        pairs: the R pairs of rows of ``found``, by family, method and name.
        kl: (R,) bits per byte.
        se: (R,) standard error of ``kl`` over texts, bits per byte.
        floor: (R,) noise floor of the pair, bits per byte; NaN where unknown.
        real: (R,) whether the shift is more than the errors of the scores.
        known: (R,) whether that can be told: the error bars of both scores are known.
        shared: (R,) what the error of the full-precision score alone adds to ``kl``, bits per byte;
            0 where it is unknown.
        mean: (R,) how many bits per byte the texts cost more than in full precision; not clipped.
        mean_se: (R,) its standard error over texts; NaN for one text.
        domains: of the texts.
    """

    found: Gathered
    pairs: list[Pair]
    kl: Floats
    se: Floats
    floor: Floats
    real: Bools
    known: Bools
    shared: Floats
    mean: Floats
    mean_se: Floats
    domains: Domains

    @property
    def models(self) -> list[Model]:
        """Rows of models.tsv and offmap.tsv, to which the pairs refer."""
        return self.found.models

    @property
    def n_bytes(self) -> Ints:
        """(N,) bytes of the texts."""
        return self.found.n_bytes

    @property
    def mean_bytes(self) -> float:
        """Bytes per text, B."""
        return self.found.mean_bytes

    @property
    def methods(self) -> list[str]:
        """All methods, from the one that should cost least."""
        return ladder({pair.method for pair in self.pairs})

    def of(self, method: str) -> Rows:
        """Which of the R pairs are of a method."""
        return np.flatnonzero([pair.method == method for pair in self.pairs])

    def read(self, numbers: Sequence[int] | Rows) -> tuple[Floats, Floats]:
        """The shifts with some of the numbers 0 to R - 1, and what each text costs more.

        Returns:
            (n, N) float64, lower less full precision, clipped and centred over texts, nats; and
            (n, N) float64, full less lower precision, not clipped, nats.

        Raises:
            InputError: a file is truncated.
        """
        return _read(self.found, [self.pairs[number] for number in numbers])

    def blocks(self, numbers: Rows) -> Iterator[tuple[Floats, Floats]]:
        """The same of many, by blocks."""
        for begin, end in ranges(len(numbers), 8 * len(self.n_bytes)):
            yield self.read(numbers[begin:end])

    def full(self, number: int) -> Model:
        """The model in full precision of a pair."""
        return self.models[self.pairs[number].full]

    def lower(self, number: int) -> Model:
        """The model in lower precision of a pair."""
        return self.models[self.pairs[number].row]


def measure(found: Gathered) -> Shifts:
    """Compare every model in a lower precision with itself in full precision.

    Raises:
        InputError: the texts are a selection, or a file is truncated.
    """
    if found.design is not None:
        raise InputError(
            "quantization: these texts are a selection of others; what a precision does is "
            "measured on all of them: remove analyses.quantization for this text set"
        )
    pairs = _sorted(lowered(found.models), found.models)
    alone = orphans(found.models, pairs)
    if alone:
        logger.warning(
            "%d models in a lower precision, the first %s, are left out: the same model in full "
            "precision is not among those that are scored; add it to config.yaml",
            len(alone), found.models[alone[0]].model,
        )  # fmt: skip
    first = np.array([pair.row for pair in pairs], np.int64)
    second = np.array([pair.full for pair in pairs], np.int64)
    texts, unit = len(found.domain), 2 * nats_per_unit(found.mean_bytes)
    squares, spread, mean = (np.empty(len(pairs)) for _ in range(3))
    deviation = np.full(len(pairs), math.nan)
    for begin, end in ranges(len(pairs), 8 * texts):
        part = slice(begin, end)
        vector, loss = _read(found, pairs[part])
        mean[part] = loss.mean(axis=1)
        if texts > 1:
            deviation[part] = loss.std(axis=1, ddof=1)
        np.square(vector, out=vector)
        squares[part] = vector.mean(axis=1)
        spread[part] = np.mean(np.square(vector, out=vector), axis=1) - squares[part] ** 2
    errors = found.noise[first], found.noise[second]
    return Shifts(
        found=found,
        pairs=pairs,
        kl=squares / unit,
        se=np.sqrt(np.maximum(spread, 0) / texts) / unit,
        floor=found.noise_floor(first, second),
        real=_real(squares, spread, errors, texts),
        known=np.isfinite(errors[0] + errors[1]),
        shared=np.nan_to_num(errors[1]) ** 2 / unit,
        mean=2 * mean / unit,
        mean_se=2 * deviation / math.sqrt(texts) / unit,
        domains=domains_of(found.domain),
    )


def _read(found: Gathered, pairs: Sequence[Pair]) -> tuple[Floats, Floats]:
    rows, inverse = np.unique(
        [*(pair.row for pair in pairs), *(pair.full for pair in pairs)], return_inverse=True
    )
    left, right = inverse[: len(pairs)], inverse[len(pairs) :]
    raw = found.raw(rows.astype(np.int64))
    loss = raw[right]
    loss -= raw[left]
    np.maximum(raw, found.clip_threshold, out=raw)
    vector = raw[left]
    vector -= raw[right]
    vector -= vector.mean(axis=1, keepdims=True)
    return vector, loss


def _sorted(pairs: Sequence[Pair], models: Sequence[Model]) -> list[Pair]:
    """By family, method and name."""
    names = {name: place for place, name in enumerate(ladder({pair.method for pair in pairs}))}

    def rank(pair: Pair) -> tuple[str, int, str, str]:
        model = models[pair.full]
        return (model.family, names[pair.method], model.model, models[pair.row].model)

    return sorted(pairs, key=rank)


def _real(squares: Floats, spread: Floats, errors: tuple[Floats, Floats], texts: int) -> Bools:
    """Whether mean squares exceed what numerical errors leave of equal models.

    If there were nothing but errors, the spread of squared differences would be that of squared
    errors as well, so it also says how exactly a few texts give an error bar.
    """
    larger = np.fmax(*errors)
    limit = 2 * larger**2
    relative = spread / np.where(squares > 0, squares, 1) ** 2
    probes = min(NOISE_TEXTS, texts)
    slack = np.sqrt(np.maximum(spread, 0) / texts + limit**2 * relative / probes)
    known = np.isfinite(errors[0] + errors[1])
    return np.asarray(known & (squares - limit > SURE * slack), np.bool_)


def subject(shifts: Shifts, texts: str, unit: str) -> str:
    """How many models on which texts, for the subtitle of a figure.

    Args:
        shifts: the models.
        texts: name of the text set.
        unit: of what is drawn.
    """
    count, lower = len({pair.full for pair in shifts.pairs}), len(shifts.pairs)
    return (
        f"{lower:,} model{'s' if lower != 1 else ''} in a lower precision against {count:,} in "
        f"full precision · {len(shifts.n_bytes):,} texts of “{texts}” · {unit}"
    )
