"""The metadata of a release: what its authors know of the models, and their benchmark scores.

The format is that of Oyama et al. 2025: a pickled list of dictionaries, one for each model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from klmap.errors import InputError
from klmap.pickles import read_pickle, shown

MOST_TAGS = 100
"""Tags kept of a model; an attribute of an HDF5 file holds 64 kB, and few models have more."""

_SCORE = "score_"
_SCORE_VERSIONS = ("score_v1_", _SCORE)
_NAMES = {"6-taskmean": "6-TaskMean"}
_MOST_BILLIONS = 1e6
_LONGEST_TEXT = 1000
_BASE = "base_model:"
_LICENSE = "license:"


@dataclass(frozen=True)
class Described:
    """What a release says of one model.

    Attributes:
        name: its id, such as ``org/name``.
        model_type: the type, such as ``llama-2``; empty if unknown.
        parameters: number of weights; None if unknown.
        created_at: ISO 8601; empty if unknown.
        downloads: from the Hub in a month; None if unknown.
        tags: of the repository on the Hub.
        mean_logp: mean log-likelihood, nats per text; None if unknown.
        scores: benchmark scores by the name of the task; None where there is none.
    """

    name: str
    model_type: str = ""
    parameters: int | None = None
    created_at: str = ""
    downloads: int | None = None
    tags: tuple[str, ...] = ()
    mean_logp: float | None = None
    scores: Mapping[str, float | None] = field(default_factory=dict)

    @property
    def base_model(self) -> list[str]:
        """Ids of the models it was made from, as the tags of the Hub name them.

        The Hub tags a parent twice, as ``base_model:org/name`` and as
        ``base_model:<relation>:org/name``; the second is used where the first is missing.
        """
        parents = [tag.removeprefix(_BASE) for tag in self.tags if tag.startswith(_BASE)]
        plain = [parent for parent in parents if ":" not in parent]
        return sorted({parent.rpartition(":")[2] for parent in plain or parents} - {""})

    @property
    def license(self) -> str:
        """The licence that the tags name; empty if none."""
        found = [tag.removeprefix(_LICENSE) for tag in self.tags if tag.startswith(_LICENSE)]
        return found[0] if found else ""

    def card(self) -> dict[str, Any]:
        """What is known, under the names that cards use, and downloads and tags as released."""
        return {
            "id": self.name,
            "architecture": "",
            "model_type": self.model_type,
            "parameters": self.parameters,
            "created_at": self.created_at,
            "base_model": self.base_model,
            "license": self.license,
            "downloads": self.downloads,
            "tags": list(self.tags[:MOST_TAGS]),
        }


def read_metadata(path: Path) -> dict[str, Described]:
    """Read the metadata of a release.

    Args:
        path: the pickle.

    Returns:
        What is known of each model, by its id, in the order of the file.

    Raises:
        InputError: the file is missing, is no pickle of plain values, is no list of dictionaries
            with a ``model_name``, has a model twice, a value of another kind, or two different
            scores of a model for one benchmark.
    """
    content = read_pickle(path)
    if not isinstance(content, list) or not all(isinstance(row, Mapping) for row in content):
        raise InputError(
            f"{path}: holds a {type(content).__name__}, expected a list with a dict for each model"
        )
    found: dict[str, Described] = {}
    for number, row in enumerate(content):
        name = row.get("model_name")
        if not isinstance(name, str) or not name:
            raise InputError(
                f"{path}: entry {number} has the model_name {shown(name)}, expected an id"
            )
        if name in found:
            raise InputError(f"{path}: {name} stands there twice; names must be unique")
        found[name] = _described(f"{path}: {name}", name, row)
    return found


def tasks(described: Sequence[Described]) -> list[str]:
    """Names of all benchmarks that occur, in the order in which they occur first."""
    return list(dict.fromkeys(task for row in described for task in row.scores))


def _described(place: str, name: str, row: Mapping[Any, Any]) -> Described:
    size = _number(place, row, "model_size")
    downloads = _number(place, row, "downloads")
    tags = row.get("tags")
    if not isinstance(tags, (list, tuple, type(None))):
        raise InputError(f"{place}: tags is a {type(tags).__name__}, expected a list")
    if size is not None and abs(size) > _MOST_BILLIONS:
        raise InputError(f"{place}: model_size is {size:g}, expected billions of weights")
    return Described(
        name=name,
        model_type=_text(place, row, "model_type"),
        parameters=None if size is None else round(size * 1e9),
        created_at=_text(place, row, "created_at"),
        downloads=None if downloads is None else int(downloads),
        tags=tuple(dict.fromkeys(tag for tag in tags or () if isinstance(tag, str))),
        mean_logp=_number(place, row, "mean_logp"),
        scores=_scores(place, row),
    )


def _scores(place: str, row: Mapping[Any, Any]) -> dict[str, float | None]:
    """Scores by the names of the tasks, which several keys may give; a known one stands."""
    scores: dict[str, float | None] = {}
    keys: dict[str, str] = {}
    for key in row:
        if not isinstance(key, str) or not key.startswith(_SCORE):
            continue
        task, value = _task(key), _number(place, row, key)
        if task in ("", "model"):
            raise InputError(f"{place}: {key[:40]!r} names no benchmark; rename the key")
        known = scores.setdefault(task, None)
        if value is None:
            continue
        if known is not None and known != value:
            raise InputError(
                f"{place}: {keys[task]} is {known:g} and {key} is {value:g}, and both are scores "
                f"for {task}; keep one of them"
            )
        scores[task], keys[task] = value, key
    return scores


def _task(key: str) -> str:
    prefix = next(prefix for prefix in _SCORE_VERSIONS if key.startswith(prefix))
    name = key.removeprefix(prefix)
    return _NAMES.get(name, name)


def _text(place: str, row: Mapping[Any, Any], key: str) -> str:
    value = row.get(key)
    if value is not None and not isinstance(value, str):
        raise InputError(f"{place}: {key} is {shown(value)}, expected a text")
    if value and len(value) > _LONGEST_TEXT:
        raise InputError(f"{place}: {key} has {len(value):,} characters, expected a short text")
    return value or ""


def _number(place: str, row: Mapping[Any, Any], key: str) -> float | None:
    """A number; None where there is none, which a release also writes as NaN."""
    value = row.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputError(f"{place}: {key} is {shown(value)}, expected a number")
    try:
        number = float(value)
    except OverflowError:
        raise InputError(
            f"{place}: {key} is a number of more than 300 digits; correct it"
        ) from None
    return number if math.isfinite(number) else None
