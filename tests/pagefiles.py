"""The files that a page is made of, for as many synthetic models as one likes, in a moment.

`write_map(folder, count)` writes what the workflow would: models.tsv, matrix.h5, kl.h5,
neighbors.tsv, layout.tsv, layout.json, texts.json and ellipses.tsv; `write_selection` the same of a
selection of its texts.
"""

from __future__ import annotations

import csv
import hashlib
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.neighbors import NearestNeighbors

from klmap import (
    conventions,
    explorer_data,
    explorer_ways,
    files,
    geometry,
    layout,
    neighbors,
    prediction_files,
    store,
)
from klmap.alignment import Movement
from klmap.arrays import Floats
from klmap.conventions import Difference
from klmap.models_table import Model
from klmap.prediction_files import Predicted, Prediction
from klmap.quality import Quality
from tests import mapfiles

DENSE_LIMIT = 2000
FAMILIES = (
    "llama-1", "llama-2", "llama-3", "mistral", "gpt_neox", "gptj", "gemma", "opt", "bloom",
    "falcon", "deepseek", "qwen2", "phi", "mpt", "rwkv", "stablelm", "olmo", "xglm", "codegen",
    "starcoder2",
)  # fmt: skip
DOMAINS = (
    "Pile-CC", "PubMed Central", "ArXiv", "GitHub", "FreeLaw", "StackExchange", "USPTO",
    "PubMed Abstracts", "OpenWebText2", "Wikipedia", "Gutenberg", "OpenSubtitles", "DM Math",
    "EuroParl", "HackerNews", "Enron Emails", "PhilPapers", "NIH ExPorter", "YouTube", "BookCorpus",
    "Ubuntu IRC", "Books3",
)  # fmt: skip
HOSTILE = (
    '</script><script>document.title="owned"</script>',
    '"><img src=x onerror=alert(1)>',
    "<!--<script>",
    "]]>&lt;b&gt;&amp;",
    "a\u2028b\u2029c",
    "'; alert(1); //",
    "{{7*7}}${7*7}<%= 7*7 %>",
    "javascript:alert(1)",
    "__proto__",
    "\u202egnp.elif",
)
"""Names that would run as code in a page that takes data for markup."""

TASKS = ("ARC", "MMLU", "6-TaskMean")

BYTES = 972.0


@dataclass
class MapFiles:
    """What :func:`write_map` has written."""

    folder: Path
    models: list[Model]
    loglik: Floats
    domain: list[str]
    threshold: float
    texts_name: str = "demo"

    def path(self, name: str) -> Path:
        return self.folder / name

    @property
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of ``explorer_data.payload``."""
        return {
            "models_path": self.path("models.tsv"),
            "layout_path": self.path("layout.tsv"),
            "report_path": self.path("layout.json"),
            "neighbors_path": self.path("neighbors.tsv"),
            "kl_path": self.path("kl.h5"),
            "matrix_path": self.path("matrix.h5"),
            "manifest_path": self.path("texts.json"),
            "texts_name": self.texts_name,
        }

    def payload(self, **changes: Any) -> dict[str, Any]:
        return explorer_data.payload(**{**self.arguments, **changes})


def write_map(
    folder: Path,
    count: int,
    n_texts: int = 200,
    n_domains: int = 3,
    seed: int = 0,
    hostile: bool = False,
    k: int = 10,
) -> MapFiles:
    """Write every file of a page.

    Args:
        folder: where to.
        count: models. Some are checkpoints of one run, some are made from others.
        n_texts: texts.
        n_domains: at most 22; the first is the largest.
        seed: of everything.
        hostile: names, families, licences and domains that try to run as code.
        k: neighbours.
    """
    rng = np.random.default_rng(seed)
    family = np.sort(rng.zipf(1.5, count) % len(FAMILIES)) if count > 3 else np.arange(count)
    models = _models(rng, family, hostile)
    share = 1 / np.arange(1.0, n_domains + 1)
    domain_of = np.sort(rng.choice(n_domains, n_texts, p=share / share.sum()))
    names = [HOSTILE[d] if hostile and d < len(HOSTILE) else DOMAINS[d] for d in range(n_domains)]
    labels = [names[d] for d in domain_of]
    loglik, latent = _log_likelihoods(rng, family, domain_of)
    sha256 = hashlib.sha256(f"{count} {n_texts} {seed}".encode()).hexdigest()
    noise = np.where(rng.random(count) < 0.1, np.nan, rng.lognormal(-1.5, 1, count))
    threshold = geometry.clip_threshold(loglik[:: max(1, count // 200)])
    matrix = store.Matrix(
        loglik=loglik,
        coordinates=geometry.double_centre(loglik, threshold).astype(np.float32),
        model=[model.model for model in models],
        domain=labels,
        n_bytes=np.full(n_texts, int(BYTES), np.int32),
        clip_quantile=geometry.CLIP_QUANTILE,
        clip_threshold=threshold,
        mean_bytes=BYTES,
        texts_sha256=sha256,
        noise=noise,
    )
    if count <= DENSE_LIMIT:
        distances, nearest = neighbors.measure(matrix, k, DENSE_LIMIT)
    else:
        distances, nearest = _nearest(matrix, latent, k)
    table = neighbors.table(nearest, models, distances.neighbor_below_noise)
    store.write_matrix(folder / "matrix.h5", matrix)
    store.write_distances(folder / "kl.h5", distances)
    neighbors.write_neighbors(folder / "neighbors.tsv", table)
    _write_models(folder / "models.tsv", models, loglik, noise, rng)
    _write_layout(folder, models, family, latent, rng)
    sizes = {name: labels.count(name) for name in dict.fromkeys(labels)}
    files.write_json(
        folder / "texts.json",
        {"n": n_texts, "sha256": sha256, "mean_bytes": BYTES, "domains": sizes, "recipe": {}},
    )
    name = HOSTILE[0] if hostile else "demo"
    return MapFiles(folder, models, loglik, labels, threshold, name)


def write_selection(made: MapFiles, folder: Path, added: Sequence[int], n: int = 90) -> MapFiles:
    """Write the same map for a selection of its texts, some models scored on these alone.

    Args:
        made: the map of all texts; its texts have no design.
        folder: where to.
        added: rows of the models that were scored on the selection alone.
        n: how many texts are drawn, by the sum of squares of their coordinates.
    """
    folder.mkdir(parents=True, exist_ok=True)
    whole = store.read_matrix(made.path("matrix.h5"))
    q = geometry.double_centre(whole.loglik, whole.clip_threshold)
    design, index = mapfiles.drawn((q**2).sum(axis=0), n, np.random.default_rng(3))
    complete = ~np.isin(np.arange(len(made.models)), added)
    matrix = mapfiles.selected(whole, design, index, complete)
    reference = store.read_distances(made.path("kl.h5"))
    distances, nearest = neighbors.measure(matrix, 10, DENSE_LIMIT, reference)
    table = neighbors.table(nearest, made.models, distances.neighbor_below_noise)
    store.write_matrix(folder / "matrix.h5", matrix)
    store.write_distances(folder / "kl.h5", distances)
    neighbors.write_neighbors(folder / "neighbors.tsv", table)
    for name in ("layout.tsv", "layout.json", "ellipses.tsv"):
        shutil.copy(made.path(name), folder / name)
    rows = files.read_tsv(made.path("models.tsv"))
    for own, row in zip(complete, rows, strict=True):
        row["texts"] = str(design.texts if own else len(index))
    files.write_tsv(folder / "models.tsv", list(rows[0]), [list(row.values()) for row in rows])
    manifest = files.read_json(made.path("texts.json"))
    told = {
        "fingerprint": matrix.selection, "method": "ls", "replacement": True, "n": n, "seed": 3,
        "error": None, "share": None,
        "reference": {
            "fingerprint": "0" * 12, "texts_sha256": whole.texts_sha256, "n": design.texts,
            "mean_bytes": whole.mean_bytes, "models": int(complete.sum()),
        },
    }  # fmt: skip
    files.write_json(
        folder / "texts.json",
        {**manifest, "n": len(index), "sha256": matrix.texts_sha256, "selection": told},
    )
    return MapFiles(folder, made.models, matrix.loglik, matrix.domain, made.threshold, "demo-ls")


def write_scores(made: MapFiles) -> dict[str, Any]:
    """Benchmark scores of most models, predictions of all, and what was scored in another way.

    The first model has no scores and is far from all others, the second has none either.

    Returns:
        More keyword arguments of ``explorer_data.payload``.
    """
    rng = np.random.default_rng(1)
    rows: list[list[Any]] = []
    predictions = []
    for row, model in enumerate(made.models):
        truth = [round(float(value), 2) for value in rng.uniform(20, 80, len(TASKS))]
        far, new = row == 0, row < 2
        if not new:
            rows.append([model.model, *truth])
        for task, value in zip(TASKS, truth, strict=True):
            guess = value + float(rng.normal(0, 3))
            ends = (math.nan, math.nan) if far else (guess - 6, guess + 6)
            how = prediction_files.NEW if new else prediction_files.OUT_OF_FOLD
            measured = math.nan if new else value
            predictions.append(
                Predicted(
                    model.model, task, measured, guess, *ends, how, "type", 9.0 if far else 0.3, far
                )
            )
    files.write_tsv(made.path("benchmarks.tsv"), ("model", *TASKS), rows)
    prediction_files.write(made.folder, Prediction(list(TASKS), [], predictions, []))
    first = made.models[0].model
    conventions.write_differences(
        made.path("conventions.tsv"),
        [Difference(first, "dtype", "float32", "others", "float16", 0.5, 0.25, "measured")],
    )
    return {
        "benchmark_paths": [made.path("benchmarks.tsv")],
        "predictions_path": made.path("predictions.tsv"),
        "conventions_path": made.path("conventions.tsv"),
    }


def _nearest(matrix: store.Matrix, latent: Any, k: int) -> Any:
    """The nearest of a few candidates each, with their own KL: near enough, and fast."""
    kin = NearestNeighbors(n_neighbors=2 * k + 1).fit(latent).kneighbors(latent)[1][:, 1:]
    shape = kin.shape
    q = matrix.coordinates.astype(np.float64)
    mean_bytes, rows = matrix.mean_bytes, np.repeat(np.arange(len(q)), shape[1])
    squares = fourths = np.zeros(0)
    for part in np.array_split(np.arange(rows.size), max(1, rows.size * q.shape[1] >> 22)):
        square = (q[rows[part]] - q[kin.ravel()[part]]) ** 2
        squares = np.r_[squares, square.mean(axis=1)]
        fourths = np.r_[fourths, (square**2).mean(axis=1)]
    unit = 2 * geometry.nats_per_unit(mean_bytes)
    kl = (squares / unit).reshape(shape)
    se = (np.sqrt((fourths - squares**2) / q.shape[1]) / unit).reshape(shape)
    order = np.argsort(kl, axis=1, kind="stable")[:, :k]
    index, kl, se = (np.take_along_axis(array, order, axis=1) for array in (kin, kl, se))
    nearest = geometry.Neighbors(index.astype(np.int32), kl, se)
    below = geometry.below_noise(kl, matrix.noise, mean_bytes, nearest.index)
    distances = store.Distances(
        model=matrix.model,
        neighbor_index=nearest.index,
        neighbor_kl=kl,
        kl=None,
        se=None,
        texts_sha256=matrix.texts_sha256,
        n_texts=q.shape[1],
        mean_bytes=mean_bytes,
        noise=matrix.noise,
        neighbor_below_noise=below,
    )
    return distances, nearest


def _models(rng: np.random.Generator, family: Any, hostile: bool) -> list[Model]:
    """One in six a checkpoint of the model before, one in four made from an earlier one."""
    models: list[Model] = []
    steps = 0
    for row, number in enumerate(family):
        name = FAMILIES[number % len(FAMILIES)]
        size = float(rng.choice([0.07, 0.41, 1.4, 2.8, 6.9, 13, 32, 70]))
        same = models and models[-1].family == name
        draw = rng.random()
        born = date(2022, 6, 1) + timedelta(days=int(rng.integers(0, 1200)))
        id_, revision, base = f"{name}-lab/model-{row:05d}-{size:g}b", "", ()
        if same and draw < 0.16 and steps < 12:
            steps += 1
            id_, revision, base = models[-1].id, f"step{2**steps}", models[-1].base_model
        else:
            steps = 0
            if same and draw < 0.4:
                base = (models[int(rng.integers(max(0, row - 40), row))].id,)
        slug = id_.replace("/", "--") + (f"@{revision}" if revision else "")
        model = Model(
            model=slug,
            id=id_,
            revision=revision,
            variant="int8" if rng.random() < 0.02 else "",
            family=name,
            architecture=f"{name.title().replace('_', '')}ForCausalLM",
            parameters=None if rng.random() < 0.03 else int(size * 1e9),
            created_at="" if rng.random() < 0.03 else f"{born.isoformat()}T08:00:00+00:00",
            base_model=base,
            license=str(rng.choice(["apache-2.0", "mit", "llama2", "other", ""])),
            dtype="bfloat16",
            prefix="default",
            overlength="window",
            tokens=int(rng.integers(2_000_000, 3_000_000)),
            truncated=int(rng.integers(0, 4)),
            commit=hashlib.sha1(slug.encode(), usedforsecurity=False).hexdigest(),
        )
        models.append(model)
    if hostile:
        models = [_hostile(model, row) for row, model in enumerate(models)]
    return models


def _hostile(model: Model, row: int) -> Model:
    """Names in one line, as klmap writes them; the licence as somebody else might."""
    text = _line(row)
    changes = {
        "model": f"{text}{row}",
        "id": f"{text}{row}",
        "family": HOSTILE[row % 4],
        "license": HOSTILE[row % len(HOSTILE)],
        "base_model": (f"{_line(row - 1)}{row - 1}",) if row else (),
        "commit": text,
    }
    return Model(**{item.name: getattr(model, item.name) for item in fields(Model)} | changes)


def _line(row: int) -> str:
    return " ".join(HOSTILE[row % len(HOSTILE)].split())


def _log_likelihoods(rng: np.random.Generator, family: Any, domain_of: Any) -> Any:
    """(K, N) nats: a few shared directions, domains that families differ in, noise of one's own."""
    unit = np.sqrt(2 * BYTES * np.log(2))
    count, texts = len(family), len(domain_of)
    centres = rng.normal(0, 0.8, (len(FAMILIES), 12))
    latent = centres[family % len(FAMILIES)] + rng.normal(0, 0.22, (count, 12))
    taste = rng.normal(0, 0.5, (len(FAMILIES), domain_of.max() + 1))[family % len(FAMILIES)]
    taste = taste + rng.normal(0, 0.15, taste.shape)
    directions = rng.normal(0, 1, (12, texts)) * np.geomspace(1, 0.3, 12)[:, None]
    loglik = rng.standard_normal((count, texts))
    loglik *= 0.12
    loglik += 0.6 * latent @ directions
    loglik += taste[:, domain_of]
    loglik *= unit
    loglik -= rng.uniform(250, 1024, texts) * 0.65
    return loglik, np.c_[0.6 * latent * np.geomspace(1, 0.3, 12), taste]


def _write_models(path: Path, models: list[Model], loglik: Any, noise: Any, rng: Any) -> None:
    """models.tsv with three columns more than klmap itself writes."""
    names = [item.name for item in fields(Model) if item.name not in ("likelihood", "pmi")]
    score = np.where(rng.random(len(models)) < 0.4, np.nan, rng.uniform(20, 80, len(models)))
    rows = []
    for row, model in enumerate(models):
        cells = {name: getattr(model, name) for name in names}
        mean = float(loglik[row].mean())
        cells["base_model"] = ",".join(model.base_model)
        cells["mean_loglik"] = mean
        cells["bits_per_byte"] = geometry.bits_per_byte(mean, BYTES)
        cells["noise_nats"] = None if np.isnan(noise[row]) else float(noise[row])
        mmlu = None if np.isnan(score[row]) else float(score[row])
        tuned = "instruct" if row % 3 else "base"
        rows.append([*(cells[name] for name in names), mmlu, tuned, f"note {row}"])
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow([*names, "mmlu_5shot", "tuning", "note"])
        writer.writerows(rows)


def _write_layout(
    folder: Path, models: list[Model], family: Any, latent: Any, rng: np.random.Generator
) -> None:
    """Groups on the plane that look as a layout's do."""
    angle = 2.4 * np.arange(len(FAMILIES))
    centre = np.c_[np.cos(angle), np.sin(angle)] * np.sqrt(np.arange(len(FAMILIES)) + 0.5)[:, None]
    points = 18 * centre[family % len(FAMILIES)] + 14 * latent[:, :2]
    places = [
        layout.Place(model.model, float(x), float(y), "tsne-euclidean")
        for model, (x, y) in zip(models, points, strict=True)
    ]
    layout.write_layout(folder / "layout.tsv", places)
    count = len(models)
    report = layout.Report(
        texts_sha256="0" * 64, method="tsne", metric="euclidean", perplexity=30, seed=42,
        iterations=1000, input="0" * 64, table=files.sha256_of(folder / "layout.tsv"),
        quality=Quality(10, 0.61, 0.97, min(count, 2000), count),
        stable=Movement(count - 1, 1, 0, 0.004, 0.02, 0.1), reason="",
    )  # fmt: skip
    layout.write_report(folder / "layout.json", report)
    major = rng.lognormal(0.5, 0.4, len(models))
    rows = zip(
        [model.model for model in models], points[:, 0], points[:, 1], major, 0.6 * major,
        rng.uniform(0, 180, len(models)), strict=True,
    )  # fmt: skip
    files.write_tsv(
        folder / "ellipses.tsv",
        ("model", "x", "y", "major", "minor", "angle"),
        [[row[0], *map(float, row[1:])] for row in rows],
    )


def write_ways(made: MapFiles, folder: Path) -> list[Path]:
    """Tables of ways: two edits of every model, and a mixture of one that is off the map."""
    places = layout.read_layout(made.path("layout.tsv"), made.models)
    lines: list[tuple[Any, ...]] = []
    for name, right, up in (("polite", 6.0, 2.0), ("german", -4.0, 5.0)):
        for row, place in enumerate(places):
            ends = ((place.x, place.y), (place.x + right, place.y + up))
            for step, (x, y) in enumerate(ends):
                words = f"{name}: 0.{row:02d} bits/byte away" if step else "prompts as they are"
                lines.append((name, place.model, step, x, y, words))
    files.write_tsv(folder / "prompts" / "ways.tsv", explorer_ways.COLUMNS, lines)
    path = [
        ("code", "org--elsewhere", step, 3.0 * step, 2.0 * step**2, f"step {step}")
        for step in range(4)
    ]
    files.write_tsv(folder / "mixture" / "ways.tsv", explorer_ways.COLUMNS, path)
    return [folder / name / "ways.tsv" for name in ("prompts", "mixture")]


def add_column(made: MapFiles, path: Path, name: str, cells: Sequence[str]) -> Path:
    """models.tsv with a column more."""
    rows = files.read_tsv(made.path("models.tsv"))
    lines = [(*row.values(), cell) for row, cell in zip(rows, cells, strict=True)]
    files.write_tsv(path, (*rows[0], name), lines)
    return path
