"""Estimated KLs against exact ones, pair by pair."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from klmap import charts, pair_charts, style
from klmap.log import logger
from klmap.true_kl import ESTIMATES, RELATIONS, Pair, Summary, TrueKl

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
    noisy = any(_is_below(pair, "map") for pair in shown[first])
    handles = pair_charts.legend(
        [pair.relation for pair in known],
        "below numerical noise" if noisy else None,
        "estimate = exact KL",
    )
    charts.titled(figure, handles, "pairs", 1 - (_LEGEND - 0.2) / _WIDTH, top)
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
    pair_charts.diagonal(axes, limits)
    many = len(pairs) >= pair_charts.MANY
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
            across, up = np.array([[pair.true.se, pair.estimates[place].se] for pair in some]).T
            color = pair_charts.COLORS[relation]
            pair_charts.bars(axes, x, y, (across, up), color, many)
            axes.plot(
                x, y, pair_charts.MARKERS[relation], markersize=3.5 if many else 6, zorder=3,
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
        f"correlation {pair_charts.in_words(row.pearson_log)} of logarithms, "
        f"{pair_charts.in_words(row.spearman)} of ranks",
    ]
    if row.pairs:
        middle, low, high = (f"{value:.3g}" for value in row.quartiles)
        lines.insert(0, f"median {middle} times the exact KL (quartiles {low} and {high})")
    pair_charts.below_title(axes, "\n".join(lines))
