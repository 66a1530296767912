"""How far the distances between models by two text sets agree, on the models that both have.

Mantel and Procrustes correlations are those of ``concordance``: of the distances ``sqrt(KL)``, and
of the principal coordinates that belong to them. To compare text sets by them is klmap's own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from klmap import concordance
from klmap.arrays import Floats
from klmap.correlation import product
from klmap.errors import InputError
from klmap.log import logger
from klmap.store import MatrixFile, open_matrix
from klmap.subsets import Coordinates, sampled


def named(items: Sequence[str]) -> list[tuple[str, Path]]:
    """Names and paths of ``NAME=PATH``.

    Raises:
        InputError: an item has another form.
    """
    found = []
    for item in items:
        name, equals, path = item.partition("=")
        if not (name and equals and path):
            raise InputError(f"--others: {item!r} is not NAME=matrix.h5")
        found.append((name, Path(path)))
    return found


@dataclass(frozen=True)
class Other:
    """Another text set that scores some of the same models.

    Attributes:
        name: of the text set.
        models: how many are compared.
        mantel: correlation of ``sqrt(KL)`` over pairs of models, and its p-value.
        mantel_rank: the same of ranks.
        procrustes: correlation of the models' principal coordinates, and its p-value.
        neighbors: share of nearest models that are the same.
    """

    name: str
    models: int
    mantel: concordance.Test
    mantel_rank: float
    procrustes: concordance.Test
    neighbors: float


def between(matrix: MatrixFile, name: str, path: Path, seed: int) -> Other:
    """How far the distances by these texts and by those of another set agree.

    Args:
        matrix: of these texts.
        name: of the other text set.
        path: its matrix.
        seed: of the models, where there are many, and of the tests.

    Raises:
        InputError: the other matrix is missing or broken.
    """
    with open_matrix(path) as other:
        row = {model: number for number, model in enumerate(other.model)}
        common = np.array([n for n, model in enumerate(matrix.model) if model in row], np.intp)
        common = common[sampled(len(common), seed)]
        theirs = np.array([row[matrix.model[number]] for number in common], np.intp)
        order = np.argsort(theirs)
        left = Coordinates.read(matrix, common)
        right = Coordinates.read(other, theirs[order])
    right.points[:, order] = right.points.copy()
    if len(common) < 3:
        logger.warning("%s: only %d models are on both maps; nothing to compare", name, len(common))
        none = concordance.Test(math.nan, math.nan)
        return Other(name, len(common), none, math.nan, none, math.nan)
    sides = [some.side(some.sums(np.arange(some.texts))) for some in (left, right)]
    one, two = (_square(np.sqrt(side.pairs), len(common)) for side in sides)
    points = [some.points.T.astype(np.float64) for some in (left, right)]
    found = Other(
        name,
        len(common),
        concordance.mantel(one, two, seed),
        product(sides[0].ranks, sides[1].ranks),
        concordance.procrustes(points[0], points[1], seed),
        concordance.kept(*sides),
    )
    logger.info(
        "%s: Mantel %.3f, Procrustes %.3f", name, found.mantel.value, found.procrustes.value
    )
    return found


def _square(pairs: Floats, models: int) -> Floats:
    """(K, K) of the pairs i < j."""
    full = np.zeros((models, models))
    full[np.triu_indices(models, 1)] = pairs
    return full + full.T
