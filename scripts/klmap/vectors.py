"""Log-likelihood vectors of many models in files of others: read, and checked before use.

Read are the pickles of Oyama et al. 2025 (a dictionary of name and vector, or the list with the
metadata), and plain matrices with names (.npy, .csv, .tsv, .h5), which are klmap's own choice.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from klmap.arrays import Floats
from klmap.config_models import FILE_NAMES, MODEL_PATTERN, ModelEntry
from klmap.errors import InputError
from klmap.pickles import read_pickle, shown
from klmap.store_vectors import read_foreign

VECTOR_KEY = "log-likelihood-10k"
"""Where in the metadata of Oyama et al. 2025 a model's log-likelihoods are."""

_NUMBERED = re.compile(r"(\D*)(\d{1,18})", re.ASCII)

ABOVE_ZERO = 1e-6
"""Nats by which rounding may put a log-likelihood above that of a certain text, which is 0."""

_SHOWN = 5
_MOST_KEYS = 20


@dataclass(frozen=True)
class Vectors:
    """Log-likelihoods of M models on N texts, as others have computed them.

    Attributes:
        names: M ids, such as ``org/name``; no two of them have the same name on the map.
        loglik: (M, N) float64, nats per text, finite and not above 0.
        texts_sha256: hash of the texts, where the file names it.
    """

    names: list[str]
    loglik: Floats
    texts_sha256: str | None = None

    @property
    def slugs(self) -> list[str]:
        """The models' names on the map and in file names."""
        return [slug(name) for name in self.names]


def slug(name: str) -> str:
    """The name on the map that an id has: ``org--name`` for ``org/name``."""
    return ModelEntry(id=name).slug


def read_vectors(
    path: Path,
    names: Path | None = None,
    dataset: str = "L",
    names_dataset: str = "model",
    texts: int | None = None,
) -> Vectors:
    """Read the log-likelihoods of many models; what kind of file it is, its ending says.

    Args:
        path: ``.pkl``, ``.pickle``, ``.npy``, ``.csv``, ``.tsv``, ``.h5`` or ``.hdf5``.
        names: names for the rows of a .npy file: one per line, or the column ``model`` of a table
            that ends in .csv or .tsv.
        dataset: where in an .h5 file the log-likelihoods are.
        names_dataset: where in an .h5 file the names are.
        texts: how many texts the text set has; None does not check.

    Raises:
        InputError: the file is missing, broken or of an unknown kind; a vector has another length
            than there are texts, a value is not finite or above 0, a name stands there twice or
            cannot name a file; the columns of a table are numbered and do not rise.
    """
    kind = path.suffix.lower().removeprefix(".")
    rows: Sequence[Any]
    sha256 = None
    if kind in ("pkl", "pickle"):
        found, rows = _of_pickle(path)
    elif kind == "npy":
        found, rows = _of_array(path, names)
    elif kind in ("csv", "tsv"):
        found, rows = _of_table(path, "\t" if kind == "tsv" else ",")
    elif kind in ("h5", "hdf5"):
        found, matrix, sha256 = read_foreign(path, dataset, names_dataset, texts)
        rows = list(matrix)
    else:
        raise InputError(f"{path}: log-likelihoods are read from .pkl, .npy, .csv, .tsv or .h5")
    _check_names(path, found)
    loglik = _stacked(path, found, rows, texts)
    _check_values(path, found, loglik)
    return Vectors(found, loglik, sha256 or None)


def _of_pickle(path: Path) -> tuple[list[str], Sequence[Any]]:
    content = read_pickle(path)
    if isinstance(content, Mapping):
        return _texts(path, list(content)), list(content.values())
    if not isinstance(content, list) or not all(isinstance(row, Mapping) for row in content):
        raise InputError(
            f"{path}: holds a {type(content).__name__}, expected a dict of name and vector, or a "
            f"list of dicts with model_name and {VECTOR_KEY}"
        )
    for number, row in enumerate(content):
        for key in ("model_name", VECTOR_KEY):
            if key not in row:
                keys = ", ".join(str(name)[:40] for name in list(row)[:_MOST_KEYS])
                raise InputError(f"{path}: entry {number} has no key {key!r}; its keys: {keys}")
    return _texts(path, [row["model_name"] for row in content]), [
        row[VECTOR_KEY] for row in content
    ]


def _texts(path: Path, names: Sequence[Any]) -> list[str]:
    for name in names:
        if not isinstance(name, str):
            raise InputError(f"{path}: a model is named {shown(name)}, expected a text")
    return list(names)


def _of_array(path: Path, names: Path | None) -> tuple[list[str], Sequence[Any]]:
    if names is None:
        raise InputError(f"{path}: a .npy file holds no names; add names:, a file with one a line")
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError, EOFError) as error:
        raise InputError(
            f"{path}: truncated or not a .npy file of numbers ({error}); fetch it again"
        ) from None
    if not isinstance(values, np.ndarray) or values.ndim != 2:
        raise InputError(f"{path}: expected one matrix, a row of log-likelihoods for each model")
    found = _read_names(names)
    if len(found) != len(values):
        turned = values.shape[1] == len(found)
        raise InputError(
            f"{path}: {len(values)} rows, but {names} has {len(found)} names"
            f"{'; the matrix stands on its side: transpose it' if turned else ''}"
        )
    return found, list(values)


def _read_names(path: Path) -> list[str]:
    kind = path.suffix.lower()
    if kind in (".csv", ".tsv"):
        return [name for name, _ in _table(path, "\t" if kind == ".tsv" else ",")][1:]
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error})") from None
    return [line.strip() for line in lines if line.strip()]


def _of_table(path: Path, delimiter: str) -> tuple[list[str], Sequence[Any]]:
    names: list[str] = []
    rows: list[Floats] = []
    table = _table(path, delimiter)
    _check_order(path, next(table)[1])
    for name, cells in table:
        try:
            rows.append(np.fromiter(map(float, cells), np.float64, len(cells)))
        except ValueError as error:
            raise InputError(
                f"{path}: {name}: {error}; expected a log-likelihood in each column behind model"
            ) from None
        names.append(name)
    return names, rows


def _table(path: Path, delimiter: str) -> Iterator[tuple[str, list[str]]]:
    """First cell and further ones of each line of a table, whose header begins with ``model``."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file, delimiter=delimiter)
            header = next(lines, [])
            if not header or header[0].strip() != "model":
                raise InputError(
                    f"{path}: the first line begins with {(header or [''])[0][:40]!r}; expected a "
                    "header line whose first column is 'model', and a column for each text"
                )
            yield header[0], header[1:]
            for line in filter(None, lines):
                if len(line) != len(header):
                    raise InputError(
                        f"{path}:{lines.line_num}: {len(line)} columns where the header has "
                        f"{len(header)}"
                    )
                yield line[0].strip(), line[1:]
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a table in UTF-8 ({error})") from None


def _check_order(path: Path, columns: Sequence[str]) -> None:
    """Columns that are numbered stand in the order of their numbers.

    A table that has been pivoted has its columns sorted as words: 0, 1, 10, 2.
    """
    names = [column.strip() for column in columns]
    found = [_NUMBERED.fullmatch(name) for name in names]
    numbers = [int(part[2]) for part in found if part is not None]
    if len(numbers) < len(names) or len({part[1] for part in found if part is not None}) != 1:
        return
    rising = sorted(numbers)
    counted = rising == list(range(rising[0], rising[0] + len(rising))) and rising[0] in (0, 1)
    if numbers != rising and (counted or names == sorted(names)):
        at = next(at for at, number in enumerate(numbers) if number != rising[at])
        raise InputError(
            f"{path}: column {names[at]!r} stands where {rising[at]} is expected; "
            "columns are the texts in their order, so sort them by number, not as words (pandas: "
            "table[sorted(table.columns, key=int)])"
        )


def _check_names(path: Path, names: Sequence[str]) -> None:
    """Each model has a name, and one that no other has."""
    if not names:
        raise InputError(f"{path}: holds no models")
    for number, name in enumerate(names):
        if not name:
            raise InputError(f"{path}: row {number + 1} has no name; each model needs one")
        entry = ModelEntry(id=name)
        if entry.is_local or not re.fullmatch(MODEL_PATTERN, entry.slug):
            raise InputError(
                f"{path}: {name[:80]!r} cannot be a model's name, because its score file is called "
                f"so; {FILE_NAMES}, with one '/' behind the organisation"
            )
    for found, count in Counter(slug(name) for name in names).items():
        if count > 1:
            both = sorted({name for name in names if slug(name) == found})
            raise InputError(
                f"{path}: {' and '.join(both)} stands there {count} times; names must be unique"
                if len(both) == 1
                else f"{path}: {' and '.join(both)} would both be called {found}; rename one"
            )


def _stacked(path: Path, names: Sequence[str], rows: Sequence[Any], texts: int | None) -> Floats:
    """One matrix of all vectors, if each is as long as it has to be."""
    first = len(rows[0]) if isinstance(rows[0], np.ndarray) and rows[0].ndim == 1 else 0
    length = first if texts is None else texts
    wrong = []
    for name, row in zip(names, rows, strict=True):
        if not isinstance(row, np.ndarray) or row.ndim != 1 or row.dtype.kind not in "fiu":
            array = isinstance(row, np.ndarray)
            what = f"{row.dtype} of shape {row.shape}" if array else f"a {type(row).__name__}"
            raise InputError(f"{path}: {name} has {what}, expected a vector of numbers")
        if len(row) != length:
            wrong.append((name, len(row)))
    if wrong:
        shown = ", ".join(f"{name} has {count:,}" for name, count in wrong[:_SHOWN])
        more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        against = "the text set has" if texts is not None else f"{names[0]} has"
        raise InputError(
            f"{path}: {len(wrong)} of {len(names)} vectors do not fit: {against} {length:,} texts, "
            f"{shown}{more}; they were computed on other texts"
        )
    values = np.empty((len(rows), length))
    for number, row in enumerate(rows):
        values[number] = row
    return values


def _check_values(path: Path, names: Sequence[str], loglik: Floats) -> None:
    kinds: tuple[tuple[Callable[[Floats], Any], str], ...] = (
        (
            lambda row: ~np.isfinite(row),
            "is not finite; leave the model out, or compute its vector again",
        ),
        (
            lambda row: row > ABOVE_ZERO,
            "is above 0, so it is no log-likelihood of a text; if these are losses, turn the sign",
        ),
    )
    for name, row in zip(names, loglik, strict=True):
        for test, why in kinds:
            wrong = np.flatnonzero(test(row))
            if len(wrong):
                raise InputError(
                    f"{path}: {name}, text {wrong[0]}: {row[wrong[0]]:g} {why} ({len(wrong):,} of "
                    f"{len(row):,} values of this model)"
                )
