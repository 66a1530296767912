"""Models that are on this machine already: caches of the Hub, and mirrors of it.

A cache is what huggingface_hub makes (``models--org--name/snapshots/<commit>``), a mirror a folder
with ``org/name`` in it. Files found there are linked, never copied.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import constants, try_to_load_from_cache

from klmap import cards
from klmap.files import sha256_of

_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def snapshot(id: str, revision: str | None, mirrors: Sequence[Path] = ()) -> Path | None:
    """The folder of a model at a revision in the first cache that has it.

    Args:
        id: id of the Hub.
        revision: commit, branch or tag, as the cache knew it when it was filled; the default
            branch without it.
        mirrors: further places, asked after the cache of this account.

    Returns:
        The folder, named after the commit; None where no cache has one.
    """
    for place in _places(mirrors):
        found = try_to_load_from_cache(id, "config.json", cache_dir=place, revision=revision)
        if isinstance(found, str):
            return Path(found).parent
    return None


def find(
    id: str, commit: str, entry: Mapping[str, Any], mirrors: Sequence[Path] = ()
) -> Path | None:
    """A file of a model that need not be downloaded.

    Args:
        id: id of the Hub.
        commit: the commit that the file must belong to.
        entry: the file as the model's card names it.
        mirrors: further places, asked after the cache of this account.

    Returns:
        The file itself, with size and hash as in the card; None where no place has it.
    """
    name = str(entry["name"])
    for place in _places(mirrors):
        found = try_to_load_from_cache(id, name, cache_dir=place, revision=commit)
        if isinstance(found, str) and _is_blob(Path(found), entry):
            return Path(found).resolve()
        path = place / id / name
        # Nothing but the content tells which commit a plain folder is.
        if cards.stored_hash(entry) and path.is_file() and not cards.mismatch(path, entry):
            return path.resolve()
    return None


def entry(path: Path) -> dict[str, Any]:
    """Name, size and hash of a file in a cache, whose blobs are named after their hashes."""
    blob = path.resolve()
    size = blob.stat().st_size
    if not _HASH.fullmatch(blob.name):
        return {"name": path.name, "size": size, "sha256": sha256_of(blob)}
    kind = "sha256" if len(blob.name) == 64 else "git"
    return {"name": path.name, "size": size, kind: blob.name}


def _places(mirrors: Sequence[Path]) -> list[Path]:
    return [Path(constants.HF_HUB_CACHE), *mirrors]


def _is_blob(path: Path, entry: Mapping[str, Any]) -> bool:
    """Whether a cached file is the one that is meant; a blob's name vouches for its content."""
    blob = path.resolve()
    expected = cards.stored_hash(entry)
    if expected and blob.name == expected:
        return bool(blob.stat().st_size == entry["size"])
    return not cards.mismatch(blob, entry)
