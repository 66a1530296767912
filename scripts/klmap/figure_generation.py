"""Estimated KLs, and MAUVE, against KLs of texts that models write themselves."""

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
from klmap.generation import Generation, Pair, Summary
from klmap.log import logger
from klmap.store_samples import TEXT
from klmap.true_kl import RELATIONS

TITLES = {
    "map": "The estimate of the map",
    "own": "The same on what the models wrote",
    "mauve": "MAUVE",
}
"""Of the panels."""

LABELS = {
    "map": "estimated KL, bits/byte",
    "own": "estimated KL on samples, bits/byte",
    "mauve": "MAUVE, 1 where texts are alike",
}
"""Of their vertical axes."""

_TITLE: dict[str, Any] = {"size": 10, "loc": "left", "pad": 30, "weight": "bold"}
_SIDE, _LEGEND = 3.75, 2.5
_LEFT, _BOTTOM, _TOP, _GAP, _LINE = 0.8, 0.85, 1.5, 0.9, 0.14
_NOTE = (
    "Across: mean of log p - log q over responses that p wrote, mean of both directions.\n"
    "Map: half the variance over the text set of the difference of two log-likelihoods; on what "
    "the models wrote: over the responses of one model, mean of both (klmap's own).\n"
    "Bars: standard errors, of samples by a jackknife over prompts. Brackets: 95 % of bootstrap "
    "samples of the pairs. Left out: what is not above 0."
)
_NOTE_MAUVE = (
    "\nMAUVE (Pillutla et al. 2021): from hidden states of the first model of a pair (klmap's own)."
    " With some hundred texts of each model it is a coarse number."
)


def write(folder: Path, found: Generation, texts: str) -> None:
    """Draw ``generation.png`` and ``generation.svg``; ``texts`` is the name of the text set."""
    with mpl.rc_context(style.RC):
        style.save(draw(found, texts), folder, "generation")
    logger.info("drew %s", folder / "generation")


def draw(found: Generation, texts: str) -> Figure:
    """Panels of what stands beside the KL from samples.

    Args:
        found: the comparison.
        texts: name of the text set.
    """
    known = found.known
    panels = [name for name in TITLES if any(_is_shown(pair, name) for pair in known)]
    count = max(len(panels), 2)
    width = _LEFT + count * _SIDE + (count - 1) * _GAP + _LEGEND
    note = _NOTE + (_NOTE_MAUVE if "mauve" in panels else "")
    bottom = _BOTTOM + _LINE * note.count("\n")
    height = bottom + _SIDE + _TOP
    figure = style.new_figure(
        width, height, "Estimated KL against the KL of what models write",
        _subject(found, texts), note,
    )  # fmt: skip
    if not panels:
        axes = style.add_axes(figure, _LEFT, bottom, _LEGEND, _TOP)
        charts.nothing(axes, "No pair of models has samples with a KL above zero.")
        return figure
    limits = _limits(known, panels)
    for place, name in enumerate(panels):
        left = _LEFT + place * (_SIDE + _GAP)
        axes = style.add_axes(figure, left, bottom, width - left - _SIDE, _TOP)
        axes.set_title(TITLES[name], **_TITLE)
        _panel(axes, [pair for pair in known if _is_shown(pair, name)], name, limits)
        _corner(axes, found.summary(name))
    left = 1 - (_LEGEND - 0.25) / width
    as_text = any(pair.scored_as == TEXT for pair in known)
    handles = pair_charts.legend(
        [pair.relation for pair in known],
        "two vocabularies:\nsamples read as text" if as_text else None,
        "estimate = KL from samples" if {*panels} - {"mauve"} else None,
    )
    charts.titled(figure, handles, "pairs", left, 1 - _TOP / height)
    return figure


def _subject(found: Generation, texts: str) -> str:
    known = found.known
    failed = len(found.pairs) - len(known)
    prompts = max((pair.prompts for pair in known), default=0)
    samples = sum(pair.samples for pair in known)
    subject = (
        f"{len(known):,} pair{'s' if len(known) != 1 else ''} of models · {samples:,} responses to "
        f"{prompts:,} of {found.of:,} prompts of “{texts}” · bits/byte"
    )
    return subject + (f" · {failed:,} without samples, see generation.tsv" if failed else "")


def _is_shown(pair: Pair, name: str) -> bool:
    """Whether a pair has a place on logarithmic axes."""
    return pair.sampled.bits.kl > 0 and pair.quantity(name) > 0


def _limits(pairs: Sequence[Pair], panels: Sequence[str]) -> tuple[float, float]:
    """The range of all axes that show KLs, so that the diagonal is one."""
    values = [
        value
        for pair in pairs
        for name in panels
        if _is_shown(pair, name)
        for value in (pair.sampled.bits.kl, pair.quantity(name) if name != "mauve" else math.nan)
        if not math.isnan(value)
    ]
    return min(values) / 1.8, max(values) * 1.8


def _panel(axes: Axes, pairs: Sequence[Pair], name: str, limits: tuple[float, float]) -> None:
    """One quantity against the KL from samples."""
    if name != "mauve":
        pair_charts.diagonal(axes, limits)
    many = len(pairs) >= pair_charts.MANY
    for relation in RELATIONS:
        for hollow in (False, True):
            some = [
                pair for pair in pairs
                if pair.relation == relation and (pair.scored_as == TEXT) == hollow
            ]  # fmt: skip
            if some:
                _points(axes, some, name, pair_charts.COLORS[relation], hollow, many)
    axes.set_xscale("log")
    axes.set_xlim(*limits)
    axes.set_xlabel("KL from samples, bits/byte", size=8.5)
    axes.set_ylabel(LABELS[name], size=8.5)
    if name == "mauve":
        lowest = max(math.floor(10 * min(pair.mauve for pair in pairs) - 0.5) / 10, 0)
        margin = 0.03 * (1 - lowest)
        axes.set_ylim(lowest - margin, 1 + margin)
    else:
        axes.set_yscale("log")
        axes.set_ylim(*limits)
    if limits[1] / limits[0] < 1e3:
        style.decade_axis(axes.xaxis)
        if name != "mauve":
            style.decade_axis(axes.yaxis)
    axes.tick_params(labelsize=7.5, length=2, which="both")
    style.graph(axes)


def _points(
    axes: Axes, pairs: Sequence[Pair], name: str, color: str, hollow: bool, many: bool
) -> None:
    """Pairs that look alike, with their error bars."""
    x = np.array([pair.sampled.bits.kl for pair in pairs])
    y = np.array([pair.quantity(name) for pair in pairs])
    across = np.array([pair.sampled.bits.se for pair in pairs])
    up = np.array([_error(pair, name) for pair in pairs])
    pair_charts.bars(axes, x, y, (np.nan_to_num(across), np.nan_to_num(up)), color, many)
    axes.plot(
        x, y, pair_charts.MARKERS[pairs[0].relation], markersize=3.5 if many else 6.5, zorder=3,
        markerfacecolor="white" if hollow else color,
        markeredgecolor=color if hollow else "white",
        markeredgewidth=(0.6 if many else 1.2) if hollow else (0.3 if many else 0.8),
        alpha=0.7 if many else 1.0,
    )  # fmt: skip


def _error(pair: Pair, name: str) -> float:
    """Standard error of what stands on the vertical axis; NaN where there is none."""
    return {"map": pair.estimate.bits.se, "own": pair.own.bits.se}.get(name, math.nan)


def _corner(axes: Axes, row: Summary) -> None:
    """The correlations with their intervals, below the title of a panel."""
    if row.quantity == "mauve":
        count = f"{row.pairs:,} pair{'s' if row.pairs != 1 else ''}"
        lines = f"{count}\ncorrelation of ranks {pair_charts.in_words(row.spearman)}"
    else:
        lines = (
            f"correlation of logarithms {pair_charts.in_words(row.pearson_log)}\n"
            f"of ranks {pair_charts.in_words(row.spearman)}"
        )
    pair_charts.below_title(axes, lines)
