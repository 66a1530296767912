"""Predicted benchmark scores in figures: each model, how well it works, and with fewer models.

The panels by task follow figure 5 of Oyama et al. 2025; the marks of models without a score, the
interval and the learning curve are klmap's own.
"""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from klmap import charts, correlation, style
from klmap.arrays import Floats
from klmap.benchmarks import MEAN_TASKS
from klmap.folds import RANDOM, TYPE
from klmap.models_table import Model
from klmap.prediction_files import (
    CONTROL,
    NEW,
    OUT_OF_FOLD,
    Accuracy,
    CurvePoint,
    Predicted,
    Prediction,
)

WAYS = {
    ("Q", TYPE): ("coordinates Q, types held out", "#0072B2", "o", True),
    ("Q", RANDOM): ("coordinates Q, random folds", "#0072B2", "o", False),
    ("L", TYPE): ("log-likelihoods L, types held out", "#D55E00", "s", True),
    ("L", RANDOM): ("log-likelihoods L, random folds", "#D55E00", "s", False),
    (CONTROL, ""): ("mean log-likelihood alone", style.MUTED, "D", True),
}
"""Name, colour, marker and filling by features and split."""

_TITLE: dict[str, Any] = {"size": 9.5, "loc": "left", "pad": 6}
_PANEL = 2.25
_PANELS = {1: 3.6, 2: 3.0}
_CHARACTER = 0.067
_GAP = 0.55
_LEFT, _TOP, _FOOT = 0.75, 1.15, 1.05
_LEGEND = 2.15
_TOP_ACCURACY, _FOOT_ACCURACY = 1.5, 1.1
_MOST_COLUMNS = 4
_NARROWEST = 8.6
_TICKS = (
    -0.9, -0.5, 0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.92, 0.94, 0.95, 0.96, 0.97, 0.98, 0.99,
    0.995, 0.998, 0.999, 0.9999,
)  # fmt: skip


def draw(found: Prediction, models: Sequence[Model], texts: str, folder: Path) -> None:
    """Write the figures ``scatter``, ``accuracy`` and ``curve``.

    Args:
        found: what was predicted.
        models: all models of the map, for the colours of their types.
        texts: how many texts of which set.
        folder: where to write.
    """
    with mpl.rc_context(style.RC):
        style.save(scatter(found, models, texts), folder, "scatter")
        style.save(accuracy(found, texts), folder, "accuracy")
        style.save(curve(found, texts), folder, "curve")


def scatter(found: Prediction, models: Sequence[Model], texts: str) -> Figure:
    """Measured against predicted scores, a panel for each task, coloured by type as on the map.

    Models without a score that are far from all with one are left out, and counted in the note.
    """
    each, _ = style.categories([model.family for model in models])
    colors = {model.model: category for model, category in zip(models, each, strict=True)}
    shown = [row for row in found.predictions if not row.guess]
    rows = {task: [row for row in shown if row.task == task] for task in found.tasks}
    tried = [row for row in found.predictions if row.how == OUT_OF_FOLD]
    scored, known = {row.model for row in tried}, Counter(row.task for row in tried)
    counts = Counter(colors[name] for name in scored)
    legend = [replace(item, count=counts[item]) for item in _by_count(list(counts))]
    columns = min(_MOST_COLUMNS, len(found.tasks))
    lines = math.ceil(len(found.tasks) / columns)
    panel = _PANELS.get(columns, _PANEL)
    width = max(_LEFT + columns * (panel + _GAP) + _LEGEND, _NARROWEST)
    tall = max(lines * (panel + _GAP) - _GAP + 0.1, 0.45 + 0.21 * (len(legend) + 4))
    height = _TOP + tall + _FOOT
    held = "other types" if TYPE in {row.split for row in tried} else "other folds, drawn at random"
    new = {row.model for row in shown if row.how == NEW} - scored
    figure = style.new_figure(
        width,
        height,
        "Benchmark scores, predicted from the coordinates",
        f"{len(scored):,} models with scores · {texts} · each predicted from models of {held}",
        _how_to_read(found, len(new), width),
    )
    for number, task in enumerate(found.tasks):
        line, column = divmod(number, columns)
        left = _LEFT + column * (panel + _GAP)
        bottom = height - _TOP - line * (panel + _GAP) - panel
        axes = figure.add_axes((left / width, bottom / height, panel / width, panel / height))
        _panel(axes, task, rows[task], colors)
        if len(set(known.values())) > 1:
            words = {"ha": "right", "fontsize": 7.5, "color": style.MUTED}
            axes.text(0.97, 0.03, f"{known[task]:,} models", words, transform=axes.transAxes)
        if not column:
            axes.set_ylabel("predicted score")
        if number + columns >= len(found.tasks):
            axes.set_xlabel("measured score")
    handles = style.handles(legend)
    left = _LEFT + columns * (panel + _GAP) - 0.25
    charts.titled(figure, handles, "model type", left / width, 1 - _TOP / height)
    return figure


def _how_to_read(found: Prediction, new: int, width: float) -> str:
    """The note under the scatter plots, in lines that fit a figure of so many inches."""
    note = (
        "r: Pearson's correlation of measured and predicted scores, then Spearman's, of ranks. "
        "A prediction is the mean over all seeds. On the line it is right; between the dashed "
        "lines, which hold nine of ten predictions of single seeds, are as a rule at least nine of "
        "ten models."
    )
    if any(row.how == NEW and not row.guess for row in found.predictions):
        whole = f", {new:,} of them without any" if new else ""
        note += f" Marks at the left edge: predictions of models without this score{whole}."
    far = len({row.model for row in found.predictions if row.guess})
    if far:
        note += (
            f" Left out: {far:,} model{'s' if far != 1 else ''} without a score, too far from "
            "every model with one for these errors to hold."
        )
    return "\n".join(textwrap.wrap(note, int((width - 0.6) / _CHARACTER)))


def _by_count(each: Sequence[style.Category]) -> list[style.Category]:
    """The most frequent first, the grey rest last."""
    return sorted(each, key=lambda item: (item.color == style.OTHERS, -item.count, item.name))


def _panel(
    axes: Axes, task: str, rows: Sequence[Predicted], colors: dict[str, style.Category]
) -> None:
    known = [row for row in rows if row.how == OUT_OF_FOLD]
    new = np.array([row.predicted for row in rows if row.how == NEW])
    measured = np.array([row.measured for row in known])
    predicted = np.array([row.predicted for row in known])
    both = np.concatenate([measured, predicted, new])
    margin = 0.06 * (np.ptp(both) or 1.0)
    low, high = both.min() - 1.6 * margin, both.max() + margin
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    axes.set_aspect("equal")
    axes.plot([low, high], [low, high], color=style.MUTED, linewidth=0.8, zorder=1)
    half = max((row.high - row.predicted for row in known if not row.far), default=0.0)
    for shift in (-half, half):
        axes.plot(
            [low, high], [low + shift, high + shift], color=style.MUTED, linewidth=0.7,
            linestyle=(0, (3, 2)), zorder=1,
        )  # fmt: skip
    area = 30.0 if len(known) <= 60 else 15.0 if len(known) <= 400 else 7.0
    for category in reversed(list(dict.fromkeys(_by_count([colors[row.model] for row in known])))):
        own = [n for n, row in enumerate(known) if colors[row.model] == category]
        axes.scatter(
            measured[own], predicted[own], s=area * style.AREA.get(category.marker, 1),
            c=category.color, marker=category.marker, edgecolors="white",
            linewidths=0.4 if len(known) <= 400 else 0.15,
            zorder=2 if category.color == style.OTHERS else 3,
        )  # fmt: skip
    if len(new):
        axes.plot(
            np.full(len(new), 0.025), new, linestyle="none", marker="_", markersize=8,
            color=style.INK, alpha=max(0.35, min(1.0, 20 / len(new))), zorder=4,
            transform=axes.get_yaxis_transform(),
        )  # fmt: skip
    pearson, spearman = correlation.both(measured, predicted)
    axes.set_title(
        f"{style.literal(style.shorten(task, 18))}  r {_short(pearson)}, ranks {_short(spearman)}",
        **_TITLE,
    )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5))
    _open(axes)


def _short(value: float) -> str:
    """A correlation without the zero in front."""
    return "unknown" if math.isnan(value) else f"{value:.3f}".replace("0.", ".", 1)


def accuracy(found: Prediction, texts: str) -> Figure:
    """Correlations and errors of each task, by features and split, with the baseline."""
    rows = [row for row in found.accuracy if row.task != CONTROL]
    ways = [way for way in WAYS if any((row.features, row.split) == way for row in rows)]
    tall = max(1.6, 0.55 * len(found.tasks))
    height = _TOP_ACCURACY + tall + _FOOT_ACCURACY
    names = _named(found)
    counts = sorted({row.models for row in rows})
    said = f"{counts[0]:,} models with every score"
    if len(counts) > 1:
        said = f"{counts[0]:,} to {counts[-1]:,} models, in brackets by task"
    figure = style.new_figure(
        11,
        height,
        "How well benchmark scores are predicted",
        f"{said} · {texts} · mean over seeds, bars: standard deviation over seeds",
        "Correlations of measured scores with predictions from models of other folds, on Fisher's "
        "scale, which is wide where they are near 1.\nTypes held out: no type of model is in "
        "training and test set. Grey diamonds: the score against the mean log-likelihood itself, "
        "without a regression.",
    )
    margin = 0.5 + style.widest(names, 9)
    wide = (11 - margin - 0.35 - 2 * 0.35) / 3
    measures: list[tuple[str, Callable[[Accuracy], tuple[float, float]]]] = [
        ("Pearson's correlation", lambda row: (row.pearson, row.pearson_std)),
        ("Spearman's rank correlation", lambda row: (row.spearman, row.spearman_std)),
        ("mean absolute error, in units of the score", lambda row: (row.mae, 0.0)),
    ]
    for number, (label, measure) in enumerate(measures):
        left = margin + number * (wide + 0.35)
        axes = figure.add_axes((left / 11, _FOOT_ACCURACY / height, wide / 11, tall / height))
        _dots(axes, found.tasks, rows, ways, measure)
        axes.set_xlabel(label)
        axes.set_yticks(range(len(found.tasks)))
        axes.set_yticklabels(map(style.literal, names) if not number else [], color=style.INK)
        if number < 2:
            _fisher(axes)
        else:
            axes.set_xlim(left=0)
            axes.xaxis.set_major_locator(MaxNLocator(5))
    figure.legend(
        handles=[_way(way) for way in ways], loc="upper left", ncols=3,
        bbox_to_anchor=(0.3 / 11, 1 - 0.82 / height), fontsize=8.5, handletextpad=0.4,
        borderaxespad=0, columnspacing=2.0,
    )  # fmt: skip
    return figure


def _named(found: Prediction) -> list[str]:
    """The tasks, each with its number of models where these differ."""
    counts = {row.task: row.models for row in found.accuracy}
    if len(set(counts.values())) < 2:
        return [style.shorten(task, 24) for task in found.tasks]
    return [f"{style.shorten(task, 16)} ({counts[task]:,})" for task in found.tasks]


def _dots(
    axes: Axes,
    tasks: Sequence[str],
    rows: Sequence[Accuracy],
    ways: Sequence[tuple[str, str]],
    measure: Callable[[Accuracy], tuple[float, float]],
) -> None:
    step = 0.62 / max(len(ways) - 1, 1)
    for place, way in enumerate(ways):
        name, color, marker, filled = WAYS[way]
        for row in rows:
            value, error = measure(row)
            if (row.features, row.split) != way or math.isnan(value):
                continue
            axes.errorbar(
                value, tasks.index(row.task) - 0.31 + place * step,
                xerr=None if math.isnan(error) else error, color=color, marker=marker,
                markersize=5.5 if marker == "o" else 4.8, elinewidth=1, markeredgewidth=1,
                markerfacecolor=color if filled else "white", zorder=3, gid=name,
            )  # fmt: skip
    axes.set_ylim(len(tasks) - 0.45, -0.55)
    for number in range(1, len(tasks)):
        axes.axhline(number - 0.5, color=style.RULE, linewidth=0.5, zorder=0)
    _open(axes)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)


def _way(way: tuple[str, str]) -> Line2D:
    name, color, marker, filled = WAYS[way]
    return Line2D(
        [], [], linestyle="none", marker=marker, color=color, label=name, markersize=6,
        markerfacecolor=color if filled else "white",
    )  # fmt: skip


def _fisher(axes: Axes, vertical: bool = False) -> None:
    """Fisher's scale for correlations, with ticks that have room."""
    axis = axes.yaxis if vertical else axes.xaxis
    limits = axes.dataLim.intervaly if vertical else axes.dataLim.intervalx
    low, high = np.arctanh(np.clip(limits, -0.9999, 0.9999))
    room = 0.08 * max(high - low, 0.3)
    ends = np.tanh([low - room, high + room])
    functions = (
        lambda value: np.arctanh(np.clip(value, -0.999999, 0.999999)),
        np.tanh,
    )
    if vertical:
        axes.set_yscale("function", functions=functions)
        axes.set_ylim(*ends)
    else:
        axes.set_xscale("function", functions=functions)
        axes.set_xlim(*ends)
    ticks: list[float] = []
    least = (high - low + 2 * room) / 8
    for tick in reversed(_TICKS):
        inside = ends[0] <= tick <= ends[1]
        if inside and (not ticks or np.arctanh(ticks[-1]) - np.arctanh(tick) >= least):
            ticks.append(tick)
    axis.set_major_locator(FixedLocator(ticks[::-1] if len(ticks) > 1 else _even(ends)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("0.", ".", 1)))


def _even(ends: Floats) -> list[float]:
    """Ticks of a range that is too narrow for those of all correlations."""
    return [float(tick) for tick in MaxNLocator(4).tick_values(*ends) if abs(tick) < 1]


def curve(found: Prediction, texts: str) -> Figure:
    """Pearson's correlation and the error of each task, against the number of training models."""
    sizes = sorted({point.models for point in found.curve})
    points = {task: [p for p in found.curve if p.task == task] for task in found.tasks}
    drawn = max(map(len, points.values())) > 1
    figure = style.new_figure(
        11,
        5.6 if drawn else 2.4,
        "How many models with scores it takes",
        f"{texts} · mean and standard deviation over seeds" if drawn else texts,
        "Random folds: models of one type are in training and test set. The last point is with "
        "all training models of a fold."
        if drawn
        else "",
    )
    if not drawn:
        axes = style.add_axes(figure, 0.3, 0.3, 0.3, 0.9)
        reason = "There are too few models with scores for smaller training sets."
        charts.nothing(axes, reason if sizes else "The learning curve was not asked for.")
        return figure
    left = style.add_axes(figure, 0.8, 1.0, 6.25, 1.1)
    right = style.add_axes(figure, 5.5, 1.0, 2.25, 1.1)
    each, _ = style.categories(found.tasks)
    handles = []
    for task, name, category in zip(found.tasks, _named(found), each, strict=True):
        handles.append(_line(left, right, task, category, points[task]))
        handles[-1].set_label(style.literal(name))
    for axes, label in (
        (left, "Pearson's correlation"), (right, "mean absolute error, in units of the score"),
    ):  # fmt: skip
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(_apart(sizes)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.set_xlabel("training models")
        axes.set_title(label, **_TITLE)
        _open(axes)
    _fisher(left, vertical=True)
    right.set_ylim(bottom=0)
    title = "task" if len({row.models for row in found.accuracy}) == 1 else "task (models)"
    charts.titled(figure, handles, title, 1 - 2.0 / 11, 1 - 1.1 / 5.6)
    return figure


def _line(
    left: Axes, right: Axes, task: str, category: style.Category, points: Sequence[CurvePoint]
) -> Line2D:
    mean = task in MEAN_TASKS
    color = style.INK if mean else category.color
    shape: dict[str, Any] = {
        "color": color, "linewidth": 2.2 if mean else 1.3, "marker": category.marker,
        "markersize": 5, "markeredgecolor": "white", "markeredgewidth": 0.5,
    }  # fmt: skip
    sizes = [point.models for point in points]
    for axes, values, errors in (
        (left, [p.pearson for p in points], [p.pearson_std for p in points]),
        (right, [p.mae for p in points], [p.mae_std for p in points]),
    ):
        axes.errorbar(sizes, values, errors, elinewidth=0.8, zorder=3 if mean else 2, **shape)
    return Line2D([], [], **shape)


def _apart(sizes: Sequence[int]) -> list[int]:
    """The last size, and those before it with room for their numbers on a logarithmic axis."""
    kept = [sizes[-1]]
    for size in reversed(sizes[:-1]):
        if kept[-1] / size >= 1.3:
            kept.append(size)
    return kept[::-1]


def _open(axes: Axes) -> None:
    style.graph(axes)
    axes.tick_params(labelsize=8, length=2)
