"""Where edits of the prompt move models: an arrow for each model, a panel for each edit."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from klmap import charts, style
from klmap.arrays import Floats
from klmap.figure_map import frame
from klmap.log import logger
from klmap.prompt_edits import Edited
from klmap.prompt_plane import Planes

MOST_PANELS = 12
"""Edits that the figure has room for; the tables have all."""

MOST_LARGE = 150
"""Models up to which each has a marker of its own."""

_HEADING = "Where edits of the prompt move the models"
_WIDTH, _LEGEND, _LEFT, _TOP, _FOOT, _GAP, _TITLE = 11.0, 1.95, 0.3, 0.95, 0.95, 0.14, 0.46
_LINE = 168
_HIGHEST = 5.0
_TYPICAL = 0.06
_FACTORS = (1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 500, 1000)


def write(folder: Path, some: Edited, planes: Planes, texts: str) -> None:
    """Draw ``arrows``, PNG and SVG; ``texts`` is the name of the text set."""
    with mpl.rc_context(style.RC):
        style.save(draw(some, planes, texts), folder, "arrows")
    logger.info("drew %s", folder / "arrows")


def draw(some: Edited, planes: Planes, texts: str) -> Figure:
    """The models on the plane of each edit, with arrows.

    Args:
        some: the models and edits.
        planes: where they stand and where they go.
        texts: name of the text set.
    """
    count = len(some.names)
    panels = min(count, MOST_PANELS)
    columns = min(panels, 2 if panels in (2, 4) else 3 if panels <= 9 else 4)
    lines = math.ceil(panels / columns)
    wide = (_WIDTH - _LEFT - _LEGEND - _GAP * (columns - 1)) / columns
    each, legend = style.categories([some.found.models[row].family for row in planes.rows])
    factor = _factor(planes)
    tips = (planes.begin + factor * (planes.end - planes.begin))[:panels]
    every = np.concatenate([planes.begin[:panels], tips])
    every = every[np.isfinite(every).all(axis=2)]
    reach = np.ptp(every, axis=0)
    high = wide * min(max(reach[1] / reach[0] if reach[0] > 0 else 1.0, 0.5), 0.9)
    high = min(high, _HIGHEST)
    grid = lines * (high + _TITLE)
    height = _TOP + max(grid, _TITLE + 0.5 + 0.22 * len(legend)) + _FOOT
    cut = f", the first {panels} drawn" if panels < count else ""
    figure = style.new_figure(
        _WIDTH, height, _HEADING,
        f"{style.subject(len(planes.rows), some.texts, texts)} · "
        f"{count:,} edit{'s' if count != 1 else ''}{cut} · "
        f"{_long(factor)} · unit of both axes: √(bits/byte)",
        _note(planes, factor),
    )  # fmt: skip
    for panel in range(panels):
        row, column = divmod(panel, columns)
        left = _LEFT + column * (wide + _GAP)
        bottom = height - _TOP - (row + 1) * (high + _TITLE)
        axes = figure.add_axes((left / _WIDTH, bottom / height, wide / _WIDTH, high / height))
        style.plain(axes)
        frame(axes, every)
        _panel(axes, planes.begin[panel], tips[panel], each)
        seen = planes.seen[panel]
        about = f"{100 * seen:.0f} % of the shifts seen" if math.isfinite(seen) else "moves nothing"
        _title(axes, some.names[panel], about, wide)
    place = 1 - (_LEGEND - 0.2) / _WIDTH, 1 - (_TOP + _TITLE) / height
    charts.titled(figure, style.handles(legend), "family", *place)
    return figure


def _factor(planes: Planes) -> int:
    """How many times as long arrows are drawn, so that a typical one is seen."""
    length = np.hypot(*np.moveaxis(planes.end - planes.begin, -1, 0))
    length = length[np.isfinite(length)]
    typical = float(np.quantile(length, 0.75)) if length.size else 0.0
    side = float(np.ptp(planes.begin, axis=1).max())
    if typical <= 0 or side <= 0:
        return 1
    wanted = _TYPICAL * side / typical
    return next((each for each in _FACTORS if each >= wanted), _FACTORS[-1])


def _long(factor: int) -> str:
    return "arrows at their length" if factor == 1 else f"arrows drawn {factor:,} times as long"


def _note(planes: Planes, factor: int) -> str:
    shown = f"{100 * planes.across:.0f} %" if planes.across >= 0 else "nothing"
    longer = "" if factor == 1 else (
        f" They are drawn {factor:,} times as long as they are, all by the same factor."
    )  # fmt: skip
    return textwrap.fill(
        "Dots: models with the prompts as they are; arrows: how far the edit shifts them. Across: "
        f"the first principal component of the models, {shown} of their spread, in all panels. Up: "
        "the direction of the edit, the mean shift of all models, another one in each panel; a "
        "model that stands high is without the edit as others are with it. What is not seen of the "
        f"shifts goes elsewhere.{longer} Planes are klmap's own.",
        _LINE,
    )


def _panel(axes: Axes, begin: Floats, tips: Floats, each: list[style.Category]) -> None:
    large = len(begin) <= MOST_LARGE
    steps = tips - begin
    known = np.isfinite(steps).all(axis=1)
    bare = ~known
    axes.scatter(
        begin[bare, 0],
        begin[bare, 1],
        s=20 if large else 4,
        color=style.RULE,
        linewidths=0,
        zorder=1,
    )
    moving = np.flatnonzero(known & (steps != 0).any(axis=1))
    colors = np.array([each[n].color for n in range(len(each))], object)
    if len(moving):
        axes.quiver(
            *begin[moving].T, *steps[moving].T, color=list(colors[moving]),
            angles="xy", scale_units="xy", scale=1, units="dots", width=2.6 if large else 1.3,
            headwidth=4.2 if large else 4.5, headlength=5, headaxislength=4.4, minlength=0.5,
            alpha=0.95 if large else 0.6, zorder=3,
        )  # fmt: skip
    for category in {each[n].name: each[n] for n in range(len(each))}.values():
        some = [n for n in np.flatnonzero(known) if each[n].name == category.name]
        area = (24.0 if large else 3.0) * style.AREA.get(category.marker, 1)
        axes.scatter(
            begin[some, 0], begin[some, 1], s=area, color=category.color,
            alpha=1 if large else 0.35, marker=category.marker if large else "o",
            edgecolors="white", linewidths=0.5 if large else 0, zorder=4 if large else 2,
        )  # fmt: skip


def _title(axes: Axes, name: str, about: str, wide: float) -> None:
    for text, up, size, weight, color in (
        (style.shorten(name, max(12, int(wide * 11))), 15, 9.5, "bold", style.INK),
        (about, 4, 8, "normal", style.MUTED),
    ):
        axes.annotate(
            style.literal(text), (0, 1), xytext=(0, up), xycoords="axes fraction",
            textcoords="offset points", size=size, weight=weight, color=color, va="bottom",
        )  # fmt: skip
