"""What tests of SLURM put in the place of scripts/score.py in their clones.

It scores as the real one does, keeps a journal of every attempt in ``journal/``, and does what
files there tell it: ``<model>.hold`` with a number lets it wait after so many batches until the
file is gone; ``<model>.hungry`` lets it need half as much memory again as its first attempt got.
"""

from __future__ import annotations

import json
import mmap
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import real_score

from klmap import log, scorer_run

JOURNAL = Path("journal")
UNRESERVED = 0x4000
"""MAP_NORESERVE, which Python 3.11 has no name for: addresses alone count against the limit."""
MODEL = sys.argv[sys.argv.index("--model") + 1]


def note(event: str, **values: Any) -> None:
    """Append one line to the model's journal."""
    line = {"event": event, "time": time.time(), "job": os.environ["SLURM_JOB_ID"], **values}
    with (JOURNAL / f"{MODEL}.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


def granted() -> int:
    """Megabytes of the allocation."""
    command = ["scontrol", "show", "job", os.environ["SLURM_JOB_ID"]]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return int(text.partition("MinMemoryNode=")[2].split()[0].removesuffix("M"))


def eat(told: Path) -> None:
    """Take memory, and be killed like anything that takes more than it asked for."""
    if not told.read_text():
        told.write_text(str(granted() * 3 // 2))
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * mmap.PAGESIZE + granted() * 2**20
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | UNRESERVED
        mmap.mmap(-1, int(told.read_text()) * 2**20, flags=flags).close()
    except (MemoryError, OSError):
        os.kill(os.getpid(), signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


def main() -> None:
    """Score one model."""
    count = 0
    original = scorer_run.next_batch

    def noted(pieces: Any, start: int, budget: int) -> Any:
        nonlocal count
        if budget > 1:  # not those of the error bar, which takes texts singly
            hold = JOURNAL / f"{MODEL}.hold"
            if hold.exists() and count >= int(hold.read_text()):
                note("held")
            while hold.exists() and count >= int(hold.read_text()):
                time.sleep(0.05)
            count += 1
            note("batch", start=start)
        return original(pieces, start, budget)

    scorer_run.next_batch = noted
    note("begin", gpus=os.environ.get("CUDA_VISIBLE_DEVICES", ""))
    hungry = JOURNAL / f"{MODEL}.hungry"
    if hungry.exists():
        eat(hungry)
    sys.argv += ["--save-every", "0"]
    try:
        real_score.main()
    finally:
        note("end")


if __name__ == "__main__":
    log.run(main)
