"""What is going on with one score: done, at work, waiting, failed, and why.

A score that is done is not opened, and whatever is broken or just being replaced is shown as such.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from klmap import allocation, disk, estimates, fetch, leases, queue, store_score
from klmap.cards import Card, read_card
from klmap.config import Hardware
from klmap.errors import InputError
from klmap.estimates import Speed
from klmap.failures import left_reason
from klmap.leases import Lease
from klmap.preflight import SMALL, Wanted
from klmap.queue import Queue, Submitted

DONE = "done"
RUNNING = "running"
SILENT = "silent"
STARTING = "starting"
QUEUED = "queued"
WAITING = "waiting"
INTERRUPTED = "interrupted"
FAILED = "failed"


_TAIL = 16384
_ERROR = re.compile(r"^[\d:]{8} ERROR (.*)$", re.MULTILINE)
_ORDERLY = ("ended by SIG", "interrupted; ", "handed over to", "has taken over", "submitted later")
"""Words of a job that ended because it was asked to; nothing is wrong with its model."""


@dataclass(frozen=True)
class Row:
    """One wanted score and what is going on with it.

    Attributes:
        wanted: the score.
        state: a state of this module.
        reason: what it waits for, or what went wrong, in one line.
        final: whether it has failed for good; the next run tries others again.
        log: where more can be read; empty where nothing went wrong.
        host: where it runs.
        job: its SLURM job; empty without one.
        since: when it began, seconds since 1970.
        share: how much of it is done, 0 to 1; None where that is unknown.
        rate: tokens per second.
        left: seconds until it ends, as its job says.
        gpus: GPUs it needs; 0 on a CPU, or where nothing is known of it.
        seconds: device seconds still to go; None where that is unknown.
        demo: whether it is a model of the demo, which is scored on a CPU.
    """

    wanted: Wanted
    state: str
    reason: str = ""
    final: bool = False
    log: str = ""
    host: str = ""
    job: str = ""
    since: float | None = None
    share: float | None = None
    rate: float | None = None
    left: float | None = None
    gpus: int = 0
    seconds: float | None = None
    demo: bool = False


@dataclass(frozen=True)
class Download:
    """Weights on their way.

    Attributes:
        source: what the model is filed under.
        size: bytes to come in all.
        found: bytes that are here.
        host: where the fetch runs.
        since: when it began, seconds since 1970.
        granted: whether it has its room on the disk, or waits for it.
    """

    source: str
    size: int
    found: int
    host: str
    since: float
    granted: bool


@dataclass(frozen=True)
class Judge:
    """What a score is held against: all that is known without opening a file of its own.

    Attributes:
        results: the results folder.
        folder: where Snakemake runs.
        hardware: as configured.
        manifests: texts.json of each text set, where it is made.
        tokens: of each text set; None where its size is unknown.
        speeds: how fast models are scored, those of the demo (True) and all others.
        scores: for each text set what is in its folder of scores, by name.
        logs: for each text set the logs of its scoring jobs, by name.
        newest: when each card was written, by source; without those that are missing.
        downloads: weights on their way, by source.
        queue: jobs of this folder on the cluster.
        jobs: those of them that make scores, by path or by ``<texts>_<model>_<fp>``.
        started: when Snakemake noted the beginning of the jobs it has not seen to end, by output.
        run: when the run at work on this machine began; None without one.
        now: seconds since 1970.
    """

    results: Path
    folder: Path
    hardware: Hardware
    manifests: Mapping[str, Mapping[str, Any] | None]
    tokens: Mapping[str, float | None]
    speeds: Mapping[bool, Speed]
    scores: Mapping[str, Mapping[str, os.DirEntry[str]]]
    logs: Mapping[str, Mapping[str, os.DirEntry[str]]]
    newest: Mapping[str, float]
    downloads: Mapping[str, Download]
    queue: Queue
    jobs: Mapping[str, Submitted]
    started: Mapping[str, float]
    run: float | None
    now: float
    _cards: dict[str, Card] = field(default_factory=dict)

    def row(self, item: Wanted) -> Row:
        """What is going on with one score."""
        found = self.finished(item)
        if found is not None:
            return found
        row = self.unfinished(item)
        return row if row.final else self.estimated(row)

    def beside(self, item: Wanted, ending: str) -> Path | None:
        """A file that belongs to a score, if there is one."""
        path = item.score.with_suffix(ending)
        return path if path.name in self.scores.get(item.texts, {}) else None

    def finished(self, item: Wanted) -> Row | None:
        """A score that is there; opened only where its size or its time leaves a doubt."""
        entry = self.scores.get(item.texts, {}).get(item.score.name)
        if entry is None:
            return None
        try:
            file = entry.stat()
        except OSError:  # removed in the meantime
            return None
        manifest = self.results / item.texts / "texts.json"
        since = max(self.newest.get(item.source, 0.0), _time_of(manifest))
        if file.st_size >= SMALL and since <= file.st_mtime:
            return Row(item, DONE)
        try:
            known, _ = store_score.read_summary(item.score)
        except InputError as error:
            return Row(item, FAILED, str(error))
        if since > file.st_mtime:
            texts = self.manifests[item.texts]
            sha256 = known.get("texts_sha256") if texts is None else texts["sha256"]
            commit = self.card(item.source).commit
            if (known.get("commit"), known.get("texts_sha256")) != (commit, sha256):
                return None
        if known.get("status") == "failed":
            return Row(item, FAILED, str(known.get("error")), final=True)
        return Row(item, DONE)

    def card(self, source: str) -> Card:
        """A card that is there; one with an error where it cannot be read."""
        if source not in self._cards:
            self._cards[source] = self._read(source)
        return self._cards[source]

    def _read(self, source: str) -> Card:
        path = self.results / "models" / source / "card.json"
        try:
            card = read_card(path)
            float(card.parameters), float(card.bytes), str.upper(card.error), card.size
        except (InputError, OSError) as error:
            return Card(source, error=str(error))
        except (KeyError, TypeError, ValueError) as error:
            reason = f"{path}: not a card that this klmap wrote ({error}); remove it, run again"
            return Card(source, error=reason)
        return card

    def unfinished(self, item: Wanted) -> Row:
        """A score that is not there, by what is known of its job, its weights and its logs."""
        path = self.beside(item, ".lease")
        lease = None if path is None else _lease(path)
        job = self.jobs.get(os.path.normpath(item.score)) or self.jobs.get(wildcards(item))
        if lease is not None and lease.is_alive(self.now):
            return _running(item, lease)
        if job is not None:
            if job.is_waiting:
                return Row(item, QUEUED, job.reason, job=job.number)
            return Row(item, STARTING, "loads, or waits for its turn", job=job.number)
        noted = self.started.get(os.path.normpath(item.score), 0.0)
        if lease is None and self.run is not None and noted >= self.run - 1:
            return Row(item, STARTING, "has no lease yet")
        return self.ended(item, lease) or Row(item, WAITING, self.lacks(item))

    def ended(self, item: Wanted, lease: Lease | None) -> Row | None:
        """An attempt that has ended without a score; None where there was none."""
        if (left := self.left(item)) is not None:
            return left
        if lease is not None:
            return self.silent(item, lease)
        log = self.logs.get(item.texts, {}).get(f"{item.score.stem}.log")
        if log is not None:
            reason = last_error(Path(log.path))
            ended = queue.end_of("", self.folder, wildcards(item))
            if ended and (not reason or any(words in reason for words in _ORDERLY)):
                state = FAILED if "memory" in ended else INTERRUPTED
                return Row(item, state, ended, log=log.path)
            if reason:
                orderly = any(words in reason for words in _ORDERLY)
                return Row(item, INTERRUPTED if orderly else FAILED, reason, log=log.path)
        if self.beside(item, ".partial") or os.path.normpath(item.score) in self.started:
            path = "" if log is None else log.path
            return Row(item, INTERRUPTED, "its job was killed without a word", log=path)
        return self.not_begun(item)

    def left(self, item: Wanted) -> Row | None:
        """A reason for which a score can never be made, as an earlier job has left it."""
        if item.source not in self.newest:
            return None
        card = self.card(item.source)
        path = self.beside(item, ".failed.json")
        reason = card.error or fetch.failure_in(self.weights(item))
        if not reason and path is not None:
            try:
                reason = left_reason(path, card)
            except InputError as error:
                reason = str(error)
        return Row(item, FAILED, reason, final=True) if reason else None

    def silent(self, item: Wanted, lease: Lease) -> Row:
        """A job that gives no sign of life any more."""
        where = f"{lease.whom}, begun {moment(lease.started, self.now)}"
        if lease.job and (ended := queue.end_of(lease.job, self.folder)):
            state = FAILED if "memory" in ended else INTERRUPTED
            return Row(item, state, f"{ended} ({where})", job=lease.job, host=lease.host)
        gone = self.queue.is_known and lease.job and lease.job not in self.queue.by_number
        if lease.owner.is_here or gone:
            return Row(item, INTERRUPTED, f"ended without a word: {where}", job=lease.job)
        minutes = max(self.now - lease.beat, 0) / 60
        reason = f"silent for {minutes:,.0f} min, probably dead: {where}"
        return replace(_running(item, lease), state=SILENT, reason=reason, left=None)

    def not_begun(self, item: Wanted) -> Row | None:
        """A model that could not be looked up, or fetched."""
        stage = "resolve"
        if item.source in self.newest:
            stage = "fetch"
            if item.source in self.downloads or self.weights(item).exists():
                return None
        log = self.folder / "logs" / stage / f"{item.source}.log"
        reason = last_error(log)
        if not reason or any(words in reason for words in _ORDERLY):
            return None
        return Row(item, FAILED, reason, log=str(log))

    def lacks(self, item: Wanted) -> str:
        """What a score waits for."""
        if item.source not in self.newest:
            return "to be looked up"
        found = self.downloads.get(item.source)
        if found is not None:
            return "for weights on their way" if found.granted else "for room on the disk"
        if not self.weights(item).exists():
            return "for weights"
        return "for texts" if self.manifests[item.texts] is None else "to be started"

    def weights(self, item: Wanted) -> Path:
        """Where the weights of a score are while they are needed."""
        return self.results / "models" / item.source / disk.WEIGHTS

    def estimated(self, row: Row) -> Row:
        """The same with GPUs and device seconds still to go."""
        demo = row.wanted.source.startswith("demo--")
        speed = self.speeds[demo]
        item = row.wanted
        tokens = self.tokens[item.texts]
        if tokens is not None:
            tokens *= estimates.read_per_scored(item.reading, self.manifests[item.texts])
        if row.wanted.source not in self.newest:
            return replace(row, demo=demo)
        card = self.card(row.wanted.source)
        settings = (card, row.wanted.dtype, row.wanted.quantization, self.hardware)
        gpus = allocation.gpus_needed(*settings) if speed.gpu else 0
        if row.left is not None:
            seconds: float | None = row.left * max(gpus, 1)
        else:
            how = (max(gpus, 1), row.wanted.dtype, row.wanted.quantization)
            whole = None if tokens is None else speed.seconds(card, tokens, *how)
            seconds = None if whole is None else whole * (1 - (row.share or 0.0))
        return replace(row, gpus=gpus, seconds=seconds, demo=demo)


def wildcards(item: Wanted) -> str:
    """How Snakemake's plugin names the job of a score: its wildcards, joined."""
    model, _, fingerprint = item.score.stem.rpartition(".")
    return f"{item.texts}_{model}_{fingerprint}"


def _lease(path: Path) -> Lease | None:
    try:
        lease = leases.read(path)
        if lease is not None:
            lease.is_alive(0.0), lease.left_seconds is None or float(lease.left_seconds)
    except (OSError, TypeError, ValueError):
        return None
    return lease


def _running(item: Wanted, lease: Lease) -> Row:
    share = min(lease.done / lease.total, 1.0) if lease.total > 0 else None
    rate = None
    if lease.left_seconds and lease.total > lease.done:
        rate = (lease.total - lease.done) / lease.left_seconds
    return Row(
        item,
        RUNNING,
        host=lease.host,
        job=lease.job,
        since=lease.started,
        share=share,
        rate=rate,
        left=lease.left_seconds,
    )


def _time_of(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def last_error(log: Path) -> str:
    """The last error in the log of a script, in one line; empty where there is none.

    Of an unexpected error the last line of its traceback says more.
    """
    try:
        with log.open("rb") as file:
            file.seek(max(log.stat().st_size - _TAIL, 0))
            text = file.read().decode(errors="replace").replace("\0", "")
    except OSError:
        return ""
    found = list(_ERROR.finditer(text))
    if not found:
        return ""
    words = found[-1][1]
    traceback = text[found[-1].end() :].strip().splitlines()
    if traceback and traceback[0].startswith("Traceback"):
        words = f"{words}: {traceback[-1]}"
    return " ".join(words.split())


def moment(when: float, now: float) -> str:
    """A time in words: the clock within a day, else day and clock."""
    pattern = "%H:%M" if abs(now - when) < 86400 else "%d %b %H:%M"
    return time.strftime(pattern, time.localtime(when))
