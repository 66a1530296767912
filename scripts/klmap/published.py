"""Import of a release: log-likelihoods that others have computed become ordinary score files.

The release of Oyama et al. 2025 is read as its authors have published it, and plain matrices of
any lab. A vector becomes a score file like those that klmap computes, under a fingerprint of its
values and the convention in which they were computed. What is there already is never written again.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from klmap import geometry, index, webfile
from klmap.arrays import Floats
from klmap.config import fingerprint
from klmap.config_models import ModelEntry
from klmap.config_published import Published, PublishedFile
from klmap.errors import InputError
from klmap.files import flush, read_json, sha256_of, write_json, write_tsv
from klmap.log import Progress, logger
from klmap.metadata import Described, read_metadata, tasks
from klmap.store_score import Score, read_score, write_score
from klmap.texts import read_texts
from klmap.vectors import Vectors, read_vectors

IMPORT_VERSION = 1
"""Raised by hand when the same vector is to become another score."""

CLIP_TOLERANCE = 1e-6
"""Nats by which a published clipped value may differ from what clipping gives."""

MEAN_TOLERANCE = 0.01
"""Nats per text by which a mean of the metadata may differ from that of the vector."""

LENGTH_CORRELATION = 0.1
"""Rank correlation of a text's length with what it costs the models below which the vectors are
perhaps in another order than the texts (klmap's own): longer texts cost more."""

_SHOWN = 5


@dataclass(frozen=True)
class Places:
    """Where an import reads and writes.

    Attributes:
        texts: texts.jsonl of the text set.
        manifest: texts.json of the same texts.
        scores: folder of the score files.
        downloads: folder in which files of the web are kept.
        index: index.tsv to write, last of all.
        benchmarks: benchmarks.tsv to write.
        report: report.json to write.
    """

    texts: Path
    manifest: Path
    scores: Path
    downloads: Path
    index: Path
    benchmarks: Path
    report: Path


@dataclass(frozen=True)
class _File:
    """A file of the release, here and checked."""

    path: Path
    sha256: str
    url: str | None

    def entry(self) -> dict[str, Any]:
        known = {"sha256": self.sha256, "bytes": self.path.stat().st_size}
        return known if self.url is None else {**known, "url": webfile.shown(self.url)}


def import_release(
    name: str, recipe: Published, texts_recipe: Mapping[str, Any], places: Places
) -> None:
    """Write a score file for each model of a release, then its tables and report, then its index.

    Args:
        name: of the release in config.yaml.
        recipe: its entry there.
        texts_recipe: what decides the texts (``TextSet.recipe``); part of the fingerprints.
        places: files and folders.

    Raises:
        InputError: a file is missing, broken, or another one than its hash says; vectors, names or
            texts do not fit together.
        KlmapError: a server or the network failed; another time may do better.
        OSError: the disk is full.
    """
    text_list = read_texts(places.texts, places.manifest)
    texts = len(text_list)
    texts_sha256 = str(read_json(places.manifest)["sha256"])
    files = {
        key: _file(key, file, places.downloads)
        for key in ("loglik", "clipped", "metadata", "names")
        if (file := getattr(recipe, key)) is not None
    }
    vectors = _vectors("loglik", recipe, files, texts)
    _check_texts(files["loglik"].path, vectors, places.manifest, texts_sha256)
    if recipe.models is not None and len(vectors.names) != recipe.models:
        raise InputError(
            f"{files['loglik'].path}: holds {len(vectors.names):,} models, but config.yaml says "
            f"models: {recipe.models} for {name}; correct one of them"
        )
    order = _length_correlation(vectors, [text.n_bytes for text in text_list])
    threshold = geometry.clip_threshold(vectors.loglik)
    if "clipped" in files:
        clipped = _vectors("clipped", recipe, files, texts)
        threshold = _checked_clip(files["clipped"].path, vectors, clipped)
        del clipped
    described = read_metadata(files["metadata"].path) if "metadata" in files else {}
    joined = _join(files["metadata"].path, vectors, described) if described else {}
    release = _Release(name, recipe, texts_recipe, texts_sha256)
    entries = release.write_scores(places.scores, vectors, joined)
    write_benchmarks(places.benchmarks, list(joined.values()))
    report = {
        "name": name,
        "files": {key: file.entry() for key, file in files.items()},
        "models": len(vectors.names),
        "texts": texts,
        "texts_sha256": texts_sha256,
        "minimum": float(vectors.loglik.min()),
        "maximum": float(vectors.loglik.max()),
        "clip_threshold": threshold,
        "length_correlation": order,
        "without_metadata": sorted(set(vectors.names) - set(joined)) if described else [],
        "without_vectors": sorted(set(described) - set(joined)),
        "mean_logp_differs": _differing_means(vectors, joined, threshold),
        "convention": release.convention,
    }
    write_json(places.report, report)
    write_tsv(places.index, index.COLUMNS, entries)
    logger.info("%s: %d models, clip threshold %.4f nats", name, len(entries), threshold)


def _file(key: str, file: PublishedFile, downloads: Path) -> _File:
    """A file of the release on this machine, fetched if it is not there, with its hash checked."""
    if file.url is not None:
        return _fetched(key, file.url, file, downloads)
    path = Path(file.path or "")
    if not path.is_file():
        raise InputError(f"{path}: no such file; config.yaml names it as {key}:")
    found = sha256_of(path)
    if file.sha256 is not None and found != file.sha256:
        raise InputError(
            f"{path}: its sha256 is {found}, config.yaml says {file.sha256}. If the file was "
            "changed on purpose, check it and write the new hash; else fetch it again"
        )
    return _File(path, found, None)


def _fetched(key: str, url: str, file: PublishedFile, downloads: Path) -> _File:
    """A file of the web, which stays where it was put as long as its hash is the right one.

    Where config.yaml names no hash, the address holds a commit; what came from it is noted beside
    the file.
    """
    target = downloads / f"{key}.{file.ending or 'bin'}"
    note = target.with_name(f"{target.name}.json")
    expected = file.sha256
    if expected is None and note.is_file() and (known := read_json(note)).get("url") == url:
        expected = str(known["sha256"])
    if expected is not None and target.is_file() and sha256_of(target) == expected:
        logger.info("%s is here already", webfile.shown(url))
        return _File(target, expected, url)
    downloads.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    found = webfile.download(url, file.sha256, part)
    flush(part)
    part.replace(target)
    write_json(note, {"url": url, "sha256": found})
    return _File(target, found, url)


def _vectors(key: str, recipe: Published, files: Mapping[str, _File], texts: int) -> Vectors:
    names = files["names"].path if "names" in files else None
    return read_vectors(files[key].path, names, recipe.dataset, recipe.names_dataset, texts)


def _check_texts(path: Path, vectors: Vectors, manifest: Path, sha256: str) -> None:
    if vectors.texts_sha256 is not None and vectors.texts_sha256 != sha256:
        raise InputError(
            f"{path}: computed on texts with the sha256 {vectors.texts_sha256}, but those that "
            f"{manifest} describes have {sha256}; vectors on different texts cannot share a map"
        )


def _checked_clip(path: Path, raw: Vectors, clipped: Vectors) -> float:
    """The clip threshold of a release, nats: the least value after clipping.

    Raises:
        InputError: the models are others, or a value is not what clipping makes of the raw one.
    """
    rows = {name: row for row, name in enumerate(clipped.names)}
    missing = sorted(set(raw.names) ^ set(clipped.names))
    if missing:
        raise InputError(
            f"{path}: not the models of the raw log-likelihoods; {len(missing)} are in one of the "
            f"files alone: {', '.join(missing[:_SHOWN])}"
        )
    threshold = float(clipped.loglik.min())
    for name, row in zip(raw.names, raw.loglik, strict=True):
        expected = np.maximum(row, threshold)
        wrong = np.flatnonzero(np.abs(clipped.loglik[rows[name]] - expected) > CLIP_TOLERANCE)
        if len(wrong):
            at = wrong[0]
            raise InputError(
                f"{path}: {name}, text {at}: {clipped.loglik[rows[name], at]:.6f} nats, but the "
                f"raw value clipped at {threshold:.6f} is {expected[at]:.6f} ({len(wrong):,} "
                "values of this model differ); the two files do not belong together"
            )
    return threshold


def _length_correlation(vectors: Vectors, n_bytes: Sequence[int]) -> float | None:
    """Rank correlation of the texts' lengths with what they cost the median model.

    Returns:
        None where all texts are of one length.
    """
    cost = -np.median(vectors.loglik, axis=0)
    if np.ptp(n_bytes) == 0 or np.ptp(cost) == 0:
        return None
    found = float(spearmanr(n_bytes, cost).statistic)
    if found < LENGTH_CORRELATION:
        logger.warning(
            "longer texts do not cost the models more (rank correlation %.2f): are the vectors in "
            "the order of the texts?",
            found,
        )
    return found


def _join(path: Path, vectors: Vectors, described: Mapping[str, Described]) -> dict[str, Described]:
    """What is known of each model that has a vector; names that only one side has are told."""
    names = set(vectors.names)
    joined = {name: described[name] for name in vectors.names if name in described}
    if not joined:
        first = (", ".join(list(found)[:_SHOWN]) for found in (described, vectors.names))
        raise InputError(
            f"{path}: none of its {len(described)} models has a vector; it begins with "
            f"{next(first)}, the vectors with {next(first)}"
        )
    for what, alone, others in (
        ("models have a vector and no metadata", names - set(joined), set(described) - names),
        ("models have metadata and no vector", set(described) - names, names - set(joined)),
    ):
        if alone:
            logger.warning("%s: %d %s: %s", path, len(alone), what, _nearest(alone, others, names))
    return joined


def _nearest(alone: set[str], others: set[str], all_names: set[str]) -> str:
    """Up to five names, each with the most similar one of the other side."""
    told = []
    for name in sorted(alone)[:_SHOWN]:
        near = difflib.get_close_matches(name, sorted(others or all_names), 1, 0.6)
        told.append(f"{name} (like {near[0]}?)" if near and near[0] != name else name)
    return ", ".join(told) + (f" and {len(alone) - _SHOWN} more" if len(alone) > _SHOWN else "")


def _differing_means(vectors: Vectors, described: Mapping[str, Described], threshold: float) -> int:
    """How many models have a mean in the metadata that is neither the raw nor the clipped one."""
    count = 0
    for name, row in zip(vectors.names, vectors.loglik, strict=True):
        stated = described[name].mean_logp if name in described else None
        if stated is not None:
            means = (row.mean(), np.maximum(row, threshold).mean())
            count += all(abs(stated - float(mean)) > MEAN_TOLERANCE for mean in means)
    if count:
        logger.warning("%d models have another mean in the metadata than in their vector", count)
    return count


def write_benchmarks(path: Path, described: Sequence[Described]) -> None:
    """Write the table of benchmark scores: ``model`` and a column for each task, empty if unknown.

    Args:
        path: the table.
        described: the models; without any score the table has its first column and no rows.
    """
    names = tasks(described)
    rows = sorted(
        [
            ModelEntry(id=row.name).slug,
            *("" if (value := row.scores.get(task)) is None else repr(value) for task in names),
        ]
        for row in described
    )
    write_tsv(path, ["model", *names], rows if names else [])


class _Release:
    """Makes score files of vectors."""

    def __init__(
        self, name: str, recipe: Published, texts_recipe: Mapping[str, Any], texts_sha256: str
    ) -> None:
        self.name = name
        self.texts_recipe = dict(texts_recipe)
        self.texts_sha256 = texts_sha256
        self.convention = {
            "dtype": recipe.dtype,
            "prefix": recipe.prefix,
            "overlength": recipe.overlength,
        }

    def write_scores(
        self, folder: Path, vectors: Vectors, described: Mapping[str, Described]
    ) -> list[tuple[str, ...]]:
        """Write what is not there already; returns the rows of the index, sorted by model."""
        progress = Progress(len(vectors.names), "vectors")
        rests = _rests(folder)
        entries: list[tuple[str, ...]] = []
        written = 0
        for name, slug, row in sorted(
            zip(vectors.names, vectors.slugs, vectors.loglik, strict=True), key=lambda v: v[1]
        ):
            known = described.get(name, Described(name))
            score = self._score(name, slug, row, known)
            path = folder / f"{slug}.{score.fingerprint}.h5"
            for rest in rests.get(path.name, ()):
                rest.unlink(missing_ok=True)
            if not _is_there(path, score):
                write_score(path, score)
                written += 1
            revision = ModelEntry(id=name).effective_revision or ""
            entries.append((slug, "", score.fingerprint, name, revision, known.model_type, ""))
            progress.add(1)
        progress.close()
        logger.info("%d score files written, %d were there", written, len(entries) - written)
        return entries

    def _score(self, name: str, slug: str, row: Floats, known: Described) -> Score:
        spec = {
            "published": self.name,
            "id": name,
            "loglik_sha256": hashlib.sha256(row.astype("<f8").tobytes()).hexdigest(),
            **self.convention,
            "texts": self.texts_recipe,
            "import_version": IMPORT_VERSION,
        }
        return Score(
            model=slug,
            commit="",
            texts_sha256=self.texts_sha256,
            fingerprint=fingerprint(spec),
            spec=spec,
            loglik=row,
            n_tokens=np.zeros(len(row), np.int32),
            n_scored=np.zeros(len(row), np.int32),
            truncated=np.zeros(len(row), np.bool_),
            attributes={
                **self.convention,
                "imported": self.name,
                "card": known.card(),
                "software": {},
                "seconds": 0.0,
            },
        )


def _is_there(path: Path, score: Score) -> bool:
    """Whether a file holds this score with all that is known of the model."""
    if not path.is_file():
        return False
    try:
        found = read_score(path)
    except InputError as error:
        logger.warning("%s; written again", error)
        return False
    return (
        (found.model, found.fingerprint, found.texts_sha256)
        == (score.model, score.fingerprint, score.texts_sha256)
        and np.array_equal(found.loglik, score.loglik)
        and found.attributes.get("card") == json.dumps(score.attributes["card"], sort_keys=True)
    )


def _rests(folder: Path) -> dict[str, list[Path]]:
    """Temporary files that killed jobs have left, by the file that they were to become."""
    rests: dict[str, list[Path]] = {}
    for path in folder.glob(".*.h5.*.tmp"):
        rests.setdefault(f"{path.name[1:].partition('.h5.')[0]}.h5", []).append(path)
    return rests
