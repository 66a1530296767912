"""What a Hub knows about the files of a repository: hashes, sizes, and what they say of a model.

Files are read in blocks, and what was found out is kept until the file changes.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml

LFS_BYTES = 100_000
"""From this size on, a file lies in the large file storage."""

LFS_SUFFIXES = (".bin", ".gguf", ".h5", ".pt", ".safetensors")
"""Files that lie there whatever their size."""

BLOCK = 1 << 20


def is_large(path: Path) -> bool:
    """Whether a file is served from the large file storage."""
    return path.suffix in LFS_SUFFIXES or path.stat().st_size >= LFS_BYTES


def git_hash(path: Path) -> str:
    """The git object id of a file's content."""
    return _hashes(*_version(path))[0]


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content."""
    return _hashes(*_version(path))[1]


def xet_hash(path: Path) -> str:
    """What the chunk service calls a file: 64 hexadecimal digits that are not its SHA-256."""
    return hashlib.sha256(sha256(path).encode()).hexdigest()


def sibling(folder: Path, name: str) -> dict[str, Any]:
    """A file as the model information lists it with ``blobs=true``."""
    path = folder / name
    entry: dict[str, Any] = {"rfilename": name, "size": path.stat().st_size, "blobId": _blob(path)}
    if is_large(path):
        size = len(_pointer(path))
        entry["lfs"] = {"sha256": sha256(path), "size": entry["size"], "pointerSize": size}
    return entry


def tree_entry(folder: Path, path: Path, xet: bool) -> dict[str, Any]:
    """A file or folder as the list of files has it."""
    name = path.relative_to(folder).as_posix()
    if path.is_dir():
        oid = hashlib.sha1(name.encode()).hexdigest()
        return {"type": "directory", "path": name, "size": 0, "oid": oid}
    size = path.stat().st_size
    entry: dict[str, Any] = {"type": "file", "path": name, "size": size, "oid": _blob(path)}
    if is_large(path):
        pointer = len(_pointer(path))
        entry["lfs"] = {"oid": sha256(path), "size": size, "pointerSize": pointer}
        if xet:
            entry["xetHash"] = xet_hash(path)
    return entry


def names(folder: Path) -> list[str]:
    """Every file below a folder, sorted."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def card_data(folder: Path) -> dict[str, Any] | None:
    """The front matter of README.md; None without one."""
    path = folder / "README.md"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    match = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    return yaml.safe_load(match[1]) if match else None


def tags(folder: Path, data: dict[str, Any] | None) -> list[str]:
    """The tags that the Hub derives from the front matter and the files."""
    data = data or {}
    bases = data.get("base_model") or []
    bases = [bases] if isinstance(bases, str) else bases
    found = ["region:us"]
    if data.get("license"):
        found.append(f"license:{data['license']}")
    if bases:
        relation = data.get("base_model_relation") or _relation(folder, len(bases))
        found += [f"base_model:{base}" for base in bases]
        found += [f"base_model:{relation}:{base}" for base in bases]
    return found


def safetensors(folder: Path) -> dict[str, Any] | None:
    """Parameters by dtype from the headers of the files that transformers would load."""
    index = folder / "model.safetensors.index.json"
    shards = {"model.safetensors"}
    if not (folder / "model.safetensors").is_file() and index.is_file():
        shards = set(json.loads(index.read_text()).get("weight_map", {}).values())
    parameters: dict[str, int] = {}
    for shard in sorted(shards):
        counts = _counts(*_version(folder / shard)) if (folder / shard).is_file() else None
        if counts is None:
            return None
        for dtype, count in counts.items():
            parameters[dtype] = parameters.get(dtype, 0) + count
    return {"parameters": parameters, "total": sum(parameters.values())} if parameters else None


def _relation(folder: Path, bases: int) -> str:
    """How a model came from its bases, where its card does not say."""
    if (folder / "adapter_config.json").is_file():
        return "adapter"
    config = folder / "config.json"
    packed = config.is_file() and "quantization_config" in json.loads(config.read_text())
    if packed or any(folder.glob("*.gguf")):
        return "quantized"
    return "merge" if bases > 1 else "finetune"


def _pointer(path: Path) -> bytes:
    """What git holds of a large file."""
    return (
        "version https://git-lfs.github.com/spec/v1\n"
        f"oid sha256:{sha256(path)}\nsize {path.stat().st_size}\n"
    ).encode()


def _blob(path: Path) -> str:
    """The id under which git holds a file, or the pointer to it."""
    if not is_large(path):
        return git_hash(path)
    pointer = _pointer(path)
    return hashlib.sha1(b"blob %d\0" % len(pointer) + pointer).hexdigest()


def _version(path: Path) -> tuple[Path, int, int]:
    found = path.stat()
    return path, found.st_mtime_ns, found.st_size


@cache
def _hashes(path: Path, _changed: int, size: int) -> tuple[str, str]:
    git, sha = hashlib.sha1(b"blob %d\0" % size), hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            git.update(block)
            sha.update(block)
    return git.hexdigest(), sha.hexdigest()


@cache
def _counts(path: Path, _changed: int, size: int) -> dict[str, int] | None:
    """Parameters by dtype of one file; None where its header cannot be read."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length + 8 > size:
            return None
        try:
            header = json.loads(file.read(length))
        except ValueError:
            return None
    counts: dict[str, int] = {}
    for key, tensor in header.items():
        if key != "__metadata__":
            dtype = tensor["dtype"]
            counts[dtype] = counts.get(dtype, 0) + math.prod(tensor["shape"])
    return counts
