"""The scale of KL: how far apart models are, by how they are related.

The question is that of Kishino et al. 2026 (ACL Findings), whose medians are drawn for comparison;
how the distributions are drawn is klmap's own.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from klmap import charts, clouds, geometry, relations, scale, style
from klmap.arrays import Floats
from klmap.log import logger
from klmap.relations import Related
from klmap.scale import Measured

MOST_DOTS = 60
"""Pairs of a relation that are drawn one by one; of more, their density."""

MOST_DECADES = 6
"""Powers of ten that the axis has at most; what is smaller stands at its left end."""

GROUPS = {
    "precision": "#E69F00",
    "layers": "#CC79A7",
    "checkpoints": "#0072B2",
    "made from another": "#009E73",
    "made alike": "#56B4E9",
    "families": "#D55E00",
}
"""Colours of the kinds of relations: those of Okabe and Ito."""

_WORDS = {
    relations.LAYERS: ("adjacent layers", "logit lens, one block apart", "layers"),
    relations.EARLY: ("early checkpoints", "consecutive, first part of a run", "checkpoints"),
    relations.LATER: ("later checkpoints", "consecutive, rest of a run", "checkpoints"),
    relations.MERGE: ("merge and its part", "averaged weights", "made from another"),
    relations.PARENT: ("parent and child", "fine-tuned or adapted", "made from another"),
    relations.SIBLINGS: ("siblings", "fine-tuned from one parent", "made from another"),
    relations.SEEDS: ("another seed", "same recipe, same step", "made alike"),
    relations.SIZES: ("another size", "same recipe, same data", "made alike"),
    relations.FAMILY: ("same family", "and nothing closer", "families"),
    relations.ACROSS: ("across families", "no known relation", "families"),
}

_WIDTH = 11.0
_LEFT, _RIGHT, _TOP, _FOOT = 2.55, 2.35, 1.85, 0.85
_LINE, _CHARACTERS = 0.14, 165
_ROW = 0.56
_HALF = 0.38
_CLOUD, _INTERVAL, _DIAMOND = 0.04, 0.29, -0.33


def write(folder: Path, measured: Sequence[Measured], subject: str) -> None:
    """Draw ``scale.png`` and ``scale.svg``; ``subject``: how many models on which texts."""
    with mpl.rc_context(style.RC):
        style.save(draw(measured, subject), folder, "scale")
    logger.info("drew %s", folder / "scale")


def draw(measured: Sequence[Measured], subject: str) -> Figure:
    """One row for each relation, by rising median: its pairs, median, noise floor and size.

    Args:
        measured: KLs of the pairs of each relation.
        subject: how many models on which texts, for the subtitle.
    """
    ordered = sorted(measured, key=lambda item: item.median)
    low, high = limits(ordered)
    note = _note(ordered, low, high) if ordered else ""
    foot = _FOOT + _LINE * (note.count("\n") + 1)
    height = _TOP + _ROW * max(len(ordered), 3) + foot
    figure = style.new_figure(
        _WIDTH,
        height,
        "A scale for KL: how far apart models are, by how they are related",
        f"{subject} · KL of pairs of models, bits/byte",
        note,
    )
    axes = style.add_axes(figure, _LEFT, foot, _RIGHT, _TOP)
    if not ordered:
        charts.nothing(
            axes,
            "No two models have a relation that klmap knows.\n"
            "Add checkpoints, fine-tunes, quantizations: or layers: to config.yaml.",
        )
        return figure
    _frame(axes, len(ordered), low, high)
    for row, item in enumerate(ordered):
        _row(axes, row, item, low, high)
    _columns(axes, ordered)
    _legends(figure, axes, ordered, height)
    return figure


def _note(ordered: Sequence[Measured], low: float, high: float) -> str:
    """How the figure is read, as far as there is such a thing in it."""
    names = {item.name for item in ordered}
    lines = [
        "Each pair of models counts once, under its closest relation. Dots: single pairs; where "
        f"there are more than {MOST_DOTS}, their density and, as a bar, the middle half.",
        "Black: the median, and below it its 95 % interval over texts. That says what other texts "
        "would change, not what other models would.",
    ]
    special = []
    if any(item.floor > low for item in ordered):
        special.append("Grey: below the noise floor, where rounding decides.")
    if high > geometry.BEYOND:
        special.append(f"Hatched: above {geometry.BEYOND:g}, where an estimate is no KL.")
    if names & {relations.EARLY, relations.LATER}:
        special.append("Checkpoints differ more, the more steps lie between them.")
    if special:
        lines.append(" ".join(special))
    surprises = [
        f"{_words(item.first.related)[0]} below {_words(item.second.related)[0]}: "
        + ("the other way round" if item.verdict == scale.SECOND else scale.UNCLEAR)
        + f" ({item.first.related.pairs:,} and {item.second.related.pairs:,} pairs)"
        for item in scale.orderings(ordered)
        if item.expected and item.verdict != scale.FIRST
    ]
    if surprises:
        words = f"Expected, but not found here: {'; '.join(surprises)}."
        lines += textwrap.wrap(words, _CHARACTERS)
    lines.append(
        "Relations are told apart, and errors found, in klmap's own way; the question and the "
        "diamonds are those of Kishino et al. 2026."
    )
    return "\n".join(lines)


def limits(measured: Sequence[Measured]) -> tuple[float, float]:
    """Both ends of the axis, bits per byte: all that is drawn, but no more than some decades.

    Noise floors widen it by a decade at most, so that scores that are nearly exact do not press
    everything else to the right.
    """
    shown = [_drawn(item) for item in measured]
    published = [item.published for item in measured if item.published is not None]
    values = np.concatenate([*shown, np.array(published, np.float64)])
    values = values[values > 0]
    if not values.size:
        return 1e-3, 10.0
    high = float(values.max()) * 1.5
    low = max(float(values.min()), high / 10**MOST_DECADES)
    floors = [item.floor for item in measured if low / 10 < item.floor < low]
    low = min([low, *floors]) / 1.6
    if high / low < 100:
        middle = math.sqrt(high * low)
        low, high = middle / 10, middle * 10
    return low, high


def _drawn(item: Measured) -> Floats:
    """What the axis has to reach: single pairs, or nearly all of many."""
    if len(item.kl) <= MOST_DOTS:
        return item.kl
    return np.quantile(item.kl, [0.005, 0.995])


def _frame(axes: Axes, rows: int, low: float, high: float) -> None:
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.set_ylim(rows - 0.4, -0.6)
    axes.set_yticks([])
    for row in range(0, rows, 2):
        axes.axhspan(row - 0.5, row + 0.5, color=style.PANEL, linewidth=0, zorder=0)
    if math.log10(high / low) > 3.2:
        axes.xaxis.set_major_locator(LogLocator(numticks=20))
    else:
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=20))
    axes.xaxis.set_minor_locator(LogLocator(subs=tuple(range(1, 10)), numticks=20))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value)))
    axes.tick_params(axis="x", labelsize=8.5, length=4, labelcolor=style.INK)
    axes.tick_params(axis="x", which="minor", length=2, color=style.RULE)
    axes.set_xlabel("KL, bits per byte (logarithmic)", size=9)
    style.graph(axes, along="x", left=False)
    if high > geometry.BEYOND:
        axes.axvspan(
            geometry.BEYOND, high, facecolor="none", edgecolor=style.RULE, hatch="////",
            linewidth=0, zorder=0.5,
        )  # fmt: skip


def _row(axes: Axes, row: int, item: Measured, low: float, high: float) -> None:
    color = GROUPS[_words(item.related)[2]]
    _floor(axes, row, item.floor, low, high)
    inside = item.kl[item.kl >= low]
    if len(item.kl) > MOST_DOTS:
        _density(axes, row, item, inside, color, low, high)
    else:
        heights = clouds.spread(np.log10(inside), math.log10(low), math.log10(high))
        axes.scatter(
            inside, row - _CLOUD + heights, s=34, color=color, alpha=0.85,
            edgecolors="white", linewidths=0.6, zorder=3,
        )  # fmt: skip
    outside = len(item.kl) - len(inside)
    if outside:
        axes.plot(
            [0.006], [row + _INTERVAL], "<", transform=axes.get_yaxis_transform(), color=color,
            markersize=6, markeredgewidth=0, zorder=5,
        )  # fmt: skip
        equal = int((item.kl == 0).sum())
        words = f"{outside:,} " + ("equal" if equal == outside else "smaller")
        axes.annotate(
            words, (0, row + _INTERVAL), xytext=(10, 0), xycoords=axes.get_yaxis_transform(),
            textcoords="offset points", size=7.5, color=style.MUTED, va="center_baseline", zorder=5,
        )  # fmt: skip
    if item.median >= low:
        _median(axes, row, item)
    if item.published is not None:
        axes.plot(
            [item.published], [row + _DIAMOND], "D", markersize=6.5, markerfacecolor="white",
            markeredgecolor=style.INK, markeredgewidth=1.2, zorder=6,
        )  # fmt: skip


def _floor(axes: Axes, row: int, floor: float, low: float, high: float) -> None:
    if not floor > low:
        return
    right = min(floor, high)
    axes.add_patch(
        Rectangle((low, row - _HALF), right - low, 2 * _HALF, color="#e5e7eb", lw=0, zorder=1)
    )
    axes.plot([right] * 2, [row - _HALF, row + _HALF], color=style.MUTED, linewidth=1.2, zorder=2)


def _density(
    axes: Axes, row: int, item: Measured, inside: Floats, color: str, low: float, high: float
) -> None:
    """The density of the logarithms, and below it the middle half of all pairs as a bar."""
    if len(inside) > 1:
        ends = math.log10(low), math.log10(high)
        grid, heights = clouds.density(np.log10(inside), *ends)
        places = 10**grid
        base = row + _CLOUD
        axes.fill_between(
            places, base - (_HALF + _CLOUD) * heights, base, where=heights > 0.004, color=color,
            alpha=0.35, linewidth=0, zorder=2,
        )  # fmt: skip
    quarter, three = (max(item.quantile(share), low) for share in (0.25, 0.75))
    axes.plot(
        [quarter, three], [row + _CLOUD + 0.05] * 2, color=color, linewidth=5,
        solid_capstyle="butt", zorder=2.4,
    )  # fmt: skip


def _median(axes: Axes, row: int, item: Measured) -> None:
    reach = 1.96 * item.median_se
    ends = [max(item.median - reach, axes.get_xlim()[0]), item.median + reach]
    below = row + _INTERVAL
    axes.plot(ends, [below] * 2, color=style.INK, linewidth=1.3, zorder=4, solid_capstyle="butt")
    axes.plot(
        [item.median] * 2, [row - _HALF, below + 0.06], color=style.INK, linewidth=1.8,
        solid_capstyle="butt", zorder=2.5,
    )  # fmt: skip


def _words(related: Related) -> tuple[str, str, str]:
    """The name of a relation in words, what it means, and its kind."""
    if not related.precision:
        return _WORDS[related.name]
    name = related.name.removeprefix("stored-")
    against = (
        "against the most exact" if name == related.name else "as stored, against the original"
    )
    return name, against, "precision"


def number(value: float) -> str:
    """A KL with two digits, as people say it."""
    if value == 0:
        return "0"
    if value < 1e-4:
        return f"{value:.1e}".replace("e-0", "e-").replace(".0e", "e")
    return f"{value:#.2g}".rstrip(".") if value < 100 else f"{value:.0f}"


def _percent(share: float) -> str:
    return f"{float(f'{100 * share:.2g}'):g} %"


def _tick(value: float) -> str:
    return f"{value:g}" if value >= 1e-4 else number(value)


def _columns(axes: Axes, ordered: Sequence[Measured]) -> None:
    """Names at the left; median, pairs and models at the right."""
    heads = ((0.78, "median"), (1.41, "pairs"), (2.08, "models"))
    wide = _WIDTH - _LEFT - _RIGHT
    for inches, head in heads:
        axes.annotate(
            head, (1 + inches / wide, 1), xytext=(0, 4), xycoords="axes fraction",
            textcoords="offset points", size=8.5, color=style.MUTED, ha="right", va="bottom",
        )  # fmt: skip
    sides = axes.get_yaxis_transform()
    for row, item in enumerate(ordered):
        name, detail, kind = _words(item.related)
        axes.annotate(
            style.literal(name), (0, row), xytext=(-14, 1), xycoords=sides,
            textcoords="offset points", size=10, weight="bold", ha="right", va="bottom",
        )  # fmt: skip
        axes.annotate(
            detail, (0, row), xytext=(-14, -2), xycoords=sides,
            textcoords="offset points", size=7.8, color=style.MUTED, ha="right", va="top",
        )  # fmt: skip
        axes.plot(
            [-0.011] * 2, [row - _HALF, row + _HALF], transform=sides, color=GROUPS[kind],
            linewidth=4, solid_capstyle="butt", clip_on=False,
        )  # fmt: skip
        below = float(item.below.mean())
        cells = (
            f"{number(item.median)}",
            f"{item.related.pairs:,}",
            f"{item.related.models:,}",
        )
        for (inches, _), cell, weight in zip(heads, cells, ("bold", *["normal"] * 2), strict=True):
            axes.annotate(
                cell, (1 + inches / wide, row), xycoords=sides, size=9, ha="right",
                va="center_baseline", weight=weight,
            )  # fmt: skip
        notes = []
        if item.related.sampled:
            notes.append("sampled")
        if below > 0:
            notes.append(f"{_percent(below)} below noise")
        if item.beyond.any():
            words = "no KL: " if item.median > geometry.BEYOND else ""
            share = _percent(float(item.beyond.mean()))
            notes.append(f"{words}{share} above {geometry.BEYOND:g}")
        axes.annotate(
            " · ".join(notes), (1 + heads[-1][0] / wide, row), xytext=(0, -7), xycoords=sides,
            textcoords="offset points", size=7, color=style.MUTED, ha="right", va="top",
        )  # fmt: skip


def _legends(figure: Figure, axes: Axes, ordered: Sequence[Measured], height: float) -> None:
    """Two lines between the subtitle and the rows: kinds, and what the marks mean."""
    present = {_words(item.related)[2] for item in ordered}
    kinds = [Patch(color=color, label=name) for name, color in GROUPS.items() if name in present]
    marks = [
        Line2D([], [], color=style.INK, marker="|", markersize=11, linestyle="none",
               markeredgewidth=1.8, label="median, and how well texts determine it"),
    ]  # fmt: skip
    if any(item.published is not None for item in ordered):
        marks.append(
            Line2D([], [], linestyle="none", marker="D", markersize=7, markerfacecolor="white",
                   markeredgecolor=style.INK, markeredgewidth=1.2,
                   label="published median: Kishino et al. 2026, on other models and texts")
        )  # fmt: skip
    low = axes.get_xlim()[0]
    shown: list[Line2D | Patch] = [*marks]
    if any(item.floor > low for item in ordered):
        shown.append(Patch(color="#e5e7eb", label="below the noise floor"))
    left = 0.3 / _WIDTH
    for place, handles in ((0.92, kinds), (1.22, shown)):
        figure.legend(
            handles=handles, loc="upper left", bbox_to_anchor=(left, 1 - place / height),
            ncols=len(handles), fontsize=8.5, handletextpad=0.5, columnspacing=1.6,
            borderaxespad=0, borderpad=0, handlelength=1.2,
        )  # fmt: skip
