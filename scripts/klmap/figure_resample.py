"""What fewer texts cost: errors of distances against the number of texts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from klmap import charts, style
from klmap.log import logger
from klmap.resample import Resample
from klmap.resample_draws import KINDS, NAMES, Kind
from klmap.resample_errors import Number

COLORS = {"uniform": "#6b7280", "ls": "#D55E00", "kl": "#0072B2"}
"""Of the methods: told apart without colour vision, and by their marks."""

_WANTED = "#00795a"
_MARKERS = {"uniform": "s", "ls": "o", "kl": "^"}
_NOTE = (
    "Distances by the texts chosen, against those by all. A text that is chosen twice is scored "
    "once, so different texts count.\n"
    "Dotted: the error of the text set itself, all of its texts drawn again with replacement; to "
    "be far below it gains little.\n"
    "Uniform, LS and KL with replacement, and the error of all distances, are those of Oyama et "
    "al. 2025 (EMNLP Findings); the choice without replacement and the error\n"
    "of pairs are klmap's own."
)
_DASHED = (0, (3.5, 1.8))
_DOTTED = (0, (1, 1.6))
_TICKS = (0.05, 0.1, 0.2, 0.4, 0.8)
_TITLE: dict[str, Any] = {"size": 10, "loc": "left", "pad": 22, "weight": "bold"}
_WIDTH, _HEIGHT = 11.0, 5.9
_LEGEND = 2.1
_LONGEST = 22


def write(folder: Path, found: Resample, texts: str) -> None:
    """Draw ``errors.png`` and ``errors.svg``; ``texts`` is the name of the text set."""
    with mpl.rc_context(style.RC):
        style.save(draw(found, texts), folder, "errors")
    logger.info("drew %s", folder / "errors")


def draw(found: Resample, texts: str) -> Figure:
    """Two panels: the error of all distances, and that which 95 % of the pairs do not exceed.

    Args:
        found: what was measured.
        texts: name of the text set.
    """
    subject = f"{found.subject(texts)} · means over {found.draws:,} draws"
    figure = style.new_figure(_WIDTH, _HEIGHT, "What fewer texts cost", subject, _NOTE)
    wide = (_WIDTH - _LEGEND - 0.8 - 0.85) / 2
    left = style.add_axes(figure, 0.8, 1.55, _WIDTH - 0.8 - wide, 1.4)
    right = style.add_axes(figure, 0.8 + wide + 0.75, 1.55, _LEGEND + 0.1, 1.4)
    if not found.costs:
        for axes in (left, right):
            charts.nothing(axes, _nothing(found))
        return figure
    left.set_title("Error of all distances", **_TITLE)
    right.set_title("Error that 95 % of the pairs stay below", **_TITLE)
    _panel(left, found, [own.mean.absolute for own in found.costs])
    _panel(right, found, [own.mean.q95 for own in found.costs])
    left.set_ylabel("error of the squared distances", size=8.5)
    right.set_ylabel("error of the KL", size=8.5)
    _wanted(right, found)
    _below(left, _ratio(found))
    top = 1 - 1.4 / _HEIGHT
    charts.titled(figure, _handles(found), "texts chosen", 1 - (_LEGEND - 0.2) / _WIDTH, top)
    return figure


def _ratio(found: Resample) -> str:
    """What LS is better than uniform by, where that was measured at a fifth of the texts."""
    known = [
        own for own in found.costs
        if own.kind == Kind("ls", True) and not own.name and not math.isnan(own.ratio)
    ]  # fmt: skip
    if not known:
        return ""
    near = min(known, key=lambda own: abs(math.log(own.texts / found.texts / 0.2)))
    share = 100 * near.texts / found.texts
    return (
        f"with {share:.0f} % of the texts, uniform ones have {near.ratio:.1f} times the error by LS"
    )


def _nothing(found: Resample) -> str:
    if found.of < 2:
        return charts.SINGLE
    return "All models are alike, so no text is more important than another."


def _panel(axes: Axes, found: Resample, values: Sequence[float]) -> None:
    """One measure against the share of the texts, a line for each kind."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    for kind in KINDS:
        points = [
            (own.texts / found.texts, value)
            for own, value in zip(found.costs, values, strict=True)
            if own.kind == kind and not own.name and value > 0
        ]
        if points:
            x, y = zip(*points, strict=True)
            axes.plot(
                x, y, color=COLORS[kind.method], marker=_MARKERS[kind.method], markersize=5,
                markeredgecolor="white", markeredgewidth=0.6, linewidth=1.5,
                linestyle="-" if kind.replacement else _DASHED,
                markerfacecolor=COLORS[kind.method], zorder=3,
            )  # fmt: skip
    if values[0] > 0:
        axes.axhline(values[0], color=style.INK, linewidth=1.2, linestyle=_DOTTED, zorder=2)
    _marks(axes, found, values)
    _axes(axes, found)


def _marks(axes: Axes, found: Resample, values: Sequence[float]) -> None:
    """The selections that are configured, by name."""
    for own, value in zip(found.costs, values, strict=True):
        if not own.name or value <= 0:
            continue
        x = own.texts / found.texts
        axes.plot(
            x, value, "D", markersize=9, markerfacecolor="none", markeredgecolor=style.INK,
            markeredgewidth=1.3, zorder=4,
        )  # fmt: skip
        axes.annotate(
            style.literal(style.shorten(own.name, _LONGEST)), (x, value), xytext=(7, 4),
            textcoords="offset points", size=8, ha="left", va="bottom", zorder=5,
        )  # fmt: skip


def _axes(axes: Axes, found: Resample) -> None:
    axes.set_xlim(0.043, 0.95)
    axes.xaxis.set_major_locator(FixedLocator(_TICKS))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda share, _: f"{100 * share:g} %\n{round(share * found.texts):,}")
    )
    style.decade_axis(axes.yaxis)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    axes.tick_params(labelsize=7.5, length=2)
    axes.set_xlabel("different texts: share, number", size=8.5)
    style.graph(axes)


def _wanted(axes: Axes, found: Resample) -> None:
    """The error that is wanted, and the fewest texts that hold it."""
    wanted = found.settings.error
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, wanted / 1.3), high)
    axes.axhline(wanted, color=_WANTED, linewidth=1.2, zorder=2)
    axes.annotate(
        f"wanted: {100 * wanted:g} %", (0, wanted), xytext=(4, -3),
        xycoords=("axes fraction", "data"), textcoords="offset points", size=7.5,
        color=_WANTED, va="top", zorder=5,
    )  # fmt: skip
    best = _fewest(found.numbers, wanted)
    if best is not None:
        share = f"{100 * wanted:g} % for {100 * best.share:g} % of the pairs"
        _below(axes, f"{share}: {best.texts:,.0f} texts by {best.kind.label}")


def _below(axes: Axes, words: str) -> None:
    """A line below the title of a panel."""
    axes.annotate(
        words, (0, 1), xytext=(0, 8), xycoords="axes fraction", textcoords="offset points",
        size=8, color=style.MUTED, va="bottom",
    )  # fmt: skip


def _fewest(numbers: Sequence[Number], wanted: float) -> Number | None:
    known = [own for own in numbers if own.error == wanted and own.n]
    return min(known, key=lambda own: own.texts, default=None)


def _handles(found: Resample) -> list[Artist]:
    """The methods that are drawn, and what the lines mean."""
    drawn = [own.kind.method for own in found.costs if own.kind is not None and not own.name]
    entries: list[Artist] = [
        Line2D(
            [], [], color=COLORS[method], marker=_MARKERS[method], markersize=5, linewidth=1.5,
            label=NAMES[method],
        )
        for method in COLORS
        if method in drawn
    ]  # fmt: skip
    solid = Line2D([], [], color=style.INK, linewidth=1.3, label="with replacement")
    dashed = Line2D([], [], color=style.INK, linewidth=1.3, label="without replacement")
    dashed.set_linestyle(_DASHED)
    dotted = Line2D([], [], color=style.INK, linewidth=1.3, label="all, drawn again")
    dotted.set_linestyle(_DOTTED)
    entries += [solid, dashed, dotted]
    if any(own.name for own in found.costs):
        entries.append(
            Line2D(
                [], [], linestyle="none", marker="D", markersize=7, markerfacecolor="none",
                markeredgecolor=style.INK, label="configured here",
            )
        )  # fmt: skip
    return entries
