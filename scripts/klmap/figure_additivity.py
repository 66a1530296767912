"""Whether shifts add up: composed edits of the prompt against the sums of their parts."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from klmap import charts, clouds, style
from klmap.arrays import Floats
from klmap.log import logger
from klmap.prompt_additivity import Sum, chance_cosine, chance_error
from klmap.prompt_edits import Edited

MOST_SUMS = 14
"""Composed edits that the figure has room for; the table has all."""

MOST_DOTS = 150
"""Models up to which each is a dot beside the others; of more, their density is drawn."""

_HEADING = "Do the shifts of edits add up?"
_WIDTH, _TOP, _FOOT, _SQUARE = 11.0, 1.35, 1.35, 3.3
_LINE = 168
_TITLE: dict[str, Any] = {"size": 10, "loc": "left", "weight": "bold", "pad": 8}
_NOTE = (
    "Measured: the shift of a model by all the edits at once. Predicted: the sum of its shifts by "
    "each. Relative error: what the sum leaves of the measured shift; 0 if shifts add up, 1 if no "
    "better than no shift at all. Black: median. Orange: median of the nearest single edit, which "
    "the sum has to beat. Grey dashes: wordings that differ by chance alone, which have a cosine "
    "because all shifts begin at the same prompts. Measures and comparisons are klmap's own."
)
_NOTHING = (
    "No edit is composed of others that are scored as well.\n"
    "Give an edit the parts of two others to see whether their shifts add up."
)


def write(folder: Path, some: Edited, sums: Sequence[Sum], texts: str) -> None:
    """Draw ``additivity``, PNG and SVG; ``texts`` is the name of the text set."""
    with mpl.rc_context(style.RC):
        style.save(draw(some, sums, texts), folder, "additivity")
    logger.info("drew %s", folder / "additivity")


def draw(some: Edited, sums: Sequence[Sum], texts: str) -> Figure:
    """Predicted against measured sizes, cosines and relative errors.

    Args:
        some: the models and edits.
        sums: the composed edits.
        texts: name of the text set.
    """
    known = [item for item in sums if len(item.rows)]
    shown = known[:MOST_SUMS]
    rows = {int(row) for item in shown for row in item.rows}
    models = len(rows) if shown else int(some.under.any(axis=0).sum())
    count = len(known)
    told = f"{count:,} composed edit{'s' if count != 1 else ''}"
    told += f", the first {MOST_SUMS} drawn" if count > MOST_SUMS else ""
    subject = f"{style.subject(models, some.texts, texts)} · {told}"
    if not shown:
        figure = style.new_figure(_WIDTH, 3.2, _HEADING, subject)
        charts.nothing(style.add_axes(figure, 0.3, 0.4, 0.3, 1), _NOTHING)
        return figure
    names = [style.shorten(item.name, 24) for item in shown]
    tall = max(_SQUARE, 0.42 * len(shown))
    height = _TOP + tall + _FOOT
    figure = style.new_figure(_WIDTH, height, _HEADING, subject, textwrap.fill(_NOTE, _LINE))
    colors = [style.EXTENDED[n % len(style.EXTENDED)] for n in range(len(shown))]
    square = style.add_axes(figure, 0.8, height - _TOP - _SQUARE, _WIDTH - 0.8 - _SQUARE, _TOP)
    _sizes(square, shown, colors)
    margin = 0.8 + _SQUARE + 0.45 + style.widest(names, 9)
    wide = (_WIDTH - margin - 0.55 - 0.3) / 2
    low = max(tall - max(0.62 * len(shown), 1.1), 0.0) if len(shown) < 6 else 0.0
    bottom = _FOOT + low
    first = style.add_axes(figure, margin, bottom, _WIDTH - margin - wide, _TOP)
    _rows(first, shown, names, colors, "Cosine of both", [item.cosine for item in shown],
          [chance_cosine(len(item.parts)) for item in shown], None)  # fmt: skip
    first.set_xlabel("cosine of measured and predicted shift", size=8.5)
    second = style.add_axes(figure, margin + wide + 0.3, bottom, 0.55, _TOP)
    _rows(second, shown, [""] * len(shown), colors, "Error of the sum",
          [item.relative_error for item in shown],
          [chance_error(len(item.parts)) for item in shown],
          [_median(item.alone) for item in shown])  # fmt: skip
    second.set_xlabel("relative error", size=8.5)
    for place, item in enumerate(shown):
        second.annotate(
            f"{len(item.rows):,}", (1, place), xycoords=("axes fraction", "data"), xytext=(4, 0),
            textcoords="offset points", size=7.5, color=style.MUTED, va="center",
        )  # fmt: skip
    return figure


def _median(values: Floats) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if known.size else np.nan


def _sizes(axes: Axes, sums: Sequence[Sum], colors: Sequence[str]) -> None:
    """Sizes of measured and of predicted shifts, one dot per model."""
    axes.set_title("Size of the shifts", **_TITLE)
    every = np.concatenate([np.concatenate([item.kl, item.predicted_kl]) for item in sums])
    every = every[every > 0]
    if not every.size:
        charts.message(axes, "Nothing moves.")
        return
    low, high = float(every.min()) / 2.3, float(every.max()) * 2.3
    axes.plot([low, high], [low, high], color=style.INK, linewidth=0.8, zorder=1)
    many = max(len(item.rows) for item in sums) > MOST_DOTS
    for item, color in zip(sums, colors, strict=True):
        axes.scatter(
            item.predicted_kl, item.kl, s=5 if many else 22, color=color, linewidths=0.3,
            edgecolors="none" if many else "white", alpha=0.5 if many else 0.9, zorder=2,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    if high < 60 * low:
        style.decade_axis(axes.xaxis)
        style.decade_axis(axes.yaxis)
    axes.set_xlabel("predicted by the sum, bits/byte", size=8.5)
    axes.set_ylabel("measured, bits/byte", size=8.5)
    style.graph(axes)


def _rows(
    axes: Axes,
    sums: Sequence[Sum],
    names: Sequence[str],
    colors: Sequence[str],
    title: str,
    values: Sequence[Floats],
    chance: Sequence[float],
    alone: Sequence[float] | None,
) -> None:
    axes.set_title(title, **_TITLE)
    every = np.concatenate([*values, chance, alone or []])
    every = every[np.isfinite(every)]
    low, high = min(0.0, float(every.min())), max(1.0, float(every.max()))
    room = 0.03 * (high - low)
    low, high = low - room, high + room
    for place, (found, color) in enumerate(zip(values, colors, strict=True)):
        known = found[np.isfinite(found)]
        axes.plot([chance[place]] * 2, [place - 0.4, place + 0.4], color=style.MUTED,
                  linewidth=1.2, linestyle=(0, (2, 1.2)), zorder=1)  # fmt: skip
        if alone is not None and np.isfinite(alone[place]):
            axes.plot([alone[place]] * 2, [place - 0.36, place + 0.36], color="#D55E00",
                      linewidth=2, zorder=4, solid_capstyle="butt")  # fmt: skip
        if not known.size:
            continue
        if len(known) > MOST_DOTS:
            along, heights = clouds.density(known, low, high)
            axes.fill_between(along, place + 0.36, place + 0.36 - 0.74 * heights, color=color,
                              alpha=0.6, linewidth=0, zorder=2)  # fmt: skip
        else:
            heights = place + 1.1 * clouds.spread(known, low, high)
            axes.scatter(known, heights, s=20, color=color, edgecolors="white", linewidths=0.35,
                         zorder=3)  # fmt: skip
        axes.plot([np.median(known)] * 2, [place - 0.38, place + 0.38], color=style.INK,
                  linewidth=1.8, zorder=5, solid_capstyle="butt")  # fmt: skip
    axes.set_xlim(low, high)
    axes.set_ylim(len(sums) - 0.5, -0.5)
    axes.set_yticks(range(len(sums)), [style.literal(name) for name in names], size=9,
                    color=style.INK)  # fmt: skip
    axes.tick_params(axis="y", length=0)
    style.graph(axes, "x", left=False)
