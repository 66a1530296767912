"""One job at a time works at a score; a later one takes over from an earlier one.

A Snakemake that was killed leaves its jobs running, and started again it submits them once more. So
a scoring job holds a lease, and another one asks for it: the holder saves behind its batch and
ends, the other goes on from there. The later submission wins, because somebody waits for it. What
a dead job left is taken: at once where it can be known to be dead, else when its lease has not
changed for a minute by the clock of whoever reads it. Clocks of two hosts are never compared.

Should two jobs hold a lease all the same, the one whose file was replaced notices and ends. Nothing
is corrupted meanwhile: all that they write is renamed into place.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from uuid import uuid4

import psutil

from klmap.errors import KlmapError
from klmap.files import remove
from klmap.interruption import Interruption
from klmap.leases import SILENT, Lease, ask_of, clear, content_of, parse, read, request_of
from klmap.log import Progress, logger
from klmap.processes import Owner

BEAT = SILENT / 6
"""Seconds between two signs of life."""

POLL = SILENT / 60
"""Seconds between two looks of a job that waits for another one."""

NEARLY_DONE = 2 * SILENT
"""Seconds that a holder may still need and is waited for: handing over costs loading the model."""

PATIENCE = 30 * SILENT
"""Seconds after which a holder that gets no further counts as hanging (own); loading the largest
models takes less."""

TELL = 10 * SILENT
"""Seconds between two lines in the log of a job that waits."""


@contextlib.contextmanager
def hold(path: Path, interruption: Interruption, device: Callable[[], str] = str) -> Iterator[Held]:
    """Hold a lease while the block works; wait for it first where another job holds it.

    Args:
        path: the lease.
        interruption: asked to end the work when another job takes over.
        device: names the GPU or processor of this job. Nothing is continued on another kind of
            device, so a job on another kind is waited for instead of asked.

    Raises:
        KlmapError: a job that was submitted later works at this score.
    """
    held = Held(path, interruption, device)
    held.acquire()
    try:
        yield held
    finally:
        held.release()


class Held:
    """One job's lease: to be taken, kept alive and given back.

    Args:
        path: the lease.
        interruption: asked to end the work when another job takes over.
        device: names the GPU or processor of this job.
    """

    def __init__(
        self, path: Path, interruption: Interruption, device: Callable[[], str] = str
    ) -> None:
        self.path = path
        self.interruption = interruption
        self.device = device
        me = Owner.of(psutil.Process())
        now = time.time()
        self.lease = Lease(
            token=uuid4().hex,
            host=me.host,
            pid=me.pid,
            process_started=me.began,
            job=os.environ.get("SLURM_JOB_ID", ""),
            started=now,
            beat=now,
        )
        self._progress: Progress | None = None
        self._ahead = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def follow(self, progress: Progress, ahead: int, device: str) -> None:
        """Tell from now on how far the work is.

        Args:
            progress: counts tokens.
            ahead: tokens that were done before ``progress`` began to count.
            device: GPU or processor that computes.
        """
        self.lease = replace(self.lease, device=device)
        self._progress, self._ahead = progress, ahead

    @property
    def is_mine(self) -> bool:
        """Whether no other job has taken the lease."""
        found = read(self.path)
        return found is None or found.token == self.lease.token

    def acquire(self) -> None:
        """Take the lease, as soon as no other job holds it.

        Raises:
            KlmapError: a job that was submitted later holds it.
        """
        try:
            self._wait()
        finally:
            asked = request_of(self.path)
            if asked is not None and asked["token"] == self.lease.token:
                remove(ask_of(self.path))
        self.lease = replace(self.lease, started=time.time())
        self._thread.start()

    def release(self) -> None:
        """Give the lease back, if it is still this job's."""
        self._ended.set()
        self._thread.join()
        if self.is_mine:
            clear(self.path)

    def _wait(self) -> None:
        beats, work, told = _Still(), _Still(), _Still()
        while not self._create():
            content = content_of(self.path)
            other = parse(content)
            if other is not None and other.token == self.lease.token:
                return  # the link was made, but a network file system lost its own answer
            is_over = other is not None and self._is_over(other)
            silent = beats.seconds(content)
            hangs = other is not None and work.seconds((other.token, other.done)) > PATIENCE
            if content is not None and (is_over or silent > SILENT or hangs):
                whom = "a job whose lease cannot be read" if other is None else other.whom
                why = "gets no further" if hangs else "is not there any more"
                logger.info("%s: held by %s, which %s; taking over", self.path, whom, why)
                if self._take(settle=not is_over):
                    return
                continue
            if other is not None:
                reason = self._negotiate(other)
                if told.seconds(reason, every=TELL) == 0:
                    logger.info("%s: %s", self.path, reason)
            time.sleep(POLL)

    def _is_over(self, other: Lease) -> bool:
        """Whether a job is known to be dead, however young its last sign of life."""
        if other.owner.is_here:
            return not other.owner.is_alive
        # SLURM starts a job again under its number when the first run of it is gone.
        return bool(self.lease.job) and other.job == self.lease.job

    def _negotiate(self, other: Lease) -> str:
        """Ask for the lease, unless the other job is nearly done; says what is waited for.

        Raises:
            KlmapError: the other job was submitted later.
        """
        mine, theirs = self.lease.job, other.job
        if mine.isdecimal() and theirs.isdecimal() and int(mine) < int(theirs):
            raise KlmapError(
                f"{self.path}: {other.whom} works at this score and was submitted later than this "
                f"job, {mine}, so this one ends; nothing is lost and nothing has to be done"
            )
        if other.left_seconds is not None and other.left_seconds < NEARLY_DONE:
            return f"{other.whom} works at this score and is nearly done; waiting for it"
        if other.device and other.device != self.device():
            return (
                f"{other.whom} works at this score on another kind of device, {other.device}, "
                "where this job could not go on; waiting for it"
            )
        asked = request_of(self.path)
        if asked is None or asked["to"] != other.token:
            request = {"token": self.lease.token, "to": other.token, "whom": self.lease.whom}
            self._put(ask_of(self.path), json.dumps(request))
        return (
            f"{other.whom} works at this score; it was asked to save behind its batch and to end, "
            "so that this job goes on from there; waiting for it"
        )

    def _create(self) -> bool:
        """Make the file if there is none, as one step on any file system."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(f".{self.path.name}.{self.lease.token}.tmp")
        try:
            temporary.write_text(self._now(), encoding="utf-8")
            try:
                os.link(temporary, self.path)
            except FileExistsError:
                raise
            except OSError:  # a file system without links
                with self.path.open("x", encoding="utf-8") as file:
                    file.write(self._now())
        except FileExistsError:
            return False
        finally:
            remove(temporary)
        return True

    def _take(self, *, settle: bool) -> bool:
        """Replace another job's lease; of several that do so at a time the last one has it."""
        self._put(self.path, self._now())
        if settle:
            time.sleep(POLL)
        found = read(self.path)
        return found is not None and found.token == self.lease.token

    def _put(self, path: Path, text: str) -> None:
        """Replace a file at one stroke; not at all if whoever clears up takes it for a leftover.

        Unlike what is worth keeping it is not flushed: with hundreds of jobs that is a burden on a
        file server, and a lease does not have to survive its machine.
        """
        temporary = path.with_name(f".{path.name}.{self.lease.token}.tmp")
        try:
            temporary.write_text(text, encoding="utf-8")
            with contextlib.suppress(FileNotFoundError):
                temporary.replace(path)
        finally:
            remove(temporary)

    def _now(self) -> str:
        """The lease as it is to be written."""
        lease = replace(self.lease, beat=time.time())
        if self._progress is not None:
            left = self._progress.left
            lease = replace(
                lease,
                done=self._ahead + self._progress.done,
                total=self._ahead + self._progress.total,
                left_seconds=round(left, 1) if math.isfinite(left) else None,
            )
        return json.dumps(asdict(lease), indent=2) + "\n"

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            with contextlib.suppress(OSError):
                if not self._renew():
                    return

    def _renew(self) -> bool:
        """Give a sign of life and look for requests; False once another job has the lease."""
        found = read(self.path)
        if found is not None and found.token != self.lease.token:
            error = KlmapError(
                f"{self.path}: {found.whom} has taken over this score, because this job gave no "
                "sign of life or got no further; this one ends"
            )
            self.interruption.ask(error, saves=False)
            return False
        if content_of(self.path) is None:
            self._create()  # somebody removed it, and somebody else may be quicker
        else:
            self._put(self.path, self._now())
        asked = request_of(self.path)
        if asked is not None and asked["to"] == self.lease.token:
            error = KlmapError(
                f"{self.path}: handed over to {asked['whom']}, which goes on from what was saved; "
                "this job ends"
            )
            self.interruption.ask(error)
        return True


class _Still:
    """For how long something has been the same, by the clock of this process."""

    def __init__(self) -> None:
        self._seen: object = self
        self._since = 0.0

    def seconds(self, seen: object, every: float = math.inf) -> float:
        """Seconds since it became as it is; 0 when it is new, or has been so for ``every``."""
        now = time.monotonic()
        if seen != self._seen or now - self._since >= every:
            self._seen, self._since = seen, now
        return now - self._since
