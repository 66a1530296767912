"""Files of samples, ``klmap-samples``: what two models write after the same prompts."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from klmap.arrays import Bools, Floats, Ints
from klmap.errors import InputError
from klmap.store_file import check_shape, created, opened, reading, whole, writing
from klmap.store_pair import PairFile, check_status, read_attributes, write_attributes

FORMAT = "klmap-samples"

TOKENS, TEXT = "tokens", "text"
"""How samples are scored: as the ids that were sampled, or as their text, read again."""

_DATASETS = {
    "prompt": np.int32,
    "source": np.int8,
    "number": np.int32,
    "loglik": np.float64,
    "steps": np.float64,
    "n_bytes": np.int32,
    "n_tokens": np.int32,
    "ended": np.bool_,
    "canonical": np.bool_,
    "features": np.float32,
}


@dataclass
class Samples(PairFile):
    """Responses of two models to the same prompts, or why there are none.

    Attributes:
        text: n responses.
        prompt: (n,) int32, the number of the text of the set whose prompt each follows.
        source: (n,) int8, 0 where the first model wrote it, 1 where the second did.
        number: (n,) int32, which of the samples of this prompt and model it is.
        loglik: (2, n) float64, nats per response given its prompt, by either model.
        steps: (n,) float64, nats per response: the sum over its positions of the exact KL of the
            next token, of the model that wrote it from the other one; NaN where responses are
            scored as text.
        n_bytes: (n,) int32, UTF-8 bytes of each response.
        n_tokens: (n,) int32, tokens that were sampled, the one that ends it included.
        ended: (n,) bool, whether the model ended it, and not the longest length.
        canonical: (n,) bool, whether the tokenizer makes the sampled tokens of its text.
        features: (n, d) float32 for MAUVE, NaN for responses without a token; (n, 0) without.
        attributes: with the rest, how they are scored (``scored_as``), and samples and prompts
            left out.
    """

    text: list[str] = field(default_factory=list)
    prompt: Ints = field(default_factory=lambda: np.zeros(0, np.int32))
    source: npt.NDArray[np.int8] = field(default_factory=lambda: np.zeros(0, np.int8))
    number: Ints = field(default_factory=lambda: np.zeros(0, np.int32))
    loglik: Floats = field(default_factory=lambda: np.zeros((2, 0), np.float64))
    steps: Floats = field(default_factory=lambda: np.zeros(0, np.float64))
    n_bytes: Ints = field(default_factory=lambda: np.zeros(0, np.int32))
    n_tokens: Ints = field(default_factory=lambda: np.zeros(0, np.int32))
    ended: Bools = field(default_factory=lambda: np.zeros(0, np.bool_))
    canonical: Bools = field(default_factory=lambda: np.zeros(0, np.bool_))
    features: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))


def write_samples(path: Path, found: Samples) -> None:
    """Write one file atomically.

    Raises:
        OSError: the disk is full or not writable; nothing is left behind.
    """
    with created(path, FORMAT) as file, writing(path):
        packed = {"compression": "gzip", "shuffle": True} if found.text else {}
        # Strings of HDF5 end at a NUL, and models write those, too.
        parts = [text.encode() for text in found.text]
        joined = np.frombuffer(b"".join(parts), np.uint8)
        file.create_dataset("text", data=joined, **(packed if joined.size else {}))
        offset = np.cumsum([0, *map(len, parts)], dtype=np.int64)
        file.create_dataset("text_offset", data=offset)
        for name, kind in _DATASETS.items():
            array: npt.NDArray[Any] = np.asarray(getattr(found, name), kind)
            file.create_dataset(name, data=array, **(packed if array.size else {}))
        write_attributes(file, found)


def read_samples(path: Path) -> Samples:
    """Read and check one file.

    Raises:
        InputError: the file is missing, truncated, of another format, or inconsistent.
    """
    with opened(path, FORMAT) as file, reading(path):
        named = read_attributes(file)
        named |= {name: whole(file, name) for name in _DATASETS}
        joined, offset = whole(file, "text").tobytes(), whole(file, "text_offset").tolist()
        named["text"] = [joined[start:stop].decode() for start, stop in itertools.pairwise(offset)]
    found = Samples(**named)
    _check(path, found)
    return found


def _check(path: Path, found: Samples) -> None:
    check_status(path, found)
    count = len(found.text)
    check_shape(path, "loglik", found.loglik, (2, count))
    check_shape(path, "features", found.features[:, :0], (count, 0))
    for name in sorted({*_DATASETS} - {"loglik", "features"}):
        check_shape(path, name, getattr(found, name), (count,))
    if not np.isfinite(found.loglik).all():
        raise InputError(f"{path}: not all log-likelihoods are finite; remove it and run again")
    if found.status == "ok" and {*found.source.tolist()} != {0, 1}:
        raise InputError(f"{path}: not both models wrote anything; remove it and run again")
