"""A scale for KL: how large it is between models of each relation, all by one pipeline.

The question and the published medians are those of Kishino et al. 2026 (ACL Findings, "Establishing
a Scale for KL Divergence in Language Models Across Various Settings"). Errors of the medians, noise
floors and the comparison of relations are klmap's own.

K is the number of models, P that of pairs, N that of texts; KL is in bits per byte.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from klmap import blocks, bootstrap, geometry, relations
from klmap.arrays import Bools, Floats, Rows
from klmap.files import write_tsv
from klmap.gathered import Gathered
from klmap.log import Progress, logger
from klmap.relations import Related

PUBLISHED = {
    relations.LATER: 0.011,
    relations.EARLY: 0.067,
    relations.SEEDS: 0.12,
    relations.PARENT: 0.40,
    relations.SIZES: 0.48,
    relations.FAMILY: 0.95,
    relations.ACROSS: 2.2,
    relations.LAYERS: 3.0,
}
"""Published medians, bits per byte (Kishino et al. 2026), on other models and texts. Those of 8-bit
and 4-bit weights, .44 and .49, are left out: they are as large as that of a fine-tune, as if the
two sides had been scored in different ways."""

EXPECTED = (
    (relations.SEEDS, relations.PARENT),
    (relations.PARENT, relations.SIBLINGS),
    (relations.PARENT, relations.ACROSS),
    (relations.LATER, relations.EARLY),
    ("int8", "nf4"),
    ("nf4", "fp4"),
)
"""What klmap expects: relations of which the first has the smaller median. klmap's own."""

CONFIDENCE = 0.975
"""Share of the bootstrap samples that have to agree on which of two relations is larger."""

FIRST, SECOND, UNCLEAR = "first is smaller", "second is smaller", "cannot be told"

SCALE_COLUMNS = (
    "relation", "pairs", "sampled", "models", "median", "median_se", "q25", "q75", "noise_floor",
    "below_noise", "beyond", "published",
)  # fmt: skip
PAIR_COLUMNS = ("relation", "first", "second", "kl", "se", "noise_floor", "below_noise", "beyond")
ORDERING_COLUMNS = (
    "first", "second", "expected", "pairs_first", "pairs_second", "median_first", "median_second",
    "probability", "verdict",
)  # fmt: skip

_ROWS_BYTES = 1 << 28
_BLOCK_BYTES = 1 << 23


@dataclass(frozen=True)
class Measured:
    """The KLs of the pairs of one relation.

    Attributes:
        related: the pairs.
        kl: (P,) bits per byte.
        se: (P,) standard errors over texts.
        noise_floor: (P,) below it the numerical errors of the scores decide; NaN if unknown.
        medians: (R,) median in each bootstrap sample of the texts; all relations see the same
            samples.
    """

    related: Related
    kl: Floats
    se: Floats
    noise_floor: Floats
    medians: Floats

    @property
    def name(self) -> str:
        """Of the relation."""
        return self.related.name

    @property
    def median(self) -> float:
        """Of the KLs, bits per byte."""
        return float(np.median(self.kl))

    @property
    def median_se(self) -> float:
        """What other texts would change in the median; other models are not thought of."""
        return float(self.medians.std(ddof=1))

    def quantile(self, share: float) -> float:
        """Of the KLs, bits per byte."""
        return float(np.quantile(self.kl, share))

    @property
    def floor(self) -> float:
        """Median of the noise floors that are known, NaN without any."""
        known = self.noise_floor[~np.isnan(self.noise_floor)]
        return float(np.median(known)) if known.size else math.nan

    @property
    def below(self) -> Bools:
        """(P,) which pairs are nearer than their scores can tell."""
        return np.asarray(self.kl < self.noise_floor, np.bool_)

    @property
    def beyond(self) -> Bools:
        """(P,) of which pairs the estimate is no KL."""
        return np.asarray(self.kl > geometry.BEYOND, np.bool_)

    @property
    def published(self) -> float | None:
        """The published median, None where none applies."""
        return PUBLISHED.get(self.name)


@dataclass(frozen=True)
class Ordering:
    """Which of two relations has the smaller median.

    Attributes:
        first: a relation.
        second: another one.
        expected: whether klmap expects the first to be smaller.
        probability: share of the bootstrap samples in which it is; equal medians count half.
        verdict: what can be said: ``FIRST``, ``SECOND`` or ``UNCLEAR``.
    """

    first: Measured
    second: Measured
    expected: bool
    probability: float
    verdict: str


def measure(found: Gathered, related: Sequence[Related], samples: int, seed: int) -> list[Measured]:
    """The KLs of all pairs, from the differences of clipped log-likelihoods.

    Final weights that cannot be told from the last step are no later checkpoint than that: such a
    pair is left out, and so is a relation of which no pair is left. klmap's own.

    Memory is bounded by two blocks of models of 256 MB each and, for one relation at a time, P x R
    numbers of the bootstrap; 32 MB for 20,000 pairs and 200 samples.

    Args:
        found: the models.
        related: pairs of them, with the rows of ``found``.
        samples: bootstrap samples of the texts, R.
        seed: of these.

    Raises:
        InputError: a matrix is truncated.
    """
    pairs = _Pairs(found, samples, seed)
    progress = Progress(sum(item.pairs for item in related), "pairs")
    result = []
    for item in related:
        kl, se, replicates = pairs.measure(item, progress)
        floor = found.noise_floor(item.first, item.second)
        kept = ~_repeated(found, item, kl, floor)
        if not kept.all():
            logger.info(
                "%s: %d pairs of a last step and final weights that are the same are left out",
                item.name, np.sum(~kept),
            )  # fmt: skip
            item = replace(item, first=item.first[kept], second=item.second[kept])
            kl, se, floor, replicates = kl[kept], se[kept], floor[kept], replicates[kept]
        if item.pairs:
            result.append(Measured(item, kl, se, floor, np.median(replicates, axis=0)))
    progress.close()
    for measured in result:
        logger.info(
            "%s: median %.4g bits/byte, standard error %.2g, over %d pairs%s",
            measured.name, measured.median, measured.median_se, measured.related.pairs,
            "; below the noise floor" if measured.median < measured.floor
            else "; beyond the range where it is a KL" if measured.median > geometry.BEYOND else "",
        )  # fmt: skip
    return result


def _repeated(found: Gathered, related: Related, kl: Floats, floor: Floats) -> Bools:
    """(P,) which pairs are final weights and a last step that they cannot be told from."""
    if related.name not in (relations.EARLY, relations.LATER):
        return np.zeros(related.pairs, np.bool_)
    final = np.array([math.isinf(found.models[row].step) for row in related.second], np.bool_)
    return np.asarray(final & ((kl == 0) | (kl < floor)), np.bool_)


class _Pairs:
    """Distances of chosen pairs, and what a bootstrap over texts makes of them."""

    def __init__(self, found: Gathered, samples: int, seed: int) -> None:
        self.found, self.design = found, found.design
        columns = len(found.domain)
        self.texts = columns if self.design is None else self.design.texts
        self.unit = 2 * self.texts * geometry.nats_per_unit(found.mean_bytes)
        self.times = np.empty((columns, samples))
        for sample in range(samples):
            self.times[:, sample] = (
                bootstrap.draw(columns, seed, sample)
                if self.design is None
                else bootstrap.reweigh(self.design, seed, sample)
            )
        self.total = self.times.sum(axis=0)

    def measure(self, related: Related, progress: Progress) -> tuple[Floats, Floats, Floats]:
        """(P,) KLs, (P,) standard errors and (P, R) KLs in bootstrap samples."""
        kl, se = np.empty(related.pairs), np.empty(related.pairs)
        replicates = np.empty((related.pairs, len(self.total)))
        rows, places = np.unique([related.first, related.second], return_inverse=True)
        first, second = places.reshape(2, -1)
        size = max(1, _ROWS_BYTES // (8 * len(self.times)))
        tiles = np.stack([first // size, second // size], axis=1)
        held: dict[int, Floats] = {}
        for tile in np.unique(tiles, axis=0):
            blocks_needed = set(tile.tolist())
            held = {number: held[number] for number in blocks_needed & held.keys()}
            for number in sorted(blocks_needed - held.keys()):
                held[number] = self._centred(rows[number * size : (number + 1) * size])
            inside = np.flatnonzero((tiles == tile).all(axis=1))
            one, other = held[int(tile[0])], held[int(tile[1])]
            left, right = first[inside] % size, second[inside] % size
            for begin, part in self._differences(one, other, left, right):
                own = inside[begin : begin + len(part[0])]
                kl[own], se[own], replicates[own] = part
                progress.add(len(own))
        return kl, se, replicates

    def _centred(self, rows: Rows) -> Floats:
        """(R, N) clipped, with a mean of 0 over all texts that they stand for; nats."""
        values = self.found.loglik(rows)
        share = np.full(values.shape[1], 1 / self.texts)
        if self.design is not None:
            share = self.design.share
        values -= (values * share).sum(axis=1, keepdims=True)
        return values

    def _differences(
        self, one: Floats, other: Floats, left: Rows, right: Rows
    ) -> Iterator[tuple[int, tuple[Floats, Floats, Floats]]]:
        """Blocks of pairs, each with its first place, its KLs, errors and replicates."""
        row_bytes = 8 * len(self.times)
        ranges = list(blocks.ranges(len(left), row_bytes, _BLOCK_BYTES))

        def work(begin: int, end: int) -> tuple[Floats, Floats, Floats]:
            apart = one[left[begin:end]] - other[right[begin:end]]
            sums = (apart @ self.times) ** 2 / self.total
            apart *= apart
            replicates = np.maximum(apart @ self.times - sums, 0) / self.unit
            if self.design is not None:
                apart *= self.design.times
            squares = apart.sum(axis=1)
            variance = geometry.fourth_powers(apart, self.design) - squares**2 / self.texts
            return squares / self.unit, np.sqrt(np.maximum(variance, 0)) / self.unit, replicates

        for (begin, _), part in zip(ranges, blocks.in_order(work, iter(ranges)), strict=True):
            yield begin, part


def orderings(measured: Sequence[Measured]) -> list[Ordering]:
    """Which relations are larger than others: those expected, and neighbours on the scale.

    It can be told where at least ``CONFIDENCE`` of the bootstrap samples agree, and the medians
    are further apart than the larger of the two noise floors. That is said of these pairs of
    models; of few pairs it need not hold for others. klmap's own.

    Args:
        measured: of one and the same bootstrap.
    """
    by_name = {item.name: item for item in measured}
    wanted = {pair: True for pair in EXPECTED if by_name.keys() >= set(pair)}
    ordered = sorted(measured, key=lambda item: item.median)
    for first, second in pairwise(ordered):
        if (second.name, first.name) not in wanted:
            wanted.setdefault((first.name, second.name), False)
    return [_compared(by_name[a], by_name[b], known) for (a, b), known in wanted.items()]


def _compared(first: Measured, second: Measured, expected: bool) -> Ordering:
    apart = second.medians - first.medians
    probability = float(np.mean(apart > 0) + np.mean(apart == 0) / 2)
    floors = [item.floor for item in (first, second) if not math.isnan(item.floor)]
    verdict = UNCLEAR
    if abs(second.median - first.median) > max(floors, default=0.0):
        if probability >= CONFIDENCE:
            verdict = FIRST
        elif probability <= 1 - CONFIDENCE:
            verdict = SECOND
    return Ordering(first, second, expected, probability, verdict)


def write(folder: Path, found: Gathered, measured: Sequence[Measured]) -> None:
    """Write scale.tsv, pairs.tsv and orderings.tsv; what is unknown is empty."""
    write_tsv(
        folder / "scale.tsv",
        SCALE_COLUMNS,
        (
            [item.name, item.related.pairs, "sampled" if item.related.sampled else "",
             item.related.models, item.median, item.median_se, item.quantile(0.25),
             item.quantile(0.75), _known(item.floor), float(item.below.mean()),
             float(item.beyond.mean()), item.published]
            for item in measured
        ),
    )  # fmt: skip
    write_tsv(
        folder / "pairs.tsv",
        PAIR_COLUMNS,
        (
            [item.name, found.models[first].model, found.models[second].model, float(kl), float(se),
             _known(float(floor)), "below" if kl < floor else "",
             "beyond" if kl > geometry.BEYOND else ""]
            for item in measured
            for first, second, kl, se, floor in zip(
                item.related.first, item.related.second, item.kl, item.se, item.noise_floor,
                strict=True,
            )
        ),
    )  # fmt: skip
    write_tsv(
        folder / "orderings.tsv",
        ORDERING_COLUMNS,
        (
            [item.first.name, item.second.name, "expected" if item.expected else "",
             item.first.related.pairs, item.second.related.pairs, item.first.median,
             item.second.median, item.probability, item.verdict]
            for item in orderings(measured)
        ),
    )  # fmt: skip


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
