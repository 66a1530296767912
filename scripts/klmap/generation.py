"""Estimated KLs against those of texts that the models write themselves.

Of responses that a model p wrote, the mean of ``log p(y|x) - log q(y|x)`` is an unbiased estimate
of ``KL(p || q)``; nothing is assumed of p and q. Takase et al. 2026 compare the estimates of
prompt-response maps with such ones. Beside it, for the same pair, stand

* the estimate of the map: half the variance of the difference over the text set;
* ``own``, that of the responses themselves, which says how good the second order is where texts are
  what the models write (klmap's own);
* ``steps``, the sum over positions of the exact KL of the next token along what p wrote. It has the
  same expectation and a smaller error, and needs one vocabulary (klmap's own);
* MAUVE (Pillutla et al. 2021), where it is asked for.

Errors are jackknifed over prompts, because responses to one prompt are not independent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from klmap import mauve_score
from klmap.arrays import Floats
from klmap.errors import InputError
from klmap.files import write_tsv
from klmap.gathered import Gathered
from klmap.log import logger
from klmap.store_samples import Samples, read_samples
from klmap.true_kl import OTHER, Correlation, Value, correlations, half_variance, relation_of

QUANTITIES = ("map", "own", "steps", "mauve")
"""What is compared with the KL from samples."""

COLUMNS = (
    "first", "second", "relation", "scored_as", "prompts", "samples", "left_out", "canonical",
    "bytes",
    *(
        f"{name}{unit}{end}" for unit in ("", "_nats")
        for name in ("kl_forward", "kl_backward", "kl") for end in ("", "_se")
    ),
    "steps", "steps_se", "own", "own_se", "estimate", "estimate_se", "estimate_nats",
    "estimate_nats_se", "noise_floor", "ratio", "mauve", "error",
)  # fmt: skip
SUMMARY_COLUMNS = (
    "quantity", "pairs",
    *(f"{name}{end}" for name in ("pearson_log", "spearman") for end in ("", "_low", "_high")),
)  # fmt: skip


_UNKNOWN = Value()


@dataclass(frozen=True)
class Measured:
    """One KL in both units.

    Attributes:
        bits: bits per byte of what it is measured on.
        nats: nats per response.
    """

    bits: Value = _UNKNOWN
    nats: Value = _UNKNOWN


@dataclass(frozen=True)
class Pair:
    """One pair of models.

    Attributes:
        first: name of one model.
        second: name of the other.
        relation: how they are related, as in :mod:`klmap.true_kl`.
        scored_as: ``tokens`` or ``text``; empty where nothing was sampled.
        prompts: how many were answered.
        samples: responses of both models that count.
        left_out: responses that do not, because their text cannot be read again.
        canonical: share of the responses that consist of the tokens which the tokenizer makes of
            their text.
        mean_bytes: UTF-8 bytes per response; NaN if unknown.
        forward: ``KL(first || second)`` from samples.
        backward: ``KL(second || first)``.
        sampled: mean of the two.
        steps: mean of both directions along the samples, of exact KLs of the next token.
        own: half the variance of the difference over the responses of a model, mean of both.
        estimate: that of the map.
        noise_floor: the KL that the numerical errors of the scores alone would give, bits per byte.
        mauve: MAUVE; NaN where it is not known.
        error: why nothing was sampled; empty where something was.
    """

    first: str
    second: str
    relation: str = OTHER
    scored_as: str = ""
    prompts: int = 0
    samples: int = 0
    left_out: int = 0
    canonical: float = math.nan
    mean_bytes: float = math.nan
    forward: Measured = Measured()
    backward: Measured = Measured()
    sampled: Measured = Measured()
    steps: Measured = Measured()
    own: Measured = Measured()
    estimate: Measured = Measured()
    noise_floor: float = math.nan
    mauve: float = math.nan
    error: str = ""

    @property
    def ratio(self) -> float:
        """The estimate of the map in units of the KL from samples; NaN where one is not above 0."""
        kl, estimate = self.sampled.bits.kl, self.estimate.bits.kl
        return estimate / kl if kl > 0 and estimate > 0 else math.nan

    def quantity(self, name: str) -> float:
        """One of ``QUANTITIES``: bits per byte, or MAUVE."""
        found = {
            "map": self.estimate.bits.kl,
            "own": self.own.bits.kl,
            "steps": self.steps.bits.kl,
            "mauve": self.mauve,
        }
        return found[name]


@dataclass(frozen=True)
class Summary:
    """How well something agrees with the KL from samples.

    Attributes:
        quantity: one of ``QUANTITIES``.
        pairs: for which both are above 0.
        pearson_log: Pearson's correlation of the logarithms.
        spearman: of the ranks.
    """

    quantity: str
    pairs: int
    pearson_log: Correlation
    spearman: Correlation


@dataclass(frozen=True)
class Generation:
    """Everything that is found.

    Attributes:
        pairs: those with samples, by rising KL, then those without.
        summaries: in the order of ``QUANTITIES``.
        of: number of texts of the set.
    """

    pairs: list[Pair]
    summaries: list[Summary]
    of: int

    @property
    def known(self) -> list[Pair]:
        """The pairs with samples."""
        return [pair for pair in self.pairs if not pair.error]

    def summary(self, quantity: str) -> Summary:
        """Of one quantity."""
        return next(row for row in self.summaries if row.quantity == quantity)


def measure(
    found: Gathered, paths: Sequence[Path], mauve: bool = False, seed: int = 42
) -> Generation:
    """Compare the KLs of samples of some pairs with the estimates.

    Args:
        found: all scored models.
        paths: files of samples.
        mauve: whether to compute MAUVE, where its package is installed.
        seed: of the bootstrap of the pairs, and of the clustering of MAUVE.

    Raises:
        InputError: a file is broken or of other texts, or the texts are a selection.
    """
    if found.design is not None:
        raise InputError(
            "generation: these texts are a selection, whose KLs are weighted means; run it on the "
            "text set that they were selected from"
        )
    compute = mauve_score.package() if mauve else None
    pairs = []
    for path in paths:
        samples = read_samples(path)
        sha256 = found.parts[0].texts_sha256
        if samples.texts_sha256 != sha256:
            raise InputError(
                f"{path}: prompts are of other texts than the matrix (sha256 "
                f"{samples.texts_sha256[:12]} instead of {sha256[:12]}); remove it and run again"
            )
        pairs.append(compare(found, samples, compute, seed))
    ordered = sorted(
        pairs,
        key=lambda pair: (bool(pair.error), 0.0 if pair.error else pair.sampled.bits.kl,
                          pair.first, pair.second),
    )  # fmt: skip
    known = [pair for pair in ordered if not pair.error]
    logger.info("%d of %d pairs have samples", len(known), len(pairs))
    summaries = [summarise(known, name, seed) for name in QUANTITIES]
    return Generation(ordered, summaries, len(found.domain))


def compare(
    found: Gathered, samples: Samples, compute: mauve_score.Compute | None = None, seed: int = 42
) -> Pair:
    """The KL of one pair from samples, and what stands beside it.

    Args:
        found: all scored models.
        samples: of the pair.
        compute: MAUVE; None leaves it out.
        seed: of its clustering.
    """
    places = {model.model: row for row, model in enumerate(found.models)}
    names = (samples.first, samples.second)
    rows = [places[name] for name in names if name in places]
    relation = relation_of(*(found.models[row] for row in rows)) if len(rows) == 2 else OTHER
    if samples.status != "ok":
        return Pair(*names, relation, error=samples.error)
    estimate, floor = Measured(), math.nan
    if len(rows) == 2:
        logliks = found.loglik(rows)
        difference = logliks[0] - logliks[1]
        estimate = Measured(
            half_variance(difference, found.mean_bytes * math.log(2)), half_variance(difference, 1)
        )
        floor = float(found.noise_floor(np.array(rows[:1]), np.array(rows[1:]))[0])
    forward, backward, sampled, steps, own = measured(samples)
    mauve = math.nan
    if compute is not None and samples.features.size:
        one, other = (samples.features[samples.source == side] for side in (0, 1))
        mauve = mauve_score.score(compute, one, other, seed)
    return Pair(
        *names,
        relation,
        scored_as=str(samples.attributes["scored_as"]),
        prompts=len({*samples.prompt.tolist()}),
        samples=len(samples.text),
        left_out=int(samples.attributes["left_out"]),
        canonical=float(samples.canonical.mean()),
        mean_bytes=float(samples.n_bytes.mean()),
        forward=forward,
        backward=backward,
        sampled=sampled,
        steps=steps,
        own=own,
        estimate=estimate,
        noise_floor=floor,
        mauve=mauve,
    )


_COUNT, _BYTES, _SUM, _SQUARES, _STEPS = range(5)


def measured(samples: Samples) -> tuple[Measured, Measured, Measured, Measured, Measured]:
    """KLs of a pair from its samples, with errors jackknifed over prompts.

    Args:
        samples: with responses of both models.

    Returns:
        Forward, backward, and their mean; the mean of both directions of the exact KLs along the
        samples, NaN where there are none; and the mean of both of half the variance of the
        difference over a model's responses.
    """
    prompts, place = np.unique(samples.prompt, return_inverse=True)
    sums = np.zeros((2, 5, len(prompts)))
    for side in (0, 1):
        mine = samples.source == side
        ratio = samples.loglik[side, mine] - samples.loglik[1 - side, mine]
        parts = (np.ones(len(ratio)), samples.n_bytes[mine], ratio, ratio**2, samples.steps[mine])
        for row, values in enumerate(parts):
            sums[side, row] = np.bincount(place[mine], values, len(prompts))
    kept = np.concatenate([sums.sum(axis=2, keepdims=True), -sums], axis=2)
    kept[:, :, 1:] += kept[:, :, :1]

    def both(value: Callable[[int], Floats]) -> Measured:
        nats, bits = (
            np.stack([value(side) / unit[side] for side in (0, 1)]).mean(axis=0)
            for unit in (kept[:, _COUNT], kept[:, _BYTES] * math.log(2))
        )
        return Measured(_jackknifed(bits), _jackknifed(nats))

    def one(side: int) -> Measured:
        total = kept[side, _SUM]
        bits, nats = total / kept[side, _BYTES] / math.log(2), total / kept[side, _COUNT]
        return Measured(_jackknifed(bits), _jackknifed(nats))

    def spread(side: int) -> Floats:
        total, count = kept[side, _SUM], kept[side, _COUNT]
        half: Floats = (kept[side, _SQUARES] - total**2 / count) / 2 * count / (count - 1)
        return half

    with np.errstate(divide="ignore", invalid="ignore"):
        return (
            one(0), one(1), both(lambda side: kept[side, _SUM]),
            both(lambda side: kept[side, _STEPS]), both(spread),
        )  # fmt: skip


def _jackknifed(values: Floats) -> Value:
    """A statistic of all prompts, then without each of them, as a value with its error."""
    without = values[1:]
    count = len(without)
    variance = (count - 1) * float(np.mean((without - without.mean()) ** 2))
    finite = count > 1 and math.isfinite(variance)
    whole = float(values[0])
    return Value(
        whole if math.isfinite(whole) else math.nan, math.sqrt(variance) if finite else math.nan
    )


def summarise(pairs: Sequence[Pair], quantity: str, seed: int) -> Summary:
    """How well one quantity agrees with the KL from samples, bits per byte.

    Args:
        pairs: with samples; those for which one of the two is not above 0 are left out.
        quantity: one of ``QUANTITIES``. MAUVE falls where KLs rise.
        seed: of the bootstrap.
    """
    known = [pair for pair in pairs if pair.sampled.bits.kl > 0 and pair.quantity(quantity) > 0]
    true = np.array([pair.sampled.bits.kl for pair in known])
    values = np.array([pair.quantity(quantity) for pair in known])
    logs, _, ranks = correlations(true, values, seed)
    return Summary(quantity, len(known), logs, ranks)


def write(folder: Path, found: Generation) -> None:
    """Write generation.tsv and summary.tsv; what is unknown is empty."""
    write_tsv(folder / "generation.tsv", COLUMNS, map(_row, found.pairs))
    write_tsv(
        folder / "summary.tsv", SUMMARY_COLUMNS,
        (
            [
                row.quantity, row.pairs,
                *(
                    _cell(value) for item in (row.pearson_log, row.spearman)
                    for value in (item.value, item.low, item.high)
                ),
            ]
            for row in found.summaries
        ),
    )  # fmt: skip


def _row(pair: Pair) -> list[str | int | float | None]:
    three = (pair.forward, pair.backward, pair.sampled)
    values = [each.bits for each in three] + [each.nats for each in three]
    values += [pair.steps.bits, pair.own.bits, pair.estimate.bits, pair.estimate.nats]
    numbers = [part for value in values for part in (value.kl, value.se)]
    numbers += [pair.noise_floor, pair.ratio, pair.mauve]
    counts = [pair.prompts, pair.samples, pair.left_out]
    return [
        pair.first, pair.second, pair.relation, pair.scored_as or None,
        *(None if pair.error else count for count in counts),
        _cell(pair.canonical), _cell(pair.mean_bytes), *map(_cell, numbers), pair.error or None,
    ]  # fmt: skip


def _cell(value: float) -> float | None:
    return None if math.isnan(value) else value
