"""Diffusion exponents: how distances grow with the steps between checkpoints."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from klmap import charts, style
from klmap.diffusion import Diffusion
from klmap.figure_trajectories import MOST_RUNS, NO_RUNS, short_names, subject
from klmap.geometry import nats_per_unit
from klmap.log import logger
from klmap.trajectories import Settings, Trajectory

MOST_STARTS = 40
"""Starts that a panel draws; of more, so many evenly spread ones."""

_WIDTH = 11.0
_DASHED = (0, (3, 2))
_TITLE: dict[str, Any] = {"size": 9.5, "loc": "left", "weight": "bold"}


def write(folder: Path, runs: Sequence[Trajectory], settings: Settings, texts: str) -> None:
    """Draw ``exponents.png`` and ``exponents.svg``; ``texts`` is the name of the text set."""
    with mpl.rc_context(style.RC):
        style.save(draw(runs, settings, texts), folder, "exponents")
    logger.info("drew %s", folder / "exponents")


def draw(runs: Sequence[Trajectory], settings: Settings, texts: str) -> Figure:
    """KL, and squared distance of the weights, against the steps between two checkpoints.

    Args:
        runs: what was measured.
        settings: with which settings.
        texts: name of the text set.
    """
    shown = [run for run in runs if run.likelihood or run.weights][:MOST_RUNS]
    spaces = 2 if any(run.weights for run in shown) else 1
    across = min(4 // spaces, max(len(shown), 1))
    down = max(1, math.ceil(len(shown) / across))
    tall = 2.7 if down < 3 else 1.75
    top, foot, gap = 1.6, 1.25, 0.72
    height = top + down * tall + (down - 1) * gap + foot
    title = "How distances grow with the steps between checkpoints"
    measured = [item for run in shown for item in (run.likelihood, run.weights) if item]
    many = any(len(item.starts) > MOST_STARTS for item in measured)
    more = f"; {MOST_STARTS} of them are drawn" if many else ""
    note = (
        f"A line begins at one checkpoint and goes through the next {settings.ahead} saved ones; "
        f"its slope is the diffusion exponent{more}. Above a panel: their mean and its 95 %\n"
        "interval over texts (or buckets of the weights' sketch) and starts. Dashed: slope 1, a "
        "random walk, and slope 2, a straight line at constant speed. Below 1 later steps\n"
        "take back some of earlier ones. Distances below the numerical noise are left out. "
        "Exponents of KL: Kishino et al. 2026; intervals and sketches of weights: klmap's own."
    )
    units = "KL in bits/byte"
    if spaces == 2:
        units += "; weights: squared distance, relative to the squared norm of the first"
    figure = style.new_figure(_WIDTH, height, title, f"{subject(runs, texts)}\n{units}", note)
    if not shown:
        axes = style.add_axes(figure, 0.5, foot, 0.5, top)
        charts.nothing(axes, _too_few(runs))
        return figure
    left, right, inner = 0.65, 1.25, 0.5
    wide = (_WIDTH - left - right - (across * spaces - 1) * inner) / (across * spaces)
    norm, names = _start_norm(shown), short_names(shown)
    panels: list[list[tuple[Axes, Diffusion, float, Trajectory]]] = [[], []]
    for number, run in enumerate(shown):
        row, column = divmod(number, across)
        bottom = height - top - tall - row * (tall + gap)
        unit = 1 / (2 * nats_per_unit(run.mean_bytes))
        for space, found in enumerate((run.likelihood, run.weights)[:spaces]):
            x = left + (column * spaces + space) * (wide + inner)
            axes = figure.add_axes((x / _WIDTH, bottom / height, wide / _WIDTH, tall / height))
            if space == 0:
                axes.set_title(style.literal(style.shorten(names[number], 30)), pad=19, **_TITLE)
            if found is None:
                charts.nothing(axes, "too few checkpoints\nwith a distance above noise" if not space
                               else "no sketches\nof the weights")  # fmt: skip
                continue
            panels[space].append((axes, found, 1.0 if space else unit, run))
            if row == down - 1 or number + across >= len(shown):
                axes.set_xlabel("steps between")
    for same, name in zip(panels, ("KL", "weights"), strict=True):
        _draw_panels(same, name, norm)
    bar = ScalarMappable(norm, mpl.colormaps["viridis"])
    place = (1 - 0.95 / _WIDTH, 1 - (top + min(tall, 2.4)) / height, 0.15 / _WIDTH,
             min(tall, 2.4) / height)  # fmt: skip
    drawn = charts.color_bar(figure, bar, place, "start: training step")
    if isinstance(norm, LogNorm):
        style.decade_axis(drawn.ax.yaxis)
    drawn.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: style.short_number(value)))
    return figure


def _draw_panels(
    panels: Sequence[tuple[Axes, Diffusion, float, Trajectory]], name: str, norm: Any
) -> None:
    """All panels of one space, on the same axes."""
    if not panels:
        return
    colors = mpl.colormaps["viridis"]
    for axes, found, unit, run in panels:
        starts = found.starts
        if len(starts) > MOST_STARTS:
            chosen = np.linspace(0, len(starts) - 1, MOST_STARTS).round().astype(int)
            starts = [starts[n] for n in chosen]
        for start in starts:
            axes.plot(
                start.elapsed, start.squares * unit, color=colors(norm(run.steps[start.row])),
                linewidth=1.5 if len(starts) <= 8 else 0.8, alpha=0.9, zorder=2,
                marker="o" if len(starts) <= 8 else None, markersize=3,
            )  # fmt: skip
        axes.text(
            0, 1.03, f"{name}  {found.exponent:.2f} ({found.low:.2f} to {found.high:.2f})",
            size=8.5, transform=axes.transAxes, va="bottom", color=style.INK,
        )  # fmt: skip
    every = [(start, unit) for _, found, unit, _ in panels for start in found.starts]
    x = np.concatenate([start.elapsed for start, _ in every])
    y = np.concatenate([start.squares * unit for start, unit in every])
    room_x, room_y = (x.max() / x.min()) ** 0.05, (y.max() / y.min()) ** 0.07 + 0.05
    for axes, found, unit, _ in panels:
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(x.min() / room_x, x.max() * room_x)
        axes.set_ylim(y.min() / room_y, y.max() * room_y)
        for axis, ends in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            style.decade_axis(axis)
            if ends[1] / ends[0] > 60:
                axis.set_major_locator(LogLocator(subs=(1,)))
        axes.tick_params(labelsize=7.5)
        style.graph(axes)
        _guides(axes, found, unit)


def _guides(axes: Axes, found: Diffusion, unit: float) -> None:
    """Slopes 1 and 2 from where the lines of a panel begin."""
    x = float(np.median([start.elapsed[0] for start in found.starts]))
    y = float(np.median([start.squares[0] * unit for start in found.starts]))
    (right, top) = axes.get_xlim()[1], axes.get_ylim()[1]
    for exponent in (1, 2):
        end = min(right, x * (top / y) ** (1 / exponent))
        axes.plot(
            [x, end], [y, y * (end / x) ** exponent], color=style.MUTED, linewidth=1,
            linestyle=_DASHED, zorder=2.5,
        )  # fmt: skip
        axes.annotate(
            str(exponent), (end, y * (end / x) ** exponent), xytext=(-9, -7),
            textcoords="offset points", size=7.5, color=style.INK, ha="center", va="center",
            bbox={"boxstyle": "round,pad=0.12", "facecolor": "white", "edgecolor": "none"},
        )  # fmt: skip


def _start_norm(runs: Sequence[Trajectory]) -> Normalize:
    """Colours of starts by their step, over all runs."""
    steps = [
        float(run.steps[start.row])
        for run in runs
        for found in (run.likelihood, run.weights)
        if found is not None
        for start in found.starts
    ]
    low, high = min(steps), max(steps)
    if low > 0 and high / low > 12:
        return LogNorm(low, high)
    return Normalize(low, high if high > low else low + 1)


def _too_few(runs: Sequence[Trajectory]) -> str:
    if not runs:
        return NO_RUNS
    return (
        "No checkpoint has three later ones with a known step, from the step on from which they "
        "count.\nGive more revisions: to a model in config.yaml, or a smaller from_step: of "
        "trajectories."
    )
