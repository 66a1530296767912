"""What files of two models share: whose they are, of which texts and settings, why they failed."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py

from klmap.errors import InputError
from klmap.store_file import plain

_IDENTITY = ("first", "second", "texts_sha256", "fingerprint", "status", "error")
_NESTED = ("commits", "spec")


@dataclass
class PairFile:
    """What is computed of two models, or why nothing is.

    Attributes:
        first: name of the first model.
        second: name of the second one.
        commits: commits, or content hashes, of both weights.
        texts_sha256: hash of the text set, from its manifest.
        fingerprint: 12 hexadecimal digits that name the computation.
        spec: the settings that the fingerprint hashes.
        status: ``ok`` or ``failed``.
        error: why it failed, empty for ``ok``.
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
    attributes: dict[str, Any] = field(default_factory=dict, kw_only=True)

    def is_of(self, other: PairFile) -> bool:
        """Whether both are of the same weights, texts and settings."""
        keys = ("commits", "texts_sha256", "fingerprint")
        return all(getattr(self, key) == getattr(other, key) for key in keys)


def write_attributes(file: h5py.File, found: PairFile) -> None:
    """Write all that is no array as attributes of a new file; mappings and lists as JSON."""
    named = {key: getattr(found, key) for key in (*_IDENTITY, *_NESTED)}
    for key, value in (named | found.attributes).items():
        nested = isinstance(value, (dict, list, tuple))
        file.attrs[key] = json.dumps(value, sort_keys=True) if nested else value


def read_attributes(file: h5py.File) -> dict[str, Any]:
    """The same as arguments of a :class:`PairFile`.

    Raises:
        KeyError: one is missing.
        ValueError: one that is JSON is broken.
    """
    known = {key: plain(value) for key, value in file.attrs.items()}
    own = (*_IDENTITY, *_NESTED, "format", "format_version")
    named: dict[str, Any] = {key: known[key] for key in _IDENTITY}
    named |= {key: json.loads(known[key]) for key in _NESTED}
    return {**named, "attributes": {key: known[key] for key in known if key not in own}}


def check_status(path: Path, found: PairFile) -> None:
    """Refuse a status that klmap does not write.

    Raises:
        InputError: it is neither ``ok`` nor ``failed``.
    """
    if found.status not in ("ok", "failed"):
        raise InputError(f"{path}: status is {found.status!r}, expected 'ok' or 'failed'")
