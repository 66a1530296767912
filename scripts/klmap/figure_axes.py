"""The principal axes of a map: variance, places, what stands at the ends, benchmark scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes as Panel
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from klmap import axes, charts, style
from klmap.arrays import Floats
from klmap.axes import Axes, Correlations
from klmap.models_table import Model
from klmap.split import Domains, in_words
from klmap.texts import Text, excerpt

MARKS = (0.9, 0.95)
"""Shares of the variance that are marked, those of the published map."""

_PUBLISHED = (
    "Of the published map 42 components reach 90 % of the variance and 82 reach 95 % "
    "(Oyama et al. 2025)."
)
_NOTHING = "These models do not differ,\nso there is no axis."
_SMALL = 7.3
_LINE = 5.0
_DOMAIN = 22
_STANDS_OUT = 2.0
_MOST_WRITTEN = 420
_TITLE: dict[str, Any] = {"size": 9.5, "loc": "left", "pad": 8}


@dataclass(frozen=True)
class Described:
    """Axes with all that says what they are.

    Attributes:
        axes: of the models.
        models: rows of models.tsv.
        domains: of the texts.
        texts: the N texts.
        name: of the text set.
    """

    axes: Axes
    models: Sequence[Model]
    domains: Domains
    texts: Sequence[Text]
    name: str

    @property
    def subject(self) -> str:
        """How many models on which texts."""
        models = len(self.models)
        on = in_words(len(self.texts), self.name, self.axes.design)
        return f"{models:,} model{'s' if models != 1 else ''} · {on}"

    @property
    def estimated(self) -> str:
        """What a note says of a selection; empty where all texts were scored."""
        if self.axes.design is None:
            return ""
        return "\nThe chosen texts stand for all; what is said of all is an estimate by them."


def draw_variance(found: Described) -> Figure:
    """Left, the variance of each component; right, what the first ones hold together."""
    own = found.axes
    figure = style.new_figure(
        10.4, 5.3, "How many axes the map has", f"{found.subject} · principal components of the "
        "coordinates; variance in bits/byte",
        f"Variance: mean square of the models' places. {_PUBLISHED}{found.estimated}",
    )  # fmt: skip
    left = style.add_axes(figure, 0.95, 0.95, 5.65, 1.3)
    right = style.add_axes(figure, 5.75, 0.95, 0.35, 1.3)
    number = np.arange(1, len(own.variance) + 1)
    if not len(number):
        for panel in (left, right):
            panel.set_axis_off()
        charts.message(left, _NOTHING)
        return figure
    few = len(number) <= 40
    mark: Any = {"marker": "o", "markersize": 5 if few else 0, "color": style.EXTENDED[0]}
    left.plot(number, own.variance, linewidth=1.6, **mark)
    left.set_yscale("log")
    left.yaxis.set_major_formatter(FuncFormatter(lambda value, _: style.short_number(value)))
    left.set_ylabel("variance, bits/byte")
    left.set_title("Each component", **_TITLE)
    sums = np.cumsum(own.shares)
    right.plot(number, sums, linewidth=1.6, **mark)
    right.set_ylim(0, 1.03)
    right.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    right.set_ylabel("share of the variance")
    reached = [f"{own.reaching(share)} reach {share:.0%}".replace("%", " %") for share in MARKS
               if own.reaching(share)]  # fmt: skip
    right.set_title(", ".join(["The first together", *reached]).replace(",", ":", 1), **_TITLE)
    for share in MARKS:
        count = own.reaching(share)
        if count is None:
            continue
        lines: Any = {"color": style.MUTED, "linewidth": 0.9, "linestyle": (0, (3, 2))}
        right.plot([0.5, count], [share, share], **lines)
        right.plot([count, count], [0, share], **lines)
        right.plot([count], [sums[count - 1]], marker="o", color=style.INK, markersize=5, zorder=4)
    for panel in (left, right):
        panel.set_xlim(0.5, len(number) + 0.5)
        if few:
            panel.xaxis.set_major_locator(MaxNLocator(7, integer=True))
        else:
            panel.set_xscale("log")
            panel.set_xlim(0.9, len(number) * 1.1)
            style.decade_axis(panel.xaxis)
        panel.set_xlabel("component")
        _open(panel)
    return figure


def draw_axes(found: Described) -> Figure:
    """The models along the first four axes, and the domains and texts at the ends of these."""
    width, height = 13.8, 8.3
    figure = style.new_figure(
        width, height, "What varies between the models: the first axes",
        f"{found.subject} · principal components; squared distances are in bits/byte",
        "Beside an axis stand the domains whose texts models at that end know better than other "
        "models do, given how well each knows all texts; below it, the text that is farthest "
        "out.\nThe model farthest from the middle of an axis is at its high end; an axis has no "
        f"other direction.{found.estimated}",
    )  # fmt: skip
    each, legend = style.categories([model.family for model in found.models])
    side = 4.85
    for number, left in enumerate((1.05, 6.95)):
        panel = style.add_axes(figure, left, 2.6, width - left - side, 1.2)
        first = 2 * number
        if found.axes.points.shape[1] <= first:
            charts.nothing(panel, _NOTHING if not number else "There are no more axes.")
            continue
        _plane(panel, found, first, each, legend)
        _ends(figure, found, first, left / width, 1.86 / height)
    charts.families(figure, legend, 1 - 1.75 / width, 1 - 1.25 / height)
    return figure


def _plane(
    panel: Panel,
    found: Described,
    first: int,
    each: Sequence[style.Category],
    legend: Sequence[style.Category],
) -> None:
    points, count = found.axes.points, found.axes.points.shape[1]
    second = first + 1
    y = points[:, second] if second < count else np.zeros(len(points))
    panel.axhline(0, color=style.RULE, linewidth=0.8, zorder=1)
    panel.axvline(0, color=style.RULE, linewidth=0.8, zorder=1)
    many = len(points) > 300
    for category in [*legend[-1:], *legend[:-1]]:
        rows = [row for row, own in enumerate(each) if own == category]
        panel.scatter(
            points[rows, first], y[rows], c=category.color, marker=category.marker,
            s=(12.0 if many else 36.0) * style.AREA.get(category.marker, 1.0),
            edgecolors="white", linewidths=0.2 if many else 0.5, zorder=2,
        )  # fmt: skip
    panel.set_aspect("equal", adjustable="datalim")
    panel.margins(0.06)
    panel.xaxis.set_major_locator(MaxNLocator(6))
    panel.yaxis.set_major_locator(MaxNLocator(6))
    panel.set_facecolor(style.PANEL)
    panel.tick_params(labelsize=8, length=2)
    words = "Axes {} and {}" if second < count else "Axis {}"
    panel.set_title(words.format(first + 1, second + 1), **_TITLE)
    share = found.axes.shares
    panel.set_xlabel(f"axis {first + 1}, {100 * share[first]:.1f} % of the variance", labelpad=18)
    low, high = ends_in_words(found, first)
    text: Any = {"size": 8, "color": style.MUTED, "xycoords": "axes fraction",
                 "textcoords": "offset points"}  # fmt: skip
    panel.annotate(f"← {low}", (0, 0), xytext=(0, -18), ha="left", va="top", **text)
    panel.annotate(f"{high} →", (1, 0), xytext=(0, -18), ha="right", va="top", **text)
    if second >= count:
        panel.set_yticks([])
        return
    panel.set_ylabel(f"axis {second + 1}, {100 * share[second]:.1f} % of the variance", labelpad=20)
    low, high = ends_in_words(found, second)
    text["rotation"] = 90
    panel.annotate(f"← {low}", (0, 0), xytext=(-32, 0), ha="right", va="bottom", **text)
    panel.annotate(f"{high} →", (0, 1), xytext=(-32, 0), ha="right", va="top", **text)


def ends_in_words(found: Described, number: int) -> tuple[str, str]:
    """The two domains that stand out most at the low and at the high end of an axis."""
    means = axes.domain_shares(found.axes, found.domains)[1][number]
    # Means of independent loadings would vary by one over the root of their number.
    apart = means * np.sqrt(axes.effective_sizes(found.axes, found.domains))
    words = []
    for sign in (-1.0, 1.0):
        order = np.argsort(-sign * means, kind="stable")
        names = [found.domains.names[place] for place in order
                 if sign * apart[place] > _STANDS_OUT][:2]  # fmt: skip
        short = [style.literal(style.shorten(name, _DOMAIN)) for name in names]
        words.append(", ".join(short) or "no domain")
    return words[0], words[1]


def _ends(figure: Figure, found: Described, first: int, left: float, top: float) -> None:
    """The outermost text at each end of two axes, as lines below their plane."""
    height = float(figure.get_size_inches()[1])
    for line in range(min(2, found.axes.points.shape[1] - first)):
        loadings = found.axes.loadings[:, first + line]
        for end, some in enumerate(axes.at_ends(loadings, 1)):
            if not len(some):
                continue
            text = found.texts[int(some[0])]
            shown = _fitting(f"{style.shorten(text.domain, _DOMAIN)}: {excerpt(text.text)}")
            place = top - (2 * line + end) * 0.25 / height
            arrow = (("←", "→"), ("↓", "↑"))[line][end]
            figure.text(left - 0.02, place, f"{first + line + 1} {arrow}", size=8, weight="bold",
                        va="top")  # fmt: skip
            figure.text(left, place, shown, size=_SMALL,
                        va="top", color=style.MUTED, parse_math=False)  # fmt: skip


def _fitting(text: str) -> str:
    """As much of a text as fits below a plane, with a dot for what the font does not have."""
    known = get_font(findfont("DejaVu Sans")).get_charmap()
    text = "".join(letter if ord(letter) in known else "·" for letter in text)
    while (wide := style.widest([text], _SMALL)) > _LINE:
        text = text[: int(len(text) * _LINE / wide) - 1].rstrip("… ") + "…"
    return text


def draw_correlations(found: Described, correlations: Correlations) -> Figure:
    """Pearson correlation of mean log-likelihoods and axes with every benchmark task."""
    rows, columns = correlations.pearson.shape
    if not columns:
        figure = style.new_figure(8.4, 3.6, "Correlation with benchmark scores", found.subject)
        panel = style.add_axes(figure, 0.4, 0.3, 0.4, 1.0)
        charts.nothing(
            panel, "There are no benchmark scores.\nName tables of scores in config.yaml."
        )
        return figure
    names = [style.shorten(_in_words(feature), 40) for feature in correlations.features]
    heads = [style.shorten(task, 24) for task in correlations.tasks]
    left, head = 0.4 + style.widest(names, 8.5), 0.15 + style.widest(heads, 8.5)
    cell, tall = min(max(5.0 / columns, 0.42), 0.75), 0.29
    top, bottom, gaps = 1.1 + head, 0.75, 2
    width = max(left + cell * columns + 1.6, 9.2)
    height = top + tall * (rows + 0.5 * gaps) + bottom
    most = int(correlations.models.max())
    figure = style.new_figure(
        width, height, "Correlation with benchmark scores",
        f"{found.subject} · Pearson correlation over up to {most:,} models with scores",
        "Mean log-likelihoods are over all texts and over those of each domain. The end of an "
        "axis that counts as\nhigh is fixed by the outermost model, so what its sign means stands "
        f"in the figure of the axes.{found.estimated}",
    )  # fmt: skip
    panel = style.add_axes(figure, left, bottom, width - left - cell * columns, top)
    place = _rows(correlations.features)
    colors, norm = mpl.colormaps["RdBu_r"], Normalize(-1, 1)
    size = min(8.0, 72 * cell / 3.4)
    for row, column in np.ndindex(rows, columns):
        value = float(correlations.pearson[row, column])
        known = math.isfinite(value)
        panel.add_patch(mpl.patches.Rectangle(
            (column, float(place[row])), 1, 1, linewidth=0.6, edgecolor="white",
            facecolor=colors(norm(value)) if known else style.PANEL,
        ))  # fmt: skip
        if rows * columns <= _MOST_WRITTEN:
            panel.text(
                column + 0.5, float(place[row]) + 0.5, f"{value:.2f}" if known else "",
                ha="center", va="center", size=size,
                color="white" if abs(value) > 0.62 else style.INK,
            )  # fmt: skip
    panel.set_xlim(0, columns)
    panel.set_ylim(rows + 0.5 * gaps, 0)
    panel.xaxis.tick_top()
    panel.tick_params(length=0, pad=4)
    panel.set_xticks(np.arange(columns) + 0.5, [style.literal(text) for text in heads],
                     rotation=90, size=8.5, color=style.INK)  # fmt: skip
    panel.set_yticks(place + 0.5, [style.literal(text) for text in names], size=8.5,
                     color=style.INK)  # fmt: skip
    for spine in panel.spines.values():
        spine.set_visible(False)
    long = min(2.2, height - top - bottom)
    side = (left + cell * columns + 0.35) / width
    at = (side, 1 - (top + long) / height, 0.14 / width, long / height)
    charts.color_bar(figure, mpl.cm.ScalarMappable(norm, colors), at, "Pearson correlation")
    return figure


def _rows(features: Sequence[str]) -> Floats:
    """Upper edges of the rows, with half a row between all texts, domains and axes."""
    kinds = [0 if name == "mean_loglik" else 2 if name.startswith("axis") else 1
             for name in features]  # fmt: skip
    return np.arange(len(features)) + 0.5 * np.array(kinds, np.float64)


def _in_words(feature: str) -> str:
    if feature.startswith("axis"):
        return f"axis {feature.removeprefix('axis')}"
    return f"log-likelihood, {feature.partition(': ')[2] or 'all texts'}"


def _open(panel: Panel) -> None:
    style.graph(panel)
    panel.tick_params(labelsize=8, length=2, which="both")
