"""What a scoring job at work says about itself, in a small file beside its score.

``handover`` writes these files; here they are read. A job rewrites its file every few seconds and
removes it when it ends, unless it is killed.
"""

from __future__ import annotations

import errno
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from klmap.files import remove
from klmap.processes import Owner

SILENT = float(os.environ.get("KLMAP_LEASE_SECONDS", "60"))
"""Seconds without a sign of life after which a job on another host counts as dead (own). All
other times of a handover are a part or a multiple of it."""


@dataclass(frozen=True)
class Lease:
    """What a job at work says about itself.

    Attributes:
        token: of this attempt, different from all others.
        host: where it runs.
        pid: its process.
        process_started: when that began, seconds since 1970.
        job: its SLURM job; empty without one.
        started: when the lease was taken, seconds since 1970.
        beat: last sign of life, seconds since 1970.
        done: tokens that have gone through the model, those of earlier attempts included.
        total: tokens that have to; 0 until that is known.
        left_seconds: how long the rest will take; None until that is known.
        device: GPU or processor that computes; empty until that is known.
    """

    token: str
    host: str
    pid: int
    process_started: float
    job: str
    started: float
    beat: float
    done: int = 0
    total: int = 0
    left_seconds: float | None = None
    device: str = ""

    @property
    def owner(self) -> Owner:
        """The process."""
        return Owner(self.host, self.pid, self.process_started)

    @property
    def whom(self) -> str:
        """The job in words."""
        name = f"SLURM job {self.job}" if self.job else f"process {self.pid}"
        return f"{name} on {self.host}"

    def is_alive(self, now: float) -> bool:
        """Whether the job seems to be at work: good enough to show, not to act upon.

        Args:
            now: seconds since 1970.
        """
        return self.owner.is_alive if self.owner.is_here else now - self.beat < SILENT


_TYPES = {
    **dict.fromkeys(("token", "host", "job", "device"), str),
    **dict.fromkeys(("pid", "done", "total"), int),
    **dict.fromkeys(("process_started", "started", "beat"), int | float),
    "left_seconds": int | float | None,
}


def read(path: Path) -> Lease | None:
    """The lease in a file; None where there is none that can be read."""
    return parse(content_of(path))


def ask_of(path: Path) -> Path:
    """Where another job asks for a lease."""
    return path.with_name(f"{path.name}.ask")


def clear(path: Path) -> None:
    """Remove a lease and all that belongs to it."""
    for found in (path, ask_of(path)):
        remove(found)
        for leftover in path.parent.glob(f".{found.name}.*.tmp"):
            remove(leftover)


def content_of(path: Path) -> bytes | None:
    """What is in a file; None where there is none, such as between two of its versions."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ESTALE:
            return None
        raise


def _object(content: bytes | None) -> dict[str, Any] | None:
    try:
        found = json.loads(content or b"")
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def parse(content: bytes | None) -> Lease | None:
    """The lease that a file's content is; None where it is none."""
    found = _object(content)
    if found is None:
        return None
    try:
        lease = Lease(**{name: found[name] for name in _TYPES.keys() & found.keys()})
    except TypeError:
        return None
    is_sound = all(isinstance(getattr(lease, name), kind) for name, kind in _TYPES.items())
    return lease if is_sound else None


def request_of(path: Path) -> dict[str, str] | None:
    """Who asks for a lease, and whom: ``token``, ``to`` and ``whom``."""
    found = _object(content_of(ask_of(path)))
    if found is None or not {"token", "to", "whom"} <= found.keys():
        return None
    return {key: str(found[key]) for key in ("token", "to", "whom")}
