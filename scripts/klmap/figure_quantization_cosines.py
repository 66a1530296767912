"""Whether precisions shift models in one direction: cosines, all and by what two shifts share."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from klmap import charts, lineage, style
from klmap.precision_directions import KINDS, MOST_PAIRS, Cosines
from klmap.precision_shift import NOTHING, SURE, Shifts, subject

MOST_NAMES = 60
"""Shifts up to which rows of the heatmap have names; of more, their families do."""

MOST_ROWS = 7
"""Rows of each kind of cosine; the table has all."""

MOST_POINTS = 400
"""Cosines of one kind that are drawn one by one; of more, so many evenly spaced ones."""

_HEADINGS = {
    "methods": "two methods on one model",
    "family": "one method, one family",
    "families": "one method, two families",
}
_ALONE = "One model in a lower precision has no direction to share."
_FEW = 40
_WIDTH = 11.0
_LINE = 165
_TOP = 1.05
_NOTE = 0.7


def draw(shifts: Shifts, cosines: Cosines, texts: str) -> Figure:
    """Cosines of all shifts by family and method, and their distributions by what is common.

    Args:
        shifts: the models in a lower precision, by family and method.
        cosines: between them.
        texts: name of the text set.
    """
    count = len(cosines.shown)
    named = count <= MOST_NAMES
    models = lineage.short_names(shifts.models)
    pairs = [shifts.pairs[number] for number in cosines.shown]
    names = [f"{style.shorten(models[pair.full], 24)}  {pair.method}" for pair in pairs]
    families = [style.shorten(shifts.full(number).family, 18) for number in cosines.shown]
    labels = style.widest(names if named else families, 7.5)
    margin = 0.5 + labels
    wide = 0.45 + style.widest(list(_HEADINGS.values()), 8.5)
    side = min(max(0.19 * count, 2.6), 6.4) if named else 6.0
    width = max(margin + side + 0.8 + wide + 3.2, _WIDTH)
    height = _TOP + max(side + (0.3 + labels if named else 0.45), 3.6) + _NOTE
    heading = "Whether precisions shift models in one direction"
    if count < 2:
        figure = style.new_figure(_WIDTH, 3.2, heading, subject(shifts, texts, "cosines"))
        charts.nothing(style.add_axes(figure, 0.3, 0.4, 0.3, 1), _ALONE if count else NOTHING)
        return figure
    figure = style.new_figure(
        width, height, heading, subject(shifts, texts, "cosines"),
        _note(shifts, cosines),
    )  # fmt: skip
    axes = style.add_axes(figure, margin, height - _TOP - side, width - margin - side, _TOP)
    _heatmap(figure, axes, shifts, cosines, names if named else [], side)
    if not named:
        _families(axes, families, side)
    bottom = min(height - _TOP - side, height - _TOP - 2.6)
    left = margin + side + 0.8 + wide
    _kinds(style.add_axes(figure, left, max(bottom, _NOTE + 0.5), 0.6, _TOP), shifts, cosines)
    return figure


def _note(shifts: Shifts, cosines: Cosines) -> str:
    count, shown = len(shifts.pairs), len(cosines.shown)
    most = max((pair.of for pair in cosines.pairs if pair.kind != KINDS[0]), default=0)
    drawn = f"; of one method at most {MOST_PAIRS:,} are compared, drawn at random"
    part = f" Left: {shown:,} of {count:,} shifts, of evenly spaced models."
    return textwrap.fill(
        "Cosine: correlation, over texts, of what two models in a lower precision change about "
        "log-likelihoods. Grey band: ±2 standard deviations of unrelated directions, 1/√N and more "
        "where both change the same texts. On one model both share the errors of full precision, "
        "which alone make them alike where a shift is not above the noise. Numbers at the right: "
        f"pairs{drawn if most > MOST_PAIRS else ''}.{part if shown < count else ''} The band and "
        "the controls in cosines.tsv are klmap's own.",
        _LINE,
    )


def _families(axes: Axes, families: Sequence[str], side: float) -> None:
    """Names of families beside their rows, where these are high enough."""
    count = len(families)
    starts = [n for n in range(count) if not n or families[n] != families[n - 1]]
    ends = [*starts[1:], count]
    shown = [
        (first, last)
        for first, last in zip(starts, ends, strict=True)
        if 72 * side * (last - first) / count >= 9
    ]
    axes.set_yticks(
        [(first + last - 1) / 2 for first, last in shown],
        [style.literal(families[first]) for first, _ in shown], size=7.5, color=style.INK,
    )  # fmt: skip


def _heatmap(
    figure: Figure,
    axes: Axes,
    shifts: Shifts,
    cosines: Cosines,
    names: Sequence[str],
    side: float,
) -> None:
    count = len(cosines.shown)
    colors = mpl.colormaps["PuOr_r"].with_extremes(bad="#e5e7eb")
    shown = cosines.between.copy()
    np.fill_diagonal(shown, np.nan)
    norm = Normalize(-1, 1)
    axes.imshow(shown, cmap=colors, norm=norm, interpolation="nearest", aspect="equal")
    size = min(7.5, 0.8 * 72 * side / max(count, 1))
    labels = [style.literal(name) for name in names]
    axes.set_xticks(range(len(labels)), labels, rotation=90, size=size, color=style.INK)
    axes.set_yticks(range(len(labels)), labels, size=size, color=style.INK)
    axes.tick_params(length=0, pad=11)
    for spine in axes.spines.values():
        spine.set_visible(False)
    each, _ = style.categories([shifts.full(n).family for n in cosines.shown])
    thick = 0.09 / side
    charts.strip(axes.inset_axes((-1.5 * thick, 0, thick, 1)), each, True)
    charts.strip(axes.inset_axes((0, -1.5 * thick, 1, thick)), each, False)
    groups = [(shifts.full(n).family, shifts.pairs[n].method) for n in cosines.shown]
    for place in range(1, count):
        if groups[place] != groups[place - 1]:
            bold = groups[place][0] != groups[place - 1][0]
            for line in (axes.axhline, axes.axvline):
                line(
                    place - 0.5,
                    color=style.INK if bold else "white",
                    linewidth=0.8 if bold else 0.5,
                )
    width, height = figure.get_size_inches()
    box = axes.get_position()
    bar = (box.x1 + 0.12 / width, box.y1 - min(1.8, side) / height, 0.13 / width,
           min(1.8, side) / height)  # fmt: skip
    drawn = charts.color_bar(figure, ScalarMappable(norm, colors), bar, "cosine")
    drawn.set_ticks([-1, -0.5, 0, 0.5, 1])


def _kinds(axes: Axes, shifts: Shifts, cosines: Cosines) -> None:
    """The cosines of each kind of pair, one by one, with their median."""
    groups: dict[tuple[str, str], list[int]] = {}
    for place, item in enumerate(cosines.pairs):
        groups.setdefault((item.kind, item.methods), []).append(place)
    names = {name: number for number, name in enumerate(shifts.methods)}
    keys = sorted(
        groups,
        key=lambda key: (KINDS.index(key[0]), [names[name] for name in key[1].split(", ")]),
    )
    rows: list[tuple[str, list[int]]] = []
    for kind in KINDS:
        some = [key for key in keys if key[0] == kind][:MOST_ROWS]
        if some:
            rows += [(_HEADINGS[kind], [])]
            rows += [(key[1].replace(", ", " and "), groups[key]) for key in some]
    rng = np.random.default_rng(0)
    for row, (_, places) in enumerate(rows):
        if places:
            _row(axes, row, cosines, places, rng)
    axes.axvline(0, color=style.INK, linewidth=0.8, zorder=1)
    axes.set_xlim(-1.02, 1.02)
    axes.set_ylim(max(len(rows), 4) - 0.4, -0.6)
    axes.set_yticks(range(len(rows)), [label for label, _ in rows], size=8, color=style.INK)
    for tick, (_, places) in zip(axes.get_yticklabels(), rows, strict=True):
        tick.set_fontweight("normal" if places else "bold")
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("cosine", size=8.5)
    axes.set_xticks([-1, -0.5, 0, 0.5, 1])
    style.graph(axes, "x", left=False)
    if not rows:
        charts.nothing(axes, "No two shifts share a model or a method.")


def _row(
    axes: Axes,
    row: int,
    cosines: Cosines,
    places: Sequence[int],
    rng: np.random.Generator,
) -> None:
    values = cosines.cosine[places]
    known = np.isfinite(values)
    if not known.any():
        return
    values, null = values[known], SURE * float(np.median(cosines.null_sd[places][known]))
    axes.barh(row, 2 * null, 0.8, -null, color="#e5e7eb", zorder=0)
    axes.plot(
        [np.median(values)] * 2, [row - 0.38, row + 0.38], color=style.INK, linewidth=1.8, zorder=4,
    )  # fmt: skip
    shown = np.linspace(0, len(values) - 1, min(len(values), MOST_POINTS)).astype(int)
    ranked = np.sort(values)[shown]
    few = len(ranked) <= _FEW
    heights = row + rng.uniform(-0.25, 0.25, len(ranked))
    axes.plot(
        ranked, heights, linestyle="none", marker="o", markersize=4 if few else 2,
        color="#0072B2", alpha=0.8 if few else 0.4, markeredgecolor="none", zorder=3,
    )  # fmt: skip
    axes.text(
        1.05, row, f"{cosines.pairs[places[0]].of:,}", size=7.5, color=style.MUTED, va="center",
        ha="left",
    )  # fmt: skip
