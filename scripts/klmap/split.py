"""Which texts two models differ on: the KL of a pair as a sum over the domains of the texts.

``KL(i, j) = sum_s (q_is - q_js)^2 / (2 N B ln 2)`` (Oyama et al. 2025, section 3) is a sum over
texts. The part of a domain is the sum over its own texts, with the centring and the N of all
texts, so that the parts add up to the KL. Parting it by domain is klmap's own.

Where the texts are a selection, which stands for the N texts of a reference (:mod:`klmap.design`),
each counts ``w^2`` times: the parts are estimates of those over all N, and add up to the estimate
of the KL (Oyama et al., EMNLP 2025 Findings, section 3).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from klmap.arrays import Floats
from klmap.design import Design
from klmap.geometry import nats_per_unit

Codes = npt.NDArray[np.intp]

MOST_DOMAINS = 32
"""Domains that are told apart; of more, the smallest are joined."""

_ROWS = 512
_BLOCK_BYTES = 1 << 30
_PAIR_VALUES = 1 << 22


class Rows(Protocol):
    """What is read of a matrix: ``store.MatrixFile``, or anything alike."""

    @property
    def model(self) -> Sequence[str]:
        """K names."""

    @property
    def domain(self) -> Sequence[str]:
        """N labels of the texts."""

    @property
    def clip_threshold(self) -> float:
        """Nats; lower values count as this one."""

    @property
    def mean_bytes(self) -> float:
        """UTF-8 bytes per text, B."""

    @property
    def design(self) -> Design | None:
        """How these texts stand for those of a reference, if they do."""

    def loglik(self, begin: int, end: int) -> npt.NDArray[Any]:
        """(end - begin, N) raw log-likelihoods of some rows, nats."""


@dataclass(frozen=True)
class Domains:
    """The texts of a set by domain.

    Attributes:
        names: D names by falling number of texts, then by name; the last stands for all that are
            joined, if any are.
        code: (N,) the domain of each text, an index into ``names``.
        sizes: D numbers of texts; of a selection, of those that were chosen.
        joined: how many domains the last one stands for; 0 if none are joined.
    """

    names: tuple[str, ...]
    code: Codes
    sizes: tuple[int, ...]
    joined: int = 0


@dataclass(frozen=True)
class Block:
    """Some texts of all models that are asked for.

    Attributes:
        domains: (C,) the domain of each column, ascending.
        values: (R, C) float64, ``w (l - mean l) / sqrt(2 N B ln 2)`` of clipped log-likelihoods
            ``l``: squared differences of two rows, summed over all texts, are bits per byte. The
            weights ``w`` of the texts are 1, and the mean the plain one, but for a selection.
    """

    domains: Codes
    values: Floats


def domains_of(labels: Sequence[str], most: int = MOST_DOMAINS, least: int = 1) -> Domains:
    """The domains of a text set.

    Args:
        labels: N labels of the texts.
        most: domains that are told apart at most, the joined ones as one of them.
        least: texts without which a domain is joined with others.
    """
    counts = Counter(labels)
    ranked = sorted(counts, key=lambda name: (-counts[name], name))
    kept = [name for name in ranked if counts[name] >= least]
    if len(kept) > most or (len(kept) == most and len(ranked) > most):
        kept = kept[: most - 1]
    position = {name: number for number, name in enumerate(kept)}
    rest = ranked[len(kept) :]
    position.update(dict.fromkeys(rest, len(kept)))
    # One alone is joined with nothing, and keeps its name.
    names = [*kept, f"{len(rest):,} smaller domains"] if len(rest) > 1 else ranked
    code = np.array([position[label] for label in labels], np.intp)
    sizes = np.bincount(code, minlength=len(names))
    return Domains(
        tuple(names), code, tuple(int(size) for size in sizes), len(rest) if len(rest) > 1 else 0
    )


def blocks(
    matrix: Rows,
    domains: Domains,
    rows: npt.NDArray[np.integer[Any]] | None = None,
    whole: bool = False,
    block_bytes: int = _BLOCK_BYTES,
) -> Iterator[Block]:
    """The texts domain by domain, as many at a time as memory allows.

    The matrix is read once for each block, and once before if there are several.

    Args:
        matrix: the models and texts.
        domains: of the texts.
        rows: (R,) the models that are asked for, ascending; by default all of them.
        whole: never cut a domain in two; a block is then as large as its domain at least.
        block_bytes: memory that a block may need.
    """
    wanted = np.arange(len(matrix.model)) if rows is None else np.asarray(rows)
    design = matrix.design
    texts = len(domains.code) if design is None else design.texts
    scale = 1 / np.sqrt(2 * texts * nats_per_unit(matrix.mean_bytes))
    order = np.argsort(domains.code, kind="stable")
    width = max(1, block_bytes // (8 * max(len(wanted), 1)))
    cuts = list(_cuts(domains.sizes, width, whole))
    means = np.zeros(len(wanted))
    if len(cuts) > 1:
        for place, values in _read(matrix, wanted):
            means[place] = means_over(values, design)
    for begin, end in cuts:
        columns = order[begin:end]
        block = np.empty((len(wanted), end - begin))
        for place, values in _read(matrix, wanted):
            # Many times as fast as values[:, columns].
            block[place] = np.take(values, columns, axis=1)
        block -= (means_over(block, design, columns) if len(cuts) == 1 else means)[:, None]
        block *= scale if design is None else scale * design.weight[columns]
        yield Block(domains.code[columns], block)


def means_over(values: Floats, design: Design | None, columns: Codes | None = None) -> Floats:
    """Means of rows over texts, weighted where the texts stand for those of a reference.

    Args:
        values: (R, N).
        design: of the N texts, if they are a selection.
        columns: (N,) which texts of the design these are; by default all in their order.

    Returns:
        (R,) in the unit of ``values``; the same bits on every number of threads.
    """
    if design is None:
        return np.asarray(values.mean(axis=1), np.float64)
    share = design.share if columns is None else design.share[columns]
    return np.asarray(np.einsum("rs,s->r", values, share), np.float64)


def in_words(texts: int, name: str, design: Design | None) -> str:
    """How many texts of which set, or how many of a reference's these are, as subtitles say it."""
    if design is None:
        return f"{texts:,} texts of “{name}”"
    return f"{texts:,} of the {design.texts:,} texts (“{name}”)"


def _read(
    matrix: Rows, wanted: npt.NDArray[np.integer[Any]]
) -> Iterator[tuple[npt.NDArray[np.intp], Floats]]:
    """Clipped rows, a few at a time, and where among the wanted ones they belong."""
    for begin in range(0, len(matrix.model), _ROWS):
        end = min(begin + _ROWS, len(matrix.model))
        place = np.flatnonzero((wanted >= begin) & (wanted < end))
        if place.size:
            values = np.asarray(matrix.loglik(begin, end), np.float64)
            if place.size < len(values):
                values = values[wanted[place] - begin]
            yield place, np.maximum(values, matrix.clip_threshold)


def _cuts(sizes: Sequence[int], width: int, whole: bool) -> Iterator[tuple[int, int]]:
    """Ranges of columns, which are sorted by domain."""
    total = sum(sizes)
    if not whole:
        yield from ((begin, min(begin + width, total)) for begin in range(0, total, width))
        return
    begin = end = 0
    for size in sizes:
        if end > begin and end + size - begin > width:
            yield begin, end
            begin = end
        end += size
    yield begin, end


def parts(
    matrix: Rows,
    first: npt.NDArray[np.integer[Any]],
    second: npt.NDArray[np.integer[Any]],
    domains: Domains | None = None,
    block_bytes: int = _BLOCK_BYTES,
) -> Floats:
    """The part of every domain in the KL of the given pairs of models.

    From differences of clipped float64 log-likelihoods, so that near pairs keep their digits.

    Args:
        matrix: the models and texts.
        first: (P,) rows.
        second: (P,) rows.
        domains: of the texts; by default all that the matrix names.
        block_bytes: memory for the texts that are held at one time.

    Returns:
        (P, D) float64, bits per byte, in the order of ``domains.names``; a row adds up to the KL.
    """
    domains = domains_of(matrix.domain) if domains is None else domains
    result = np.zeros((len(first), len(domains.names)))
    rows, inverse = np.unique(np.concatenate([first, second]), return_inverse=True)
    left, right = inverse[: len(first)], inverse[len(first) :]
    if not len(rows):
        return result
    for block in blocks(matrix, domains, rows, block_bytes=block_bytes):
        _add(result, block, left, right)
    return result


def _add(result: Floats, block: Block, left: Codes, right: Codes) -> None:
    """Add the squared differences of all pairs in one block to their domains."""
    starts = np.flatnonzero(np.r_[True, block.domains[1:] != block.domains[:-1]])
    present = block.domains[starts]
    step = max(1, _PAIR_VALUES // block.values.shape[1])
    for begin in range(0, len(left), step):
        pairs = slice(begin, begin + step)
        square = block.values[left[pairs]]
        square -= block.values[right[pairs]]
        square *= square
        result[pairs, present] += np.add.reduceat(square, starts, axis=1)
