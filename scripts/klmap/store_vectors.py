"""Log-likelihoods in HDF5 files of others, and in the maps of klmap itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from klmap.arrays import Floats
from klmap.errors import InputError
from klmap.store_file import plain

MATRIX_FORMAT = "klmap-matrix"


def read_foreign(
    path: Path, dataset: str, names_dataset: str, texts: int | None = None
) -> tuple[list[str], Floats, str]:
    """Read a matrix of log-likelihoods and the names of its rows.

    Args:
        path: any HDF5 file.
        dataset: where in it the log-likelihoods are, one row per model.
        names_dataset: where the models' names are.
        texts: how many texts there are; None does not check.

    Returns:
        M names; (M, N) float64, nats per text; the hash of the texts where the file is a
        ``klmap-matrix``, else an empty text.

    Raises:
        InputError: the file is missing or is no HDF5 file, or has no such datasets, or they do not
            fit together or fit the texts, which is known before they are read.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        with h5py.File(path, "r") as file:
            values = _dataset(path, file, dataset, "dataset")
            found = _dataset(path, file, names_dataset, "names_dataset")
            _check_names(path, names_dataset, found)
            _check_loglik(path, dataset, values, len(found), texts)
            names = [str(plain(name)) for name in found[:]]
            loglik: Floats = np.asarray(values[:], np.float64)
            known = plain(file.attrs.get("format", "")) == MATRIX_FORMAT
            sha256 = str(plain(file.attrs.get("texts_sha256", ""))) if known else ""
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"{path}: truncated or not an HDF5 file ({error}); fetch it again"
        ) from None
    except MemoryError:
        raise InputError(
            f"{path}: {dataset} or {names_dataset} is larger than the memory of this machine"
        ) from None
    return names, loglik, sha256


def _dataset(path: Path, file: h5py.File, name: str, key: str) -> Any:
    found = file.get(name)
    if isinstance(found, h5py.Dataset):
        return found
    there: list[str] = []
    file.visititems(lambda at, item: there.append(at) if isinstance(item, h5py.Dataset) else None)
    raise InputError(
        f"{path}: no dataset {name!r}; it has {', '.join(sorted(there)) or 'none'}: name the right "
        f"one with {key}:"
    )


def _check_names(path: Path, name: str, found: Any) -> None:
    if found.ndim != 1 or not (h5py.check_string_dtype(found.dtype) or found.dtype.kind == "S"):
        raise InputError(
            f"{path}: {name} is {found.dtype} of shape {found.shape}, expected one name per model"
        )


def _check_loglik(path: Path, name: str, found: Any, count: int, texts: int | None) -> None:
    if found.ndim != 2 or found.dtype.kind not in "fiu":
        raise InputError(
            f"{path}: {name} is {found.dtype} of shape {found.shape}, expected a row of "
            "log-likelihoods for each model"
        )
    if len(found) != count:
        turned = "; it stands on its side: transpose it" if found.shape[1] == count else ""
        raise InputError(f"{path}: {name} has {len(found)} rows for {count} names{turned}")
    if texts is not None and found.shape[1] != texts:
        raise InputError(
            f"{path}: {name} has {found.shape[1]:,} columns, but the text set has {texts:,} texts; "
            "its vectors were computed on other texts"
        )
