"""How the distance that a training run has gone grows with the steps it has taken.

From one checkpoint on, the KL divergence to the next saved ones is about ``elapsed steps ** c``.
The slope ``c`` of its logarithm against that of the elapsed steps is the diffusion exponent
(Kishino et al. 2026, "Establishing a Scale for KL Divergence in Language Models Across Various
Settings", where it is fitted to the next ten saved checkpoints). A KL is a squared distance, so a
random walk has exponent 1 and a straight line at constant speed 2; below 1 is subdiffusive: later
steps take back some of what earlier ones did. The same is done with squared distances of the
weights.

A start needs three distances, and its interval and that of the mean of all starts are klmap's own.
Columns, which are texts or buckets of a sketch of the weights, are drawn with replacement; that is
the interval of a start. For the mean, starts are drawn as well, in circular blocks (Politis and
Romano 1992) of ``ahead`` neighbours, because those share most of what they are fitted to. So it
covers other texts of the same kind and other stretches of training like these, not another seed of
the training. It is not exact: simulated random walks have 98 % of their intervals around 1 where
each text moves by itself, because what texts do to single starts is counted twice. Where a few
directions move all texts it is 92 % for 150 checkpoints and 75 % for 40, which are hardly four
independent stretches of ten.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from klmap.arrays import Floats, Rows
from klmap.bootstrap import draw

LEAST_POINTS = 3
"""Distances that an exponent is fitted to at least (own)."""

COVERAGE = 0.95
"""Of all intervals."""

_VALUES = 1 << 23
_LEAST_BLOCKS = 3


@dataclass(frozen=True)
class Start:
    """What one checkpoint says about the diffusion exponent.

    Attributes:
        row: which of the checkpoints it is.
        elapsed: (P,) steps from it to the later checkpoints that count, rising.
        squares: (P,) mean squared distances to them.
        exponent: slope of their logarithms.
        low: lower end of its interval over columns.
        high: upper end.
    """

    row: int
    elapsed: Floats
    squares: Floats
    exponent: float
    low: float
    high: float


@dataclass(frozen=True)
class Diffusion:
    """The diffusion exponent of a run in one space.

    Attributes:
        starts: one for each checkpoint with enough later ones, in order.
        exponent: their mean.
        low: lower end of its interval over columns and starts.
        high: upper end.
        below_noise: distances that were left out because they are not above the noise.
    """

    starts: Sequence[Start]
    exponent: float
    low: float
    high: float
    below_noise: int


def measure(
    values: Floats,
    steps: Floats,
    ahead: int,
    *,
    centred: bool,
    noise: Floats | None = None,
    bootstrap: int = 1000,
    seed: int = 42,
) -> Diffusion | None:
    """The exponents of one run.

    Args:
        values: (C, N) float64, a row for each checkpoint: log-likelihoods of texts, or buckets.
        steps: (C,) training steps, finite and strictly rising.
        ahead: to how many later checkpoints an exponent is fitted.
        centred: whether squared distances are variances over the columns, as a KL is, or means of
            squares.
        noise: (C,) RMS numerical error of the values, NaN where unknown. Squared distances that are
            not above ``noise_i^2 + noise_j^2`` are left out.
        bootstrap: bootstrap samples.
        seed: of these.

    Returns:
        None where no checkpoint has three later ones that count.
    """
    floor = np.zeros((len(steps), len(steps)))
    if noise is not None:
        floor = np.nan_to_num(noise[:, None] ** 2 + noise[None, :] ** 2)
    fits, dropped = [], 0
    for row in range(len(steps) - 1):
        later = np.arange(row + 1, min(row + 1 + ahead, len(steps)))
        squares = _squares(values[later] - values[row], centred)
        counted = squares > floor[row, later]
        dropped += int((~counted).sum())
        if counted.sum() >= LEAST_POINTS:
            fits.append((row, later[counted], squares[counted]))
    if not fits:
        return None
    elapsed = [steps[later] - steps[row] for row, later, _ in fits]
    slopes = np.array([
        slope(np.log(steps), np.log(squares))
        for steps, (_, _, squares) in zip(elapsed, fits, strict=True)
    ])  # fmt: skip
    drawn = _resampled(values, fits, elapsed, centred, bootstrap, seed)
    ends = np.quantile(drawn, _tails(), axis=1)
    means = _means_over_starts(drawn, min(ahead, max(1, len(fits) // _LEAST_BLOCKS)), seed)
    low, high = np.quantile(means, _tails())
    starts = [
        Start(row, elapsed[n], squares, float(slopes[n]), float(ends[0, n]), float(ends[1, n]))
        for n, (row, _, squares) in enumerate(fits)
    ]
    return Diffusion(starts, float(slopes.mean()), float(low), float(high), dropped)


def slope(x: Floats, y: Floats) -> Floats:
    """Slope of the least-squares line.

    Args:
        x: (P,).
        y: (P, ...).

    Returns:
        The shape of ``y`` without its first axis.
    """
    centred = x - x.mean()
    return np.asarray(np.tensordot(centred, y, axes=1) / (centred @ centred), np.float64)


def _tails() -> list[float]:
    return [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2]


def _squares(differences: Floats, centred: bool) -> Floats:
    """(P,) mean squares over the columns, or variances, of (P, N) differences."""
    squares = differences.var(axis=1) if centred else np.square(differences).mean(axis=1)
    return np.asarray(squares, np.float64)


def _resampled(
    values: Floats,
    fits: Sequence[tuple[int, Rows, Floats]],
    elapsed: Sequence[Floats],
    centred: bool,
    bootstrap: int,
    seed: int,
) -> Floats:
    """(A, R) the exponents of A starts in R samples of the columns."""
    columns = values.shape[1]
    found = np.empty((len(fits), bootstrap))
    # By blocks of samples, because the counts of all would be as large as a matrix of models.
    many = max(1, _VALUES // columns)
    for begin in range(0, bootstrap, many):
        samples = range(begin, min(begin + many, bootstrap))
        shares = np.array([draw(columns, seed, sample) for sample in samples]) / columns
        for n, (row, later, _) in enumerate(fits):
            differences = values[later] - values[row]
            if centred:
                # Without their mean, so that the difference of two sums below does not cancel.
                differences -= differences.mean(axis=1, keepdims=True)
            squares = np.square(differences) @ shares.T
            if centred:
                squares -= np.square(differences @ shares.T)
            logs = np.log(np.maximum(squares, np.finfo(np.float64).tiny))
            found[n, begin : begin + len(samples)] = slope(np.log(elapsed[n]), logs)
    return found


def _means_over_starts(drawn: Floats, block: int, seed: int) -> Floats:
    """(R,) means of the exponents over blocks of starts, one sample of blocks for each of columns.

    Args:
        drawn: (A, R) exponents.
        block: starts in a block.
        seed: of the samples.
    """
    starts, samples = drawn.shape
    rng = np.random.default_rng([seed, samples, starts])
    begins = rng.integers(0, starts, (samples, -(-starts // block)))
    chosen = (begins[:, :, None] + np.arange(block)) % starts
    chosen = chosen.reshape(samples, -1)[:, :starts]
    return np.asarray(drawn[chosen, np.arange(samples)[:, None]].mean(axis=1), np.float64)
