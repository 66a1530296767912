"""How faithful a map is: distances on it against KL, and which models keep their neighbours.

That both are shown with every map, and how, is klmap's own.
"""

from __future__ import annotations

import textwrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from scipy.spatial import KDTree
from scipy.stats import spearmanr

from klmap import alignment, charts, figure_map, quality, style
from klmap.arrays import Floats
from klmap.scene import Scene
from klmap.store import Distances

MOST_PAIRS = 600_000
"""Of more pairs about so many are drawn at random."""

_CHARACTERS = 145
_ROWS = 500
_FEW_PAIRS = 2500
_FEWEST_IN_BAND = 400
_BINS = 24
_FEWEST_IN_BIN = 30
_LEAST = 1e-4
_RANGE = (1e-6, 1e3)
_WIDE = 1e3
_KEPT = LinearSegmentedColormap.from_list("kept", ["#b42318", "#e8a87c", "#c3ccd9"])
_TITLE: dict[str, Any] = {"size": 9.5, "loc": "left", "pad": 8}


def draw_layout(scene: Scene) -> Figure:
    """Left, KL of pairs against their distance on the map; right, the neighbours that models keep.

    Distances on the map are in shares of its width, the larger side of the box around all points.
    """
    figure = style.new_figure(
        11,
        6.9,
        "How faithful the map is",
        "\n".join([scene.subject, *textwrap.wrap(scene.faithful, _CHARACTERS)]),
        "A map is to be trusted where the cloud is narrow and rises, and around models that keep "
        "their neighbours. Elsewhere look at the numbers.",
    )
    left = style.add_axes(figure, 0.95, 1.0, 5.75, 1.55)
    plane = style.add_axes(figure, 5.9, 1.8, 0.3, 1.55)
    bars = style.add_axes(figure, 5.9, 1.0, 0.3, 5.2)
    if len(scene.models) < 2:
        for axes in (left, plane, bars):
            axes.set_axis_off()
        charts.message(left, charts.SINGLE)
        return figure
    _cloud(left, *pairs(scene.distances, scene.points), scene.distance)
    kept, nearest = neighbors_kept(scene.distances, scene.points)
    _plane(plane, scene.points, kept / nearest)
    _bars(bars, kept, nearest, scene.distance)
    return figure


def pairs(distances: Distances, points: Floats) -> tuple[Floats, Floats]:
    """KL and distance on the map of all pairs of models, or of many of them at random.

    Args:
        distances: of the K models, at least two. Where not all pairs are stored, KL is estimated
            from the principal components and what they leave out.
        points: (K, 2) places.

    Returns:
        (P,) bits per byte, and (P,) shares of the map's width.
    """
    count = len(points)
    divergence = quality.divergence_of(distances)
    if divergence is None:
        first = np.repeat(np.arange(count), distances.neighbor_index.shape[1])
        second = distances.neighbor_index.ravel().astype(np.intp)
        kl = distances.neighbor_kl.ravel()
    elif count * (count - 1) // 2 <= MOST_PAIRS:
        first, second = np.triu_indices(count, 1)
        kl = divergence(np.arange(count))[first, second]
    else:
        rng, each = np.random.default_rng(0), MOST_PAIRS // _ROWS
        rows = rng.choice(count, _ROWS, replace=False)
        others = (rows[:, None] + rng.integers(1, count, (_ROWS, each))) % count
        kl = np.take_along_axis(divergence(rows), others, axis=1).ravel()
        first, second = np.repeat(rows, each), others.ravel()
    apart = np.linalg.norm(points[first] - points[second], axis=1)
    return np.asarray(kl, np.float64), apart / (alignment.width(points) or 1.0)


def neighbors_kept(distances: Distances, points: Floats) -> tuple[Floats, int]:
    """How many of its nearest models by KL each model has among its nearest on the map.

    Args:
        distances: of the K models, at least two.
        points: (K, 2) places.

    Returns:
        (K,) numbers of models, and how many nearest there are: ten, fewer where that is more than
        half of the models or fewer are stored.
    """
    count = len(points)
    nearest = min(quality.NEIGHBORS, distances.neighbor_index.shape[1], max((count - 1) // 2, 1))
    true = distances.neighbor_index[:, :nearest]
    found = KDTree(points).query(points, nearest + 1)[1].reshape(count, nearest + 1)
    # A model that stands at one place with others need not come first in its own list.
    own = found == np.arange(count)[:, None]
    own[~own.any(axis=1), -1] = True
    others = found[~own].reshape(count, nearest)
    kept = (true[:, :, None] == others[:, None, :]).any(axis=2).sum(axis=1)
    return kept.astype(np.float64), nearest


def _cloud(axes: Axes, kl: Floats, apart: Floats, called: str) -> None:
    x, y = np.clip(kl, *_RANGE), np.maximum(apart, _LEAST)
    axes.set_xscale("log")
    axes.set_yscale("log")
    if len(x) <= _FEW_PAIRS:
        color = style.EXTENDED[0]
        axes.plot(x, y, ".", color=color, markersize=5.5, alpha=0.5, markeredgewidth=0, zorder=2)
    else:
        axes.hexbin(
            x, y, gridsize=55, xscale="log", yscale="log", bins="log", mincnt=1, cmap="Blues",
            linewidths=0, vmin=0.3, zorder=2,
        )  # fmt: skip
    if len(x) >= _FEWEST_IN_BAND:
        _band(axes, x, y, called)
    title = "Pairs of models"
    if min(np.ptp(kl), np.ptp(apart)) > 0:
        title += f" (rank correlation {spearmanr(kl, apart).statistic:.2f})"
    axes.set_title(title, **_TITLE)
    axes.set_xlabel(f"{called}, bits/byte")
    axes.set_ylabel("distance on the map, share of its width")
    for axis, values in ((axes.xaxis, x), (axes.yaxis, y)):
        if values.max() < _WIDE * values.min():
            style.decade_axis(axis)
        else:
            axis.set_major_formatter(FuncFormatter(lambda value, _: style.short_number(value)))
    style.graph(axes)


def _band(axes: Axes, kl: Floats, apart: Floats, called: str) -> None:
    """The median, and the middle 80 %, of the distances on the map of pairs with like KL."""
    edges = np.geomspace(kl.min(), kl.max() * (1 + 1e-9), _BINS + 1)
    middle = np.sqrt(edges[1:] * edges[:-1])
    bins = np.searchsorted(edges, kl, side="right") - 1
    lines = np.full((3, _BINS), np.nan)
    for own in range(_BINS):
        inside = apart[bins == own]
        if len(inside) >= _FEWEST_IN_BIN:
            lines[:, own] = np.quantile(inside, (0.1, 0.5, 0.9))
    dashed: Any = {"linewidth": 0.8, "linestyle": (0, (3, 2))}
    axes.plot(middle, lines[1], color=style.INK, linewidth=1.4, zorder=3, label="median")
    axes.plot(middle, lines[0], color=style.INK, zorder=3, label="middle 80 %", **dashed)
    axes.plot(middle, lines[2], color=style.INK, zorder=3, **dashed)
    axes.legend(
        loc="upper left", fontsize=8, handlelength=1.8, title=f"pairs of like {called}",
        title_fontsize=8, alignment="left",
    )  # fmt: skip


def _plane(axes: Axes, points: Floats, share: Floats) -> None:
    style.plain(axes)
    axes.set_title("Models, by how many of their neighbours they keep", **_TITLE)
    figure_map.frame(axes, points, 1.08)
    order = np.argsort(-share, kind="stable")
    count = len(points)
    axes.scatter(
        points[order, 0],
        points[order, 1],
        s=45 if count <= figure_map.MOST_LABELS else 20 if count <= 300 else 8,
        c=_KEPT(share[order]),
        edgecolors="white",
        linewidths=0.6 if count <= 300 else 0.2,
    )


def _bars(axes: Axes, kept: Floats, nearest: int, called: str) -> None:
    counts = np.bincount(kept.astype(int), minlength=nearest + 1)
    axes.bar(
        np.arange(nearest + 1), counts, color=_KEPT(np.arange(nearest + 1) / nearest), width=0.86
    )
    axes.set_xlim(-0.6, nearest + 0.6)
    axes.set_xticks(range(nearest + 1))
    axes.yaxis.set_major_locator(MaxNLocator(2, integer=True))
    axes.tick_params(labelsize=8, length=2)
    axes.set_xlabel(
        f"of its {nearest} nearest by {called}, how many are among its {nearest} nearest here"
    )
    axes.set_ylabel("models")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
