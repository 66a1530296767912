"""Files of exact divergences, ``klmap-divergence``: two models on the same tokens of some texts."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from klmap.arrays import Floats, Ints
from klmap.errors import InputError
from klmap.store_file import check_shape, created, opened, plain, reading, whole, writing

FORMAT = "klmap-divergence"

_IDENTITY = ("first", "second", "texts_sha256", "fingerprint", "status", "error")
_NESTED = ("commits", "spec")
_DATASETS = {
    "kl": np.float64,
    "text": np.int32,
    "n_scored": np.int32,
    "loglik": np.float64,
    "squares": np.float64,
}


@dataclass
class Divergence:
    """Exact divergences of the next-token distributions of two models, or why there are none.

    Attributes:
        first: name of the first model.
        second: name of the second one.
        commits: commits, or content hashes, of both weights.
        texts_sha256: hash of the text set, from its manifest.
        fingerprint: 12 hexadecimal digits that name the computation.
        spec: the settings that the fingerprint hashes.
        status: ``ok`` or ``failed``.
        error: why it failed, empty for ``ok``.
        kl: (2, n) float64, nats per text: the sum over its scored tokens of
            ``KL(first || second)``, and of ``KL(second || first)``; empty when failed.
        text: (n,) int32, the numbers of the texts in the set, rising.
        n_scored: (n,) int32, scored tokens of each.
        loglik: (2, n) float64, nats per text, of the same tokens by either model.
        squares: (n,) float64, nats^2 per text: the sum over its scored tokens of the squared
            difference of their two log-probabilities.
        attributes: dtype and head of both, device, seconds, software and whatever else the job
            records.
    """

    first: str
    second: str
    commits: list[str]
    texts_sha256: str
    fingerprint: str
    spec: dict[str, Any]
    status: str = "ok"
    error: str = ""
    kl: Floats = field(default_factory=lambda: np.zeros((2, 0)))
    text: Ints = field(default_factory=lambda: np.zeros(0, np.int32))
    n_scored: Ints = field(default_factory=lambda: np.zeros(0, np.int32))
    loglik: Floats = field(default_factory=lambda: np.zeros((2, 0)))
    squares: Floats = field(default_factory=lambda: np.zeros(0))
    attributes: dict[str, Any] = field(default_factory=dict)


def write_divergence(path: Path, found: Divergence) -> None:
    """Write one file atomically.

    Raises:
        OSError: the disk is full or not writable; nothing is left behind.
    """
    with created(path, FORMAT) as file, writing(path):
        for name, kind in _DATASETS.items():
            file.create_dataset(name, data=np.asarray(getattr(found, name), kind))
        named = {key: getattr(found, key) for key in (*_IDENTITY, *_NESTED)}
        for key, value in (named | found.attributes).items():
            nested = isinstance(value, (dict, list, tuple))
            file.attrs[key] = json.dumps(value, sort_keys=True) if nested else value


def read_divergence(path: Path) -> Divergence:
    """Read and check one file.

    Raises:
        InputError: the file is missing, truncated, of another format, or inconsistent.
    """
    with opened(path, FORMAT) as file, reading(path):
        known = {key: plain(value) for key, value in file.attrs.items()}
        other = {
            key: value
            for key, value in known.items()
            if key not in (*_IDENTITY, *_NESTED, "format", "format_version")
        }
        named: dict[str, Any] = {key: known[key] for key in _IDENTITY}
        named |= {key: json.loads(known[key]) for key in _NESTED}
        named |= {name: whole(file, name) for name in _DATASETS}
    found = Divergence(**named, attributes=other)
    _check(path, found)
    return found


def _check(path: Path, found: Divergence) -> None:
    if found.status not in ("ok", "failed"):
        raise InputError(f"{path}: status is {found.status!r}, expected 'ok' or 'failed'")
    texts = len(found.text)
    check_shape(path, "kl", found.kl, (2, texts))
    check_shape(path, "loglik", found.loglik, (2, texts))
    check_shape(path, "n_scored", found.n_scored, (texts,))
    check_shape(path, "squares", found.squares, (texts,))
    if not all(np.isfinite(array).all() for array in (found.kl, found.loglik, found.squares)):
        raise InputError(f"{path}: not all numbers are finite; remove it and run again")
    if found.status == "ok" and not (texts and (np.diff(found.text) > 0).all()):
        raise InputError(f"{path}: no texts, or not in their order; remove it and run again")
