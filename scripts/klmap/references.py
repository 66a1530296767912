"""The text sets that selections are selections of: where they lie, and what they are made of.

A reference is made by the same configuration, or it has been made before by another one. Of that
one nothing is configured here, so what its texts are is read from its manifest. Every Snakemake
process reads this when it starts, so it looks at nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from klmap.config import Config
from klmap.config_models import NAME_PATTERN
from klmap.config_prompts import PMI
from klmap.errors import ConfigError, InputError
from klmap.files import read_json

FILES = (
    "texts.jsonl",
    "index.tsv",
    "matrix.h5",
    "models.tsv",
    "kl.h5",
    "layout.tsv",
    "layout.json",
)
"""What has to be there of a reference that was made before."""


@dataclass(frozen=True)
class Reference:
    """The text set that another one is a selection of.

    Attributes:
        folder: where its files are.
        name: of the text set, where this configuration makes it; else empty.
        recipe: what decides its texts, where it was made before; only then the rest is known.
        texts: number of its texts.
        max_bytes: longest text that its recipe allows, in UTF-8 bytes.
        models: number of models on its map.
        is_beside: whether it was made before in the results folder of this configuration.
    """

    folder: str
    name: str
    recipe: dict[str, Any] | None = None
    texts: int = 0
    max_bytes: int = 0
    models: int = 0
    is_beside: bool = False

    def file(self, name: str) -> str:
        """One of its files."""
        return f"{self.folder}/{name}"


def find(config: Config, texts: str, file: Path) -> Reference:
    """The reference of a selection.

    Args:
        config: the configuration.
        texts: name of the selection.
        file: the configuration's file, for messages.

    Raises:
        ConfigError: the reference is not configured, and has not been made before either.
    """
    of, path = config.selections[texts].of, config.selections[texts].path
    if path is not None and _same(path, f"{config.results}/{texts}/selection.h5"):
        raise ConfigError(
            f"{file}: texts.{texts}.path: {path!r} is what this text set writes; copy the file to "
            "another place and name that"
        )
    if of in config.texts:
        return Reference(f"{config.results}/{of}", of)
    where = f"{file}: texts.{texts}.of"
    folder = Path(of).expanduser() if "/" in of else Path(config.results, of)
    beside = _same(folder.resolve().parent, config.results)
    if beside:
        # However it is written: another spelling would draw again.
        folder = Path(config.results, folder.resolve().name)
    if beside and folder.name in config.texts:
        raise ConfigError(
            f"{where}: {of!r} is the folder of a text set of this configuration; give its name, "
            f"of: {folder.name}"
        )
    try:
        manifest = read_json(folder / "texts.json")
    except InputError as error:
        raise ConfigError(_unfinished(where, of, folder, str(error).partition(";")[0])) from None
    if "selection" in manifest:
        raise ConfigError(
            f"{where}: {folder} is a selection itself, and its models lack most texts; name the "
            "reference that it was drawn from"
        )
    edited = isinstance(recipe := manifest.get("recipe"), dict) and recipe.get("edits")
    if manifest.get("vector") == PMI or edited:
        what = "has edited prompts" if edited else "is of what prompts add (PMI)"
        raise ConfigError(
            f"{where}: {folder} {what}, and has no map of scores of its own that new models could "
            "be placed on; name the text set that it follows from"
        )
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise ConfigError(_unfinished(where, of, folder, f"{folder}/{missing[0]} is not there"))
    if not isinstance(recipe, dict):
        raise ConfigError(f"{where}: {folder}/texts.json has no recipe; make it again")
    models = (folder / "index.tsv").read_bytes().count(b"\n") - 1
    longest = int(recipe.get("max_bytes") or 0)
    return Reference(str(folder), "", recipe, int(manifest["n"]), longest, models, beside)


def pattern_of(found: Iterable[str]) -> str:
    """Regular expression of some names; matches nothing where there are none."""
    return "|".join(map(re.escape, found)) or "(?!)"


def drawn_pattern(found: Mapping[str, Reference], variants: Iterable[str]) -> str:
    """Regular expression of the names of text sets that are drawn from a source of texts.

    Args:
        found: references of all selections.
        variants: names of the text sets that follow from others.
    """
    return _all_but([*found, *variants, *_made_before(found)])


def here_pattern(found: Mapping[str, Reference]) -> str:
    """Regular expression of the names of text sets that are made here.

    A reference that was made before can lie in the same folder, and is not to be made again.
    """
    return _all_but(_made_before(found))


def _made_before(found: Mapping[str, Reference]) -> list[str]:
    return [Path(each.folder).name for each in found.values() if each.is_beside]


def _all_but(names: Sequence[str]) -> str:
    without = f"(?!(?:{'|'.join(map(re.escape, names))})/)" if names else ""
    return without + NAME_PATTERN


def _same(first: Path | str, second: Path | str) -> bool:
    """Whether two paths mean one place."""
    return Path(first).expanduser().resolve() == Path(second).expanduser().resolve()


def _unfinished(where: str, of: str, folder: Path, found: str) -> str:
    return (
        f"{where}: no text set {of!r} is configured here, and {folder} is not that of a finished "
        f"map ({found}); run the configuration that makes it first, or add it below texts:"
    )
