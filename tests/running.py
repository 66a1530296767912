"""The files that a run leaves at one moment, without the run."""

from __future__ import annotations

import json
import os
import stat
import time
from base64 import urlsafe_b64encode
from pathlib import Path
from typing import Any

import numpy as np

from klmap import status, status_table, store_score
from klmap.cards import Card, write_card
from klmap.config import Hardware
from klmap.preflight import SMALL, TextSet, Wanted
from klmap.status import Overview
from klmap.status_rows import Row

MACHINE = Hardware(gpu_memory_gb=80, max_gpus=4, disk_budget_gb=500)
TEXTS = TextSet("tiny", 10_000, 1024)
COMMIT = "a" * 40
FINGERPRINT = "0123456789ab"
RUN = "klmap_11111111-2222-3333-4444-555555555555"


class Moment:
    """A folder of a workflow in which things are going on; the working directory of the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.results = Path("results")
        self.wanted: list[Wanted] = []
        self.manifest()

    def add(self, id: str, *, card: bool = True, weights: bool = False, **values: Any) -> Wanted:
        """A wanted score; its card says seven billion parameters, 14 GB."""
        name = id.replace("/", "--")
        models = self.results / "models" / name
        if card:
            known = {"commit": COMMIT, "parameters": 7_000_000_000, "bytes": 14_000_000_000}
            write_card(models / "card.json", Card(id, **{**known, **values}))
            os.utime(models / "card.json", (1e9, 1e9))
        if weights:
            (models / "weights").mkdir()
        score = self.results / "tiny" / "scores" / f"{name}.{FINGERPRINT}.h5"
        score.parent.mkdir(parents=True, exist_ok=True)
        item = Wanted(name, name, "tiny", score, "auto", "")
        self.wanted.append(item)
        return item

    def manifest(self, **values: Any) -> None:
        path = self.results / "tiny" / "texts.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"n": 12, "sha256": "texts", "mean_bytes": 900.0, **values}))
        os.utime(path, (1e9, 1e9))

    def lease(self, item: Wanted, *, silent: float = 0.0, **values: Any) -> None:
        """A job on another host, a third of the way."""
        now = time.time()
        known = {
            "token": "t",
            "host": "node07",
            "pid": 4711,
            "process_started": now - 700,
            "job": "",
            "started": now - 600,
            "beat": now - silent,
            "done": 1_000,
            "total": 3_000,
            "left_seconds": 100.0,
            "device": "NVIDIA H200",
        }
        item.score.with_suffix(".lease").write_text(json.dumps({**known, **values}))

    def log(self, item: Wanted, text: str) -> Path:
        return self.write(f"logs/score/tiny/{item.score.stem}.log", text)

    def write(self, path: str, text: str) -> Path:
        """Any file of the folder."""
        found = Path(path)
        found.parent.mkdir(parents=True, exist_ok=True)
        found.write_text(text)
        return found

    def note(self, item: Wanted, job: str | None) -> None:
        """What Snakemake notes when it has submitted or started a job."""
        name = urlsafe_b64encode(str(item.score).encode()).decode()
        self.write(f".snakemake/incomplete/{name}", json.dumps({"external_jobid": job}))

    def started(self, run: str = RUN, *, log: str = "2026-01-01T000000.0") -> None:
        """The log of a run of Snakemake that has submitted a job."""
        lines = f"SLURM run ID: {run}\nJob 1 has been submitted with SLURM jobid 1 (log: x).\n"
        self.write(f".snakemake/log/{log}.snakemake.log", lines)

    def squeue(self, *jobs: str, script: str | None = None) -> None:
        """A fake squeue: jobs as ``number|state|reason|run|comment``, or a script of its own."""
        rows = "".join(f"{job}|{self.folder}\n" for job in jobs)
        self.write("bin/rows", rows)
        fake = self.write("bin/squeue", script or f"#!/bin/sh\ncat {self.folder}/bin/rows\n")
        fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
        if not os.environ["PATH"].startswith(f"{self.folder}/bin"):
            os.environ["PATH"] = f"{self.folder}/bin:{os.environ['PATH']}"

    def look(self, hardware: Hardware = MACHINE) -> Overview:
        return status.look(self.wanted, [TEXTS], self.results, hardware)

    def row(self) -> Row:
        """The only score."""
        [row] = self.look().rows
        return row

    def print(self) -> str:
        return status_table.render(self.look(), Path("results/status.tsv"))


def comment(item: Wanted) -> str:
    """What Snakemake's plugin says that the job of one score is for."""
    return f"rule_score_wildcards_tiny_{item.model}_{FINGERPRINT}"


def write_score(item: Wanted, *, n: int = 12, **attributes: Any) -> None:
    """A finished score of ``n`` texts with 300 tokens each: a minute of a GPU, half of it work."""
    named = {key: attributes.pop(key) for key in ("status", "error", "commit") if key in attributes}
    size = 0 if named.get("status") == "failed" else n
    known = {
        "dtype": "float16",
        "device": "NVIDIA H200",
        "gpus": 1,
        "tokens_per_second": 300 * n / 30,
        "seconds": 60.0,
        "startup_seconds": 20.0,
        "peak_memory": 40_000_000_000,
    }
    score = store_score.Score(
        **{"model": item.model, "commit": COMMIT, "texts_sha256": "texts", **named},
        fingerprint=FINGERPRINT,
        spec={"id": item.source.replace("--", "/"), "revision": None},
        loglik=np.zeros(size),
        n_tokens=np.full(size, 301, np.int32),
        n_scored=np.full(size, 300, np.int32),
        truncated=np.zeros(size, np.bool_),
        attributes={} if named.get("status") == "failed" else known | attributes,
    )
    store_score.write_score(item.score, score)


def write_large(item: Wanted) -> None:
    """A file as large as a score of ten thousand texts, which nobody should have to open."""
    with item.score.open("wb") as file:
        file.truncate(SMALL)
