"""How the texts of a matrix file stand for those of a reference."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from klmap.design import Design
from klmap.store_file import check_shape

_ARRAYS = {"weight": "weight", "variance": "weight_variance", "balance": "weight_balance"}
_TEXTS = "n_reference"


def write_design(file: h5py.File, design: Design) -> None:
    """Write a design into a matrix file that is open for writing."""
    for key, name in _ARRAYS.items():
        file.create_dataset(name, data=getattr(design, key), dtype=np.float64)
    file.attrs[_TEXTS] = design.texts


def read_design(path: Path, file: h5py.File, texts: int) -> Design | None:
    """The design of a matrix file; None where its texts stand for no others.

    Args:
        path: the file, for messages.
        file: the same, open.
        texts: number of columns of the matrix.

    Raises:
        InputError: an array has another shape.
    """
    if _TEXTS not in file.attrs:
        return None
    arrays = {key: file[name][:] for key, name in _ARRAYS.items()}
    for key, array in arrays.items():
        check_shape(path, _ARRAYS[key], array, (texts,))
    return Design(**arrays, texts=int(file.attrs[_TEXTS]))
