"""How far the distances between models depend on the texts.

Other texts of the same kind would give other KLs. How different they would be is seen from parts of
the texts (``subsets``): random halves, all but one domain, and few of them. Between text sets it is
seen directly, on the models that both have. All of this is klmap's own; the correlations between
text sets are those of Mantel and of Procrustes (``concordance``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
from scipy.special import erf
from threadpoolctl import threadpool_limits

from klmap import concordance, geometry, split
from klmap.arrays import Floats
from klmap.concordance import Agreement
from klmap.correlation import product
from klmap.files import write_tsv
from klmap.log import Progress
from klmap.store import MatrixFile
from klmap.subsets import Coordinates, Sums, sampled
from klmap.text_sets import Other, between

CONTROLS = 5
"""Random sets of as many texts as a domain has that are left out in its place."""

_AGREEMENT = ("pearson", "spearman", "rms", "median", "neighbors")
HALF_COLUMNS = ("split", "models", "texts", *_AGREEMENT)
DOMAIN_COLUMNS = (
    "domain", "texts", "models", *_AGREEMENT, "spearman_random", "neighbors_random",
)  # fmt: skip
NUMBER_COLUMNS = (
    "texts", "draws", "models", "median", "expected_median", "q90", "expected_q90", "spearman",
    "neighbors",
)  # fmt: skip
SET_COLUMNS = (
    "other", "models", "mantel", "mantel_p", "mantel_rank", "procrustes", "procrustes_p",
    "neighbors",
)  # fmt: skip

_LEAST_TEXTS = 5
_FINEST = 200
_SIGMAS = 20_000


@dataclass(frozen=True)
class Half:
    """Two random halves of the texts.

    Attributes:
        split: 1 for the first.
        texts: in the smaller half.
        agreement: between the KLs of the halves.
    """

    split: int
    texts: int
    agreement: Agreement


@dataclass(frozen=True)
class LeftOut:
    """All texts but those of one domain.

    Attributes:
        domain: which is left out.
        texts: how many it has.
        agreement: between the KLs of the other texts and those of all.
        spearman: rank correlation where as many random texts are left out, mean of ``CONTROLS``.
        neighbors: share of nearest models that are kept then.
    """

    domain: str
    texts: int
    agreement: Agreement
    spearman: float
    neighbors: float


@dataclass(frozen=True)
class Number:
    """Some number of texts, drawn without replacement.

    Attributes:
        texts: how many.
        draws: how often.
        median: of the error of a KL relative to that of all texts, over pairs and draws.
        expected_median: what the standard errors make of it, see :func:`expected`.
        q90: 90 % quantile of the same.
        expected_q90: what the standard errors make of that.
        spearman: rank correlation with the KLs of all texts, mean of the draws.
        neighbors: share of nearest models that are kept, mean of the draws.
    """

    texts: int
    draws: int
    median: float
    expected_median: float
    q90: float
    expected_q90: float
    spearman: float
    neighbors: float


@dataclass(frozen=True)
class Robustness:
    """Everything that is found.

    Attributes:
        models: how many were compared.
        of: how many there are.
        texts: their number, N.
        halves: in the order of the splits.
        domains: by falling number of texts; none where there is one domain.
        numbers: by rising number of texts.
        others: in the order in which they were named.
    """

    models: int
    of: int
    texts: int
    halves: list[Half]
    domains: list[LeftOut]
    numbers: list[Number]
    others: list[Other]


def measure(
    matrix: MatrixFile, others: Sequence[tuple[str, Path]], splits: int, draws: int, seed: int
) -> Robustness:
    """All four views of a text set, in one thread, so that its bits are always the same.

    Args:
        matrix: the models and texts.
        others: names and matrices of other text sets.
        splits: how often the texts are divided into halves.
        draws: how many samples of each number of texts.
        seed: of the sample of models, and of every draw of texts.
    """
    with threadpool_limits(1):
        rows = sampled(len(matrix.model), seed)
        some = Coordinates.read(matrix, rows)
        total = some.sums(np.arange(some.texts))
        return Robustness(
            models=some.models,
            of=len(matrix.model),
            texts=some.texts,
            halves=halves(some, total, splits, seed),
            domains=left_out(some, total, split.domains_of(matrix.domain), seed),
            numbers=by_number(some, total, draws, seed),
            others=[between(matrix, name, path, seed) for name, path in others],
        )


def halves(some: Coordinates, total: Sums, splits: int, seed: int) -> list[Half]:
    """How far the KLs of two random halves of the texts agree, again and again.

    Args:
        some: the models.
        total: of all texts.
        splits: how often.
        seed: of the splits.
    """
    rng = np.random.default_rng((seed, 1))
    progress = Progress(splits, "halves")
    found = []
    for number in range(1, splits + 1):
        first = some.sums(np.sort(rng.permutation(some.texts)[: some.texts // 2]))
        both = (some.side(sums) for sums in (first, total.without(first)))
        found.append(Half(number, first.texts, concordance.agreement(*both)))
        progress.add(1)
    progress.close()
    return found


def left_out(some: Coordinates, total: Sums, domains: split.Domains, seed: int) -> list[LeftOut]:
    """How far the KLs without one domain agree with those of all texts.

    Leaving texts out makes a difference whichever they are, so as many random ones are left out
    for comparison.

    Args:
        some: the models.
        total: of all texts.
        domains: of the texts.
        seed: of the random texts.

    Returns:
        One item per domain; none where there is one alone.
    """
    if len(domains.names) < 2:
        return []
    rng = np.random.default_rng((seed, 2))
    everything = some.side(total)
    progress = Progress(len(domains.names), "domains left out")
    found = []
    for number, (name, size) in enumerate(zip(domains.names, domains.sizes, strict=True)):
        own = np.flatnonzero(domains.code == number)
        result = concordance.agreement(some.side(total.without(some.sums(own))), everything)
        controls = []
        for _ in range(CONTROLS):
            drawn = np.sort(rng.choice(some.texts, size, replace=False))
            rest = some.side(total.without(some.sums(drawn)))
            controls.append(concordance.agreement(rest, everything))
        found.append(
            LeftOut(
                name, size, result,
                float(np.mean([item.spearman for item in controls])),
                float(np.mean([item.neighbors for item in controls])),
            )
        )  # fmt: skip
        progress.add(1)
    progress.close()
    return found


def by_number(some: Coordinates, total: Sums, draws: int, seed: int) -> list[Number]:
    """How far the KLs of few texts are from those of all, for rising numbers of texts.

    Args:
        some: the models.
        total: of all texts.
        draws: how many samples of each number.
        seed: of the samples.
    """
    if some.models < 2:
        return []
    kl, se = geometry.pairwise_kl(some.points.T.astype(np.float64), some.mean_bytes)
    upper = np.triu_indices(some.models, 1)
    truth, errors = kl[upper], se[upper].astype(np.float64)
    apart = truth > 0
    if not apart.any():
        return []
    everything = some.side(total)
    progress = Progress(len(counts(some.texts)) * draws, "samples of texts")
    found = []
    for texts in counts(some.texts):
        rng = np.random.default_rng((seed, 3, texts))
        off = np.empty((draws, int(apart.sum())), np.float32)
        spearman, neighbors = [], []
        for draw in range(draws):
            drawn = some.side(some.sums(np.sort(rng.choice(some.texts, texts, replace=False))))
            off[draw] = np.abs(drawn.pairs[apart] - truth[apart]) / truth[apart]
            spearman.append(product(drawn.ranks, everything.ranks))
            neighbors.append(concordance.kept(drawn, everything))
            progress.add(1)
        # Of a sample without replacement; the standard error is that of all N texts.
        shrink = some.texts * (1 / texts - 1 / some.texts) * some.texts / (some.texts - 1)
        sigmas = errors[apart] / truth[apart] * math.sqrt(shrink)
        median, q90 = (float(np.quantile(off, share)) for share in (0.5, 0.9))
        found.append(
            Number(
                texts, draws, median, expected(sigmas, 0.5), q90, expected(sigmas, 0.9),
                float(np.mean(spearman)), float(np.mean(neighbors)),
            )
        )  # fmt: skip
    progress.close()
    return found


def counts(texts: int) -> list[int]:
    """Numbers of texts to look at: 1, 2 and 5 of every decade, from few to less than all."""
    least = max(min(_LEAST_TEXTS, texts // 2), texts / _FINEST, 2)
    series = [factor * 10**power for power in range(12) for factor in (1, 2, 5)]
    return [number for number in series if least <= number < texts]


def expected(sigmas: Floats, share: float) -> float:
    """A quantile of normally distributed errors without their signs.

    Args:
        sigmas: (P,) a standard deviation of each pair.
        share: which quantile, between 0 and 1.

    Returns:
        What the share of ``|e|`` lies below, where ``e`` is drawn for a pair at random.
    """
    known = np.sort(sigmas[sigmas > 0])
    if not known.size:
        return 0.0
    known = known[:: max(1, len(known) // _SIGMAS)]
    low, high = 0.0, 10 * float(known[-1])
    for _ in range(60):
        middle = (low + high) / 2
        below = float(erf(middle / (known * math.sqrt(2))).mean()) < share
        low, high = (middle, high) if below else (low, middle)
    return (low + high) / 2


def write(folder: Path, found: Robustness) -> None:
    """Write halves.tsv, domains.tsv, numbers.tsv and sets.tsv; what is unknown is empty."""
    models = found.models
    write_tsv(
        folder / "halves.tsv", HALF_COLUMNS,
        ([row.split, models, row.texts, *_cells(row.agreement)] for row in found.halves),
    )  # fmt: skip
    write_tsv(
        folder / "domains.tsv", DOMAIN_COLUMNS,
        (
            [row.domain, row.texts, models, *_cells(row.agreement),
             _cell(row.spearman), _cell(row.neighbors)]
            for row in found.domains
        ),
    )  # fmt: skip
    write_tsv(
        folder / "numbers.tsv", NUMBER_COLUMNS,
        (
            [row.texts, row.draws, models, row.median, row.expected_median, row.q90,
             row.expected_q90, _cell(row.spearman), _cell(row.neighbors)]
            for row in found.numbers
        ),
    )  # fmt: skip
    write_tsv(
        folder / "sets.tsv", SET_COLUMNS,
        (
            [row.name, row.models, _cell(row.mantel.value), _cell(row.mantel.p),
             _cell(row.mantel_rank), _cell(row.procrustes.value), _cell(row.procrustes.p),
             _cell(row.neighbors)]
            for row in found.others
        ),
    )  # fmt: skip


def _cells(agreement: Agreement) -> list[float | None]:
    return [_cell(value) for value in astuple(agreement)]


def _cell(value: float) -> float | None:
    return None if math.isnan(value) else value
