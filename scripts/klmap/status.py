"""What a run is doing, from the files it leaves and the queue of the cluster.

Nothing is asked of the network and no score that is done is opened, so it is quick for thousands
of models, and it may be called while a run is at work.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from klmap import disk, efficiency, estimates, queue
from klmap.config import Hardware
from klmap.errors import InputError
from klmap.estimates import Speed
from klmap.files import read_json, write_tsv
from klmap.notes import NOTES, cluster_job, read_notes
from klmap.preflight import TextSet, Wanted
from klmap.processes import Owner, heads
from klmap.queue import Queue, Submitted
from klmap.status_rows import Download, Judge, Row

OPENED = 500
"""Score files whose cost is read in one call; the next call goes on."""

_THREADS = 16
_COLUMNS = (
    *("model", "source", "texts", "state", "final", "share", "tokens_per_second"),
    *("seconds_left", "gpus", "hours_left", "host", "job", "since", "reason", "log"),
)


@dataclass(frozen=True)
class Overview:
    """Everything at one moment.

    Attributes:
        rows: one per wanted score, in the order of the plan.
        downloads: weights on their way.
        disk: bytes of all weights on the disk.
        queue: jobs of this folder on the cluster.
        heads: Snakemake processes of this folder on this machine.
        costs: what the finished scores have cost.
        uncounted: score files whose cost is not read yet.
        speed: how fast all but demo models are scored.
        now: when it was, seconds since 1970.
    """

    rows: list[Row]
    downloads: list[Download]
    disk: int
    queue: Queue
    heads: list[Owner]
    costs: list[efficiency.Cost]
    uncounted: int
    speed: Speed
    now: float


def look(
    wanted: Sequence[Wanted],
    texts: Sequence[TextSet],
    results: Path,
    hardware: Hardware,
    folder: Path = Path(),
) -> Overview:
    """Look at everything once.

    Args:
        wanted: the scores that the configuration asks for.
        texts: the configured text sets.
        results: the results folder.
        hardware: as configured.
        folder: where Snakemake runs; paths are relative to it.
    """
    measured = _measured(results)
    demo_speed, speed = estimates.speeds(measured, hardware)
    manifests = {text.name: _manifest(results / text.name / "texts.json") for text in texts}
    tokens = {
        text.name: estimates.tokens_of(text.n, text.max_bytes, manifests[text.name], measured)
        for text in texts
    }
    costs, uncounted = efficiency.read(results, hardware.gpu_memory_gb, OPENED)
    jobs = queue.ask(folder)
    at_work = heads(folder)
    downloads, taken = _downloads(results / "models")
    judge = Judge(
        results=results,
        folder=folder,
        hardware=hardware,
        manifests=manifests,
        tokens=tokens,
        speeds={True: demo_speed, False: speed},
        scores={text.name: _listing(results / text.name / "scores") for text in texts},
        logs={text.name: _listing(folder / "logs" / "score" / text.name) for text in texts},
        newest=_changed({item.source for item in wanted}, results),
        downloads={found.source: found for found in downloads},
        queue=jobs,
        jobs=_jobs_by_score(jobs, folder),
        started=_started(folder),
        run=min((head.began for head in at_work), default=None),
        now=time.time(),
    )
    rows = [judge.row(item) for item in wanted]
    return Overview(rows, downloads, taken, jobs, at_work, costs, uncounted, speed, judge.now)


def write_rows(path: Path, overview: Overview) -> None:
    """Write status.tsv, one line per wanted score; empty cells for what is not known."""
    write_tsv(path, _COLUMNS, map(_cells, overview.rows))


def _cells(row: Row) -> tuple[Any, ...]:
    item = row.wanted
    hours = None if row.seconds is None else row.seconds / 3600
    since = None if row.since is None else int(row.since)
    return (
        *(item.model, item.source, item.texts, row.state, str(row.final).lower()),
        *(row.share, row.rate, row.left, row.gpus or None, hours),
        *(row.host, row.job, since, row.reason, row.log),
    )


def _measured(results: Path) -> list[estimates.Measured]:
    try:
        return estimates.measure(results)
    except OSError:  # a file was just removed, or the folder is somebody else's
        return estimates.read_measured(results)


def _manifest(path: Path) -> dict[str, Any] | None:
    """The manifest of a text set; None where it is missing or broken."""
    try:
        found = read_json(path)
        float(found["n"]), float(found["mean_bytes"]), str(found["sha256"])
    except (InputError, OSError, KeyError, TypeError, ValueError):
        return None
    return found


def _listing(folder: Path) -> dict[str, os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name: entry for entry in entries}
    except OSError:
        return {}


def _changed(sources: Iterable[str], results: Path) -> dict[str, float]:
    """When each card was written; without those that are missing."""

    def one(source: str) -> tuple[str, float | None]:
        try:
            return source, Path(f"{results}/models/{source}/card.json").stat().st_mtime
        except OSError:
            return source, None

    # On a network file system each question waits for an answer.
    with ThreadPoolExecutor(_THREADS) as pool:
        return {name: at for name, at in pool.map(one, sources, chunksize=64) if at is not None}


def _downloads(models: Path) -> tuple[list[Download], int]:
    """Fetches at work, those that have their room first, and bytes of all weights on the disk."""
    budget = disk.Budget(models, 0)
    found, taken = [], 0
    for path in sorted(budget.ledger.glob("*.json")):
        try:
            claim = disk.read_claim(path)
            partial = disk.size_of(models / claim.source / disk.PARTIAL)
            taken += partial + disk.size_of(models / claim.source / disk.WEIGHTS)
            if budget.is_active(claim):
                known = (claim.source, int(claim.size), partial, claim.owner.host)
                found.append(Download(*known, float(claim.since), bool(claim.granted)))
        except (InputError, OSError, KeyError, TypeError, ValueError):
            continue
    return sorted(found, key=lambda one: not one.granted), taken


def _started(folder: Path) -> dict[str, float]:
    """When Snakemake noted the beginning of each job it has not seen to end, by output."""
    found = {}
    for output, note in read_notes(folder / NOTES):
        with contextlib.suppress(OSError):
            found[output] = note.stat().st_mtime
    return found


def _jobs_by_score(jobs: Queue, folder: Path) -> dict[str, Submitted]:
    """The job of the queue that makes each score, by its path or by ``<texts>_<model>_<fp>``.

    A job alone says it in its comment. One that makes several is noted by Snakemake until it
    begins; then its output lists them.
    """
    found: dict[str, Submitted] = {}
    for job in jobs.jobs:
        if job.comment.startswith(queue.COMMENT):
            found[job.comment.removeprefix(queue.COMMENT)] = job
        elif not job.is_waiting:
            found |= dict.fromkeys(map(os.path.normpath, queue.outputs_of(job, folder)), job)
    if jobs.jobs:
        for output, note in read_notes(folder / NOTES):
            number = cluster_job(note) if output.endswith(".h5") else ""
            if number in jobs.by_number:
                found.setdefault(output, jobs.by_number[number])
    return found
