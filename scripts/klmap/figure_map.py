"""The map: points, ellipses, runs of checkpoints, fine-tunes, labels and legend."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection, LineCollection
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerPatch
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, Patch

from klmap import charts, labels, layout, lineage, style
from klmap.arrays import Floats
from klmap.bootstrap import Ellipse
from klmap.errors import InputError
from klmap.scene import Scene

MOST_LABELS = 60
"""Above this many models points have no labels: they would hide what they name."""

MOST_ARROWS = 150
"""Above this many models fine-tunes have no arrows."""

_COLUMNS = {
    "base_model": "base model",
    "bits_per_byte": "mean log-likelihood",
    "created_at": "date of creation",
}
_ELLIPSES = (
    "An ellipse holds 95 % of the places that a model takes when the map is continued with another "
    "sample of texts of the same kind; another seed or method is not in it."
)
WIDER = "distances to these have wider errors."
"""What a ring means for the numbers."""

_CHOICE = "these ellipses hold the chance of that choice too"
_AMONG = ", on top of what the models around them have."
_SIDE = 2.55
_TOP = 0.92
_LINE = 0.14
_CHARACTERS = 175


_PMI = "mean PMI, in bits/byte"


def draw_map(scene: Scene) -> Figure:
    """The map, coloured by ``scene.color_by``."""
    named = _COLUMNS.get(scene.color_by, scene.color_by)
    if scene.pmi and scene.color_by == "bits_per_byte":
        named = _PMI
    return _map(scene, "Map of language models", scene.color_by, f"coloured by {named}")


def draw_loglik(scene: Scene) -> Figure:
    """The map, coloured by mean log-likelihood in bits per byte; of PMI by what prompts add."""
    if scene.pmi:
        title = "The map by what prompts add"
        return _map(scene, title, "bits_per_byte", f"coloured by {_PMI}")
    return _map(
        scene,
        "The map by mean log-likelihood",
        "bits_per_byte",
        "coloured by mean log-likelihood, in bits/byte",
    )


def draw_ellipses(scene: Scene) -> Figure:
    """The map with the 95 % ellipse of each model over bootstrap samples of the texts.

    Raises:
        InputError: the scene has no ellipses.
    """
    if len(scene.ellipses) != len(scene.models):
        raise InputError(
            "this figure needs the ellipses: give --ellipses, or leave the figure out; "
            "map.ellipses in config.yaml asks for both"
        )
    samples = f"{scene.replicates:,} bootstrap samples" if scene.replicates else "bootstrap samples"
    return _map(
        scene,
        "How sure each place is",
        "family",
        f"95 % ellipses over {samples}" + (" of the texts" if scene.chosen is None else ""),
        ellipses=scene.ellipses,
    )


def _map(
    scene: Scene, title: str, column: str, what: str, ellipses: Sequence[Ellipse] = ()
) -> Figure:
    method = scene.places[0].method
    how = layout.METHODS.get(method, method)
    if scene.pmi:
        how = how.replace("KL", "distance")
    near = _note(method, scene.pmi)
    note = [_ELLIPSES if ellipses else near, *textwrap.wrap(scene.faithful, _CHARACTERS)]
    if scene.ringed:
        chance = _CHOICE + (_AMONG if scene.others_stay else ".")
        said = f"{scene.ringed}; {chance if ellipses else WIDER}"
        note[1:1] = textwrap.wrap(said, _CHARACTERS)
    figure = style.new_figure(
        11,
        8,
        title,
        f"{scene.subject} · {how}, {what}",
        "\n".join(note),
    )
    axes = style.add_axes(figure, 0.3, 0.32 + _LINE * len(note), _SIDE, _TOP)
    style.plain(axes)
    coloring = style.coloring(scene.models, column)
    sizes = _marker_sizes(scene, coloring) * (
        0.3 if ellipses and len(scene.models) <= MOST_LABELS else 1
    )
    frame(axes, np.vstack([scene.points, _corners(ellipses)]))
    runs = lineage.ways(scene.models)
    pairs = lineage.parents(scene.models) if len(scene.models) <= MOST_ARROWS else []
    if ellipses:
        runs, pairs = [], []
        _draw_ellipses(axes, ellipses, coloring, scene.added)
    _draw_runs(axes, scene, coloring, runs)
    _draw_points(axes, scene, coloring, sizes)
    sizes[scene.added] = draw_rings(axes, scene, sizes)
    _draw_arrows(axes, scene, sizes, pairs)
    if len(scene.models) <= MOST_LABELS:
        _draw_labels(axes, scene, sizes, runs, pairs)
    if method == "pca" and len(scene.models) > 1:
        _scale_bar(axes, scene.distance)
    _legend(figure, scene, coloring, runs, bool(pairs))
    return figure


def _corners(ellipses: Sequence[Ellipse]) -> Floats:
    """(2E, 2) lower left and upper right corners of the boxes around the ellipses."""
    if not ellipses:
        return np.zeros((0, 2))
    centre = np.array([(own.x, own.y) for own in ellipses])
    turn = np.radians([own.angle for own in ellipses])
    along = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    major = np.array([[own.major] for own in ellipses])
    minor = np.array([[own.minor] for own in ellipses])
    reach = np.hypot(major * along, minor * along[:, ::-1])
    return np.vstack([centre - reach, centre + reach])


def _draw_ellipses(
    axes: Axes, ellipses: Sequence[Ellipse], coloring: style.Coloring, added: Sequence[int]
) -> None:
    # The largest first, so that they do not cover the small ones.
    rows = sorted(range(len(ellipses)), key=lambda row: -ellipses[row].major)
    few = len(ellipses) <= MOST_ARROWS
    colors = np.ones((len(rows), 4))
    colors[:, :3] = coloring.colors[rows]
    edges = colors.copy()
    # Of many, the areas would add up to one colour.
    colors[:, 3], edges[:, 3] = (0.13, 0.75) if few else (0.0, 0.3)
    widths = np.full(len(rows), 0.9 if few else 0.3)
    marked = np.isin(rows, added)
    edges[marked, 3], widths[marked] = 1.0, 1.6 if few else 0.7
    axes.add_collection(
        EllipseCollection(
            [2 * ellipses[row].major for row in rows],
            [2 * ellipses[row].minor for row in rows],
            [ellipses[row].angle for row in rows],
            units="xy",
            offsets=[(ellipses[row].x, ellipses[row].y) for row in rows],
            offset_transform=axes.transData,
            facecolors=colors,
            edgecolors=edges,
            linewidths=widths,
            zorder=1,
        ),
        autolim=False,
    )


def _scale_bar(axes: Axes, distance: str) -> None:
    """The length of a round KL; under principal components squared length is bits/byte."""
    left, right = axes.get_xlim()
    longest = (0.2 * (right - left)) ** 2
    decade = 10.0 ** math.floor(math.log10(longest))
    kl = decade * max(step for step in (1, 2, 5) if step * decade <= longest)
    share = math.sqrt(kl) / (right - left)
    axes.plot(
        [1 - share, 1], [-0.018, -0.018], color=style.INK, transform=axes.transAxes, clip_on=False
    )
    axes.text(
        1 - share / 2,
        -0.024,
        f"{distance} {kl:g} bits/byte",
        ha="center",
        va="top",
        size=8,
        transform=axes.transAxes,
    )


def _note(method: str, pmi: bool) -> str:
    alike = "Near means alike in what prompts add." if pmi else "Near means alike in prediction."
    if method == "pca":
        return (
            f"{alike} Two components leave the others out: no pair is "
            "nearer than it looks, some are farther."
        )
    name = "UMAP" if method == "umap" else "t-SNE"
    return (
        f"{alike} {name} keeps who is whose neighbour; the size of gaps "
        "between groups, and directions, mean nothing."
    )


def _marker_sizes(scene: Scene, coloring: style.Coloring) -> Floats:
    """(K,) areas in square points; checkpoints before the last are smaller."""
    count = len(scene.models)
    area = 95.0 if count <= MOST_LABELS else 45.0 if count <= 300 else 17.0
    sizes = area * np.array([style.AREA.get(own.marker, 1.0) for own in coloring.categories])
    for run in lineage.ways(scene.models):
        sizes[list(run.rows[:-1])] *= 0.42
    return sizes


def frame(axes: Axes, points: Floats, room: float = 1.16) -> None:
    """Equal scales on both axes, all points inside, with room around them."""
    low, high = points.min(axis=0), points.max(axis=0)
    box = axes.get_window_extent()
    shape = np.array([box.width, box.height]) / box.height
    reach = max(float(((high - low) / shape).max()), 1e-6) * room
    left, bottom = (low + high) / 2 - reach * shape / 2
    axes.set_xlim(left, left + reach * shape[0])
    axes.set_ylim(bottom, bottom + reach)


def _draw_runs(
    axes: Axes, scene: Scene, coloring: style.Coloring, runs: Sequence[lineage.Run]
) -> None:
    few = len(scene.models) <= MOST_ARROWS
    for run in runs:
        color = style.MUTED if coloring.bar else coloring.categories[run.rows[-1]].color
        line = scene.points[list(run.rows)]
        axes.plot(
            line[:, 0],
            line[:, 1],
            color=color,
            linewidth=1.6 if few else 0.7,
            alpha=0.55,
            zorder=1,
            solid_joinstyle="round",
        )


def _draw_points(axes: Axes, scene: Scene, coloring: style.Coloring, sizes: Floats) -> None:
    # The most frequent family first, so that it does not cover the rare ones.
    for category in [*coloring.legend[-1:], *coloring.legend[:-1]]:
        rows = [row for row, own in enumerate(coloring.categories) if own == category]
        axes.scatter(
            scene.points[rows, 0],
            scene.points[rows, 1],
            s=sizes[rows],
            c=coloring.colors[rows],
            marker=category.marker,
            edgecolors="white",
            linewidths=0.7 if len(scene.models) <= 300 else 0.25,
            zorder=3,
        )


def draw_rings(axes: Axes, scene: Scene, sizes: Floats) -> Floats:
    """A ring around each model that was added through a text selection.

    Args:
        axes: the map.
        scene: what is drawn.
        sizes: (K,) areas of the points, square points.

    Returns:
        (A,) areas of the rings.
    """
    air = 4.6 if len(scene.models) <= MOST_LABELS else 3.2
    areas = np.square(np.sqrt(sizes[scene.added]) + air)
    if scene.added:
        axes.scatter(
            scene.points[scene.added, 0],
            scene.points[scene.added, 1],
            s=areas,
            facecolors="none",
            edgecolors=style.INK,
            linewidths=1.0 if len(scene.models) <= 300 else 0.7,
            zorder=3.5,
        )
    return np.asarray(areas, np.float64)


def _draw_arrows(axes: Axes, scene: Scene, sizes: Floats, pairs: Sequence[tuple[int, int]]) -> None:
    for parent, child in pairs:
        axes.add_patch(
            FancyArrowPatch(
                tuple(scene.points[parent]),
                tuple(scene.points[child]),
                connectionstyle="arc3,rad=0.12",
                arrowstyle="-|>",
                mutation_scale=9,
                shrinkA=np.sqrt(sizes[parent]) / 2 + 1,
                shrinkB=np.sqrt(sizes[child]) / 2 + 1,
                linewidth=0.9,
                color=style.INK,
                alpha=0.6,
                zorder=2,
            )
        )


def _draw_labels(
    axes: Axes,
    scene: Scene,
    sizes: Floats,
    runs: Sequence[lineage.Run],
    pairs: Sequence[tuple[int, int]],
) -> None:
    """Labels in points, laid out for the size of the figure."""
    early = {row for run in runs for row in run.rows[:-1]}
    names = lineage.short_names(scene.models)
    texts = [
        style.shorten(lineage.checkpoint_name(model) if row in early else names[row], 34)
        for row, model in enumerate(scene.models)
    ]
    figure = axes.figure
    assert isinstance(figure, Figure)
    scale = 72 / figure.dpi
    points = axes.transData.transform(scene.points) * scale
    fonts = [6.3 if row in early else 8.0 for row in range(len(texts))]
    extents = np.array([style.text_size(t, s) for t, s in zip(texts, fonts, strict=True)])
    box = axes.get_window_extent()
    segments = [points[list(run.rows)] for run in runs]
    segments += [_arc(points[parent], points[child]) for parent, child in pairs]
    placements = labels.arrange(
        points,
        np.sqrt(sizes) / 2 + 0.5,
        extents,
        (box.x0 * scale + 2, box.y0 * scale + 2, box.x1 * scale - 2, box.y1 * scale - 2),
        labels.sample_segments(segments, 4.0),
    )
    leaders = []
    for row, placement in enumerate(placements):
        if placement is None:
            continue
        axes.annotate(
            style.literal(texts[row]),
            scene.points[row],
            xytext=np.subtract(placement.center, points[row]),
            textcoords="offset points",
            ha="center",
            va="center",
            size=fonts[row],
            color=style.MUTED if row in early else style.INK,
            zorder=4,
        )
        if placement.gap > 8:
            ends = np.array([points[row], placement.anchor]) / scale
            leaders.append(axes.transData.inverted().transform(ends))
    axes.add_collection(
        LineCollection(leaders, colors=style.MUTED, linewidths=0.5, zorder=1.5), autolim=False
    )


def _arc(begin: Floats, end: Floats, bend: float = 0.12) -> Floats:
    """Points along the curve that matplotlib's ``arc3`` draws, a quadratic Bézier."""
    delta = end - begin
    control = (begin + end) / 2 + bend * np.array([delta[1], -delta[0]])
    share = np.linspace(0, 1, 12)[:, None]
    curve = (1 - share) ** 2 * begin + 2 * share * (1 - share) * control + share**2 * end
    return np.asarray(curve, np.float64)


def _legend_arrow(*, width: float, height: float, **_: Any) -> FancyArrowPatch:
    """A fine-tune's arrow, as large as a legend's entry."""
    return FancyArrowPatch((0, height / 2), (width, height / 2), arrowstyle="-|>", mutation_scale=9)


def _legend(
    figure: Figure,
    scene: Scene,
    coloring: style.Coloring,
    runs: Sequence[lineage.Run],
    has_pairs: bool,
) -> None:
    width, height = figure.get_size_inches()
    left, top = 1 - (_SIDE - 0.15) / width, 1 - _TOP / height
    lines: list[Artist] = []
    if runs:
        inside = [scene.models[run.rows[0]].layer is not None for run in runs]
        kinds = ["checkpoints"] * (not all(inside)) + ["layers"] * any(inside)
        label = f"{' and '.join(kinds)}, in order"
        lines.append(Line2D([], [], color=style.MUTED, linewidth=1.6, alpha=0.7, label=label))
    if has_pairs:
        lines.append(Patch(color=style.INK, alpha=0.6, label="made from its parent"))
    if scene.chosen is not None and scene.added:
        label = f"by {scene.chosen.texts:,} of {scene.chosen.of:,} texts  {len(scene.added):,}"
        ring = Line2D([], [], color=style.INK, linestyle="none", marker="o", label=label)
        ring.set(markersize=9.0, markerfacecolor="none")
        lines.append(ring)
    arrow = HandlerPatch(patch_func=_legend_arrow)
    charts.colored(figure, coloring, left, top, 3.2, lines, {Patch: arrow})
