"""How straight the ways between models are: a row for each merge, under its parents."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from klmap import charts, style
from klmap.log import logger
from klmap.merge_paths import Merges, Stretch, Way

MOST_ROWS = 60
"""Merges that the figure has room for; the table has all."""

_WIDTH = 11.0
_TOP, _FOOT, _GAP, _RIGHT = 1.4, 1.5, 0.45, 0.4
_ROW, _LEAST = 0.25, 1.0
_LONGEST = 30
_LARGE_RANGE = 30.0
_MUCH_LONGER = 1.5
_SHARES = (("#009E73", "D"), ("#882255", "s"), ("#E69F00", "^"))
_SECOND, _BEND, _GAIN, _BEST = ("#0072B2", "o"), "#D55E00", "#0072B2", "#E69F00"
_NOTE = (
    "Where: the nearest point to the merge on the line through its parents, in log-likelihood "
    "space (in the plane of three), as a share of the parents behind the first.\n"
    "Bend: the KL between the merge and that point, in per cent of the KL between the parents; "
    "hollow: no more than the numerical noise of the scores.\n"
    "Gain: by how much the merge codes the texts shorter than the mean of its parents, by its "
    "weights, or by where it is found if these are not known.\n"
    "Right of the orange mark it is better than the best parent; filled: it is. A way over "
    "several merges is as long as the distances √KL of neighbours together.\n"
    "klmap's own way to look at merges."
)
_TITLE: dict[str, Any] = {"size": 10, "loc": "left", "pad": 24, "weight": "bold"}
_BAR: dict[str, Any] = {"linestyle": "none", "elinewidth": 1, "capsize": 2, "zorder": 3}


@dataclass(frozen=True)
class _Group:
    """Merges of the same parents: the row of their heading, and each merge with its own."""

    heading: str
    row: float
    ways: list[tuple[float, Way]]


def write(folder: Path, found: Merges, texts: str) -> None:
    """Draw ``merges.png`` and ``merges.svg``; ``texts`` is the name of the text set."""
    with mpl.rc_context(style.RC):
        style.save(draw(found, texts), folder, "merges")
    logger.info("drew %s", folder / "merges")


def draw(found: Merges, texts: str) -> Figure:
    """Three panels with a row for each merge: its share of the parents, its bend, its gain.

    Args:
        found: what was measured.
        texts: name of the text set.
    """
    shown = found.ways[:MOST_ROWS]
    groups = _groups(shown, found.paths)
    rows = sum(1.35 + len(group.ways) for group in groups)
    high = max(_ROW * rows, _LEAST)
    height = _TOP + high + _FOOT
    some = f"{len(shown)} of {len(found.ways)} merges" if len(shown) < len(found.ways) else ""
    some = some or f"{len(shown)} merge{'s' if len(shown) != 1 else ''}"
    figure = style.new_figure(
        _WIDTH,
        height,
        "How straight the way between models is, by their merges",
        f"{some} among {style.subject(found.models, found.texts, texts)} · "
        "KL in bits/byte, standard errors over texts",
        _NOTE if groups else "",
    )
    if not groups:
        charts.nothing(
            style.add_axes(figure, 0.3, _FOOT, _RIGHT, _TOP),
            "No merge has two parents among the scored models.\n"
            "A model with merge: in config.yaml makes some.",
        )
        return figure
    names = _short([way.model for way in shown])
    left = 0.4 + max(style.widest(list(names.values()), 8), 1.2)
    wide = (_WIDTH - left - _RIGHT - 2 * _GAP) / 3
    panels = [
        figure.add_axes(
            ((left + n * (wide + _GAP)) / _WIDTH, _FOOT / height, wide / _WIDTH, high / height)
        )
        for n in range(3)
    ]
    for axes in panels:
        axes.set_ylim(rows - 0.35, -0.6)
        axes.set_yticks([])
        axes.tick_params(axis="x", labelsize=7.5, length=2)
        style.graph(axes, along="x", left=False)
    _names(figure, panels[0], groups, names)
    _where(panels[0], groups)
    _bends(panels[1], groups)
    _gains(panels[2], groups)
    return figure


def _groups(ways: Sequence[Way], paths: Sequence[Stretch]) -> list[_Group]:
    """Merges under headings, with the heights of their rows."""
    by_merge = {name: path for path in paths for name in path.merges}
    names = _short([name for way in ways for name in way.parents])
    groups, row = [], 0.0
    for (parents, path), members in groupby(
        ways, key=lambda way: (frozenset(way.parents), by_merge.get(way.model))
    ):
        placed = []
        start = row
        for way in members:
            row += 1
            placed.append((row, way))
        first = placed[0][1]
        words = " + " if len(parents) > 2 else " → "
        heading = words.join(style.shorten(names[name], 40) for name in first.parents)
        heading += f"   KL {first.between[0]:.3g}"
        if path is not None and not math.isnan(path.ratio[0]):
            heading += f", the way {_longer(path.ratio[0])} the direct one"
        elif len(parents) > 2:
            heading += " on average"
        groups.append(_Group(heading, start, placed))
        row += 1.35
    return groups


def _longer(ratio: float) -> str:
    if ratio >= _MUCH_LONGER:
        return f"{ratio:.1f} times as long as"
    return f"{100 * (ratio - 1):.2g} % longer than"


def _short(names: Sequence[str]) -> dict[str, str]:
    """Names without the organisation, where they stay different without it."""
    short = {name: name.partition("--")[2] or name for name in names}
    count = Counter(short.values())
    return {
        name: style.shorten(part if count[part] == 1 else name, _LONGEST)
        for name, part in short.items()
    }


def _names(figure: Figure, axes: Axes, groups: Sequence[_Group], names: dict[str, str]) -> None:
    """Headings across all panels, and the name of each merge beside its row."""
    box, (low, high) = axes.get_position(), axes.get_ylim()
    left, right = 0.3 / _WIDTH, 1 - _RIGHT / _WIDTH
    for group in groups:
        # By the figure, because panels would cover what belongs to the one before.
        up, line = (
            box.y0 + box.height * (row - low) / (high - low)
            for row in (group.row, group.row + 0.45)
        )
        figure.add_artist(
            Line2D([left, right], [line] * 2, color=style.RULE, linewidth=0.7, zorder=4)
        )
        figure.text(
            left, up, group.heading, size=8, weight="bold", va="center", parse_math=False,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1}, zorder=5,
        )  # fmt: skip
        for row, way in group.ways:
            axes.annotate(
                style.literal(names[way.model]), (0, row), xytext=(-7, 0), size=8, ha="right",
                va="center", xycoords=axes.get_yaxis_transform(), textcoords="offset points",
                color=style.INK,
            )  # fmt: skip


def _where(axes: Axes, groups: Sequence[_Group]) -> None:
    axes.set_title("Where between its parents", **_TITLE)
    ways = [(row, way) for group in groups for row, way in group.ways]
    most = max(len(way.parents) for _, way in ways)
    styles = [_SECOND, *(_SHARES[n % len(_SHARES)] for n in range(most - 2))]
    numbers = ["measured"] if most == 2 else ["second", "third", "fourth", "fifth"]
    for number, (color, marker) in enumerate(styles, start=1):
        some = [(row, way) for row, way in ways if len(way.parents) > number]
        axes.errorbar(
            [way.shares[number] for _, way in some], [row for row, _ in some],
            xerr=[way.shares_se[number] for _, way in some], color=color, marker=marker,
            markersize=5.5, markeredgecolor="white", markeredgewidth=0.6,
            label=numbers[number - 1] if number <= len(numbers) else None, **_BAR,
        )  # fmt: skip
        weighted = [(row, way.weights[number]) for row, way in some if way.weights]
        axes.plot(
            [weight for _, weight in weighted], [row for row, _ in weighted], "|",
            color=style.INK if most == 2 else color, markersize=12, markeredgewidth=1.4, zorder=2,
            label="its weight" if number == 1 and weighted else None,
        )  # fmt: skip
    low, high = axes.get_xlim()
    low, high = min(low, -0.05), max(high, 1.05)
    axes.set_xlim(low, high)
    for end in (0, 1):
        axes.axvline(end, color=style.MUTED, linewidth=0.8, zorder=1)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    words = "0: the first parent, 1: the second" if most == 2 else "share of the parent"
    axes.set_xlabel(words, size=8.5)
    _legend(axes)


def _bends(axes: Axes, groups: Sequence[_Group]) -> None:
    axes.set_title("How far the way bends", **_TITLE)
    known = [(row, w) for g in groups for row, w in g.ways if not math.isnan(w.bend[0])]
    values = [way.bend[0] for _, way in known]
    large = bool(values) and min(values) > 0 and max(values) > _LARGE_RANGE * min(values)
    for hollow in (False, True):
        some = [(row, way) for row, way in known if way.is_below_noise == hollow]
        if not some:
            continue
        bend = np.array([way.bend[0] for _, way in some])
        errors = np.array([way.bend[1] for _, way in some])
        # Neither axis goes to where an error bar reaches below 0.
        below = np.minimum(errors, (0.95 if large else 1) * bend)
        axes.errorbar(
            100 * bend, [row for row, _ in some], xerr=100 * np.array([below, errors]),
            color=_BEND, marker="o", markersize=5.5,
            markerfacecolor="white" if hollow else _BEND,
            markeredgecolor=_BEND if hollow else "white", markeredgewidth=1 if hollow else 0.6,
            **_BAR,
        )  # fmt: skip
    if large:
        axes.set_xscale("log")
        style.decade_axis(axes.xaxis)
        axes.xaxis.set_major_locator(LogLocator(numticks=8))
    else:
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("per cent of the KL between the parents", size=8.5)


def _gains(axes: Axes, groups: Sequence[_Group]) -> None:
    axes.set_title("Gain over the mean of its parents", **_TITLE)
    ways = [(row, way) for group in groups for row, way in group.ways]
    for better in (True, False):
        some = [(row, way) for row, way in ways if (way.over_best[0] > 0) == better]
        if not some:
            continue
        axes.errorbar(
            [way.gain[0] for _, way in some], [row for row, _ in some],
            xerr=[way.gain[1] for _, way in some], color=_GAIN, marker="o", markersize=5.5,
            markerfacecolor=_GAIN if better else "white",
            markeredgecolor="white" if better else _GAIN, markeredgewidth=0.6 if better else 1,
            label="better than it" if better else "not better", **_BAR,
        )  # fmt: skip
    axes.plot(
        [way.gain[0] - way.over_best[0] for _, way in ways], [row for row, _ in ways], "|",
        color=_BEST, markersize=12, markeredgewidth=1.8, zorder=2, label="best parent",
    )  # fmt: skip
    axes.axvline(0, color=style.MUTED, linewidth=0.8, zorder=1)
    sizes = [abs(end) for _, way in ways for end in (way.gain[0], way.gain[0] - way.over_best[0])]
    usual = float(np.median(sizes))
    if 0 < usual * _LARGE_RANGE / 2 < max(sizes):
        axes.set_xscale("symlog", linthresh=10.0 ** math.floor(math.log10(usual)), linscale=0.6)
        low, high = axes.get_xlim()
        axes.set_xlim(1.5 * min(low, 0), 1.5 * max(high, 0))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.set_xlabel("bits/byte", size=8.5)
    _legend(axes)


def _legend(axes: Axes) -> None:
    """In one line between the title and the panel."""
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=4, fontsize=8, handletextpad=0.3,
        columnspacing=1.2, borderaxespad=0.2, borderpad=0.2, handlelength=1.3,
    )  # fmt: skip
