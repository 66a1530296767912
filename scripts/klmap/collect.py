"""One matrix from many score files: join by name, refuse what does not belong together."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from klmap import conventions, geometry, restriction
from klmap.arrays import Floats
from klmap.blocks import ranges
from klmap.centring import LowQuantile, write_coordinates
from klmap.errors import InputError, PermanentFailure
from klmap.files import read_json
from klmap.index import Entry, read_index
from klmap.likelihoods import CAUSAL
from klmap.log import Progress, logger
from klmap.models_table import Failure, Model
from klmap.restriction import Texts
from klmap.store import create_matrix
from klmap.store_score import LOGLIK, PMI, Score, read_layers, read_score, read_status
from klmap.texts import read_texts

_NOISE = "noise_nats"

_ATTRIBUTES = (
    "dtype",
    "prefix",
    "overlength",
    _NOISE,
    "imported",
    "card",
    "selection",
    "n_layers",
    "likelihood",
    *conventions.FACTS,
)


PMI_NOISE = math.sqrt(2)
"""Error of a difference of two log-likelihoods whose errors are equal in size and independent, as a
multiple of one of them (own). That of responses without their prompts is not measured. Errors that
are alike, as those of one model are, give less; twice is the most that equal ones can give."""


@dataclass(frozen=True)
class Collection:
    """What is known of the models of one text set; the lists are sorted by their names."""

    models: list[Model]
    failures: list[Failure]
    differences: list[conventions.Difference]


def collect(
    index: Path,
    scores: Path,
    cards: Path,
    texts: Path,
    manifest: Path,
    matrix: Path,
    skip_failures: bool = False,
    threshold: float | None = None,
    allowed: Sequence[str] = (),
    selection: Path | None = None,
    may_be_empty: bool = False,
    vector: str = LOGLIK,
    mixed_likelihoods: bool = False,
) -> Collection:
    """Join the score files that the index names into one matrix, without holding it in memory.

    Args:
        index: table with one row per model, see :mod:`klmap.index`.
        scores: folder of ``<model>.<fingerprint>.h5``.
        cards: folder of ``<source>/card.json``.
        texts: texts.jsonl.
        manifest: texts.json of the same texts.
        matrix: matrix.h5 to write; it is there only when everything has gone well.
        skip_failures: leave failed models out instead of refusing to draw a map without them.
        threshold: clip threshold in nats of an existing map; by default the 2 % quantile of the
            values collected here (Oyama et al. 2025, section 3).
        allowed: conventions in which scores may differ from those that others have computed.
        selection: selection.h5, where the texts are some of those of a reference. Scores of all its
            texts are restricted to them, and the matrix has their weights. The clip threshold is
            then that of the reference, unless one is given.
        may_be_empty: write a matrix without models where every one failed and is to be skipped.
        vector: what the matrix is of: ``loglik``, or ``pmi``, what responses gain by their prompts
            (:func:`klmap.store_score.read_score`). Hidden states have log-likelihoods alone.
        mixed_likelihoods: join models whose likelihoods are of different kinds
            (:mod:`klmap.likelihoods`), although their distances are no KL divergences. What others
            have computed is causal.

    Returns:
        The models of the matrix, in the order of its rows, and those that failed.

    Raises:
        InputError: a file is missing, broken, of another text set or of another model, or was
            computed by other conventions than those of others that it would be compared with; or
            the models have likelihoods of different kinds, and these are not to be mixed.
        PermanentFailure: models failed and are not to be skipped, or every model failed.
        OSError: the disk is full.
    """
    text_list = read_texts(texts, manifest)
    mean_bytes = float(np.mean([text.n_bytes for text in text_list]))
    wanted = restriction.read(selection, manifest, len(text_list), mean_bytes)
    chosen = wanted.selection
    if chosen is not None and threshold is None:
        threshold = chosen.clip_threshold
    entries = read_index(index, scores, cards)
    if vector == LOGLIK:
        entries = _with_layers(entries)
    kept = len(entries)
    if skip_failures:
        kept -= sum(_failed(entry.path, wanted.expected(entry)[1]) for entry in entries)
    lowest = LowQuantile(geometry.CLIP_QUANTILE, kept * len(text_list))
    join = _Join(wanted, vector)
    with create_matrix(matrix, kept, len(text_list)) as file:
        for begin, rows in join.blocks(entries):
            if threshold is None:
                lowest.add(rows)
            file.write_loglik(begin, rows)
        join.check(manifest, skip_failures, may_be_empty)
        _check_kinds(manifest, join.models, mixed_likelihoods)
        differences = conventions.differences(join.scored, wanted.mean_bytes)
        accepted = join.accepted()
        conventions.refuse([d for d in differences if d.model not in accepted], allowed)
        for sentence in conventions.sentences(differences):
            logger.warning("%s", sentence)
        if threshold is None:
            threshold = lowest.value()
        design = None if chosen is None else chosen.design
        write_coordinates(file, threshold, design)
        noise = [math.nan if row.noise_nats is None else row.noise_nats for row in join.models]
        file.describe(
            model=[row.model for row in join.models],
            domain=[text.domain for text in text_list],
            n_bytes=np.array([text.n_bytes for text in text_list], np.int32),
            noise=np.array(noise, np.float64),
            clip_quantile=geometry.CLIP_QUANTILE,
            clip_threshold=threshold,
            mean_bytes=wanted.mean_bytes,
            texts_sha256=wanted.sha256,
            design=design,
            complete=np.array(join.complete, np.bool_),
            selection="" if chosen is None else chosen.fingerprint,
            vector=vector,
        )
    counts = (len(join.models), len(text_list), mean_bytes, threshold, len(join.failed))
    logger.info(
        "%d models, %d texts of %.1f bytes, clipped at %.2f nats; %d models failed", *counts
    )
    if chosen is not None:
        logger.info(
            "%d of the models were scored on all %d texts of the reference, %d on these alone",
            sum(join.complete),
            chosen.texts,
            len(join.complete) - sum(join.complete),
        )
    return Collection(join.models, [failure for failure, _ in join.failed], differences)


class _Join:
    """Reads score files of N texts one after another, and remembers what is to be said of them."""

    def __init__(self, texts: Texts, vector: str) -> None:
        self.texts = texts
        self.vector = vector
        self.read = 0
        self.models: list[Model] = []
        self.complete: list[bool] = []
        self.scored: list[conventions.Scored] = []
        self.failed: list[tuple[Failure, Path]] = []
        self.other: list[Path] = []
        self.unequal: list[tuple[Path, int, int]] = []

    def blocks(self, entries: Sequence[Entry]) -> Iterator[tuple[int, Floats]]:
        """Log-likelihoods, nats, of the models that did not fail: first row and rows of a block."""
        progress = Progress(len(entries), "scores")
        for begin, end in ranges(len(entries), 8 * self.texts.number):
            rows = [row for entry in entries[begin:end] if (row := self._row(entry)) is not None]
            progress.add(end - begin)
            if rows:
                yield len(self.models) - len(rows), np.stack(rows)
        progress.close()

    def _row(self, entry: Entry) -> Floats | None:
        score = read_score(entry.path, only=_ATTRIBUTES, layer=entry.layer, vector=self.vector)
        if self.vector == PMI and _NOISE in score.attributes:
            found = _noise(entry.path, score)
            score.attributes[_NOISE] = None if found is None else PMI_NOISE * found
        self.read += 1
        _check_identity(entry, score)
        sha256, number = self.texts.expected(entry)
        if score.texts_sha256 != sha256:
            self.other.append(entry.path)
        elif score.status == "failed":
            reason = score.error or "no reason was recorded"
            failed = Failure(entry.model, entry.id, entry.revision, reason)
            self.failed.append((failed, entry.path))
        elif len(score.loglik) != number:
            self.unequal.append((entry.path, len(score.loglik), number))
        else:
            self.texts.check(entry, score)
            # A score that others have computed brings along what is known of its model.
            own = score.attributes.get("card")
            card = read_json(entry.card) if own is None else json.loads(own)
            described = _describe(entry, score, card, self.texts)
            self.models.append(replace(described, pmi=self.vector == PMI))
            self.complete.append(self.texts.selection is None or entry.is_complete)
            noise = self.models[-1].noise_nats
            self.scored.append(conventions.scored(score, noise, card, self.texts.share(entry)))
            return self.texts.row(entry, score)
        return None

    def accepted(self) -> set[str]:
        """Models of a reference, whose conventions were accepted when its own map was made."""
        if self.texts.selection is None:
            return set()
        pairs = zip(self.models, self.complete, strict=True)
        return {model.model for model, complete in pairs if complete}

    def check(self, manifest: Path, skip_failures: bool, may_be_empty: bool) -> None:
        """Refuse what does not belong together, naming every file of other texts."""
        if self.other:
            names = "\n".join(f"  {path}" for path in self.other)
            described = f"{manifest} and its reference describe"
            if self.texts.selection is None:
                described = f"{manifest} describes"
            raise InputError(
                f"{len(self.other)} of {self.read} scores were computed on other texts than "
                f"{described} (sha256 {self.texts.sha256[:12]}):\n{names}\n"
                "scores of different text sets cannot share a map: remove these files and run again"
            )
        for path, count, number in self.unequal:
            raise InputError(
                f"{path}: {count} log-likelihoods for {number} texts; remove it and run again"
            )
        _check_failures(self.failed, bool(self.models) or may_be_empty, skip_failures)


def _with_layers(entries: Sequence[Entry]) -> list[Entry]:
    """Each model, and behind it the hidden states that its score holds, in the order of names."""
    found = list(entries)
    for entry in entries:
        numbers = read_layers(entry.path) if entry.layers else []
        found += [replace(entry, layer=number) for number in numbers]
    rows = sorted(found, key=lambda entry: entry.row)
    for one, other in itertools.pairwise(rows):
        if one.row == other.row:
            raise InputError(
                f"{one.row!r} is the name of a model and of a hidden state of {other.model!r}; "
                "give one of them another name with name: in config.yaml"
            )
    return rows


def _failed(path: Path, texts: int) -> bool:
    """Whether a score has failed; large files have not, so that few of many have to be opened."""
    small = not path.is_file() or path.stat().st_size < 8 * texts + 65_536
    return small and read_status(path) == "failed"


def _check_identity(entry: Entry, score: Score) -> None:
    found = (score.model, score.fingerprint)
    if found != (entry.model, entry.fingerprint):
        raise InputError(
            f"{entry.path}: holds the score of {found[0]!r} with fingerprint {found[1]}, not what "
            "its name says; somebody renamed or copied it: remove it and run again"
        )


def _check_failures(failed: Sequence[tuple[Failure, Path]], kept: bool, skip: bool) -> None:
    if not failed or (skip and kept):
        for failure, _ in failed:
            logger.warning("left out: %s: %s", failure.model, failure.reason)
        return
    lines = "\n".join(f"  {row.model}: {row.reason}\n    ({path})" for row, path in failed)
    if not kept:
        raise PermanentFailure(
            f"every model failed, so there is nothing to draw:\n{lines}\n"
            "fix the models in config.yaml, or remove a file named above to score it again"
        )
    raise PermanentFailure(
        f"{len(failed)} models could not be scored:\n{lines}\n"
        "to draw the map without them, set on_model_failure: skip in config.yaml; to try one "
        "again, fix it and remove the file named with it"
    )


def _check_kinds(manifest: Path, models: Sequence[Model], mixed: bool) -> None:
    """Refuse a map of several kinds of likelihood, or warn of it where it is wanted.

    A configuration shows neither what a reference that was made before holds, nor a release.
    """
    first: dict[str, str] = {}
    for model in models:
        first.setdefault(model.likelihood, model.model)
    if len(first) < 2:
        return
    found = ", ".join(f"{model} by {kind}" for kind, model in sorted(first.items()))
    if mixed:
        logger.warning(
            "likelihoods of %d kinds are joined (%s): distances between models of different kinds "
            "are no KL divergences",
            len(first),
            found,
        )
        return
    raise InputError(
        f"{manifest.parent}: likelihoods of different kinds would be compared ({found}), and their "
        "distances are no KL divergences; score them on text sets of their own (texts: of the "
        "models), keep some off the map (on_map: false), or accept that with "
        "map: {mixed_likelihoods: true}"
    )


def _describe(entry: Entry, score: Score, card: Mapping[str, Any], texts: Texts) -> Model:
    architecture = str(card.get("architecture") or "")
    model_type = str(card.get("model_type") or "")
    mean_loglik = texts.mean(entry, score)
    parameters = card.get("parameters")
    base = () if entry.layer is not None else entry.parents or card.get("base_model") or ()
    variant = [part for part in (entry.variant, _layer_name(entry)) if part]
    return Model(
        model=entry.row,
        id=entry.id,
        revision=entry.revision,
        variant="+".join(variant),
        family=entry.family or model_type or architecture,
        architecture=architecture,
        parameters=None if parameters is None else int(parameters),
        created_at=str(card.get("created_at") or ""),
        base_model=tuple(str(name) for name in base),
        relation=_relation(entry, card),
        seed_group=entry.seed_group,
        size_group=entry.size_group,
        layer=entry.layer,
        n_layers=score.attributes.get("n_layers"),
        license=str(card.get("license") or ""),
        dtype=str(score.attributes.get("dtype", "")),
        prefix=str(score.attributes.get("prefix", "")),
        overlength=str(score.attributes.get("overlength", "")),
        bits_per_byte=geometry.bits_per_byte(mean_loglik, texts.mean_bytes),
        mean_loglik=mean_loglik,
        texts=len(score.loglik),
        # Nobody says of a score that was imported how many tokens it is made of.
        tokens=int(score.n_scored.sum()) or None,
        truncated=int(score.truncated.sum()) if score.n_scored.any() else None,
        noise_nats=_noise(entry.path, score) if entry.layer is None else None,
        commit=score.commit,
        likelihood=str(score.attributes.get("likelihood") or CAUSAL),
    )


def _layer_name(entry: Entry) -> str:
    """What sets a hidden state apart from its model; nothing for the model itself."""
    return "" if entry.layer is None else f"layer{entry.layer}"


def _relation(entry: Entry, card: Mapping[str, Any]) -> str:
    """What was done to the models that one was made from: as configured, else as its card says."""
    if entry.layer is not None:
        return ""
    stated = str(card.get("relation") or "")
    if entry.parents:
        # Named by hand, one is not the merge that a wrong card may speak of.
        stored = "quantized" if card.get("quantization") else "finetune"
        return entry.relation or (stated if stated in ("adapter", "quantized") else stored)
    return stated


def _noise(path: Path, score: Score) -> float | None:
    """The RMS numerical error in nats per text; None if none was recorded, or it is not finite."""
    found = score.attributes.get(_NOISE)
    if found is None or found == "null":
        return None
    try:
        value = float(found)
    except (TypeError, ValueError):
        raise InputError(
            f"{path}: noise_nats is {found!r}, expected a number; remove it and run again"
        ) from None
    return value if math.isfinite(value) else None
