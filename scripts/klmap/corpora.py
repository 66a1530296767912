"""Where texts come from: files and datasets of the Hugging Face Hub, read document by document.

Every source yields ``Document`` objects lazily, so no text is held in memory (only the indices
that the records of a file may bear), and names the place (``file:line``) of whatever it cannot use.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from klmap.config import FileTexts, HubTexts
from klmap.errors import InputError

DEFAULT_DOMAIN = "all"
"""The domain of texts that name none."""


@dataclass(frozen=True)
class Document:
    """A piece of running text before it is cut.

    Attributes:
        text: the text.
        domain: what kind of text it is.
        origin: where it was found: ``file:line``, a dataset's row, a file of a distribution.
    """

    text: str
    domain: str
    origin: str


def file_documents(recipe: FileTexts) -> Iterator[Document]:
    """The records of a .jsonl, .parquet or .txt file, in file order.

    Yields:
        One document per record; a .txt file has one per line, empty lines left out.

    Raises:
        InputError: the file is missing, empty, of another kind, broken, or a record lacks the
            text, repeats an index or is too short; the message names the file and the line.
    """
    path = Path(recipe.path)
    readers = {".jsonl": _json_lines, ".parquet": _parquet_rows, ".txt": _text_lines}
    if path.suffix not in readers:
        raise InputError(f"{path}: texts come as .jsonl, .parquet or .txt, not {path.suffix!r}")
    if not path.is_file():
        raise InputError(f"{path}: no such file; texts.path is relative to the working directory")
    indices: dict[int, str] = {}
    place = ""
    for place, record in readers[path.suffix](path, recipe):
        _check_index(record, place, indices)
        text = _text(record, recipe.text_field, place)
        if not recipe.chunk and len(text.encode()) <= recipe.min_bytes:
            raise InputError(
                f"{place}: the text has {len(text.encode())} UTF-8 bytes and must have more than "
                f"min_bytes: {recipe.min_bytes}; remove the record or lower min_bytes"
            )
        yield Document(text, _domain(record, recipe.domain_field, place), place)
    if not place:
        raise InputError(f"{path}: empty; expected one text per line or row")


def hub_documents(recipe: HubTexts) -> Iterator[Document]:
    """The first documents of a Hub dataset's split, streamed and never stored as a whole.

    Raises:
        InputError: the dataset, its subset, split or revision cannot be read, or a row lacks the
            text; the message says which.
    """
    import datasets

    name = recipe.dataset
    try:
        rows: Iterable[Mapping[str, Any]] = datasets.load_dataset(
            name, recipe.subset, split=recipe.split, revision=recipe.revision, streaming=True
        )
        for number, row in enumerate(islice(rows, recipe.documents)):
            place = f"{name}[{recipe.split}]:{number}"
            text = _text(row, recipe.text_field, place)
            yield Document(text, _domain(row, recipe.domain_field, place), place)
    except InputError:
        raise
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        words = " ".join(str(error).split())
        raise InputError(
            f"dataset {name} (subset {recipe.subset}, split {recipe.split}, revision "
            f"{recipe.revision}) cannot be read: {type(error).__name__}: {words}"
        ) from error


def _json_lines(path: Path, _: FileTexts) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for place, line in _lines(path):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{place}: not valid JSON ({error}); one object per line") from None
        if not isinstance(record, dict):
            raise InputError(f"{place}: expected a JSON object, found {type(record).__name__}")
        yield place, record


def _text_lines(path: Path, recipe: FileTexts) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for place, line in _lines(path):
        yield place, {recipe.text_field: line}


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """The lines of a UTF-8 file that hold anything, with their places."""
    with path.open("rb") as file:
        for number, data in enumerate(file, start=1):
            place = f"{path}:{number}"
            try:
                line = data.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise InputError(
                    f"{place}: not UTF-8 ({error.reason} at byte {error.start}); convert the file"
                ) from None
            if line.strip():
                yield place, line


def _parquet_rows(path: Path, recipe: FileTexts) -> Iterator[tuple[str, Mapping[str, Any]]]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
        names = file.schema_arrow.names
        fields = (recipe.text_field, recipe.domain_field, "index")
        wanted = {*fields, *(field.partition(".")[0] for field in fields)}
        if recipe.text_field.partition(".")[0] not in names and recipe.text_field not in names:
            # Row by row, only the columns read would be listed, not those that could be meant.
            _text(dict.fromkeys(names), recipe.text_field, f"{path}:1")
        number = 0
        for batch in file.iter_batches(1024, columns=[name for name in names if name in wanted]):
            for record in batch.to_pylist():
                number += 1
                yield f"{path}:{number}", record
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable parquet file ({error})") from None


def _check_index(record: Mapping[str, Any], place: str, indices: dict[int, str]) -> None:
    index = record.get("index")
    if index is None:
        return
    if not isinstance(index, int) or isinstance(index, bool):
        raise InputError(f"{place}: index is {index!r}; expected a whole number, or no index")
    first = indices.setdefault(index, place)
    if first != place:
        raise InputError(f"{place}: index {index} stands at {first} already; make it unique")


def _text(record: Mapping[str, Any], field: str, place: str) -> str:
    text = _field(record, field)
    if text is None:
        known = ", ".join(map(str, record)) or "none"
        raise InputError(f"{place}: no field {field!r} (fields here: {known}); name it with field:")
    if not isinstance(text, str):
        raise InputError(f"{place}: {field} is {type(text).__name__}, expected a string")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError(
            f"{place}: {field} holds half a surrogate pair, which is no text"
        ) from None
    return text


def _domain(record: Mapping[str, Any], field: str | None, place: str) -> str:
    value = None if field is None else _field(record, field)
    if value is None:
        return DEFAULT_DOMAIN
    if not isinstance(value, str) or not value:
        raise InputError(f"{place}: {field} is {value!r}; expected a name, or no such field")
    return value


def _field(record: Mapping[str, Any], field: str) -> Any:
    """A field's value, ``a.b`` reaching into a nested object; None where it is missing."""
    if field in record:
        return record[field]
    head, dot, rest = field.partition(".")
    inner = record.get(head)
    return _field(inner, rest) if dot and isinstance(inner, Mapping) else None
