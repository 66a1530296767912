"""How klmap's figures look: colours, markers, titles, and files that are the same every time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.textpath import TextPath
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from klmap.errors import InputError
from klmap.files import atomic
from klmap.models_table import Model

INK = "#1f2937"
MUTED = "#6b7280"
RULE = "#d1d5db"
PANEL = "#f8fafc"

RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "klmap",
}
"""Settings of every figure; a fixed salt makes the identifiers in an SVG the same every time."""

PUBLISHED = {
    "llama-1": "#1f77b4",
    "llama-2": "#ff7f0e",
    "llama-3": "#2ca02c",
    "mistral": "#d62728",
    "gpt_neox": "#9467bd",
    "gptj": "#8c564b",
    "gemma": "#e377c2",
    "opt": "#7f7f7f",
    "bloom": "#bcbd22",
    "falcon": "#17becf",
    "deepseek": "#191970",
}
"""Family colours of the published map (Oyama et al. 2025, figure 1)."""

EXTENDED = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#332288", "#882255",
    "#44AA99", "#999933", "#661100", "#88CCEE", "#117733", "#AA4499", "#DDCC77", "#6699CC",
)  # fmt: skip
"""Okabe and Ito's colours, then Paul Tol's muted ones: told apart without colour vision."""

OTHERS = "#c3c7ce"
OTHERS_NAME = "other"
MOST_COLORS = 14
AREA = {"D": 0.65, "s": 0.85, "*": 1.5, ".": 1.3, "P": 1.1, "X": 1.1, "d": 1.1}
"""Markers look equally large with their areas scaled like this; 1 for those not named."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p", "<", "h", ">", "d", "8", "*")
_LEAST_DIFFERENCE = 90.0


@dataclass(frozen=True)
class Category:
    """One entry of a legend."""

    name: str
    color: str
    marker: str
    count: int


@dataclass(frozen=True)
class Coloring:
    """How the points of a map are coloured and shaped.

    Attributes:
        colors: (K, 3) RGB.
        categories: one per model; models beyond the most frequent categories share the last.
        legend: the categories by falling count.
        bar: what a colour bar shows, or None where colours are the categories' own.
        label: what the colours mean.
        ticks: formats the bar's axis; None for plain numbers.
    """

    colors: np.ndarray[Any, np.dtype[np.float64]]
    categories: list[Category]
    legend: list[Category]
    bar: ScalarMappable | None
    label: str
    ticks: Callable[[Axis], None] | None = None


def categories(values: Sequence[str]) -> tuple[list[Category], list[Category]]:
    """A colour and a marker for every value; rare ones beyond fourteen share a grey.

    Published families keep their published colours; the others take colours that differ from
    all in use.

    Returns:
        One category per value, and the legend by falling count.
    """
    counts = Counter(value or "unknown" for value in values)
    ranked = sorted(counts, key=lambda name: (-counts[name], name))
    named = ranked if len(ranked) <= MOST_COLORS else ranked[: MOST_COLORS - 1]
    used = [PUBLISHED[name] for name in named if name in PUBLISHED]
    by_name = {}
    for rank, name in enumerate(named):
        color = PUBLISHED.get(name)
        if color is None:
            color = next((c for c in EXTENDED if _differs(c, used)), EXTENDED[rank % len(EXTENDED)])
            used.append(color)
        by_name[name] = Category(name, color, MARKERS[rank % len(MARKERS)], counts[name])
    legend = list(by_name.values())
    rest = ranked[len(named) :]
    if rest:
        total = sum(counts[name] for name in rest)
        other = Category(f"{OTHERS_NAME} ({len(rest)} more)", OTHERS, ".", total)
        by_name.update(dict.fromkeys(rest, other))
        legend.append(other)
    return [by_name[value or "unknown"] for value in values], legend


def _differs(color: str, used: Sequence[str]) -> bool:
    """Whether a colour is far from all in use, by the weighted distance known as redmean."""
    red, green, blue = (255 * part for part in to_rgb(color))
    for other in used:
        red2, green2, blue2 = (255 * part for part in to_rgb(other))
        mean = (red + red2) / 2
        square = (
            (2 + mean / 256) * (red - red2) ** 2
            + 4 * (green - green2) ** 2
            + (2 + (255 - mean) / 256) * (blue - blue2) ** 2
        )
        if math.sqrt(square) < _LEAST_DIFFERENCE:
            return False
    return True


def of_pmi(models: Sequence[Model]) -> bool:
    """Whether a map is of what responses gain by their prompts instead of log-likelihoods."""
    return any(model.pmi for model in models)


def coloring(models: Sequence[Model], column: str) -> Coloring:
    """Colours by one column of models.tsv; markers are always by family.

    Args:
        models: the rows.
        column: ``family``, ``architecture`` or ``base_model`` for colours of their own,
            ``parameters``, ``bits_per_byte`` or ``created_at`` for a colour bar. On a map of PMI
            ``bits_per_byte`` is what prompts add, where higher is more help.

    Raises:
        InputError: there is no such column to colour by.
    """
    each, legend = categories([model.family for model in models])
    if column in ("family", "architecture", "base_model"):
        if column != "family":
            values = [
                model.architecture if column == "architecture" else ", ".join(model.base_model)
                for model in models
            ]
            if column == "base_model":
                values = [value or "none" for value in values]
            each, legend = categories(values)
        colors = np.array([to_rgb(category.color) for category in each])
        return Coloring(colors, each, legend, None, column.replace("_", " "))
    if column == "parameters":
        numbers = [math.nan if m.parameters is None else float(m.parameters) for m in models]
        return _continuous(numbers, each, legend, "parameters", logarithmic=True, ticks=decade_axis)
    if column == "bits_per_byte" and of_pmi(models):
        numbers = [model.pmi_bits_per_byte for model in models]
        return _continuous(numbers, each, legend, "mean PMI: bits per byte that prompts add")
    if column == "bits_per_byte":
        numbers = [model.bits_per_byte for model in models]
        return _continuous(numbers, each, legend, "bits per byte (lower is better)")
    if column == "created_at":
        numbers = [_day(model.created_at) for model in models]
        return _continuous(numbers, each, legend, "created", ticks=date_axis)
    raise InputError(
        f"--color-by {column}: not one of family, architecture, base_model, parameters, "
        "bits_per_byte, created_at"
    )


def _day(text: str) -> float:
    """Days since 1970 of an ISO 8601 date, NaN if it is none."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return math.nan
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() / 86400


def _continuous(
    numbers: Sequence[float],
    each: list[Category],
    legend: list[Category],
    label: str,
    logarithmic: bool = False,
    ticks: Callable[[Axis], None] | None = None,
) -> Coloring:
    values = np.array(numbers)
    known = values[np.isfinite(values) & ((values > 0) | (not logarithmic))]
    low, high = 1.0, 2.0
    if known.size:
        ends = (2, 98) if known.size > 100 else (0, 100)
        low, high = (float(end) for end in np.percentile(known, ends))
    if low == high:
        low, high = (low / 1.1, high * 1.1) if logarithmic else (low - 0.05, high + 0.05)
    norm = LogNorm(low, high, clip=True) if logarithmic else Normalize(low, high, clip=True)
    bar = ScalarMappable(norm, mpl.colormaps["viridis"])
    colors = np.array(bar.to_rgba(np.where(np.isfinite(values), values, low)))[:, :3]
    colors[~np.isfinite(values)] = to_rgb(OTHERS)
    return Coloring(colors, each, legend, bar, label, ticks)


def blank(width: float, height: float, dpi: int = 200) -> Figure:
    """An empty figure of so many inches."""
    figure = Figure(figsize=(width, height), dpi=dpi, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def new_figure(width: float, height: float, title: str, subtitle: str, note: str = "") -> Figure:
    """An empty figure with its headings.

    Args:
        width: inches.
        height: inches.
        title: what is seen.
        subtitle: of how many models and texts, in which unit.
        note: how to read it, at the foot.
    """
    figure = blank(width, height)
    left = 0.3 / width
    figure.text(left, 1 - 0.28 / height, title, size=15, weight="bold", va="top", parse_math=False)
    figure.text(
        left, 1 - 0.60 / height, subtitle, size=9.5, color=MUTED, va="top", parse_math=False
    )
    if note:
        figure.text(left, 0.16 / height, note, size=8, color=MUTED, va="bottom", parse_math=False)
    return figure


def add_axes(figure: Figure, left: float, bottom: float, right: float, top: float) -> Axes:
    """Axes with margins in inches from the figure's edges."""
    width, height = figure.get_size_inches()
    return figure.add_axes(
        (
            left / width,
            bottom / height,
            1 - (left + right) / width,
            1 - (bottom + top) / height,
        )
    )


def graph(axes: Axes, along: Literal["both", "x", "y"] = "both", left: bool = True) -> None:
    """The frame of a graph: a quiet grid behind what is drawn, two spines or the lower one alone.

    Args:
        axes: the graph.
        along: axis whose ticks the grid has lines at.
        left: whether the left spine is drawn.
    """
    axes.grid(axis=along, color=RULE, linewidth=0.5, alpha=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right") if left else ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def plain(axes: Axes) -> None:
    """Take frame, ticks and numbers away: the plane of a map has none."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_facecolor(PANEL)
    for spine in axes.spines.values():
        spine.set_color(RULE)


def text_size(text: str, size: float) -> tuple[float, float]:
    """Width and line height of a text in points, with a little air."""
    box = TextPath((0, 0), literal(text), size=size).get_extents()
    return float(box.width) * 1.02 + 1, 1.25 * size


def widest(texts: Sequence[str], size: float) -> float:
    """Width, in inches, of the widest of the texts."""
    return max((text_size(text, size)[0] for text in texts), default=0.0) / 72


def handles(legend: Sequence[Category], gray: bool = False) -> list[Line2D]:
    """Legend handles with the number of models of each category."""
    return [
        Line2D(
            [],
            [],
            linestyle="none",
            marker=category.marker,
            markersize=7 * math.sqrt(AREA.get(category.marker, 1)),
            color=MUTED if gray else category.color,
            markeredgecolor="white",
            markeredgewidth=0.5,
            label=literal(f"{shorten(category.name, 24)}  {category.count}"),
        )
        for category in legend
    ]


def literal(text: str) -> str:
    """Text that matplotlib prints as it is, with no formula between dollar signs."""
    return text.replace("$", r"\$")


def shorten(text: str, most: int) -> str:
    """The text, or its two ends around an ellipsis."""
    if len(text) <= most:
        return text
    head = (most - 1) * 2 // 3
    return f"{text[:head]}…{text[-(most - 1 - head) :]}"


def subject(models: int, texts: int, name: str) -> str:
    """How many models on how many texts of which set, as subtitles say it."""
    return f"{models:,} model{'s' if models != 1 else ''} · {texts:,} texts of “{name}”"


def date_axis(axis: Axis) -> None:
    """Show days since 1970 as dates."""
    axis.set_major_locator(MaxNLocator(6, integer=True))
    axis.set_major_formatter(
        FuncFormatter(lambda value, _: (date(1970, 1, 1) + timedelta(days=value)).isoformat())
    )


def decade_axis(axis: Axis) -> None:
    """Short numbers at 1, 2 and 5 of every decade of a logarithmic axis."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))


def short_number(value: float) -> str:
    """A number as people say it: 0.05, 14M, 6.9B."""
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.3g}{name}"
    return f"{value:g}"


def save(figure: Figure, folder: Path, name: str) -> None:
    """Write ``name.png`` and ``name.svg``; the same figure gives the same bytes."""
    for ending, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
        with atomic(folder / f"{name}.{ending}") as temporary:
            figure.savefig(temporary, format=ending, metadata=metadata)
