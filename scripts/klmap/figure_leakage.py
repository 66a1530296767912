"""Code length against benchmark scores, and where models know more than these let expect.

How leakage is looked for and shown is klmap's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from klmap import charts, labels, lineage, style
from klmap.arrays import Floats
from klmap.leakage import FLAG, Leakage
from klmap.models_table import Model

MOST_NAMED = 14
"""Flagged models that have a name in the cloud, the most suspicious ones."""

MOST_ROWS = 16
"""Models in the table of domains."""

_HEIGHT = 7.3
_TOP, _BOTTOM = 1.35, 1.05
_CLOUD = 5.0
_LEGEND = 6.0
_TABLE = 7.75
_LEAST_WIDTH = 12.0
_WIDEST_CELL, _NARROWEST_CELL = 0.6, 0.3
_EDGE = 9.0
_REACH = 8.0
_OVERALL = "all texts"
_TITLE: dict[str, Any] = {"size": 9.5, "loc": "left", "pad": 8}


def draw(found: Leakage, models: Sequence[Model], texts: str) -> Figure:
    """Left, code length on benchmark mean with the line and its band; right, models by domain.

    Args:
        found: of the models with scores.
        models: rows of models.tsv.
        texts: how many texts of which set, for the subtitle.
    """
    flagged = int(found.overall.flag.sum())
    parts = sum(int(domain.flag.sum()) for domain in found.domains)
    tests = len(found.domains) * len(found.rows)
    names = [lineage.short_names(models)[row] for row in found.rows]
    table = _table_of(found, names)
    estimated = ""
    if found.reference is not None:
        estimated = "\nThe chosen texts stand for all; what is said of all is an estimate by them."
    width = max(table.right + 0.35, _LEAST_WIDTH)
    figure = style.new_figure(
        width,
        _HEIGHT,
        "Possible leakage: texts known better than benchmark scores tell",
        f"{len(found.rows):,} of {len(models):,} models have a score · {texts}\n"
        f"over all texts {_flags(flagged)} of {len(found.rows):,} "
        f"({found.overall.by_chance:.1f} expected by chance) · by domain {_flags(parts)} of "
        f"{tests:,} ({sum(domain.by_chance for domain in found.domains):.1f} by chance)",
        "A search of klmap's own, and no proof. A model is flagged where its studentised residual "
        f"is above {FLAG:g}: the texts cost it fewer bits than a robust line through all models "
        "lets expect.\nBy domain, what all other texts cost is part of what is expected. Chance "
        "counts models as independent with normal errors; relatives are not, and a model of code "
        f"knows code well.{estimated}",
    )
    each, legend = style.categories([models[row].family for row in found.rows])
    axes = style.add_axes(figure, 0.8, _BOTTOM, width - 0.8 - _CLOUD, _TOP)
    _cloud(axes, found, each, legend, names)
    left, top = _LEGEND / width, 1 - _TOP / _HEIGHT
    drawn = charts.families(figure, legend, left, top)
    figure.canvas.draw()
    below = drawn.get_window_extent().y0 / figure.bbox.height - 0.3 / _HEIGHT
    lines = [
        Line2D([], [], color=style.INK, linewidth=1.3, label="expected"),
        Line2D([], [], color=style.MUTED, linewidth=0.9, linestyle=(0, (3, 2)),
               label=f"{FLAG:g} standard\ndeviations"),
        Line2D([], [], linestyle="none", marker="o", markersize=9, markerfacecolor="none",
               markeredgecolor=style.INK, label="flagged"),
    ]  # fmt: skip
    charts.titled(figure, lines, "line", left, below)
    _draw_table(figure, table)
    return figure


def _flags(count: int) -> str:
    return f"{count:,} flagged" if count else "none flagged"


def _cloud(
    axes: Axes,
    found: Leakage,
    each: Sequence[style.Category],
    legend: Sequence[style.Category],
    names: Sequence[str],
) -> None:
    x, y, line = found.benchmark, found.bits, found.line
    # Broken models would press all others into a line.
    highest = float((line.expected + _EDGE * line.scale).max())
    lowest = float((line.expected - (FLAG + 1) * line.scale).min())
    seen = y[y <= highest]
    low, high = min(lowest, float(y.min())), min(highest, float(seen.max(initial=lowest)))
    high = max(high, float((line.expected + (FLAG + 0.5) * line.scale).max()))
    margin = 0.04 * (high - low)
    axes.set_ylim(low - margin, high + margin)
    wide = max(float(np.ptp(x)), 1e-3)
    axes.set_xlim(float(x.min()) - 0.04 * wide, float(x.max()) + 0.04 * wide)
    shown = np.minimum(y, high + 0.5 * margin)
    many = len(x) > 300
    area = 13.0 if many else 34.0
    for category in [*legend[-1:], *legend[:-1]]:
        rows = [row for row, own in enumerate(each) if own == category]
        axes.scatter(
            x[rows], shown[rows], s=area * style.AREA.get(category.marker, 1.0), c=category.color,
            marker=category.marker, edgecolors="white", linewidths=0.2 if many else 0.5, zorder=2,
        )  # fmt: skip
    grid = np.linspace(*axes.get_xlim(), 200)
    design = np.stack([np.ones(len(grid)), grid], axis=1)
    middle, spread = design @ line.coefficients, line.spread(design)
    axes.plot(grid, middle, color=style.INK, linewidth=1.3, zorder=3)
    dashed: Any = {"linewidth": 0.9, "linestyle": (0, (3, 2)), "color": style.MUTED, "zorder": 3}
    axes.plot(grid, middle - FLAG * spread, **dashed)
    axes.plot(grid, middle + FLAG * spread, **dashed)
    axes.set_xlim(grid[0], grid[-1])
    order = np.argsort(-found.overall.studentised, kind="stable")
    flagged = order[found.overall.flag[order]]
    axes.scatter(
        x[flagged], shown[flagged], s=3.2 * area, facecolors="none", edgecolors=style.INK,
        linewidths=1.0, zorder=4,
    )  # fmt: skip
    _name(axes, np.stack([x, shown], axis=1), flagged[:MOST_NAMED], names, np.sqrt(3.2 * area) / 2)
    title = "All texts: code length and benchmark mean"
    hidden = int((y > highest).sum())
    if hidden:
        title += f" ({hidden} beyond the upper edge)"
    axes.set_title(title, **_TITLE)
    axes.set_xlabel(f"benchmark score ({style.literal(found.score)})")
    axes.set_ylabel("bits per byte (lower is better)")
    style.graph(axes)


def _name(
    axes: Axes,
    places: Floats,
    named: npt.NDArray[np.intp],
    names: Sequence[str],
    radius: float,
) -> None:
    """Names of some points; no name lies on another or, where there is room, on a point."""
    figure = axes.figure
    assert isinstance(figure, Figure)
    scale = 72 / figure.dpi
    points = axes.transData.transform(places) * scale
    texts = [style.shorten(names[row], 30) for row in named]
    extents = np.array([style.text_size(text, 7.5) for text in texts]).reshape(-1, 2)
    box = axes.get_window_extent()
    placements = labels.arrange(
        points[named],
        np.full(len(named), radius),
        extents,
        (box.x0 * scale + 2, box.y0 * scale + 2, box.x1 * scale - 2, box.y1 * scale - 2),
        points,
    )
    leaders = []
    for row, text, placement in zip(named, texts, placements, strict=True):
        if placement is None:
            continue
        axes.annotate(
            style.literal(text), tuple(places[row]),
            xytext=(placement.center[0] - points[row, 0], placement.center[1] - points[row, 1]),
            textcoords="offset points", ha="center", va="center", size=7.5, zorder=5,
        )  # fmt: skip
        if placement.gap > 8:
            ends = np.array([points[row], placement.anchor]) / scale
            leaders.append(axes.transData.inverted().transform(ends))
    axes.add_collection(
        LineCollection(leaders, colors=style.MUTED, linewidths=0.5, zorder=1.5), autolim=False
    )


@dataclass(frozen=True)
class _Table:
    """The most suspicious models: studentised residuals over all texts and by domain.

    Attributes:
        names: of the rows.
        heads: of the columns.
        values: (rows, columns).
        left: where the cells begin, inches.
        cell: width of a column, inches.
    """

    names: list[str]
    heads: list[str]
    values: Floats
    left: float
    cell: float

    @property
    def right(self) -> float:
        """Where the cells end, inches."""
        return self.left + self.cell * len(self.heads)


def _table_of(found: Leakage, names: Sequence[str]) -> _Table:
    values = np.column_stack([found.overall.studentised, found.studentised])
    rows = np.argsort(-values.max(axis=1), kind="stable")[:MOST_ROWS]
    shown = [style.shorten(names[row], 32) for row in rows]
    heads = [style.shorten(name, 24) for name in (_OVERALL, *found.names)]
    cell = min(max(4.3 / len(heads), _NARROWEST_CELL), _WIDEST_CELL)
    return _Table(shown, heads, values[rows], _TABLE + style.widest(shown, 8) + 0.12, cell)


def _draw_table(figure: Figure, table: _Table) -> None:
    """Residuals as colours; flagged ones are written out."""
    width = float(figure.get_size_inches()[0])
    head = style.widest(table.heads, 8) + 0.12
    tall = min(_HEIGHT - _TOP - _BOTTOM - head - 0.55, 0.3 * len(table.names))
    foot = _HEIGHT - _TOP - head - tall
    axes = style.add_axes(figure, table.left, foot, width - table.right, _TOP + head)
    norm = Normalize(-_REACH, _REACH)
    image = axes.imshow(table.values, cmap=mpl.colormaps["RdBu_r"], norm=norm, aspect="auto")
    size = min(7.5, 72 * table.cell / 2.9)
    for row, column in np.argwhere(table.values > FLAG):
        value = table.values[row, column]
        axes.text(
            column, row, f"{value:.1f}" if value < 99.5 else f"{value:.0f}", ha="center",
            va="center", size=size, color="white" if value > 0.62 * _REACH else style.INK,
        )  # fmt: skip
    axes.axvline(0.5, color="white", linewidth=3)
    axes.tick_params(length=0, pad=3)
    axes.xaxis.tick_top()
    axes.set_xticks(
        range(len(table.heads)), [style.literal(text) for text in table.heads], rotation=90,
        size=8, color=style.INK,
    )  # fmt: skip
    texts = [style.literal(text) for text in table.names]
    axes.set_yticks(range(len(texts)), texts, size=8, color=style.INK)
    for spine in axes.spines.values():
        spine.set_visible(False)
    long = min(table.right - table.left, 2.4)
    place = (table.left / width, (foot - 0.28) / _HEIGHT, long / width, 0.11 / _HEIGHT)
    label = f"studentised residual, written out above {FLAG:g}"
    charts.color_bar(figure, image, place, label, across=True, extend="both")
    heading = "Most suspicious models, by domain"
    if not (table.values > FLAG).any():
        heading = "Nothing is flagged; the highest residuals"
    figure.text(_TABLE / width, 1 - (_TOP - 0.11) / _HEIGHT, heading, size=9.5, va="bottom")
