"""All that the page knows, as one JSON object that is safe between two script tags.

An array is ``{"dtype", "shape", "data"}``, little-endian bytes in base64. K models in the order
of models.tsv, D domains of the texts by falling size, k neighbours; bits per byte unless said.

- ``texts`` and ``selection``: see :mod:`klmap.explorer_texts`.
- ``models``: K names. ``columns``: see :func:`klmap.explorer_columns.columns` and, of benchmark
  scores, :func:`klmap.explorer_columns.scores`.
- ``parents``: [parent, child] rows; ``runs``: rows of each run, or of the layers of a model, in
  order (:mod:`klmap.lineage`).
- ``neighbors``: ``index`` u4, ``kl`` f4, ``se`` f4, ``flags`` u1 (1 beyond, 2 below the noise),
  all [K, k]; ``domains`` u1 [K, k, D], the exact share of each domain in 255ths.
- ``pairs``: see :func:`klmap.explorer_arrays.pairs`; null where kl.h5 has no pairs or the page
  would grow too large.
- ``components``: ``points`` i2 [D, K, r], ``scale`` f4 [D, r], ``residual`` f4 [D, K]; the part
  of a domain in a KL is ``sum_r (scale * (a - b))^2 + residual_i^2 + residual_j^2``. ``exact``
  says that every residual is 0. ``error`` holds ``median``, ``p95`` and ``largest`` error of such
  a part, as a share of the pair's KL, over ``pairs`` seeded pairs that are nobody's neighbours;
  ``kl_error`` the same of the sum over domains, relative to the KL. Null where the page would
  grow too large.
- ``noise``: f4 [K], nats per text, NaN where unknown. ``beyond``: 8.0.
- ``layout``: what layout.json holds, ``x`` and ``y`` f8 [K], ``label``, the method in words.
- ``notes``: sentences on how models were scored where that differs;
- ``ellipses``: ``x``, ``y``, ``major``, ``minor``, ``angle`` f4 [K], or null;
- ``ways``: see :func:`klmap.explorer_ways.read`; left out where there are none.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from klmap import (
    benchmarks,
    bootstrap,
    conventions,
    explorer_arrays,
    explorer_columns,
    explorer_texts,
    explorer_ways,
    layout,
    lineage,
    models_table,
    neighbors,
    prediction_files,
    split,
    store,
)
from klmap.arrays import Floats, Ints
from klmap.errors import InputError
from klmap.explorer_arrays import packed
from klmap.files import read_json
from klmap.geometry import BEYOND
from klmap.log import logger
from klmap.models_table import Model
from klmap.neighbors import Neighbor

PAIR_BYTES = 2_000_000
"""All pairs are in the page as long as they need no more than this, at three bytes each."""

COMPONENT_BYTES = 2_400_000
"""What pairs and coordinates may need together, before base64; or this per model, if more:"""

COMPONENT_BYTES_PER_MODEL = 880

LARGEST_PAGE = 58_000_000
"""Characters that coordinates may make of the page: of many models they have fewer columns,"""

LEAST_RANK = 8
"""and where there is no room for so many, the page leaves them out."""

_SAMPLED_PAIRS = 2000
_FLAGS = {neighbors.BEYOND: 1, neighbors.BELOW_NOISE: 2}
_ESCAPES = {ord("<"): "\\u003c", ord(">"): "\\u003e", ord("&"): "\\u0026"} | {
    code: f"\\u{code:04x}" for code in (0x7F, 0x2028, 0x2029)
}


def payload(
    models_path: Path,
    layout_path: Path,
    report_path: Path,
    neighbors_path: Path,
    kl_path: Path,
    matrix_path: Path,
    manifest_path: Path,
    texts_name: str,
    ellipses_path: Path | None = None,
    benchmark_paths: Sequence[Path] = (),
    predictions_path: Path | None = None,
    conventions_path: Path | None = None,
    reference: str | None = None,
    ways_paths: Sequence[Path] = (),
) -> dict[str, Any]:
    """The object that the module describes, ready for :func:`to_json`.

    Everything runs in one thread, because sums split over threads depend on their number.

    Args:
        models_path: models.tsv.
        layout_path: layout.tsv.
        report_path: layout.json.
        neighbors_path: neighbors.tsv.
        kl_path: kl.h5.
        matrix_path: matrix.h5.
        manifest_path: texts.json.
        texts_name: the text set's name.
        ellipses_path: ellipses.tsv, where there is one.
        benchmark_paths: tables of benchmark scores.
        predictions_path: predictions.tsv, where there is one.
        conventions_path: conventions.tsv, where there is one.
        reference: name of the text set that these texts are a selection of, if they are.
        ways_paths: tables of ways, ``<analysis>/ways.tsv``.

    Raises:
        InputError: a file is missing or broken, or belongs to other models or texts.
    """
    distances = store.read_distances(kl_path)
    models = models_table.read_models(models_path, distances.model)
    places = layout.read_layout(layout_path, models)
    manifest = read_json(manifest_path)
    with threadpool_limits(1), store.open_matrix(matrix_path) as matrix:
        _check(matrix, distances, manifest, (matrix_path, kl_path, manifest_path))
        domains = split.domains_of(matrix.domain)
        near, index = _neighbors(neighbors_path, models, matrix, domains)
        dense = distances.kl is not None and distances.se is not None
        pair_bytes = 3 * len(models) * (len(models) - 1) // 2
        result: dict[str, Any] = {
            "texts": explorer_texts.texts(texts_name, manifest, matrix, domains),
            "selection": explorer_texts.selection(manifest_path, manifest, matrix, reference),
            "models": [model.model for model in models],
            "columns": _columns(models_path, benchmark_paths, predictions_path, models),
            "parents": [list(pair) for pair in lineage.parents(models)],
            "runs": [list(run.rows) for run in lineage.ways(models)],
            "neighbors": near,
            "pairs": None,
            "noise": packed(distances.noise, "f4"),
            "layout": _layout(report_path, places),
            "ellipses": None if ellipses_path is None else _ellipses(ellipses_path, models),
            "beyond": BEYOND,
            "notes": [] if conventions_path is None else _notes(conventions_path),
        }
        if ways := explorer_ways.read(ways_paths, places):
            result["ways"] = ways
        if distances.kl is not None and distances.se is not None and pair_bytes <= PAIR_BYTES:
            result["pairs"] = explorer_arrays.pairs(distances.kl, distances.se)
        used = pair_bytes if result["pairs"] else 0
        room = LARGEST_PAGE - _characters(result)
        known = None if matrix.design is None else distances.kl
        result["components"] = _components(matrix, domains, index, used, room, known)
    logger.info(
        "%d models: %.1f MB of data, %s pairs, %s",
        len(models),
        _characters(result) / 1e6,
        "all" if result["pairs"] else "no" if dense else "no stored",
        _about(result["components"]),
    )
    return result


def _check(
    matrix: store.MatrixFile,
    distances: store.Distances,
    manifest: Mapping[str, Any],
    paths: Sequence[Path],
) -> None:
    """Refuse files of other models or texts than those of the matrix."""
    if list(matrix.model) != list(distances.model):
        raise InputError(
            f"{paths[1]}: its {len(distances.model)} models are not the {len(matrix.model)} of "
            f"{paths[0]}; remove it and run again"
        )
    found = (distances.texts_sha256, str(manifest.get("sha256")))
    for path, sha256 in zip(paths[1:], found, strict=True):
        if sha256 != matrix.texts_sha256:
            raise InputError(
                f"{path}: of the texts {sha256[:12]}, {paths[0]} of {matrix.texts_sha256[:12]}; "
                "remove it and run again"
            )


def _neighbors(
    path: Path, models: Sequence[Model], matrix: store.MatrixFile, domains: split.Domains
) -> tuple[dict[str, Any], Ints]:
    """The neighbours with their domains, and the rows that they stand for."""
    row_of = {model.model: row for row, model in enumerate(models)}
    table: list[list[Neighbor]] = [[] for _ in models]
    for entry in neighbors.read_neighbors(path):
        if entry.model not in row_of or entry.neighbor not in row_of:
            name = entry.model if entry.model not in row_of else entry.neighbor
            raise InputError(f"{path}: {name!r} is not on the map; remove it and run again")
        table[row_of[entry.model]].append(entry)
    count = len(table[0]) if table else 0
    for model, entries in zip(models, table, strict=True):
        entries.sort(key=lambda entry: entry.rank)
        if len(entries) != count:
            raise InputError(
                f"{path}: {len(entries)} neighbours of {model.model!r} where {models[0].model!r} "
                f"has {count}; remove it and run again"
            )
    shape = (len(models), count)
    flat = [entry for entries in table for entry in entries]
    index = np.array([row_of[entry.neighbor] for entry in flat], np.int32).reshape(shape)
    parts = split.parts(matrix, np.repeat(np.arange(len(models)), count), index.ravel(), domains)
    total = parts.sum(axis=1, keepdims=True)
    share = np.divide(parts, total, out=np.zeros_like(parts), where=total > 0)
    flags = [sum(_FLAGS.get(flag, 0) for flag in entry.flags) for entry in flat]
    packed_neighbors = {
        "index": packed(index, "u4"),
        "kl": packed(np.array([entry.kl for entry in flat]).reshape(shape), "f4"),
        "se": packed(np.array([entry.se for entry in flat]).reshape(shape), "f4"),
        "flags": packed(np.array(flags, np.uint8).reshape(shape), "u1"),
        "domains": packed(np.round(255 * share).reshape(*shape, len(domains.names)), "u1"),
    }
    return packed_neighbors, index


def _components(
    matrix: store.MatrixFile,
    domains: split.Domains,
    index: Ints,
    used: int,
    room: int,
    known: Floats | None,
) -> dict[str, Any] | None:
    """The domains' coordinates, of as many columns as the page has room for, and their error.

    On a selection the error of a KL is measured against ``known``, where pairs with all texts have
    theirs, if all pairs are there.
    """
    models, count = len(matrix.model), len(domains.names)
    budget = max(COMPONENT_BYTES - used, COMPONENT_BYTES_PER_MODEL * models)
    fullest = max((min(models - 1, size) for size in domains.sizes), default=0)
    column = 2 * count * models
    affordable = (3 * room // 4 - 4 * count * models) // column
    rank = min(fullest, max(1, budget // column), affordable)
    if rank < min(fullest, LEAST_RANK):
        return None
    points, scale, residual = explorer_arrays.components(matrix, domains, rank)
    first, second = _sampled(models, index)
    exact = split.parts(matrix, first, second, domains)
    estimated = explorer_arrays.estimate(points, scale, residual, first, second)
    wrong = estimated - exact
    kl = exact.sum(axis=1, keepdims=True)
    far = kl[:, 0] > 0
    parts = np.abs(wrong[far] / kl[far])
    sums = np.abs(wrong[far].sum(axis=1, keepdims=True) / kl[far])
    if known is not None:
        better = known[first, second][far, None]
        sums = np.abs(estimated[far].sum(axis=1, keepdims=True) - better) / better
    return {
        "points": packed(points, "i2"),
        "scale": packed(scale, "f4"),
        "residual": packed(residual, "f4"),
        # On a selection some pairs have a KL that is known better than from its texts.
        "exact": matrix.design is None and not residual.any(),
        "error": {**explorer_arrays.spread(parts), "pairs": int(far.sum())},
        "kl_error": {**explorer_arrays.spread(sums), "pairs": int(far.sum())},
    }


def _sampled(models: int, index: Ints) -> tuple[Ints, Ints]:
    """Pairs of models of which none is a neighbour of the other, if there are any."""
    if models < 2:
        return np.zeros(0, np.int32), np.zeros(0, np.int32)
    rng = np.random.default_rng(0)
    first = rng.integers(0, models, 4 * _SAMPLED_PAIRS)
    second = (first + rng.integers(1, models, len(first))) % models
    near = (index[first] == second[:, None]).any(axis=1)
    near |= (index[second] == first[:, None]).any(axis=1)
    chosen = np.flatnonzero(~near)[:_SAMPLED_PAIRS]
    if not chosen.size:
        chosen = np.arange(min(len(first), _SAMPLED_PAIRS))
    return first[chosen].astype(np.int32), second[chosen].astype(np.int32)


def _layout(path: Path, places: Sequence[layout.Place]) -> dict[str, Any]:
    method = places[0].method if places else "pca"
    known = {key: value for key, value in read_json(path).items() if key != "vectors"}
    return {
        **known,
        "x": packed(np.array([place.x for place in places]), "f8"),
        "y": packed(np.array([place.y for place in places]), "f8"),
        "label": layout.METHODS.get(method, method),
    }


def _columns(
    path: Path, tables: Sequence[Path], predictions: Path | None, models: Sequence[Model]
) -> list[dict[str, Any]]:
    """Those of models.tsv, then benchmark scores and what is predicted of them."""
    own = explorer_columns.columns(path)
    taken = [column["name"] for column in own]
    names = [model.model for model in models]
    found = [] if predictions is None else prediction_files.read_predictions(predictions, names)
    measured = benchmarks.read_benchmarks(tables, models)
    return [*own, *explorer_columns.scores(measured, found, names, taken)]


def _notes(path: Path) -> list[str]:
    return conventions.sentences(conventions.read_differences(path))


def _ellipses(path: Path, models: Sequence[Model]) -> dict[str, Any]:
    found = bootstrap.read_ellipses(path, models)
    return {
        name: packed(np.array([getattr(ellipse, name) for ellipse in found]), "f4")
        for name in ("x", "y", "major", "minor", "angle")
    }


def _about(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "domains of the neighbours alone, because the page would grow too large"
    if found["exact"]:
        return "domains of every pair exactly"
    error, kl_error = found["error"], found["kl_error"]
    return (
        f"domains of every pair to {100 * error['median']:.2g} % of its KL in the median, "
        f"{100 * error['p95']:.2g} % in 95 of 100 (their sum to {100 * kl_error['median']:.2g} "
        f"and {100 * kl_error['p95']:.2g} %)"
    )


def _characters(value: Any) -> int:
    """About how long the JSON of a value is."""
    if isinstance(value, str):
        return len(value) + 3
    if isinstance(value, Mapping):
        return sum(len(key) + 4 + _characters(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return sum(_characters(item) for item in value) + 2
    return 8


def to_json(data: Mapping[str, Any]) -> str:
    r"""The payload as JSON that can stand between ``<script>`` tags, whatever strings it holds.

    ``<``, ``>``, ``&`` and the line separators of JavaScript are written as ``\u`` escapes, so
    that no end tag, comment or entity can come about. Numbers that are not finite become null.
    """
    text = json.dumps(_finite(data), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.translate(_ESCAPES)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
