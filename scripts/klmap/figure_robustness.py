"""How far distances depend on the texts: halves, domains left out, few texts, other text sets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from klmap import charts, style
from klmap.log import logger
from klmap.robustness import LeftOut, Robustness
from klmap.text_sets import Other

MOST_ROWS = 16
"""Domains, and text sets, that the figure has room for; the tables have all."""

_WIDTH = 11.0
_LEFT = 4.85
_TOP, _FOOT, _GAP = 1.4, 1.25, 1.2
_ROW, _AIRY = 0.235, 0.36
_LONGEST = 24
_DASHED = (0, (2.5, 1.5))
_RANK, _KEPT, _OTHER = "#0072B2", "#D55E00", "#009E73"
_PALE = {_RANK: "#9cc7e4", _KEPT: "#f0b48f"}
_TITLE: dict[str, Any] = {"size": 10, "loc": "left", "pad": 24, "weight": "bold"}


@dataclass(frozen=True)
class _Series:
    """One measure of every row of a panel; NaN where there is none."""

    label: str
    color: str
    marker: str
    values: Sequence[float]


def write(folder: Path, found: Robustness, texts: str) -> None:
    """Draw ``robustness.png`` and ``robustness.svg``; ``texts`` is the name of the text set."""
    with mpl.rc_context(style.RC):
        style.save(draw(found, texts), folder, "robustness")
    logger.info("drew %s", folder / "robustness")


def draw(found: Robustness, texts: str) -> Figure:
    """Four panels: halves, domains left out, numbers of texts, other text sets.

    Args:
        found: what was measured.
        texts: name of the text set.
    """
    domains, others = _worst(found.domains), found.others[:MOST_ROWS]
    above = max(2.3, _ROW * len(domains) + 0.3)
    below = max(2.9, _ROW * len(others) + 0.3)
    height = _TOP + above + _GAP + below + _FOOT
    count = f"{found.models:,} model{'s' if found.models != 1 else ''}"
    if found.models < found.of:
        count += f" of {found.of:,}, drawn at random"
    figure = style.new_figure(
        _WIDTH,
        height,
        "How far distances depend on the texts",
        f"{count} · {found.texts:,} texts of “{texts}” · KL of all pairs of models, bits/byte",
        "Left: two halves against each other, and fewer texts against all. Right: all texts but "
        "one domain's against all, and other sets on the models that both have.\n"
        "Neighbours: of each model's nearest models, the share that is nearest by the other texts "
        "as well. Correlations are over pairs of models.\n"
        "Each part of the texts has its own centring. Pale: as many random texts left out, in "
        "place of the domain's. Dashed: what the standard errors of the KLs\n"
        "expect, which assume that errors are normal. All four are klmap's own ways to ask what "
        "other texts would change.",
    )
    right = style.widest([*(_domain(item) for item in domains), *map(_set, others)], 8)
    right = _LEFT + 0.85 + max(right, 0.6)
    upper, lower = height - _TOP, _FOOT + below
    left = 0.45 + style.widest(["neighbours kept"], 8)

    def place(side: float, wide: float, top: float, high: float) -> Axes:
        bottom = (top - high) / height
        return figure.add_axes((side / _WIDTH, bottom, wide / _WIDTH, high / height))

    wide, far = _LEFT - left, _WIDTH - right - 0.4
    _halves(place(left, wide, upper, above), found)
    _domains(place(right, far, upper, _high(len(domains), above)), found, domains)
    _numbers(place(left, wide, lower, below), found)
    _others(place(right, far, lower, _high(len(others), below)), found, others)
    return figure


def _high(rows: int, most: float) -> float:
    """Inches of a panel of so many rows; few of them stand close together."""
    return min(max(_AIRY * rows, 3 * _AIRY), most)


def _halves(axes: Axes, found: Robustness) -> None:
    axes.set_title("Random halves of the texts", **_TITLE)
    agreements = [half.agreement for half in found.halves]
    series = [
        _Series("rank correlation", _RANK, "o", [item.spearman for item in agreements]),
        _Series("correlation", _OTHER, "s", [item.pearson for item in agreements]),
        _Series("neighbours kept", _KEPT, "D", [item.neighbors for item in agreements]),
    ]
    known = [
        (item, values) for item in series if (values := [v for v in item.values if v == v])
    ]  # NaN alone differs from itself.
    if not known:
        charts.nothing(axes, _too_few(found))
        return
    rng = np.random.default_rng(0)
    for row, (item, values) in enumerate(known):
        heights = row + rng.uniform(-0.24, 0.24, len(values))
        axes.plot(
            values, heights, item.marker, color=item.color, markersize=4, alpha=0.45,
            markeredgewidth=0, zorder=2,
        )  # fmt: skip
        middle = float(np.median(values))
        axes.plot([middle] * 2, [row - 0.33, row + 0.33], color=style.INK, linewidth=1.4, zorder=3)
        axes.annotate(
            f"{middle:.3f}", (middle, row - 0.33), xytext=(0, 2), textcoords="offset points",
            ha="center", va="bottom", size=8,
        )  # fmt: skip
    _rows(axes, [item.label for item, _ in known], [v for _, some in known for v in some])
    axes.annotate(
        f"{len(agreements)} divisions; black: their median", (0, 1), xytext=(0, 8),
        xycoords="axes fraction", textcoords="offset points", size=8, color=style.INK, va="bottom",
    )  # fmt: skip
    medians = [item.median for item in agreements if not math.isnan(item.median)]
    if medians:
        percent = 100 * float(np.median(medians))
        words = f"The KLs of the middle pair differ by {percent:.2g} % of their mean."
        axes.set_xlabel(words, size=8)


def _worst(domains: Sequence[LeftOut]) -> list[LeftOut]:
    """The domains whose absence changes most, those first."""
    return sorted(domains, key=_loss)[:MOST_ROWS]


def _loss(item: LeftOut) -> tuple[float, float]:
    """What is left of the agreement without a domain; unknown counts as all of it."""
    ranks, neighbors = item.agreement.spearman, item.agreement.neighbors
    return (1.0 if math.isnan(ranks) else ranks, 1.0 if math.isnan(neighbors) else neighbors)


def _domain(item: LeftOut) -> str:
    return f"{style.shorten(item.domain, _LONGEST)}  {item.texts:,}"


def _domains(axes: Axes, found: Robustness, shown: Sequence[LeftOut]) -> None:
    _titled(axes, "One domain left out", len(shown), len(found.domains))
    if not shown:
        charts.nothing(axes, "All texts are of one domain.\nNone can be left out.")
        return
    series = [
        _Series("rank correlation", _RANK, "o", [item.agreement.spearman for item in shown]),
        _Series("neighbours kept", _KEPT, "D", [item.agreement.neighbors for item in shown]),
    ]
    random = [
        _Series("", _PALE[_RANK], "|", [item.spearman for item in shown]),
        _Series("", _PALE[_KEPT], "|", [item.neighbors for item in shown]),
    ]
    _dots(axes, [_domain(item) for item in shown], series, random, _too_few(found))


def _titled(axes: Axes, title: str, shown: int, everything: int) -> None:
    axes.set_title(title + (f" ({shown} of {everything})" if shown < everything else ""), **_TITLE)


def _set(item: Other) -> str:
    return f"{style.shorten(item.name, _LONGEST)}  {item.models:,}"


def _others(axes: Axes, found: Robustness, shown: Sequence[Other]) -> None:
    _titled(axes, "Other text sets", len(shown), len(found.others))
    if not shown:
        reason = "This is the only text set in config.yaml.\nA second one can be compared."
        charts.nothing(axes, reason)
        return
    series = [
        _Series("Mantel", _RANK, "o", [item.mantel.value for item in shown]),
        _Series("Procrustes", _OTHER, "s", [item.procrustes.value for item in shown]),
        _Series("neighbours kept", _KEPT, "D", [item.neighbors for item in shown]),
    ]
    _dots(axes, [_set(item) for item in shown], series, [], "Too few models are on both maps.")
    tests = [test.p for item in shown for test in (item.mantel, item.procrustes)]
    known = [p for p in tests if not math.isnan(p)]
    if known:
        axes.set_xlabel(f"Permutation tests: p at most {max(known):.3f}.", size=8)


def _dots(
    axes: Axes, names: Sequence[str], series: Sequence[_Series], random: Sequence[_Series],
    otherwise: str,
) -> None:  # fmt: skip
    """Rows of dots, one of each series, beside their names."""
    values = [v for item in [*series, *random] for v in item.values if not math.isnan(v)]
    if not values:
        charts.nothing(axes, otherwise)
        return
    for item in random:
        axes.plot(
            item.values, range(len(names)), item.marker, color=item.color, markersize=9,
            markeredgewidth=1.6, zorder=2,
        )  # fmt: skip
    for item in series:
        axes.plot(
            item.values, range(len(names)), item.marker, color=item.color, markersize=6,
            markeredgecolor="white", markeredgewidth=0.6, label=item.label, zorder=3,
        )  # fmt: skip
    _rows(axes, names, values)
    _legend(axes)


def _legend(axes: Axes) -> None:
    """In one line between the title and the panel."""
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=4, fontsize=8, handletextpad=0.3,
        columnspacing=1.4, borderaxespad=0.2, borderpad=0.2,
    )  # fmt: skip


def _rows(axes: Axes, names: Sequence[str], values: Sequence[float]) -> None:
    """Names beside rows from the top, and an axis of shares that ends at 1."""
    low = min(min(values), 0.99)
    axes.set_xlim(low - 0.06 * (1 - low), 1 + 0.04 * (1 - low))
    axes.set_ylim(max(len(names), 2) - 0.4, -0.6)
    axes.set_yticks(range(len(names)), [style.literal(name) for name in names], size=8)
    axes.tick_params(axis="y", length=0, labelcolor=style.INK)
    axes.tick_params(axis="x", labelsize=7.5, length=2)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    style.graph(axes, left=False)


def _numbers(axes: Axes, found: Robustness) -> None:
    axes.set_title("Fewer texts, against all", **_TITLE)
    shown = [item for item in found.numbers if item.median > 0]
    if not shown:
        few = "There are too few texts to leave some out."
        charts.nothing(axes, few if found.texts < 4 else _too_few(found))
        return
    texts = [item.texts for item in shown]
    for color, marker, label, values, expected in (
        (_KEPT, "D", "9 of 10 pairs", [i.q90 for i in shown], [i.expected_q90 for i in shown]),
        (_RANK, "o", "half of the pairs", [i.median for i in shown],
         [i.expected_median for i in shown]),
    ):  # fmt: skip
        axes.plot(
            texts, values, color=color, marker=marker, markersize=5.5, markeredgecolor="white",
            markeredgewidth=0.6, linewidth=1.5, label=label, zorder=3,
        )  # fmt: skip
        axes.plot(texts, expected, color=color, linewidth=1.1, linestyle=_DASHED, zorder=2)
    axes.set_xscale("log")
    axes.set_yscale("log")
    style.decade_axis(axes.xaxis)
    style.decade_axis(axes.yaxis)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    axes.tick_params(labelsize=7.5, length=2)
    axes.set_xlabel("number of texts", size=8.5)
    axes.set_ylabel("error of the KL is below", size=8.5)
    axes.plot([], [], color=style.MUTED, linestyle=_DASHED, linewidth=1.1, label="expected")
    _legend(axes)
    style.graph(axes)
    _kept(axes, found)


def _kept(axes: Axes, found: Robustness) -> None:
    """Neighbours kept, in figures along the upper edge."""
    shown = [item for item in found.numbers if not math.isnan(item.neighbors)]
    if not shown:
        return
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * (high / low) ** 0.14)
    for item in shown:
        axes.annotate(
            f"{100 * item.neighbors:.0f}", (item.texts, 1), xytext=(0, -13),
            xycoords=("data", "axes fraction"), textcoords="offset points", size=8,
            color=style.INK, ha="center", va="top",
        )  # fmt: skip
    axes.annotate(
        "neighbours kept, %", (0, 1), xytext=(3, -2), xycoords="axes fraction",
        textcoords="offset points", size=7.5, color=style.MUTED, va="top",
    )  # fmt: skip


def _too_few(found: Robustness) -> str:
    if found.models < 3:
        return f"{found.models} model{'s have' if found.models != 1 else ' has'} too few distances."
    return "All models are alike, or there are too few texts."
