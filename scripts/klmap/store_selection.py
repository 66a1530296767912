"""Selection files, ``klmap-selection``: some texts of a reference, and how they stand for all.

``docs/formats.md`` describes every dataset and attribute for readers with code of their own.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from klmap.arrays import Floats, Ints
from klmap.design import Design
from klmap.errors import InputError
from klmap.store_file import check_shape, created, opened, plain, reading, writing

SELECTION_FORMAT = "klmap-selection"

_ARRAYS = {
    "index": np.int32,
    "weight": np.float64,
    "variance": np.float64,
    "balance": np.float64,
    "probability": np.float64,
    "count": np.int32,
    "expected": np.float64,
}
_ATTRIBUTES = {
    "expected_mean": float,
    "method": str,
    "replacement": bool,
    "n": int,
    "seed": int,
    "texts": int,
    "mean_bytes": float,
    "texts_sha256": str,
    "reference": str,
    "models": int,
    "clip_threshold": float,
}


@dataclass(frozen=True)
class Selection:
    """The d texts of a selection, in the order of the reference.

    Attributes:
        index: (d,) int32, places of the texts in the reference, rising.
        weight: (d,) float64, ``w_u``; text u counts ``w_u^2`` times.
        variance: (d,) float64, ``v_u`` of :class:`klmap.design.Design`.
        balance: (d,) float64, ``a_u`` of the same.
        probability: (d,) float64, of each draw with replacement, of being chosen without.
        count: (d,) int32, how often each text was drawn; 1 without replacement.
        expected: (d,) float64, mean raw log-likelihood of the reference's models, nats per text.
        expected_mean: the mean of that over all N texts, nats per text.
        method: what made a text likely to be drawn: ``uniform``, ``ls`` or ``kl``.
        replacement: whether a text could be drawn more than once.
        n: number of draws, or of texts without replacement.
        seed: of the draw.
        texts: number of texts of the reference, N.
        mean_bytes: UTF-8 bytes per text of the reference, B.
        texts_sha256: hash of the reference's texts.
        reference: 12 hexadecimal digits that name the reference's matrix.
        models: number of models of the reference, K.
        clip_threshold: nats; lower log-likelihoods of the reference count as this one.
    """

    index: Ints
    weight: Floats
    variance: Floats
    balance: Floats
    probability: Floats
    count: Ints
    expected: Floats
    expected_mean: float
    method: str
    replacement: bool
    n: int
    seed: int
    texts: int
    mean_bytes: float
    texts_sha256: str
    reference: str
    models: int
    clip_threshold: float

    @property
    def design(self) -> Design:
        """How these texts stand for those of the reference."""
        return Design(self.weight, self.variance, self.balance, self.texts)

    @property
    def fingerprint(self) -> str:
        """12 hexadecimal digits over all that decides estimates: which texts of what, how weighted.

        The same for the same selection, wherever its file is and whatever it was drawn by.
        """
        digest = hashlib.sha256(self.texts_sha256.encode())
        digest.update(self.index.astype("<i4").tobytes())
        for array in (self.weight, self.variance, self.balance):
            digest.update(array.astype("<f8").tobytes())
        return digest.hexdigest()[:12]


def write_selection(path: Path, selection: Selection) -> None:
    """Write a selection atomically.

    Raises:
        OSError: the disk is full or not writable; nothing is left behind.
    """
    with created(path, SELECTION_FORMAT) as file, writing(path):
        for name, kind in _ARRAYS.items():
            file.create_dataset(name, data=getattr(selection, name), dtype=kind)
        for name in _ATTRIBUTES:
            file.attrs[name] = getattr(selection, name)


def read_selection(path: Path) -> Selection:
    """Read and check a selection file.

    Raises:
        InputError: the file is missing, truncated, of another format, or inconsistent.
    """
    with opened(path, SELECTION_FORMAT) as file, reading(path):
        arrays = {name: file[name][:].astype(kind) for name, kind in _ARRAYS.items()}
        attributes = {name: kind(plain(file.attrs[name])) for name, kind in _ATTRIBUTES.items()}
    selection = Selection(**arrays, **attributes)
    _check(path, selection)
    return selection


def _check(path: Path, selection: Selection) -> None:
    for name in _ARRAYS:
        check_shape(path, name, getattr(selection, name), selection.index.shape[:1])
    index = selection.index
    if len(index) < 2:
        raise _broken(path, f"{len(index)} texts are chosen; a map needs at least 2")
    if (np.diff(index) <= 0).any() or index[0] < 0 or index[-1] >= selection.texts:
        raise _broken(
            path, f"index does not rise, or leaves the {selection.texts} texts of the reference"
        )
    for name, least in (("weight", True), ("balance", True), ("variance", False)):
        values = getattr(selection, name)
        wrong = ~np.isfinite(values) | (values <= 0 if least else values < 0)
        if wrong.any():
            place = int(np.flatnonzero(wrong)[0])
            wanted = "above 0" if least else "0 or more"
            raise _broken(path, f"{name}[{place}] is {values[place]}, expected {wanted}")
    probability = selection.probability
    if not ((probability > 0) & (probability <= 1)).all():
        raise _broken(path, "a probability is not above 0 and at most 1")
    if (selection.count < 1).any():
        raise _broken(path, "a text is in the selection that was never drawn (count below 1)")
    if not (np.isfinite(selection.expected).all() and np.isfinite(selection.expected_mean)):
        raise _broken(path, "an expected log-likelihood is not finite")


def _broken(path: Path, found: str) -> InputError:
    return InputError(f"{path}: {found}; remove it and run again, or name another selection")
