"""Estimated KLs against exact ones, for pairs of models with one vocabulary.

A KL on the map is half the variance over texts of the difference of two log-likelihoods. That is
the KL of the two distributions to second order, for texts as the models themselves would write
them (Oyama et al. 2025, section 3). Here it is compared with the exact KL of the next-token
distributions, summed over the tokens of real texts. The check, and all of what follows, is klmap's
own:

The variance of a sum is the sum of the variances only where the parts do not go together. How two
models differ at one token and at the next one of the same text does go together: one that was tuned
to code is better at most tokens of a program. In texts that a model writes itself such differences
make up its KL and no more; in real ones they add up, and then the estimate is larger than the exact
KL. So a third number is given, ``tokens``: half the mean sum of the squares of the differences,
token by token. Its ratio to the exact KL says how good the second order is; the ratio of the
estimate to it, how much the tokens of a text go together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from klmap.arrays import Floats
from klmap.correlation import both
from klmap.errors import InputError
from klmap.files import write_tsv
from klmap.gathered import Gathered
from klmap.log import logger
from klmap.models_table import Model
from klmap.store_divergence import Divergence, read_divergence

DRAWS = 1000
"""Bootstrap samples of the pairs, for the intervals of the correlations."""

LEAST_PAIRS = 4
"""With fewer pairs no interval is given."""

QUANTIZED, CHECKPOINTS, TUNED, OTHER = "precision", "checkpoints", "parent-child", "other"
RELATIONS = (QUANTIZED, CHECKPOINTS, TUNED, OTHER)
"""How two models are related, as far as it counts here."""

ESTIMATES = ("map", "same", "raw", "tokens")
"""Of one KL: of all texts as on the map; of the texts of the exact KL, clipped as on the map; of
these as they are; and of these with tokens that do not go together."""

COLUMNS = (
    "first", "second", "relation", "texts", "tokens", "kl_forward", "kl_backward", "kl", "kl_se",
    *(f"estimate_{name}{end}" for name in ESTIMATES for end in ("", "_se")), "noise_floor",
    "ratio", "mass_outside", "error",
)  # fmt: skip
SUMMARY_COLUMNS = (
    "estimate", "from", "to", "pairs", "ratio_median", "ratio_q25", "ratio_q75",
    *(
        f"{name}{end}" for name in ("pearson_log", "pearson", "spearman")
        for end in ("", "_low", "_high")
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Value:
    """A KL and its standard error over texts, bits per byte; NaN where unknown."""

    kl: float = math.nan
    se: float = math.nan


@dataclass(frozen=True)
class Pair:
    """One pair of models.

    Attributes:
        first: name of one model.
        second: name of the other.
        relation: one of ``RELATIONS``.
        texts: how many texts the exact KL is of; 0 where it could not be computed.
        tokens: how many scored tokens these have.
        forward: exact ``KL(first || second)``.
        backward: exact ``KL(second || first)``.
        true: mean of the two, half of Jeffreys' divergence.
        estimates: by the names in ``ESTIMATES``.
        noise_floor: the KL that the numerical errors of the scores alone would give, bits per
            byte; NaN if unknown.
        mass_outside: largest mean probability that a model gives to entries of its vocabulary
            that the other does not have.
        error: why there is no exact KL; empty where there is one.
    """

    first: str
    second: str
    relation: str = OTHER
    texts: int = 0
    tokens: int = 0
    forward: Value = Value()
    backward: Value = Value()
    true: Value = Value()
    estimates: tuple[Value, ...] = (Value(),) * len(ESTIMATES)
    noise_floor: float = math.nan
    mass_outside: float = math.nan
    error: str = ""

    def ratio(self, name: str = "map") -> float:
        """An estimate in units of the exact KL; NaN where one of them is unknown or zero."""
        kl = self.estimates[ESTIMATES.index(name)].kl
        return kl / self.true.kl if self.true.kl > 0 and kl > 0 else math.nan


@dataclass(frozen=True)
class Correlation:
    """A correlation over pairs, and the bootstrap interval that holds 95 % of its samples."""

    value: float = math.nan
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class Summary:
    """How well one estimate agrees with the exact KL.

    Attributes:
        estimate: one of ``ESTIMATES``.
        least: exact KL from which on pairs count, bits per byte; 0 for all.
        most: exact KL below which they count; infinite for all.
        pairs: how many there are.
        quartiles: of the ratio of the estimate to the exact KL: median, lower and upper.
        pearson_log: Pearson's correlation of the logarithms.
        pearson: the same of the values.
        spearman: of the ranks.
    """

    estimate: str
    least: float
    most: float
    pairs: int
    quartiles: tuple[float, float, float]
    pearson_log: Correlation
    pearson: Correlation
    spearman: Correlation


@dataclass(frozen=True)
class TrueKl:
    """Everything that is found.

    Attributes:
        pairs: those with an exact KL, by rising KL, then those without.
        summaries: for each estimate over all pairs, then for those of the map by size of the KL.
        texts: the largest number of texts of an exact KL.
        of: the number of texts of the set.
    """

    pairs: list[Pair]
    summaries: list[Summary]
    texts: int
    of: int

    @property
    def known(self) -> list[Pair]:
        """The pairs that have an exact KL."""
        return [pair for pair in self.pairs if not pair.error]

    def summary(self, estimate: str) -> Summary:
        """Of all pairs."""
        return next(row for row in self.summaries if row.estimate == estimate)


def measure(found: Gathered, paths: Sequence[Path], seed: int = 42) -> TrueKl:
    """Compare the exact KLs of some pairs with the estimates.

    Args:
        found: all scored models.
        paths: files of exact divergences.
        seed: of the bootstrap.

    Raises:
        InputError: a file is broken or of other texts, or the texts are a selection.
    """
    if found.design is not None:
        raise InputError(
            "true_kl: these texts are a selection, whose KLs are weighted means; run it on the "
            "text set that they were selected from"
        )
    pairs = []
    for path in paths:
        divergence = read_divergence(path)
        sha256 = found.parts[0].texts_sha256
        if divergence.texts_sha256 != sha256:
            raise InputError(
                f"{path}: of other texts than the matrix (sha256 {divergence.texts_sha256[:12]} "
                f"instead of {sha256[:12]}); remove it and run again"
            )
        pairs.append(compare(found, divergence))
    ordered = sorted(
        pairs, key=lambda pair: (bool(pair.error), pair.true.kl if not pair.error else 0.0,
                                 pair.first, pair.second),
    )  # fmt: skip
    known = [pair for pair in ordered if not pair.error]
    summaries = [summarise(known, name, seed) for name in ESTIMATES]
    summaries += [
        summarise(
            [pair for pair in known if least <= pair.true.kl < most], "map", seed, least, most
        )
        for least, most in sizes([pair.true.kl for pair in known])
    ]
    logger.info("%d of %d pairs have an exact KL", len(known), len(pairs))
    texts = max((pair.texts for pair in known), default=0)
    return TrueKl(ordered, summaries, texts, len(found.domain))


def compare(found: Gathered, divergence: Divergence) -> Pair:
    """The exact KL of one pair and the estimates of it."""
    places = {model.model: row for row, model in enumerate(found.models)}
    names = (divergence.first, divergence.second)
    rows = [places[name] for name in names if name in places]
    relation = relation_of(*(found.models[row] for row in rows)) if len(rows) == 2 else OTHER
    if divergence.status != "ok":
        return Pair(*names, relation, error=divergence.error)
    unit = float(found.n_bytes[divergence.text].mean()) * math.log(2)
    raw = divergence.loglik
    clipped = np.maximum(raw, found.clip_threshold)
    on_map, floor = Value(), math.nan
    if len(rows) == 2:
        logliks = found.loglik(rows)
        on_map = half_variance(logliks[0] - logliks[1], found.mean_bytes * math.log(2))
        floor = float(found.noise_floor(np.array(rows[:1]), np.array(rows[1:]))[0])
    outside = (divergence.attributes[f"mass_outside_{side}"] for side in ("first", "second"))
    return Pair(
        *names,
        relation,
        texts=len(divergence.text),
        tokens=int(divergence.n_scored.sum()),
        forward=mean(divergence.kl[0], unit),
        backward=mean(divergence.kl[1], unit),
        true=mean(divergence.kl.mean(axis=0), unit),
        estimates=(
            on_map,
            half_variance(clipped[0] - clipped[1], unit),
            half_variance(raw[0] - raw[1], unit),
            mean(divergence.squares / 2, unit),
        ),
        noise_floor=floor,
        mass_outside=float(max(outside)),
    )


def relation_of(first: Model, second: Model) -> str:
    """How two models are related: read off their ids, revisions, variants and base models."""
    if first.id == second.id:
        return QUANTIZED if first.revision == second.revision else CHECKPOINTS
    for child, parent in ((first, second), (second, first)):
        if parent.id in {base.partition("@")[0] for base in child.base_model}:
            return TUNED
    return OTHER


def mean(nats: Floats, unit: float) -> Value:
    """The mean of some numbers per text, with its standard error.

    Args:
        nats: (n,) nats per text.
        unit: nats per text that are one bit per byte.
    """
    return Value(float(nats.mean()) / unit, float(nats.std()) / math.sqrt(len(nats)) / unit)


def half_variance(difference: Floats, unit: float) -> Value:
    """The estimate of a KL, with the standard error that maps have (:mod:`klmap.geometry`).

    Args:
        difference: (n,) differences of two log-likelihoods, nats per text.
        unit: nats per text that are one bit per byte.
    """
    return mean((difference - difference.mean()) ** 2 / 2, unit)


def sizes(values: Sequence[float]) -> list[tuple[float, float]]:
    """Half decades that hold KLs, from small to large, in bits per byte."""
    steps = sorted({math.floor(2 * math.log10(value)) for value in values if value > 0})
    return [(10 ** (step / 2), 10 ** ((step + 1) / 2)) for step in steps]


def summarise(
    pairs: Sequence[Pair], estimate: str, seed: int, least: float = 0.0, most: float = math.inf
) -> Summary:
    """How well one estimate agrees with the exact KL of some pairs.

    Args:
        pairs: with an exact KL; those without a positive estimate are left out.
        estimate: one of ``ESTIMATES``.
        seed: of the bootstrap.
        least: exact KL from which on the pairs count.
        most: exact KL below which they count.

    Returns:
        Correlations are known where all pairs count: among KLs of one size they mean little.
    """
    place = ESTIMATES.index(estimate)
    known = [pair for pair in pairs if not math.isnan(pair.ratio(estimate))]
    true = np.array([pair.true.kl for pair in known])
    values = np.array([pair.estimates[place].kl for pair in known])
    quartiles = (math.nan,) * 3
    if known:
        low, middle, high = np.quantile(values / true, (0.25, 0.5, 0.75))
        quartiles = (float(middle), float(low), float(high))
    every = math.isinf(most)
    found = correlations(true, values, seed) if every else (Correlation(),) * 3
    return Summary(estimate, least, most, len(known), quartiles, *found)


def correlations(
    true: Floats, values: Floats, seed: int
) -> tuple[Correlation, Correlation, Correlation]:
    """Pearson's correlation of the logarithms, that of the values, and Spearman's.

    Intervals hold 95 % of the bootstrap samples of the pairs. Pairs that share a model are drawn as
    if they did not, which makes intervals too short.

    Args:
        true: (P,) exact KLs, positive.
        values: (P,) estimates, positive.
        seed: of the bootstrap.
    """
    rng = np.random.default_rng(seed)

    def three(rows: slice | np.ndarray[tuple[int], np.dtype[np.int64]]) -> tuple[float, ...]:
        logs, _ = both(np.log10(true[rows]), np.log10(values[rows]))
        return (logs, *both(true[rows], values[rows]))

    if len(true) < 2:
        return Correlation(), Correlation(), Correlation()
    each = three(slice(None))
    ends = np.full((2, 3), math.nan)
    if len(true) >= LEAST_PAIRS:
        draws = np.array([three(rng.integers(0, len(true), len(true))) for _ in range(DRAWS)])
        ends = np.nanquantile(draws, (0.025, 0.975), axis=0)
    logs, values_, ranks = (
        Correlation(value, float(low), float(high))
        for value, low, high in zip(each, *ends, strict=True)
    )
    return logs, values_, ranks


def write(folder: Path, found: TrueKl) -> None:
    """Write true_kl.tsv and summary.tsv; what is unknown is empty."""
    write_tsv(folder / "true_kl.tsv", COLUMNS, map(_row, found.pairs))
    write_tsv(
        folder / "summary.tsv", SUMMARY_COLUMNS,
        (
            [
                row.estimate, row.least, None if math.isinf(row.most) else row.most, row.pairs,
                *map(_cell, row.quartiles),
                *(
                    _cell(value) for item in (row.pearson_log, row.pearson, row.spearman)
                    for value in (item.value, item.low, item.high)
                ),
            ]
            for row in found.summaries
        ),
    )  # fmt: skip


def _row(pair: Pair) -> list[str | int | float | None]:
    estimates = [part for value in pair.estimates for part in (value.kl, value.se)]
    numbers = [
        pair.forward.kl, pair.backward.kl, pair.true.kl, pair.true.se, *estimates,
        pair.noise_floor, pair.ratio(), pair.mass_outside,
    ]  # fmt: skip
    counts: list[int | None] = [None, None] if pair.error else [pair.texts, pair.tokens]
    return [
        pair.first, pair.second, pair.relation, *counts, *map(_cell, numbers), pair.error or None,
    ]  # fmt: skip


def _cell(value: float) -> float | None:
    return None if math.isnan(value) else value
