"""Text sets: the published recipe, the three kinds of file, and everything a file can do wrong."""

from __future__ import annotations

import hashlib
import json
import random
import tracemalloc
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from klmap import corpora, texts
from klmap.config_texts import FileTexts, HubTexts
from klmap.errors import InputError
from tests.builders import DOMAINS, sample_texts

ALPHABET = "abc \nde\r\t\0é\u0301ßЖ漢字€\u2028😀🏳\U0010ffff"
"""Characters of one to four UTF-8 bytes."""


def random_text(seed: int, length: int) -> str:
    return "".join(random.Random(seed).choices(ALPHABET, k=length))


def slow_chunks(text: str, max_bytes: int) -> list[str]:
    """The recipe character by character: a chunk ends where the next one no longer fits."""
    pieces = [""]
    for character in text:
        if len((pieces[-1] + character).encode()) > max_bytes:
            pieces.append("")
        pieces[-1] += character
    return pieces


def recipe_of(path: Path, **keys: Any) -> FileTexts:
    return FileTexts(source="file", path=str(path), **keys)


def write_lines(path: Path, records: Sequence[Any]) -> Path:
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def make(folder: Path, recipe: FileTexts | HubTexts) -> tuple[list[texts.Text], dict[str, Any]]:
    texts.build(recipe, folder / "texts.jsonl", folder / "texts.json")
    manifest = json.loads((folder / "texts.json").read_text())
    return texts.read_texts(folder / "texts.jsonl", folder / "texts.json"), manifest


# ------------------------------------------------------------------------------- chunks


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("max_bytes", "min_bytes"), [(16, 0), (17, 13), (64, 16), (1024, 256)])
def test_chunks_are_those_of_the_slow_recipe(seed: int, max_bytes: int, min_bytes: int) -> None:
    text = random_text(seed, 1500 + seed)
    pieces = slow_chunks(text, max_bytes)
    assert "".join(pieces) == text
    found = list(texts.chunks(text, max_bytes, min_bytes))
    assert found == [piece for piece in pieces if len(piece.encode()) > min_bytes]
    assert all(min_bytes < len(chunk.encode()) <= max_bytes for chunk in found)


def test_chunks_and_the_dropped_tail_rejoin_to_the_document() -> None:
    text = random_text(3, 5000)
    found = list(texts.chunks(text, 1024, 256))
    tail = text.removeprefix("".join(found))
    assert "".join(found) + tail == text
    assert len(tail.encode()) <= 256


def test_bounds_of_a_chunk() -> None:
    assert list(texts.chunks("", 16, 0)) == []
    assert list(texts.chunks("x" * 256, 1024, 256)) == []
    assert list(texts.chunks("x" * 257, 1024, 256)) == ["x" * 257]
    assert list(texts.chunks("x" * 1024, 1024, 256)) == ["x" * 1024]
    assert list(texts.chunks("x" * 2048, 1024, 256)) == ["x" * 1024] * 2
    assert list(texts.chunks("x" * 1023 + "é" + "y" * 300, 1024, 256)) == [
        "x" * 1023,
        "é" + "y" * 300,
    ]


# ------------------------------------------------------------------------------- the sample


@pytest.mark.parametrize(
    ("count", "n", "pool", "seed"),
    [(57_000, 100, 400, 42), (500, 100, 400, 42), (300, 100, 400, 1), (57_000, 100, None, 7)],
)
def test_positions_draw_what_the_published_code_draws(
    count: int, n: int, pool: int | None, seed: int
) -> None:
    items = [f"chunk {number}" for number in range(count)]
    random.seed(seed)
    published = random.sample(items, min(pool or 4 * n, count))[:n]
    positions = texts.sample_positions(count, n, pool, seed)
    assert [items[position] for position in positions] == published


@pytest.mark.parametrize(("n", "pool"), [(40, 160), (40, None), (40, 41), (40, 10**6)])
def test_a_streamed_set_is_the_published_draw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n: int, pool: int | None
) -> None:
    documents = [
        corpora.Document(random_text(seed, 900), f"set{seed % 3}", str(seed)) for seed in range(150)
    ]
    monkeypatch.setattr(texts, "hub_documents", lambda _: iter(documents))
    monkeypatch.setattr(texts, "dataset_commit", lambda _: "a" * 40)
    made, manifest = make(tmp_path, HubTexts(source="hub", dataset="org/set", n=n, pool=pool))
    pieces = [
        (chunk, document.domain)
        for document in documents
        for chunk in slow_chunks(document.text, 1024)
        if len(chunk.encode()) > 256
    ]
    random.seed(42)
    assert [(text.text, text.domain) for text in made] == random.sample(
        pieces, min(pool or 4 * n, len(pieces))
    )[:n]
    assert manifest["candidates"] == len(pieces)


def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    peaks = []
    for lines in (400, 4000):
        path = tmp_path / f"{lines}.txt"
        with path.open("w") as file:
            for number in range(lines):
                file.write(f"{number} " + "a river and its bed " * 100 + "\n")
        recipe = recipe_of(path, chunk=True, n=20, min_bytes=256)
        make(tmp_path, recipe)
        tracemalloc.start()
        texts.build(recipe, tmp_path / "texts.jsonl", tmp_path / "texts.json")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # The larger corpus has 8 MB; what grows must be far below it.
    assert peaks[1] - peaks[0] < 200_000
    assert peaks[1] < 2_000_000


def test_a_balanced_draw_gives_the_share_of_small_groups_to_the_others() -> None:
    groups = [range(100), range(100, 103), range(103, 300)]
    drawn = texts.balanced_positions(groups, 43, seed=1)
    assert drawn == sorted(set(drawn))
    assert [sum(position in group for position in drawn) for group in groups] == [20, 3, 20]
    assert texts.balanced_positions(groups, 43, seed=1) == drawn
    assert texts.balanced_positions(groups, 43, seed=2) != drawn


# ------------------------------------------------------------------------------- the manifest


def test_the_manifest_vouches_for_the_very_bytes(tmp_path: Path) -> None:
    rows = [{"text": text, "domain": domain} for text, domain in sample_texts(12)]
    made, manifest = make(tmp_path, recipe_of(write_lines(tmp_path / "mine.jsonl", rows)))
    data = (tmp_path / "texts.jsonl").read_bytes()
    assert manifest["sha256"] == hashlib.sha256(data).hexdigest()
    assert manifest["n"] == len(made) == 12
    assert manifest["mean_bytes"] == sum(len(row["text"].encode()) for row in rows) / 12
    assert manifest["domains"] == Counter(row["domain"] for row in rows)
    assert manifest["recipe"] == {
        "source": "file",
        "path": str(tmp_path / "mine.jsonl"),
        "field": "text",
        "domain_field": "domain",
        "chunk": False,
        "max_bytes": 1024,
        "min_bytes": 0,
        "seed": 42,
    }
    records = [json.loads(line) for line in data.splitlines()]
    assert [record["origin"] for record in records] == [
        f"{tmp_path}/mine.jsonl:{number}" for number in range(1, 13)
    ]
    assert set(tmp_path.iterdir()) == {
        tmp_path / name for name in ("mine.jsonl", "texts.jsonl", "texts.json")
    }


def test_a_set_is_the_same_every_time(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "mine.txt", [f"line {number} of many" for number in range(90)])
    digests = {
        seed: [make(tmp_path / name, recipe_of(path, n=9, seed=seed))[1]["sha256"] for name in "ab"]
        for seed in (1, 2)
    }
    assert digests[1][0] == digests[1][1] != digests[2][0] == digests[2][1]


# ------------------------------------------------------------------------------- own texts


def write_parquet(path: Path, records: list[dict[str, Any]]) -> Path:
    parquet.write_table(pa.Table.from_pylist(records), path)
    return path


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "txt"])
def test_every_kind_of_file_gives_its_records_in_order(tmp_path: Path, kind: str) -> None:
    rows = [
        {"text": line, "domain": domain, "index": 5 * number}
        for number, (domain, line) in enumerate(
            (domain, line) for domain, lines in DOMAINS.items() for line in lines
        )
        if "\n" not in line
    ]
    path = tmp_path / f"mine.{kind}"
    if kind == "txt":
        path.write_bytes(b"\xef\xbb\xbf" + "\r\n\n".join(row["text"] for row in rows).encode())
    else:
        (write_lines if kind == "jsonl" else write_parquet)(path, rows)
    made, manifest = make(tmp_path, recipe_of(path))
    assert [text.text for text in made] == [row["text"] for row in rows]
    assert [text.index for text in made] == list(range(len(rows)))
    expected = Counter("all" if kind == "txt" else row["domain"] for row in rows)
    assert manifest["domains"] == expected


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_fields_may_have_other_names_and_be_nested(tmp_path: Path, kind: str) -> None:
    rows = [{"body": f"text {n}", "meta": {"set": "odd" if n % 2 else "even"}} for n in range(6)]
    write = write_lines if kind == "jsonl" else write_parquet
    path = write(tmp_path / f"mine.{kind}", rows)
    made, _ = make(tmp_path, recipe_of(path, field="body", domain_field="meta.set"))
    assert [(text.text, text.domain) for text in made] == [
        (row["body"], row["meta"]["set"]) for row in rows
    ]
    nested, _ = make(tmp_path, recipe_of(path, field="meta.set"))
    assert [(text.text, text.domain) for text in nested] == [
        (row["meta"]["set"], "all") for row in rows
    ]


def test_records_stay_whole_unless_chunks_are_asked_for(tmp_path: Path) -> None:
    long = [random_text(seed, 2000) for seed in range(3)]
    path = write_lines(tmp_path / "mine.jsonl", [{"text": text} for text in long])
    made, _ = make(tmp_path, recipe_of(path))
    assert [text.text for text in made] == long
    cut, _ = make(tmp_path, recipe_of(path, chunk=True))
    assert [text.text for text in cut] == [
        piece for text in long for piece in slow_chunks(text, 1024)
    ]
    assert max(text.n_bytes for text in cut) <= 1024


def test_n_whole_records_are_a_sample_in_file_order(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "mine.txt", [f"{number:03d}" for number in range(100)])
    made, manifest = make(tmp_path, recipe_of(path, n=10))
    numbers = [int(text.text) for text in made]
    assert numbers == sorted(random.Random(42).sample(range(100), 40)[:10])
    assert (manifest["n"], manifest["candidates"]) == (10, 100)


# ------------------------------------------------------------------------------- bad input

GOOD = {"text": "a text like any other"}


@pytest.mark.parametrize(
    ("records", "place", "words"),
    [
        ([GOOD, {"body": "x"}], ":2", "no field 'text' (fields here: body); name it with field:"),
        ([GOOD, {"text": None}], ":2", "text is null; give it a value, or remove the record"),
        ([GOOD, {"text": 5}], ":2", "text is int, expected a string"),
        ([GOOD, {"text": ""}], ":2", "0 UTF-8 bytes"),
        ([GOOD, {"text": "é" * 5}], ":2", "10 UTF-8 bytes and must have more than min_bytes: 10"),
        ([{**GOOD, "index": 4}, GOOD, {**GOOD, "index": 4}], ":3", "index 4 stands at"),
        ([{**GOOD, "index": "4"}], ":1", "expected a whole number"),
        ([GOOD, "", '{"text": "cut off'], ":3", "not valid JSON"),
        ([GOOD, '{"index": ' + "9" * 5000 + "}"], ":2", "not valid JSON"),
        ([GOOD, "[" * 100_000], ":2", "not valid JSON"),
        ([GOOD, '["text"]'], ":2", "expected a JSON object, found list"),
        ([GOOD, '{"text": "half a \\ud83d surrogate pair"}'], ":2", "surrogate"),
        ([GOOD, {**GOOD, "domain": 3}], ":2", "domain is 3; expected a name"),
    ],
)
def test_a_bad_record_is_named_with_file_and_line(
    tmp_path: Path, records: list[Any], place: str, words: str
) -> None:
    path = write_lines(tmp_path / "mine.jsonl", records)
    with pytest.raises(InputError) as caught:
        make(tmp_path, recipe_of(path, min_bytes=10))
    assert str(caught.value).startswith(f"{path}{place}: ")
    assert words in str(caught.value)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("mine.jsonl", b"", "{path}: empty"),
        ("mine.jsonl", b"\n \n", "{path}: empty"),
        ("mine.txt", b"", "{path}: empty"),
        ("mine.parquet", b"", "{path}: not a readable parquet file"),
        ("mine.parquet", b"PAR1 cut off", "{path}: not a readable parquet file"),
        ("mine.txt", b"fine\nna\xefve\n", "{path}:2: not UTF-8"),
        ("mine.jsonl", b'{"text": "na\xefve"}\n', "{path}:1: not UTF-8"),
        ("mine.txt", b"the only line\n", "1 texts of more than 0 bytes; a map needs at least 2"),
        ("mine.csv", b"text\na\nb\n", "{path}: texts come as .jsonl, .parquet or .txt, not '.csv'"),
        ("mine.jsonl", None, "{path}: no such file; texts.path is relative to"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, name: str, data: bytes | None, words: str) -> None:
    path = tmp_path / name
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        make(tmp_path, recipe_of(path))
    assert words.format(path=path) in str(caught.value)
    assert not (tmp_path / "texts.jsonl").exists()


@pytest.mark.parametrize(
    ("rows", "place", "words"),
    [
        ([{"body": "x"}], ":1", "no field 'text' (fields here: body)"),
        ([GOOD, {"text": None}], ":2", "text is null; give it a value, or remove the record"),
        ([{"text": 1}], ":1", "text is int, expected a string"),
        ([{**GOOD, "index": 0}, {**GOOD, "index": 0}], ":2", "index 0 stands at"),
    ],
)
def test_a_bad_parquet_row_is_named(
    tmp_path: Path, rows: list[dict[str, Any]], place: str, words: str
) -> None:
    path = write_parquet(tmp_path / "mine.parquet", rows)
    with pytest.raises(InputError) as caught:
        make(tmp_path, recipe_of(path))
    assert str(caught.value).startswith(f"{path}{place}: ")
    assert words in str(caught.value)


def test_more_texts_than_there_are(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "mine.txt", ["one", "two", "three"])
    with pytest.raises(InputError, match="n is 4, but there are only 3 texts"):
        make(tmp_path, recipe_of(path, n=4))


# ------------------------------------------------------------------------------- reading a set


@pytest.fixture
def finished_set(tmp_path: Path) -> Path:
    make(tmp_path, recipe_of(write_lines(tmp_path / "mine.txt", ["one", "two", "three"])))
    return tmp_path / "texts.jsonl"


def test_texts_changed_behind_the_manifest_are_refused(finished_set: Path) -> None:
    manifest = finished_set.with_name("texts.json")
    finished_set.write_text(finished_set.read_text().replace("two", "2"))
    with pytest.raises(InputError, match="were changed after they were made"):
        texts.read_texts(finished_set, manifest)
    manifest.unlink()
    with pytest.raises(InputError, match=r"texts\.json: no such file"):
        texts.read_texts(finished_set, manifest)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda lines: [lines[0], lines[2]], ":2: index is 2, expected 1"),
        (lambda lines: [*lines[:2], lines[2][:-5]], ":3: not a text of klmap"),
        (lambda lines: [lines[0], "[]", lines[2]], ":2: not a text of klmap"),
        (lambda lines: [lines[0].replace('"n_bytes"', '"size"')], ":1: no field 'n_bytes'"),
        (lambda lines: [lines[0].replace("one", "once")], ":1: n_bytes is 3, the text has 4"),
        (lambda lines: [lines[0].replace('"one"', "1")], ":1: not a text of klmap"),
        (lambda lines: [lines[0].replace('"all"', "1")], ":1: domain is 1, expected a name"),
        (lambda lines: lines[:1], ": 1 texts; a map needs at least 2"),
        (lambda _: [], ": 0 texts; a map needs at least 2"),
    ],
)
def test_a_broken_set_is_named_with_file_and_line(
    finished_set: Path, change: Callable[[list[str]], list[str]], words: str
) -> None:
    write_lines(finished_set, change(finished_set.read_text().splitlines()))
    with pytest.raises(InputError) as caught:
        texts.read_texts(finished_set)
    assert str(caught.value).startswith(f"{finished_set}{words}")


def test_a_missing_set_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"texts\.jsonl: no such file"):
        texts.read_texts(tmp_path / "texts.jsonl")


def test_an_excerpt_is_one_line_of_what_can_be_seen() -> None:
    assert texts.excerpt("a\n\tb\x1b[31m\u202ec") == r"a\n\tb\x1b[31m\u202ec"
    assert texts.excerpt("é" * 200) == "é" * 120 + "…"
    assert texts.excerpt("x" * 120) == "x" * 120
