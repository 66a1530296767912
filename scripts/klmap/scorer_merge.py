"""Average the weights of checkpoints of one architecture, a part of a tensor at a time.

Nothing is held but that part: what is read is let go of, and what is computed is written at once.
So memory does not depend on the size of the models. With parts of 4 million weights it is below
half a gigabyte, of which torch itself is the larger half.
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from klmap import disk, fetch, merging, repository
from klmap.cards import Card
from klmap.errors import PermanentFailure
from klmap.files import atomic, read_json, remove, size_in_words, write_json
from klmap.log import Progress, logger

SHARD = 10**9
"""Bytes of a file of weights, unless one tensor alone is larger."""

CHUNK = 2**22
"""Weights that are averaged at a time (own)."""

LABELS = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
"""How safetensors call the number formats that can be written."""

_DTYPES = {label: dtype for dtype, label in LABELS.items()}
_FIX = "save both with save_pretrained() of one version of transformers, or give other models"


@dataclass(frozen=True)
class _Stored:
    """A tensor in a file of a parent, of which nothing is read yet."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def is_derived(self) -> bool:
        """Whether models make it themselves, such as a mask, so that some files lack it."""
        mask = self.name.endswith(("attn.bias", "attention.bias")) and len(self.shape) == 4
        return mask or self.name.endswith(("masked_bias", "rotary_emb.inv_freq"))

    def read(self, rows: slice) -> Tensor:
        """Some rows; the file is not kept open, or what was read would count as memory."""
        with _reading(self.file):
            if self.file.suffix != ".safetensors":
                found: Tensor = _pickled(self.file)[self.name]
                return found[rows] if self.shape else found
            with safe_open(self.file, framework="pt") as file:
                part: Tensor
                part = file.get_slice(self.name)[rows] if self.shape else file.get_tensor(self.name)
                return part


@dataclass(frozen=True)
class _Merged:
    """A tensor to be written: what it is made of, one for each parent, and its format."""

    name: str
    sources: tuple[_Stored, ...]
    dtype: torch.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.sources[0].shape

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def order(self) -> tuple[int, str]:
        """Wide formats first, so that each number begins at a multiple of its size."""
        return -self.dtype.itemsize, self.name


def merge(
    card: Card,
    parents: Sequence[Path],
    weights: Sequence[float],
    target: Path,
    budget: disk.Budget | None = None,
    place: int = 0,
) -> None:
    """Write a Hugging Face folder with the weighted mean of the weights of its parents.

    A mean is computed in float32 of 16-bit weights and in float64 of others, and rounded once to
    what is stored, or to the wider format where the parents differ; a parent with the weight 0 is
    not read. Whole numbers (masks) are those of the first parent, like config.json and
    the tokenizer. A tensor that a parent lacks because it is tied to another one is taken from
    there; masks and frequencies that not all have stored are left out.

    Args:
        card: of the merge; one with an ``error`` gives a folder with a file ``FAILED``.
        parents: folders of weights, in the order of the weights; where one has a file ``FAILED``,
            so has the merge.
        weights: one for each parent, with the sum 1.
        target: folder to make; it appears complete or not at all.
        budget: the disk budget; None for none.
        place: rank in the order in which scoring wants the models.

    Raises:
        InputError: the weights are wrong.
        PermanentFailure: the parents do not fit together, or are damaged, or are larger together
            with the merge than the disk budget; the message names the tensor, or the numbers.
        OSError: the disk is full; nothing is left behind.
    """
    merging.check_weights(weights, len(parents))
    reasons = [(path, fetch.failure_in(path)) for path in parents]
    reason = card.error or next(
        (f"{card.id}: cannot be made: {text}" for _, text in reasons if text), ""
    )
    if reason:
        logger.error("%s", reason)
        fetch.explain(target, reason)
        return
    merging.check_tokens(card.id, parents)
    for key in merging.differing_settings(parents):
        logger.warning("%s: %s differs in config.json; that of the first is used", card.id, key)
    tensors = _plan(card.id, [_stored(card.id, path) for path in parents])
    size = sum(tensor.bytes for tensor in tensors)
    with _room(card.id, parents, target, size, budget, place), atomic(target) as folder:
        folder.mkdir()
        _copy_rest(parents[0], folder, _format_to_note(tensors))
        _write(folder, tensors, weights, size)
    logger.info("%s: %s of weights", card.id, size_in_words(size))


@contextlib.contextmanager
def _room(
    id: str, parents: Sequence[Path], target: Path, size: int, budget: disk.Budget | None,
    place: int,
) -> Iterator[None]:  # fmt: skip
    if budget is None:
        yield
        return
    held = sum(disk.size_of(path) for path in set(parents))
    if held + size > budget.limit:
        raise PermanentFailure(
            f"{id}: its parents take {size_in_words(held)} and it takes {size_in_words(size)}, all "
            f"at one time, and hardware.disk_budget_gb allows {size_in_words(budget.limit)}; raise "
            "it if the disk has room, or remove the merge from config.yaml",
            "too large",
        )
    with budget.room(target.parent.name, size, 1 + size // SHARD, place, disk.PATIENCE):
        # No other process is at it, so this is what a killed one left.
        for path in target.parent.glob(f".{target.name}.*.tmp"):
            remove(path)
        yield


@contextlib.contextmanager
def _reading(file: Path) -> Iterator[None]:
    try:
        yield
    except SafetensorError as error:
        raise PermanentFailure(
            f"{file}: not a complete safetensors file ({error}); copy or download it again"
        ) from None


def _pickled(file: Path) -> dict[str, Any]:
    try:
        found = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        raise PermanentFailure(f"{file}: cannot be read part by part ({text}); {_FIX}") from None
    if not isinstance(found, dict) or not all(isinstance(v, Tensor) for v in found.values()):
        raise PermanentFailure(f"{file}: holds something else than named tensors; {_FIX}")
    return found


def _stored(id: str, folder: Path) -> dict[str, _Stored]:
    """Every tensor of a folder by its name; only headers are read."""
    names = repository.weight_files(path.name for path in folder.iterdir())
    names = [name for name in names if not name.endswith(".json")]
    safe = [name for name in names if name.endswith(".safetensors")]
    found: dict[str, _Stored] = {}
    for path in (folder / name for name in safe or names):
        with _reading(path):
            found |= _headers(id, path)
    if not found:
        raise PermanentFailure(f"{id}: {folder} holds no weights; fetch the parent again")
    return found


def _headers(id: str, path: Path) -> dict[str, _Stored]:
    shown: dict[str, tuple[list[int], Any]]
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
            shown = {key: (s.get_shape(), s.get_dtype()) for key, s in slices.items()}
    else:
        shown = {key: (list(t.shape), LABELS.get(t.dtype)) for key, t in _pickled(path).items()}
    for key, (_, label) in shown.items():
        if label not in _DTYPES:
            raise PermanentFailure(
                f"{id}: {key} in {path} is stored as {label or 'an unusual format'}, which cannot "
                "be averaged; give the original model"
            )
    return {
        key: _Stored(path, key, tuple(shape), _DTYPES[label])
        for key, (shape, label) in shown.items()
    }


def _plan(id: str, parents: Sequence[dict[str, _Stored]]) -> list[_Merged]:
    """What is written, of what: the tensors of the first parent, where all have them."""
    first = parents[0]
    planned = []
    for name in sorted(first):
        sources = [_counterpart(id, name, first, other) for other in parents]
        known = [source for source in sources if source is not None]
        if len(known) < len(sources):
            continue
        if not all(_is_alike(known[0], source) for source in known):
            if known[0].is_derived:
                continue
            raise _unlike(id, name, known)
        dtype = known[0].dtype
        for source in known if dtype.is_floating_point else []:
            dtype = torch.promote_types(dtype, source.dtype)
        planned.append(_Merged(name, tuple(known), dtype))
    for other in parents[1:]:
        for name in sorted(set(other) - set(first)):
            _counterpart(id, name, other, first)
    return planned


def _counterpart(
    id: str, name: str, mine: dict[str, _Stored], other: dict[str, _Stored]
) -> _Stored | None:
    """The tensor of another parent for one of mine; None for one that models make themselves.

    Of two tied tensors some files hold one alone: where mine is equal to another one that both
    parents have, that is the other parent's as well.

    Raises:
        PermanentFailure: there is none.
    """
    stored = mine[name]
    if name in other:
        return other[name]
    if stored.is_derived:
        return None
    for twin in sorted(set(mine) & set(other)):
        if _is_equal(mine[twin], stored):
            return other[twin]
    path = next(iter(other.values())).file.parent
    raise PermanentFailure(
        f"{id}: {name} is in {stored.file.parent} and not in {path}, so they cannot be averaged; "
        f"{_FIX}"
    )


def _is_equal(first: _Stored, other: _Stored) -> bool:
    """Whether all numbers are the same, up to the first part that is not."""
    alike = (first.shape, first.dtype) == (other.shape, other.dtype)
    parts = _slices(first.shape)
    return alike and all(torch.equal(first.read(rows), other.read(rows)) for rows in parts)


def _is_alike(first: _Stored, other: _Stored) -> bool:
    floats = first.dtype.is_floating_point == other.dtype.is_floating_point
    return floats and first.shape == other.shape


def _unlike(id: str, name: str, sources: Sequence[_Stored]) -> PermanentFailure:
    first = sources[0]
    other = next(source for source in sources if not _is_alike(first, source))
    return PermanentFailure(
        f"{id}: {name} has the shape {list(first.shape)} ({LABELS[first.dtype]}) in "
        f"{first.file.parent} and {list(other.shape)} ({LABELS[other.dtype]}) in "
        f"{other.file.parent}, so they cannot be averaged; give checkpoints of one architecture "
        "and size"
    )


def _format_to_note(tensors: Sequence[_Merged]) -> str | None:
    """The number format for config.json where it is another one than the first parent's."""
    changed = [item for item in tensors if item.dtype != item.sources[0].dtype]
    largest = max(changed, key=lambda item: item.bytes, default=None)
    return None if largest is None else str(largest.dtype).removeprefix("torch.")


def _copy_rest(parent: Path, folder: Path, dtype: str | None) -> None:
    """All of a parent but its weights: copies, because the parent goes when nobody needs it."""
    paths = (path for path in parent.iterdir() if path.is_file())
    names = [path.name for path in paths if not path.name.startswith(".")]
    others = (".safetensors", ".bin", ".index.json", ".md")
    for name in sorted(name for name in names if not name.endswith(others)):
        shutil.copyfile(parent / name, folder / name)
    if dtype is not None:
        config = read_json(folder / "config.json")
        for key in ("dtype", "torch_dtype"):
            if key in config:
                config[key] = dtype
        write_json(folder / "config.json", config)


def _write(folder: Path, tensors: list[_Merged], weights: Sequence[float], size: int) -> None:
    """Weights as one file, or as shards with their index."""
    shards: list[list[_Merged]] = [[]]
    for tensor in tensors:
        if shards[-1] and sum(item.bytes for item in shards[-1]) + tensor.bytes > SHARD:
            shards.append([])
        shards[-1].append(tensor)
    progress = Progress(size, "bytes")
    count = len(shards)
    listed = {}
    for number, shard in enumerate(shards, start=1):
        name = "model" + (f"-{number:05d}-of-{count:05d}" if count > 1 else "") + ".safetensors"
        shard.sort(key=lambda tensor: tensor.order)
        with (folder / name).open("wb") as file:
            _write_shard(file, shard, weights, progress)
        listed.update({tensor.name: name for tensor in shard})
    progress.close()
    if count > 1:
        index = {"metadata": {"total_size": size}, "weight_map": listed}
        write_json(folder / "model.safetensors.index.json", index)


def _write_shard(
    file: BinaryIO, tensors: list[_Merged], weights: Sequence[float], progress: Progress
) -> None:
    """One safetensors file: length of the header, header, and the tensors behind each other."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        begin, end = end, end + tensor.bytes
        header[tensor.name] = {
            "dtype": LABELS[tensor.dtype],
            "shape": tensor.shape,
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for tensor in tensors:
        for part in _parts(tensor, weights):
            file.write(part.contiguous().reshape(-1).view(torch.uint8).numpy().data)
            progress.add(part.nbytes)


def _slices(shape: tuple[int, ...]) -> Iterator[slice]:
    """The rows of a tensor, some at a time."""
    step = max(1, CHUNK // max(math.prod(shape[1:]), 1))
    return (slice(begin, begin + step) for begin in range(0, shape[0] if shape else 1, step))


def _parts(tensor: _Merged, weights: Sequence[float]) -> Iterator[Tensor]:
    """The weighted mean, some rows at a time."""
    differs = False
    for rows in _slices(tensor.shape):
        if tensor.dtype.is_floating_point:
            yield _mean(tensor, weights, rows)
            continue
        part = tensor.sources[0].read(rows)
        others = (source.read(rows).to(part.dtype) for source in tensor.sources[1:])
        differs |= not all(torch.equal(part, other) for other in others)
        yield part
    if differs:
        logger.warning("%s differs between the parents; that of the first is used", tensor.name)


def _mean(tensor: _Merged, weights: Sequence[float], rows: slice) -> Tensor:
    """Of one parent alone its own numbers, to the bit."""
    used = [(s, w) for s, w in zip(tensor.sources, weights, strict=True) if w]
    if len(used) == 1 and used[0][1] == 1:
        return used[0][0].read(rows).to(tensor.dtype)
    wide = torch.float32 if tensor.dtype.itemsize == 2 else torch.float64
    total: Tensor | None = None
    for source, weight in used:
        part = source.read(rows).to(wide) * weight
        total = part if total is None else total.add_(part)
    assert total is not None
    return total.to(tensor.dtype)
