"""Whether a training run still moves: from when on its steps cannot be told from noise.

A hint for those who pay for training. All of it is klmap's own. A move from one checkpoint to the
next counts as within the noise where the lower end of its interval over texts, ``KL - 1.96 se``, is
not above the noise floor of the two scores. A run has settled at the first checkpoint from which on
all are. Where it has not, the logarithm of KL per training step is fitted by a line in that of the
step, and the step at which it would reach the noise floor of the last pair of checkpoints, as far
apart as these, is read off with the interval of inverse regression (Fieller 1954). This is an
extrapolation: schedules of learning rates end, and a power law is an assumption.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from klmap.arrays import Floats

LEAST_PAIRS = 4
"""Pairs of checkpoints that a trend is fitted to at least."""

FARTHEST = 10.0
"""Beyond so many times the last step a hint names no step: nobody trains that far."""

FAR = 1e4
"""Of a KL so many times the noise floor a hint gives no number; a score in float32 has 10^11."""

_QUANTILE = 1.959964


@dataclass(frozen=True)
class Move:
    """From one checkpoint of a run to the next.

    Attributes:
        first: row of the earlier checkpoint among those of the run.
        second: row of the later one.
        start: training step of the earlier one.
        end: that of the later one; infinite for final weights whose step is unknown.
        kl: bits per byte.
        se: its standard error over texts.
        floor: noise floor of the two scores, bits per byte; NaN where unknown.
    """

    first: int
    second: int
    start: float
    end: float
    kl: float
    se: float
    floor: float

    @property
    def elapsed(self) -> float:
        """Training steps between the two; infinite where unknown."""
        return self.end - self.start

    @property
    def rate(self) -> float:
        """KL per training step, bits per byte; NaN where the steps are unknown."""
        return self.kl / self.elapsed if math.isfinite(self.end) else math.nan

    @property
    def below_noise(self) -> bool:
        """Whether the KL is below the numerical noise of the two scores."""
        return self.kl < self.floor

    @property
    def within_noise(self) -> bool:
        """Whether it is not above it for sure, given the chance of the texts."""
        return self.kl - _QUANTILE * self.se <= (0.0 if math.isnan(self.floor) else self.floor)


@dataclass(frozen=True)
class Trend:
    """A line through the logarithms of KL per step and of the step.

    Attributes:
        exponent: its slope: KL per step falls as this power of the step.
        low: lower end of the slope's 95 % interval.
        high: upper end.
        reached: the step at which it meets the noise floor; NaN where the slope is not surely
            negative, or the floor is unknown.
        earliest: lower end of that step's interval.
        latest: upper end; infinite steps are beyond what a number can say.
    """

    exponent: float
    low: float
    high: float
    reached: float = math.nan
    earliest: float = math.nan
    latest: float = math.nan


@dataclass(frozen=True)
class Settled:
    """What the moves of a run say about its end.

    Attributes:
        at: first step from which on every move is within the noise; NaN if there is none.
        times_floor: how many times the noise floor the last move is; NaN where that is unknown.
        trend: of KL per step; None with fewer than four moves that are not within the noise.
        words: all of this in a sentence.
    """

    at: float
    times_floor: float
    trend: Trend | None
    words: str


def judge(moves: Sequence[Move]) -> Settled:
    """From when on a run stands still, or when it might.

    Args:
        moves: those that count, in order.
    """
    if not moves:
        return Settled(math.nan, math.nan, None, "too few checkpoints to tell")
    still = len(moves)
    while still and moves[still - 1].within_noise:
        still -= 1
    last = moves[-1]
    times = last.kl / last.floor if last.floor > 0 else math.nan
    if still < len(moves):
        at = moves[still].start
        return Settled(at, times, None, f"within noise from step {at:,.0f} on")
    seen = [m for m in moves if math.isfinite(m.end) and m.kl > 0 and not m.within_noise]
    trend = _trend(seen) if len(seen) >= LEAST_PAIRS else None
    return Settled(math.nan, times, trend, _words(times, trend, seen))


def _trend(moves: Sequence[Move]) -> Trend:
    x = np.log([(move.start + move.end) / 2 for move in moves])
    y = np.log([move.rate for move in moves])
    middle = x - x.mean()
    spread = float(middle @ middle)
    exponent = float(middle @ y / spread)
    free = len(x) - 2
    variance = float(np.square(y - y.mean() - exponent * middle).sum()) / free
    quantile = float(stats.t.ppf(0.975, free))
    error = quantile * math.sqrt(variance / spread)
    found = Trend(exponent, exponent - error, exponent + error)
    floor = moves[-1].floor / moves[-1].elapsed
    if not (floor > 0 and found.high < 0):
        return found
    return _meeting(found, floor, x, y, error, quantile * math.sqrt(variance))


def _meeting(trend: Trend, floor: float, x: Floats, y: Floats, error: float, wide: float) -> Trend:
    """Where the line meets a level: Fieller's interval, which is finite for a slope that is sure.

    Args:
        trend: the line.
        floor: the level, bits per byte and step.
        x: (P,) logarithms of the steps.
        y: (P,) logarithms of KL per step.
        error: half the interval of the slope.
        wide: half the interval of a single value about the line.
    """
    below = math.log(floor) - y.mean()
    # The ends solve (below - slope u)^2 = error^2 u^2 + wide^2 / P for u = x - mean(x).
    lead = trend.exponent**2 - error**2
    root = error**2 * below**2 + lead * wide**2 / len(x)
    centre, reach = trend.exponent * below / lead, math.sqrt(root) / lead
    at = below / trend.exponent
    ends = (at, centre - reach, centre + reach)
    return Trend(trend.exponent, trend.low, trend.high, *(_exp(x.mean() + end) for end in ends))


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


def _words(times: float, trend: Trend | None, seen: Sequence[Move]) -> str:
    if math.isnan(times):
        words = "the last KL is above 0 for sure; numerical noise unknown"
    elif times > FAR:
        words = "the last KL is far above the noise floor"
    else:
        words = f"the last KL is {_rounded(times)} times the noise floor"
    if trend is None:
        return f"{words}; too few moves for a trend"
    if trend.high >= 0:
        return f"{words}; KL per step does not surely fall"
    words += f"; KL per step falls as step^{trend.exponent:.2g}"
    farthest = FARTHEST * seen[-1].end
    if math.isnan(trend.reached):
        return words
    if trend.reached > farthest:
        return f"{words}, and is not there within {FARTHEST:g} times the training"
    ends = (trend.earliest, trend.latest)
    low, high = (_rounded(min(end, farthest)) for end in ends)
    more = "more than " if trend.latest > farthest else ""
    at = _rounded(trend.reached)
    return f"{words}, and would reach it at step {at} ({low} to {more}{high}; extrapolated)"


def _rounded(value: float) -> str:
    """Two digits, without a power of ten up to a hundred million."""
    short = float(f"{value:.2g}")
    return f"{short:g}" if short < 100 else f"{short:,.0f}" if short < 1e8 else f"{short:.0e}"
