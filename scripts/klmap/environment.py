"""Real text that every installation of klmap has: what lies in its own Python environment.

The standard library and the distributions klmap depends on hold code, documentation, licences
and data, enough for a text set and for training the demo zoo without any network. Which
documents come out depends on nothing but the installed versions: distributions are found by
following requirements from klmap's own, so that development tools installed beside them change
nothing, and files are ordered by hashes, never by path, time or directory order.

Every document belongs to one of two halves. Text sets are made of the half ``score``, the demo
models learn from ``train``: no document, and no passage that two documents share, is in both.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import re
import sys
import sysconfig
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from klmap.corpora import Document

Half = Literal["score", "train"]

ROOTS = (
    "accelerate",
    "datasets",
    "h5py",
    "huggingface-hub",
    "jinja2",
    "matplotlib",
    "numpy",
    "pandas",
    "pyarrow",
    "pydantic",
    "pyyaml",
    "safetensors",
    "scikit-learn",
    "scipy",
    "sentencepiece",
    "snakemake",
    "snakemake-executor-plugin-slurm",
    "tokenizers",
    "torch",
    "transformers",
)
"""Distributions whose requirements are followed; names without an installation are left out."""

SCIENTIFIC = frozenset(
    ("matplotlib", "networkx", "numpy", "pandas", "scikit-learn", "scipy", "sympy")
)
"""Distributions that give docstring prose, and therefore no Python code."""

FILE_LIMIT = 96 * 1024
"""Bytes read of one file; a longer one ends at the last whole line within."""

DOMAIN_BYTES = 2_000_000
"""Bytes kept of one domain, both halves together."""

LINE_LIMIT = 400
"""Characters of a line of code; longer ones are packed data or minified and are left out."""

SHINGLE = 8
"""Words in a row that count as one passage when repetitions are looked for."""

STANDARD_LIBRARY = "python"

_SKIPPED_FOLDERS = re.compile(
    r"(^|/)(tests?|testing|_vendor|vendored|site-packages|__pycache__|idlelib|ensurepip|"
    r"pydoc_data|encodings|lib2to3|config-[^/]*)/"
)
_GENERATED = re.compile(r"(auto-?matically |auto-?|@|is )generated|do not edit", re.IGNORECASE)
_LICENCE_WORDS = re.compile(r"copyright|licen[cs]e|spdx|all rights reserved", re.IGNORECASE)
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Domain:
    """One kind of text and how to recognise and read it.

    Attributes:
        name: the label of its texts.
        accepts: whether a file of a distribution (name, path inside it) belongs to the domain.
        extract: the document in the text of a file; empty where there is none.
    """

    name: str
    accepts: Callable[[str, str], bool]
    extract: Callable[[str], str]


@dataclass(frozen=True)
class _File:
    """A file by its distribution and its path inside the installation."""

    distribution: str
    name: str
    path: Path

    @property
    def origin(self) -> str:
        return f"{self.distribution}/{self.name}"


def distributions() -> dict[str, metadata.Distribution]:
    """The installed distributions klmap needs, by normalised name and in its order.

    Only this environment's own site-packages are looked at, not the user's or the working
    directory.
    """
    folders = list(dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib")))
    installed = {
        str(canonicalize_name(item.metadata["Name"])): item
        for item in metadata.distributions(path=folders)
    }
    found: dict[str, metadata.Distribution] = {}
    waiting = list(ROOTS)
    while waiting:
        name = waiting.pop()
        if name in found or name not in installed:
            continue
        found[name] = installed[name]
        for line in installed[name].requires or []:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(str(canonicalize_name(requirement.name)))
    return dict(sorted(found.items()))


def versions() -> dict[str, str]:
    """The version of the interpreter and of every distribution the texts may come from."""
    own = {STANDARD_LIBRARY: sys.version.split()[0]}
    return own | {name: item.version for name, item in distributions().items()}


def documents(half: Half) -> Iterator[Document]:
    """The documents of one half, domain by domain, in an order that is always the same.

    Args:
        half: ``score`` for text sets, ``train`` for the demo models.

    Yields:
        Documents without licence headers and without passages that an earlier document, of
        either half, has already shown.
    """
    return (document for owner, document in both_halves() if owner == half)


def both_halves() -> Iterator[tuple[Half, Document]]:
    """The documents of both halves in one pass, each with the half that it belongs to."""
    files = _files()
    seen: set[bytes] = set()
    for domain in DOMAINS:
        taken = 0
        for file in _ordered(
            item for item in files if domain.accepts(item.distribution, item.name)
        ):
            text = _read(file.path)
            text = _without_repetitions(domain.extract(text), seen) if text else ""
            size = len(text.encode())
            if not size:
                continue
            yield half_of(file.origin), Document(text, domain.name, file.origin)
            taken += size
            if taken >= DOMAIN_BYTES:
                break


def half_of(origin: str) -> Half:
    """The half a document belongs to, by a hash of the place it has in its distribution.

    A document therefore stays in its half when its distribution is updated.
    """
    return "score" if hashlib.sha256(f"half:{origin}".encode()).digest()[0] % 2 else "train"


def _files() -> list[_File]:
    found = []
    for name, item in distributions().items():
        for entry in item.files or []:
            path = entry.as_posix()
            if not path.startswith("..") and not _SKIPPED_FOLDERS.search(path):
                # The folder .dist-info bears the version, which must not shuffle the order.
                inside = re.sub(r"^[^/]*\.dist-info/", "dist-info/", path)
                found.append(_File(name, inside, Path(str(entry.locate()))))
    for kind in ("stdlib", "include"):
        folder = Path(sysconfig.get_path(kind))
        for file in folder.rglob("*"):
            inside = file.relative_to(folder).as_posix()
            if not _SKIPPED_FOLDERS.search(inside):
                found.append(_File(STANDARD_LIBRARY, inside, file))
    return found


def _ordered(files: Iterable[_File]) -> Iterator[_File]:
    """Files in turn from every distribution, so that none fills a domain alone."""
    groups: dict[str, list[_File]] = defaultdict(list)
    for file in files:
        groups[file.distribution].append(file)
    ranked = []
    for group in groups.values():
        group.sort(key=lambda file: hashlib.sha256(file.origin.encode()).digest())
        ranked += [(rank, file.distribution, file) for rank, file in enumerate(group)]
    ranked.sort(key=lambda item: item[:2])
    return (file for _, _, file in ranked)


def _read(path: Path) -> str:
    """A file's text, empty where it is missing, binary or not UTF-8."""
    try:
        with path.open("rb") as file:
            data = file.read(FILE_LIMIT + 1)
        if len(data) > FILE_LIMIT:
            data = data[: data.rfind(b"\n", 0, FILE_LIMIT) + 1]
        text = data.decode("utf-8").replace("\r\n", "\n")
    except (OSError, UnicodeDecodeError):
        return ""
    return "" if "\0" in text else text


def _without_repetitions(text: str, seen: set[bytes]) -> str:
    """Drop the lines whose words are mostly part of passages seen before, and remember the rest.

    A passage is a row of ``SHINGLE`` words, however they are broken into lines, so a licence
    wrapped at another width is still the same licence. Of a document that is repeated for the
    greater part nothing is kept.
    """
    lines = text.splitlines()
    words: list[str] = []
    line_of: list[int] = []
    for number, line in enumerate(lines):
        found = _WORD.findall(line.lower())
        words += found
        line_of += [number] * len(found)
    if len(words) < 4 * SHINGLE:
        return ""
    passages = [
        hashlib.blake2b(" ".join(words[at : at + SHINGLE]).encode(), digest_size=8).digest()
        for at in range(len(words) - SHINGLE + 1)
    ]
    covered = bytearray(len(words))
    for at, passage in enumerate(passages):
        if passage in seen:
            covered[at : at + SHINGLE] = b"\1" * SHINGLE
    seen.update(passages)
    if 2 * sum(covered) > len(words):
        return ""
    balance = [0] * len(lines)
    for at, number in enumerate(line_of):
        balance[number] += 1 if covered[at] else -1
    kept = "\n".join(line for line, sign in zip(lines, balance, strict=True) if sign <= 0)
    return re.sub(r"\n{3,}", "\n\n", kept).strip("\n") + "\n"


def _code(text: str) -> str:
    """Source code without its licence header; nothing of generated or minified code."""
    if _GENERATED.search(text[:1000]):
        return ""
    lines = [line for line in text.splitlines() if len(line) <= LINE_LIMIT]
    if 2 * sum(map(len, lines)) < len(text):
        return ""
    end = 0
    in_comment = False
    for number, line in enumerate(lines):
        bare = line.strip()
        in_comment = in_comment or bare.startswith("/*")
        if bare and not in_comment and not bare.startswith(("#!", "# ", "//")) and bare != "#":
            break
        if "*/" in bare:
            in_comment = False
        end = number + 1
    header = "\n".join(lines[:end])
    return "\n".join(lines[end:] if _LICENCE_WORDS.search(header) else lines)


def _docstrings(text: str) -> str:
    """The longer docstrings of a Python module, one after the other."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError):
            return ""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    parts = [ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, kinds)]
    return "\n\n".join(inspect.cleandoc(part) for part in parts if len(part) > 300)


def _description(text: str) -> str:
    """The body of a METADATA file: the package's description."""
    return text.partition("\n\n")[2]


def _prose(text: str) -> str:
    return text


def _ending(*endings: str) -> Callable[[str, str], bool]:
    return lambda _, name: name.endswith(endings)


_LICENCE_NAME = re.compile(r"(^|/)(licen[cs]e|copying|notice|copyright)[^/]*$|/licenses?/", re.I)

DOMAINS = (
    Domain(
        "licences",
        lambda _, name: bool(_LICENCE_NAME.search(name)) and not name.endswith(".py"),
        _prose,
    ),
    Domain("descriptions", lambda _, name: name == "dist-info/METADATA", _description),
    Domain(
        "docstrings",
        lambda package, name: package in SCIENTIFIC and name.endswith(".py"),
        _docstrings,
    ),
    Domain(
        "python", lambda package, name: package not in SCIENTIFIC and name.endswith(".py"), _code
    ),
    Domain("headers", _ending(".h", ".hpp", ".cuh"), _code),
    Domain("javascript", _ending(".js", ".ts"), _code),
    Domain("cython", _ending(".pyx", ".pxd", ".pxi"), _code),
)
"""The domains in the order in which passages are claimed: the scarcest kind first."""
