"""What each domain of the texts contributes to the distance of two models or groups."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from klmap import charts, contrast, style
from klmap.contrast import Contrast, Part
from klmap.design import Design
from klmap.log import logger
from klmap.split import Domains, in_words

MOST_PANELS = 8
"""Comparisons that the figure has room for; the tables have all."""

MOST_BARS = 12
"""Domains of a panel; of more, the smallest parts are joined."""

SURE = 2.0
"""Standard errors from which a mean difference counts as one group's texts being likelier."""

_FIRST, _SECOND, _NEITHER = "#0072B2", "#D55E00", "#7c8797"
_EXPECTED = "#111827"
_WIDTH = 11.0
_TOP, _FOOT = 1.2, 0.85
_TITLE, _UNDER, _ROW = 0.76, 0.42, 0.225
_RIGHT = 0.35
_LONGEST = 26


def write(folder: Path, contrasts: Sequence[Contrast], domains: Domains, texts: str) -> None:
    """Draw ``contrast.png`` and ``contrast.svg``; ``texts`` is the name of the text set."""
    with mpl.rc_context(style.RC):
        style.save(draw(contrasts, domains, texts), folder, "contrast")
    logger.info("drew %s", folder / "contrast")


def draw(contrasts: Sequence[Contrast], domains: Domains, texts: str) -> Figure:
    """One panel for each comparison: bars of its domains, and what their numbers of texts expect.

    Args:
        contrasts: the comparisons, in the order of the panels.
        domains: of the texts.
        texts: name of the text set.
    """
    shown = contrasts[:MOST_PANELS]
    panels = [_joined(contrast.by_domain(item, domains)) for item in shown]
    columns = 1 if len(panels) == 1 else 2
    rows = math.ceil(len(panels) / columns)
    bars = [
        max((len(parts) for parts in panels[row * columns : (row + 1) * columns]), default=0)
        for row in range(rows)
    ]
    heights = [_TITLE + _UNDER + _ROW * max(count, 2) for count in bars]
    height = _TOP + sum(heights) + _FOOT
    count = len(contrasts)
    design = contrasts[0].design if contrasts else None
    subject = f"{count} comparison{'s' if count != 1 else ''}"
    if count > len(shown):
        subject += f", of which the first {len(shown)} are shown"
    figure = style.new_figure(
        _WIDTH,
        height,
        "Which texts carry the distance",
        f"{subject} · {in_words(len(domains.code), texts, design)} · parts of the KL by domain, "
        "bits/byte",
        _note(shown, design),
    )
    _legend(figure, height, shown)
    left = 0.35 + style.widest([_label(part) for parts in panels for part in parts], 8)
    wide = (_WIDTH - columns * (left + _RIGHT)) / columns
    top = height - _TOP
    for row in range(rows):
        for column, number in enumerate(range(row * columns, min((row + 1) * columns, len(shown)))):
            high = _ROW * max(len(panels[number]), 2)
            x = left + column * (wide + left + _RIGHT)
            y = top - _TITLE - high
            axes = figure.add_axes((x / _WIDTH, y / height, wide / _WIDTH, high / height))
            _panel(axes, shown[number], panels[number], left)
        top -= heights[row]
    return figure


def _joined(parts: Sequence[Part]) -> list[Part]:
    """As many domains as a panel has room for, the last one standing for the others."""
    if len(parts) <= MOST_BARS:
        return list(parts)
    kept, rest = parts[: MOST_BARS - 1], parts[MOST_BARS - 1 :]
    between = [part.between for part in rest if part.between is not None]
    texts = sum(part.texts for part in rest)
    share = sum(part.text_share for part in rest)
    means = [
        (part.text_share / share * part.mean_difference,
         part.text_share / share * part.mean_difference_se)
        for part in rest
        if part.mean_difference is not None and part.mean_difference_se is not None
    ]  # fmt: skip
    known = len(means) == len(rest)
    joined = Part(
        domain=f"{len(rest)} other domains",
        texts=texts,
        kl=sum(part.kl for part in rest),
        # Parts of different texts are nearly uncorrelated.
        se=math.hypot(*(part.se for part in rest)),
        share=sum(part.share for part in rest),
        text_share=sum(part.text_share for part in rest),
        between=sum(between) if between else None,
        mean_difference=sum(mean for mean, _ in means) if known else None,
        mean_difference_se=math.hypot(*(error for _, error in means)) if known else None,
    )
    return [*kept, joined]


def _label(part: Part) -> str:
    return f"{style.shorten(part.domain, _LONGEST)}  {part.texts:,}"


def _color(part: Part) -> str:
    """By which group's log-likelihood the domain's texts raise, where that is beyond chance."""
    mean, error = part.mean_difference, part.mean_difference_se
    if mean is None or error is None or not abs(mean) > SURE * error:
        return _NEITHER
    return _FIRST if mean > 0 else _SECOND


def _panel(axes: Axes, item: Contrast, parts: Sequence[Part], left: float) -> None:
    places = range(len(parts))
    colors = [_color(part) for part in parts]
    axes.barh(places, [part.kl for part in parts], 0.72, color=colors, alpha=0.32, zorder=2)
    inner = [part.between or 0.0 for part in parts]
    axes.barh(places, inner, 0.72, color=colors, zorder=3)
    axes.errorbar(
        [part.kl for part in parts], places, xerr=[part.se for part in parts], fmt="none",
        ecolor=style.INK, elinewidth=0.9, capsize=1.8, zorder=5,
    )  # fmt: skip
    expected = [item.kl * part.text_share for part in parts]
    axes.vlines(
        expected, [place - 0.46 for place in places], [place + 0.46 for place in places],
        color=_EXPECTED, linewidth=1.3, linestyles=(0, (1.6, 1)), zorder=4,
    )  # fmt: skip
    axes.set_ylim(max(len(parts), 2) - 0.45, -0.55)
    reach = max([part.kl + part.se for part in parts] + expected)
    axes.set_xlim(0, 1.04 * reach if reach > 0 else 1)
    axes.set_yticks(places, [style.literal(_label(part)) for part in parts], size=8)
    axes.tick_params(axis="y", length=0, labelcolor=style.INK)
    axes.tick_params(axis="x", labelsize=7.5, length=2)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    style.graph(axes, "x", left=False)
    _title(axes, item, left)
    if not item.kl > 0:
        charts.message(axes, "No distance: the log-likelihoods are equal.")


def _title(axes: Axes, item: Contrast, left: float) -> None:
    shift = -72 * (left - 0.3)
    groups = item.groups
    for line, high, size, color in (
        (style.shorten(groups.name, 52), 30, 10, style.INK),
        (_pairs(item), 17, 8, style.MUTED),
        (_about(item), 5, 8, style.MUTED),
    ):
        axes.annotate(
            style.literal(line), (0, 1), xytext=(shift, high), xycoords="axes fraction",
            textcoords="offset points", size=size, color=color, va="bottom",
            weight="bold" if color == style.INK else "normal",
        )  # fmt: skip


def _pairs(item: Contrast) -> str:
    """Which groups are compared, and over how many pairs of models."""
    groups = item.groups
    first, second = (style.shorten(label, 30) for label in groups.labels)
    if not groups.second:
        return f"among {len(groups.first):,} models of {first}: {groups.pairs:,} pairs"
    if groups.pairs == 1:
        return f"{first} (first) and {second} (second)"
    return (
        f"{first} ({len(groups.first):,}, first) and {second} ({len(groups.second):,}, second): "
        f"{groups.pairs:,} pairs"
    )


def _about(item: Contrast) -> str:
    """The KL of a comparison, and in how few texts half of it lies."""
    half = item.texts_for_half
    digits = min(max(1 - math.floor(math.log10(item.se)), 2), 9) if item.se > 0 else 2
    value = f"{item.kl:.{digits}f} ± {item.se:.{digits}f}"
    if item.beyond:
        value += ", beyond the range of a KL"
    what = "mean KL" if item.groups.pairs > 1 else "KL"
    few = f"{half:,}" if item.design is None else f"about {half:,} of {item.design.texts:,}"
    return f"{what} {value} · half of it in {few} text{'s' if half != 1 or item.design else ''}"


def _note(shown: Sequence[Contrast], design: Design | None) -> str:
    lines = [
        "The parts of a panel add up to its KL; error bars are standard errors over texts. Numbers "
        "beside the names are numbers of texts. Dashed: the part if every text carried equally."
    ]
    if design is not None:
        lines = [
            "The parts of a panel add up to its KL; all are estimates by chosen texts, whose "
            "numbers stand beside the names. Error bars are standard errors over texts and their "
            "choice.",
            f"Dashed: the part if each of all {design.texts:,} texts carried equally. Between "
            "models that were scored on all of them, the contrast of the reference is exact.",
        ]
    if any(item.between is not None for item in shown):
        lines.append(
            "Colour: whose log-likelihood is the higher on the texts of the domain, relative to "
            f"all texts, by more than {SURE:g} standard errors."
        )
    if any(item.between is not None and item.groups.pairs > 1 for item in shown):
        lines.append(
            "Full colour: the part that the difference of the two groups' means makes; pale: what "
            "models scatter within their groups. This parting is klmap's own."
        )
    else:
        lines.append("Parting a KL by domain is klmap's own.")
    return "\n".join(lines)


def _legend(figure: Figure, height: float, shown: Sequence[Contrast]) -> None:
    handles: list[Patch | Line2D] = []
    if any(item.between is not None for item in shown):
        handles += [
            Patch(color=_FIRST, label="likelier to the first"),
            Patch(color=_SECOND, label="likelier to the second"),
        ]
    handles += [
        Patch(color=_NEITHER, label="neither, or one group"),
        Line2D([], [], color=_EXPECTED, linewidth=1.3, linestyle=(0, (1.6, 1)),
               label="expected from the number of texts"),
    ]  # fmt: skip
    figure.legend(
        handles=handles, loc="upper left", ncols=len(handles), fontsize=8.5,
        bbox_to_anchor=(0.3 / _WIDTH, 1 - 0.84 / height), borderaxespad=0, handlelength=1.3,
        columnspacing=1.6, handletextpad=0.5,
    )  # fmt: skip
