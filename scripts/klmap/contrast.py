"""Which domains and which texts carry the distance between two models, or two groups of models.

A KL is a sum over texts, ``KL(i, j) = sum_s (q_is - q_js)^2 / (2 N B ln 2)`` (Oyama et al. 2025,
section 3), and so is a mean of KLs over pairs of models. With means ``m`` and variances ``v`` of
two groups at one text, the mean of ``(q_is - q_js)^2`` over all pairs is
``v_1s + v_2s + (m_1s - m_2s)^2``: what the groups scatter, and the difference of their means. So no
pair is looked at. That distances are parted by text, domain and group is klmap's own.

The texts of a selection stand for the N of a reference (:mod:`klmap.design`). Then the part of a
text is that of the text itself, as one of all N, so that ranks and numbers mean what they mean
under the reference, and no text is made large by its weight. In every sum it counts as often as
it stands for texts of the reference: sums, shares and errors are estimates of those over all N
(Oyama et al., EMNLP 2025 Findings, section 3; the errors are klmap's own).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from klmap.arrays import Bools, Floats
from klmap.blocks import ranges
from klmap.design import Design
from klmap.files import write_tsv
from klmap.geometry import BEYOND, nats_per_unit
from klmap.groups import Groups
from klmap.log import logger
from klmap.split import Domains, Rows, means_over
from klmap.texts import Text, excerpt

COMPARISON_COLUMNS = (
    "comparison", "first", "second", "pairs", "kl", "se", "beyond", "between", "texts_for_half",
)  # fmt: skip
DOMAIN_COLUMNS = (
    "comparison", "domain", "texts", "kl", "se", "share", "text_share", "ratio", "between",
    "mean_difference", "mean_difference_se",
)  # fmt: skip
TEXT_COLUMNS = (
    "comparison", "rank", "index", "domain", "kl", "share", "cumulative", "difference", "text",
)  # fmt: skip
CHOSEN_COLUMNS = (*TEXT_COLUMNS[:-1], "stands_for", TEXT_COLUMNS[-1])
"""The same of a selection."""


@dataclass(frozen=True)
class Contrast:
    """The distance of two groups, text by text.

    Attributes:
        groups: what was compared.
        parts: (N,) float64, the part of every text in ``kl``, bits per byte; of a selection that
            of the text alone, not of those that it stands for.
        se: standard error of ``kl`` over texts, bits per byte; of a selection also by the choice.
        between: (N,) float64, the parts of the KL between the means of the two groups, bits per
            byte; those of a pair are ``parts``. None where there is one group.
        difference: (N,) float64, mean of the first group less that of the second, nats per text,
            both centred over the texts. None where there is one group.
        design: how these texts stand for those of a reference, if they do.
    """

    groups: Groups
    parts: Floats
    se: float
    between: Floats | None
    difference: Floats | None
    design: Design | None = None

    @property
    def kl(self) -> float:
        """KL of the pair, or mean KL over the pairs, bits per byte."""
        return self.total(self.parts)

    @property
    def kl_between(self) -> float | None:
        """KL between the means of the two groups, bits per byte; None where there is one."""
        return None if self.between is None else self.total(self.between)

    def total(self, parts: Floats) -> float:
        """Sum of parts, each as often as its text counts."""
        return float(parts.sum() if self.design is None else (self.design.times * parts).sum())

    @property
    def beyond(self) -> bool:
        """Whether the estimate is above 8 bits per byte, outside the range where it is a KL."""
        return self.kl > BEYOND

    @property
    def order(self) -> np.ndarray[Any, np.dtype[np.intp]]:
        """(N,) the texts by falling part, equal ones by index."""
        return np.argsort(-self.parts, kind="stable")

    @property
    def texts_for_half(self) -> int:
        """The smallest number of texts that carry half of the KL together; 0 where it is 0.

        Of a selection, an estimate of how many texts of the reference these are.
        """
        if not self.kl > 0:
            return 0
        if self.design is None:
            carried = np.cumsum(self.parts[self.order])
            return int(np.searchsorted(carried, carried[-1] / 2)) + 1
        times, parts = self.design.times[self.order], self.parts[self.order]
        carried = np.concatenate([[0.0], np.cumsum(times * parts)])
        last = int(np.searchsorted(carried, carried[-1] / 2)) - 1
        needed = times[:last].sum() + (carried[-1] / 2 - carried[last]) / parts[last]
        # Rounded, because of a whole number of texts the sums may be a little more.
        return math.ceil(round(float(needed), 6))


@dataclass(frozen=True)
class Part:
    """What one domain contributes to a contrast.

    Attributes:
        domain: its name.
        texts: how many texts it has; of a selection, how many were chosen.
        kl: its part of the KL, bits per byte; the parts of all domains add up to the KL.
        se: standard error of ``kl`` over texts drawn anew from all domains, bits per byte.
        share: of the KL; NaN where that is 0.
        text_share: of the texts; what ``share`` would be if all texts carried equally. Of a
            selection, of the texts of the reference.
        between: its part of the KL between the means of the groups; None where there is one.
        mean_difference: first less second, nats per text of this domain, relative to the mean
            over all texts; None where there is one group.
        mean_difference_se: standard error of that over the texts of the domain; NaN for one text.
    """

    domain: str
    texts: int
    kl: float
    se: float
    share: float
    text_share: float
    between: float | None
    mean_difference: float | None
    mean_difference_se: float | None

    @property
    def ratio(self) -> float:
        """How many times as much a text of this domain carries as the mean text."""
        return self.share / self.text_share


class _Moments:
    """Mean and squared deviations of every text over the models seen so far.

    Blocks are joined by the formula of Chan, Golub and LeVeque 1983, so that the variance of
    models that are much alike keeps its digits.
    """

    def __init__(self, texts: int) -> None:
        self.count = 0
        self.mean = np.zeros(texts)
        self.squares = np.zeros(texts)

    def add(self, rows: Floats) -> None:
        """See some models, (rows, N) nats."""
        if not len(rows):
            return
        mean = rows.mean(axis=0)
        step, count = mean - self.mean, self.count + len(rows)
        self.squares += ((rows - mean) ** 2).sum(axis=0)
        self.squares += step**2 * (self.count * len(rows) / count)
        self.mean += step * (len(rows) / count)
        self.count = count


def measure(matrix: Rows, comparisons: Sequence[Groups]) -> list[Contrast]:
    """All comparisons, from one pass over the clipped float64 log-likelihoods.

    Args:
        matrix: the models and texts.
        comparisons: rows of the matrix, from :func:`klmap.groups.find`.
    """
    texts = len(matrix.domain)
    sides = [(item, rows) for item in comparisons for rows in (item.first, item.second)]
    moments = [_Moments(texts) for _ in sides]
    needed = np.unique([row for _, rows in sides for row in rows])
    for begin, end in ranges(len(matrix.model), 8 * texts):
        if not ((needed >= begin) & (needed < end)).any():
            continue
        values = np.asarray(matrix.loglik(begin, end), np.float64)
        values = np.maximum(values, matrix.clip_threshold)
        values -= means_over(values, matrix.design)[:, None]
        for (_, rows), seen in zip(sides, moments, strict=True):
            seen.add(values[[row - begin for row in rows if begin <= row < end]])
    return [
        _contrast(item, first, second, matrix)
        for item, first, second in zip(comparisons, moments[::2], moments[1::2], strict=True)
    ]


def _contrast(groups: Groups, first: _Moments, second: _Moments, matrix: Rows) -> Contrast:
    design = matrix.design
    texts = len(first.mean) if design is None else design.texts
    unit = 2 * nats_per_unit(matrix.mean_bytes)
    between = difference = None
    if groups.second:
        difference = first.mean - second.mean
        squares = second.count * first.squares + first.count * second.squares
        squares += first.count * second.count * difference**2
        between = difference**2 / (texts * unit)
    else:
        squares = first.count * first.squares
    squares /= groups.pairs
    parts = squares / (texts * unit)
    if design is None:
        error = float(squares.std() / np.sqrt(texts) / unit)
    else:
        error = _error_of_total(parts, design)
    found = Contrast(groups, parts, error, between, difference, design)
    logger.info(
        "%s: %.4f bits/byte over %d pairs, half of it in %s%d of %d texts%s",
        groups.name, found.kl, groups.pairs, "" if design is None else "about ",
        found.texts_for_half, texts,
        "; beyond the range where it is a KL" if found.beyond else "",
    )  # fmt: skip
    return found


def _error_of_total(values: Floats, design: Design) -> float:
    """Standard error of ``sum w^2 f`` as an estimate of a sum over N texts (:mod:`klmap.design`).

    Args:
        values: (d,) ``f``.
        design: of the d texts.
    """
    counted = design.times * values
    fixed = design.variance * design.balance
    variance = ((design.variance * counted + values) * counted).sum()
    variance -= counted.sum() ** 2 / design.texts
    if (spread := (fixed * design.balance).sum()) > 0:
        variance -= (fixed * counted).sum() ** 2 / spread
    return math.sqrt(max(variance, 0.0))


def by_domain(contrast: Contrast, domains: Domains) -> list[Part]:
    """What every domain contributes, the largest part first.

    Args:
        contrast: of all texts.
        domains: of the same texts.
    """
    texts, kl, design = len(domains.code), contrast.kl, contrast.design
    found = []
    for number, (name, size) in enumerate(zip(domains.names, domains.sizes, strict=True)):
        own = domains.code == number
        inside = np.where(own, contrast.parts, 0)
        between = None
        if contrast.between is not None:
            between = _inside(contrast, contrast.between, own)
        part = _inside(contrast, contrast.parts, own)
        mean = error = None
        if contrast.difference is not None:
            mean, error = _mean(contrast.difference, own, design)
        found.append(
            Part(
                domain=name,
                texts=size,
                kl=part,
                se=(
                    float(inside.std() * np.sqrt(texts))
                    if design is None
                    else _error_of_total(inside, design)
                ),
                share=part / kl if kl > 0 else float("nan"),
                text_share=size / texts if design is None else float(design.share[own].sum()),
                between=between,
                mean_difference=mean,
                mean_difference_se=error,
            )
        )
    return sorted(found, key=lambda item: (-item.kl, item.domain))


def _inside(contrast: Contrast, parts: Floats, own: Bools) -> float:
    """Sum of the parts of some texts, each as often as its text counts."""
    if contrast.design is None:
        return float(parts[own].sum())
    return float((contrast.design.times[own] * parts[own]).sum())


def _mean(values: Floats, own: Bools, design: Design | None) -> tuple[float, float]:
    """Mean of some of the texts and its standard error; NaN of one text."""
    inside, size = values[own], int(own.sum())
    if design is None:
        error = inside.std(ddof=1) / np.sqrt(size) if size > 1 else float("nan")
        return float(inside.mean()), float(error)
    times = design.times[own]
    mean = float((times * inside).sum() / times.sum())
    if size < 2:
        return mean, float("nan")
    # To first order, because the number of texts that it is the mean of is an estimate too.
    apart = np.where(own, values - mean, 0) / times.sum()
    return mean, _error_of_total(apart, design) * math.sqrt(size / (size - 1))


def write_comparisons(path: Path, contrasts: Sequence[Contrast]) -> None:
    """Write comparisons.tsv: one row per comparison, with the numbers of models of both groups."""
    rows = (
        (
            item.groups.name,
            len(item.groups.first),
            len(item.groups.second),
            item.groups.pairs,
            item.kl,
            item.se,
            "beyond" if item.beyond else "",
            item.kl_between,
            item.texts_for_half,
        )
        for item in contrasts
    )
    write_tsv(path, COMPARISON_COLUMNS, rows)


def write_domains(path: Path, contrasts: Sequence[Contrast], domains: Domains) -> None:
    """Write domains.tsv: the domains of each comparison by falling part."""
    rows = (
        (
            item.groups.name, part.domain, part.texts, part.kl, part.se, _known(part.share),
            part.text_share, _known(part.ratio), part.between, part.mean_difference,
            _known(part.mean_difference_se),
        )
        for item in contrasts
        for part in by_domain(item, domains)
    )  # fmt: skip
    write_tsv(path, DOMAIN_COLUMNS, rows)


def write_texts(
    path: Path, contrasts: Sequence[Contrast], texts: Sequence[Text], most: int
) -> None:
    """Write texts.tsv: the texts that carry most of each comparison.

    A row is of the text itself. Of a selection there is a column ``stands_for``, its weight
    ``w^2``, and ``cumulative`` adds that many times the share.

    Args:
        path: the table.
        contrasts: of these texts.
        texts: in the order of the matrix.
        most: rows of each comparison at most.
    """
    rows = []
    chosen = any(item.design is not None for item in contrasts)
    for item in contrasts:
        carried = 0.0
        for rank, index in enumerate(item.order[:most], start=1):
            text, part = texts[index], float(item.parts[index])
            share = part / item.kl if item.kl > 0 else float("nan")
            times = () if item.design is None else (float(item.design.times[index]),)
            carried += share * math.prod(times)
            difference = None if item.difference is None else float(item.difference[index])
            rows.append((
                item.groups.name, rank, text.index, text.domain, part, _known(share),
                _known(carried), difference, *times, excerpt(text.text),
            ))  # fmt: skip
    write_tsv(path, CHOSEN_COLUMNS if chosen else TEXT_COLUMNS, rows)


def _known(value: float | None) -> float | None:
    """The number, or None, an empty cell, where there is none."""
    return None if value is None or np.isnan(value) else value
