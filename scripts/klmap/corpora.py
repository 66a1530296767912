"""Where texts come from: files, here or on the web, and datasets of the Hub, read one by one.

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

from klmap.config_texts import FileTexts, HubTexts, RecordTexts, UrlTexts
from klmap.errors import InputError

DEFAULT_DOMAIN = "all"
"""The domain of texts that name none."""


@dataclass(frozen=True)
class Document:
    """A piece of running text before it is cut.

    Attributes:
        text: the text.
        domain: what kind of text it is.
        origin: where it was found: ``file:line``, a dataset's row, a file of a distribution. It is
            written to the set, so it names nothing that may differ while the texts are the same.
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
    kind = path.suffix.removeprefix(".")
    if kind not in _READERS:
        raise InputError(f"{path}: texts come as .jsonl, .parquet or .txt, not {path.suffix!r}")
    if not path.is_file():
        raise InputError(f"{path}: no such file; texts.path is relative to the working directory")
    return _records(path, kind, recipe, str(path), str(path))


def url_documents(recipe: UrlTexts, target: Path) -> Iterator[Document]:
    """The records of a file of the web, in file order; it is fetched first, as a whole.

    Their origin names the file by its hash, so that a set from another mirror is the same set.

    Args:
        recipe: address and hash of the file, and how to read it.
        target: where to put the file; whoever calls removes it, also after an error.

    Raises:
        InputError: as for a file, with the address in the message; no such file, or another one.
        KlmapError: the server or the network failed too often.
    """
    # Scoring reads texts as well, in an environment without the network library.
    from klmap import webfile

    found = webfile.download(recipe.url, recipe.sha256, target)
    name = f"{found[:12]}.{recipe.format}"
    return _records(target, str(recipe.format), recipe, webfile.shown(recipe.url), name)


def _records(
    path: Path, kind: str, recipe: RecordTexts, shown: str, name: str
) -> Iterator[Document]:
    """The checked records of a file, which is ``shown`` in messages and ``name`` in origins."""
    indices: dict[int, str] = {}
    number = 0
    for number, record in _READERS[kind](path, shown, recipe):
        place = f"{shown}:{number}"
        _check_index(record, place, indices)
        text = _text(record, recipe.text_field, place)
        if not recipe.chunk and len(text.encode()) <= recipe.min_bytes:
            raise InputError(
                f"{place}: the text has {len(text.encode())} UTF-8 bytes and must have more than "
                f"min_bytes: {recipe.min_bytes}; remove the record or lower min_bytes"
            )
        yield Document(text, _domain(record, recipe.domain_field, place), f"{name}:{number}")
    if not number:
        raise InputError(f"{shown}: empty; expected one text per line or row")


def dataset_commit(recipe: HubTexts) -> str:
    """The commit that a Hub dataset's revision, or its default branch, is at now.

    Raises:
        InputError: there is no such dataset or revision, or the Hub cannot be asked.
    """
    from huggingface_hub import HfApi

    from klmap import hub

    try:
        info = HfApi().dataset_info(recipe.dataset, revision=recipe.revision, timeout=hub.TIMEOUT)
    except Exception as error:
        if not isinstance(error, (OSError, ValueError)) and not hub.is_network(error):
            raise
        raise _unreadable(recipe, error) from error
    return str(info.sha)


def _unreadable(recipe: HubTexts, error: Exception) -> InputError:
    words = " ".join(str(error).split())
    return InputError(
        f"dataset {recipe.dataset} (subset {recipe.subset}, split {recipe.split}, revision "
        f"{recipe.revision}) cannot be read: {type(error).__name__}: {words}"
    )


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
        raise _unreadable(recipe, error) from error


_Rows = Iterator[tuple[int, Mapping[str, Any]]]
"""Records of a file, each with the number of its line or row."""


def _json_lines(path: Path, shown: str, _: RecordTexts) -> _Rows:
    for number, line in _lines(path, shown):
        place = f"{shown}:{number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{place}: not valid JSON ({error}); one object per line") from None
        if not isinstance(record, dict):
            raise InputError(f"{place}: expected a JSON object, found {type(record).__name__}")
        yield number, record


def _text_lines(path: Path, shown: str, recipe: RecordTexts) -> _Rows:
    for number, line in _lines(path, shown):
        yield number, {recipe.text_field: line}


def _lines(path: Path, shown: str) -> Iterator[tuple[int, str]]:
    """The lines of a UTF-8 file that hold anything, with their numbers."""
    with path.open("rb") as file:
        for number, data in enumerate(file, start=1):
            try:
                line = data.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise InputError(
                    f"{shown}:{number}: not UTF-8 ({error.reason} at byte {error.start}); convert "
                    "the file"
                ) from None
            if line.strip():
                yield number, line


def _parquet_rows(path: Path, shown: str, recipe: RecordTexts) -> _Rows:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
        names = file.schema_arrow.names
        fields = (recipe.text_field, recipe.domain_field, "index")
        wanted = {*fields, *(field.partition(".")[0] for field in fields)}
        if recipe.text_field.partition(".")[0] not in names and recipe.text_field not in names:
            # Row by row, only the columns read would be listed, not those that could be meant.
            _text(dict.fromkeys(names), recipe.text_field, f"{shown}:1")
        number = 0
        for batch in file.iter_batches(1024, columns=[name for name in names if name in wanted]):
            for record in batch.to_pylist():
                number += 1
                yield number, record
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{shown}: not a readable parquet file ({error})") from None


_READERS = {"jsonl": _json_lines, "parquet": _parquet_rows, "txt": _text_lines}


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
