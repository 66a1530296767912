"""What training under the mixture really did: how far from the target each model ended."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from klmap import charts, style
from klmap.log import logger
from klmap.mixture_check import BASE, FOUND, UNIFORM, Check

MOST_PLANS = 12
"""Plans that the figure has room for; the table has all."""

_WIDTH = 9.6
_TOP, _FOOT, _HEAD, _UNDER, _RIGHT = 0.9, 0.8, 0.6, 0.34, 1.9
_ROW = 0.3
_COLORS = {BASE: "#9aa4b2", UNIFORM: "#E69F00", FOUND: "#0072B2"}
_LABELS = {BASE: "base, not trained on", UNIFORM: "uniform mixture", FOUND: "mixture found"}
_NOTE = (
    "KL to the target of the base, and of the base trained on for as long as a probe under either "
    "mixture; standard errors over texts.\n"
    "Dashed: what the directions of the probes let expect there. Nearer, farther: than under the "
    "uniform mixture, with the standard error\n"
    "over the same texts. This check is klmap's own."
)


def write(folder: Path, checks: Sequence[Check], texts: int, name: str) -> None:
    """Draw ``check.png`` and ``check.svg``; ``texts`` is how many of the text set ``name``."""
    with mpl.rc_context(style.RC):
        style.save(draw(checks, texts, name), folder, "check")
    logger.info("drew %s", folder / "check")


def draw(checks: Sequence[Check], texts: int, name: str) -> Figure:
    """A panel for each plan with three bars: the base, the uniform mixture, the one found.

    Args:
        checks: what came of each plan.
        texts: how many texts.
        name: of the text set.
    """
    shown = checks[:MOST_PLANS]
    high = 3 * _ROW
    height = _TOP + max(len(shown), 1) * (_HEAD + high + _UNDER) + _FOOT
    nearer = sum(each.is_nearer for each in checks)
    title = "Whether the mixture that was found leads nearer to the target"
    subject = f"nearer than the uniform one in {nearer} of {len(checks)} plans"
    if len(shown) < len(checks):
        subject += f", of which the first {len(shown)} are shown"
    figure = style.new_figure(
        _WIDTH, height, title, f"{subject} · {texts:,} texts of “{name}” · KL in bits/byte", _NOTE
    )
    if not shown:
        charts.nothing(
            style.add_axes(figure, 0.3, _FOOT, 0.4, _TOP),
            "No plan is checked.\ncheck: true in a plan trains two models.",
        )
        return figure
    left = 0.45 + style.widest(list(_LABELS.values()), 8.5)
    wide = _WIDTH - left - _RIGHT
    for number, each in enumerate(shown):
        bottom = height - _TOP - (number + 1) * (_HEAD + high + _UNDER) + _UNDER
        axes = figure.add_axes((left / _WIDTH, bottom / height, wide / _WIDTH, high / height))
        _panel(axes, each, left)
    return figure


def _panel(axes: Axes, each: Check, left: float) -> None:
    for place, end in enumerate(each.ends):
        axes.barh(place, end.kl, 0.62, color=_COLORS[end.kind], alpha=0.85, zorder=2)
        axes.errorbar(
            end.kl, place, xerr=end.se, fmt="none", ecolor=style.INK, elinewidth=1, capsize=2.2,
            zorder=4,
        )  # fmt: skip
        if end.kind != BASE and not math.isnan(end.expected):
            axes.vlines(
                end.expected, place - 0.4, place + 0.4, color=style.INK, linewidth=1.3,
                linestyles=(0, (1.6, 1)), zorder=3,
            )  # fmt: skip
        text, reach = f"{end.kl:.3g}", end.kl + end.se
        if end.kind == FOUND:
            word = "nearer" if end.nearer[0] > 0 else "farther"
            text += f"   {word} by {abs(end.nearer[0]):.2g} ± {end.nearer[1]:.1g}"
        if end.kind != BASE and not math.isnan(end.expected):
            reach = max(reach, end.expected)
        axes.annotate(
            text, (reach, place), xytext=(6, 0), textcoords="offset points", size=8,
            va="center", color=style.INK, annotation_clip=False,
        )  # fmt: skip
    axes.set_ylim(2.55, -0.55)
    reach = max(
        value for end in each.ends for value in (end.kl + end.se, end.expected) if value == value
    )
    axes.set_xlim(0, 1.04 * reach if reach > 0 else 1)
    axes.set_yticks(range(3), [_LABELS[end.kind] for end in each.ends], size=8.5)
    axes.tick_params(axis="y", length=0, labelcolor=style.INK)
    axes.tick_params(axis="x", labelsize=7.5, length=2)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    style.graph(axes, "x", left=False)
    weights = sorted(each.weights.items(), key=lambda item: (-item[1], item[0]))
    mixture = ", ".join(
        f"{style.shorten(domain, 20)} {100 * weight:.0f} %"
        for domain, weight in weights[:5]
        if weight >= 0.005
    )
    mixture += ", ..." if sum(weight >= 0.005 for _, weight in weights) > 5 else ""
    lines = (
        (style.shorten(each.plan, 60), 18, 10),
        (f"{style.shorten(each.base, 30)} → {style.shorten(each.target, 30)}: {mixture}", 5, 8),
    )
    for text, up, size in lines:
        axes.annotate(
            style.literal(text), (0, 1), xytext=(-72 * (left - 0.3), up),
            xycoords="axes fraction", textcoords="offset points", size=size, va="bottom",
            color=style.INK if size == 10 else style.MUTED,
            weight="bold" if size == 10 else "normal",
        )  # fmt: skip
