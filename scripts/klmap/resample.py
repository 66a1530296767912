"""What a selection of some of these texts would cost: errors, numbers, maps, places of new models.

The questions are those of Oyama et al., EMNLP 2025 Findings, "Likelihood Variance as Text
Importance for Resampling Texts to Map Language Models"; ``resample_errors`` and ``resample_maps``
say which answers are klmap's own. Nothing is scored for it: all models have all texts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from klmap import layout, resample_errors, resample_maps
from klmap.arrays import Floats, Rows
from klmap.blocks import ranges
from klmap.errors import InputError
from klmap.files import write_tsv
from klmap.layout import Place, Report
from klmap.log import logger
from klmap.models_table import Model
from klmap.resample_draws import Asked, Kind, Reference
from klmap.resample_errors import MEASURES, MOST_FOR_NUMBERS, Cost, Number
from klmap.resample_maps import Landing, Stability
from klmap.resampling import METHODS
from klmap.store import MatrixFile
from klmap.subsets import MOST_MODELS, Coordinates, sampled

_ASKED = re.compile(
    rf"(?P<name>.+)=(?P<method>{'|'.join(METHODS)}),(?P<replacement>with|without),(?P<n>[1-9]\d*)"
)

ITSELF = "set"
"""What stands in the place of a method where all N texts are drawn again."""

ERROR_COLUMNS = (
    "method", "replacement", "selection", "n", "texts", "share", "draws", "models",
    *(name for own in MEASURES for name in (own, f"{own}_sd")), "total", "ratio",
)  # fmt: skip
NUMBER_COLUMNS = (
    "error", "pairs", "method", "replacement", "n", "texts", "share", "found", "draws", "models",
)  # fmt: skip
STABILITY_COLUMNS = (
    "method", "replacement", "n", "texts", "maps", "models", "radius", "median_major",
    "median_minor",
)  # fmt: skip
ELLIPSE_COLUMNS = ("model", "method", "replacement", "radius", "major", "minor", "angle")
PLACE_COLUMNS = (
    "model", "created_at", "method", "replacement", "texts", "x", "y", "x_selection",
    "y_selection", "distance", "replicates", "major", "minor", "angle", "within", "kl_error",
    "kept", "neighbors",
)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """What is asked for.

    Attributes:
        draws: choices of texts of each kind and number.
        maps: of each kind of choice.
        newest: share of the models that are taken out and placed anew.
        error: wanted relative error of a KL.
        share: of the pairs, that are to be within it.
        seed: of every draw.
    """

    draws: int = 100
    maps: int = 20
    newest: float = 0.1
    error: float = 0.05
    share: float = 0.95
    seed: int = 42


@dataclass(frozen=True)
class Resample:
    """Everything that is found.

    Attributes:
        settings: what was asked for.
        of: number of models in the matrix.
        texts: of the reference, N.
        compared: models behind ``costs`` and ``stability``.
        draws: choices of texts behind each of ``costs``.
        costs: errors; the set itself first.
        counted: models behind ``numbers``.
        numbers: of texts, for wanted errors.
        stability: of maps, the set itself last.
        rows: of the models behind ``stability``.
        landings: of new models, by kind.
        shown: rows of the models that were held while new ones were placed, and of the new ones.
        replicates: samples of the texts behind the ellipses of new models.
        dated: whether the new models are the newest, or drawn at random.
    """

    settings: Settings
    of: int
    texts: int
    compared: int
    draws: int
    costs: list[Cost]
    counted: int
    numbers: list[Number]
    stability: list[Stability]
    rows: Rows
    landings: list[Landing]
    shown: Rows
    replicates: int
    dated: bool

    def subject(self, name: str) -> str:
        """Of how many models and texts, as subtitles say it; ``name`` is that of the text set."""
        count = f"{self.compared:,} model{'s' if self.compared != 1 else ''}"
        if self.compared < self.of:
            count += f" of {self.of:,}, drawn at random"
        return f"{count} · {self.texts:,} texts of “{name}”"


def measure(
    matrix: MatrixFile,
    models: Sequence[Model],
    places: Sequence[Place],
    report: Report,
    settings: Settings,
    selections: Sequence[Asked] = (),
) -> Resample:
    """All four views, in one thread, so that their bits are always the same.

    Args:
        matrix: the models on all texts.
        models: rows of models.tsv, in the order of the matrix.
        places: the map, in the order of the matrix.
        report: how the map was made.
        settings: what is asked for.
        selections: that are configured, whose errors are to be known.

    Raises:
        InputError: the matrix is itself one of a selection.
    """
    if matrix.design is not None:
        raise InputError(
            f"{matrix.path}: these texts are a selection already; name its reference text set "
            "in the analysis resample"
        )
    seed, plane = settings.seed, layout.plane_of(places)
    with threadpool_limits(1):
        rows = sampled(len(models), seed, MOST_MODELS)
        some = _reference(matrix, rows)
        few = sampled(len(models), seed, MOST_FOR_NUMBERS)
        fewer = some if len(few) == len(rows) else _reference(matrix, few)
        draws = resample_errors.affordable(len(rows), len(matrix.domain), settings.draws)
        if draws < settings.draws:
            logger.info("%d draws of each kind instead of %d", draws, settings.draws)
        new, dated = resample_maps.newest(models, settings.newest, seed)
        shown = np.union1d(_others(len(models), new, seed), new)
        return Resample(
            settings=settings,
            of=len(models),
            texts=len(matrix.domain),
            compared=len(rows),
            draws=draws,
            costs=(
                resample_errors.costs(some, draws, settings.error, seed, selections) if some else []
            ),
            counted=len(few),
            numbers=(
                resample_errors.numbers(fewer, settings.error, settings.share, settings.draws, seed)
                if fewer
                else []
            ),
            stability=(
                resample_maps.stability(some, plane[rows], report, settings.maps, seed)
                if some
                else []
            ),
            rows=rows,
            landings=_landings(matrix, shown, new, plane, report, settings),
            shown=shown,
            replicates=resample_maps.replicates(len(new), settings.draws),
            dated=dated,
        )


def _reference(matrix: MatrixFile, rows: Rows) -> Reference | None:
    """Some models on all texts; None where they do not differ."""
    points = Coordinates.read(matrix, rows).points
    q = np.ascontiguousarray(points.T, np.float64)
    try:
        return Reference.of(q, matrix.domain, matrix.mean_bytes)
    except ValueError as error:
        logger.warning("nothing to compare: %s", error)
        return None


def _others(models: int, new: Rows, seed: int) -> Rows:
    """The models that stay where they are: all others, or so many of them at random."""
    rest = np.setdiff1d(np.arange(models), new)
    return np.asarray(rest[sampled(len(rest), seed, MOST_MODELS - len(new))], np.intp)


def _landings(
    matrix: MatrixFile, shown: Rows, new: Rows, plane: Floats, report: Report, settings: Settings
) -> list[Landing]:
    if not len(new):
        return []
    loglik = np.empty((len(shown), len(matrix.domain)))
    for begin, end in ranges(len(matrix.model), loglik.itemsize * loglik.shape[1]):
        place = np.flatnonzero((shown >= begin) & (shown < end))
        if place.size:
            loglik[place] = matrix.loglik(begin, end)[shown[place] - begin]
    found = resample_maps.landings(
        loglik, np.searchsorted(shown, new), matrix.clip_quantile, matrix.mean_bytes,
        matrix.domain, plane[shown], report, resample_maps.replicates(len(new), settings.draws),
        settings.seed,
    )  # fmt: skip
    return [replace(own, row=int(shown[own.row])) for own in found]


def asked(items: Sequence[str]) -> list[Asked]:
    """Selections that are named as ``NAME=METHOD,with|without,N``.

    Raises:
        InputError: one is named in another way.
    """
    found = []
    for item in items:
        match = _ASKED.fullmatch(item)
        if match is None:
            raise InputError(
                f"--selections {item}: not NAME=METHOD,with,N or NAME=METHOD,without,N, such as "
                "pile-2k=ls,with,2900"
            )
        kind = Kind(match["method"], match["replacement"] == "with")
        found.append(Asked(match["name"], kind, int(match["n"])))
    return found


def write(folder: Path, found: Resample, models: Sequence[Model]) -> None:
    """Write errors.tsv, numbers.tsv, stability.tsv, ellipses.tsv and places.tsv."""
    write_tsv(folder / "errors.tsv", ERROR_COLUMNS, _error_rows(found))
    write_tsv(folder / "numbers.tsv", NUMBER_COLUMNS, _number_rows(found))
    write_tsv(folder / "stability.tsv", STABILITY_COLUMNS, _stability_rows(found))
    write_tsv(folder / "ellipses.tsv", ELLIPSE_COLUMNS, _ellipse_rows(found, models))
    write_tsv(folder / "places.tsv", PLACE_COLUMNS, _place_rows(found, models))


def _error_rows(found: Resample) -> Iterator[list[object]]:
    for own in found.costs:
        pairs = zip(astuple(own.mean), astuple(own.sd), strict=True)
        yield [
            *_kind(own.kind), own.name, own.n, own.texts, own.texts / found.texts, found.draws,
            found.compared, *(value for pair in pairs for value in pair), own.total,
            _cell(own.ratio),
        ]  # fmt: skip


def _number_rows(found: Resample) -> Iterator[list[object]]:
    draws = min(found.settings.draws, resample_errors.CHECKS)
    for own in found.numbers:
        yield [
            own.error, own.share, *_kind(own.kind), own.n or None, _cell(own.texts),
            _cell(own.texts / found.texts), _cell(own.found), draws, found.counted,
        ]  # fmt: skip


def _stability_rows(found: Resample) -> Iterator[list[object]]:
    for own in found.stability:
        major, minor = (float(np.median(own.ellipses[:, axis])) for axis in (0, 1))
        yield [
            *_kind(own.kind), own.n, own.texts, found.settings.maps, len(own.radius),
            float(own.radius.mean()), major, minor,
        ]  # fmt: skip


def _ellipse_rows(found: Resample, models: Sequence[Model]) -> Iterator[list[object]]:
    for own in found.stability:
        for row, radius, axes in zip(found.rows, own.radius, own.ellipses, strict=True):
            yield [models[row].model, *_kind(own.kind), float(radius), *map(float, axes)]


def _place_rows(found: Resample, models: Sequence[Model]) -> Iterator[list[object]]:
    for own in found.landings:
        model = models[own.row]
        yield [
            model.model, model.created_at, *_kind(own.kind), own.texts, *map(float, own.by_all),
            *map(float, own.by_some), own.distance, found.replicates, *map(float, own.ellipse),
            str(own.within).lower(), _cell(own.error), own.kept, own.neighbors,
        ]  # fmt: skip


def _kind(kind: Kind | None) -> tuple[str, str]:
    if kind is None:
        return ITSELF, "true"
    return kind.method, str(kind.replacement).lower()


def _cell(value: float) -> float | None:
    return None if math.isnan(value) else value
