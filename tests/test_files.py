from __future__ import annotations

import os
from pathlib import Path

import pytest

from klmap import files
from klmap.errors import InputError


def test_atomic_keeps_the_old_file_when_the_block_fails(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    files.write_text(path, "old")

    def half() -> None:
        with files.atomic(path) as temporary:
            temporary.write_text("half")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        half()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["x.txt"]  # noqa: PTH208


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_atomic_cleans_up_after_an_interruption(tmp_path: Path, error: type[BaseException]) -> None:
    def interrupted() -> None:
        with files.atomic(tmp_path / "deep" / "x.txt") as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        interrupted()
    assert list((tmp_path / "deep").iterdir()) == []


def test_atomic_replaces_a_whole_folder(tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    for content in ("old", "new"):
        with files.atomic(folder) as temporary:
            (temporary / "sub").mkdir(parents=True)
            (temporary / "sub" / content).write_text(content)
    assert [path.name for path in folder.rglob("*") if path.is_file()] == ["new"]


def test_two_writers_do_not_share_a_temporary_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = files.temporary_name(tmp_path / "x")
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    assert files.temporary_name(tmp_path / "x") != here
    assert here.parent == tmp_path


def test_table_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "t.tsv"
    files.write_tsv(path, ["a", "b"], [['say "hi"', None], ["tab\there\nline", 1.23456789]])
    assert files.read_tsv(path) == [
        {"a": 'say "hi"', "b": ""},
        {"a": "tab here line", "b": "1.23457"},
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "empty"), ("a\tb\n1\n", ":2: 1 columns where the header has 2"), (b"\xff\xfe", "UTF-8")],
)
def test_broken_tables(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = tmp_path / "t.tsv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=message):
        files.read_tsv(path)
    with pytest.raises(InputError, match="no such file"):
        files.read_tsv(tmp_path / "none.tsv")


@pytest.mark.parametrize("text", ["", "{", "[1]", "\xff"])
def test_broken_json(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=r"x\.json"):
        files.read_json(path)


def test_json_is_sorted_and_readable(tmp_path: Path) -> None:
    files.write_json(tmp_path / "x.json", {"b": "ü", "a": 1})
    assert (tmp_path / "x.json").read_text() == '{\n  "a": 1,\n  "b": "ü"\n}\n'


def test_canonical_ignores_order_and_missing_keys() -> None:
    first = files.canonical({"b": {"y": None, "x": 1}, "a": None, "c": 2})
    assert first == files.canonical({"c": 2, "b": {"x": 1}})
    assert first != files.canonical({"c": 2, "b": {"x": 2}})


def test_sha256_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert files.sha256_of(tmp_path / "x").startswith("ba7816bf8f01cfea")
