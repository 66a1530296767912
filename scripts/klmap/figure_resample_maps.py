"""How much maps of fewer texts move, and where they put new models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection, LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from klmap import charts, figure_map, labels, layout, lineage, style
from klmap.arrays import Floats
from klmap.figure_resample import COLORS
from klmap.layout import Place
from klmap.log import logger
from klmap.models_table import Model
from klmap.resample import Resample
from klmap.resample_maps import COMPARED, Landing, Stability

MOST_NAMES = 12
"""Above this many new models they have no names on the map."""

_WIDTH, _HEIGHT = 11.0, 8.9
_LEGEND = 2.3
_LEFT, _TOP, _FOOT = 0.3, 0.9, 0.92
_GAP, _ABOVE, _AXIS = 0.16, 0.5, 0.4
_TITLE: dict[str, Any] = {"size": 10, "weight": "bold", "va": "bottom", "color": style.INK}
_FEW = 150
_NO_PLACES = (
    "No model can be taken out and placed anew:\nthere are too few models, or their map is not "
    "made by t-SNE."
)


def write(
    folder: Path, found: Resample, models: Sequence[Model], places: Sequence[Place], texts: str
) -> None:
    """Draw ``stability`` and ``places``, each as PNG and SVG.

    Args:
        folder: where.
        found: what was measured.
        models: rows of models.tsv.
        places: the map, in their order.
        texts: name of the text set.
    """
    plane = layout.plane_of(places)
    with mpl.rc_context(style.RC):
        style.save(draw_stability(found, models, plane, texts), folder, "stability")
        style.save(draw_places(found, models, plane, texts), folder, "places")
    logger.info("drew %s and %s", folder / "stability", folder / "places")


def draw_stability(found: Resample, models: Sequence[Model], plane: Floats, texts: str) -> Figure:
    """The map with the ellipse of each model, once for each way to choose texts.

    Args:
        found: what was measured.
        models: rows of models.tsv.
        plane: (K, 2) places on the map, in their order.
        texts: name of the text set.
    """
    count = found.settings.maps
    figure = style.new_figure(
        _WIDTH, _HEIGHT, "How much a map of fewer texts moves",
        f"{found.subject(texts)} · 95 % ellipses over {count:,} maps of "
        "each kind, on the map of all texts",
        "Each map is continued from that of all texts with the distances by the texts chosen, and "
        "turned onto it. Radius: mean distance of a model's places from\n"
        "their mean, in % of the map's width, mean over the models. All texts, drawn again with "
        "replacement: what another text set of this size would do.\n"
        "LS with replacement and this comparison follow Oyama et al. 2025 (EMNLP Findings); maps "
        "that are continued, ellipses and the choice without replacement are klmap's own.",
    )  # fmt: skip
    panels = _panels(figure, 4)
    if not found.stability:
        for axes in panels:
            axes.set_axis_off()
        charts.message(panels[0], _too_few(found))
        return figure
    every = style.coloring(models, "family")
    coloring = replace(
        every,
        colors=every.colors[found.rows],
        categories=[every.categories[row] for row in found.rows],
    )
    points = plane[found.rows]
    for axes, own in zip(panels, found.stability, strict=True):
        style.plain(axes)
        figure_map.frame(axes, points, 1.3)
        _ellipses(axes, points, own.ellipses, coloring.colors)
        _points(axes, points, coloring, 0.55)
        _titled(axes, _kind(own), f"radius {100 * own.radius.mean():.1f} % of the map's width")
    left, top = 1 - (_LEGEND - 0.25) / _WIDTH, 1 - (_TOP + _ABOVE) / _HEIGHT
    charts.colored(figure, coloring, left, top, 2.5)
    return figure


def draw_places(found: Resample, models: Sequence[Model], plane: Floats, texts: str) -> Figure:
    """Where new models land by some of the texts, and where by all, for each way to choose.

    Args:
        found: what was measured.
        models: rows of models.tsv.
        plane: (K, 2) places on the map, in their order.
        texts: name of the text set.
    """
    count = len({own.row for own in found.landings})
    which = "newest models" if found.dated else "models, drawn at random,"
    held = len(found.shown) - count
    figure = style.new_figure(
        _WIDTH, _HEIGHT, "Where new models land by a fifth of the texts",
        f"{count} {which} placed among {held:,} · {found.texts:,} texts of “{texts}”",
        "The new models were taken out: what a text counts follows from the others, which keep "
        "their places. A line leads from where all texts put a new model to where\n"
        "the texts chosen put it. Ellipse: 95 % of its places among models that stay, if other "
        "texts had been chosen, and if all texts were others.\n"
        f"Neighbours: of its {found.landings[0].neighbors if found.landings else 0} nearest models "
        "by all texts, how many are among its nearest by the texts chosen, and the error of the KL "
        "to them. That new models\nare placed on a map that stays, and the ellipses, are klmap's "
        "own.",
    )  # fmt: skip
    panels = _panels(figure, 4)
    if not found.landings:
        for axes in panels:
            axes.set_axis_off()
        charts.message(panels[0], _NO_PLACES)
        return figure
    coloring = style.coloring(models, "family")
    new = [own for own in found.landings if own.kind == COMPARED[0]]
    rows = np.array(sorted(set(map(int, found.shown)) - {own.row for own in new}))
    ends = [place for own in found.landings for place in (own.by_all, own.by_some)]
    for axes, kind in zip(panels, COMPARED, strict=False):
        own = [item for item in found.landings if item.kind == kind]
        style.plain(axes)
        figure_map.frame(axes, np.vstack([plane[rows], ends]), 1.3)
        _landed(axes, plane, rows, own, coloring)
        if kind == COMPARED[0] and len(own) <= MOST_NAMES:
            _names(axes, models, own)
        within = sum(item.within for item in own)
        _titled(
            axes, f"{kind.label}, {own[0].texts:,} texts",
            f"all texts put {within} of {len(own)} within their ellipse",
        )  # fmt: skip
    box = panels[3].get_position()
    raised = _AXIS / _HEIGHT
    panels[3].set_position((box.x0, box.y0 + raised, box.width, box.height - raised))
    _distances(panels[3], found.landings)
    left, top = 1 - (_LEGEND - 0.25) / _WIDTH, 1 - (_TOP + _ABOVE) / _HEIGHT
    handles = [
        Line2D([], [], linestyle="none", marker="o", markersize=6.5, markerfacecolor="white",
               markeredgecolor=style.INK, label="by all texts"),
        Line2D([], [], linestyle="none", marker="o", markersize=6.5, color=style.INK,
               markeredgecolor="white", label="by the texts chosen"),
    ]  # fmt: skip
    charts.colored(figure, coloring, left, top, 2.5, handles)
    return figure


def _panels(figure: Figure, count: int) -> list[Axes]:
    """Two rows of two maps, beside a legend and below their titles."""
    wide = (_WIDTH - _LEFT - _LEGEND - _GAP) / 2
    high = (_HEIGHT - _TOP - _FOOT - 2 * _ABOVE) / 2
    result = []
    for number in range(count):
        row, column = divmod(number, 2)
        left = _LEFT + column * (wide + _GAP)
        bottom = _HEIGHT - _TOP - (row + 1) * (_ABOVE + high)
        place = (left / _WIDTH, bottom / _HEIGHT, wide / _WIDTH, high / _HEIGHT)
        result.append(figure.add_axes(place))
    return result


def _titled(axes: Axes, title: str, about: str) -> None:
    for text, above, style_of in (
        (title, 17, _TITLE),
        (about, 4, {"size": 8.5, "va": "bottom", "color": style.MUTED}),
    ):
        axes.annotate(
            text, (0, 1), xytext=(0, above), xycoords="axes fraction",
            textcoords="offset points", **style_of,
        )  # fmt: skip


def _kind(own: Stability) -> str:
    if own.kind is None:
        return "all texts, drawn again"
    return f"{own.kind.label}, {own.texts:,.0f} texts"


def _ellipses(axes: Axes, points: Floats, axes_of: Floats, colors: Floats) -> None:
    """Ellipses with half axes and angle, the largest first."""
    order = np.argsort(-axes_of[:, 0], kind="stable")
    few = len(points) <= _FEW
    faces = np.ones((len(order), 4))
    faces[:, :3] = colors[order]
    edges = faces.copy()
    # Of many, the areas would add up to one colour.
    faces[:, 3], edges[:, 3] = (0.13, 0.8) if few else (0.0, 0.4)
    axes.add_collection(
        EllipseCollection(
            2 * axes_of[order, 0], 2 * axes_of[order, 1], axes_of[order, 2], units="xy",
            offsets=points[order], offset_transform=axes.transData, facecolors=faces,
            edgecolors=edges, linewidths=0.8 if few else 0.35, zorder=1,
        ),
        autolim=False,
    )  # fmt: skip


def _points(axes: Axes, points: Floats, coloring: style.Coloring, size: float) -> None:
    area = size * (40.0 if len(points) <= _FEW else 14.0 if len(points) <= 400 else 6.0)
    for category in [*coloring.legend[-1:], *coloring.legend[:-1]]:
        rows = [row for row, own in enumerate(coloring.categories) if own == category]
        axes.scatter(
            points[rows, 0], points[rows, 1], s=area * style.AREA.get(category.marker, 1.0),
            color=category.color, marker=category.marker, edgecolors="white", linewidths=0.3,
            zorder=3,
        )  # fmt: skip


def _landed(
    axes: Axes, plane: Floats, held: Floats, landings: Sequence[Landing], coloring: style.Coloring
) -> None:
    """Held models pale, new ones in full colour."""
    pale = 14.0 if len(held) <= _FEW else 6.0
    axes.scatter(
        plane[held, 0], plane[held, 1], s=pale, c=coloring.colors[held], alpha=0.4, linewidths=0,
        zorder=1,
    )  # fmt: skip
    colors = coloring.colors[[own.row for own in landings]]
    begin = np.array([own.by_all for own in landings])
    end = np.array([own.by_some for own in landings])
    _ellipses(axes, end, np.array([own.ellipse for own in landings]), colors)
    axes.add_collection(
        LineCollection(
            list(np.stack([begin, end], axis=1)), colors=style.INK, linewidths=0.9, zorder=4
        ),
        autolim=False,
    )
    size = 30.0 if len(landings) <= MOST_NAMES else 17.0
    axes.scatter(begin[:, 0], begin[:, 1], s=size, c=colors, linewidths=0, zorder=5)
    axes.scatter(begin[:, 0], begin[:, 1], s=0.4 * size, c="white", linewidths=0, zorder=5)
    axes.scatter(
        end[:, 0], end[:, 1], s=size, c=colors, edgecolors="white", linewidths=0.5, zorder=6
    )


def _names(axes: Axes, models: Sequence[Model], landings: Sequence[Landing]) -> None:
    """Names beside the new models."""
    figure = axes.figure
    assert isinstance(figure, Figure)
    short = lineage.short_names(models)
    texts = [style.shorten(short[own.row], 28) for own in landings]
    scale = 72 / figure.dpi
    ends = np.array([own.by_some for own in landings])
    points = axes.transData.transform(ends) * scale
    box = axes.get_window_extent()
    sizes = np.array([style.text_size(text, 7.5) for text in texts])
    bounds = (box.x0 * scale, box.y0 * scale, box.x1 * scale, box.y1 * scale)
    others = axes.transData.transform([own.by_all for own in landings]) * scale
    found = labels.arrange(points, np.full(len(texts), 4.0), sizes, bounds, others)
    for text, end, point, placement in zip(texts, ends, points, found, strict=True):
        if placement is not None:
            axes.annotate(
                style.literal(text), end, xytext=np.subtract(placement.center, point),
                textcoords="offset points", ha="center", va="center", size=7.5, zorder=7,
            )  # fmt: skip


def _distances(axes: Axes, landings: Sequence[Landing]) -> None:
    """Distances between the two places of each new model, a row for each kind."""
    rng = np.random.default_rng(0)
    low = 1e-2
    for row, kind in enumerate(COMPARED):
        own = [item for item in landings if item.kind == kind]
        far = np.maximum(100 * np.array([item.distance for item in own]), low)
        middle = float(np.median(far))
        color = COLORS[kind.method]
        heights = row + (rng.uniform(-0.16, 0.16, len(far)) if len(far) > 1 else 0)
        axes.plot(
            far, heights, "o", color=color, markersize=4.5, alpha=0.55, markeredgewidth=0, zorder=2
        )
        axes.plot([middle] * 2, [row - 0.24, row + 0.24], color=style.INK, linewidth=1.4, zorder=3)
        errors = [item.error for item in own if not math.isnan(item.error)]
        kept = np.mean([item.kept / item.neighbors for item in own])
        words = f"median {middle:.2g} %, {100 * kept:.0f} % of the neighbours kept"
        if errors:
            words += f", error of the KL {100 * float(np.median(errors)):.2g} %"
        for text, above, ink in ((kind.label, 12, style.INK), (words, 1, style.MUTED)):
            axes.annotate(
                text, (0, row - 0.28), xycoords=("axes fraction", "data"), xytext=(0, above),
                textcoords="offset points", size=8, va="bottom", color=ink,
            )  # fmt: skip
    axes.set_xscale("log")
    axes.set_ylim(len(COMPARED) - 0.65, -0.85)
    axes.set_yticks([])
    style.decade_axis(axes.xaxis)
    axes.tick_params(labelsize=7.5, length=2)
    axes.set_xlabel("between the two places, % of the map's width", size=8.5, labelpad=2)
    style.graph(axes, "x", left=False)
    _titled(axes, "How far off", "one point for each new model; black: their median")


def _too_few(found: Resample) -> str:
    if found.of < 2:
        return charts.SINGLE
    return "All models are alike, so no text is more important than another."
