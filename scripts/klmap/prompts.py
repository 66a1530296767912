"""What an edit of the prompt does to models: how far it shifts each, and in which direction.

The response to a prompt has one log-likelihood with the prompt as it is, ``l_i(y|x)``, and another
one with the prompt edited, ``l_i(y|m(x))``. Their difference over all texts is the *shift* of model
i by edit m (Takase et al. 2026, "Language Model Maps for Prompt-Response Distributions via
Log-Likelihood Vectors"). Both sides are clipped at the threshold of the map. What is left when its
mean over texts is taken away says where the model moves; its size as a KL is ``Var_s / (2 B ln 2)``
as for any pair of models, B bytes of responses. The mean itself, of log-likelihoods that are not
clipped, says whether the edit makes the responses likelier.

Errors, the noise floor, coherence, the parts by domain, the KLs of pairs under an edit and the
cosines of directions are klmap's own.

*Directions.* The direction of an edit is the mean of its centred shifts over models. How far models
agree on it is the mean cosine of each model's shift with the mean of all others: its own shift is
left out, because it alone would give a cosine. Checkpoints and fine-tunes of one model agree with
each other whatever the edit does, so a second number compares with the models of other families.

*Where all shifts begin.* Each of them ends at a wording of its own, and begins at the same one. If
the wordings of a prompt differed by chance alone, all to the same extent, any two shifts would have
the cosine 1/2. So 1/2, and not 0, is what edits that have nothing in common have; the errors of the
score with the prompt as it is do their part too.

A few vectors of N texts are held per edit and family, beside the blocks that are read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from klmap.arrays import Bools, Floats, Rows
from klmap.geometry import noise_floor
from klmap.prompt_edits import Edited


@dataclass(frozen=True)
class Edit:
    """What one edit does to n models.

    Attributes:
        name: of the edit.
        rows: (n,) rows of the models.
        kl: (n,) size of the shift, bits per byte.
        se: (n,) its standard error over texts.
        floor: (n,) noise floor of the two scores, bits per byte; NaN where unknown.
        gain: (n,) by how much the responses are likelier, bits per byte; negative where less so.
        gain_se: (n,) its standard error over texts; NaN for one text.
        direction: (N,) mean shift, nats.
        cosine: (n,) of each shift with the mean of all others; NaN where there is none.
        across: (n,) of each shift with the mean of the models of other families; NaN likewise.
        before: mean KL of pairs of these models, bits per byte; NaN for one model.
        after: the same with the edit.
        change_se: standard error over texts of ``after - before``.
        share: (D,) share of each domain in the squared shifts, mean over the models that move.
        share_se: (D,) its standard error over texts.
        domain_gain: (D,) gain, bits per byte of the domain, mean over models.
        domain_gain_se: (D,) its standard error over the texts of the domain; NaN for one text.
    """

    name: str
    rows: Rows
    kl: Floats
    se: Floats
    floor: Floats
    gain: Floats
    gain_se: Floats
    direction: Floats
    cosine: Floats
    across: Floats
    before: float
    after: float
    change_se: float
    share: Floats
    share_se: Floats
    domain_gain: Floats
    domain_gain_se: Floats

    @property
    def below(self) -> Bools:
        """(n,) whether the shift is below the noise floor; False where that is unknown."""
        return np.asarray(self.kl < self.floor, np.bool_)


def measure(some: Edited) -> list[Edit]:
    """Size, direction and coherence of the shifts of every edit.

    Raises:
        InputError: a file is truncated.
    """
    return [_measure(some, edit) for edit in range(len(some.names))]


class _Spread:
    """Mean, and sum of squares around it, of rows that are seen block by block."""

    def __init__(self, texts: int) -> None:
        self.count, self.mean, self.squares = 0, np.zeros(texts), np.zeros(texts)

    def add(self, rows: Floats) -> None:
        if not len(rows):
            return
        mean = rows.mean(axis=0)
        step, count = mean - self.mean, self.count + len(rows)
        self.squares += np.square(rows - mean).sum(axis=0)
        self.squares += step**2 * (self.count * len(rows) / count)
        self.mean += step * (len(rows) / count)
        self.count = count

    @property
    def variance(self) -> Floats:
        """(N,) of each text over the models, with one degree of freedom less."""
        return self.squares / (self.count - 1) if self.count > 1 else self.squares * math.nan


def _measure(some: Edited, edit: int) -> Edit:
    rows = np.flatnonzero(some.under[edit])
    texts, unit, count = some.texts, some.unit, len(rows)
    families = [some.found.models[row].family or "unknown" for row in rows]
    names = sorted(set(families))
    code = np.array([names.index(family) for family in families], np.intp)
    squares, spread, gain = (np.empty(count) for _ in range(3))
    deviation = np.full(count, math.nan)
    before, after = _Spread(texts), _Spread(texts)
    sums = np.zeros((len(names), texts))
    carried, gains, moving, done = np.zeros(texts), np.zeros(texts), 0, 0
    for block in some.blocks(rows, [edit]):
        shift, likelier = block.shifts[0], block.gains[0]
        part = slice(done, done + len(shift))
        done += len(shift)
        gain[part] = likelier.mean(axis=1)
        if texts > 1:
            deviation[part] = likelier.std(axis=1, ddof=1)
        gains += likelier.sum(axis=0)
        for family in np.unique(code[part]):
            sums[family] += shift[code[part] == family].sum(axis=0)
        before.add(block.base)
        after.add(block.base + shift)
        np.square(shift, out=shift)
        squares[part] = shift.mean(axis=1)
        spread[part] = np.square(shift).mean(axis=1) - squares[part] ** 2
        moves = squares[part] > 0
        moving += int(moves.sum())
        carried += (shift[moves] / squares[part][moves, None]).sum(axis=0)
    cosine, across = _agreement(some, edit, rows, code, sums, squares)
    change = (after.variance - before.variance) * 2 / unit
    return Edit(
        some.names[edit], rows, squares / unit, np.sqrt(np.maximum(spread, 0) / texts) / unit,
        noise_floor(some.found.noise[rows], some.noise(edit)[rows], some.found.mean_bytes),
        2 * gain / unit, 2 * deviation / math.sqrt(texts) / unit, sums.sum(axis=0) / count, cosine,
        across, float(before.variance.mean()) * 2 / unit, float(after.variance.mean()) * 2 / unit,
        float(change.std()) / math.sqrt(texts),
        *_by_domain(some, carried / moving if moving else carried * math.nan, gains / count),
    )  # fmt: skip


def _agreement(
    some: Edited, edit: int, rows: Rows, code: Rows, sums: Floats, squares: Floats
) -> tuple[Floats, Floats]:
    """(n,) cosines of shifts with the sum of all others, and with that of other families."""
    total, done = sums.sum(axis=0), 0
    cosine, across = np.full((2, len(rows)), math.nan)
    if len(rows) < 2:
        return cosine, across
    others = total - sums
    length = np.sqrt(np.square(others).sum(axis=1)) if len(sums) > 1 else np.zeros(1)
    for block in some.blocks(rows, [edit]):
        shift = block.shifts[0]
        part = slice(done, done + len(shift))
        done += len(shift)
        size = np.sqrt(squares[part] * some.texts)
        rest = total - shift
        with np.errstate(invalid="ignore", divide="ignore"):
            norm = np.sqrt(np.square(rest).sum(axis=1))
            cosine[part] = np.einsum("kn,kn->k", shift, rest) / (size * norm)
            own = others[code[part]]
            across[part] = np.einsum("kn,kn->k", shift, own) / (size * length[code[part]])
    # An infinite cosine is a rounding error over none.
    return tuple(np.where(np.isfinite(found), found, math.nan) for found in (cosine, across))  # type: ignore[return-value]


def _by_domain(some: Edited, carried: Floats, gain: Floats) -> tuple[Floats, ...]:
    """Share of each domain in the squared shifts and its gain, with their errors."""
    domains, texts = some.domains, some.texts
    share, share_se, gains, gains_se = np.full((4, len(domains.names)), math.nan)
    for code in range(len(domains.names)):
        inside = domains.code == code
        count = int(inside.sum())
        share[code] = carried[inside].sum() / texts
        share_se[code] = (carried * (inside - share[code])).std() / math.sqrt(texts)
        unit = math.log(2) * float(some.found.n_bytes[inside].mean())
        gains[code] = gain[inside].mean() / unit
        if count > 1:
            gains_se[code] = gain[inside].std(ddof=1) / math.sqrt(count) / unit
    return share, share_se, gains, gains_se
