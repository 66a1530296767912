"""index.tsv: which models belong on the map of a text set, and where their files are."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from klmap.errors import InputError
from klmap.files import read_tsv, write_text

COLUMNS = ("model", "source", "fingerprint", "id", "revision", "family", "variant")

GIVEN = ("layers", "parents", "relation", "seed_group", "size_group")
"""Columns that are there where the configuration says such a thing of some model: which hidden
states its score holds (``all``, or numbers), and how it is related to others, instead of what its
card says. Lists are separated by commas."""

REFERENCE = "reference"
"""Column that only the index of a selection has: the folder of the text set that a model has all
texts of; empty for a model that is scored on the selection alone."""


@dataclass(frozen=True)
class Entry:
    """One row of the index with the files that belong to it.

    Attributes:
        model: name on the map.
        source: what its card is filed under; empty for a score that others have computed.
        fingerprint: 12 hexadecimal digits of the score's settings.
        id: Hub id, local folder or demo id.
        revision: the configured revision.
        family: from the configuration, or the model type of a release.
        variant: what sets it apart from other rows of the same source.
        path: the score file.
        layers: hidden states that are rows of their own: ``all``, numbers, or empty for none.
        parents: ids of the models that it was made from; those of the card where there are none.
        relation: what was done to these; that of the card where it is empty.
        seed_group: name of a group of runs that differ in their seed.
        size_group: name of a group of models that differ in their size.
        card: the card, where there is a source.
        is_complete: whether the score is of all texts of a reference, where there is one.
        layer: the hidden state that this row is; None for the model itself.
    """

    model: str
    source: str
    fingerprint: str
    id: str
    revision: str
    family: str
    variant: str
    path: Path
    card: Path
    is_complete: bool = False
    layers: str = ""
    parents: tuple[str, ...] = ()
    relation: str = ""
    seed_group: str = ""
    size_group: str = ""
    layer: int | None = None

    @property
    def row(self) -> str:
        """What the row is called on the map."""
        return self.model if self.layer is None else f"{self.model}+layer{self.layer}"


def write_index(
    index: Path | str,
    rows: Sequence[str],
    releases: Sequence[Path | str],
    reference: Sequence[Path | str] = (),
) -> None:
    """Write index.tsv: the configured models, then those of releases, or of a reference.

    Args:
        index: the table.
        rows: one line per configured model, its cells in the order of ``COLUMNS``, and of
            ``GIVEN`` where any of that is configured.
        releases: tables of the same columns that imports have written.
        reference: of a selection, index.tsv and models.tsv of the text set that it was drawn from:
            the models of its finished map are taken over, with what is said of them there.

    Raises:
        InputError: two models have one name, a cell holds a tab, or a table is missing or broken.
    """
    lines: dict[str, str] = {}
    most = max((row.count("\t") + 1 for row in rows), default=0)
    own = COLUMNS + GIVEN if most >= len(COLUMNS + GIVEN) else COLUMNS
    columns = COLUMNS + GIVEN if reference and _says_more(Path(reference[0])) else own
    for row in rows:
        cells = row.split("\t")
        if len(cells) != len(own):
            raise InputError(
                f"{cells[0]!r} has {len(cells)} cells in the index, expected {len(own)}; take "
                "the tab out of its family: in config.yaml"
            )
        lines[cells[0]] = _line([*cells, *[""] * (len(columns) - len(own))])
    for table in releases:
        for found in read_tsv(Path(table)):
            name = found["model"]
            if name in lines:
                raise InputError(
                    f"{name!r} is the name of a model of {table} and of another one; give yours "
                    "another name with name: in config.yaml"
                )
            lines[name] = _line([found.get(column, "") for column in columns])
    header = "\t".join(columns)
    if reference:
        header = f"{header}\t{REFERENCE}"
        lines = {name: f"{line}\t" for name, line in lines.items()}
        _add_reference(lines, columns, *map(Path, reference))
    write_text(Path(index), "\n".join([header, *lines.values()]) + "\n")


def _says_more(index: Path) -> bool:
    """Whether the index of a reference has what is configured of how models are related."""
    return any(column in row for row in read_tsv(index) for column in GIVEN)


def _add_reference(
    lines: dict[str, str], columns: Sequence[str], reference: Path, models: Path
) -> None:
    """The models of a reference stand on the maps of its selections."""
    finished = {row["model"] for row in read_tsv(models)}
    for found in read_tsv(reference):
        name = found["model"]
        if name not in finished:
            continue
        if name in lines:
            raise InputError(
                f"{name!r} was scored on all texts already ({reference}), so it is on the map of "
                "the selection too; remove it from models:, or give this one another name with "
                "name:"
            )
        cells = [*(found.get(column, "") for column in columns), str(reference.parent)]
        lines[name] = _line(cells)


def _line(cells: Sequence[str]) -> str:
    """Cells as read_tsv reads them again: those with quotation marks are quoted."""
    line = io.StringIO()
    csv.writer(line, delimiter="\t", lineterminator="\r\n").writerow(cells)
    return line.getvalue().removesuffix("\r\n")


def read_index(index: Path, scores: Path, cards: Path) -> list[Entry]:
    """Read index.tsv.

    Args:
        index: the table.
        scores: folder of ``<model>.<fingerprint>.h5``.
        cards: folder of ``<source>/card.json``.

    Returns:
        The rows, sorted by model.

    Raises:
        InputError: the table is missing, empty, lacks a column, or names a model twice.
    """
    rows = read_tsv(index)
    if not rows:
        raise InputError(
            f"{index}: no models; add one under models: in config.yaml, without on_map: false"
        )
    missing = [name for name in COLUMNS if name not in rows[0]]
    if missing:
        raise InputError(f"{index}: the column {missing[0]!r} is missing; remove it and run again")
    repeated = [name for name, count in Counter(r["model"] for r in rows).items() if count > 1]
    if repeated:
        raise InputError(f"{index}: {repeated[0]!r} stands there twice; names must be unique")
    return [_entry(row, scores, cards) for row in sorted(rows, key=lambda row: row["model"])]


def _entry(row: dict[str, str], scores: Path, cards: Path) -> Entry:
    folder = row.get(REFERENCE)
    if folder:
        scores, cards = Path(folder, "scores"), Path(folder).parent / "models"
    return Entry(
        model=row["model"],
        source=row["source"],
        fingerprint=row["fingerprint"],
        id=row["id"],
        revision=row["revision"],
        family=row["family"],
        variant=row["variant"],
        path=scores / f"{row['model']}.{row['fingerprint']}.h5",
        card=cards / row["source"] / "card.json",
        is_complete=bool(folder),
        layers=row.get("layers", ""),
        parents=tuple(id for id in row.get("parents", "").split(",") if id),
        relation=row.get("relation", ""),
        seed_group=row.get("seed_group", ""),
        size_group=row.get("size_group", ""),
    )
