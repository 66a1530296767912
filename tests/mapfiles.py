"""A finished scoring run of synthetic models, made in a moment: texts, cards, scores, index."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from klmap import collect, files, geometry, index, models_table, store, store_score
from klmap.arrays import Bools, Floats, Ints
from klmap.design import Design
from klmap.models_table import Model

DOMAINS = ("code", "prose", "legal")


@dataclass
class Made:
    """What one synthetic model is."""

    model: str
    loglik: Floats | None
    id: str = ""
    revision: str = ""
    family: str = ""
    variant: str = ""
    card: dict[str, Any] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)
    error: str = ""

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(self.model.encode()).hexdigest()[:12]


@dataclass
class InMemory:
    """A matrix with the face of an open file."""

    values: Floats
    domain: list[str]
    clip_threshold: float = -900.0
    mean_bytes: float = 700.0
    design: Design | None = None

    @property
    def texts(self) -> int:
        return len(self.domain) if self.design is None else self.design.texts

    @property
    def complete(self) -> Bools:
        return np.ones(len(self.values), np.bool_)

    @property
    def model(self) -> list[str]:
        return [f"m{row}" for row in range(len(self.values))]

    def loglik(self, begin: int, end: int) -> Floats:
        return self.values[begin:end]

    @property
    def centred(self) -> Floats:
        return geometry.double_centre(self.values, self.clip_threshold, self.design)


class Folder:
    """``results/<texts>`` before the matrix is made, and the commands' arguments."""

    def __init__(self, root: Path, n_texts: int = 120, seed: int = 0) -> None:
        self.root = root
        self.rng = np.random.default_rng(seed)
        self.lengths = self.rng.integers(260, 1024, n_texts)
        rows = [
            {
                "index": i,
                "text": "x" * int(n),
                "domain": DOMAINS[i % len(DOMAINS)],
                "n_bytes": int(n),
            }
            for i, n in enumerate(self.lengths)
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        files.write_text(self.texts, text)
        self.sha256 = hashlib.sha256(text.encode()).hexdigest()
        self.mean_bytes = float(self.lengths.mean())
        files.write_json(
            self.manifest,
            {
                "n": n_texts,
                "sha256": self.sha256,
                "mean_bytes": self.mean_bytes,
                "recipe": {"source": "environment"},
                "domains": {domain: n_texts // len(DOMAINS) for domain in DOMAINS},
            },
        )
        self.made: list[Made] = []

    @property
    def texts(self) -> Path:
        return self.root / "texts.jsonl"

    @property
    def manifest(self) -> Path:
        return self.root / "texts.json"

    @property
    def index(self) -> Path:
        return self.root / "index.tsv"

    @property
    def scores(self) -> Path:
        return self.root / "scores"

    @property
    def cards(self) -> Path:
        return self.root.parent / "models"

    def score_path(self, model: str) -> Path:
        made = next(item for item in self.made if item.model == model)
        return self.scores / f"{made.model}.{made.fingerprint}.h5"

    def values(self, spread: float = 40.0) -> Floats:
        """Log-likelihoods of a made-up model: about 0.8 nats per byte, and its own noise."""
        return np.asarray(
            -0.8 * self.lengths + self.rng.normal(0, spread, len(self.lengths)), np.float64
        )

    def add(self, model: str, loglik: Floats | None = None, **kwargs: Any) -> Made:
        """Write the score and the card of one more model."""
        if loglik is None and not kwargs.get("error"):
            loglik = self.values()
        made = Made(model, loglik, **{"id": model.replace("--", "/"), **kwargs})
        self.made.append(made)
        self.write(made)
        return made

    def write(self, made: Made, **changes: Any) -> None:
        n = len(self.lengths)
        values = {
            "model": made.model,
            "commit": "c0ffee",
            "texts_sha256": self.sha256,
            "fingerprint": made.fingerprint,
            "spec": {"id": made.id},
            "attributes": {
                "dtype": "float32",
                "prefix": "default",
                "overlength": "window",
                "noise_nats": 0.01,
                **made.attributes,
            },
        }
        if made.loglik is None:
            values |= {"status": "failed", "error": made.error}
        else:
            values |= {
                "loglik": made.loglik,
                "n_tokens": np.full(n, 100, np.int32),
                "n_scored": np.full(n, 99, np.int32),
                "truncated": np.zeros(n, np.bool_),
            }
        score = store_score.Score(**{**values, **changes})
        store_score.write_score(self.score_path(made.model), score)
        files.write_json(self.cards / made.model / "card.json", {"id": made.id, **made.card})

    def write_index(self, order: list[int] | None = None) -> None:
        """Write the index in the given order of the models made."""
        rows = [self.made[i] for i in (order or range(len(self.made)))]
        files.write_tsv(
            self.index,
            index.COLUMNS,
            [
                (m.model, m.model, m.fingerprint, m.id, m.revision, m.family, m.variant)
                for m in rows
            ],
        )

    def collect(self, **kwargs: Any) -> Collected:
        self.write_index()
        path = self.root / "collected.h5"
        found = collect.collect(
            self.index, self.scores, self.cards, self.texts, self.manifest, path, **kwargs
        )
        return Collected(store.read_matrix(path), found.models, found.failures)


@dataclass
class Collected:
    """What is written of a folder's scores, as far as it fits in memory."""

    matrix: store.Matrix
    models: list[Model]
    failures: list[models_table.Failure]


def zoo(root: Path, n_texts: int = 240) -> Folder:
    """Two families with checkpoints, fine-tunes and a merge, a few tenths of a bit/byte apart."""
    folder = Folder(root, n_texts)
    rng = folder.rng
    unit = np.sqrt(2 * folder.mean_bytes * np.log(2))
    base = -0.8 * folder.lengths
    domain = np.arange(n_texts) % len(DOMAINS)
    own = {name: rng.normal(0, 0.3, n_texts) for name in ("llama", "gpt2")}
    toward = [np.where(domain == d, 0.8, -0.3) for d in range(len(DOMAINS))]
    start = rng.normal(0, 1, n_texts)

    def make(model: str, family: str, where: Floats, **kwargs: Any) -> None:
        value = base + unit * (own[family] + where + rng.normal(0, 0.05, n_texts))
        card = {"model_type": family, "architecture": f"{family}Model", "parameters": 123456}
        card |= kwargs.pop("card", {})
        folder.add(model, value, card=card, **kwargs)

    for family in own:
        for d, name in enumerate(DOMAINS):
            make(f"demo--{family}-{name}", family, toward[d])
    for step in (10, 20, 40, 100):
        where = toward[0] + start * 3 / step**0.5
        make(
            f"demo--llama-code@step{step}", "llama", where,
            id="demo/llama-code", revision=f"step{step}",
        )  # fmt: skip
    for d in (1, 2):
        make(
            f"demo--tuned-{DOMAINS[d]}", "llama", 0.6 * toward[0] + 0.4 * toward[d],
            card={"base_model": ["demo/llama-code"]},
        )  # fmt: skip
    make(
        "demo--merge", "llama", 0.6 * toward[0] + 0.2 * toward[1] + 0.2 * toward[2],
        card={"base_model": ["demo/tuned-prose", "demo/tuned-legal"]},
    )  # fmt: skip
    return folder


def everything(texts: int) -> Design:
    """The design of a selection that keeps all texts: results are those without a design."""
    return Design(np.ones(texts), np.zeros(texts), np.ones(texts), texts)


def drawn(
    chances: Floats, n: int, rng: np.random.Generator, replace: bool = True
) -> tuple[Design, Ints]:
    """A small selection of klmap's kind, made the slow way: its design and which texts it keeps.

    Args:
        chances: (N,) what the chances of the texts are proportional to; positive.
        n: how many texts are drawn; with replacement fewer are kept.
        rng: source of the random numbers.
        replace: whether a text can be drawn more than once.
    """
    pi = chances / chances.sum()
    if replace:
        times = rng.multinomial(n, pi)
        index = np.flatnonzero(times)
        count = times[index].astype(np.float64)
        design = Design(np.sqrt(count / (n * pi[index])), 1 / count, count, len(pi))
    else:
        p = np.minimum(n * pi, 1)
        while p.sum() < n - 1e-9:  # what is certain leaves its share to the others
            free = p < 1
            p[free] = np.minimum(p[free] * (n - (~free).sum()) / p[free].sum(), 1)
        order = rng.permutation(len(p))
        steps = np.floor(np.concatenate([[0], np.cumsum(p[order])]) + rng.uniform())
        index = np.sort(order[np.diff(steps) > 0])
        kept = p[index]
        design = Design(1 / np.sqrt(kept), 1 - kept, np.ones(len(kept)), len(p))
    return design, index


def selected(
    matrix: store.Matrix, design: Design, index: Ints, complete: Bools | None = None
) -> store.Matrix:
    """What a matrix is of some of its texts, as ``matrix.h5`` of a selection holds it.

    Args:
        matrix: of the reference.
        design: how the texts of the selection stand for all.
        index: (d,) which texts these are.
        complete: (K,) which models were scored on all texts; all of them if left out.
    """
    loglik = matrix.loglik[:, index]
    low = geometry.double_centre(loglik, matrix.clip_threshold, design).astype(np.float32)
    return store.Matrix(
        loglik, low, list(matrix.model), [matrix.domain[i] for i in index],
        matrix.n_bytes[index], matrix.clip_quantile, matrix.clip_threshold, matrix.mean_bytes,
        hashlib.sha256(index.tobytes()).hexdigest(), matrix.noise, design=design,
        complete=np.ones(len(loglik), np.bool_) if complete is None else complete,
        selection="5e1ec7ed0000",
    )  # fmt: skip


def models(count: int, families: int = 3) -> list[Model]:
    """Rows of models.tsv that are not told apart by anything but their names."""
    return [
        Model(
            f"org--model-{i:04d}",
            id=f"org/model-{i:04d}",
            family=f"family-{i % families}",
            bits_per_byte=1 + i / 100,
            mean_loglik=-500.0,
        )
        for i in range(count)
    ]
