"""The mixtures that were found: their weights, and the way on which they lead to the target."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from klmap import charts, style
from klmap.arrays import Floats
from klmap.log import logger
from klmap.mixture import PROBES, Mixture
from klmap.mixture_tables import length_unit

MOST_PANELS = 8
"""Plans that a figure has room for; the tables have all."""

MOST_BARS = 12
"""Domains of a panel; of more, those with the smallest weights are left to the table."""

MOST_PARTS = 9
"""Domains of the texts that are told apart along a way; the others are joined."""

_WIDTH = 11.0
_TOP, _FOOT, _HEAD, _UNDER, _RIGHT = 1.2, 0.4, 0.82, 0.5, 0.4
_ROW, _HIGH = 0.235, 2.5
_LONGEST = 24
_BAR, _KNOWN, _JOINED = "#0072B2", "#D55E00", "#c3c7ce"
_NOTE = (
    "The mixture whose direction has the greatest cosine with that of the target. Bars: weights, "
    "which add up to 100 %. Lines: between 2.5 and 97.5 % of the bootstrap samples of the texts."
)
_PATH_NOTE = (
    "The KL to the target that is expected along the way, if log-likelihoods moved on straight "
    "lines; the areas are what the domains of the texts have of it.\n"
    "The way ends where it comes nearest. What remains there is no mixture of these domains. "
    "Choosing mixtures by directions is an idea of Kishino et al. 2026, the formulas are klmap's "
    "own."
)


def write(folder: Path, mixtures: Sequence[Mixture], texts: str) -> None:
    """Draw ``weights`` and ``path``, as PNG and SVG; ``texts`` is the name of the text set."""
    with mpl.rc_context(style.RC):
        style.save(draw_weights(mixtures, texts), folder, "weights")
        style.save(draw_path(mixtures, texts), folder, "path")
    logger.info("drew %s and %s", folder / "weights", folder / "path")


def draw_weights(mixtures: Sequence[Mixture], texts: str) -> Figure:
    """One panel for each plan: the weight of each domain, its interval, and the known share.

    Args:
        mixtures: what was found, in the order of the panels.
        texts: name of the text set.
    """
    shown = mixtures[:MOST_PANELS]
    rows = [min(len(each.plan.domains), MOST_BARS) for each in shown]
    labels = [style.shorten(name, _LONGEST) for each in shown for name in each.plan.domains]
    known = any(each.plan.known for each in shown)
    note = _NOTE + ("\nOrange: what the target was really trained on. " if known else "\n")
    note += (
        "Weights count in probes, or, where texts are the directions, in bits per byte that their "
        "domain gains: a proxy.\nChoosing mixtures by directions is an idea of Kishino et al. "
        "2026, the formulas are klmap's own."
    )
    figure, panels = _panels(
        shown, mixtures, texts, "Which mixture of domains leads to the target",
        "weights of the domains", note, style.widest(labels, 8), lambda row: _ROW * max(
            max(rows[row * 2 : row * 2 + 2], default=1), 3
        ),
    )  # fmt: skip
    for each, axes in zip(shown, panels, strict=True):
        _weights(axes, each)
    handles: list[Patch | Line2D] = [
        Patch(color=_BAR, alpha=0.85, label="weight that was found"),
        Line2D([], [], color=style.INK, linewidth=1.1, label="interval over texts"),
    ]
    if known:
        handles.append(
            Line2D([], [], linestyle="none", marker="D", color=_KNOWN, markersize=5.5,
                   markeredgecolor="white", label="share in the target's training")
        )  # fmt: skip
    if shown:
        _legend(figure, handles)
    return figure


def draw_path(mixtures: Sequence[Mixture], texts: str) -> Figure:
    """One panel for each plan: the expected KL to the target along the way, by domain.

    Args:
        mixtures: what was found, in the order of the panels.
        texts: name of the text set.
    """
    shown = mixtures[:MOST_PANELS]
    figure, panels = _panels(
        shown, mixtures, texts, "How near the way comes to the target",
        "expected KL to the target, bits/byte", _PATH_NOTE, 0.45, lambda _: _HIGH,
    )  # fmt: skip
    if not shown:
        return figure
    names = list(shown[0].domains.names)
    told, joined = (names, 0) if len(names) <= MOST_PARTS else (names[: MOST_PARTS - 1], 1)
    each, _ = style.categories(told)
    colors = [category.color for category in each] + [_JOINED] * joined
    for mixture, axes in zip(shown, panels, strict=True):
        _path(axes, mixture, colors)
    labels = told + [f"{len(names) - len(told)} other domains"] * joined
    _legend(
        figure,
        [
            Patch(color=color, label=style.literal(style.shorten(label, _LONGEST)))
            for color, label in zip(colors, labels, strict=True)
        ],
    )
    return figure


def _legend(figure: Figure, handles: Sequence[Patch | Line2D]) -> None:
    figure.legend(
        handles=list(handles), loc="upper left", ncols=len(handles) if len(handles) < 8 else 5,
        fontsize=8.5, bbox_to_anchor=(0.3 / _WIDTH, 1 - 0.84 / figure.get_size_inches()[1]),
        borderaxespad=0, handlelength=1.2, columnspacing=1.4, handletextpad=0.5,
    )  # fmt: skip


def _panels(
    shown: Sequence[Mixture],
    mixtures: Sequence[Mixture],
    texts: str,
    title: str,
    what: str,
    note: str,
    label: float,
    tall: Callable[[int], float],
) -> tuple[Figure, list[Axes]]:
    """A figure with a panel for each plan, two beside each other, and room for their titles."""
    count = math.ceil(len(shown) / 2)
    heights = [_HEAD + tall(row) + _UNDER for row in range(count)] or [2.0]
    foot = _FOOT + 0.15 * note.count("\n")
    height = _TOP + sum(heights) + foot
    number = f"{len(mixtures)} plan{'s' if len(mixtures) != 1 else ''}"
    if len(shown) < len(mixtures):
        number += f", of which the first {len(shown)} are shown"
    size = len(shown[0].domains.code) if shown else 0
    figure = style.new_figure(
        _WIDTH, height, title, f"{number} · {size:,} texts of “{texts}” · {what}", note
    )
    if not shown:
        charts.nothing(style.add_axes(figure, 0.3, foot, _RIGHT, _TOP), "No plan has all models.")
        return figure, []
    left = 0.45 + label
    wide = (_WIDTH - 2 * (left + _RIGHT)) / 2 if len(shown) > 1 else _WIDTH - left - 3.2
    panels, top = [], height - _TOP
    for row in range(count):
        for column in range(min(2, len(shown) - 2 * row)):
            high = tall(row)
            x, y = left + column * (wide + left + _RIGHT), top - _HEAD - high
            axes = figure.add_axes((x / _WIDTH, y / height, wide / _WIDTH, high / height))
            _title(axes, shown[2 * row + column], left)
            panels.append(axes)
        top -= heights[row]
    return figure, panels


def _title(axes: Axes, each: Mixture, left: float) -> None:
    lines = (
        (style.shorten(each.plan.name, 48), 30, 10),
        (f"{style.shorten(each.base, 30)} → {style.shorten(each.target, 30)}", 17, 8),
        (_about(each), 5, 8),
    )
    for text, high, size in lines:
        axes.annotate(
            style.literal(text), (0, 1), xytext=(-72 * (left - 0.3), high),
            xycoords="axes fraction", textcoords="offset points", size=size, va="bottom",
            color=style.INK if size == 10 else style.MUTED,
            weight="bold" if size == 10 else "normal",
        )  # fmt: skip


def _about(each: Mixture) -> str:
    """How good the mixture is, in a line."""
    if each.found.is_none:
        return each.note
    uniform = "" if math.isnan(each.cosine_uniform) else f" ({each.cosine_uniform:.2f} uniform)"
    length = f"{each.found.length:.2g}"
    probes = each.plan.directions == PROBES
    after = f"{length} probe lengths" if probes else f"a gain of {length} bits/byte"
    return (
        f"cosine {each.found.cosine:.2f}{uniform} · KL {each.kl[0]:.3g} → {each.end[0]:.3g} "
        f"expected after {after}"
    )


def _weights(axes: Axes, each: Mixture) -> None:
    known = np.array([each.plan.known.get(name, 0.0) for name in each.plan.domains])
    order = np.lexsort((np.arange(len(known)), -known, -each.found.weights))[:MOST_BARS]
    places = np.arange(len(order))
    weights, low, high = (
        100 * values[order] for values in (each.found.weights, each.low, each.high)
    )
    axes.barh(places, weights, 0.66, color=_BAR, alpha=0.85, zorder=2)
    axes.hlines(places, low, high, color=style.INK, linewidth=1.1, zorder=4)
    axes.plot(low, places, "|", color=style.INK, markersize=5, zorder=4)
    axes.plot(high, places, "|", color=style.INK, markersize=5, zorder=4)
    if each.plan.known:
        axes.plot(
            100 * known[order], places, linestyle="none", marker="D", markersize=5.5, color=_KNOWN,
            markeredgecolor="white", markeredgewidth=0.7, zorder=5, clip_on=False,
        )  # fmt: skip
    axes.set_ylim(max(len(order), 3) - 0.45, -0.55)
    reach = max(float(high.max()), float(weights.max()), 100 * float(known.max()), 10.0)
    axes.set_xlim(0, 1.05 * reach)
    names = [style.shorten(each.plan.domains[row], _LONGEST) for row in order]
    axes.set_yticks(places, [style.literal(name) for name in names], size=8)
    axes.tick_params(axis="y", length=0, labelcolor=style.INK, pad=7)
    axes.tick_params(axis="x", labelsize=7.5, length=2)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g} %")
    style.graph(axes, "x", left=False)
    if each.found.is_none:
        charts.message(axes, "No mixture leads there.")


def _path(axes: Axes, each: Mixture, colors: Sequence[str]) -> None:
    parts = _joined(each.parts, len(colors))
    if each.found.is_none:
        axes.bar([0], [each.kl[0]], 0.2, color=_JOINED)
        axes.set_xlim(-1, 1)
        axes.set_xticks([])
        charts.message(axes, "No mixture leads there.")
    else:
        axes.stackplot(
            each.lengths, parts.T, colors=list(colors), alpha=0.8, linewidth=0.4, edgecolor="white"
        )
        axes.plot(each.lengths, each.path[:, 0], color=style.INK, linewidth=1.6, zorder=4)
        axes.errorbar(
            each.lengths[[0, -1]], each.path[[0, -1], 0], yerr=each.path[[0, -1], 1], fmt="o",
            color=style.INK, markersize=4.5, capsize=2.5, elinewidth=1, zorder=5, clip_on=False,
        )  # fmt: skip
        axes.set_xlim(0, each.lengths[-1])
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.set_xlabel(f"length of the way, {length_unit(each.plan.directions)}", size=8)
    axes.set_ylim(0, 1.12 * float((each.path[:, 0] + each.path[:, 1]).max()) or 1)
    axes.tick_params(labelsize=7.5, length=2)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    style.graph(axes, "y")


def _joined(parts: Floats, count: int) -> Floats:
    """(P, count) parts of the domains that are told apart, the last for all others."""
    if parts.shape[1] <= count:
        return parts
    rest = parts[:, count - 1 :].sum(axis=1, keepdims=True)
    return np.hstack([parts[:, : count - 1], rest])
