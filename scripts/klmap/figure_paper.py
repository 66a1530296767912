"""The map as a figure for a paper, in the style of the published one.

Oyama et al. 2025 (ACL, figure 1): the same map twice, coloured by family and by mean
log-likelihood. Colours are theirs. How a model's family is told from what is known of it, and all
that is drawn beside the points, is klmap's own.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from klmap import figure_map, style
from klmap.arrays import Floats
from klmap.models_table import Model
from klmap.scene import Scene

OTHERS = "#d3d3d3"
"""Colour of the families that the published map does not name."""

_WIDTH = 7.0
_PANEL = (3.38, 2.85)
_EDGE = 0.06
_TOP = 0.22
_SCALE_ROOM = 0.46
_FONT = 7.0
_LINE = 0.14
_HANDLE = 0.24
_CHARACTERS = 118
_LONGEST_NAME = 18

_TYPES = (
    ("gpt_neox", r"gpt[-_]?neox"),
    ("gptj", r"gpt[-_]?j"),
    ("mistral", r"mistral"),
    ("gemma", r"gemma[-_]?[23]?n?(_text)?"),
    ("opt", r"opt"),
    ("bloom", r"bloom"),
    ("falcon", r"falcon|refinedweb(model)?"),
    ("deepseek", r"deepseek.*"),
)
_NAMES = (
    ("gpt_neox", r"gpt-?neox|pythia"),
    ("gptj", r"gpt-?j(?![a-z])"),
    ("mistral", r"mistral"),
    ("gemma", r"gemma"),
    ("opt", r"opt-[\d.]+[mb]"),
    ("bloom", r"bloom"),
    ("falcon", r"falcon(?!-?mamba)"),
)
_LLAMA_NUMBER = re.compile(r"(?<![a-z])llama-?v?([123])(?!\d*(\.\d+)?b|\d)")
_LLAMA_SIZE = re.compile(r"(?<![a-z])(?<!open-)llama-(7|13|30|33|65)b")


@dataclass(frozen=True)
class Entry:
    """One entry of the legend: a family and how many models it has."""

    name: str
    color: str
    count: int


def published_family(model: Model) -> str:
    """The family of the published map that a model belongs to, or an empty string.

    Its family decides, which is a name from the configuration or a model type such as
    ``gpt_neox``. The model type ``llama`` has three published families: which one the id says
    (``Llama-2-7b``, ``Meta-Llama-3-8B``; ``llama-7b`` is the first), or else the base model's.
    DeepSeek's models are of several types and known by their id. Where no family is known the
    id decides alone.
    """
    family = model.family.lower()
    if family in style.PUBLISHED:
        return family
    for name, pattern in _TYPES:
        if re.fullmatch(pattern, family):
            return name
    names = [
        text.lower().replace("_", "-") for text in (model.id or model.model, *model.base_model)
    ]
    if "deepseek" in names[0]:
        return "deepseek"
    if family and not family.startswith("llama"):
        return ""
    for text in names:
        found = _by_name(text, alone=not family)
        if found:
            return found
    return ""


def _by_name(text: str, alone: bool) -> str:
    """What an id says of the family; ``alone`` if nothing but the id is known."""
    numbered = _LLAMA_NUMBER.search(text)
    if numbered:
        return f"llama-{numbered[1]}"
    if _LLAMA_SIZE.search(text):
        return "llama-1"
    if alone:
        return next((name for name, pattern in _NAMES if re.search(pattern, text)), "")
    return ""


def paper_colors(models: Sequence[Model]) -> tuple[list[str], list[Entry]]:
    """The colour of each model, and the legend.

    Returns:
        One colour per model; and the published families in the published order with the others in
        grey, or klmap's own families where none is published.
    """
    families = [published_family(model) for model in models]
    count = Counter(families)
    if not count.keys() - {""}:
        each, legend = style.categories([model.family for model in models])
        return [own.color for own in each], [Entry(x.name, x.color, x.count) for x in legend]
    entries = [
        Entry(name, color, count[name]) for name, color in style.PUBLISHED.items() if count[name]
    ]
    if count[""]:
        entries.append(Entry("others", OTHERS, count[""]))
    return [style.PUBLISHED.get(family, OTHERS) for family in families], entries


def draw_paper(scene: Scene) -> Figure:
    """Two panels across a page: by family, and by mean log-likelihood in nats per text.

    On a map of what prompts add the second is by mean PMI, in nats per text.
    """
    measure = "mean PMI" if scene.pmi else "mean log-likelihood"
    colors, entries = paper_colors(scene.models)
    labels = [f"{style.shorten(own.name, _LONGEST_NAME)} ({own.count:,})" for own in entries]
    columns = max(1, int(_PANEL[0] // (style.widest(labels, _FONT) + _HANDLE)))
    ringed = f"{scene.ringed}; {figure_map.WIDER} " if scene.ringed else ""
    said = textwrap.wrap(f"{ringed}{scene.faithful}", _CHARACTERS)
    foot = _LINE * len(said) + (0.08 if said else 0)
    below = max(math.ceil(len(labels) / columns) * _LINE + 0.12, _SCALE_ROOM) + foot
    figure = style.blank(_WIDTH, _TOP + _PANEL[1] + below, 300)
    by_family = _panel(figure, scene, _EDGE, below, "a", "by family")
    second = _WIDTH - _EDGE - _PANEL[0]
    by_loglik = _panel(figure, scene, second, below, "b", f"by {measure}")
    # The others first: they are the ground on which the families stand.
    order = sorted(range(len(colors)), key=lambda row: colors[row] != OTHERS)
    _points(by_family, scene.points[order], [colors[row] for row in order])
    for axes in (by_family, by_loglik):
        figure_map.draw_rings(axes, scene, np.full(len(colors), _area(len(colors))))
    values = np.array([model.mean_loglik for model in scene.models])
    scale = _scale(values)
    shades = scale.to_rgba(values)
    shades[~np.isfinite(values)] = to_rgba(OTHERS)
    _points(by_loglik, scene.points, shades)
    _legend(figure, entries, labels, columns, below)
    height = float(figure.get_size_inches()[1])
    place = (second / _WIDTH, (below - 0.15) / height, _PANEL[0] / _WIDTH, 0.09 / height)
    bar = figure.colorbar(scale, cax=figure.add_axes(place), orientation="horizontal")
    bar.outline.set_visible(False)
    bar.ax.xaxis.set_major_locator(MaxNLocator(5))
    bar.ax.tick_params(labelsize=_FONT, length=2, pad=1.5)
    bar.set_label(f"{measure}, nats per text", size=_FONT, labelpad=2)
    figure.text(
        _EDGE / _WIDTH, 0.06 / height, "\n".join(said), size=_FONT, color=style.MUTED, va="bottom"
    )
    return figure


def _panel(figure: Figure, scene: Scene, left: float, below: float, letter: str, what: str) -> Axes:
    axes = style.add_axes(figure, left, below, _WIDTH - left - _PANEL[0], _TOP)
    style.plain(axes)
    axes.set_facecolor("white")
    figure_map.frame(axes, scene.points, 1.06)
    for x, text, weight in ((0.0, f"({letter})", "bold"), (0.065, what, "normal")):
        axes.text(x, 1.02, text, size=8, weight=weight, va="bottom", transform=axes.transAxes)
    return axes


def _points(axes: Axes, points: Floats, colors: Sequence[str] | Floats) -> None:
    axes.scatter(
        points[:, 0],
        points[:, 1],
        s=_area(len(points)),
        c=colors,
        linewidths=0.15,
        edgecolors="white",
    )


def _area(count: int) -> float:
    """Square points of each of so many points."""
    return 22.0 if count <= figure_map.MOST_LABELS else 9.0 if count <= 300 else 5.0


def _scale(values: Floats) -> ScalarMappable:
    """Colours between the 2 % and 98 % quantiles: a few broken models would take them all."""
    known = values[np.isfinite(values)]
    low, high = (float(end) for end in np.percentile(known, (2, 98))) if known.size else (0.0, 1.0)
    if low == high:
        low, high = low - 1, high + 1
    return ScalarMappable(Normalize(low, high, clip=True), mpl.colormaps["viridis"])


def _legend(
    figure: Figure, entries: Sequence[Entry], labels: Sequence[str], columns: int, below: float
) -> None:
    height = float(figure.get_size_inches()[1])
    shape = {"linestyle": "none", "marker": "o", "markersize": 4, "markeredgewidth": 0}
    handles = [Line2D([], [], color=own.color, **shape) for own in entries]  # type: ignore[arg-type]
    figure.legend(
        handles,
        [style.literal(label) for label in labels],
        loc="upper left",
        bbox_to_anchor=(_EDGE / _WIDTH, (below - 0.06) / height),
        ncols=columns,
        fontsize=_FONT,
        labelspacing=0.35,
        columnspacing=1.0,
        handlelength=1.0,
        handletextpad=0.3,
        borderpad=0,
        borderaxespad=0,
    )
