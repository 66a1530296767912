"""The disk budget: how much room downloaded weights may take, and who gets it next.

Every fetch claims its room in a small file below ``models/_disk`` before it downloads a byte, and
waits while there is none. The one that scoring wants first gets room first, the others behind it
wait: so a large model is never overtaken for ever. A claim lasts as long as there are weights, or
a part of them, behind it. Nobody has to give it back, so nothing is lost with a killed process.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from filelock import SoftFileLease

from klmap.errors import InputError, KlmapError, PermanentFailure
from klmap.files import read_json, remove, size_in_words, write_json
from klmap.log import logger
from klmap.notes import NOTES, read_notes
from klmap.processes import Owner, workflow

WEIGHTS = "weights"
PARTIAL = ".weights.partial"
"""Where files stand until all of them are there; kept after a failure, to go on from."""

POLL = 1.0
"""Seconds between two looks at the ledger."""

GRACE = float(os.environ.get("KLMAP_DISK_GRACE", "900"))
"""Seconds for which a workflow must have stood still before weights are given up (own): longer
than a cluster is left unasked, because until then an ended job is not known to have ended."""

SILENT = 300.0
"""Seconds after which the owner of a claim on another machine counts as dead (own)."""

BEAT = 20.0

LEASE = 15.0
"""Seconds after which the lock of the ledger is taken from a process that does not renew it."""

TELL = 600.0
"""Seconds between two lines in the log of a fetch that waits."""

SETTLE = 2.0
"""Seconds for which a fetch lets others get in line before it, where room is short."""

PATIENCE = 120.0
"""Seconds for which a merge waits for room before it takes it all the same (own).

Shorter than GRACE, and long enough for scores of small models to end.
"""

OVERHEAD = 4096
"""Bytes reckoned for each file besides its content: notes that the download library makes."""


@dataclass
class Claim:
    """Room that one model asks for, or holds.

    Attributes:
        source: what the model is filed under.
        size: bytes it may take.
        place: rank in the order in which scoring wants the models.
        since: when it was made, seconds since 1970.
        granted: whether it has its room.
        owner: the process that fetches.
        run: the workflow that started that process, if any.
        ended: whether that process has ended its fetch, well or badly.
        patience: seconds after which it takes its room whether there is some or not, because what
            it waits for may be waiting for it; None waits for ever.
    """

    source: str
    size: int
    place: int
    since: float
    granted: bool
    owner: Owner
    run: Owner | None
    ended: bool = False
    patience: float | None = None

    @property
    def rank(self) -> tuple[bool, int, float, str]:
        """Whose turn it is: the smallest first, and before all others what makes room itself."""
        return self.patience is None, self.place, self.since, self.source


class Budget:
    """What the weights below one folder may take together.

    Args:
        models: folder of ``<source>/weights``.
        limit: bytes.
        grace: seconds for which a workflow must have stood still before weights are given up.
    """

    def __init__(self, models: Path, limit: int, grace: float = GRACE) -> None:
        self.models = models
        self.limit = limit
        self.grace = grace
        self.ledger = models / "_disk"
        self._still_since: float | None = None

    @contextlib.contextmanager
    def room(
        self, source: str, size: int, files: int, place: int, patience: float | None = None
    ) -> Iterator[None]:
        """Wait until there is room for a model, and hold it while the block fetches.

        A merge frees the room of its parents when it is done. If it waited for room like a fetch,
        two of them could wait for the parents of each other for ever; so it comes before all
        fetches, and after some time takes its room beyond the budget. Fetches then wait until
        that is free again.

        Args:
            source: what the model is filed under.
            size: bytes of what will be downloaded.
            files: number of files that will be downloaded.
            place: rank in the order in which scoring wants the models.
            patience: seconds after which the room is taken whether there is some or not; None
                waits for ever.

        Raises:
            PermanentFailure: the model is larger than the whole budget.
            KlmapError: the workflow that asked for it has ended.
        """
        if size > self.limit:
            raise PermanentFailure(too_large(source, size, self.limit), "too large")
        if not size:
            yield
            return
        me = Owner.of(psutil.Process())
        needed = min(size + OVERHEAD * (files + 4), self.limit)
        claim = Claim(source, needed, place, time.time(), False, me, workflow(), patience=patience)
        self._register(claim)
        stop = threading.Event()
        threading.Thread(target=self._beat, args=(claim, stop), daemon=True).start()
        try:
            self._wait(claim)
            yield
        finally:
            stop.set()
            with self._lock():
                if self._taken(source):
                    claim.ended = True
                    self._write(claim)
                else:
                    self._path(source).unlink(missing_ok=True)

    def _register(self, claim: Claim) -> None:
        """Get in line, when no other process is fetching this model any more.

        A fetch whose workflow was killed notices within a second and ends; one that was submitted
        to a cluster goes on, and leaves what it has fetched.
        """
        told = False
        while True:
            self._check(claim)
            with self._lock():
                other = self._claims().get(claim.source)
                if other is None or not self.is_active(other):
                    self._adopt(claim)
                    self._write(claim)
                    return
            if not told:
                told = True
                logger.info(
                    "%s: process %d on %s is fetching it already; waiting until it has ended",
                    *(claim.source, other.owner.pid, other.owner.host),
                )
            time.sleep(POLL)

    def _adopt(self, claim: Claim) -> None:
        """Count what is on the disk without a claim, such as after the ledger was removed."""
        for name in (WEIGHTS, PARTIAL):
            for path in self.models.glob(f"*/{name}"):
                source = path.parent.name
                if source != claim.source and not self._path(source).exists() and size_of(path):
                    size = self._taken(source)
                    self._write(Claim(source, size, 0, 0.0, True, claim.owner, None, ended=True))

    @staticmethod
    def _check(claim: Claim) -> None:
        if claim.run is not None and not claim.run.is_alive:
            raise KlmapError(f"{claim.source}: the workflow that asked for it has ended")

    def _wait(self, claim: Claim) -> None:
        told = time.monotonic() - TELL + 5 * SETTLE
        while True:
            # First of all: what a killed workflow leaves is for the next one to go on from.
            self._check(claim)
            with self._lock():
                lack = self._lack(claim)
                if claim.patience is not None:
                    if time.time() - claim.since >= claim.patience:
                        lack = 0
                elif lack is not None and lack > 0 and self._stands_still(claim):
                    lack -= self._give_up_weights(claim, lack)
                if lack is not None and lack <= 0:
                    claim.granted = True
                    self._write(claim)
                    return
            if time.monotonic() - told > TELL:
                told = time.monotonic()
                logger.info("%s: waiting for room, %s", claim.source, self._state(lack))
            time.sleep(POLL)

    def _state(self, lack: int | None) -> str:
        if lack is None:
            return "other models come first"
        return f"{size_in_words(lack)} more than the budget of {size_in_words(self.limit)} leaves"

    def _lack(self, claim: Claim) -> int | None:
        """Bytes by which the budget is too small just now; None where it is not this one's turn.

        What failed fetches have left behind goes before anybody has to wait.
        """
        others = [found for found in self._claims().values() if found.source != claim.source]
        waiting = [found for found in others if not found.granted and self.is_active(found)]
        if any(found.rank < claim.rank for found in waiting):
            return None
        # What an earlier attempt has left of a waiting model is on the disk as well.
        held = sum(self._held(found) for found in others)
        lack = held + claim.size - self.limit
        # Fetches that are started together get in line in any order.
        if lack + 3 * claim.size > 0 and time.time() - claim.since < SETTLE:
            return None
        for found in sorted(others, key=lambda found: found.rank, reverse=True):
            partial = self.models / found.source / PARTIAL
            idle = found in waiting or not self.is_active(found)
            if lack > 0 and idle and partial.exists():
                lack -= size_of(partial)
                logger.info("%s: what an interrupted fetch left is removed", found.source)
                remove(partial)
        return lack

    def _held(self, claim: Claim) -> int:
        """Bytes that count for a claim: all that was granted while somebody fetches."""
        if claim.granted and self.is_active(claim):
            return claim.size
        return self._taken(claim.source)

    def _taken(self, source: str) -> int:
        return sum(size_of(self.models / source / name) for name in (WEIGHTS, PARTIAL))

    def _stands_still(self, claim: Claim) -> bool:
        """Whether nothing but waiting fetches has been at work for a while.

        Then the weights that take the room belong to scores that have failed, or to models that
        nobody asks for any more: waiting for them would never end.
        """
        now = time.monotonic()
        if self._works(claim):
            self._still_since = None
        elif self._still_since is None:
            self._still_since = now
        return self._still_since is not None and now - self._still_since >= self.grace

    def _works(self, claim: Claim) -> bool:
        """Whether the workflow has a job, submitted or running, that is no waiting fetch.

        Snakemake keeps a note for the output of every such job. Where they cannot be read, the
        answer is yes: weights that may be in use are never given up.
        """
        locks = [path.stat().st_mtime for path in Path(".snakemake/locks").glob("*")]
        waiting = {
            os.path.normpath(self.models / found.source / WEIGHTS)
            for found in self._claims().values()
            if not found.granted and self.is_active(found)
        }
        if not locks:
            return True
        jobs = _outputs_in_work(NOTES, max(locks) - 1)
        mine = os.path.normpath(self.models / claim.source / WEIGHTS)
        return mine not in jobs or bool(jobs - waiting)

    def _give_up_weights(self, claim: Claim, lack: int) -> int:
        """Remove weights that nothing works on; returns the bytes that became free."""
        free = 0
        for found in sorted(self._claims().values(), key=lambda found: found.rank, reverse=True):
            mine = found.run == claim.run or found.run is None
            ended = found.run is not None and found.run.is_here and not found.run.is_alive
            if free >= lack or self.is_active(found) or not (mine or ended):
                continue
            weights = self.models / found.source / WEIGHTS
            if not weights.exists():
                continue
            free += size_of(weights)
            logger.warning(
                "%s: its weights are removed, because no job uses them and %s needs the room; if "
                "its score is still missing, the next run fetches them again",
                found.source,
                claim.source,
            )
            remove(weights)
        return free

    def _claims(self) -> dict[str, Claim]:
        """All claims with somebody or something behind them; others are forgotten."""
        found = {}
        for path in self.ledger.glob("*.json"):
            try:
                claim = read_claim(path)
            except (InputError, TypeError, KeyError):
                path.unlink(missing_ok=True)
                continue
            if self.is_active(claim) or self._taken(claim.source):
                found[claim.source] = claim
            else:
                path.unlink(missing_ok=True)
        return found

    def is_active(self, claim: Claim) -> bool:
        """Whether the process that made a claim is still at it."""
        if claim.ended:
            return False
        if claim.owner.is_here:
            return claim.owner.is_alive
        try:
            return time.time() - self._path(claim.source).stat().st_mtime < SILENT
        except FileNotFoundError:
            return False

    def _beat(self, claim: Claim, stop: threading.Event) -> None:
        """Show other machines that the owner of a claim is alive."""
        while not stop.wait(BEAT):
            with contextlib.suppress(OSError):
                os.utime(self._path(claim.source))

    def _path(self, source: str) -> Path:
        return self.ledger / f"{source}.json"

    def _write(self, claim: Claim) -> None:
        write_json(self._path(claim.source), asdict(claim))

    def _lock(self) -> SoftFileLease:
        """One process at a time, on any file system; one that died with it blocks not for long."""
        self.ledger.mkdir(parents=True, exist_ok=True)
        return SoftFileLease(self.ledger / ".lock", lease_duration=LEASE, poll_interval=0.05)


def too_large(source: str, size: float, limit: float) -> str:
    """Why a model can never be fetched within a budget, and what to do.

    Args:
        source: what the model is filed under, or its name.
        size: bytes to download.
        limit: the budget in bytes.
    """
    return (
        f"{source}: {size_in_words(size)} to download, and hardware.disk_budget_gb allows "
        f"{size_in_words(limit)}; raise hardware.disk_budget_gb if the disk has room, give a local "
        "folder with the model, or remove it from config.yaml"
    )


def read_claim(path: Path) -> Claim:
    """Read one claim.

    Raises:
        InputError, KeyError, TypeError: it is broken, or gone.
    """
    values = read_json(path)
    run = values.pop("run")
    owner = Owner(**values.pop("owner"))
    return Claim(**values, owner=owner, run=None if run is None else Owner(**run))


def size_of(folder: Path) -> int:
    """Bytes of the files in a folder, 0 where there is none; links take no room here."""
    return sum(file.st_size for _, file in _files(folder))


def _files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """The regular files below a folder; others may remove them, and it, in the meantime."""
    for root, _, names in os.walk(folder):
        for name in names:
            path = Path(root, name)
            with contextlib.suppress(FileNotFoundError):
                found = path.lstat()
                if stat.S_ISREG(found.st_mode):
                    yield path, found


def _outputs_in_work(folder: Path, since: float) -> set[str]:
    """Outputs of the jobs that Snakemake has started since a time and not seen to end."""
    found = set()
    for output, note in read_notes(folder):
        with contextlib.suppress(FileNotFoundError):
            if note.lstat().st_mtime >= since:
                found.add(output)
    return found
