"""One map for each domain of the texts: the same models, placed by those texts alone.

A domain's map has its own centring and its own bytes per text, so its KLs are what a text set of
that domain would give. It begins at the overall layout and is turned onto it, so that two panels
can be compared. Of a text selection the chosen texts of a domain stand for all of that domain, with
the weights that they have in the selection; its size and its bytes are estimated by the same
weights. How far the two agree is the rank correlation of their KLs over all pairs of
models, the statistic of Mantel (1967) with ranks. That maps are made by domain is klmap's own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from klmap import geometry, layout, split
from klmap.arrays import Floats
from klmap.correlation import product, ranks
from klmap.errors import InputError
from klmap.files import read_tsv, write_tsv
from klmap.log import logger
from klmap.models_table import Model
from klmap.store import MatrixFile

COLUMNS = ("domain", "texts", "model", "x", "y", "correlation")

LEAST_TEXTS = 20
"""Domains of fewer texts are joined, and left out where they are fewer together: a KL from so few
says little. Where nothing else is left, they are one map."""

MOST_MAPS = 24
"""Maps that a figure has room for; the smallest domains beyond are joined."""


@dataclass(frozen=True)
class DomainMap:
    """The map of one domain.

    Attributes:
        domain: its name.
        texts: how many texts it has; of a selection, how many were chosen.
        correlation: Spearman's, between its KLs and those of all texts, over pairs of models;
            NaN where there are fewer than three models, or all KLs are equal.
        points: (K, 2) places, aligned to the overall layout.
    """

    domain: str
    texts: int
    correlation: float
    points: Floats


def make(
    matrix: MatrixFile, places: Sequence[layout.Place], report: layout.Report, seed: int
) -> list[DomainMap]:
    """The maps of all domains, the largest first; at least one.

    Everything runs in one thread, because sums split over threads depend on their number. Needs
    K x K numbers four times, and the texts of the largest domain.

    Args:
        matrix: the models and texts.
        places: the overall layout, in the order of the matrix.
        report: how that was made; so are the maps.
        seed: of the maps.
    """
    domains = split.domains_of(matrix.domain, MOST_MAPS, LEAST_TEXTS)
    _tell(domains, matrix.domain)
    start = layout.plane_of(places)
    found = []
    with threadpool_limits(1):
        overall = _of_pairs(_all_texts(matrix, domains))
        for number, points in _each(matrix, domains):
            name, texts = domains.names[number], domains.sizes[number]
            correlation = product(overall, _of_pairs(_squares(points)))
            reduced = geometry.principal_components(points)
            plane = layout.continued(reduced, start, report, seed)
            found.append(DomainMap(name, texts, correlation, plane))
            logger.info(
                "%s: %d texts, rank correlation %.3f with the KLs of all", name, texts, correlation
            )
    return sorted(found, key=lambda item: (-item.texts, item.domain))


def _tell(domains: split.Domains, labels: Sequence[str]) -> None:
    """Say which domains have no map of their own."""
    texts = domains.sizes[-1]
    out = texts < LEAST_TEXTS and len(domains.names) > 1
    if domains.joined:
        rest = ", ".join(sorted(set(labels) - set(domains.names)))
        logger.info("%s: %s; %d texts together", "left out" if out else "joined", rest, texts)
    elif out:
        logger.info("left out: %s; %d texts", domains.names[-1], texts)


def _all_texts(matrix: split.Rows, domains: split.Domains) -> Floats:
    """(K, K) KL of all pairs, bits per byte."""
    total = np.zeros((len(matrix.model), len(matrix.model)))
    for block in split.blocks(matrix, domains):
        total += _squares(block.values)
    return total


def _each(matrix: MatrixFile, domains: split.Domains) -> Iterator[tuple[int, Floats]]:
    """(K, n) points of every domain that has texts enough; squared distance is its own KL.

    Of a selection it is ``sum_u w_u^2 (d_u - mean d)^2 / (2 ln 2 sum_u w_u^2 bytes_u)`` over the
    domain's texts, of which the mean is weighted by ``w_u^2`` too: an estimate of the KL by all
    texts of the domain, however many of them there are in the reference.
    """
    for block in split.blocks(matrix, domains, whole=True):
        for number in np.unique(block.domains):
            begin, end = np.searchsorted(block.domains, [number, number + 1])
            if end - begin < LEAST_TEXTS and len(domains.names) > 1:
                continue
            own = domains.code == number
            points = block.values[:, begin:end]
            if matrix.design is None:
                points = points - points.mean(axis=1, keepdims=True)
                own_bytes = (end - begin) * float(matrix.n_bytes[own].mean())
            else:
                weight, times = matrix.design.weight[own], matrix.design.times[own]
                points = points - np.outer(points @ weight / times.sum(), weight)
                own_bytes = float(times @ matrix.n_bytes[own])
            points -= points.mean(axis=0)
            share = own_bytes / (matrix.texts * matrix.mean_bytes)
            yield int(number), points / math.sqrt(share)


def _squares(points: Floats) -> Floats:
    """(K, K) squared distances of points."""
    norms = np.einsum("ks,ks->k", points, points)
    squares = points @ points.T
    squares *= -2
    squares += norms[:, None]
    squares += norms[None, :]
    np.maximum(squares, 0, out=squares)
    return np.asarray(squares, np.float64)


def _of_pairs(squares: Floats) -> Floats:
    """Ranks of all pairs of models, to be correlated."""
    return ranks(squares[np.triu_indices(len(squares), 1)])


def write_domains(path: Path, models: Sequence[Model], maps: Sequence[DomainMap]) -> None:
    """Write domains.tsv; an unknown correlation is an empty cell."""
    rows = (
        (
            item.domain,
            item.texts,
            model.model,
            float(x),
            float(y),
            None if math.isnan(item.correlation) else item.correlation,
        )
        for item in maps
        for model, (x, y) in zip(models, item.points, strict=True)
    )
    write_tsv(path, COLUMNS, rows)


def read_domains(path: Path, models: Sequence[Model]) -> list[DomainMap]:
    """Read domains.tsv, the points in the order of ``models``.

    Raises:
        InputError: the file is missing or broken, or does not place these models.
    """
    rows: dict[str, dict[str, dict[str, str]]] = {}
    try:
        for row in read_tsv(path):
            rows.setdefault(row["domain"], {})[row["model"]] = row
        return [
            _read(domain, [by_model[model.model] for model in models])
            for domain, by_model in rows.items()
        ]
    except KeyError as error:
        raise InputError(f"{path}: {error} is missing; remove it and run again") from None
    except ValueError as error:
        raise InputError(f"{path}: {error}; remove it and run again") from None


def _read(domain: str, rows: Sequence[dict[str, str]]) -> DomainMap:
    correlation = rows[0]["correlation"]
    return DomainMap(
        domain,
        int(rows[0]["texts"]),
        float(correlation) if correlation else math.nan,
        np.array([(float(row["x"]), float(row["y"])) for row in rows], np.float64),
    )
