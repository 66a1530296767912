"""The HDF5 files of a map: ``klmap-matrix``, all models of a text set, and ``klmap-kl``, distances.

A matrix of very many models does not fit in memory. It is written
(:func:`create_matrix`) and read (:func:`open_matrix`) by ranges of rows. ``docs/formats.md``
describes every dataset and attribute for readers with code of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from klmap.arrays import Bools, Floats, Floats32, Ints
from klmap.design import Design
from klmap.errors import InputError
from klmap.store_design import read_design, write_design
from klmap.store_file import (
    check_shape,
    created,
    opened,
    optional,
    plain,
    reading,
    strings,
    writing,
)
from klmap.store_score import LOGLIK

MATRIX_FORMAT = "klmap-matrix"
KL_FORMAT = "klmap-kl"


@dataclass
class Matrix:
    """All models of one text set.

    Attributes:
        loglik: (K, N) float64, raw log-likelihoods in nats (``L``).
        coordinates: (K, N) float32, double-centred after clipping, and weighted where there is a
            design (``Q``).
        model: K names.
        domain: N labels of the texts.
        n_bytes: (N,) int32, UTF-8 bytes of each text.
        clip_quantile: share of all K*N values below the threshold.
        clip_threshold: nats; lower values count as this one.
        mean_bytes: bytes per text, B.
        texts_sha256: hash of the text set.
        noise: (K,) float64, RMS numerical error of each row of ``loglik``, nats per text, NaN
            where unknown; left out, that of every model is.
        design: how these texts stand for those of a reference; None for a text set of its own.
            ``mean_bytes`` is then that of the reference.
        complete: (K,) bool, whether a model was scored on all texts of the reference; left out,
            every model was. True of all where there is no design.
        selection: fingerprint of the text selection; empty without a design.
        vector: what the rows are: ``loglik``, or ``pmi``, what responses gain by their prompts.
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
    design: Design | None = None
    complete: Bools = field(default_factory=lambda: np.zeros(0, np.bool_))
    selection: str = ""
    vector: str = LOGLIK

    def __post_init__(self) -> None:
        """Fill in what was left out."""
        if not self.noise.size:
            self.noise = np.full(len(self.model), np.nan)
        if not self.complete.size:
            self.complete = np.ones(len(self.model), np.bool_)

    @property
    def texts(self) -> int:
        """Number of texts that distances are of, N: of the reference, where there is one."""
        return len(self.domain) if self.design is None else self.design.texts


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
        n_texts: number of texts, N; with a design, of the reference.
        mean_bytes: UTF-8 bytes per text, B; one bit per byte is ``B ln 2`` nats per text.
        noise: (K,) float64, RMS numerical error of each model's log-likelihoods, nats per text,
            NaN where unknown; left out, that of every model is.
        neighbor_below_noise: (K, k) bool, whether ``neighbor_kl`` is below the noise floor of the
            pair; left out, none is.
        below_noise: (K, K) bool, the same of ``kl``, False on the diagonal; None where ``kl`` is.
        pca_points: (K, r) float32, the first principal components of the models; the squared
            distance of two rows is the part of their KL that these components hold. None, like
            all that follows, in files of an earlier klmap.
        pca_residual: (K,) float32, norm of what the components leave out of each model, the
            square root of bits per byte. Where two residuals are uncorrelated, the KL is
            ``|p_i - p_j|^2 + r_i^2 + r_j^2``; it always lies between that with ``(r_i - r_j)^2``
            and that with ``(r_i + r_j)^2`` in place of the last two terms.
        pca_variance: (r,) float64, mean square of each component over the models, falling.
        total_variance: mean square of the models' distances from their mean, bits per byte.
        recall: share of the true ``k`` nearest that were found, measured against all pairs of a
            sample of models; 1 where all pairs were computed.
        recall_sample: number of models in that sample.
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
    pca_points: Floats32 | None = None
    pca_residual: Floats32 | None = None
    pca_variance: Floats | None = None
    total_variance: float | None = None
    recall: float | None = None
    recall_sample: int | None = None

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


class MatrixFile:
    """An open matrix file that is read by ranges of rows.

    It has the attributes of :class:`Matrix` but the two arrays.

    Attributes:
        path: the file.
        model: K names.
        domain: N labels of the texts.
        n_bytes: (N,) int32, UTF-8 bytes of each text.
        clip_quantile: share of all K*N values below the threshold.
        clip_threshold: nats; lower values count as this one.
        mean_bytes: bytes per text, B.
        texts_sha256: hash of the text set.
        noise: (K,) float64, RMS numerical error of each model, nats per text, NaN where unknown.
        design: how these texts stand for those of a reference; None for a text set of its own.
        complete: (K,) bool, whether a model was scored on all texts of the reference.
        selection: fingerprint of the text selection; empty without a design.
        vector: what the rows are, ``loglik`` or ``pmi``.
    """

    def __init__(self, path: Path, file: h5py.File) -> None:
        """Read and check all but the arrays; call it within :func:`open_matrix`."""
        self.path = path
        self._file = file
        self.model = strings(file, "model")
        self.domain = strings(file, "domain")
        self.n_bytes: Ints = file["n_bytes"][:]
        self.clip_quantile = float(file.attrs["clip_quantile"])
        self.clip_threshold = float(file.attrs["clip_threshold"])
        self.mean_bytes = float(file.attrs["mean_bytes"])
        self.texts_sha256 = str(file.attrs["texts_sha256"])
        unknown = np.full(len(self.model), np.nan)
        self.noise: Floats = file["noise"][:] if "noise" in file else unknown
        shape = (len(self.model), len(self.domain))
        for name in ("L", "Q"):
            if file[name].shape != shape:
                found = file[name].shape
                raise InputError(f"{path}: {name} is {found}, names and domains say {shape}")
        check_shape(path, "noise", self.noise, shape[:1])
        self.design = read_design(path, file, shape[1])
        everyone = np.ones(len(self.model), np.bool_)
        self.complete: Bools = file["complete"][:] if "complete" in file else everyone
        check_shape(path, "complete", self.complete, shape[:1])
        self.selection = str(file.attrs.get("selection", ""))
        self.vector = str(file.attrs.get("vector", LOGLIK))

    @property
    def texts(self) -> int:
        """Number of texts that distances are of, N: of the reference, where there is one."""
        return len(self.domain) if self.design is None else self.design.texts

    def loglik(self, begin: int, end: int) -> Floats:
        """Raw log-likelihoods of the models ``begin`` to ``end - 1``.

        Returns:
            (rows, N) float64, nats; fewer rows where there are no more models.

        Raises:
            InputError: the file is truncated.
        """
        with reading(self.path):
            rows: Floats = self._file["L"][begin:end]
            return rows

    def coordinates(self, begin: int, end: int) -> Floats32:
        """Double-centred coordinates of the models ``begin`` to ``end - 1``.

        Returns:
            (rows, N) float32, nats; fewer rows where there are no more models.

        Raises:
            InputError: the file is truncated.
        """
        with reading(self.path):
            rows: Floats32 = self._file["Q"][begin:end]
            return rows


class MatrixWriter:
    """A matrix file in the making, written by ranges of rows.

    Attributes:
        path: where the file will be.
        models: number of models, K.
        texts: number of texts, N.
    """

    def __init__(self, path: Path, file: h5py.File, models: int, texts: int) -> None:
        """Make room for the two arrays; call it within :func:`create_matrix`."""
        self.path = path
        self.models = models
        self.texts = texts
        self._file = file
        # In one piece each: on a full disk HDF5 crashes over pieces that it still holds.
        self._loglik = file.create_dataset("L", (models, texts), np.float64)
        self._coordinates = file.create_dataset("Q", (models, texts), np.float32)

    def write_loglik(self, begin: int, rows: Floats) -> None:
        """Write the raw log-likelihoods of the models from ``begin`` on, (rows, N), nats."""
        with writing(self.path):
            self._loglik[begin : begin + len(rows)] = rows

    def loglik(self, begin: int, end: int) -> Floats:
        """What was written as rows ``begin`` to ``end - 1``, (rows, N) float64, nats."""
        with writing(self.path):
            rows: Floats = self._loglik[begin:end]
            return rows

    def write_coordinates(self, begin: int, rows: Floats32) -> None:
        """Write the coordinates of the models from ``begin`` on, (rows, N), nats."""
        with writing(self.path):
            self._coordinates[begin : begin + len(rows)] = rows

    def describe(self, **values: Any) -> None:
        """Write the attributes of :class:`Matrix` other than the two arrays, all of them."""
        with writing(self.path):
            for key in ("model", "domain"):
                self._file.create_dataset(key, data=values[key], dtype=h5py.string_dtype())
            self._file.create_dataset("n_bytes", data=values["n_bytes"], dtype=np.int32)
            self._file.create_dataset("noise", data=values["noise"], dtype=np.float64)
            for key in ("clip_quantile", "clip_threshold", "mean_bytes", "texts_sha256"):
                self._file.attrs[key] = values[key]
            if (vector := values.get("vector", LOGLIK)) != LOGLIK:
                self._file.attrs["vector"] = vector
            if (design := values.get("design")) is not None:
                write_design(self._file, design)
                self._file.create_dataset("complete", data=values["complete"], dtype=np.bool_)
                self._file.attrs["selection"] = values["selection"]


@contextmanager
def create_matrix(path: Path, models: int, texts: int) -> Iterator[MatrixWriter]:
    """Write the matrix of a text set by ranges of rows; it appears when the block has ended well.

    Args:
        path: the file to write.
        models: number of models, K.
        texts: number of texts, N.

    Raises:
        OSError: the disk is full or not writable. Whatever is raised, nothing is left behind.
    """
    with created(path, MATRIX_FORMAT) as file:
        with writing(path):
            made = MatrixWriter(path, file, models, texts)
        yield made


@contextmanager
def open_matrix(path: Path) -> Iterator[MatrixFile]:
    """Open a matrix file to read it by ranges of rows.

    Raises:
        InputError: the file is missing, truncated, of another format, or inconsistent.
    """
    with opened(path, MATRIX_FORMAT) as file:
        with reading(path):
            found = MatrixFile(path, file)
        yield found


def write_matrix(path: Path, matrix: Matrix) -> None:
    """Write a matrix that is in memory atomically.

    Raises:
        OSError: the disk is full or not writable; nothing is left behind.
    """
    with create_matrix(path, *matrix.loglik.shape) as file:
        file.write_loglik(0, matrix.loglik)
        file.write_coordinates(0, matrix.coordinates)
        file.describe(**vars(matrix))


def read_matrix(path: Path) -> Matrix:
    """Read and check a matrix file; in one without ``noise`` that of every model is unknown.

    Raises:
        InputError: the file is missing, truncated, of another format, or inconsistent.
    """
    with open_matrix(path) as file:
        rows = len(file.model)
        known = {key: value for key, value in vars(file).items() if key not in ("path", "_file")}
        return Matrix(file.loglik(0, rows), file.coordinates(0, rows), **known)


def write_distances(path: Path, distances: Distances) -> None:
    """Write the distances of a text set atomically.

    Raises:
        OSError: the disk is full or not writable; nothing is left behind.
    """
    with created(path, KL_FORMAT) as file, writing(path):
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
        if distances.pca_points is not None:
            file.create_dataset("pca/points", data=distances.pca_points, dtype=np.float32)
            file.create_dataset("pca/residual", data=distances.pca_residual, dtype=np.float32)
            file.create_dataset("pca/variance", data=distances.pca_variance, dtype=np.float64)
        for key in ("total_variance", "recall", "recall_sample"):
            if getattr(distances, key) is not None:
                file.attrs[key] = getattr(distances, key)
        for key in ("texts_sha256", "n_texts", "mean_bytes"):
            file.attrs[key] = getattr(distances, key)
        file.attrs["unit"] = "bits/byte"


def read_distances(path: Path) -> Distances:
    """Read and check a distance file; in one without ``noise`` no pair is below it.

    Raises:
        InputError: the file is missing, truncated, of another format, or inconsistent.
    """
    with opened(path, KL_FORMAT) as file, reading(path):
        distances = Distances(
            model=strings(file, "model"),
            neighbor_index=file["neighbors/index"][:],
            neighbor_kl=file["neighbors/kl"][:],
            kl=file["kl"][:] if "kl" in file else None,
            se=file["se"][:] if "se" in file else None,
            texts_sha256=str(file.attrs["texts_sha256"]),
            n_texts=int(file.attrs["n_texts"]),
            mean_bytes=float(file.attrs["mean_bytes"]),
            **optional(
                file,
                noise="noise",
                neighbor_below_noise="neighbors/below_noise",
                below_noise="below_noise",
                pca_points="pca/points",
                pca_residual="pca/residual",
                pca_variance="pca/variance",
            ),
            total_variance=plain(file.attrs.get("total_variance")),
            recall=plain(file.attrs.get("recall")),
            recall_sample=plain(file.attrs.get("recall_sample")),
        )
    size = len(distances.model)
    if distances.kl is not None and distances.kl.shape != (size, size):
        raise InputError(f"{path}: kl is {distances.kl.shape} for {size} models; remove it")
    check_shape(path, "noise", distances.noise, (size,))
    marks, index = distances.neighbor_below_noise, distances.neighbor_index
    check_shape(path, "neighbors/below_noise", marks, index.shape)
    if distances.below_noise is not None:
        check_shape(path, "below_noise", distances.below_noise, (size, size))
    if distances.pca_points is not None and distances.pca_residual is not None:
        check_shape(path, "pca/points", distances.pca_points[:, :0], (size, 0))
        check_shape(path, "pca/residual", distances.pca_residual, (size,))
    return distances
