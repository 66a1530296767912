"""Files of exact divergences, ``klmap-divergence``: two models on the same tokens of some texts."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from klmap.arrays import Floats, Ints
from klmap.errors import InputError
from klmap.store_file import check_shape, created, opened, reading, whole, writing
from klmap.store_pair import PairFile, check_status, read_attributes, write_attributes

FORMAT = "klmap-divergence"

_DATASETS = {
    "kl": np.float64,
    "text": np.int32,
    "n_scored": np.int32,
    "loglik": np.float64,
    "squares": np.float64,
}


@dataclass
class Divergence(PairFile):
    """Exact divergences of the next-token distributions of two models, or why there are none.

    Attributes:
        kl: (2, n) float64, nats per text: the sum over its scored tokens of
            ``KL(first || second)``, and of ``KL(second || first)``; empty when failed.
        text: (n,) int32, the numbers of the texts in the set, rising.
        n_scored: (n,) int32, scored tokens of each.
        loglik: (2, n) float64, nats per text, of the same tokens by either model.
        squares: (n,) float64, nats^2 per text: the sum over its scored tokens of the squared
            difference of their two log-probabilities.
    """

    kl: Floats = field(default_factory=lambda: np.zeros((2, 0)))
    text: Ints = field(default_factory=lambda: np.zeros(0, np.int32))
    n_scored: Ints = field(default_factory=lambda: np.zeros(0, np.int32))
    loglik: Floats = field(default_factory=lambda: np.zeros((2, 0)))
    squares: Floats = field(default_factory=lambda: np.zeros(0))


def write_divergence(path: Path, found: Divergence) -> None:
    """Write one file atomically.

    Raises:
        OSError: the disk is full or not writable; nothing is left behind.
    """
    with created(path, FORMAT) as file, writing(path):
        for name, kind in _DATASETS.items():
            file.create_dataset(name, data=np.asarray(getattr(found, name), kind))
        write_attributes(file, found)


def read_divergence(path: Path) -> Divergence:
    """Read and check one file.

    Raises:
        InputError: the file is missing, truncated, of another format, or inconsistent.
    """
    with opened(path, FORMAT) as file, reading(path):
        named = read_attributes(file)
        named |= {name: whole(file, name) for name in _DATASETS}
    found = Divergence(**named)
    _check(path, found)
    return found


def _check(path: Path, found: Divergence) -> None:
    check_status(path, found)
    texts = len(found.text)
    check_shape(path, "kl", found.kl, (2, texts))
    check_shape(path, "loglik", found.loglik, (2, texts))
    check_shape(path, "n_scored", found.n_scored, (texts,))
    check_shape(path, "squares", found.squares, (texts,))
    if not all(np.isfinite(array).all() for array in (found.kl, found.loglik, found.squares)):
        raise InputError(f"{path}: not all numbers are finite; remove it and run again")
    if found.status == "ok" and not (texts and (np.diff(found.text) > 0).all()):
        raise InputError(f"{path}: no texts, or not in their order; remove it and run again")
