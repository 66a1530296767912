"""The map once for each domain of the texts, in small multiples."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from klmap import charts, lineage, style
from klmap.arrays import Floats
from klmap.domain_maps import LEAST_TEXTS, DomainMap
from klmap.scene import Scene

MOST_TRACES = 150
"""Above this many models no line leads to a model's place on the overall map."""

_WIDTH = 11.0
_LEGEND = 2.05
_LEFT = 0.3
_TOP = 0.92
_FOOT = 0.72
_GAP = 0.12
_TITLE = 0.52
_MOST_COLUMNS = 5
_FLATTEST = 0.6
_BAR = 2.2


def draw(scene: Scene, maps: Sequence[DomainMap]) -> Figure:
    """One panel for all texts and one for each domain, with the colours of the map.

    All panels have one scale, so that places can be compared from panel to panel.

    Args:
        scene: models, overall places and colours.
        maps: of the domains, the largest first.
    """
    panels: list[tuple[str, str, Floats]] = [
        ("All texts", f"{scene.distances.n_texts:,} texts", scene.points)
    ]
    panels += [(item.domain, _about(item), item.points) for item in maps]
    fewest = min(_MOST_COLUMNS, max(2, math.ceil(math.sqrt(len(panels)))))
    columns = min(range(fewest, min(fewest + 2, _MOST_COLUMNS + 1)), key=lambda c: -len(panels) % c)
    rows = math.ceil(len(panels) / columns)
    low, reach = _frame([points for _, _, points in panels])
    wide = (_WIDTH - _LEFT - _LEGEND - _GAP * (columns - 1)) / columns
    high = wide * reach[1] / reach[0]
    coloring = style.coloring(scene.models, scene.color_by)
    legend = 0.4 + 0.21 * len(coloring.legend) + (_BAR + 0.3 if coloring.bar else 0)
    height = _TOP + max(rows * (high + _TITLE), _TITLE + legend) + _FOOT
    figure = style.new_figure(
        _WIDTH,
        height,
        "The map, domain by domain",
        f"{scene.subject} · {len(maps)} domain{'s' if len(maps) != 1 else ''}",
        _note(scene, maps),
    )
    for number, (name, about, points) in enumerate(panels):
        row, column = divmod(number, columns)
        left = _LEFT + column * (wide + _GAP)
        bottom = height - _TOP - (row + 1) * (high + _TITLE)
        axes = figure.add_axes((left / _WIDTH, bottom / height, wide / _WIDTH, high / height))
        style.plain(axes)
        axes.set_xlim(low[0], low[0] + reach[0])
        axes.set_ylim(low[1], low[1] + reach[1])
        _panel(axes, scene, coloring, points, wide)
        _title(axes, name, about, wide)
    left, top = 1 - (_LEGEND - 0.2) / _WIDTH, 1 - (_TOP + _TITLE) / height
    charts.colored(figure, coloring, left, top, _BAR)
    return figure


def _about(item: DomainMap) -> str:
    known = math.isfinite(item.correlation)
    return f"{item.texts:,} texts" + (f" · r = {item.correlation:.2f}" if known else "")


def _note(scene: Scene, maps: Sequence[DomainMap]) -> str:
    """How to read the figure, in lines that fit under it."""
    which = "" if scene.chosen is None else "chosen "
    lines = [
        f"Each panel places the models by the {which}texts of one domain alone; it begins at the "
        "map of all texts and is turned onto it.",
        "r: rank correlation of the domain's KLs with those of all texts, over pairs of models. "
        "Where it is low, the map of all texts says little about that domain.",
    ]
    texts = scene.distances.n_texts if scene.chosen is None else scene.chosen.texts
    rest = texts - sum(item.texts for item in maps)
    if len(scene.models) <= MOST_TRACES:
        lines[0] += " A line leads from a model's place there."
    if rest:
        lines.append(
            f"Not shown: {rest:,} text{'s' if rest != 1 else ''} of domains with fewer than "
            f"{LEAST_TEXTS}."
        )
    return "\n".join(lines)


def _frame(all_points: Sequence[Floats]) -> tuple[Floats, Floats]:
    """Lower left corner, and width and height that hold every panel's points."""
    points = np.concatenate(all_points)
    low, high = points.min(axis=0), points.max(axis=0)
    reach = np.maximum(1.12 * (high - low), 1e-6)
    reach[0] = reach.max()
    reach[1] = max(reach[1], _FLATTEST * reach[0])
    return (low + high - reach) / 2, reach


def _panel(axes: Axes, scene: Scene, coloring: style.Coloring, points: Floats, side: float) -> None:
    count = len(scene.models)
    area = (26.0 if count <= MOST_TRACES else 9.0 if count <= 400 else 4.5) * min(side / 2, 1.6)
    if count <= MOST_TRACES and points is not scene.points:
        traces = np.stack([scene.points, points], axis=1)
        axes.add_collection(
            LineCollection(list(traces), colors=style.RULE, linewidths=0.7, zorder=1),
            autolim=False,
        )
    for run in lineage.ways(scene.models):
        color = style.MUTED if coloring.bar else coloring.categories[run.rows[-1]].color
        line = points[list(run.rows)]
        width = 1.0 if count <= MOST_TRACES else 0.4
        axes.plot(line[:, 0], line[:, 1], color=color, linewidth=width, alpha=0.55, zorder=2)
    # The most frequent family first, so that it does not cover the rare ones.
    for category in [*coloring.legend[-1:], *coloring.legend[:-1]]:
        rows = [row for row, own in enumerate(coloring.categories) if own == category]
        axes.scatter(
            points[rows, 0],
            points[rows, 1],
            s=area * style.AREA.get(category.marker, 1.0),
            c=coloring.colors[rows],
            marker=category.marker,
            edgecolors="white",
            linewidths=0.35 if count <= MOST_TRACES else 0.12,
            zorder=3,
        )


def _title(axes: Axes, name: str, about: str, side: float) -> None:
    most = max(12, int(side * 11))
    axes.annotate(
        style.literal(style.shorten(name, most)), (0, 1), xytext=(0, 16),
        xycoords="axes fraction", textcoords="offset points", size=9, weight="bold", va="bottom",
    )  # fmt: skip
    axes.annotate(
        about, (0, 1), xytext=(0, 4), xycoords="axes fraction", textcoords="offset points",
        size=8, color=style.MUTED, va="bottom",
    )  # fmt: skip
