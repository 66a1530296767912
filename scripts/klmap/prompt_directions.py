"""Whether two edits of the prompt move models in one direction: cosines, with intervals.

The direction of an edit is the mean of the centred shifts of its models (:mod:`klmap.prompts`;
shifts are those of Takase et al. 2026). A bootstrap sample draws the texts anew, the same ones for
all edits, and centres again; the models stay. Beside the cosine of two directions stands the median
over models of the cosine of their own two shifts, because models that move far count most in a
direction. All cosines and intervals are klmap's own.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from klmap.arrays import Floats
from klmap.prompt_edits import Edited
from klmap.prompts import Edit

_BLOCK = 50


@dataclass(frozen=True)
class Cosine:
    """Two of E edits and how alike their directions are.

    Attributes:
        first: number of an edit.
        second: number of a later one.
        cosine: of their directions; NaN where one of them moves nothing.
        low: lower end of its 95 % interval over texts.
        high: upper end.
        models: how many models are scored with both.
        median: over these, of the cosines of their own two shifts; NaN where there is none.
    """

    first: int
    second: int
    cosine: float
    low: float
    high: float
    models: int
    median: float


def measure(some: Edited, edits: Sequence[Edit], draws: int, seed: int) -> list[Cosine]:
    """Cosines of all pairs of edits.

    Args:
        some: the models and edits.
        edits: what was measured of these.
        draws: bootstrap samples of the texts; 0 for no intervals.
        seed: of these.

    Raises:
        InputError: a file is truncated.
    """
    directions = np.array([edit.direction for edit in edits])
    drawn = _drawn(directions, draws, seed)
    own = _own(some)
    found = []
    for first, second in itertools.combinations(range(len(edits)), 2):
        one, other = directions[first], directions[second]
        norm = math.sqrt(float(one @ one) * float(other @ other))
        cosine = float(np.clip(one @ other / norm, -1, 1)) if norm > 0 else math.nan
        low = high = math.nan
        if draws and norm > 0:
            low, high = np.nanquantile(drawn[first, second], (0.025, 0.975))
        cosines = own[first, second]
        known = cosines[np.isfinite(cosines)]
        median = float(np.median(known)) if known.size else math.nan
        both = int((some.under[first] & some.under[second]).sum())
        found.append(Cosine(first, second, cosine, float(low), float(high), both, median))
    return found


def _drawn(directions: Floats, draws: int, seed: int) -> Floats:
    """(E, E, draws) cosines of the directions over the texts of each bootstrap sample."""
    count, texts = directions.shape
    rng = np.random.default_rng(seed)
    found = np.full((count, count, draws), math.nan)
    for begin in range(0, draws, _BLOCK):
        part = slice(begin, min(begin + _BLOCK, draws))
        weight = rng.multinomial(texts, np.full(texts, 1 / texts), part.stop - begin) / texts
        means = directions @ weight.T
        products = {
            (first, second): weight @ (directions[first] * directions[second])
            - means[first] * means[second]
            for first, second in itertools.combinations_with_replacement(range(count), 2)
        }
        for first, second in itertools.combinations(range(count), 2):
            size = products[first, first] * products[second, second]
            norm = np.sqrt(np.where(size > 0, size, math.nan))
            found[first, second, part] = np.clip(products[first, second] / norm, -1, 1)
    return found


def _own(some: Edited) -> Floats:
    """(E, E, K) cosines of the shifts of one model by two edits; NaN where it lacks one."""
    count = len(some.names)
    found = np.full((count, count, len(some.found.models)), math.nan)
    for block in some.blocks(np.flatnonzero(some.under.any(axis=0))):
        unit = np.full((count, len(block.rows), some.texts), math.nan)
        for edit, (places, shift) in enumerate(zip(block.places, block.shifts, strict=True)):
            norm = np.sqrt(np.square(shift).sum(axis=1, keepdims=True))
            unit[edit, places] = shift / np.where(norm > 0, norm, math.nan)
        found[:, :, block.rows] = np.einsum("ekn,fkn->efk", unit, unit)
    return found
