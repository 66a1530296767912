"""Training runs as paths on the map."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch

from klmap import charts, labels, layout, style
from klmap.arrays import Floats
from klmap.figure_map import frame
from klmap.figure_trajectories import short_names
from klmap.lineage import checkpoint_name
from klmap.log import logger
from klmap.models_table import Model
from klmap.style import Category
from klmap.trajectories import LEAST_CHECKPOINTS, Trajectory

MOST_ARROWS = 12
"""Arrows along one path at most, evenly spread."""

MOST_LABELS = 48
"""Labels of checkpoints on the whole map, shared by the runs."""

_SIDE = 2.9
_PALE = "#d5d9e0"
_SHORTEST, _APART, _FARTHEST = 11.0, 45.0, 16.0  # points
_NOTE = (
    "From checkpoint to checkpoint in the order of training; all other models are pale. Near means "
    "alike in prediction. The layout shows every model at once, so a path may bend or leap\n"
    "where the run does not: lengths and directions mean little, and distances stand in steps.tsv. "
    "All texts, as on the map."
)


@dataclass(frozen=True)
class _Path:
    """A run as it is drawn: the rows of its checkpoints on the map, and their places."""

    run: Trajectory
    rows: list[int]
    points: Floats
    category: Category


def write(
    folder: Path, runs: Sequence[Trajectory], models: Sequence[Model], places: Path, texts: str
) -> None:
    """Draw ``paths.png`` and ``paths.svg``.

    Args:
        folder: to write to.
        runs: what was measured; checkpoints beyond ``models`` are off the map.
        models: those on the map.
        places: layout.tsv.
        texts: name of the text set.

    Raises:
        InputError: layout.tsv is missing or broken, or does not place the models.
    """
    with mpl.rc_context(style.RC):
        style.save(draw(runs, models, layout.read_layout(places, models), texts), folder, "paths")
    logger.info("drew %s", folder / "paths")


def draw(
    runs: Sequence[Trajectory], models: Sequence[Model], places: Sequence[layout.Place], texts: str
) -> Figure:
    """The runs on the map.

    Args:
        runs: what was measured; checkpoints beyond ``models`` are off the map.
        models: those on the map.
        places: of these.
        texts: name of the text set.
    """
    method = layout.METHODS.get(places[0].method, places[0].method) if places else ""
    figure = style.new_figure(
        11, 8, "Training runs on the map",
        f"{len(runs):,} run{'s' if len(runs) != 1 else ''} among "
        f"{style.subject(len(models), 0, texts).partition(' · ')[0]} of “{texts}” · {method}",
        _NOTE,
    )  # fmt: skip
    axes = style.add_axes(figure, 0.3, 0.62, _SIDE, 0.95)
    points = np.array([(place.x, place.y) for place in places], np.float64).reshape(-1, 2)
    each, _ = style.categories(short_names(runs))
    paths = [
        _Path(run, rows, points[rows], category)
        for run, category in zip(runs, each, strict=True)
        if len(rows := [row for row in run.rows if row < len(models)]) > 1
    ]
    if not paths:
        charts.nothing(
            axes,
            f"No run has {LEAST_CHECKPOINTS} checkpoints."
            if not runs
            else "No run has two checkpoints on the map: on_map: false keeps them off it.",
        )
        return figure
    style.plain(axes)
    frame(axes, points)
    on_path = {row for path in paths for row in path.rows}
    others = [row for row in range(len(models)) if row not in on_path]
    axes.scatter(
        points[others, 0], points[others, 1], s=60 if len(models) <= 100 else 14, color=_PALE,
        edgecolors="white", linewidths=0.4, zorder=1,
    )  # fmt: skip
    for path in paths:
        _draw_path(axes, path)
    _draw_labels(axes, paths, models, points[others])
    width, height = figure.get_size_inches()
    handles = [_handle(path) for path in {path.category.name: path for path in paths}.values()]
    handles.append(
        Line2D([], [], linestyle="none", marker="o", markersize=6, color=_PALE,
               markeredgecolor="white", label=f"all others  {len(others):,}")
    )  # fmt: skip
    left, top = 1 - (_SIDE - 0.15) / width, 1 - 0.95 / height
    charts.titled(figure, handles, "run, checkpoints", left, top)
    return figure


def _handle(path: _Path) -> Line2D:
    name = path.category.name
    if path.category.color != style.OTHERS:
        name = f"{style.shorten(name, 28)}  {len(path.rows):,}"
    return Line2D(
        [], [], color=path.category.color, marker=path.category.marker, markersize=6, linewidth=1.6,
        markeredgecolor="white", markeredgewidth=0.5, label=style.literal(name),
    )  # fmt: skip


def _draw_path(axes: Axes, path: _Path) -> None:
    many, dpi = len(path.rows) > 2 * MOST_ARROWS, axes.figure.dpi
    color, points = path.category.color, path.points
    axes.plot(
        points[:, 0], points[:, 1], color=color, linewidth=0.8 if many else 1.4, alpha=0.7,
        zorder=2, solid_joinstyle="round",
    )  # fmt: skip
    axes.scatter(
        points[:, 0], points[:, 1], s=4 if many else 32, color=color,
        marker="o" if many else path.category.marker, edgecolors="white",
        linewidths=0 if many else 0.6, zorder=3,
    )  # fmt: skip
    axes.scatter(
        points[-1:, 0], points[-1:, 1], s=45 if many else 95, color=color,
        marker=path.category.marker, edgecolors="white", linewidths=0.8, zorder=3.5,
    )  # fmt: skip
    marks = _spread(points, MOST_ARROWS + 1)
    for first, last in itertools.pairwise(marks):
        chord = points[last] - points[first]
        on_screen = axes.transData.transform([points[first], points[last]])
        # A head that is longer than the way would hide it.
        if np.hypot(*(on_screen[1] - on_screen[0])) * 72 / dpi < _SHORTEST:
            continue
        # Not at the end of a move, where the next point hides it.
        tip = points[(first + last) // 2] if last > first + 1 else points[first] + 0.62 * chord
        arrow = FancyArrowPatch(
            tuple(tip - 0.1 * chord), tuple(tip), arrowstyle="-|>", shrinkA=0, shrinkB=0,
            mutation_scale=9 if many else 12, linewidth=0, color=color, zorder=3.2,
        )  # fmt: skip
        axes.add_patch(arrow)


def _spread(points: Floats, most: int) -> list[int]:
    """So many of the points at most, evenly spread along the path; both ends are among them."""
    if len(points) <= most:
        return list(range(len(points)))
    gone = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
    marks = np.linspace(0, gone[-1], most)
    found = {int(np.abs(gone - mark).argmin()) for mark in marks}
    return sorted({*found, 0, len(points) - 1})


def _draw_labels(
    axes: Axes, paths: Sequence[_Path], models: Sequence[Model], others: Floats
) -> None:
    """Steps beside some of the checkpoints."""
    most = max(2, MOST_LABELS // len(paths))
    dpi = axes.figure.dpi
    labelled = []
    for path in paths:
        on_screen = axes.transData.transform(path.points) * 72 / dpi
        length = float(np.hypot(*np.diff(on_screen, axis=0).T).sum())
        many = max(2, min(most, 2 + int(length / _APART)))
        labelled += [(path, place) for place in _spread(path.points, many)]
    names = [checkpoint_name(models[path.rows[place]]) for path, place in labelled]
    figure = axes.figure
    assert isinstance(figure, Figure)
    scale = 72 / figure.dpi
    at = np.array([path.points[place] for path, place in labelled])
    points = axes.transData.transform(at) * scale
    box = axes.get_window_extent()
    lines = [axes.transData.transform(path.points) * scale for path in paths]
    crowd = axes.transData.transform(others) * scale if len(others) else np.zeros((0, 2))
    sizes = np.array([style.text_size(name, 7.0) for name in names])
    arranged = labels.arrange(
        points,
        np.full(len(points), 4.0),
        sizes,
        (box.x0 * scale + 2, box.y0 * scale + 2, box.x1 * scale - 2, box.y1 * scale - 2),
        np.vstack([labels.sample_segments(lines, 4.0), crowd]),
    )
    for (path, place), name, own, placement in zip(labelled, names, points, arranged, strict=True):
        if placement is not None and placement.gap < _FARTHEST:
            axes.annotate(
                style.literal(name), tuple(path.points[place]),
                xytext=tuple(np.subtract(placement.center, own)), textcoords="offset points",
                ha="center", va="center", size=7.0, color=_dark(path.category.color), zorder=4,
            )  # fmt: skip


def _dark(color: str) -> tuple[float, float, float]:
    """A colour dark enough for small letters."""
    red, green, blue = 0.55 * np.array(to_rgb(color)) + 0.45 * np.array(to_rgb(style.INK))
    return float(red), float(green), float(blue)
