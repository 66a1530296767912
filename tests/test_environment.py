"""The texts every installation has: domains, determinism, and two halves that share nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from collections import Counter
from pathlib import Path

import pytest

from klmap import environment, texts
from klmap.config_texts import EnvironmentTexts
from klmap.corpora import Document
from klmap.environment import Half
from klmap.files import read_json, sha256_of

SCRIPT = Path(__file__).parents[1] / "scripts" / "texts.py"
N = 300
RUN = 100
"""Characters in a row, white space and punctuation left out, that count as shared."""


@pytest.fixture(scope="module")
def halves() -> dict[Half, list[Document]]:
    """Both halves, from one pass over the installation."""
    found: dict[Half, list[Document]] = {"score": [], "train": []}
    for half, document in environment.both_halves():
        found[half].append(document)
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The same set made by two processes whose string hashes, and so set orders, differ."""
    recipe = EnvironmentTexts(source="environment", n=N).model_dump_json()
    folders = []
    for seed in ("1", "2"):
        folder = tmp_path_factory.mktemp(f"hash{seed}")
        command = [sys.executable, str(SCRIPT), "--recipe", recipe, "--texts"]
        command += [str(folder / "texts.jsonl"), "--manifest", str(folder / "texts.json")]
        # Another working directory with a module of a tempting name: neither may matter.
        (folder / "this.py").write_text("print('not the standard library')\n" * 100)
        subprocess.run(command, check=True, cwd=folder, env={**os.environ, "PYTHONHASHSEED": seed})
        folders.append(folder)
    return folders


def squeezed(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def runs(text: str, step: int) -> set[str]:
    return {text[at : at + RUN] for at in range(0, len(text) - RUN + 1, step)}


# ------------------------------------------------------------------------------- the set


def test_a_set_does_not_depend_on_the_process(made: list[Path]) -> None:
    first, second = (folder / "texts.jsonl" for folder in made)
    assert sha256_of(first) == sha256_of(second)
    assert read_json(made[0] / "texts.json") == read_json(made[1] / "texts.json")


def test_a_set_has_six_domains_of_the_same_size(made: list[Path]) -> None:
    found = texts.read_texts(made[0] / "texts.jsonl", made[0] / "texts.json")
    manifest = read_json(made[0] / "texts.json")
    counts = Counter(text.domain for text in found)
    assert len(found) == N
    assert len(counts) >= 6
    assert max(counts.values()) - min(counts.values()) <= 1
    assert manifest["domains"] == counts
    assert all(256 < text.n_bytes <= 1024 for text in found)
    assert len({text.text for text in found}) == N


def test_the_manifest_names_the_installed_versions(made: list[Path]) -> None:
    versions = read_json(made[0] / "texts.json")["versions"]
    assert versions["python"] == sys.version.split()[0]
    assert versions["numpy"] == environment.distributions()["numpy"].version
    assert not {"pytest", "ruff", "mypy"} & set(versions)


def test_scored_texts_come_from_the_scored_half(
    made: list[Path], halves: dict[Half, list[Document]]
) -> None:
    whole = {(document.domain, document.text) for document in halves["score"]}
    by_domain = {domain: "\0".join(t for d, t in whole if d == domain) for domain, _ in whole}
    for text in texts.read_texts(made[0] / "texts.jsonl"):
        assert text.text in by_domain[text.domain]


# ------------------------------------------------------------------------------- the halves


def test_no_document_is_in_both_halves(halves: dict[Half, list[Document]]) -> None:
    origins = {half: {document.origin for document in found} for half, found in halves.items()}
    assert not origins["score"] & origins["train"]
    for half, found in halves.items():
        assert len(found) > 100
        assert {environment.half_of(origin) for origin in origins[half]} == {half}
        assert {document.domain for document in found} == {
            domain.name for domain in environment.DOMAINS
        }


def test_one_half_is_what_the_whole_pass_says(
    halves: dict[Half, list[Document]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = [(half, document) for half, found in halves.items() for document in found]
    monkeypatch.setattr(environment, "both_halves", lambda: iter(pairs))
    assert list(environment.documents("train")) == halves["train"]
    assert list(environment.documents("score")) == halves["score"]


def test_the_halves_share_no_passage(halves: dict[Half, list[Document]]) -> None:
    learned: set[str] = set()
    for document in halves["train"]:
        learned |= runs(squeezed(document.text), 1)
    scored: set[str] = set()
    for document in halves["score"]:
        scored |= runs(squeezed(document.text), 50)
    assert len(scored) > 20_000
    shared = sorted(scored & learned)
    assert len(shared) < len(scored) / 10_000, shared[:5]


def test_no_licence_header_is_left_in_code(halves: dict[Half, list[Document]]) -> None:
    code = [
        document
        for found in halves.values()
        for document in found
        if document.domain in ("python", "headers", "javascript", "cython")
    ]
    header = re.compile(r"licensed under the|permission is hereby granted|all rights reserved")
    marked = [document.origin for document in code if header.search(document.text[:600].lower())]
    assert len(marked) < len(code) / 50, marked


# ------------------------------------------------------------------------------- what is read


@pytest.mark.parametrize(
    "data",
    [b"caf\xe9 au lait\n" * 50, b"binary\0data\n" * 50, "ü\n".encode("utf-16") * 50],
    ids=["latin-1", "zeros", "utf-16"],
)
def test_what_is_no_utf8_text_is_skipped(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "file.py"
    path.write_bytes(data)
    assert environment._read(path) == ""
    assert environment._read(tmp_path / "missing.py") == ""
    assert environment._read(tmp_path) == ""


def test_a_large_file_is_read_to_the_last_whole_line_of_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "large.py"
    line = "größer = 1\n"
    path.write_text(line * (3 * environment.FILE_LIMIT // len(line)))
    text = environment._read(path)
    assert text == line * (environment.FILE_LIMIT // len(line.encode()))
    path.write_bytes(b"x" * (environment.FILE_LIMIT + 1))
    assert environment._read(path) == ""


def test_bad_files_of_an_installation_are_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [f"name{number} = {number}\n" for number in range(4000)]
    (tmp_path / "good.py").write_text("".join(words[:100]))
    (tmp_path / "latin.py").write_bytes("".join(words[100:200]).encode() + b"caf\xe9\n")
    (tmp_path / "copy.py").write_text("# a copy\n" + "".join(words[:100]))
    (tmp_path / "packed.py").write_text("x = '" + "".join(words[200:]).replace("\n", " ") + "'")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_it.py").write_text("".join(words[300:400]))
    monkeypatch.setattr(environment, "distributions", dict)
    paths = {"stdlib": str(tmp_path), "include": str(tmp_path / "none")}
    monkeypatch.setattr(sysconfig, "get_path", lambda kind: paths[kind])
    found = [document for _, document in environment.both_halves()]
    assert len(found) == 1
    assert found[0].domain == "python"
    assert found[0].origin in ("python/good.py", "python/copy.py")


def test_a_passage_is_recognised_in_another_line_width() -> None:
    seen: set[bytes] = set()
    words = [f"word{number}" for number in range(200)]
    wide, narrow = (
        "\n".join(" ".join(words[at : at + width]) for at in range(0, 200, width))
        for width in (20, 7)
    )
    own = "\n".join(f"own line number {number} of mine" for number in range(100))
    assert environment._without_repetitions(wide, seen) == wide + "\n"
    assert environment._without_repetitions(narrow, seen) == ""
    mixed = environment._without_repetitions(f"{narrow}\n{own}", seen)
    assert mixed == own + "\n"
    assert environment._without_repetitions("too short", seen) == ""


def test_code_loses_its_header_and_generated_code_is_left_out() -> None:
    body = "import os\n\n\ndef area(width):\n    return width * width"
    licence = "# Copyright 2024 Somebody\n# Licensed under the Something License\n\n"
    comment = "/* Copyright Somebody.\n   All rights reserved. */\n"
    remark = "# What this module is about.\n"
    assert environment._code(licence + body) == body
    assert environment._code(comment + "int x;") == "int x;"
    assert environment._code(remark + body) == remark + body
    assert environment._code("# Generated by a tool, do not edit\n" + body) == ""
    assert environment._code("x = '" + "y" * environment.LINE_LIMIT + "'\n" + body[:20]) == ""


def test_docstrings_of_a_module_without_their_code() -> None:
    prose = "A sentence about distances. " * 12
    module = f'def f():\n    """{prose.strip()}"""\n    return 1\n\n\ndef g():\n    """Short."""\n'
    assert environment._docstrings(module) == prose.strip()
    assert environment._docstrings("def broken(:\n") == ""
