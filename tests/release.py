"""A synthetic release in the formats of Oyama et al. 2025: families, scores and leaks are planted.

Three pickles and a .jsonl, as the authors publish them: raw and clipped log-likelihoods as
dictionaries of vectors, the metadata as a list of dictionaries. The models lie in a space of few
dimensions; their scores are linear in it, their mean log-likelihood follows the scores, and five
models have seen texts, so that it is too high.
"""

from __future__ import annotations

import datetime
import json
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from klmap import files, geometry, models_table, store, texts
from klmap.config_texts import FileTexts

Floats = npt.NDArray[np.float64]

TASKS = ["ARC", "HellaSwag", "MMLU", "TruthfulQA", "Winogrande", "GSM8K", "6-TaskMean"]
KEYS = [f"score_v1_{task}" for task in TASKS[:6]] + ["score_v1_6-taskmean"]
DOMAINS = [
    "ArXiv", "FreeLaw", "Github", "Pile-CC", "PubMed Abstracts", "StackExchange",
    "Wikipedia (en)",
]  # fmt: skip
TYPES = {
    "llama-2": 0.24, "mistral": 0.2, "llama-1": 0.11, "llama-3": 0.11, "gpt_neox": 0.09,
    "opt": 0.06, "bloom": 0.05, "falcon": 0.05, "gemma": 0.05, "deepseek": 0.04,
}  # fmt: skip
RANK = 8
UNIT = 30.0
"""Nats per text in the square root of one bit per byte, for texts of about 650 bytes."""


@dataclass
class Release:
    """What was released, and what is true of it.

    Attributes:
        folder: where the files lie.
        texts: texts.jsonl with ``index``, ``pile_idx``, ``chunk_idx``, ``pile_set_name``, ``text``.
        raw: pickle, dictionary of name and (N,) float64, nats per text.
        clipped: the same, clipped at ``threshold``.
        metadata: pickle, list of dictionaries, in another order than the vectors.
        names: (M,) ids such as ``org/name``, in the order of the rows of ``loglik``.
        loglik: (M, N) raw log-likelihoods, nats.
        threshold: nats, the 2 % quantile of ``loglik``.
        domain: (N,) domain of each text.
        families: type of each model.
        groups: subcluster of each model, ``type-number``.
        scores: (M, 7) scores in the order of ``tasks``, in percent; NaN where the metadata has
            none.
        tasks: names of the scores as klmap writes them.
        leaked: models that have seen texts, and of which domain; empty for all texts.
    """

    folder: Path
    texts: Path
    raw: Path
    clipped: Path
    metadata: Path
    names: list[str]
    loglik: Floats
    threshold: float
    domain: list[str]
    families: dict[str, str]
    groups: dict[str, str]
    scores: Floats
    tasks: list[str]
    leaked: dict[str, str]


def make_release(folder: Path, models: int = 300, texts: int = 400, seed: int = 0) -> Release:
    """Write a release of at least twenty models; the same arguments give the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    records = _texts(rng, texts)
    path = folder / "texts.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    domain = [str(record["pile_set_name"]) for record in records]

    types, groups = _families(models)
    centre = {name: rng.normal(0, 0.28, RANK) for name in TYPES}
    inner = {name: rng.normal(0, 0.2, RANK) for name in dict.fromkeys(groups)}
    place = np.stack([centre[t] + inner[g] for t, g in zip(types, groups, strict=True)])
    place += rng.normal(0, 0.12, place.shape)
    scores, skill = _scores(rng, place)
    names = [_name(number, types[number], groups[number]) for number in range(models)]
    numbers = rng.choice(models, 5, replace=False)
    seen = ["", "", "", "Github", "ArXiv"]
    leaked = {names[number]: where for number, where in zip(numbers, seen, strict=True)}
    loglik = _loglik(rng, records, place, skill, dict(zip(numbers.tolist(), seen, strict=True)))
    threshold = float(np.quantile(loglik, 0.02))
    scores = _with_gaps(rng, scores, set(numbers.tolist()))

    release = Release(
        folder=folder,
        texts=path,
        raw=folder / f"raw_log-likelihood_{models}.pkl",
        clipped=folder / f"clipped_log-likelihood_{models}.pkl",
        metadata=folder / f"model-data-{models}.pkl",
        names=names,
        loglik=loglik,
        threshold=threshold,
        domain=domain,
        families=dict(zip(names, types, strict=True)),
        groups=dict(zip(names, groups, strict=True)),
        scores=scores,
        tasks=list(TASKS),
        leaked=leaked,
    )
    clipped = np.maximum(loglik, threshold)
    dump(release.raw, dict(zip(names, loglik, strict=True)))
    dump(release.clipped, dict(zip(names, clipped, strict=True)))
    dump(release.metadata, _metadata(rng, release, clipped))
    return release


def dump(path: Path, value: Any) -> None:
    """Write a pickle as the authors do, with the defaults of Python."""
    with path.open("wb") as file:
        pickle.dump(value, file)


def write_results(release: Release, folder: Path) -> Path:
    """What klmap makes of a release, without its import: ``results/<texts>`` of an analysis.

    Writes texts.jsonl, texts.json, matrix.h5, models.tsv and benchmarks.tsv; returns the folder.
    """
    recipe = FileTexts(source="file", path=str(release.texts), domain_field="pile_set_name")
    texts.build(recipe, folder / "texts.jsonl", folder / "texts.json")
    manifest = files.read_json(folder / "texts.json")
    lengths = np.array([text.n_bytes for text in texts.read_texts(folder / "texts.jsonl")])
    slugs = [name.replace("/", "--") for name in release.names]
    order = sorted(range(len(slugs)), key=lambda row: slugs[row])
    loglik = release.loglik[order]
    mean_bytes = float(manifest["mean_bytes"])
    store.write_matrix(
        folder / "matrix.h5",
        store.Matrix(
            loglik=loglik,
            coordinates=geometry.double_centre(loglik, release.threshold).astype(np.float32),
            model=[slugs[row] for row in order],
            domain=release.domain,
            n_bytes=lengths.astype(np.int32),
            clip_quantile=geometry.CLIP_QUANTILE,
            clip_threshold=release.threshold,
            mean_bytes=mean_bytes,
            texts_sha256=str(manifest["sha256"]),
        ),
    )
    means = release.loglik.mean(axis=1)
    rows = [
        models_table.Model(
            slugs[row],
            id=release.names[row],
            family=release.families[release.names[row]],
            created_at=_created(release, row),
            bits_per_byte=geometry.bits_per_byte(float(means[row]), mean_bytes),
            mean_loglik=float(means[row]),
        )
        for row in order
    ]
    models_table.write_models(folder / "models.tsv", rows)
    cells = [
        [slugs[row], *("" if np.isnan(v) else repr(float(v)) for v in release.scores[row])]
        for row in order
    ]
    files.write_tsv(folder / "benchmarks.tsv", ["model", *release.tasks], cells)
    return folder


def _texts(rng: np.random.Generator, count: int) -> list[dict[str, Any]]:
    """Unique texts of 257 to 1,024 bytes, made of words that each domain uses in its own way."""
    sounds = [
        "ka", "lo", "mi", "ren", "tu", "sa", "ver", "do", "pel", "in",
        "gra", "mo", "ti", "sel", "on", "ber", "ur", "ast", "ne", "qui",
    ]  # fmt: skip
    words = ["".join(rng.choice(sounds, rng.integers(1, 4))) for _ in range(600)]
    usage = {name: rng.permutation(600)[:200] for name in DOMAINS}
    shares = rng.dirichlet(np.full(len(DOMAINS), 12.0))
    records: list[dict[str, Any]] = []
    for index in range(count):
        name = DOMAINS[int(rng.choice(len(DOMAINS), p=shares))]
        drawn = [words[number] for number in rng.choice(usage[name], 260)]
        drawn[9::10] = [f"{word}." for word in drawn[9::10]]
        text = f"{index} " + " ".join(drawn)
        records.append(
            {
                "index": index,
                "pile_idx": int(rng.integers(0, 1_000_000)),
                "chunk_idx": int(rng.integers(0, 9)),
                "pile_set_name": name,
                "text": text[: int(rng.integers(257, 1025))],
            }
        )
    return records


def _families(models: int) -> tuple[list[str], list[str]]:
    """Type and subcluster of each model; at least one model of each type."""
    bounds = np.round(np.cumsum(list(TYPES.values())) * models).astype(int)
    types = [list(TYPES)[int(np.searchsorted(bounds, row, "right"))] for row in range(models)]
    first = {name: types.index(name) for name in dict.fromkeys(types)}
    groups = [f"{name}-{(row - first[name]) // 7}" for row, name in enumerate(types)]
    return types, groups


def _scores(rng: np.random.Generator, place: Floats) -> tuple[Floats, Floats]:
    """Scores in percent, (M, 7), linear in the places, and what all have in common, (M,)."""
    general = rng.normal(0, 1, RANK)
    columns = []
    for _ in TASKS[:6]:
        value = place @ (0.8 * general + 0.5 * rng.normal(0, 1, RANK))
        columns.append(48 + 14 * (value - value.mean()) / value.std())
    scores = np.stack(columns, 1)
    scores = np.clip(scores + rng.normal(0, 2, scores.shape), 0, 100).round(2)
    scores = np.column_stack([scores, scores.mean(axis=1).round(2)])
    return scores, (scores[:, -1] - scores[:, -1].mean()) / scores[:, -1].std()


def _loglik(
    rng: np.random.Generator,
    records: list[dict[str, Any]],
    place: Floats,
    skill: Floats,
    leaks: dict[int, str],
) -> Floats:
    """Raw log-likelihoods, (M, N), nats: a text's own, a model's place, its level, noise, leaks."""
    domain = np.array([record["pile_set_name"] for record in records])
    lengths = np.array([len(record["text"].encode()) for record in records], np.float64)
    rate = rng.normal(0.6, 0.06, len(records)) + 0.08 * (domain == "FreeLaw")
    base = -rate * lengths
    base[rng.random(len(records)) < 0.015] *= 3
    loading = rng.normal(0, 0.9, (RANK, len(records)))
    for name in DOMAINS:
        loading[:, domain == name] += rng.normal(0, 0.45, (RANK, 1))
    loading -= loading.mean(axis=1, keepdims=True)
    loglik = base + UNIT * (place @ loading)
    loglik += 12 * skill[:, None] + rng.normal(0, 6, (len(place), 1))
    loglik += rng.normal(0, 0.1 * UNIT, loglik.shape)
    for row, name in leaks.items():
        share = np.where(domain == name, 0.55, 0.0) if name else np.full(len(records), 0.3)
        loglik[row] *= 1 - share * rng.uniform(0.8, 1.2, len(records))
    collapsed = rng.random(loglik.shape) < 0.002
    loglik[collapsed] *= rng.uniform(3, 20, int(collapsed.sum()))
    return np.minimum(loglik, -0.01)


def _with_gaps(rng: np.random.Generator, scores: Floats, whole: set[int]) -> Floats:
    """Take scores away: a tenth of the models has none, some lack one and so the mean."""
    scores = scores.copy()
    for row in range(len(scores)):
        chance = rng.random()
        if row in whole or chance > 0.14:
            continue
        if chance < 0.1:
            scores[row] = np.nan
        else:
            scores[row, [int(rng.integers(0, 6)), 6]] = np.nan
    return scores


def _name(number: int, family: str, group: str) -> str:
    size = _size(group)
    org = f"lab-{int(group.rpartition('-')[2]) % 5}"
    return f"{org}/{family.replace('_', '-')}-{size:g}B-{group.rpartition('-')[2]}.{number:03d}"


def _size(group: str) -> float:
    """Billions of parameters: the models of a subcluster have one size."""
    return (7, 13, 1.3, 70, 8, 2.7)[int(group.rpartition("-")[2]) % 6]


def _created(release: Release, row: int) -> str:
    family = release.families[release.names[row]]
    order = ["opt", "bloom", "gpt_neox", "llama-1", "falcon", "llama-2", "mistral"]
    start = order.index(family) if family in order else len(order)
    days = 365 + 75 * start + row % 70
    moment = datetime.datetime(2021, 12, 1, 0, 53, 57, tzinfo=datetime.UTC)
    return (moment + datetime.timedelta(days=days, seconds=97 * row)).isoformat()


def _metadata(rng: np.random.Generator, release: Release, clipped: Floats) -> list[dict[str, Any]]:
    """Rows of the metadata, in an order of their own."""
    first: dict[str, str] = {}
    rows = []
    for row, name in enumerate(release.names):
        family, group = release.families[name], release.groups[name]
        base = first.setdefault(group, name)
        tags = ["transformers", "safetensors", family, "text-generation", "en"]
        if base != name:
            tags += [f"base_model:{base}", f"base_model:finetune:{base}"]
        values = release.scores[row]
        # Both ways of saying that a score is missing occur.
        missing = None if row % 2 else float("nan")
        rows.append(
            {
                "model_name": name,
                "model_type": family,
                "model_size": _size(group),
                "created_at": _created(release, row),
                "downloads": int(rng.integers(10, 100_000)),
                "tags": [*tags, "license:apache-2.0", "region:us"],
                "log-likelihood-10k": release.loglik[row],
                "mean_logp": float(clipped[row].mean()),
                **{
                    key: missing if np.isnan(value) else float(value)
                    for key, value in zip(KEYS, values, strict=True)
                },
            }
        )
    return [rows[int(number)] for number in rng.permutation(len(rows))]
