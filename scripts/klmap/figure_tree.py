"""The figure of the tree, with the support of its joins."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from klmap import charts, lineage, style
from klmap.scene import Scene
from klmap.tree import WEAK, Node

STRONG = 0.95
"""Joins in at least this share of the bootstrap trees have no mark in a tree of many models."""

_LEGEND = 1.9
_TICKS = (0, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128)
_WEAK = "#b42318"
_BESIDE = 0.3
_NUMBER_WIDTH = 12.0
_Positions = dict[int, float]


def draw_dendrogram(scene: Scene) -> Figure:
    """The tree of average linkage, the joins at their mean KL in bits per byte.

    Raises:
        InputError: the scene has no tree, or that of other models.
    """
    models, tree = scene.models, scene.rooted
    order = charts.tree_order(models, tree)
    each, legend = style.categories([model.family for model in models])
    named = len(models) <= charts.MOST_NAMES
    height = 1.95 + (max(1.2, 0.2 * len(models)) if named else 8.5)
    supported = any(node.support is not None for node in tree.walk())
    figure = style.new_figure(
        11,
        height,
        "Which models gain alike from prompts" if scene.pmi else "Which models predict alike",
        f"{scene.subject} · average linkage on {scene.distance}",
        _note(scene, named) if supported else "",
    )
    names = [style.shorten(name, charts.LONGEST_NAME) for name in lineage.short_names(models)]
    right = (0.3 + style.widest(names, 8) if named else 0.35) + _LEGEND
    axes = style.add_axes(figure, 0.4, 0.82, right, 0.95)
    positions = _positions(tree, len(models))
    _branches(
        axes, tree, dict(zip((model.model for model in models), each, strict=True)), positions
    )
    axes.set_ylim(len(models) - 0.4, -0.6)
    axes.set_yticks([])
    _root_axis(axes, 2 * tree.height, scene.distance)
    if len(models) == 1:
        charts.message(axes, charts.SINGLE)
    for position, row in enumerate(order if named else ()):
        axes.plot(
            [0], [position], each[row].marker, color=each[row].color, markersize=5.5,
            markeredgecolor="white", markeredgewidth=0.5, clip_on=False, zorder=3,
        )  # fmt: skip
        axes.annotate(
            style.literal(names[row]),
            (0, position),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            size=8,
            annotation_clip=False,
        )
    if not named:
        strip = axes.inset_axes((1.005, 0, 0.015, 1))
        charts.strip(strip, [each[row] for row in order], vertical=True)
    left = 1 - (_LEGEND - 0.15) / 11
    families = charts.families(figure, legend, left, 1 - 0.95 / height)
    if supported and named:
        _numbers(axes, tree, positions)
    elif supported:
        drawn = families.get_window_extent().transformed(figure.transFigure.inverted())
        _marks(figure, axes, tree, positions, left, drawn.y0 - 0.3 / height)
    return figure


def _note(scene: Scene, named: bool) -> str:
    """How the support is to be read, at the foot."""
    count = f"{scene.replicates:,} " if scene.replicates else ""
    shown = (
        "Numbers: percent of these in whose tree the same models are joined, red below "
        f"{_percent(WEAK)}; no number: all of them."
        if named
        else "Marks: joins that few of these have in their tree; joins without a mark are in at "
        f"least {_percent(STRONG)}."
    )
    return f"Repeated on {count}bootstrap samples of the texts. {shown}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _positions(tree: Node, count: int) -> _Positions:
    """Where each node stands: leaves one below another from 0, a join amid its children."""
    positions: _Positions = {}
    for node in reversed(list(tree.walk())):
        if node.children:
            positions[id(node)] = float(np.mean([positions[id(c)] for c in node.children]))
        else:
            count -= 1
            positions[id(node)] = count
    return positions


def _branches(
    axes: Axes, tree: Node, category: Mapping[str, style.Category], positions: _Positions
) -> None:
    """Brackets from the root on the left to the leaves on the right.

    A bracket has a family's colour where all models below it are of that family.
    """
    color: dict[int, str] = {}
    lines: list[list[tuple[float, float]]] = []
    colors: list[str] = []
    for node in reversed(list(tree.walk())):
        if not node.children:
            color[id(node)] = category[node.name].color
            continue
        below = {color[id(child)] for child in node.children}
        color[id(node)] = below.pop() if len(below) == 1 else style.MUTED
        ends = [positions[id(child)] for child in node.children]
        here = math.sqrt(2 * node.height)
        lines.append([(here, min(ends)), (here, max(ends))])
        colors.append(color[id(node)])
        for child, end in zip(node.children, ends, strict=True):
            lines.append([(here, end), (math.sqrt(2 * child.height), end)])
            colors.append(color[id(child)] if child.children else color[id(node)])
    width = 1.5 if len(category) <= charts.MOST_NAMES else 0.6
    axes.add_collection(LineCollection(lines, colors=colors, linewidths=width), autolim=False)


def _numbers(axes: Axes, tree: Node, positions: _Positions) -> None:
    """Support in percent beside each join that some replicates do not have.

    It stands inside the bracket, and left of it where the next bracket is in the way.
    """
    for node in tree.walk():
        if node.support is None or node.support >= 1:
            continue
        here = (math.sqrt(2 * node.height), positions[id(node)])
        inside = not any(_in_the_way(axes, here, child, positions) for child in node.children)
        axes.annotate(
            f"{min(100 * node.support, 99):.0f}",
            here,
            xytext=(2.2, 0) if inside else (-2, 1.5),
            textcoords="offset points",
            ha="left" if inside else "right",
            va="center_baseline" if inside else "bottom",
            size=6.5,
            color=_WEAK if node.support < WEAK else style.INK,
            path_effects=[withStroke(linewidth=1.6, foreground="white")],
            zorder=4,
        )


def _in_the_way(axes: Axes, here: tuple[float, float], child: Node, positions: _Positions) -> bool:
    """Whether a child's bracket crosses the place right of its parent's."""
    ends = [positions[id(grandchild)] for grandchild in child.children]
    if not ends or not min(ends) - _BESIDE <= here[1] <= max(ends) + _BESIDE:
        return False
    pixels = axes.transData.transform([here, (math.sqrt(2 * child.height), here[1])])
    return float(pixels[1, 0] - pixels[0, 0]) * 72 / axes.figure.dpi < _NUMBER_WIDTH


def _marks(
    figure: Figure, axes: Axes, tree: Node, positions: _Positions, left: float, top: float
) -> None:
    """Points at the joins that some replicates do not have, by class of support."""
    joins = [(node, node.support) for node in tree.walk() if node.support is not None]
    classes = (
        (STRONG, 1.1, "none", f"at least {_percent(STRONG)}"),
        (WEAK, STRONG, style.INK, f"{_percent(WEAK)} to {_percent(STRONG)}"),
        (0.0, WEAK, _WEAK, f"below {_percent(WEAK)}"),
    )
    handles = []
    for low, high, color, label in classes:
        nodes = [node for node, support in joins if low <= support < high]
        if color != "none":
            axes.scatter(
                [math.sqrt(2 * node.height) for node in nodes],
                [positions[id(node)] for node in nodes],
                s=5,
                c=color,
                linewidths=0,
                zorder=3,
            )
        counted = f"{label}  {len(nodes):,}"
        handles.append(
            Line2D([], [], linestyle="none", marker="o", markersize=4, color=color, label=counted)
        )
    charts.titled(figure, handles, "support of joins", left, top)


def _root_axis(axes: Axes, highest: float, called: str) -> None:
    """A square-root axis from the highest join on the left to 0 on the right."""
    top = max(math.sqrt(highest), 1e-3) * 1.03
    axes.set_xlim(top, 0)
    kept: list[float] = []
    for tick in _TICKS:
        far = not kept or (math.sqrt(tick) - math.sqrt(kept[-1])) / top > 0.05
        if far and math.sqrt(tick) <= top:
            kept.append(tick)
    axes.set_xticks([math.sqrt(tick) for tick in kept], [f"{tick:g}" for tick in kept], size=8)
    label = f"mean {called} where two groups join, bits/byte (square-root scale)"
    axes.set_xlabel(label, size=8.5)
    style.graph(axes, "x", left=False)
