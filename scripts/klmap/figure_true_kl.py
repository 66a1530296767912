"""Estimated KLs against exact ones, pair by pair."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from klmap import charts, style
from klmap.log import logger
from klmap.true_kl import (
    CHECKPOINTS,
    ESTIMATES,
    OTHER,
    QUANTIZED,
    RELATIONS,
    TUNED,
    Correlation,
    Pair,
    Summary,
    TrueKl,
)

NAMES = {
    QUANTIZED: "two precisions of one",
    CHECKPOINTS: "checkpoints of one run",
    TUNED: "parent and child",
    OTHER: "other pairs",
}
"""Of the relations, in the legend."""

COLORS = {QUANTIZED: "#0072B2", CHECKPOINTS: "#E69F00", TUNED: "#009E73", OTHER: "#882255"}
"""Told apart without colour vision, and by their marks."""

MANY = 150
"""From so many pairs on points are small, and bars pale."""

_MARKERS = {QUANTIZED: "s", CHECKPOINTS: "o", TUNED: "^", OTHER: "D"}
_BAND = "#e5e7eb"
_FACTOR = 2.0
_TITLE: dict[str, Any] = {"size": 10, "loc": "left", "pad": 30, "weight": "bold"}
_WIDTH, _HEIGHT, _LEGEND = 11.7, 6.65, 2.45
_LEFT, _BOTTOM, _TOP, _GAP = 0.8, 1.4, 1.5, 0.95
_NOTE = (
    "Exact: KL of the distributions of the next token over the whole vocabulary, summed over the "
    "tokens of a text; mean over texts and both directions. Left: half the\n"
    "variance over texts of the difference of two log-likelihoods (Oyama et al. 2025). It is that "
    "KL to second order for texts as the models themselves write them. In real\n"
    "ones, what two models differ by at one token and at the next goes together and adds up. "
    "Right: that left out, half the sum of the squared differences at each token.\n"
    "Bars: standard errors over texts. Brackets: 95 % of bootstrap samples of the pairs. The check "
    "is klmap's own."
)


def write(folder: Path, found: TrueKl, texts: str) -> None:
    """Draw ``true_kl.png`` and ``true_kl.svg``; ``texts`` is the name of the text set."""
    with mpl.rc_context(style.RC):
        style.save(draw(found, texts), folder, "true_kl")
    logger.info("drew %s", folder / "true_kl")


def draw(found: TrueKl, texts: str) -> Figure:
    """Two panels: the estimate of the map, and that of tokens one by one, against the exact KL.

    Args:
        found: the comparison.
        texts: name of the text set.
    """
    known = found.known
    failed = len(found.pairs) - len(known)
    subject = (
        f"{len(known):,} pair{'s' if len(known) != 1 else ''} of models with one vocabulary · "
        f"exact KL on {found.texts:,} of {found.of:,} texts of “{texts}” · bits/byte"
    )
    if failed:
        subject += f" · {failed:,} without an exact KL, see true_kl.tsv"
    figure = style.new_figure(
        _WIDTH, _HEIGHT, "Estimated KL against the exact KL per token", subject, _NOTE
    )
    wide = (_WIDTH - _LEGEND - _LEFT - _GAP) / 2
    left = style.add_axes(figure, _LEFT, _BOTTOM, _WIDTH - _LEFT - wide, _TOP)
    right = style.add_axes(figure, _LEFT + wide + _GAP, _BOTTOM, _LEGEND, _TOP)
    # A pair whose score is missing has no estimate on the map.
    first = "map" if found.summary("map").pairs else "same"
    shown = {name: _shown(known, name) for name in (first, "tokens")}
    if not any(shown.values()):
        charts.nothing(left, "No pair has an exact KL above zero.")
        right.set_axis_off()
        return figure
    limits = _limits([pair for some in shown.values() for pair in some], tuple(shown))
    whole = "The estimate of the map" if first == "map" else "The estimate by the same texts"
    titles = (whole, "Each token by itself")
    for axes, title, name in zip((left, right), titles, shown, strict=True):
        axes.set_title(title, **_TITLE)
        _panel(axes, shown[name], name, limits)
        _corner(axes, found.summary(name))
    left.set_ylabel("estimated KL, bits/byte", size=8.5)
    right.set_ylabel("estimated KL, tokens by themselves, bits/byte", size=8.5)
    top = 1 - _TOP / _HEIGHT
    charts.titled(figure, _handles(known, shown[first]), "pairs", 1 - (_LEGEND - 0.2) / _WIDTH, top)
    return figure


def _shown(pairs: Sequence[Pair], name: str) -> list[Pair]:
    """The pairs that two logarithmic axes can show."""
    return [pair for pair in pairs if not math.isnan(pair.ratio(name))]


def _limits(pairs: Sequence[Pair], names: Sequence[str]) -> tuple[float, float]:
    """The range of both axes of both panels: one for all, so that the diagonal is one."""
    values = [pair.true.kl for pair in pairs]
    values += [
        pair.estimates[ESTIMATES.index(name)].kl
        for pair in pairs
        for name in names
        if not math.isnan(pair.ratio(name))
    ]
    return min(values) / 1.8, max(values) * 1.8


def _panel(axes: Axes, pairs: Sequence[Pair], name: str, limits: tuple[float, float]) -> None:
    """One estimate against the exact KL."""
    ends = np.array(limits)
    axes.fill_between(ends, ends / _FACTOR, ends * _FACTOR, color=_BAND, linewidth=0, zorder=0)
    axes.plot(ends, ends, color=style.MUTED, linewidth=1, zorder=1)
    many = len(pairs) >= MANY
    place = ESTIMATES.index(name)
    for relation in RELATIONS:
        for hollow in (False, True):
            some = [
                pair for pair in pairs
                if pair.relation == relation and _is_below(pair, name) == hollow
            ]  # fmt: skip
            if not some:
                continue
            x = np.array([pair.true.kl for pair in some])
            y = np.array([pair.estimates[place].kl for pair in some])
            errors = np.array([[pair.true.se, pair.estimates[place].se] for pair in some]).T
            # On a logarithmic axis a bar that reaches 0 would have no end.
            bars = [[np.minimum(e, 0.95 * v), e] for v, e in zip((x, y), errors, strict=True)]
            color = COLORS[relation]
            axes.errorbar(
                x, y, xerr=bars[0], yerr=bars[1], fmt="none", ecolor=color, zorder=2,
                elinewidth=0.6 if many else 1.0, alpha=0.2 if many else 0.6,
            )  # fmt: skip
            axes.plot(
                x, y, _MARKERS[relation], markersize=3.5 if many else 6, zorder=3,
                markerfacecolor="white" if hollow else color,
                markeredgecolor=color if hollow else "white",
                markeredgewidth=0.3 if many and not hollow else 0.8,
                alpha=0.7 if many else 1.0,
            )  # fmt: skip
    for axis, scale, limit in (
        (axes.xaxis, axes.set_xscale, axes.set_xlim),
        (axes.yaxis, axes.set_yscale, axes.set_ylim),
    ):
        scale("log")
        limit(*limits)
        if limits[1] / limits[0] < 1e3:
            style.decade_axis(axis)
    axes.set_xlabel("exact KL, bits/byte", size=8.5)
    axes.tick_params(labelsize=7.5, length=2, which="both")
    style.graph(axes)


def _is_below(pair: Pair, name: str) -> bool:
    """Whether the numerical errors of the two scores alone would give such an estimate."""
    return name == "map" and pair.estimates[ESTIMATES.index(name)].kl < pair.noise_floor


def _corner(axes: Axes, row: Summary) -> None:
    """The correlations with their intervals, and the ratio, below the title of a panel."""
    lines = [
        f"correlation {_words(row.pearson_log)} of logarithms, {_words(row.spearman)} of ranks",
    ]
    if row.pairs:
        middle, low, high = (f"{value:.3g}" for value in row.quartiles)
        lines.insert(0, f"median {middle} times the exact KL (quartiles {low} and {high})")
    axes.annotate(
        "\n".join(lines), (0, 1), xytext=(0, 4), xycoords="axes fraction",
        textcoords="offset points", size=7, color=style.MUTED, va="bottom", linespacing=1.35,
    )  # fmt: skip


def _words(item: Correlation) -> str:
    if math.isnan(item.value):
        return "unknown"
    if math.isnan(item.low):
        return f"{item.value:.3f}"
    return f"{item.value:.3f} [{item.low:.3f}, {item.high:.3f}]"


def _handles(pairs: Sequence[Pair], shown: Sequence[Pair]) -> list[Artist]:
    """The relations that are drawn, and what else there is to see."""
    entries: list[Artist] = []
    for relation in RELATIONS:
        count = sum(pair.relation == relation for pair in pairs)
        if count:
            entries.append(
                Line2D(
                    [], [], linestyle="none", marker=_MARKERS[relation], markersize=6.5,
                    color=COLORS[relation], markeredgecolor="white", markeredgewidth=0.5,
                    label=f"{NAMES[relation]}  {count:,}",
                )
            )  # fmt: skip
    if any(_is_below(pair, "map") for pair in shown):
        entries.append(
            Line2D(
                [], [], linestyle="none", marker="o", markersize=6, markerfacecolor="white",
                markeredgecolor=style.INK, label="below numerical noise",
            )
        )  # fmt: skip
    entries.append(Line2D([], [], color=style.MUTED, linewidth=1, label="estimate = exact KL"))
    entries.append(Patch(color=_BAND, label="within a factor of 2"))
    return entries
