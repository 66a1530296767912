"""A sketch of a model's weights: a few thousand numbers that keep distances between checkpoints.

Weights are removed once they are scored, and yet one wants to know how far two checkpoints of a
run are apart. So a linear random projection of them is kept: every weight gets a random sign, and
weight ``i`` of a tensor is added to bucket ``(i + c) mod S``, with a random ``c`` for each tensor.
This is the count sketch (Charikar, Chen and Farach-Colton 2002) with counted instead of hashed
buckets; that it is taken of the weights of language models is klmap's own.

With ``x`` the difference of two models, ``z_b = sum_(i in b) s_i x_i`` and independent signs,
``E z_b^2 = sum_(i in b) x_i^2``, because ``E s_i s_j = 0``: the squared length of the sketch is
right in the mean, whichever bucket a weight is in. Its variance is
``2 sum_b ((sum_(i in b) x_i^2)^2 - sum_(i in b) x_i^4)``, at most ``2 sum_b e_b^2`` with ``e_b``
what bucket b has of ``|x|^2``. Where all buckets have equal shares, a squared distance has a
relative standard deviation of ``sqrt(2 / S)``, 2.2 %. They nearly do: S is a prime that no layer is
as wide as, so the entries of a row, a column or a diagonal, and hence a few large ones of those, go
through all buckets.

The signs are raw bits of Philox (Salmon et al. 2011), a generator that counts, with a key from the
tensor's name and shape. They are the same on every machine, for every version of numpy and for
every checkpoint. How the weights are split over files, the dtype they are scored in and any
quantisation of them change nothing.
"""

from __future__ import annotations

import hashlib
import json
import math
import pickle
import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from klmap import repository
from klmap.arrays import Floats
from klmap.log import logger

SIZE = 4093
"""Buckets, S: a prime, and 32 kB in a score file (own)."""

METHOD = "count-sketch-1"
"""Raised when the same weights would give another sketch."""

_ROWS = 256
_BLOCK = SIZE * _ROWS  # a multiple of 64, so that every block begins with a word of signs

_UNREADABLE = (
    *(RuntimeError, ValueError, TypeError, OSError),
    *(SafetensorError, pickle.UnpicklingError),
)

_CONSTANT = re.compile(r"(^|\.)(masked_bias|inv_freq|cos_cached|sin_cached|attn_mask)$")
_OUTPUT = re.compile(r"(^|\.)(lm_head|embed_out|output_layer|output|head)\.weight$")


@dataclass(frozen=True)
class Sketch:
    """A random projection of all weights of a model.

    Attributes:
        values: (S,) float64; differences of two are the projection of the difference.
        parameters: number of weights that are in it.
        norm: Euclidean length of the weights, exact.
        dtype: what most of them are stored in, such as ``bfloat16``.
        layout: 12 hexadecimal digits of the names and shapes of the tensors; sketches with
            different ones cannot be compared.
    """

    values: Floats
    parameters: int
    norm: float
    dtype: str
    layout: str

    @property
    def described(self) -> dict[str, Any]:
        """What a score file says of it, as JSON in the attribute ``weights``."""
        return {
            "method": METHOD,
            "size": len(self.values),
            "parameters": self.parameters,
            "norm": self.norm,
            "dtype": self.dtype,
            "layout": self.layout,
        }


def sketch_folder(folder: Path, between: Callable[[], None] = lambda: None) -> Sketch | None:
    """The sketch of the weights in a folder, read from its files a block at a time.

    An output embedding that is stored once more beside an equal input embedding counts once, as do
    two names of one tensor. Tensors that are no weights (masks, frequencies of rotary embeddings)
    and those of whole numbers are left out. Memory is bounded by a block of a million weights and
    what the system keeps of the files; of a ``.bin`` file in the format before torch 1.6 the whole
    file is read.

    Args:
        folder: a Hugging Face folder whose weights are not stored quantised.
        between: called between tensors; what it raises ends the work.

    Returns:
        None, with a line in the log, where the files hold no weights, cannot be read this way, or
        hold values that are not finite.
    """
    began = time.monotonic()
    try:
        stored = _stored(folder)
        found = _sketch(_counted(stored), stored, between)
    except _UNREADABLE as error:
        logger.warning("no sketch of the weights: %s", " ".join(str(error).split())[:300])
        return None
    if not (found.parameters and math.isfinite(found.norm)):
        logger.warning(
            "no sketch of the weights: %d of them, norm %g", found.parameters, found.norm
        )
        return None
    logger.info(
        "sketch of %s weights in %.1f s", f"{found.parameters:,}", time.monotonic() - began
    )  # fmt: skip
    return found


def project(name: str, tensor: torch.Tensor) -> tuple[Floats, float]:
    """The part of one tensor.

    Args:
        name: its name, on which the signs depend.
        tensor: floating-point numbers of any dtype and shape.

    Returns:
        (S,) float64 to be added up over tensors, and the sum of the squares.
    """
    key = hashlib.sha256(_identity(name, tensor).encode()).digest()
    generator = np.random.Philox(key=int.from_bytes(key[:16], "little"))
    start = int.from_bytes(key[16:24], "little") % SIZE
    flat = tensor.reshape(-1)
    buckets, squares = np.zeros(SIZE), 0.0
    for begin in range(0, flat.numel(), _BLOCK):
        values = flat[begin : begin + _BLOCK].to(torch.float64).numpy()
        squares += float(np.einsum("i,i->", values, values))
        rows = -(-len(values) // SIZE)
        if rows * SIZE > len(values):
            values = np.concatenate([values, np.zeros(rows * SIZE - len(values))])
        words = generator.random_raw(-(-len(values) // 64)).astype("<u8", copy=False)
        bits = np.unpackbits(words.view(np.uint8), bitorder="little", count=len(values))
        values = values.reshape(rows, SIZE)
        buckets += values.sum(axis=0)
        buckets -= 2 * np.einsum("rs,rs->s", values, bits.reshape(rows, SIZE))
    return np.roll(buckets, start), squares


def _sketch(names: list[str], stored: dict[str, Any], between: Callable[[], None]) -> Sketch:
    total, squares, parameters = np.zeros(SIZE), 0.0, 0
    dtypes: Counter[str] = Counter()
    layout = hashlib.sha256()
    for name in names:
        between()
        tensor = _tensor(stored, name)
        part, own = project(name, tensor)
        total += part
        squares += own
        parameters += tensor.numel()
        dtypes[str(tensor.dtype).removeprefix("torch.")] += tensor.numel()
        layout.update(_identity(name, tensor).encode() + b"\n")
    dtype = max(dtypes, key=lambda kind: (dtypes[kind], kind)) if dtypes else ""
    return Sketch(total, parameters, math.sqrt(squares), dtype, layout.hexdigest()[:12])


def _identity(name: str, tensor: torch.Tensor) -> str:
    return json.dumps([name, list(tensor.shape)])


def _stored(folder: Path) -> dict[str, Any]:
    """By name, every tensor of the weight files, or the open file that holds it."""
    names = repository.weight_files(path.name for path in folder.iterdir())
    safe = [name for name in names if name.endswith(".safetensors")]
    found: dict[str, Any] = {}
    for file in safe:
        opened: Any = safe_open(folder / file, framework="pt")
        found |= dict.fromkeys(opened.keys(), opened)
    for file in names if not safe else []:
        content = _pickled(folder / file)
        found |= {name: item for name, item in content.items() if isinstance(item, torch.Tensor)}
    return found


def _pickled(path: Path) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError:  # not a zip file, as torch wrote them before 1.6
        content = torch.load(path, map_location="cpu", weights_only=True)
    return dict(content)


def _tensor(stored: dict[str, Any], name: str) -> torch.Tensor:
    entry = stored[name]
    found: torch.Tensor = entry if isinstance(entry, torch.Tensor) else entry.get_tensor(name)
    return found.detach()


def _counted(stored: dict[str, Any]) -> list[str]:
    """The tensors that are weights, sorted by name, each one once."""
    kept = []
    for name in sorted(stored):
        tensor = _tensor(stored, name)
        # Four dimensions: the causal mask that early GPT-2 files store as a bias.
        mask = name.endswith(".bias") and tensor.dim() == 4
        if tensor.is_floating_point() and not mask and not _CONSTANT.search(name):
            kept.append(name)
    outputs = [name for name in kept if _OUTPUT.search(name) and _tensor(stored, name).dim() == 2]
    twice = {
        output
        for output in outputs
        if any(_same(stored, output, name) for name in kept if name not in outputs)
    }
    return [name for name in kept if name not in twice]


def _same(stored: dict[str, Any], first: str, second: str) -> bool:
    """Whether two tensors are equal; unequal ones mostly show it in their first rows."""
    one, other = _tensor(stored, first), _tensor(stored, second)
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    rows = max(1, _BLOCK // max(one.shape[1], 1))
    begins = range(0, len(one), rows)
    return all(torch.equal(one[b : b + rows], other[b : b + rows]) for b in begins)
