"""What edits of the prompt do: sizes of the shifts, gains, directions and domains."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from klmap import charts, clouds, style
from klmap.arrays import Floats
from klmap.log import logger
from klmap.prompt_directions import Cosine
from klmap.prompt_edits import Edited
from klmap.prompt_tables import SURE, coherence
from klmap.prompts import Edit

MOST_EDITS = 16
"""Edits that the figure has room for; the tables have all."""

MOST_DOTS = 150
"""Models up to which each is a dot; of more, their density is drawn."""

MOST_DOMAINS = 12
"""Domains that the figure has room for; the table has all."""

_HEADING = "What edits of the prompt do"
_WIDTH, _TOP, _FOOT, _GAP = 11.0, 1.4, 1.0, 0.3
_AXIS, _SLOPE = 0.55, 0.6
_LINE = 168
_TITLE: dict[str, Any] = {"size": 10, "loc": "left", "weight": "bold", "pad": 8}
_BLUE = "#0072B2"
_CHANCE = 0.5


def write(
    folder: Path, some: Edited, edits: Sequence[Edit], cosines: Sequence[Cosine], texts: str
) -> None:
    """Draw ``edits``, PNG and SVG; ``texts`` is the name of the text set."""
    with mpl.rc_context(style.RC):
        style.save(draw(some, edits, cosines, texts), folder, "edits")
    logger.info("drew %s", folder / "edits")


def draw(some: Edited, edits: Sequence[Edit], cosines: Sequence[Cosine], texts: str) -> Figure:
    """Sizes, gains, cosines of directions, and the domains that carry the shifts.

    Args:
        some: the models and edits.
        edits: what was measured of each edit.
        cosines: of all pairs of edits.
        texts: name of the text set.
    """
    shown = list(edits[:MOST_EDITS])
    names = [style.shorten(edit.name, 24) for edit in shown]
    rows = len(shown)
    row = 0.46 if rows <= 4 else 0.38 if rows <= 8 else 0.3
    tall = max(row * rows, 0.9)
    side = tall if rows > 1 else 0.0
    domains = _largest(shown)
    domains = domains if len(domains) > 1 else []
    margin = 0.4 + style.widest(names, 9)
    under = max(_AXIS, 0.15 + _SLOPE * style.widest(names, 8)) if side else _AXIS
    turned = 0.15 + _SLOPE * style.widest([_domain(some, n) for n in domains], 8)
    low = _FOOT + max(turned, _AXIS - 0.1)
    height = _TOP + tall + under + 0.4 + tall + low
    left = _WIDTH - margin - 0.75 - side - (_GAP if side else 0)
    figure = style.new_figure(
        _WIDTH, height, _HEADING, _subject(some, texts, len(shown) < len(edits)), _note(shown)
    )

    def axes(begin: float, wide: float, bottom: float) -> Axes:
        right, top = _WIDTH - begin - wide, height - bottom - tall
        return style.add_axes(figure, begin, bottom, right, top)

    above = height - _TOP - tall
    sizes, gains = 0.57 * left, 0.43 * left - 0.62
    each, legend = style.categories([model.family for model in some.found.models])
    _sizes(axes(margin, sizes, above), shown, names, each)
    _gains(axes(margin + sizes + 0.47, gains, above), shown, each)
    if side:
        _matrix(axes(_WIDTH - 0.75 - side, side, above), cosines, shown, names)
    # Its title needs three inches and a half.
    wide = min(max(0.62 * len(domains), 3.5), 5.0)
    if domains:
        _domains(axes(margin, wide, low), some, shown, names, domains)
    if any(len(edit.rows) > 1 for edit in shown):
        begin = margin + (wide + 0.45 if domains else 0)
        _pairs(axes(begin, 8.75 - begin, low), shown, [""] * rows if domains else names)
    if max(len(edit.rows) for edit in shown) <= MOST_DOTS:
        present = {each[int(n)].name for edit in shown for n in edit.rows}
        kept = style.handles([item for item in legend if item.name in present])
        charts.titled(figure, kept[: max(int(tall / 0.21), 4)], "family", 9.05 / _WIDTH,
                      (low + tall + 0.28) / height)  # fmt: skip
    return figure


def _subject(some: Edited, texts: str, cut: bool) -> str:
    models = int(some.under.any(axis=0).sum())
    count = len(some.names)
    told = f"{count:,} edit{'s' if count != 1 else ''}"
    told += f", the first {MOST_EDITS} drawn" if cut else ""
    return f"{style.subject(models, some.texts, texts)} · {told} · bits/byte of the responses"


def _note(edits: Sequence[Edit]) -> str:
    dots = max(len(edit.rows) for edit in edits) <= MOST_DOTS
    each = (
        "Dots: models; hollow: a size below what numerical errors alone give (grey dashes), or a "
        "mean within two standard errors of 0; black: median; numbers: models."
        if dots
        else "Hills: density of models; grey dashes: what numerical errors alone give; black: "
        "median; numbers: models."
    )
    return textwrap.fill(
        f"{each} Cosines are of mean shifts; all shifts begin at the same prompts, so wordings "
        "that differ by chance alone have 0.5, not 0; bold: the 95 % interval over texts does not "
        "hold 0.5. On the diagonal: coherence, the mean cosine of a model's shift with those of "
        "all others. Below, bold: other than 1 by two standard errors. Arrows: from prompts as "
        "they are to the edit, green where models come nearer, orange where they part, grey where "
        "neither is sure. All but the shifts is klmap's own.",
        _LINE,
    )


def _rows(axes: Axes, count: int, names: Sequence[str]) -> None:
    axes.set_ylim(count - 0.5, -0.5)
    axes.set_yticks(range(count), [style.literal(name) for name in names], size=9, color=style.INK)
    axes.tick_params(axis="y", length=0)
    style.graph(axes, "x", left=False)


def _sizes(
    axes: Axes, edits: Sequence[Edit], names: Sequence[str], each: Sequence[style.Category]
) -> None:
    axes.set_title("Size of the shifts", **_TITLE)
    _rows(axes, len(edits), names)
    every = np.concatenate([edit.kl for edit in edits])
    floors = np.concatenate([edit.floor[np.isfinite(edit.floor)] for edit in edits])
    positive = every[every > 0]
    if not positive.size:
        charts.message(axes, "No edit moves any model.")
        axes.set_xticks([])
        return
    # A floor far below all shifts would leave them no room.
    low = float(positive.min())
    near = floors[(floors > 0) & (floors < positive.max())]
    low = min(low, max(float(near.max(initial=0.0)), low / 30)) / 1.6
    if not (floors > low).any():
        low = float(positive.min()) / 1.6
    high = float(positive.max()) * 1.6
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    if high < 300 * low:
        style.decade_axis(axes.xaxis)
    axes.set_xlabel("KL to the model as it is, bits/byte", size=8.5)
    for place, edit in enumerate(edits):
        floor = edit.floor[np.isfinite(edit.floor) & (edit.floor > low)]
        if floor.size:
            middle = float(np.median(floor))
            axes.plot([middle] * 2, [place - 0.42, place + 0.42], color=style.MUTED,
                      linewidth=1.2, linestyle=(0, (2, 1.2)), zorder=2)  # fmt: skip
        moved = edit.kl > 0
        _cloud(
            axes, place, np.log10(np.maximum(edit.kl, low)), (math.log10(low), math.log10(high)),
            [each[row] for row in edit.rows], edit.below, moved, logarithmic=True,
        )  # fmt: skip
        middle = float(np.median(edit.kl))
        _median(axes, place, max(middle, low))
        axes.annotate(
            f"{len(edit.rows):,}", (1, place), xycoords=("axes fraction", "data"),
            xytext=(3, 0), textcoords="offset points", size=7.5, color=style.MUTED, va="center",
        )  # fmt: skip


def _gains(axes: Axes, edits: Sequence[Edit], each: Sequence[style.Category]) -> None:
    axes.set_title("Mean shift", **_TITLE)
    _rows(axes, len(edits), [""] * len(edits))
    every = np.concatenate([edit.gain for edit in edits])
    low, high = min(float(every.min()), 0.0), max(float(every.max()), 0.0)
    room = 0.08 * (high - low) or 0.01
    low, high = low - room, high + room
    axes.axvline(0, color=style.INK, linewidth=0.8, zorder=1)
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.set_xlabel("bits/byte; right: responses likelier", size=8.5)
    for place, edit in enumerate(edits):
        sure = ~(np.abs(edit.gain) > SURE * edit.gain_se)
        own = [each[row] for row in edit.rows]
        every_one = np.ones(len(own), np.bool_)
        _cloud(axes, place, edit.gain, (low, high), own, sure, every_one, logarithmic=False)
        _median(axes, place, float(np.median(edit.gain)))


def _pairs(axes: Axes, edits: Sequence[Edit], names: Sequence[str]) -> None:
    """Mean KL of all pairs of models, as they are and with each edit."""
    axes.set_title("Models nearer to each other?", **_TITLE)
    _rows(axes, len(edits), names)
    for place, edit in enumerate(edits):
        if not edit.before > 0:
            continue
        sure = abs(edit.after - edit.before) > SURE * edit.change_se
        color = "#009E73" if edit.after < edit.before else "#D55E00"
        color = color if sure else style.MUTED
        axes.annotate(
            "", (edit.after, place), (edit.before, place), zorder=3,
            arrowprops={"arrowstyle": "-|>", "color": color, "linewidth": 1.6, "shrinkA": 0,
                        "shrinkB": 0, "mutation_scale": 11},
        )  # fmt: skip
        axes.plot([edit.before], [place], marker="o", markersize=5, color=style.INK, zorder=4)
    ends = [end for edit in edits for end in (edit.before, edit.after) if end >= 0]
    room = 0.1 * (max(ends) - min(ends)) or 0.1 * max(ends) or 0.01
    axes.set_xlim(min(ends) - room, max(ends) + room)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.set_xlabel("mean KL of pairs, bits/byte", size=8.5)


def _median(axes: Axes, place: int, value: float) -> None:
    axes.plot(
        [value] * 2, [place - 0.38, place + 0.38], color=style.INK, linewidth=1.8, zorder=5,
        solid_capstyle="butt",
    )  # fmt: skip


def _cloud(
    axes: Axes,
    place: int,
    values: Floats,
    ends: tuple[float, float],
    each: Sequence[style.Category],
    hollow: np.ndarray[Any, np.dtype[np.bool_]],
    drawn: np.ndarray[Any, np.dtype[np.bool_]],
    *,
    logarithmic: bool,
) -> None:
    """The models of one edit, as dots or, where they are many, as a hill."""
    where = 10**values if logarithmic else values
    if len(values) > MOST_DOTS:
        along, heights = clouds.density(values[drawn], *ends)
        along = 10**along if logarithmic else along
        axes.fill_between(
            along, place + 0.36, place + 0.36 - 0.74 * heights, color=_BLUE, alpha=0.55,
            linewidth=0, zorder=3,
        )  # fmt: skip
        return
    heights = place + 1.15 * clouds.spread(values, *ends)
    for category in {each[n].name: each[n] for n in range(len(each))}.values():
        for empty in (False, True):
            some = [
                n for n in range(len(each)) if drawn[n]
                and each[n].name == category.name and bool(hollow[n]) == empty
            ]  # fmt: skip
            axes.scatter(
                where[some], heights[some], s=20 * style.AREA.get(category.marker, 1),
                marker=category.marker, facecolors="white" if empty else category.color,
                edgecolors=category.color if empty else "white",
                linewidths=0.8 if empty else 0.35, zorder=4,
            )  # fmt: skip


def _matrix(
    axes: Axes, cosines: Sequence[Cosine], edits: Sequence[Edit], names: Sequence[str]
) -> None:
    """Cosines of the directions of all pairs of edits; coherence of each on the diagonal."""
    axes.set_title("Directions alike?", **_TITLE)
    count = len(edits)
    colors = np.full((count, count), math.nan)
    sure = np.zeros((count, count), np.bool_)
    for item in cosines:
        if item.second < count:
            for place in ((item.first, item.second), (item.second, item.first)):
                colors[place] = item.cosine
                sure[place] = item.low > _CHANCE or item.high < _CHANCE
    values = colors.copy()
    np.fill_diagonal(values, [coherence(edit.cosine) for edit in edits])
    _heat(axes, colors, values, sure, Normalize(-1.2, 1.2))
    _turned(axes, names)


def _turned(axes: Axes, names: Sequence[str]) -> None:
    """Names below columns, aslant."""
    axes.set_xticks(
        range(len(names)), [style.literal(name) for name in names], size=8, color=style.INK,
        rotation=35, ha="right", rotation_mode="anchor",
    )  # fmt: skip


def _heat(
    axes: Axes,
    colors: Floats,
    values: Floats,
    bold: np.ndarray[Any, np.dtype[np.bool_]],
    norm: Normalize,
) -> None:
    map_ = mpl.colormaps["PuOr_r"].with_extremes(bad="#eef0f3")
    axes.imshow(colors, cmap=map_, norm=norm, interpolation="nearest", aspect="auto")
    for row, column in np.argwhere(np.isfinite(values)):
        red, green, blue, _ = map_(norm(np.nan_to_num(colors[row, column])))
        dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.5
        axes.text(
            column, row, _short(values[row, column]), ha="center", va="center", size=7.5,
            color="white" if dark else style.INK,
            weight="bold" if bold[row, column] else "normal",
        )  # fmt: skip
    axes.tick_params(length=0)
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _short(value: float) -> str:
    return f"{value:.2f}".replace("0.", ".", 1)


def _largest(edits: Sequence[Edit]) -> list[int]:
    """Domains with the largest shares in any edit, as many as there is room for."""
    most = np.nanmax([np.nan_to_num(edit.share) for edit in edits], axis=0)
    kept = sorted(range(len(most)), key=lambda n: -most[n])[:MOST_DOMAINS]
    return sorted(kept)


def _domains(
    axes: Axes,
    some: Edited,
    edits: Sequence[Edit],
    names: Sequence[str],
    domains: Sequence[int],
) -> None:
    axes.set_title("Share of the shift over share of the texts", **_TITLE)
    sizes = np.bincount(some.domains.code, minlength=len(some.domains.names)) / some.texts
    ratio = np.array([edit.share / sizes for edit in edits])[:, domains]
    error = np.array([edit.share_se / sizes for edit in edits])[:, domains]
    logs = np.log2(np.where(ratio > 0, ratio, np.nan))
    _heat(axes, logs, ratio, np.abs(ratio - 1) > SURE * error, Normalize(-3.5, 3.5))
    axes.set_yticks(range(len(names)), [style.literal(n) for n in names], size=9, color=style.INK)
    _turned(axes, [_domain(some, n) for n in domains])


def _domain(some: Edited, number: int) -> str:
    return style.shorten(some.domains.names[number], 18)
