"""How some texts stand for all: the weights of a text selection, and the chance that lies in them.

A selection keeps d of the N texts of a reference. Text u counts ``w_u^2`` times, so that
``sum_u w_u^2 f_u`` estimates ``sum_s f_s`` of all N for whatever is measured on every text (Oyama
et al., EMNLP 2025 Findings, "Likelihood Variance as Text Importance for Resampling Texts to Map
Language Models", section 3). With ``t_u = w_u^2 f_u`` the variance of that estimate is

    sum_u v_u t_u^2 - (sum_u v_u a_u t_u)^2 / sum_u v_u a_u^2

by the choice of the texts among the N, and ``sum_u t_u^2 / w_u^2 - (sum_u t_u)^2 / N`` more by the
choice of the N themselves. One pair of vectors serves every kind of selection: texts drawn c times
with replacement have ``v = 1 / c`` and ``a = c``; texts drawn once without replacement, each with a
probability p of its own, have ``v = 1 - p`` and ``a = 1`` (Hajek's approximation for a fixed number
of texts). That form is klmap's own, like the second term.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from klmap.arrays import Floats


@dataclass(frozen=True)
class Design:
    """The d texts of a selection, in the order in which they stand in their text set.

    Attributes:
        weight: (d,) float64, ``w_u``; text u counts ``w_u^2`` times.
        variance: (d,) float64, ``v_u``, relative variance of ``w_u^2`` by the choice of the texts;
            0 for a text that could not be left out.
        balance: (d,) float64, ``a_u``: what their number being fixed says of the weights.
        texts: number of texts of the reference, N.
    """

    weight: Floats
    variance: Floats
    balance: Floats
    texts: int

    @property
    def times(self) -> Floats:
        """(d,) how many texts of the reference each one stands for, ``w_u^2``."""
        return np.square(self.weight)

    @property
    def share(self) -> Floats:
        """(d,) the same as shares that add up to 1: weights of a mean over texts."""
        times = self.times
        return np.asarray(times / times.sum(), np.float64)

    def multipliers(self, generator: np.random.Generator) -> Floats:
        """What a bootstrap sample makes of the texts: factors of ``w_u^2``, 1 in the mean.

        In two steps, each with gamma distributions: how often what a text stands for would be in
        another set of N texts, and how often a selection from that set would have drawn it. Given
        the first, the second has it as its mean, so that their variances add up as above.

        Args:
            generator: source of the random numbers.

        Returns:
            (d,) float64, not negative.
        """
        times = self.times
        present = generator.gamma(times) / times
        present *= times.sum() / (times @ present)
        found = present.copy()
        free = self.variance > 0
        drawn = generator.gamma(present[free] / self.variance[free]) * self.variance[free]
        balance = self.balance[free]
        total = balance @ drawn
        found[free] = drawn * (balance @ present[free] / total if total else 1)
        return found
