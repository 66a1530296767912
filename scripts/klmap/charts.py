"""Heatmap and checkpoints, and what they share with the figure of the tree."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import ListedColormap, LogNorm, to_rgb
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.legend_handler import HandlerBase
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from klmap import geometry, lineage, style
from klmap.arrays import Bools, Floats
from klmap.errors import InputError
from klmap.models_table import Model
from klmap.store import Distances
from klmap.tree import Node

MOST_NAMES = 90
"""Above this many models rows have no names; a strip of family colours remains."""

BELOW_NOISE = "#56b4e9"
"""Colour of pairs below the noise of their scores: blue, which the scale has nowhere."""

LONGEST_NAME = 38
"""Characters of a name beside a row."""

SINGLE = "One model has no distances.\nAdd a second to config.yaml."
"""What a figure of distances says of a map of one model."""

_LONG = {"KL": "KL divergence"}
_LEAST_KL = 1e-3
_MOST_TICKS = 8


def heatmap(
    models: Sequence[Model], distances: Distances, tree: Node, subject: str, called: str = "KL"
) -> Figure:
    """KL of all pairs, rows and columns in the order of the tree.

    Pairs below the noise of their two scores have a colour outside the scale: their KL says only
    that they cannot be told apart.

    Args:
        models: rows of models.tsv.
        distances: with all pairs.
        tree: whose leaves are these models.
        subject: how many models on which texts, for the subtitle.
        called: what a distance is called.

    Raises:
        InputError: only neighbours are stored.
    """
    kl, below = _dense(distances)
    order = tree_order(models, tree)
    each, legend = style.categories([model.family for model in models])
    named = len(models) <= MOST_NAMES
    names = [style.shorten(name, LONGEST_NAME) for name in lineage.short_names(models)]
    margin = 0.55 + style.widest(names, 8) if named else 0.5
    side = min(max(0.2 * len(models), 3.6), 9.0) if named else 8.0
    width, height = margin + side + 2.2, 1.05 + side + margin + 0.1
    figure = style.new_figure(
        max(width, 7.6), height, f"{_LONG.get(called, called)} of all pairs",
        f"{subject}\nbits/byte, models in the order of the tree",
    )  # fmt: skip
    right = float(figure.get_size_inches()[0]) - margin - side
    axes = style.add_axes(figure, margin, margin, right, 1.15)
    shown, below = kl[np.ix_(order, order)], below[np.ix_(order, order)]
    shown[(shown <= 0) | below] = np.nan
    norm, extend = _norm(shown)
    colors = mpl.colormaps["magma"].with_extremes(bad="#ffffff", over="#e5e7eb")
    image = axes.imshow(shown, cmap=colors, norm=norm, interpolation="nearest", aspect="equal")
    if below.any():
        marks = np.ma.masked_where(~below, below.view(np.uint8))
        axes.imshow(marks, cmap=ListedColormap([BELOW_NOISE]), interpolation="nearest")
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    labels = [style.literal(names[row]) for row in order] if named else []
    ticks = range(len(labels))
    size = min(8.0, 0.8 * 72 * side / max(len(models), 1))
    axes.set_xticks(ticks, labels, rotation=90, size=size, color=style.INK)
    axes.set_yticks(ticks, labels, size=size, color=style.INK)
    axes.tick_params(axis="both", pad=11 if named else 2)
    thick = 0.09 / side
    strip(axes.inset_axes((-1.5 * thick, 0, thick, 1)), [each[row] for row in order], True)
    strip(axes.inset_axes((0, -1.5 * thick, 1, thick)), [each[row] for row in order], False)
    left, top = 1 - (right - 0.25) / float(figure.get_size_inches()[0]), 1 - 1.15 / height
    if len(models) == 1:
        message(axes, SINGLE)
        return figure
    tall = min(2.6, side * 0.55) / height
    beyond = "\n(grey: above 8, beyond its range)" if extend == "max" else ""
    place = (left, top - tall, 0.16 / width, tall)
    bar = color_bar(figure, image, place, f"{called}, bits/byte{beyond}", extend=extend)
    style.decade_axis(bar.ax.yaxis)
    lower = top - tall - 0.3 / height
    if below.any():
        _noise_legend(figure, int(below.sum()) // 2, left, lower)
        lower -= 0.5 / height
    families(figure, legend, left, lower)
    return figure


def _norm(shown: Floats) -> tuple[LogNorm, str]:
    known = shown[np.isfinite(shown)]
    if not known.size:
        return LogNorm(0.1, 1), "neither"
    low = max(float(known.min()), _LEAST_KL)
    high = min(float(known.max()), geometry.BEYOND)
    extend = "max" if known.max() > geometry.BEYOND else "neither"
    return (LogNorm(low, high) if low < high else LogNorm(low / 2, low * 2)), extend


def message(axes: Axes, text: str) -> None:
    """What stands in the place of a figure that has nothing to show."""
    axes.text(
        0.5, 0.5, text, ha="center", va="center", color=style.MUTED, size=10,
        transform=axes.transAxes,
    )  # fmt: skip


def nothing(axes: Axes, text: str) -> None:
    """The same where there are no axes either."""
    axes.set_axis_off()
    message(axes, text)


def strip(axes: Axes, each: Sequence[style.Category], vertical: bool) -> None:
    """A band of family colours beside rows or below columns."""
    colors = np.array([[to_rgb(category.color) for category in each]])
    image = colors.transpose(1, 0, 2) if vertical else colors
    axes.imshow(image, aspect="auto", interpolation="nearest")
    axes.set_axis_off()


def checkpoints(
    models: Sequence[Model], distances: Distances, subject: str, called: str = "KL"
) -> Figure:
    """KL of every checkpoint to the last one of its run, with standard errors over texts.

    Args:
        models: rows of models.tsv.
        distances: with all pairs.
        subject: how many models on which texts, for the subtitle.
        called: what a distance is called.

    Raises:
        InputError: only neighbours are stored.
    """
    kl, below = _dense(distances)
    se = distances.se
    assert se is not None
    found = [run for run in lineage.runs(models) if _steps(run, models, kl)]
    hollow = any(below[_steps(run, models, kl), run.rows[-1]].any() for run in found)
    figure = style.new_figure(
        10,
        6.2,
        "How far each checkpoint is from the last of its run",
        f"{subject} · {called} with standard error over texts",
        "Hollow: below the numerical noise of the two scores." if hollow else "",
    )
    axes = style.add_axes(figure, 0.85, 0.95, 2.6, 0.95)
    if not found:
        nothing(axes, "No two revisions of one model are on this map.")
        return figure
    colors, _ = style.categories([run.id for run in found])
    for run, category in zip(found, colors, strict=True):
        _trajectory(axes, run, models, kl, se, below, category)
    axes.set_yscale("log")
    style.decade_axis(axes.yaxis)
    steps = [models[row].step for run in found for row in _steps(run, models, kl)]
    if min(steps) > 0 and max(steps) / min(steps) > 12:
        axes.set_xscale("log")
    elif max(steps) > 20 * sorted(steps)[len(steps) // 2]:
        axes.set_xscale("symlog", linthresh=1)
    if len(set(steps)) <= _MOST_TICKS:
        axes.xaxis.set_major_locator(FixedLocator(sorted(set(steps))))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_xlabel("training step")
    axes.set_ylabel(f"{called} to the last checkpoint, bits/byte")
    style.graph(axes)
    label = f"{len(found)} runs, the rest in grey" if len(found) > style.MOST_COLORS else "runs"
    axes.legend(
        loc="upper left", bbox_to_anchor=(1.02, 1.01), fontsize=8.5, title=label, title_fontsize=8,
        alignment="left",
    )  # fmt: skip
    return figure


def _trajectory(
    axes: Axes,
    run: lineage.Run,
    models: Sequence[Model],
    kl: Floats,
    se: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
    below_noise: Bools,
    category: style.Category,
) -> None:
    rows, last = _steps(run, models, kl), run.rows[-1]
    steps = [models[row].step for row in rows]
    values = kl[rows, last]
    errors = se[rows, last].astype(np.float64)
    # On a logarithmic axis an error bar that reaches 0 would have no end.
    below = np.minimum(errors, 0.95 * values)
    gray = category.color == style.OTHERS
    name = f"{run.id} {run.variant}".strip()
    axes.errorbar(
        steps,
        values,
        yerr=[below, errors],
        color=category.color,
        linewidth=0.8 if gray else 1.6,
        elinewidth=1,
        capsize=2,
        zorder=1 if gray else 2,
    )
    for hollow in (False, True):
        some = [n for n, row in enumerate(rows) if below_noise[row, last] == hollow]
        axes.plot(
            [steps[n] for n in some],
            values[some],
            linestyle="none",
            marker=category.marker,
            markersize=4 if gray else 6.5,
            markerfacecolor="white" if hollow else category.color,
            markeredgecolor=category.color if hollow else "white",
            markeredgewidth=0.8,
            label=None if hollow or gray else style.literal(style.shorten(name, 30)),
            zorder=3,
        )


def _steps(run: lineage.Run, models: Sequence[Model], kl: Floats) -> list[int]:
    """The rows of a run that two logarithmic axes can show: a step, and a distance to the last."""
    *earlier, last = run.rows
    return [row for row in earlier if math.isfinite(models[row].step) and kl[row, last] > 0]


def tree_order(models: Sequence[Model], tree: Node) -> list[int]:
    """Rows of the models in the order of the tree's leaves.

    Raises:
        InputError: the tree has other models.
    """
    row = {model.model: number for number, model in enumerate(models)}
    leaves = tree.leaves()
    if sorted(leaves) != sorted(row):
        raise InputError("models.tsv and tree.nwk do not name the same models; run again")
    return [row[name] for name in leaves]


def _dense(distances: Distances) -> tuple[Floats, Bools]:
    """KL of all pairs, and which of them are below the noise of the two scores."""
    if distances.kl is None or distances.below_noise is None:
        raise InputError(
            f"this figure needs all pairs, and above map.dense_limit only the neighbours of the "
            f"{len(distances.model)} models are stored; raise the limit in config.yaml"
        )
    return distances.kl, distances.below_noise


def _noise_legend(figure: Figure, pairs: int, left: float, top: float) -> None:
    """What the colour outside the scale means, and how many pairs have it."""
    label = f"{pairs:,} pair{'s' if pairs != 1 else ''} below the\nnumerical noise of the scores"
    figure.legend(
        handles=[Patch(color=BELOW_NOISE, label=label)],
        loc="upper left",
        bbox_to_anchor=(left, top),
        fontsize=8,
        handlelength=1,
        handletextpad=0.6,
        borderaxespad=0,
    )


def color_bar(
    figure: Figure,
    scale: ScalarMappable,
    place: tuple[float, float, float, float],
    label: str,
    *,
    across: bool = False,
    extend: str = "neither",
) -> Colorbar:
    """What the colours of a scale mean.

    Args:
        figure: where it is drawn.
        scale: the colours.
        place: left, bottom, width and height, in shares of the figure.
        label: what is coloured, and its unit.
        across: whether it lies on its side.
        extend: at which ends there are colours beyond the scale, as matplotlib names them.
    """
    bar = figure.colorbar(
        scale, cax=figure.add_axes(place), extend=extend,
        orientation="horizontal" if across else "vertical",
    )  # fmt: skip
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=7.5, length=2, which="both")
    bar.set_label(label, size=8)
    return bar


def colored(
    figure: Figure,
    coloring: style.Coloring,
    left: float,
    top: float,
    tall: float,
    more: Sequence[Artist] = (),
    drawn_by: Mapping[type, HandlerBase] | None = None,
) -> None:
    """The legend of a colouring of models: a bar, where it is a scale, and the families.

    Args:
        figure: where it is drawn.
        coloring: of the models.
        left: its left edge, in shares of the figure.
        top: its upper edge.
        tall: height of the bar, inches.
        more: entries behind those of the families.
        drawn_by: how entries are drawn that matplotlib draws in another way.
    """
    if coloring.bar is not None:
        width, height = figure.get_size_inches()
        place = (left + 0.01, top - tall / height, 0.15 / width, tall / height)
        bar = color_bar(figure, coloring.bar, place, coloring.label)
        if coloring.ticks is not None:
            coloring.ticks(bar.ax.yaxis)
        top -= (tall + 0.35) / height
    entries = [*style.handles(coloring.legend, coloring.bar is not None), *more]
    title = "family" if coloring.bar is not None else coloring.label
    titled(figure, entries, title, left, top + 0.008, drawn_by)


def families(figure: Figure, legend: Sequence[style.Category], left: float, top: float) -> Legend:
    """The legend of families, its upper left corner in shares of the figure."""
    return titled(figure, style.handles(legend), "family", left, top)


def titled(
    figure: Figure,
    handles: Sequence[Artist],
    title: str,
    left: float,
    top: float,
    drawn_by: Mapping[type, HandlerBase] | None = None,
) -> Legend:
    """A legend under its title, the upper left corner in shares of the figure."""
    drawn = figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(left, top),
        fontsize=8.5,
        labelspacing=0.6,
        handletextpad=0.4,
        borderaxespad=0,
        title=title,
        alignment="left",
        handler_map=drawn_by,
    )
    drawn.get_title().set_fontweight("bold")
    return drawn
