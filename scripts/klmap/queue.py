"""Jobs of this folder in the queue of a SLURM cluster, and which run submitted them.

Nothing here is needed: where there is no ``squeue``, or it does not answer, the queue is unknown
and says why. Snakemake's plugin gives all jobs of one run the same name, and each a comment that
says what it is for.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

PATIENCE = 10.0
"""Seconds for which squeue may take to answer (own)."""

COMMENT = "rule_score_wildcards_"
"""What stands in the comment of a scoring job before its wildcards."""

JOB_LOGS = (Path("logs/slurm"), Path(".snakemake/slurm_logs"))
"""Where the plugin keeps the output of jobs: as klmap's profile says, and by itself."""

_FORMAT = "%i|%T|%r|%j|%k|%Z"
_WAITING = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SUSPENDED")
_RUN = re.compile(rb"SLURM run ID: (\S+)")
_SUBMITTED = b"has been submitted with SLURM jobid"
_OUTPUT = re.compile(r"^ *output: (\S+\.h5)\b", re.MULTILINE)
_TAIL = 65536

_ENDS = {
    "DUE TO TIME LIMIT": "its time limit was reached",
    "DUE TO PREEMPTION": "it was preempted",
    "DUE TO NODE FAILURE": "its node failed",
    "oom_kill": "it was killed because it took more host memory than it had asked for",
    "oom-kill": "it was killed because it took more host memory than it had asked for",
    "Out Of Memory": "it was killed because it took more host memory than it had asked for",
}
"""What SLURM writes into the output of a job that it ends, in our words."""


@dataclass(frozen=True)
class Submitted:
    """One job of the queue.

    Attributes:
        number: SLURM's job id.
        state: as SLURM calls it, such as ``PENDING``.
        reason: why it waits, such as ``Priority``; ``None`` where it does not.
        run: name that the jobs of one run of Snakemake share.
        comment: what it is for.
    """

    number: str
    state: str
    reason: str
    run: str
    comment: str

    @property
    def is_waiting(self) -> bool:
        """Whether it has not begun."""
        return self.state in _WAITING


@dataclass(frozen=True)
class Queue:
    """The jobs of one folder.

    Attributes:
        jobs: all that wait or run.
        trouble: why the queue is unknown, in a line; empty where it was read or there is none.
        is_known: whether squeue has answered, so that a job that is not here has ended.
        latest: name of the run that was started last; empty where no log tells.
    """

    jobs: list[Submitted] = field(default_factory=list)
    trouble: str = ""
    is_known: bool = False
    latest: str = ""

    @cached_property
    def by_number(self) -> dict[str, Submitted]:
        """The jobs by SLURM's job id."""
        return {job.number: job for job in self.jobs}

    @property
    def orphans(self) -> dict[str, Counter[str]]:
        """Those of the runs that submitted their jobs before the latest one."""
        return {run: jobs for run, jobs in self.runs.items() if self.latest not in ("", run)}

    @property
    def runs(self) -> dict[str, Counter[str]]:
        """For each run that submitted jobs their number by state."""
        found: dict[str, Counter[str]] = {}
        for job in self.jobs:
            found.setdefault(job.run, Counter())[job.state.lower()] += 1
        return found


def ask(folder: Path, patience: float = PATIENCE) -> Queue:
    """Ask squeue for the jobs that were submitted from a folder by this user.

    Args:
        folder: where Snakemake was started.
        patience: seconds after which squeue is given up.
    """
    program = shutil.which("squeue")
    if program is None:
        return Queue()
    command = [program, "--me", "--noheader", "--format", _FORMAT]
    try:
        done = subprocess.run(command, capture_output=True, timeout=patience)
    except subprocess.TimeoutExpired:
        return Queue(trouble=f"squeue did not answer within {patience:g} s")
    except OSError as error:
        return Queue(trouble=f"squeue cannot be started: {error}")
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        return Queue(trouble=said[-1] if said else f"squeue ended with status {done.returncode}")
    home = os.path.realpath(folder)
    jobs = []
    for line in done.stdout.decode(errors="replace").splitlines():
        cells = line.split("|", 5)
        if len(cells) == 6 and os.path.realpath(cells[5]) == home:
            jobs.append(Submitted(*(cell.strip() for cell in cells[:5])))
    return Queue(jobs, is_known=True, latest=_latest_run(folder) if jobs else "")


def _latest_run(folder: Path) -> str:
    """Name of the last run that submitted anything, from the logs of Snakemake."""
    logs = sorted(folder.glob(".snakemake/log/*.snakemake.log"), reverse=True)
    for path in logs:
        try:
            text = path.read_bytes()
        except OSError:
            continue
        run = _RUN.search(text)
        if run and _SUBMITTED in text:
            return run[1].decode(errors="replace")
    return ""


def outputs_of(job: Submitted, folder: Path) -> Iterator[str]:
    """Scores that a running allocation of several jobs makes, as its output lists them."""
    for logs in JOB_LOGS:
        for path in (folder / logs).glob(f"group_*/{job.number}.log"):
            yield from _OUTPUT.findall(_text(path, whole=True))


def end_of(number: str, folder: Path, what: str = "") -> str:
    """Why SLURM ended a job, in words; empty where nothing says so.

    Args:
        number: SLURM's job id; empty for the last one of a score.
        folder: where Snakemake was started.
        what: wildcards of the score, joined by ``_``, as the plugin names its folder of outputs.
    """
    patterns = [f"*/{number}.log", f"*/*/{number}.log"] if number else [f"rule_score/{what}/*.log"]
    found = [
        path for logs in JOB_LOGS for pattern in patterns for path in (folder / logs).glob(pattern)
    ]
    for path in sorted(found, key=_changed)[-1:]:
        said = _text(path)
        return next((words for mark, words in _ENDS.items() if mark in said), "")
    return ""


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _text(path: Path, *, whole: bool = False) -> str:
    """A job's output, or the end of it; nothing where it cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(0 if whole else max(path.stat().st_size - _TAIL, 0))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
