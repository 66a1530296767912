"""Training runs: KL from each checkpoint to the next, and how their ends look."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from klmap import charts, style
from klmap.log import logger
from klmap.settling import Move
from klmap.style import Category
from klmap.trajectories import LEAST_CHECKPOINTS, Trajectory

MOST_RUNS = 12
"""Runs that a figure names or has panels for; the tables have all."""

_WIDTH = 11.0
_SIDE = 3.75
_FEW = 24
_HINT = 50
_LONGEST = 44
_DASHED = (0, (3, 2))
_DOTTED = (0, (1, 1.6))
NO_RUNS = (
    f"No model of this map has {LEAST_CHECKPOINTS} checkpoints of one training run.\n"
    "Give revisions: to one in config.yaml."
)
"""What a figure says where there are no runs."""


def write(folder: Path, runs: Sequence[Trajectory], texts: str) -> None:
    """Draw ``steps.png`` and ``steps.svg``; ``texts`` is the name of the text set."""
    with mpl.rc_context(style.RC):
        style.save(draw(runs, texts), folder, "steps")
    logger.info("drew %s", folder / "steps")


def draw(runs: Sequence[Trajectory], texts: str) -> Figure:
    """KL from each checkpoint to the next, and that per training step.

    Args:
        runs: what was measured.
        texts: name of the text set.
    """
    note = (
        "Above: KL from a checkpoint to the next saved one, at the step of the later one. Below: "
        "the same for each training step between, where the steps are known.\n"
        "Pale: before the step from which checkpoints count. Hollow: below the numerical noise of "
        "the two scores, which is the dashed line where it is near enough to be\n"
        "seen. A triangle marks the step from which on a run stands still. The hints, and how they "
        "are made, are klmap's own; an extrapolation assumes a power law."
    )
    figure = style.new_figure(
        _WIDTH, 7.6, "How far training runs move from checkpoint to checkpoint",
        f"{subject(runs, texts)} · bits/byte{_errors(runs)}{_hidden(runs)}", note,
    )  # fmt: skip
    upper = style.add_axes(figure, 0.95, 3.6, _SIDE, 0.95)
    lower = style.add_axes(figure, 0.95, 1.3, _SIDE, 4.2)
    moves = [move for run in runs for move in run.moves if move.kl > 0]
    if not moves:
        charts.nothing(upper, NO_RUNS)
        lower.set_axis_off()
        return figure
    each, _ = style.categories(short_names(runs))
    places = _Places(moves)
    for run, category in zip(runs, each, strict=True):
        _draw_moves(upper, run, category, places)
        _draw_rates(lower, run, category, places)
    for axes in (upper, lower):
        axes.set_yscale("log")
        style.decade_axis(axes.yaxis)
        _thin(axes)
        style.graph(axes)
        places.set_up(axes)
    _draw_floors(upper, runs, each, places)
    lower.set_xlim(upper.get_xlim())
    upper.tick_params(labelbottom=False)
    upper.set_ylabel("KL to the next, bits/byte")
    lower.set_ylabel("KL per step, bits/byte")
    lower.set_xlabel("training step")
    start = runs[0].from_step
    if places.low < start < places.high:
        for axes in (upper, lower):
            axes.axvline(start, color=style.MUTED, linewidth=0.8, linestyle=_DOTTED, zorder=0)
    _legend(figure, runs, each)
    return figure


class _Places:
    """Where moves stand on the axis of training steps, of which final weights have none."""

    def __init__(self, moves: Sequence[Move]) -> None:
        known = [move.end for move in moves if math.isfinite(move.end)]
        starts = [move.start for move in moves if move.start > 0]
        self.ticks = sorted({move.end for move in moves if math.isfinite(move.end)})
        self.has_final = len(known) < len(moves)
        self.low = min([*known, *starts])
        self.high = max([*known, *starts])
        least = min(known, default=self.low)
        self.logarithmic = self.high / max(least, 1e-9) > 12
        if self.logarithmic:
            self.final = self.high * (self.high / least) ** 0.09
        else:
            self.final = self.high + 0.13 * max(self.high - least, 0.1 * self.high)

    def of(self, move: Move) -> float:
        """Where a move is drawn."""
        return move.end if math.isfinite(move.end) else self.final

    def set_up(self, axes: Axes) -> None:
        """The axis, with a place of its own for final weights."""
        if self.logarithmic:
            axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
        if self.logarithmic:
            decades = LogLocator(subs=(1,) if self.high / self.ticks[0] > 300 else (1, 2, 5))
            ticks = [t for t in decades.tick_values(self.ticks[0], self.high) if t <= self.high]
            ticks = [t for t in ticks if t >= self.ticks[0]]
        elif len(self.ticks) <= 6:
            ticks = self.ticks
        else:
            ticks = [t for t in axes.get_xticks() if self.ticks[0] <= t <= self.high]
        if self.has_final:
            near = 0.05 if not self.logarithmic else 0.0
            ticks = [t for t in ticks if self.final - t > near * (self.high - self.low)]
            ticks.append(self.final)
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_major_formatter(
            FuncFormatter(
                lambda value, _: (
                    "final" if self.has_final and value == self.final else style.short_number(value)
                )
            )
        )


def _draw_moves(axes: Axes, run: Trajectory, category: Category, places: _Places) -> None:
    """One run in the upper panel."""
    moves = [move for move in run.moves if move.kl > 0]
    gray = category.color == style.OTHERS
    for before in (True, False):
        some = [move for move in moves if run.counts(move) != before]
        x, y = [places.of(move) for move in some], np.array([move.kl for move in some])
        alpha = 0.35 if before else 1.0
        # The step of final weights is unknown, so the line to them is dotted.
        solid = sum(math.isfinite(move.end) for move in some)
        _join(axes, moves, some, "kl", category)
        look: dict[str, Any] = {"color": category.color, "alpha": alpha}
        axes.plot(x[:solid], y[:solid], linewidth=0.7 if gray else 1.3, **look)
        if 0 < solid < len(some):
            axes.plot(x[solid - 1 :], y[solid - 1 :], linewidth=1, linestyle=_DOTTED, **look)
        if len(moves) <= _FEW and len(some):
            errors = np.array([move.se for move in some])
            below = np.minimum(errors, 0.95 * y)
            axes.errorbar(
                x, y, yerr=[below, errors], linestyle="none", elinewidth=0.9, capsize=2, **look
            )
        _dots(axes, x, y, [move.below_noise for move in some], category, len(moves), alpha)
    if math.isfinite(run.settled.at):
        axes.plot(
            run.settled.at, 0.03, marker="^", markersize=8, color=category.color,
            markeredgecolor="white", transform=axes.get_xaxis_transform(), clip_on=False, zorder=5,
        )  # fmt: skip


def _draw_rates(axes: Axes, run: Trajectory, category: Category, places: _Places) -> None:
    """One run in the lower panel."""
    moves = [move for move in run.moves if move.rate > 0]
    gray = category.color == style.OTHERS
    for before in (True, False):
        some = [move for move in moves if run.counts(move) != before]
        x, y = [places.of(move) for move in some], np.array([move.rate for move in some])
        alpha = 0.35 if before else 1.0
        axes.plot(x, y, linewidth=0.7 if gray else 1.3, color=category.color, alpha=alpha)
        _join(axes, moves, some, "rate", category)
        _dots(axes, x, y, [move.below_noise for move in some], category, len(moves), alpha)


def _join(
    axes: Axes, moves: Sequence[Move], some: Sequence[Move], value: str, category: Category
) -> None:
    """A pale line from the last move that does not count to the first that does."""
    place = len(moves) - len(some)
    ends = moves[place - 1 : place + 1]
    if 0 < place < len(moves) and some[0] is moves[place] and math.isfinite(ends[1].end):
        axes.plot(
            [move.end for move in ends], [getattr(move, value) for move in ends],
            color=category.color, alpha=0.35, linewidth=1.3,
        )  # fmt: skip


def _dots(
    axes: Axes,
    x: Sequence[float],
    y: np.ndarray[Any, Any],
    hollow: Sequence[bool],
    category: Category,
    count: int,
    alpha: float,
) -> None:
    size = 5.5 if count <= _FEW else 2.4
    for value in (False, True) if count <= _FEW else (True,):
        some = [n for n, own in enumerate(hollow) if own == value]
        axes.plot(
            [x[n] for n in some], y[some], linestyle="none", marker=category.marker,
            markersize=size, markerfacecolor="white" if value else category.color,
            markeredgecolor=category.color if value else "white",
            markeredgewidth=0.7 if count <= _FEW else 0.5, alpha=alpha, zorder=3,
        )  # fmt: skip


def _draw_floors(
    axes: Axes, runs: Sequence[Trajectory], each: Sequence[Category], places: _Places
) -> None:
    """The noise floors that are not far below everything else."""
    low, high = axes.get_ylim()
    near = _near(runs)
    for run, category in zip(runs, each, strict=True):
        moves = [move for move in run.moves if move.floor > near]
        floors = [move.floor for move in moves]
        axes.plot(
            [places.of(move) for move in moves], floors, color=category.color, linewidth=0.9,
            linestyle=_DASHED, alpha=0.8, zorder=1,
        )  # fmt: skip
        low = min([low, *(0.7 * floor for floor in floors)])
    axes.set_ylim(low, high)


def _near(runs: Sequence[Trajectory]) -> float:
    """Noise floors above this are drawn; those below would only make the axis long."""
    return min((move.kl for run in runs for move in run.moves if move.kl > 0), default=0.0) / 30


def _hidden(runs: Sequence[Trajectory]) -> str:
    """What the subtitle says of noise floors that are not drawn."""
    near = _near(runs)
    floors = [move.floor for run in runs for move in run.moves if 0 < move.floor <= near]
    return f" · noise floors below {max(floors) * 1.05:.0e}, not drawn" if floors else ""


def _thin(axes: Axes) -> None:
    """Of an axis over many decades, numbers at the powers of ten alone."""
    low, high = axes.get_ylim()
    if high / low > 300:
        axes.yaxis.set_major_locator(LogLocator(subs=(1,)))


def _legend(figure: Figure, runs: Sequence[Trajectory], each: Sequence[Category]) -> None:
    """Beside the panels: the runs, and under each what its end looks like."""
    width, height = figure.get_size_inches()
    left, top = (width - _SIDE + 0.25) / width, height - 1.0
    size = 8.5 if len(runs) <= 8 else 7.5
    line = 0.0165 * size
    named = 0
    for run, category in list(zip(runs, each, strict=True))[:MOST_RUNS]:
        if top < 1.3 + 4 * line:
            break
        named += 1
        handle = Line2D(
            [left + 0.004], [(top - 0.5 * line) / height], marker=category.marker,
            color=category.color, markersize=6.5, markeredgecolor="white", markeredgewidth=0.5,
            linestyle="none", transform=figure.transFigure, figure=figure,
        )  # fmt: skip
        figure.add_artist(handle)
        name = style.literal(style.shorten(category.name, _LONGEST))
        figure.text(left + 0.016, top / height, name, size=size, va="top", weight="bold")
        top -= 1.15 * line
        for words in textwrap.wrap(run.settled.words, _HINT if size > 8 else _HINT + 8):
            figure.text(
                left + 0.016, top / height, words, size=size - 1, va="top", color=style.MUTED
            )
            top -= line
        top -= 0.6 * line
    if len(runs) > named:
        more = f"and {len(runs) - named} more: see runs.tsv"
        figure.text(left, top / height, more, size=size, va="top", color=style.MUTED)


def _errors(runs: Sequence[Trajectory]) -> str:
    return " with standard errors over texts" if any(len(r.moves) <= _FEW for r in runs) else ""


def short_names(runs: Sequence[Trajectory]) -> list[str]:
    """Names of the runs, without the organisation where they stay different without it."""
    short = [f"{run.id.rpartition('/')[2]} {run.variant}".strip() for run in runs]
    unique = len(set(short)) == len(short)
    return short if unique else [run.name for run in runs]


def subject(runs: Sequence[Trajectory], texts: str) -> str:
    """How many runs and checkpoints on which texts."""
    count = sum(len(run.rows) for run in runs)
    words = f"{len(runs):,} run{'s' if len(runs) != 1 else ''}, {count:,} checkpoints"
    if not runs:
        return f"{words} · texts of “{texts}”"
    left, out = {run.texts for run in runs}, {len(run.dropped) for run in runs}
    kept = f"{min(left):,}" if len(left) == 1 else f"{min(left):,} to {max(left):,}"
    gone = f"{min(out):,}" if len(out) == 1 else f"{min(out):,} to {max(out):,}"
    return f"{words} · {kept} texts of “{texts}”, without {gone} outlier texts"
