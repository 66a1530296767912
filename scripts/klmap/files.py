"""Small files: atomic writing, JSON, JSON lines and tab-separated tables."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from klmap.errors import InputError


def temporary_name(path: Path) -> Path:
    """A name beside ``path`` that no other job on any node uses at the same time."""
    job = os.environ.get("SLURM_JOB_ID", "local")
    return path.with_name(f".{path.name}.{job}.{socket.gethostname()}.{os.getpid()}.tmp")


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path that becomes ``path`` only if the block succeeds.

    The data is flushed to the disk before the rename, so that ``path`` is either the old file,
    the complete new one, or absent; never a half of one. A full disk or Ctrl-C removes the
    temporary file.

    Args:
        path: the file, or folder, to produce. A folder made in the block replaces an old one.

    Raises:
        OSError: the file system refused (disk full, no permission).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    remove(temporary)
    try:
        yield temporary
        flush(temporary)
        if temporary.is_dir():
            remove(path)
        temporary.replace(path)
        _sync(path.parent)
    finally:
        remove(temporary)


def flush(path: Path) -> None:
    """Write a file, or all files of a folder, through to the disk."""
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file() and not file.is_symlink():
            _sync(file)


def remove(path: Path) -> None:
    """Remove a file, link or whole folder; nothing happens if there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write readable, key-sorted JSON atomically."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        InputError: the file is missing, is not JSON, or holds something other than an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid JSON ({error}); remove it and run again") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def write_tsv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table atomically; ``None`` becomes an empty cell, tabs and newlines a space."""
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_MINIMAL)
        writer.writerow(header)
        writer.writerows([_cell(value) for value in row] for row in rows)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    return " ".join(str(value).split()) if isinstance(value, str) else str(value)


def read_tsv(path: Path) -> list[dict[str, str]]:
    """Read a table with a header as one dictionary of strings per row.

    Raises:
        InputError: the file is missing, empty or has a row of another width.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = list(csv.reader(file, delimiter="\t"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error})") from None
    if not lines:
        raise InputError(f"{path}: empty; expected a header line with the column names")
    header = lines[0]
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        if len(line) != len(header):
            raise InputError(
                f"{path}:{number}: {len(line)} columns where the header has {len(header)}"
            )
        rows.append(dict(zip(header, line, strict=True)))
    return rows


def size_in_words(value: float) -> str:
    """Bytes in words, such as ``13.8 GB``."""
    for unit, digits in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if value >= digits:
            return f"{value / digits:,.{0 if value >= 100 * digits else 1}f} {unit}"
    return f"{value / 1e3:.1f} kB"


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def git_hash_of(path: Path) -> str:
    """The id that git gives a file's content, as 40 hexadecimal digits."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def canonical(value: Mapping[str, Any]) -> str:
    """The one JSON text of a mapping: keys sorted, keys that are ``None`` left out."""
    kept = {key: item for key, item in value.items() if item is not None}
    kept = {key: _without_none(item) for key, item in kept.items()}
    return json.dumps(kept, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return value
