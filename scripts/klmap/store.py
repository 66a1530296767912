"""The HDF5 files of klmap: write atomically, read with every check, nobody else opens an .h5.

Three formats, each with ``format`` and ``format_version`` at its root: ``klmap-score`` (one
model's log-likelihoods), ``klmap-matrix`` (all models of a text set) and ``klmap-kl``
(distances). ``docs/formats.md`` describes every dataset and attribute for readers with code of
their own.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from klmap.errors import InputError
from klmap.files import atomic

SCORE_FORMAT = "klmap-score"
MATRIX_FORMAT = "klmap-matrix"
KL_FORMAT = "klmap-kl"
FORMAT_VERSION = 1

Floats = npt.NDArray[np.float64]
Floats32 = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]
Bools = npt.NDArray[np.bool_]


@dataclass
class Score:
    """One model's log-likelihoods on one text set, or the reason why there are none.

    Attributes:
        model: the model's name on the map (its slug).
        commit: the commit, or content hash, of the scored weights.
        texts_sha256: hash of the text set, from its manifest.
        fingerprint: 12 hexadecimal digits that name the computation.
        spec: the settings that the fingerprint hashes.
        status: ``ok`` or ``failed``.
        error: why it failed, empty for ``ok``.
        loglik: (N,) float64, nats per text; empty when failed.
        n_tokens: (N,) int32, tokens of the text without a beginning-of-sequence token.
        n_scored: (N,) int32, tokens whose log-probability was summed.
        truncated: (N,) bool, true where tokens were left out because of the context length.
        token_logprob: (T,) float32, nats per scored token in text order, if they were kept.
        token_offset: (N+1,) int64, where each text's tokens begin in ``token_logprob``.
        attributes: dtype, quantization, prefix, overlength, noise_nats, device, software,
            seconds, tokens_per_second and whatever else the scorer records.
    """

    model: str
    commit: str
    texts_sha256: str
    fingerprint: str
    spec: dict[str, Any]
    status: str = "ok"
    error: str = ""
    loglik: Floats = field(default_factory=lambda: np.zeros(0))
    n_tokens: Ints = field(default_factory=lambda: np.zeros(0, np.int32))
    n_scored: Ints = field(default_factory=lambda: np.zeros(0, np.int32))
    truncated: Bools = field(default_factory=lambda: np.zeros(0, np.bool_))
    token_logprob: Floats32 | None = None
    token_offset: npt.NDArray[np.int64] | None = None
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass
class Matrix:
    """All models of one text set.

    Attributes:
        loglik: (K, N) float64, raw log-likelihoods in nats (``L``).
        coordinates: (K, N) float32, double-centred after clipping (``Q``).
        model: K names.
        domain: N labels of the texts.
        n_bytes: (N,) int32, UTF-8 bytes of each text.
        clip_quantile: share of all K*N values below the threshold.
        clip_threshold: nats; lower values count as this one.
        mean_bytes: bytes per text, B.
        texts_sha256: hash of the text set.
        noise: (K,) float64, RMS numerical error of each row of ``loglik``, nats per text, NaN
            where unknown; left out, that of every model is.
    """

    loglik: Floats
    coordinates: Floats32
    model: list[str]
    domain: list[str]
    n_bytes: Ints
    clip_quantile: float
    clip_threshold: float
    mean_bytes: float
    texts_sha256: str
    noise: Floats = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        """Fill in what was left out."""
        if not self.noise.size:
            self.noise = np.full(len(self.model), np.nan)


@dataclass
class Distances:
    """KL divergences between the models of one matrix, in bits per byte.

    Attributes:
        model: K names.
        neighbor_index: (K, k) int32, nearest models first.
        neighbor_kl: (K, k) float64.
        kl: (K, K) float64, or None above the dense limit.
        se: (K, K) float32, standard errors of ``kl`` over texts, or None above the dense limit.
        texts_sha256: hash of the text set.
        n_texts: number of texts, N.
        mean_bytes: UTF-8 bytes per text, B; one bit per byte is ``B ln 2`` nats per text.
        noise: (K,) float64, RMS numerical error of each model's log-likelihoods, nats per text,
            NaN where unknown; left out, that of every model is.
        neighbor_below_noise: (K, k) bool, whether ``neighbor_kl`` is below the noise floor of the
            pair; left out, none is.
        below_noise: (K, K) bool, the same of ``kl``, False on the diagonal; None where ``kl`` is.
    """

    model: list[str]
    neighbor_index: Ints
    neighbor_kl: Floats
    kl: Floats | None
    se: Floats32 | None
    texts_sha256: str
    n_texts: int
    mean_bytes: float
    noise: Floats = field(default_factory=lambda: np.zeros(0))
    neighbor_below_noise: Bools = field(default_factory=lambda: np.zeros(0, np.bool_))
    below_noise: Bools | None = None

    def __post_init__(self) -> None:
        """Fill in what was left out."""
        if not self.noise.size:
            self.noise = np.full(len(self.model), np.nan)
        if not self.neighbor_below_noise.size:
            self.neighbor_below_noise = np.zeros(self.neighbor_index.shape, np.bool_)
        if self.kl is None:
            self.below_noise = None
        elif self.below_noise is None:
            self.below_noise = np.zeros(self.kl.shape, np.bool_)


def write_score(path: Path, score: Score) -> None:
    """Write one score file atomically.

    Raises:
        OSError: the disk is full or not writable; nothing is left behind.
    """
    with _create(path, SCORE_FORMAT) as file:
        file.create_dataset("loglik", data=np.asarray(score.loglik, np.float64))
        file.create_dataset("n_tokens", data=np.asarray(score.n_tokens, np.int32))
        file.create_dataset("n_scored", data=np.asarray(score.n_scored, np.int32))
        file.create_dataset("truncated", data=np.asarray(score.truncated, np.bool_))
        if score.token_logprob is not None and score.token_offset is not None:
            file.create_dataset("tokens/logprob", data=score.token_logprob.astype(np.float32))
            file.create_dataset("tokens/offset", data=score.token_offset.astype(np.int64))
        attributes = {
            "model": score.model,
            "commit": score.commit,
            "texts_sha256": score.texts_sha256,
            "fingerprint": score.fingerprint,
            "spec": json.dumps(score.spec, sort_keys=True),
            "status": score.status,
            "error": score.error,
            **score.attributes,
        }
        for key, value in attributes.items():
            file.attrs[key] = json.dumps(value, sort_keys=True) if _nested(value) else value


def read_score(path: Path) -> Score:
    """Read and check one score file.

    Raises:
        InputError: the file is missing, truncated, of another format, or inconsistent.
    """
    with _open(path, SCORE_FORMAT) as file:
        attributes = {key: _plain(value) for key, value in file.attrs.items()}
        named = {
            key: attributes.pop(key)
            for key in ("model", "commit", "texts_sha256", "fingerprint", "status", "error")
        }
        spec = json.loads(attributes.pop("spec"))
        for key in ("format", "format_version"):
            attributes.pop(key)
        tokens = file.get("tokens")
        score = Score(
            **named,
            spec=spec,
            loglik=file["loglik"][:],
            n_tokens=file["n_tokens"][:],
            n_scored=file["n_scored"][:],
            truncated=file["truncated"][:].astype(np.bool_),
            token_logprob=tokens["logprob"][:] if tokens is not None else None,
            token_offset=tokens["offset"][:] if tokens is not None else None,
            attributes=attributes,
        )
    _check_score(path, score)
    return score


def read_summary(path: Path) -> tuple[dict[str, Any], int]:
    """Attributes of one score file and its number of scored tokens, several times faster.

    Raises:
        InputError: the file is missing, truncated or of another format.
    """
    with _open(path, SCORE_FORMAT) as file:
        known = {key: _plain(value) for key, value in file.attrs.items()}
        return known | {"spec": json.loads(known["spec"])}, int(file["n_scored"][:].sum())


def _check_score(path: Path, score: Score) -> None:
    if score.status not in ("ok", "failed"):
        raise InputError(f"{path}: status is {score.status!r}, expected 'ok' or 'failed'")
    arrays = (score.loglik, score.n_tokens, score.n_scored, score.truncated)
    shapes = sorted({array.shape for array in arrays})
    if len(shapes) != 1 or len(shapes[0]) != 1:
        raise InputError(f"{path}: datasets of different lengths {shapes}; remove it")
    if score.status == "ok" and not np.isfinite(score.loglik).all():
        count = int((~np.isfinite(score.loglik)).sum())
        raise InputError(f"{path}: {count} log-likelihoods are not finite; remove it and rescore")


def write_matrix(path: Path, matrix: Matrix) -> None:
    """Write the matrix of a text set atomically.

    Raises:
        OSError: the disk is full or not writable; nothing is left behind.
    """
    with _create(path, MATRIX_FORMAT) as file:
        file.create_dataset("L", data=matrix.loglik, dtype=np.float64)
        file.create_dataset("Q", data=matrix.coordinates, dtype=np.float32)
        file.create_dataset("model", data=matrix.model, dtype=h5py.string_dtype())
        file.create_dataset("domain", data=matrix.domain, dtype=h5py.string_dtype())
        file.create_dataset("n_bytes", data=matrix.n_bytes, dtype=np.int32)
        file.create_dataset("noise", data=matrix.noise, dtype=np.float64)
        for key in ("clip_quantile", "clip_threshold", "mean_bytes", "texts_sha256"):
            file.attrs[key] = getattr(matrix, key)


def read_matrix(path: Path) -> Matrix:
    """Read and check a matrix file; in one without ``noise`` that of every model is unknown.

    Raises:
        InputError: the file is missing, truncated, of another format, or inconsistent.
    """
    with _open(path, MATRIX_FORMAT) as file:
        matrix = Matrix(
            loglik=file["L"][:],
            coordinates=file["Q"][:],
            model=[str(name) for name in file["model"].asstr()[:]],
            domain=[str(name) for name in file["domain"].asstr()[:]],
            n_bytes=file["n_bytes"][:],
            clip_quantile=float(file.attrs["clip_quantile"]),
            clip_threshold=float(file.attrs["clip_threshold"]),
            mean_bytes=float(file.attrs["mean_bytes"]),
            texts_sha256=str(file.attrs["texts_sha256"]),
            **_optional(file, noise="noise"),
        )
    shape = (len(matrix.model), len(matrix.domain))
    for name, array in (("L", matrix.loglik), ("Q", matrix.coordinates)):
        if array.shape != shape:
            raise InputError(f"{path}: {name} is {array.shape}, names and domains say {shape}")
    _check_shape(path, "noise", matrix.noise, shape[:1])
    return matrix


def write_distances(path: Path, distances: Distances) -> None:
    """Write the distances of a text set atomically.

    Raises:
        OSError: the disk is full or not writable; nothing is left behind.
    """
    with _create(path, KL_FORMAT) as file:
        file.create_dataset("model", data=distances.model, dtype=h5py.string_dtype())
        file.create_dataset("neighbors/index", data=distances.neighbor_index, dtype=np.int32)
        file.create_dataset("neighbors/kl", data=distances.neighbor_kl, dtype=np.float64)
        marks = distances.neighbor_below_noise
        file.create_dataset("neighbors/below_noise", data=marks, dtype=np.bool_)
        file.create_dataset("noise", data=distances.noise, dtype=np.float64)
        if distances.kl is not None and distances.se is not None:
            file.create_dataset("kl", data=distances.kl, dtype=np.float64)
            file.create_dataset("se", data=distances.se, dtype=np.float32)
            file.create_dataset("below_noise", data=distances.below_noise, dtype=np.bool_)
        for key in ("texts_sha256", "n_texts", "mean_bytes"):
            file.attrs[key] = getattr(distances, key)
        file.attrs["unit"] = "bits/byte"


def read_distances(path: Path) -> Distances:
    """Read and check a distance file; in one without ``noise`` no pair is below it.

    Raises:
        InputError: the file is missing, truncated, of another format, or inconsistent.
    """
    with _open(path, KL_FORMAT) as file:
        distances = Distances(
            model=[str(name) for name in file["model"].asstr()[:]],
            neighbor_index=file["neighbors/index"][:],
            neighbor_kl=file["neighbors/kl"][:],
            kl=file["kl"][:] if "kl" in file else None,
            se=file["se"][:] if "se" in file else None,
            texts_sha256=str(file.attrs["texts_sha256"]),
            n_texts=int(file.attrs["n_texts"]),
            mean_bytes=float(file.attrs["mean_bytes"]),
            **_optional(
                file,
                noise="noise",
                neighbor_below_noise="neighbors/below_noise",
                below_noise="below_noise",
            ),
        )
    size = len(distances.model)
    if distances.kl is not None and distances.kl.shape != (size, size):
        raise InputError(f"{path}: kl is {distances.kl.shape} for {size} models; remove it")
    _check_shape(path, "noise", distances.noise, (size,))
    marks, index = distances.neighbor_below_noise, distances.neighbor_index
    _check_shape(path, "neighbors/below_noise", marks, index.shape)
    if distances.below_noise is not None:
        _check_shape(path, "below_noise", distances.below_noise, (size, size))
    return distances


def _optional(file: h5py.File, **names: str) -> dict[str, Any]:
    """Those of the named datasets that the file has: earlier versions of klmap wrote fewer."""
    return {key: file[name][:] for key, name in names.items() if name in file}


def _check_shape(path: Path, name: str, array: npt.NDArray[Any], expected: tuple[int, ...]) -> None:
    if array.shape != expected:
        raise InputError(
            f"{path}: {name} is {array.shape}, expected {expected}; remove it and run again"
        )


@contextmanager
def _open(path: Path, expected: str) -> Iterator[h5py.File]:
    """Open a file of one format; every way in which it can be wrong names the file and the fix."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        with h5py.File(path, "r") as file:
            found = _plain(file.attrs.get("format", "none"))
            version = int(file.attrs.get("format_version", 0))
            if found != expected:
                raise InputError(
                    f"{path}: format is {found!r}, expected {expected!r}; this is not a file that "
                    "klmap wrote for this place: move it away and run again"
                )
            if version > FORMAT_VERSION:
                raise InputError(
                    f"{path}: format version {version}, this klmap reads up to {FORMAT_VERSION}; "
                    "update klmap"
                )
            yield file
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise InputError(
            f"{path}: truncated or not a klmap file ({error}); remove it and run again"
        ) from None


@contextmanager
def _create(path: Path, name: str) -> Iterator[h5py.File]:
    """A new file of one format, which appears under its name only when it is complete."""
    try:
        with atomic(path) as temporary, h5py.File(temporary, "w") as file:
            file.attrs["format"] = name
            file.attrs["format_version"] = FORMAT_VERSION
            yield file
    except (OSError, RuntimeError) as error:
        # HDF5 reports a disk that fills up while the file is closed as a RuntimeError.
        reason = str(error).partition(", filename")[0].replace("\n", " ")
        code = getattr(error, "errno", None) or errno.EIO
        raise OSError(code, f"cannot be written, is the disk full? {reason}", str(path)) from None


def _nested(value: Any) -> bool:
    return isinstance(value, (dict, list, tuple)) or value is None


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    return value.item() if isinstance(value, np.generic) else value
