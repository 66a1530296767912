"""How many bits per byte each domain of the texts costs each model.

Of a selection, whose texts stand for those of a reference (:mod:`klmap.design`), both the nats and
the bytes are weighted sums. As long texts cost more, the errors of the two are much alike, and
their ratio has a small one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from klmap.arrays import Floats
from klmap.blocks import ranges
from klmap.split import Domains, Rows, domains_of

LEAST_TEXTS = 20
"""Domains of fewer texts are joined: a mean over so few says little."""

MOST_DOMAINS = 24
"""Domains that are told apart; of more, the smallest are joined."""


class Texts(Rows, Protocol):
    """What is read of a matrix: ``store.MatrixFile``, or anything alike."""

    @property
    def n_bytes(self) -> npt.NDArray[Any]:
        """(N,) UTF-8 bytes of each text."""


def told_apart(labels: Sequence[str]) -> Domains:
    """The domains of N texts, those of fewer than 20 texts joined, 24 at most."""
    return domains_of(labels, MOST_DOMAINS, LEAST_TEXTS if len(set(labels)) > 1 else 1)


def by_domain(matrix: Texts, domains: Domains) -> Floats:
    """Mean log-likelihood over the texts of each domain, as a code length.

    Log-likelihoods are clipped at the threshold of the matrix: a few garbled texts would decide
    the mean of a small domain otherwise. ``bits_per_byte`` in models.tsv is not clipped. Texts of
    a selection count as often as its design says.

    Args:
        matrix: the models and texts, K and N; read by blocks of rows.
        domains: of the texts, D.

    Returns:
        (K, D) float64, bits per byte of the domain's own texts; lower is better.
    """
    texts, count = len(domains.code), len(domains.names)
    member = np.zeros((texts, count))
    member[np.arange(texts), domains.code] = 1 if matrix.design is None else matrix.design.times
    result = np.zeros((len(matrix.model), count))
    for begin, end in ranges(len(matrix.model), np.dtype(np.float64).itemsize * texts):
        rows = np.asarray(matrix.loglik(begin, end), np.float64)
        result[begin:end] = -np.maximum(rows, matrix.clip_threshold) @ member
    return result / (sizes(matrix, domains) * math.log(2))


def sizes(matrix: Texts, domains: Domains) -> Floats:
    """(D,) float64, UTF-8 bytes of all texts of each domain together; estimated by a selection."""
    weights = np.asarray(matrix.n_bytes, np.float64)
    if matrix.design is not None:
        weights = weights * matrix.design.times
    return np.asarray(np.bincount(domains.code, weights, len(domains.names)), np.float64)
