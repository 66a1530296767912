"""What a lower precision costs: KLs by method, code lengths, domains, and directions."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from klmap import charts, figure_quantization_cosines, style
from klmap.arrays import Floats
from klmap.log import logger
from klmap.precision_directions import Cosines
from klmap.precision_shift import NOTHING, Shifts, subject
from klmap.precision_tables import Method, Order, Part, by_methods

MOST_BARS = 40
"""Models up to which every one has error bars and a marker of its own."""

MOST_DOMAINS = 14
"""Domains that the figure has room for; the table has all."""

MOST_ORDERS = 8
"""Pairs of methods that the figure has room for."""

_HEADING = "What a lower precision costs"

_WIDTH = 11.0
_LINE = 165
_TWO_DECADES = 100
_TOP, _HIGH, _GAP, _FOOT = 1.2, 3.6, 1.15, 1.35
_ROW = 0.24
_COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#332288", "#882255")
_MARKERS = ("o", "s", "D", "^", "v", "P", "X", "p")
_TITLE: dict[str, Any] = {"size": 10, "loc": "left", "weight": "bold"}

Tables = tuple[list[Method], list[Part], list[Order]]


def write(folder: Path, shifts: Shifts, cosines: Cosines, tables: Tables, texts: str) -> None:
    """Draw ``shift`` and ``cosines``, PNG and SVG; ``texts`` is the name of the text set."""
    with mpl.rc_context(style.RC):
        style.save(draw(shifts, tables, texts), folder, "shift")
        cosine = figure_quantization_cosines.draw(shifts, cosines, texts)
        style.save(cosine, folder, "cosines")
    logger.info("drew %s and cosines", folder / "shift")


def draw(shifts: Shifts, tables: Tables, texts: str) -> Figure:
    """KL by method, added code length by method, and the domains that carry the KL.

    Args:
        shifts: the models in a lower precision.
        tables: of methods, domains and orders.
        texts: name of the text set.
    """
    methods, parts, found = tables
    names = _largest(parts)
    below = _ROW * max(len(names), 4) if names else 0.0
    height = _TOP + _HIGH + (_GAP + below if names else 0.2) + _FOOT
    count = subject(shifts, texts, "bits/byte")
    if not shifts.pairs:
        figure = style.new_figure(_WIDTH, 3.2, _HEADING, count)
        charts.nothing(style.add_axes(figure, 0.3, 0.4, 0.3, 1), NOTHING)
        return figure
    figure = style.new_figure(_WIDTH, height, _HEADING, count, _note(shifts))
    each, legend = style.categories([shifts.full(n).family for n in range(len(shifts.pairs))])
    bottom = height - _TOP - _HIGH
    _kls(style.add_axes(figure, 0.95, bottom, 5.35, _TOP), shifts, methods, each)
    _means(style.add_axes(figure, 6.75, bottom, 1.9, _TOP), shifts, each)
    place = (_WIDTH - 1.65) / _WIDTH, 1 - (_TOP - 0.05) / height
    families = style.handles(_models_of(shifts, legend))
    charts.titled(figure, families, "family", *place)
    if names:
        left = 0.45 + style.widest([style.shorten(name, 26) for name in names], 8)
        _domains(style.add_axes(figure, left, _FOOT, 5.35, height - _FOOT - below), parts, names)
        top = height - _FOOT - below
        low = max(_FOOT, height - top - 0.42 * max(len(by_methods(found)), 2))
        _orders(style.add_axes(figure, 6.75, low, 0.3, top), found)
    return figure


def _note(shifts: Shifts) -> str:
    hidden = int(np.sum(shifts.floor < _lowest(shifts)))
    unseen = f"; {hidden:,} of {len(shifts.kl):,} lie below the axis" if hidden else ""
    return textwrap.fill(
        "Lines join the methods of one model; error bars are standard errors over texts. Black: "
        "median of a method, with its 95 % interval over models and texts. Grey dashes: noise "
        f"floors, what numerical errors alone give{unseen}. Hollow: not above these. Lower left: a "
        "domain right of the dashed line carries more of the KL than its texts are. Lower right: a "
        "difference of more than two standard errors decides. These hold nothing of how the "
        "rounding of weights happens to fall: on small models that alone can turn an order around. "
        "The test, the parts and the intervals are klmap's own.",
        _LINE,
    )


def _lowest(shifts: Shifts) -> float:
    """The lower end of the axis of KLs."""
    positive = shifts.kl[shifts.kl > 0]
    return float(positive.min()) / 4 if positive.size else 1e-6


def _models_of(shifts: Shifts, legend: Sequence[style.Category]) -> list[style.Category]:
    """The legend with numbers of models in full precision in place of numbers of shifts."""
    rows = {pair.full for pair in shifts.pairs}
    families = [shifts.models[row].family or "unknown" for row in rows]
    named = {category.name for category in legend}
    rest = sum(family not in named for family in families)
    return [
        style.Category(item.name, item.color, item.marker, families.count(item.name) or rest)
        for item in legend
    ]


def _places(shifts: Shifts, wide: float = 0.3) -> Floats:
    """Where each shift stands along the axis of methods: models side by side in one order."""
    full = sorted({pair.full for pair in shifts.pairs}, key=lambda row: (
        shifts.models[row].family, shifts.models[row].model))  # fmt: skip
    names = shifts.methods
    offset = dict(zip(full, np.linspace(-wide, wide, len(full) + 2)[1:-1], strict=True))
    return np.array([names.index(pair.method) + offset[pair.full] for pair in shifts.pairs])


def _kls(
    axes: Axes, shifts: Shifts, methods: Sequence[Method], each: Sequence[style.Category]
) -> None:
    axes.set_title("KL to full precision", **_TITLE)
    places, low = _places(shifts), _lowest(shifts)
    few = len({pair.full for pair in shifts.pairs}) <= MOST_BARS
    for full in {pair.full for pair in shifts.pairs}:
        rows = [n for n, pair in enumerate(shifts.pairs) if pair.full == full and shifts.kl[n] > 0]
        rows.sort(key=lambda n: places[n])
        axes.plot(
            places[rows], shifts.kl[rows], color=each[rows[0]].color if rows else style.RULE,
            linewidth=0.9 if few else 0.5, alpha=0.55 if few else 0.3, zorder=2,
        )  # fmt: skip
    shown = np.flatnonzero(shifts.floor >= low)
    axes.plot(
        places[shown], shifts.floor[shown], linestyle="none", marker="_", markersize=6,
        color=style.MUTED, zorder=2,
    )  # fmt: skip
    _points(axes, shifts, places, shifts.kl, shifts.se, each, few, positive=True)
    _medians(axes, shifts, methods)
    axes.set_yscale("log")
    high = max([float(np.max(shifts.kl + shifts.se)), *(item.high for item in methods)])
    axes.set_ylim(low, 1.5 * max(high, 2 * low))
    if high < _TWO_DECADES * low:
        style.decade_axis(axes.yaxis)
    axes.set_ylabel("KL, bits/byte")
    _method_axis(axes, shifts)


def _points(
    axes: Axes,
    shifts: Shifts,
    places: Floats,
    values: Floats,
    errors: Floats,
    each: Sequence[style.Category],
    few: bool,
    positive: bool,
) -> None:
    for number, category in enumerate(each):
        value, error = float(values[number]), float(errors[number])
        if positive and not value > 0:
            continue
        hollow = bool(shifts.known[number] and not shifts.real[number])
        if few:
            # On a logarithmic axis an error bar that reaches 0 would have no end.
            lower = min(error, 0.95 * value) if positive else error
            axes.errorbar(
                [places[number]], [value], yerr=[[lower], [error]], color=category.color,
                elinewidth=0.9, capsize=1.6, zorder=3,
            )  # fmt: skip
        axes.plot(
            [places[number]], [value], linestyle="none", marker=category.marker,
            markersize=(6 if few else 3.2) * math.sqrt(style.AREA.get(category.marker, 1)),
            markerfacecolor="white" if hollow else category.color,
            markeredgecolor=category.color if hollow else "white",
            markeredgewidth=1 if hollow else 0.4, zorder=4,
        )  # fmt: skip


def _medians(axes: Axes, shifts: Shifts, methods: Sequence[Method]) -> None:
    names = shifts.methods
    for item in methods:
        if not item.low > 0:
            continue
        place = names.index(item.name) + 0.4
        axes.errorbar(
            [place], [item.kl], yerr=[[max(item.kl - item.low, 0)], [max(item.high - item.kl, 0)]],
            color=style.INK, elinewidth=1.3, capsize=2.5, marker="_", markersize=9,
            markeredgewidth=2, zorder=5,
        )  # fmt: skip


def _method_axis(axes: Axes, shifts: Shifts) -> None:
    names = shifts.methods
    axes.set_xlim(-0.5, len(names) - 0.5)
    labels = [f"{name}\n{len(shifts.of(name)):,}" for name in names]
    turned = len(names) > 6
    axes.set_xticks(
        range(len(names)), [label.replace("\n", "  ") if turned else label for label in labels],
        rotation=30 if turned else 0, ha="right" if turned else "center", size=8.5,
        color=style.INK,
    )  # fmt: skip
    axes.tick_params(axis="x", length=0)
    style.graph(axes, "y")


def _means(axes: Axes, shifts: Shifts, each: Sequence[style.Category]) -> None:
    axes.set_title("Added code length", **_TITLE)
    few = len({pair.full for pair in shifts.pairs}) <= MOST_BARS
    axes.axhline(0, color=style.INK, linewidth=0.8, zorder=1)
    _points(axes, shifts, _places(shifts), shifts.mean, shifts.mean_se, each, few, positive=False)
    size = np.abs(shifts.mean)
    if size.size and size.max() > 0:
        known = shifts.mean_se[shifts.mean_se > 0]
        least = float(np.median(known)) if known.size else float(size.max())
        if size.max() > 30 * least:
            # A decade below most values is drawn linear: signs matter there, not sizes.
            axes.set_yscale("symlog", linthresh=10 ** math.ceil(math.log10(max(least, 1e-12))))
    axes.set_ylabel("bits/byte more than in full precision")
    _method_axis(axes, shifts)


def _largest(parts: Sequence[Part]) -> list[str]:
    """Domains with the largest shares in any method, as many as there is room for."""
    most: dict[str, float] = {}
    for part in parts:
        most[part.domain] = max(most.get(part.domain, 0.0), part.share)
    kept = sorted(most, key=lambda name: (-most[name], name))[:MOST_DOMAINS]
    ratio: dict[str, list[float]] = {}
    for part in parts:
        ratio.setdefault(part.domain, []).append(part.share / part.text_share)
    return sorted(kept, key=lambda name: (-float(np.mean(ratio[name])), name))


def _domains(axes: Axes, parts: Sequence[Part], names: Sequence[str]) -> None:
    axes.set_title("Which domains suffer", **_TITLE, pad=22)
    methods = list(dict.fromkeys(part.method for part in parts))
    spread = np.linspace(-0.28, 0.28, len(methods) + 2)[1:-1]
    for number, method in enumerate(methods):
        some = [part for part in parts if part.method == method and part.domain in names]
        axes.errorbar(
            [part.share / part.text_share for part in some],
            [names.index(part.domain) + spread[number] for part in some],
            xerr=[part.share_se / part.text_share for part in some],
            linestyle="none", marker=_MARKERS[number % len(_MARKERS)], markersize=5,
            color=_COLORS[number % len(_COLORS)], markeredgecolor="white", markeredgewidth=0.4,
            elinewidth=0.9, label=method, zorder=3,
        )  # fmt: skip
    axes.axvline(1, color=style.INK, linewidth=1, linestyle=(0, (2.5, 1.5)), zorder=2)
    axes.set_ylim(len(names) - 0.4, -0.6)
    labels = [style.literal(style.shorten(name, 26)) for name in names]
    axes.set_yticks(range(len(names)), labels, size=8, color=style.INK)
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.set_xlabel("share of the KL over share of the texts", size=8.5)
    style.graph(axes, "x", left=False)
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.01, 0.995), ncols=5, fontsize=8, handlelength=0.8,
        columnspacing=1.1, handletextpad=0.3, borderaxespad=0.2,
    )  # fmt: skip


def _orders(axes: Axes, found: Sequence[Order]) -> None:
    """How many models have their methods in the order that is expected."""
    axes.set_title("Does each method cost more than the one before?", **_TITLE, pad=22)
    counts = list(by_methods(found).items())[:MOST_ORDERS]
    if not counts:
        charts.nothing(axes, "No model has two methods.")
        return
    kinds = ("as expected", "undecided", "noise", "reversed")
    colors = dict(zip(kinds, ("#0072B2", "#c3c7ce", "#e5e7eb", "#D55E00"), strict=True))
    for row, (_, verdicts) in enumerate(counts):
        start = 0
        for kind in kinds:
            count = verdicts.get(kind, 0)
            if count:
                axes.barh(row, count, 0.6, start, color=colors[kind], zorder=2)
                axes.text(
                    start + count / 2, row, str(count), ha="center", va="center", size=8,
                    color="white" if kind in ("as expected", "reversed") else style.INK, zorder=3,
                )  # fmt: skip
            start += count
    labels = [f"{first} < {second}" for (first, second), _ in counts]
    axes.set_yticks(range(len(counts)), labels, size=8.5, color=style.INK)
    axes.set_ylim(max(len(counts), 2) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("models", size=8.5)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    style.graph(axes, "x", left=False)
    present = [kind for kind in kinds if any(value.get(kind) for _, value in counts)]
    handles = [
        Line2D([], [], linestyle="none", marker="s", markersize=7, color=colors[kind], label=kind)
        for kind in present
    ]
    axes.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(-0.01, 0.995), ncols=4, fontsize=8,
        handlelength=0.8, columnspacing=1.1, handletextpad=0.3, borderaxespad=0.2,
    )  # fmt: skip
