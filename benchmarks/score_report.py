"""Tables of the scoring benchmark."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from score_shapes import Shape
from score_ways import Floats, Klmap, Process, Run, Way

RATIO_GOALS = {"float32": 1.7, "bfloat16": 2.5}
SHARE_GOAL = 0.6
STARTUP_GOAL = 8.0
MEMORY_GOAL = 1e9
GPU_SHARE_GOALS = {"1b": 0.45, "7b": 0.6}
ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}

Outcome = list[Run] | str
"""Finished runs, or the reason why there are none."""


@dataclass
class Comparison:
    """Everything measured on one model.

    Attributes:
        shape: the model.
        outcomes: runs of every way, or why it failed.
        plain: the way that ratios are taken to.
        speeds: what machine_speed.py printed, before and after.
        exact: sums in high precision, or why there are none.
        behind_bos: klmap's float32 log-likelihoods with ``prefix: bos``, or why there are none.
    """

    shape: Shape
    plain: Way
    outcomes: dict[Way, Outcome] = field(default_factory=dict)
    speeds: list[dict[str, Any]] = field(default_factory=list)
    exact: dict[str, Any] | str = "not computed"
    behind_bos: Floats | str = "not computed"

    def runs(self, way: Way) -> list[Run]:
        """Finished runs of a way; empty if it failed."""
        outcome = self.outcomes.get(way, [])
        return [] if isinstance(outcome, str) else outcome

    def ratio(self, way: Way) -> float:
        """Median over the rounds of the rate beside the plain loop's in the same round."""
        pairs = zip(self.runs(way), self.runs(self.plain), strict=False)
        return _median([run.rate / plain.rate for run, plain in pairs])

    def machine(self, dtype: str) -> float:
        """FLOP per second of the fastest library, before or after; NaN if unknown.

        The larger of both: one that was measured in a busy moment would flatter every way.
        """
        found = [max(speed["speeds"][dtype].values()) for speed in self.speeds]
        return max(found, default=math.nan)

    def share(self, way: Way) -> float:
        """The part of the machine's speed in matrix products that a way makes use of."""
        if not self.speeds:
            return math.nan
        rate = _median([run.rate for run in self.runs(way)])
        in_products: int = self.speeds[0]["in_products"]
        return 2 * in_products * rate / self.machine(way.dtype)

    def startup(self, way: Way) -> float:
        """Median seconds from the start of the process to the first batch."""
        return _median([run.startup for run in self.runs(way)])

    def peak(self, way: Way) -> float:
        """Largest resident memory of all runs, in bytes."""
        return float(max((run.peak for run in self.runs(way)), default=math.nan))

    def above_weights(self, way: Way) -> float:
        """Peak memory less the weights in the dtype of the way, in bytes."""
        if not self.speeds:
            return math.nan
        parameters: int = self.speeds[0]["parameters"]
        return self.peak(way) - parameters * ITEM_BYTES[way.dtype]

    def errors(self, way: Way) -> Floats:
        """Nats per text against high precision, for the few texts that have it."""
        runs = self.runs(way)
        if not runs or isinstance(self.exact, str):
            return np.array([])
        expected = np.array(self.exact["bos" if way.after_bos else "default"])
        difference: Floats = runs[-1].loglik[self.exact["number"]] - expected
        return difference


@dataclass(frozen=True)
class Goal:
    """A figure that klmap wants to reach.

    Attributes:
        text: the goal in words, without the dtype.
        form: how the figure is written.
        found: the figure of one model and way; NaN if unknown.
        met: whether a figure meets the goal.
    """

    text: str
    form: str
    found: Callable[[Comparison, Way], float]
    met: Callable[[float], bool]


GOALS = {
    "float32": Goal(
        f"at least {RATIO_GOALS['float32']} times the plain loop in float32",
        "{:.2f}",
        Comparison.ratio,
        lambda ratio: ratio >= RATIO_GOALS["float32"],
    ),
    "bfloat16": Goal(
        f"at least {RATIO_GOALS['bfloat16']} times the plain loop in float32",
        "{:.2f}",
        Comparison.ratio,
        lambda ratio: ratio >= RATIO_GOALS["bfloat16"],
    ),
}
"""Goals of one dtype each."""

SHARED_GOALS = (
    Goal(
        f"at least {SHARE_GOAL:.0%} of the faster library's speed",
        "{:.0%}",
        Comparison.share,
        lambda share: share >= SHARE_GOAL,
    ),
    Goal(
        f"first batch in less than {STARTUP_GOAL:.0f} s",
        "{:.1f} s",
        Comparison.startup,
        lambda seconds: seconds < STARTUP_GOAL,
    ),
    Goal(
        f"peak memory at most the weights and {MEMORY_GOAL / 1e9:.0f} GB",
        "{:.2f} GB more",
        lambda item, way: item.above_weights(way) / 1e9,
        lambda size: size <= MEMORY_GOAL / 1e9,
    ),
)
"""Goals of every dtype."""


def goals(comparisons: Sequence[Comparison]) -> str:
    """klmap's goals on a CPU, and what was found on each model."""
    lines = [
        f"| klmap's goal | {' | '.join(item.shape.title for item in comparisons)} |",
        "|---|" + "---:|" * len(comparisons),
    ]
    for dtype, own in GOALS.items():
        for goal in (own, *SHARED_GOALS):
            cells = [_reached(item, dtype, goal) for item in comparisons]
            lines.append(f"| {dtype}: {goal.text} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _reached(item: Comparison, dtype: str, goal: Goal) -> str:
    ways = [way for way in item.outcomes if isinstance(way, Klmap) and way.dtype == dtype]
    return _judged(goal.found(item, ways[0]), goal.form, goal.met) if ways else "-"


def table(item: Comparison) -> str:
    """All ways on one model."""
    lines = [
        "| way | tokens/s | of plain loop | first batch | whole process "
        "| of machine's speed | peak memory | above weights | largest, RMS error |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for way, outcome in item.outcomes.items():
        if isinstance(outcome, str):
            lines.append(f"| {way.name} | {_plain_cell(outcome)} |" + " |" * 7)
            continue
        rates = [run.rate for run in outcome]
        errors = np.abs(item.errors(way))
        found = "-"
        if len(errors):
            found = f"{errors.max():.1e}, {np.sqrt((errors**2).mean()):.1e}"
        cells = [
            f"{_median(rates):,.0f} ({min(rates):,.0f}-{max(rates):,.0f})",
            _shown(item.ratio(way), "{:.2f}"),
            _shown(item.startup(way), "{:.1f} s"),
            f"{_median([run.seconds for run in outcome]):.1f} s",
            _shown(item.share(way), "{:.0%}"),
            f"{item.peak(way) / 1e9:.2f} GB",
            _shown(item.above_weights(way) / 1e9, "{:.2f} GB"),
            found,
        ]
        lines.append(f"| {way.name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def remarks(item: Comparison) -> str:
    """What stands below a table: the machine's speed, tokens, and how numbers compare."""
    parts = []
    if len(item.speeds) > 1:
        before, after = item.speeds[0], item.speeds[-1]
        found = [
            f"{dtype} {library} {rate / 1e9:,.0f} and {after['speeds'][dtype][library] / 1e9:,.0f}"
            for dtype, libraries in before["speeds"].items()
            for library, rate in libraries.items()
        ]
        parts.append(
            f"{before['parameters'] / 1e6:,.1f} million parameters, "
            f"{before['in_products'] / 1e6:,.1f} million in matrix products. Measured speed in "
            f"GFLOP/s, before and after: {'; '.join(found)}."
        )
    parts.append(_tokens(item))
    if isinstance(item.exact, str):
        parts.append(f"Sums in high precision: {_plain_cell(item.exact)}.")
    parts += _beside_bos(item)
    return "\n".join(part for part in parts if part)


def bare_remark(process: Process) -> str:
    """What a process holds and takes before it does anything."""
    return (
        f"A process that does nothing but `import torch, transformers` already peaks at "
        f"{process.peak / 1e9:.2f} GB and takes {process.seconds:.1f} s."
    )


def gpu_goals(comparisons: Sequence[Comparison]) -> str:
    """The share of the GPU's speed that was asked for, and what was found."""
    parts = []
    for item in comparisons:
        ways: Mapping[str, float] = {
            way.name: item.share(way) for way in item.outcomes if isinstance(way, Klmap)
        }
        goal = GPU_SHARE_GOALS[item.shape.key]
        parts += [
            f"{item.shape.title}, {name}: {_judged(share, '{:.0%}', goal.__le__)} of {goal:.0%}"
            for name, share in ways.items()
        ]
    return "Goals: " + "; ".join(parts) + "."


def _tokens(item: Comparison) -> str:
    """Whether all ways scored the same tokens."""
    counts: dict[bool, set[int]] = {False: set(), True: set()}
    for way in item.outcomes:
        counts[way.after_bos] |= {run.scored for run in item.runs(way)}
    if any(len(found) > 1 for found in counts.values()):
        shown = {way.name: [run.scored for run in item.runs(way)] for way in item.outcomes}
        return f"**The ways scored different tokens**: {shown}."
    text = f"{item.shape.texts} texts"
    text += "".join(f", {count:,} scored tokens" for count in counts[False])
    return text + "".join(f"; {count:,} behind a BOS token" for count in counts[True]) + "."


def _beside_bos(item: Comparison) -> list[str]:
    """Largest differences between klmap with ``prefix: bos`` and the ways that score the same."""
    ways = [way for way in item.outcomes if way.after_bos and item.runs(way)]
    if not ways:
        return []
    if isinstance(item.behind_bos, str):
        return [f"klmap with `prefix: bos`: {_plain_cell(item.behind_bos)}."]
    found = [
        f"{np.abs(item.runs(way)[-1].loglik - item.behind_bos).max():.1e} nats ({way.name})"
        for way in ways
    ]
    return [
        "klmap in float32 with `prefix: bos` scores the tokens that lm-eval scores; over all "
        f"texts they differ by at most {', '.join(found)}."
    ]


def _judged(value: float, form: str, met: Callable[[float], bool]) -> str:
    if math.isnan(value):
        return "-"
    return f"{form.format(value)} ({'met' if met(value) else 'missed'})"


def _shown(value: float, form: str) -> str:
    return "-" if math.isnan(value) else form.format(value)


def _plain_cell(text: str) -> str:
    """Text that cannot break a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")


def _median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else math.nan
