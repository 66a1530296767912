"""A selection of texts: drawn once from the models of a reference, kept as a text set of its own.

What is drawn, and how, is in :mod:`klmap.resampling` (Oyama et al., EMNLP 2025 Findings, section 3,
and klmap's own). Once drawn, a selection stays: models that join the reference later change it no
more than models that are scored on it.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from klmap import components, pair_errors, resampling, split
from klmap.arrays import Floats, Floats32, Rows
from klmap.blocks import ranges
from klmap.config_texts import SelectionTexts
from klmap.errors import InputError
from klmap.files import atomic, read_json, sha256_of, write_json
from klmap.log import Progress, logger
from klmap.pair_sums import Pairs
from klmap.pairs import Form
from klmap.store import MatrixFile, open_matrix
from klmap.store_selection import Selection, read_selection, write_selection
from klmap.subsets import Coordinates, sampled
from klmap.texts import read_texts


@dataclass(frozen=True)
class Reference:
    """The files of the text set that is selected from.

    Attributes:
        matrix: matrix.h5, all its models.
        texts: texts.jsonl.
        manifest: texts.json.
    """

    matrix: Path
    texts: Path
    manifest: Path


@dataclass(frozen=True)
class Made:
    """The files of a selection.

    Attributes:
        texts: texts.jsonl to write.
        manifest: texts.json to write, last, because it vouches for the others.
        selection: selection.h5 to write.
    """

    texts: Path
    manifest: Path
    selection: Path


def build(
    recipe: SelectionTexts, name: str, reference: Reference, made: Made, path: Path | None = None
) -> None:
    """Make the text set that a selection is.

    Args:
        recipe: what to choose by, from config.yaml; ``of`` is ``reference``.
        name: of the text set, for messages.
        reference: what is selected from.
        made: the files to write.
        path: a selection that was drawn before; nothing is drawn then. By default the recipe's.

    Raises:
        InputError: a file is missing or broken, the matrix is of other texts or a selection itself,
            the selection at ``path`` is one of another reference, or the recipe asks for more
            than the reference has.
    """
    texts = read_texts(reference.texts, reference.manifest)
    manifest = read_json(reference.manifest)
    path = Path(recipe.path) if path is None and recipe.path is not None else path
    if path is None:
        with open_matrix(reference.matrix) as matrix:
            _check_matrix(matrix, reference, str(manifest["sha256"]))
            chosen = _draw(recipe, name, matrix)
    else:
        chosen = read_selection(path)
        _check_selection(path, chosen, reference, str(manifest["sha256"]), len(texts))
        logger.info("%s: the selection %s of %s is used", name, chosen.fingerprint, path)
    records = _records(reference.texts, chosen)
    _write_texts(made.texts, records)
    write_selection(made.selection, chosen)
    sizes = [record["n_bytes"] for record in records]
    form = Form.of(manifest)
    content: dict[str, Any] = {
        "n": len(records),
        "sha256": sha256_of(made.texts),
        "mean_bytes": sum(sizes) / len(sizes),
        "recipe": recipe.recipe(),
        "domains": dict(sorted(Counter(record["domain"] for record in records).items())),
        "candidates": len(texts),
        "selection": {
            "fingerprint": chosen.fingerprint,
            "method": chosen.method,
            "replacement": chosen.replacement,
            "n": chosen.n,
            "seed": chosen.seed,
            "error": recipe.error,
            "share": None if recipe.error is None else _share(recipe),
            "reference": {
                "fingerprint": chosen.reference,
                "texts_sha256": chosen.texts_sha256,
                "n": chosen.texts,
                "mean_bytes": chosen.mean_bytes,
                "models": chosen.models,
            },
        },
        **({} if form is None else form.manifest(record["messages"] for record in records)),
    }
    write_json(made.manifest, content)
    logger.info(
        "%s: %d of %d texts (%.1f %%), %d of %d domains; the selection is %s",
        *(name, len(records), len(texts), 100 * len(records) / len(texts)),
        *(len(content["domains"]), len({text.domain for text in texts}), chosen.fingerprint),
    )


def _check_matrix(matrix: MatrixFile, reference: Reference, sha256: str) -> None:
    if matrix.design is not None:
        raise InputError(
            f"{matrix.path}: its texts are a selection themselves; of: must name a text set "
            "whose models are scored on all of its texts"
        )
    if matrix.texts_sha256 != sha256:
        raise InputError(
            f"{matrix.path}: made of texts with sha256 {matrix.texts_sha256[:12]}, but "
            f"{reference.manifest} says {sha256[:12]}; make the matrix anew"
        )
    if len(matrix.model) < 2:
        raise InputError(
            f"{matrix.path}: 1 model; what makes a text important is that models differ on it: "
            "score at least 2 models on all texts"
        )


def _check_selection(
    path: Path, chosen: Selection, reference: Reference, sha256: str, texts: int
) -> None:
    found, expected = (chosen.texts_sha256[:12], chosen.texts), (sha256[:12], texts)
    if found != expected:
        raise InputError(
            f"{path}: selection of another reference: drawn from {found[1]} texts with sha256 "
            f"{found[0]}, but {reference.manifest} has {expected[1]} texts with sha256 "
            f"{expected[0]}; name at of: the text set that it was drawn from, or leave out path:"
        )


def _draw(recipe: SelectionTexts, name: str, matrix: MatrixFile) -> Selection:
    """Draw from a reference."""
    seen = _Seen(matrix)
    rows = sampled(len(matrix.model), recipe.seed)
    points = Coordinates.read(matrix, rows).points.T
    order = resampling.spread(
        split.domains_of(matrix.domain).code, _first_axis(points, matrix.mean_bytes)
    )
    try:
        probability = resampling.probabilities(seen.moments, recipe.method)
        pairs = Pairs(points)
        if recipe.n is not None:
            n = recipe.n
        elif recipe.error is not None:
            n = pair_errors.texts_for(
                pairs, probability, recipe.replacement, recipe.error, _share(recipe)
            )
        else:
            raise ValueError("neither n: nor error: says how many texts are wanted")
        drawn = resampling.draw(probability, n, recipe.replacement, order, recipe.seed)
        if len(drawn.index) < 2:
            raise ValueError(f"{n} draws have found 1 text; a map needs at least 2: raise n")
        differ = bool((pairs.squares > 0).any())
        error = (
            pair_errors.pair_error(pairs, probability, n, recipe.replacement)
            if differ
            else np.zeros(0)
        )
    except ValueError as problem:
        raise InputError(f"texts.{name}: {problem}") from None
    _report(recipe, name, n, error, len(rows))
    return Selection(
        index=drawn.index.astype(np.int32),
        weight=drawn.design.weight,
        variance=drawn.design.variance,
        balance=drawn.design.balance,
        probability=drawn.probability,
        count=drawn.count.astype(np.int32),
        expected=seen.mean[drawn.index],
        expected_mean=float(seen.mean.mean()),
        method=recipe.method,
        replacement=recipe.replacement,
        n=n,
        seed=recipe.seed,
        texts=len(matrix.domain),
        mean_bytes=matrix.mean_bytes,
        texts_sha256=matrix.texts_sha256,
        reference=seen.fingerprint,
        models=len(matrix.model),
        clip_threshold=matrix.clip_threshold,
    )


def _report(recipe: SelectionTexts, name: str, n: int, error: Floats, models: int) -> None:
    """Say what was drawn, and how exact KLs of it are expected to be."""
    how = "draws with replacement" if recipe.replacement else "texts without replacement"
    why = ""
    if recipe.error is not None:
        why = (
            f", so that an error within {100 * recipe.error:g} % is expected for "
            f"{100 * _share(recipe):g} % of the pairs"
        )
    logger.info("%s: %d %s (%s)%s", name, n, how, recipe.method, why)
    if not error.size:
        return
    logger.info(
        "%s: relative standard error of a KL by the choice of the texts, klmap's own estimate from "
        "%d models: %.2g %% for the median pair, up to %.2g %% for 95 %% of the pairs",
        *(name, models, 100 * np.median(error), 100 * np.quantile(error, 0.95)),
    )


def _share(recipe: SelectionTexts) -> float:
    """For how many pairs an error is to hold, which the recipe knows the default of."""
    return float(recipe.recipe()["share"])


class _Seen:
    """What two passes over a matrix tell.

    Attributes:
        moments: of Q.
        mean: (N,) mean raw log-likelihood of all models, nats per text.
        fingerprint: 12 hexadecimal digits over names, log-likelihoods, texts and clip threshold.
    """

    def __init__(self, matrix: MatrixFile) -> None:
        models, texts = len(matrix.model), len(matrix.domain)
        progress = Progress(2 * models, "rows read")

        def parts() -> Iterator[tuple[int, int]]:
            for begin, end in ranges(models, 8 * texts):
                yield begin, end
                progress.add(end - begin)

        identity = [matrix.model, matrix.texts_sha256, matrix.clip_threshold.hex()]
        digest = hashlib.sha256(json.dumps(identity).encode())
        total = np.zeros(texts)
        for begin, end in parts():
            values = matrix.loglik(begin, end)
            total += values.sum(axis=0)
            digest.update(values.astype("<f8").tobytes())
        self.mean: Floats = total / models
        self.fingerprint = digest.hexdigest()[:12]
        self.moments = resampling.moments((matrix.coordinates(*part) for part in parts()), texts)
        progress.close()


def _first_axis(points: Floats32, mean_bytes: float) -> Floats:
    """(N,) places of the texts along the first principal axis of some models, (K, N)."""
    models, texts = points.shape
    found = components.principal(
        lambda begin, end: points[begin:end], models, texts, mean_bytes, rank=1
    )
    return np.asarray(found.points[:, 0].astype(np.float64) @ points, np.float64)


_KEPT = ("text", "domain", "n_bytes", "origin", "prompt", "messages", "prompts")
"""What a chosen text takes along."""


def _records(texts: Path, chosen: Selection) -> list[dict[str, Any]]:
    """The chosen texts as they stand in the reference, each with its place there."""
    lines = texts.read_bytes().splitlines()
    places: Rows = chosen.index.astype(np.intp)
    result = []
    for index, place in enumerate(places.tolist()):
        known = json.loads(lines[place])
        kept = {key: known[key] for key in _KEPT if key in known}
        result.append({"index": index, **kept, "reference_index": place})
    return result


def _write_texts(path: Path, records: list[dict[str, Any]]) -> None:
    with atomic(path) as output, output.open("w", encoding="utf-8", newline="\n") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
