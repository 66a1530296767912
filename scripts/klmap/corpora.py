"""Where texts come from: files, here or on the web, and datasets of the Hub, read one by one.

Every source yields ``Document`` objects lazily, so no text is held in memory (only the indices
that the records of a file may bear), and names the place (``file:line``) of whatever it cannot use.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from klmap import pairs
from klmap.config_texts import FileTexts, HubTexts, RecordTexts, UrlTexts
from klmap.errors import InputError
from klmap.log import logger
from klmap.pairs import Unusable

DEFAULT_DOMAIN = "all"
"""The domain of texts that name none."""


@dataclass(frozen=True)
class Document:
    """A piece of running text before it is cut, or a response with its prompt.

    Attributes:
        text: the text; the response where there are messages.
        domain: what kind of text it is.
        origin: where it was found: ``file:line``, a dataset's row, a file of a distribution. It is
            written to the set, so it names nothing that may differ while the texts are the same.
        messages: what stands before the response; None where texts have no prompts.
        prompts: other wordings of the prompt, by name.
    """

    text: str
    domain: str
    origin: str
    messages: pairs.Messages | None = None
    prompts: Mapping[str, str] = dataclasses.field(default_factory=dict)


def file_documents(recipe: FileTexts) -> Iterator[Document]:
    """The records of a .jsonl, .parquet or .txt file, in file order.

    Yields:
        One document per record; a .txt file has one per line, empty lines left out.

    Raises:
        InputError: the file is missing, empty, of another kind, broken, or a record lacks the
            text or a field of its prompt, repeats an index, is no conversation or is too short;
            the message names the file and the line.
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
    if kind == "txt" and recipe.fields is not None:
        raise InputError(
            f"{shown}: lines of a .txt file have no fields; keep prompts and responses in a .jsonl "
            "or .parquet file, or give prompt_bytes: in place of fields:"
        )
    indices: dict[int, str] = {}
    number = 0
    for number, record in _READERS[kind](path, shown, recipe):
        place = f"{shown}:{number}"
        _check_index(record, place, indices)
        yield _document(record, recipe, place, f"{name}:{number}")
    if not number:
        raise InputError(f"{shown}: empty; expected one text per line or row")


def _document(
    record: Mapping[str, Any], recipe: RecordTexts | HubTexts, place: str, origin: str
) -> Document:
    """One record; it is too short only where it is not cut afterwards."""
    if recipe.fields is None:
        text = _text(record, recipe.text_field, place)
        document = Document(text, _domain(record, recipe.domain_field, place), origin)
        whole = isinstance(recipe, RecordTexts) and not recipe.chunk
    else:
        document = _pair(record, recipe, place, origin)
        whole = True
    size = len(document.text.encode())
    if whole and size <= recipe.min_bytes:
        raise Unusable(
            f"{place}: the {'text' if recipe.fields is None else 'response'} has {size} UTF-8 "
            f"bytes and must have more than min_bytes: {recipe.min_bytes}; remove the record or "
            "lower min_bytes"
        )
    return document


def _pair(
    record: Mapping[str, Any], recipe: RecordTexts | HubTexts, place: str, origin: str
) -> Document:
    """A response and the conversation before it."""
    fields = recipe.fields or {}
    found = {
        name: _text(record, field, place, f"fields: {{{name}: ...}}")
        for name, field in fields.items()
        if name != "messages"
    }
    if "messages" in fields:
        name = fields["messages"]
        value = _present(record, name, place, "fields: {messages: ...}")
        messages, response = pairs.conversation(value, name, place)
        if response is None:
            raise Unusable(
                f"{place}: the last of {name} is no message of the {pairs.ASSISTANT}, which the "
                "response is; remove what follows the response, or the record"
            )
    else:
        response = found.pop("response")
        messages = ({"role": pairs.USER, "content": found.pop("prompt")},)
    domain = _domain(record, recipe.domain_field, place)
    return Document(response, domain, origin, messages, found)


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

    Rows with nothing to score are left out with a line in the log: without a response, with null
    where a text belongs, or with roles that no chat template knows. Nobody can edit them there.

    Raises:
        InputError: the dataset, its subset, split or revision cannot be read, or rows lack the
            field of the text or of its prompt, or hold no conversation; the message says which.
    """
    import datasets

    name = recipe.dataset
    try:
        rows: Iterable[Mapping[str, Any]] = datasets.load_dataset(
            name, recipe.subset, split=recipe.split, revision=recipe.revision, streaming=True
        )
        first, left_out, number = "", 0, -1
        for number, row in enumerate(islice(rows, recipe.documents)):
            place = f"{name}[{recipe.split}]:{number}"
            try:
                yield _document(row, recipe, place, place)
            except Unusable as error:
                first = first or str(error)
                left_out += 1
        if left_out:
            logger.warning(
                "%d of %d rows cannot be scored and are left out, such as %s",
                *(left_out, number + 1, first),
            )
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
        texts = [recipe.text_field] if recipe.fields is None else list(recipe.fields.values())
        fields = (*texts, recipe.domain_field, "index")
        wanted = {*fields, *(field.partition(".")[0] for field in fields)}
        for field_name in texts:
            if field_name.partition(".")[0] not in names and field_name not in names:
                # Row by row, only the columns read would be listed, not those that could be meant.
                key = "field:" if recipe.fields is None else "fields:"
                _present(dict.fromkeys(names), field_name, f"{shown}:1", key)
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


def _text(record: Mapping[str, Any], field: str, place: str, key: str = "field:") -> str:
    return pairs.string(_present(record, field, place, key), field, place)


def _present(record: Mapping[str, Any], field: str, place: str, key: str) -> Any:
    """A field that has to be there; ``key`` of config.yaml names it."""
    value = _field(record, field)
    if value is not None:
        return value
    if _is_null(record, field):
        raise Unusable(f"{place}: {field} is null; give it a value, or remove the record")
    known = ", ".join(map(str, record)) or "none"
    raise InputError(f"{place}: no field {field!r} (fields here: {known}); name it with {key}")


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


def _is_null(record: Mapping[str, Any], field: str) -> bool:
    """Whether a field without a value is there, or what it would be in is there and null."""
    if field in record:
        return True
    head, dot, rest = field.partition(".")
    inner = record.get(head)
    if isinstance(inner, Mapping):
        return bool(dot) and _is_null(inner, rest)
    return bool(dot) and head in record and inner is None
