"""Whether the shift by several edits of the prompt at once is the sum of the shifts by each.

Takase et al. 2026 find shifts of composed prompts close to the sum of the single ones. For each
model the measured shift ``s`` is compared with the sum ``p`` of the shifts by the parts, both
centred over texts. The measures, their errors and what they are compared with are klmap's own:

- cosine of ``s`` and ``p``; slope of ``s`` on ``p``, ``s.p / |p|^2``;
- relative error ``|s - p| / |s|``, and ``R^2 = 1 - |s - p|^2 / |s|^2``, of the sum as it is, with
  no factor fitted;
- the relative error of the nearest of the parts alone, because a sum in which one part is all says
  nothing of additivity;
- the relative error that the numerical errors of the scores alone would give.

If the n + 2 wordings (no edit, each part, all parts) differed by chance alone, the cosine would be
``sqrt(n / (2 (n + 1)))``, .58 for two parts, because both sides begin at the same wording; the
relative error would be ``sqrt((n^2 - n + 2) / 2)``, 1.41.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from klmap.arrays import Floats, Rows
from klmap.prompt_edits import Edited


@dataclass(frozen=True)
class Sum:
    """One composed edit of P parts and the n models that are scored with it and all its parts.

    Attributes:
        name: of the edit.
        parts: names of the P edits.
        rows: (n,) rows of the models.
        kl: (n,) size of the measured shift, bits per byte.
        predicted_kl: (n,) size of the sum, bits per byte.
        cosine: (n,) of the two; NaN where one of them is no shift.
        relative_error: (n,) of the sum; NaN where the measured shift is none.
        relative_error_se: (n,) its standard error over texts.
        alone: (n,) relative error of the nearest part alone.
        noise_error: (n,) relative error by the errors of the scores alone; NaN where unknown.
        r2: (n,) share of the measured shift that the sum explains; negative where it is farther
            off than no shift at all.
        slope: (n,) of the measured shift on the sum; NaN where the sum is no shift.
        gain: (n,) by how much the responses are likelier, bits per byte.
        predicted_gain: (n,) sum of the gains by the parts.
    """

    name: str
    parts: tuple[str, ...]
    rows: Rows
    kl: Floats
    predicted_kl: Floats
    cosine: Floats
    relative_error: Floats
    relative_error_se: Floats
    alone: Floats
    noise_error: Floats
    r2: Floats
    slope: Floats
    gain: Floats
    predicted_gain: Floats


def measure(some: Edited) -> list[Sum]:
    """Compare every composed edit with the sum of its parts, model by model.

    Raises:
        InputError: a file is truncated.
    """
    return [_measure(some, name, parts) for name, parts in some.composed.items()]


def chance_cosine(parts: int) -> float:
    """The cosine of a shift with the sum of others where wordings differ by chance alone."""
    return math.sqrt(parts / (2 * (parts + 1)))


def chance_error(parts: int) -> float:
    """The relative error of the sum where wordings differ by chance alone."""
    return math.sqrt((parts * parts - parts + 2) / 2)


def _measure(some: Edited, name: str, parts: tuple[str, ...]) -> Sum:
    edits = [some.names.index(each) for each in (name, *parts)]
    rows = np.flatnonzero(some.under[edits].all(axis=0))
    size, total, both, wrong, nearest, error, gain, sums = np.empty((8, len(rows)))
    done, texts = 0, some.texts
    for block in some.blocks(rows, edits):
        part = slice(done, done + len(block.rows))
        done += len(block.rows)
        shift, *single = block.shifts
        predicted = np.sum(single, axis=0)
        size[part] = np.square(shift).mean(axis=1)
        total[part] = np.square(predicted).mean(axis=1)
        both[part] = np.einsum("kn,kn->k", shift, predicted) / texts
        nearest[part] = np.min([np.square(shift - each).mean(axis=1) for each in single], axis=0)
        rest = np.square(shift - predicted)
        wrong[part] = rest.mean(axis=1)
        ratio = _over(wrong[part], size[part])
        error[part] = (rest - ratio[:, None] * np.square(shift)).std(axis=1) / math.sqrt(texts)
        gain[part] = block.gains[0].mean(axis=1)
        sums[part] = np.sum([each.mean(axis=1) for each in block.gains[1:]], axis=0)
    relative = np.sqrt(_over(wrong, size))
    noise = [some.noise(edit)[rows] ** 2 for edit in edits]
    noise.append((len(parts) - 1) ** 2 * some.found.noise[rows] ** 2)
    return Sum(
        name=name,
        parts=parts,
        rows=rows,
        kl=size / some.unit,
        predicted_kl=total / some.unit,
        cosine=np.clip(_over(both, np.sqrt(size * total)), -1, 1),
        relative_error=relative,
        relative_error_se=_over(_over(error, size), 2 * relative),
        alone=np.sqrt(_over(nearest, size)),
        noise_error=np.sqrt(_over(np.sum(noise, axis=0), size)),
        r2=1 - _over(wrong, size),
        slope=_over(both, total),
        gain=2 * gain / some.unit,
        predicted_gain=2 * sums / some.unit,
    )


def _over(above: Floats, below: Floats) -> Floats:
    """Quotients; NaN over zero."""
    return np.asarray(above / np.where(below > 0, below, math.nan), np.float64)
