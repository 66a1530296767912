"""Everything that can be known of a run before its first GPU minute.

Every configured model that has no card yet is asked about once; the answer is kept as its card,
which the run then uses. No weights are downloaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from klmap import allocation, disk, estimates, questions, store_score
from klmap.cards import Card
from klmap.config import Hardware
from klmap.errors import InputError
from klmap.estimates import Speed
from klmap.failures import left_reason
from klmap.files import read_json, read_tsv, write_tsv
from klmap.questions import Answer, is_demo
from klmap.refresh import Source

SCORED = "scored"
READY = "ready"
BUILT_HERE = "built here"
TOO_LARGE = "too large"
UNUSABLE = "unusable"
UNREACHABLE = "unreachable"

FINE = (READY, BUILT_HERE, SCORED)
"""States of models that need nothing more from the user."""

BLOCKING = (UNREACHABLE, TOO_LARGE)
"""States that end a run whatever ``on_model_failure`` says: no verdict on the model is reached."""

SMALL = 2**16
"""Bytes: a score file without log-likelihoods is smaller, one of 10,000 texts larger."""

_COLUMNS = (
    *("model", "source", "id", "revision", "state", "parameters", "bytes", "gpus"),
    *("scores", "missing", "hours", "reason"),
)


@dataclass(frozen=True)
class Wanted:
    """One score that the configuration asks for.

    Attributes:
        model: its name on the map.
        source: what its card is filed under.
        texts: the text set.
        score: the file.
        dtype: as configured.
        quantization: ``int8``, ``nf4``, ``fp4``; empty for none.
        reading: how the texts are read, as ``estimates.reading_of`` says.
    """

    model: str
    source: str
    texts: str
    score: Path
    dtype: str
    quantization: str
    reading: str = ""


@dataclass(frozen=True)
class TextSet:
    """What the configuration says of the size of a text set.

    Attributes:
        name: its name.
        n: number of texts; None takes all there are.
        max_bytes: longest text in UTF-8 bytes.
    """

    name: str
    n: int | None
    max_bytes: int

    @classmethod
    def parse(cls, argument: str) -> TextSet:
        """Read ``name=n,max_bytes``, where n is ``all`` for a recipe that does not say."""
        name, _, sizes = argument.partition("=")
        n, _, max_bytes = sizes.partition(",")
        return cls(name, None if n == "all" else int(n), int(max_bytes))


@dataclass(frozen=True)
class Row:
    """One model of the map, and how the run will fare with it.

    Attributes:
        model: its name on the map.
        source: the model and revision it is scored from.
        state: a state of this module, or the ``state`` of a card with an error.
        reason: what is wrong and what to do, in one line; empty where all is well.
        card: what is known of it.
        download: bytes to fetch for its source; 0 for a folder.
        gpus: GPUs it needs; 0 where it is scored on a CPU or nothing is known of it.
        scores: number of wanted scores.
        missing: how many of them are not there.
        seconds: device seconds that those will take; None where that cannot be said.
    """

    model: str
    source: Source
    state: str
    reason: str = ""
    card: Card | None = None
    download: int = 0
    gpus: int = 0
    scores: int = 0
    missing: int = 0
    seconds: float | None = None

    @property
    def cells(self) -> tuple[Any, ...]:
        """Its line of preflight.tsv; empty cells for what is not known."""
        card = self.card or Card(id=self.source.id)
        return (
            *(self.model, self.source.name, self.source.id, self.source.revision, self.state),
            *(card.parameters or None, card.size or None, self.gpus or None),
            *(self.scores, self.missing),
            *(None if self.seconds is None else self.seconds / 3600, self.reason),
        )


@dataclass(frozen=True)
class Outlook:
    """What pre-flight found.

    Attributes:
        rows: one per model of the map, sorted by name.
        hardware: as configured.
        skip: whether models that cannot be scored are left out instead of ending the run.
        tokens: tokens of each text set; None where its size is unknown.
        demo_speed: how fast demo models are scored.
        speed: how fast all others are.
    """

    rows: list[Row]
    hardware: Hardware
    skip: bool
    tokens: dict[str, float | None]
    demo_speed: Speed
    speed: Speed

    @property
    def blocking(self) -> list[Row]:
        """Models on account of which the run would end without a map."""
        return [row for row in self.rows if row.state not in FINE and not self.is_skipped(row)]

    def is_skipped(self, row: Row) -> bool:
        """Whether the map is drawn without this model."""
        return self.skip and row.state not in (*FINE, *BLOCKING)


def read_plan(path: Path) -> list[Wanted]:
    """Read the table of wanted scores: model, source, texts, score, dtype, quantization.

    Raises:
        InputError: the table is missing or lacks a column.
    """
    try:
        return [Wanted(**{**row, "score": Path(row["score"])}) for row in read_tsv(path)]  # type: ignore[arg-type]
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{path}: not the table of wanted scores ({error}); remove it, run again"
        ) from None


def look(
    sources: Sequence[Source],
    wanted: Sequence[Wanted],
    texts: Sequence[TextSet],
    folder: Path,
    hardware: Hardware,
    *,
    skip: bool,
    mirrors: Sequence[Path] = (),
) -> Outlook:
    """Ask about every model that has no card, and say how the run will fare.

    Args:
        sources: the configured models.
        wanted: the scores that the configuration asks for.
        texts: the configured text sets.
        folder: where the cards are, as ``<source>/card.json``; the results are beside it.
        hardware: as configured.
        skip: whether a model that cannot be used gets a card that says why, and is left out.
        mirrors: caches of the Hub that somebody else filled.
    """
    answers = questions.ask(sources, folder, skip=skip, mirrors=mirrors)
    manifests = {text.name: _manifest(folder.parent / text.name / "texts.json") for text in texts}
    measured = estimates.measure(folder.parent)
    demo_speed, speed = estimates.speeds(measured, hardware)
    tokens = {
        text.name: estimates.tokens_of(text.n, text.max_bytes, manifests[text.name], measured)
        for text in texts
    }
    judge = _Judge(folder, hardware, manifests, tokens, demo_speed, speed)
    by_name = {source.name: source for source in sources}
    by_model: dict[str, list[Wanted]] = {}
    for item in wanted:
        by_model.setdefault(item.model, []).append(item)
    rows = [
        judge.row(by_name[items[0].source], items, answers[items[0].source])
        for _, items in sorted(by_model.items())
    ]
    return Outlook(rows, hardware, skip, tokens, demo_speed, speed)


def _manifest(path: Path) -> dict[str, Any] | None:
    return read_json(path) if path.is_file() else None


@dataclass(frozen=True)
class _Judge:
    """What a model is held against.

    Attributes:
        folder: where the cards are; the results are beside it.
        hardware: as configured.
        manifests: texts.json of each text set, where it is made.
        tokens: tokens of each text set; None where its size is unknown.
        demo_speed: how fast demo models are scored.
        speed: how fast all others are.
    """

    folder: Path
    hardware: Hardware
    manifests: Mapping[str, Mapping[str, Any] | None]
    tokens: Mapping[str, float | None]
    demo_speed: Speed
    speed: Speed

    def row(self, source: Source, items: Sequence[Wanted], answer: Answer) -> Row:
        """The first thing that is wrong with a model, or how much is left to do."""
        card = answer.card
        unknown = Row(items[0].model, source, BUILT_HERE, scores=len(items), missing=len(items))
        if card is None:
            if not answer.unreachable:
                return unknown
            return replace(unknown, state=UNREACHABLE, reason=answer.unreachable)
        if card.error:
            return replace(unknown, state=card.state or UNUSABLE, reason=card.error, card=card)
        verdicts = [self.finished(item, card) for item in items]
        missing = [item for item, (there, _) in zip(items, verdicts, strict=True) if not there]
        reason = next((failure for _, failure in verdicts if failure), "")
        speed = self.demo_speed if is_demo(source) else self.speed
        # The variants of one row differ in their texts alone.
        settings = (card, items[0].dtype, items[0].quantization, self.hardware)
        row = replace(
            unknown,
            state=UNUSABLE if reason else READY if missing else SCORED,
            reason=reason,
            card=card,
            download=0 if source.folder is not None else card.size,
            gpus=allocation.gpus_needed(*settings) if speed.gpu else 0,
            missing=len(missing),
        )
        if row.state != READY:
            return row
        state, reason = self.problem(row, items[0], card)
        row = replace(row, state=state, reason=reason)
        return replace(row, seconds=self.seconds(row, missing, card)) if state == READY else row

    def seconds(self, row: Row, missing: Sequence[Wanted], card: Card) -> float | None:
        """Device seconds of the missing scores; None where some cannot be known."""
        speed = self.demo_speed if is_demo(row.source) else self.speed
        total = 0.0
        for item in missing:
            tokens = self.tokens[item.texts]
            if tokens is not None:
                tokens *= estimates.read_per_scored(item.reading, self.manifests[item.texts])
            how = (max(row.gpus, 1), item.dtype, item.quantization)
            one = None if tokens is None else speed.seconds(card, tokens, *how)
            if one is None:
                return None
            total += one
        return total

    def problem(self, row: Row, item: Wanted, card: Card) -> tuple[str, str]:
        """State and reason of a usable model: do the settings and machines suit it."""
        hardware = self.hardware
        if item.quantization and card.quantization:
            return UNUSABLE, (
                f"{item.model}: quantization: {item.quantization} cannot be applied to weights "
                f"that are stored quantised ({card.quantization}); remove quantization: from the "
                "entry, or give the original model"
            )
        if row.download > hardware.disk_budget_gb * 1e9:
            return TOO_LARGE, disk.too_large(card.id, row.download, hardware.disk_budget_gb * 1e9)
        if row.gpus > hardware.max_gpus:
            settings = (card, item.dtype, item.quantization, hardware)
            return TOO_LARGE, allocation.too_large(*settings)
        return READY, ""

    def finished(self, item: Wanted, card: Card) -> tuple[bool, str]:
        """Whether a score is there, and why the model failed for good if it did.

        Files are opened only where their size or time leaves a doubt.
        """
        try:
            found = item.score.stat()
        except OSError:
            return False, left_reason(item.score.with_suffix(".failed.json"), card)
        made_from = [
            self.folder / item.source / "card.json",
            self.folder.parent / item.texts / "texts.json",
        ]
        newest = max((path.stat().st_mtime for path in made_from if path.is_file()), default=0.0)
        if found.st_size >= SMALL and newest <= found.st_mtime:
            return True, ""
        try:
            score = store_score.read_score(item.score)
        except InputError as error:
            return True, str(error)
        manifest = self.manifests[item.texts]
        texts = score.texts_sha256 if manifest is None else manifest.get("sha256")
        if (score.commit, score.texts_sha256) != (card.commit, texts):
            return False, ""
        return True, score.error if score.status == "failed" else ""


def write_rows(path: Path, outlook: Outlook) -> None:
    """Write preflight.tsv, one line per model of the map."""
    write_tsv(path, _COLUMNS, (row.cells for row in outlook.rows))
