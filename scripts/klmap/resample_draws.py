"""Choosing some texts of a reference again and again: what every view of ``resample`` shares.

How texts are chosen is that of a text selection (``resampling``): uniformly, LS or KL, with
replacement as in Oyama et al., EMNLP 2025 Findings, section 3, or without, which is klmap's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from klmap import bootstrap, resampling, split
from klmap.arrays import Floats, Rows
from klmap.resampling import Drawn

FIFTH = 0.2
"""Share of the texts at which maps and places are compared: what a new model is to cost."""

NAMES = {"uniform": "uniform", "ls": "LS", "kl": "KL"}
"""The methods in words."""


@dataclass(frozen=True)
class Kind:
    """How texts are chosen.

    Attributes:
        method: one of ``resampling.METHODS``.
        replacement: whether a text may be drawn several times.
    """

    method: str
    replacement: bool

    @property
    def label(self) -> str:
        """In words."""
        return f"{NAMES[self.method]}, {'with' if self.replacement else 'without'} replacement"


KINDS = tuple(Kind(method, own) for own in (True, False) for method in resampling.METHODS)
"""All six, those of the paper first."""


@dataclass(frozen=True)
class Asked:
    """A selection that the configuration asks for.

    Attributes:
        name: of its text set.
        kind: how its texts are chosen.
        n: draws, or texts where there is no replacement.
    """

    name: str
    kind: Kind
    n: int


@dataclass(frozen=True)
class Reference:
    """Some models on all texts, and what a choice of the texts needs to know of them.

    Attributes:
        q: (K, N) float64, double-centred, nats.
        mean_bytes: UTF-8 bytes per text, B.
        probability: (N,) of each method, of one draw.
        order: (N,) the texts as a choice without replacement goes through them.
    """

    q: Floats
    mean_bytes: float
    probability: dict[str, Floats]
    order: Rows

    @classmethod
    def of(cls, q: Floats, domain: Sequence[str], mean_bytes: float) -> Reference:
        """Look at coordinates once.

        Args:
            q: (K, N) float64, nats; centred here over the models as well.
            domain: N labels of the texts.
            mean_bytes: UTF-8 bytes per text, B.

        Raises:
            ValueError: all models are alike.
        """
        q = q - q.mean(axis=0)
        moments = resampling.moments([q], q.shape[1])
        found = {own: resampling.probabilities(moments, own) for own in resampling.METHODS}
        vector = np.linalg.eigh(q @ q.T)[1][:, -1]
        axis = vector @ q
        axis *= 1 if axis[np.abs(axis).argmax()] >= 0 else -1
        order = resampling.spread(split.domains_of(domain).code, axis)
        return cls(q, mean_bytes, found, order)

    @property
    def texts(self) -> int:
        """Number of texts, N."""
        return int(self.q.shape[1])

    def number(self, kind: Kind, unique: int) -> int:
        """What to ask of :meth:`drawn` for so many different texts, expected or exact.

        Raises:
            ValueError: there are not so many texts that may be drawn.
        """
        if kind.replacement:
            return resampling.draws_for(self.probability[kind.method], unique)
        possible = int((self.probability[kind.method] > 0).sum())
        if unique > possible:
            raise ValueError(f"{unique} texts of {possible} that may be drawn")
        return unique

    def drawn(self, kind: Kind, n: int, seed: int, draw: int) -> Drawn:
        """One choice of texts.

        Args:
            kind: how.
            n: number of draws with replacement, of texts without.
            seed: of all draws.
            draw: which of them, from 0; the same random numbers serve every kind and ``n``.
        """
        own = int(np.random.SeedSequence((seed, draw)).generate_state(1)[0])
        pick = self.probability[kind.method]
        return resampling.draw(pick, n, kind.replacement, self.order, own)

    def points(self, drawn: Drawn) -> Floats:
        """(K, d) coordinates on the texts chosen; a squared distance estimates a KL."""
        return points_on(self.q, drawn, drawn.design.times, self.mean_bytes)

    def several(self, kind: Kind, n: int, seed: int, count: int) -> Iterator[Drawn]:
        """So many choices of texts, the first ones the same whatever their number."""
        return (self.drawn(kind, n, seed, draw) for draw in range(count))


def points_on(q: Floats, drawn: Drawn, times: Floats, mean_bytes: float) -> Floats:
    """Coordinates of models on some texts that stand for all.

    Args:
        q: (K, N) float64, nats, on all texts.
        drawn: which texts.
        times: (d,) how many of the N texts each stands for.
        mean_bytes: UTF-8 bytes per text, B.

    Returns:
        (K, d) float64, square root of bits per byte.
    """
    return bootstrap.sample_points(q[:, drawn.index], times, mean_bytes, q.shape[1])
