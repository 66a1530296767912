"""What figures of pairs of models have in common: one KL against another, by relation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from klmap import style
from klmap.arrays import Floats
from klmap.true_kl import CHECKPOINTS, OTHER, QUANTIZED, RELATIONS, TUNED, Correlation

NAMES = {
    QUANTIZED: "two precisions of one",
    CHECKPOINTS: "checkpoints of one run",
    TUNED: "parent and child",
    OTHER: "other pairs",
}
"""Of the relations, in the legend."""

COLORS = {QUANTIZED: "#0072B2", CHECKPOINTS: "#E69F00", TUNED: "#009E73", OTHER: "#882255"}
"""Told apart without colour vision, and by their marks."""

MARKERS = {QUANTIZED: "s", CHECKPOINTS: "o", TUNED: "^", OTHER: "D"}

MANY = 150
"""From so many pairs on points are small, and bars pale."""

_BAND = "#e5e7eb"
_FACTOR = 2.0


def diagonal(axes: Axes, limits: tuple[float, float]) -> None:
    """Where both KLs are equal, and where they are so within a factor of 2."""
    ends = np.array(limits)
    axes.fill_between(ends, ends / _FACTOR, ends * _FACTOR, color=_BAND, linewidth=0, zorder=0)
    axes.plot(ends, ends, color=style.MUTED, linewidth=1, zorder=1)


def bars(
    axes: Axes, x: Floats, y: Floats, errors: tuple[Floats, Floats], color: str, many: bool
) -> None:
    """Standard errors of points on two logarithmic axes.

    Args:
        axes: where to draw.
        x: (n,) across.
        y: (n,) up.
        errors: (n,) of either, not negative.
        color: of the bars.
        many: whether they are pale.
    """
    # On a logarithmic axis a bar that reaches 0 would have no end.
    across, up = (
        [np.minimum(error, 0.95 * values), error]
        for values, error in zip((x, y), errors, strict=True)
    )
    axes.errorbar(
        x, y, xerr=across, yerr=up, fmt="none", ecolor=color, zorder=2,
        elinewidth=0.6 if many else 1.0, alpha=0.2 if many else 0.6,
    )  # fmt: skip


def below_title(axes: Axes, lines: str) -> None:
    """A few words in small print between the title of a panel and its axes."""
    axes.annotate(
        lines, (0, 1), xytext=(0, 4), xycoords="axes fraction",
        textcoords="offset points", size=7, color=style.MUTED, va="bottom", linespacing=1.35,
    )  # fmt: skip


def in_words(item: Correlation) -> str:
    """A correlation with its interval, as far as they are known."""
    if math.isnan(item.value):
        return "unknown"
    if math.isnan(item.low):
        return f"{item.value:.3f}"
    return f"{item.value:.3f} [{item.low:.3f}, {item.high:.3f}]"


def legend(relations: Sequence[str], hollow: str | None, diagonal: str | None) -> list[Artist]:
    """Entries of a legend.

    Args:
        relations: of the pairs; those that there are have an entry with their number.
        hollow: what points without a filling are; None where there are none.
        diagonal: what holds on the diagonal; None where none is drawn.
    """
    entries: list[Artist] = []
    for relation in RELATIONS:
        count = sum(each == relation for each in relations)
        if count:
            entries.append(
                Line2D(
                    [], [], linestyle="none", marker=MARKERS[relation], markersize=6.5,
                    color=COLORS[relation], markeredgecolor="white", markeredgewidth=0.5,
                    label=f"{NAMES[relation]}  {count:,}",
                )
            )  # fmt: skip
    if hollow is not None:
        entries.append(
            Line2D(
                [], [], linestyle="none", marker="o", markersize=6, markerfacecolor="white",
                markeredgecolor=style.INK, label=hollow,
            )
        )  # fmt: skip
    if diagonal is not None:
        entries.append(Line2D([], [], color=style.MUTED, linewidth=1, label=diagonal))
        entries.append(Patch(color=_BAND, label="within a factor of 2"))
    return entries
