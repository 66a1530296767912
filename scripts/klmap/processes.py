"""Which process does something, and whether it is still there."""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil


@dataclass(frozen=True)
class Owner:
    """A process, told apart from a later one with the same number."""

    host: str
    pid: int
    began: float

    @classmethod
    def of(cls, process: psutil.Process) -> Owner:
        """Describe a process of this machine."""
        return cls(socket.gethostname(), process.pid, process.create_time())

    @property
    def is_here(self) -> bool:
        """Whether it is a process of this machine."""
        return self.host == socket.gethostname()

    @property
    def is_alive(self) -> bool:
        """Whether it is running; only to be asked of processes of this machine."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.began) < 1
            return bool(same and process.status() != psutil.STATUS_ZOMBIE)
        except psutil.Error:
            return False


@cache
def workflow() -> Owner | None:
    """The Snakemake process that started this one, as first seen; None where a person did."""
    for process in psutil.Process().parents():
        with contextlib.suppress(psutil.Error):
            if any("snakemake" in Path(part).name for part in process.cmdline()[:3]):
                return Owner.of(process)
    return None


def heads(folder: Path) -> list[Owner]:
    """Snakemake processes of this machine that run the workflow in a folder.

    Processes of single jobs do not count, nor those that only look at what is going on, as the one
    that asks here does.
    """
    me = psutil.Process()
    family = {me.pid, *(process.pid for process in me.parents())}
    home = folder.resolve()
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            words = process.cmdline()
            if (
                process.pid not in family
                and any("snakemake" in Path(word).name for word in words[:3])
                and not {"--mode", "status", "efficiency"} & set(words)
                and Path(process.cwd()) == home
            ):
                found.append(Owner.of(process))
    return found
