"""Made-up scores of very many models: families along few directions, and copies that are near.

Written as the real workflow leaves them, so that the real scripts can read them: texts, cards,
score files, index. Every model's numbers follow from its row alone.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from klmap import files, index, store_score
from klmap.arrays import Floats

DIRECTIONS = 40
OWN = 0.3
"""Noise of a model's own: two unrelated models differ by 0.18 bits/byte through it alone."""

COPIES = {20: 0.05, 100: 0.002}
"""Every 20th model is a fine-tune of an earlier one, every 100th hardly differs from it."""

DTYPES = ("float32", "bfloat16")


class Universe:
    """Log-likelihoods of any number of models on the same texts.

    Args:
        texts: number of texts, N.
    """

    def __init__(self, texts: int) -> None:
        rng = np.random.default_rng(0)
        self.lengths = rng.integers(600, 1025, texts)
        self.unit = np.sqrt(2 * self.lengths.mean() * np.log(2))
        self.base = -0.65 * self.lengths
        weights = np.geomspace(0.8, 0.05, DIRECTIONS) * 0.55 * self.unit
        self.directions = weights[:, None] * rng.normal(size=(DIRECTIONS, texts))

    def loglik(self, row: int) -> Floats:
        """(N,) nats of one model; the median KL of two is about 2 bits/byte, as of real ones."""
        for every, distance in sorted(COPIES.items(), reverse=True):
            if row and row % every == 0:
                rng = np.random.default_rng((1, row))
                near = rng.normal(0, distance * self.unit, len(self.base))
                return self.loglik(int(rng.integers(row // 2, row))) + near
        rng = np.random.default_rng((2, row))
        family = np.random.default_rng((3, row // 30)).normal(size=DIRECTIONS)
        place = family + 0.3 * rng.normal(size=DIRECTIONS)
        own = rng.normal(0, OWN * self.unit, len(self.base))
        return self.base + place @ self.directions + own


class Place:
    """A folder with everything that the rule ``matrix`` reads.

    Args:
        root: the folder.
        models: number of models, K.
        texts: number of texts, N.
    """

    def __init__(self, root: Path, models: int, texts: int) -> None:
        self.root = root
        self.models = models
        self.texts = texts

    def path(self, name: str) -> Path:
        return self.root / name

    def write(self) -> None:
        """Write all files, with as many processes as there are cores."""
        universe = Universe(self.texts)
        lines = (
            {"index": i, "text": "x" * int(n), "domain": f"domain-{i % 8}", "n_bytes": int(n)}
            for i, n in enumerate(universe.lengths)
        )
        text = "".join(json.dumps(line) + "\n" for line in lines)
        sha256 = hashlib.sha256(text.encode()).hexdigest()
        files.write_text(self.path("texts.jsonl"), text)
        files.write_json(self.path("texts.json"), {"n": self.texts, "sha256": sha256})
        files.write_tsv(
            self.path("index.tsv"),
            index.COLUMNS,
            [(_name(i), _name(i), _fingerprint(i), _name(i), "", "", "") for i in self.rows()],
        )
        context = multiprocessing.get_context("spawn")
        with context.Pool(os.cpu_count(), _start, (self.root, self.texts, sha256)) as pool:
            for _ in pool.imap_unordered(_write, self.rows(), chunksize=50):
                pass

    def rows(self) -> range:
        return range(self.models)


def _name(row: int) -> str:
    return f"org{row // 30}--model-{row:06d}"


def _fingerprint(row: int) -> str:
    return f"{row:012x}"


def _start(root: Path, texts: int, sha256: str) -> None:
    # Files that are thrown away soon need not reach the disk.
    os.fsync = lambda _: None  # type: ignore[assignment]
    _write.context = (root, Universe(texts), sha256)  # type: ignore[attr-defined]


def _write(row: int) -> None:
    root, universe, sha256 = _write.context  # type: ignore[attr-defined]
    counts = np.full(len(universe.base), 250, np.int32)
    attributes = {
        "dtype": DTYPES[row % 2], "quantization": "none", "prefix": "default",
        "overlength": "window", "noise_nats": 0.01, "device": "made up", "host": "none",
        "software": {"torch": "0", "transformers": "0"}, "seconds": 1.0,
        "tokens_per_second": 1.0, "gpus": 1, "batch_tokens": 1, "peak_memory": 1,
        "parameters": 1, "remote_code": False, "startup_seconds": 1.0, "scoring_seconds": 1.0,
    }  # fmt: skip
    score = store_score.Score(
        model=_name(row), commit="0" * 40, texts_sha256=sha256, fingerprint=_fingerprint(row),
        spec={"id": _name(row)}, loglik=universe.loglik(row), n_tokens=counts, n_scored=counts,
        truncated=np.zeros(len(counts), np.bool_), attributes=attributes,
    )  # fmt: skip
    store_score.write_score(root / "scores" / f"{_name(row)}.{_fingerprint(row)}.h5", score)
    card = {"id": _name(row), "architecture": "Made", "created_at": f"2024-01-{row % 28 + 1:02d}"}
    files.write_json(root / "models" / _name(row) / "card.json", card)
