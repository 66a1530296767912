"""What precisions cost, by method, by domain and in which order: summaries of shifts, and tables.

All of them are klmap's own.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from klmap.arrays import Floats
from klmap.files import write_tsv
from klmap.geometry import nats_per_unit
from klmap.log import logger
from klmap.precision_shift import SURE, Shifts
from klmap.precisions import ladder

DRAWS = 1000
"""Bootstrap samples behind the intervals of medians."""

SHIFT_COLUMNS = (
    "model", "full", "method", "family", "kl", "se", "noise_floor", "kl_less_floor", "real",
    "mean_shift", "mean_shift_se",
)  # fmt: skip
METHOD_COLUMNS = (
    "method", "models", "real", "median_kl", "low", "high", "q25", "q75", "median_shift", "worse",
    "better",
)  # fmt: skip
DOMAIN_COLUMNS = (
    "method", "domain", "models", "texts", "text_share", "share", "share_se", "ratio",
    "mean_shift", "mean_shift_se",
)  # fmt: skip
ORDER_COLUMNS = ("full", "first", "second", "kl_first", "kl_second", "difference", "se", "verdict")

_SEED = 42
_BLOCK = 50


@dataclass(frozen=True)
class Method:
    """What a method does to the models that it is applied to.

    Attributes:
        name: of the method.
        models: how many there are.
        real: how many of them are farther from full precision than errors explain.
        kl: median KL, bits per byte.
        low: lower end of its 95 % interval, by bootstrap over models and texts.
        high: upper end.
        quartiles: of the KLs.
        mean_shift: median of what the texts cost more, bits per byte.
        worse: models that the texts cost more by over two standard errors.
        better: those that they cost less.
    """

    name: str
    models: int
    real: int
    kl: float
    low: float
    high: float
    quartiles: tuple[float, float]
    mean_shift: float
    worse: int
    better: int


@dataclass(frozen=True)
class Part:
    """What a domain contributes to the shifts of a method.

    Attributes:
        method: name.
        domain: name.
        models: how many models there are of the method.
        texts: of the domain.
        text_share: of all texts; what ``share`` would be if all texts carried equally.
        share: of the KL, mean over the models.
        share_se: its standard error over texts.
        mean_shift: how many bits per byte of the domain its texts cost more, mean over the models.
        mean_shift_se: its standard error over the texts of the domain; NaN for one text.
    """

    method: str
    domain: str
    models: int
    texts: int
    text_share: float
    share: float
    share_se: float
    mean_shift: float
    mean_shift_se: float


@dataclass(frozen=True)
class Order:
    """Two methods on one model: whether the one that should cost more does.

    Attributes:
        full: name of the model in full precision.
        first: method that should cost less.
        second: method that should cost more.
        kl: KLs of both, bits per byte.
        difference: second less first.
        se: its standard error over texts, which are the same for both.
        verdict: ``as expected`` or ``reversed``, by more than two standard errors; ``undecided``;
            or ``noise`` where neither shift is real.
    """

    full: str
    first: str
    second: str
    kl: tuple[float, float]
    difference: float
    se: float
    verdict: str


def by_method(shifts: Shifts, draws: int = DRAWS) -> list[Method]:
    """Median KL of each method, with an interval that holds for other models and texts.

    Each of the bootstrap samples draws the texts anew, the same ones for all models, and the models
    of each method. Models are drawn one by one, as if they were independent.
    """
    rng = np.random.default_rng(_SEED)
    texts = len(shifts.n_bytes)
    # How often a text is drawn is a small number, and there are as many as texts times samples.
    counts = np.empty((texts, draws), np.uint16)
    for begin in range(0, draws, _BLOCK):
        chance, some = np.full(texts, 1 / texts), min(_BLOCK, draws - begin)
        counts[:, begin : begin + some] = rng.multinomial(texts, chance, some).T
    unit = 2 * nats_per_unit(shifts.mean_bytes)
    result = []
    for name in shifts.methods:
        rows = shifts.of(name)
        drawn = np.concatenate([_drawn(vector, counts) for vector, _ in shifts.blocks(rows)])
        medians = [np.median(rng.choice(column, len(rows))) for column in drawn.T]
        kl, mean, sure = shifts.kl[rows], shifts.mean[rows], SURE * shifts.mean_se[rows]
        low, high = (float(end) / unit for end in np.quantile(medians, (0.025, 0.975)))
        q25, middle, q75 = (float(value) for value in np.quantile(kl, (0.25, 0.5, 0.75)))
        result.append(
            Method(
                name, len(rows), int(shifts.real[rows].sum()), middle, low, high, (q25, q75),
                float(np.median(mean)), int((mean > sure).sum()), int((mean < -sure).sum()),
            )
        )  # fmt: skip
    return result


def _drawn(vector: Floats, counts: npt.NDArray[np.uint16]) -> Floats:
    """(n, draws) variances of n shifts over the texts of each sample."""
    squares, texts = vector**2, vector.shape[1]
    found = np.empty((len(vector), counts.shape[1]))
    for begin in range(0, counts.shape[1], _BLOCK):
        part = slice(begin, begin + _BLOCK)
        weights = counts[:, part] / texts
        found[:, part] = squares @ weights - (vector @ weights) ** 2
    return found


def by_domain(shifts: Shifts) -> list[Part]:
    """Share of the KL, and added code length, of each domain under each method.

    The models of a method count alike, whatever their KLs; those that do not differ from full
    precision at all are left out.
    """
    domains, texts = shifts.domains, len(shifts.n_bytes)
    result = []
    for method in shifts.methods:
        rows = shifts.of(method)
        rows = rows[shifts.kl[rows] > 0]
        if not len(rows):
            continue
        carried, loss = np.zeros(texts), np.zeros(texts)
        for vector, lost in shifts.blocks(rows):
            np.square(vector, out=vector)
            vector /= vector.mean(axis=1, keepdims=True)
            carried += vector.sum(axis=0) / len(rows)
            loss += lost.sum(axis=0) / len(rows)
        for code, name in enumerate(domains.names):
            inside = domains.code == code
            share = float(carried[inside].sum()) / texts
            pull = carried * (inside - share)
            count = int(inside.sum())
            unit = math.log(2) * float(shifts.n_bytes[inside].mean())
            error = float(loss[inside].std(ddof=1)) / math.sqrt(count) if count > 1 else math.nan
            result.append(
                Part(
                    method, name, len(rows), count, count / texts, share,
                    float(pull.std()) / math.sqrt(texts), float(loss[inside].mean()) / unit,
                    error / unit,
                )
            )  # fmt: skip
    return result


def orders(shifts: Shifts) -> list[Order]:
    """For each model, its methods two by two in the order in which they should cost more."""
    unit = 2 * nats_per_unit(shifts.mean_bytes)
    names = shifts.methods
    result = []
    by_full: dict[int, dict[str, int]] = {}
    for number, pair in enumerate(shifts.pairs):
        by_full.setdefault(pair.full, {}).setdefault(pair.method, number)
    for full, numbers in sorted(by_full.items()):
        present = [name for name in names if name in numbers]
        if len(present) < 2:
            continue
        squares = shifts.read([numbers[name] for name in present])[0] ** 2
        for place, (first, second) in enumerate(itertools.pairwise(present)):
            one, two = numbers[first], numbers[second]
            pull = squares[place + 1] - squares[place]
            difference = float(pull.mean()) / unit
            se = float(pull.std()) / math.sqrt(len(pull)) / unit
            known = shifts.known[one] and shifts.known[two]
            if known and not (shifts.real[one] or shifts.real[two]):
                verdict = "noise"
            elif abs(difference) > SURE * se:
                verdict = "as expected" if difference > 0 else "reversed"
            else:
                verdict = "undecided"
            kl = float(shifts.kl[one]), float(shifts.kl[two])
            name = shifts.models[full].model
            result.append(Order(name, first, second, kl, difference, se, verdict))
    return result


def by_methods(found: Sequence[Order]) -> dict[tuple[str, str], Counter[str]]:
    """How many models have which verdict, for each two methods; the most frequent one first."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    for item in found:
        counts.setdefault((item.first, item.second), Counter())[item.verdict] += 1
    names = ladder({name for key in counts for name in key})
    return {
        key: Counter(dict(counts[key].most_common()))
        for key in sorted(counts, key=lambda key: [names.index(name) for name in key])
    }


def write(folder: Path, shifts: Shifts) -> tuple[list[Method], list[Part], list[Order]]:
    """Write shift.tsv, methods.tsv, domains.tsv, orderings.tsv; return what they hold."""
    methods, parts, found = by_method(shifts), by_domain(shifts), orders(shifts)
    write_tsv(folder / "shift.tsv", SHIFT_COLUMNS, (_row(shifts, n) for n in range(len(shifts.kl))))
    write_tsv(folder / "methods.tsv", METHOD_COLUMNS, (
        (item.name, item.models, item.real, item.kl, item.low, item.high, *item.quartiles,
         item.mean_shift, item.worse, item.better)
        for item in methods
    ))  # fmt: skip
    write_tsv(folder / "domains.tsv", DOMAIN_COLUMNS, (
        (item.method, item.domain, item.models, item.texts, item.text_share, item.share,
         item.share_se, item.share / item.text_share, item.mean_shift, _known(item.mean_shift_se))
        for item in parts
    ))  # fmt: skip
    write_tsv(folder / "orderings.tsv", ORDER_COLUMNS, (
        (item.full, item.first, item.second, *item.kl, item.difference, item.se, item.verdict)
        for item in found
    ))  # fmt: skip
    for item in methods:
        logger.info(
            "%s: %d models, median KL %.3g bits/byte (%.3g to %.3g), %d above the noise",
            item.name, item.models, item.kl, item.low, item.high, item.real,
        )  # fmt: skip
    for (first, second), verdicts in by_methods(found).items():
        told = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items())
        logger.info("%s below %s: %s", first, second, told)
    return methods, parts, found


def _row(shifts: Shifts, number: int) -> tuple[object, ...]:
    floor = float(shifts.floor[number])
    kl = float(shifts.kl[number])
    real = ("yes" if shifts.real[number] else "no") if shifts.known[number] else ""
    return (
        shifts.lower(number).model, shifts.full(number).model, shifts.pairs[number].method,
        shifts.full(number).family, kl, float(shifts.se[number]), _known(floor),
        _known(kl - floor), real, float(shifts.mean[number]), _known(float(shifts.mean_se[number])),
    )  # fmt: skip


def _known(value: float) -> float | None:
    """The number, or None, an empty cell, where there is none."""
    return None if math.isnan(value) else value
