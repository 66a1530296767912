"""What all HDF5 files of klmap share: a format and a version, atomic writing, checked reading.

Nobody outside of ``store*`` opens an .h5.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from klmap.errors import InputError
from klmap.files import atomic

FORMAT_VERSION = 1


@contextmanager
def opened(path: Path, expected: str) -> Iterator[h5py.File]:
    """Open a file of one format; read from it within :func:`reading`.

    Args:
        path: the file.
        expected: its format, such as ``klmap-score``.

    Raises:
        InputError: the file is missing, truncated, or of another format or a later version.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    with ExitStack() as stack:
        with reading(path):
            file = stack.enter_context(h5py.File(path, "r"))
            found = plain(file.attrs.get("format", "none"))
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


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """What HDF5 raises in the block is said to be wrong with the file.

    Raises:
        InputError: the file is truncated, or lacks what was looked for.
    """
    try:
        yield
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise InputError(
            f"{path}: truncated or not a klmap file ({error}); remove it and run again"
        ) from None


@contextmanager
def created(path: Path, name: str) -> Iterator[h5py.File]:
    """A new file of one format, which appears under its name only when it is complete.

    Write to it within :func:`writing`. Whatever the block raises, nothing is left behind.

    Raises:
        OSError: the disk is full or not writable.
    """
    with ExitStack() as stack:
        with writing(path):
            temporary = stack.enter_context(atomic(path))
            file = stack.enter_context(h5py.File(temporary, "w"))
            file.attrs["format"] = name
            file.attrs["format_version"] = FORMAT_VERSION
        try:
            yield file
        except BaseException:
            # On a full disk closing fails too, and would hide the reason.
            with suppress(OSError, RuntimeError):
                file.close()
            raise
        with writing(path):
            stack.close()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What HDF5 raises in the block is said to be a disk that does not take the file.

    Raises:
        OSError: with the number of the reason, where HDF5 tells it.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        # HDF5 reports a disk that fills up while the file is closed as a RuntimeError.
        reason = str(error).partition(", filename")[0].replace("\n", " ")
        code = getattr(error, "errno", None) or errno.EIO
        raise OSError(code, f"cannot be written, is the disk full? {reason}", str(path)) from None


def whole(file: h5py.File, name: str) -> npt.NDArray[Any]:
    """All of one dataset, a good deal faster than ``file[name][:]``; that counts for small ones."""
    found = h5py.h5d.open(file.id, name.encode())
    values = np.empty(found.shape, found.dtype)
    found.read(h5py.h5s.ALL, h5py.h5s.ALL, values)
    return values


def optional(file: h5py.File, **names: str) -> dict[str, Any]:
    """Those of the named datasets that the file has: earlier versions of klmap wrote fewer."""
    return {key: file[name][:] for key, name in names.items() if name in file}


def check_shape(path: Path, name: str, array: npt.NDArray[Any], expected: tuple[int, ...]) -> None:
    """Refuse a dataset of another shape than its file's names say.

    Raises:
        InputError: the shape is another one.
    """
    if array.shape != expected:
        raise InputError(
            f"{path}: {name} is {array.shape}, expected {expected}; remove it and run again"
        )


def strings(file: h5py.File, name: str) -> list[str]:
    """A dataset of texts as a list."""
    return [str(value) for value in file[name].asstr()[:]]


def plain(value: Any) -> Any:
    """An attribute as Python's own type."""
    if isinstance(value, bytes):
        return value.decode()
    return value.item() if isinstance(value, np.generic) else value
