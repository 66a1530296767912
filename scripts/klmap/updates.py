"""Files that a job brings up to date: what becomes of them when the job fails.

Knows the classes of a running Snakemake, which hands them over; nothing is imported from it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any


def leave_alone(backup: Any, persistence: Any) -> None:
    """Keep Snakemake from taking an old file for a new one when the job that updates it fails.

    It copies a file flagged ``update`` before its job, copies it back when the job fails, which
    makes it newer than what it should have been made from, and notes the job as finished. Nothing
    that klmap writes is ever half done, so the file stays as it is, with its time, and no note is
    made: the next run sees what it would have seen without the failure.

    Args:
        backup: Snakemake's class that copies files, ``FileBackupMixin``.
        persistence: its class that keeps notes, ``PersistenceBase``.
    """
    failed = set()
    note = persistence.finished

    def keep(_: object, path: Path) -> None:
        """Make no copy."""

    def fail(_: object, path: Path) -> bool:
        """Remember that the job of this file has failed."""
        failed.add(str(path))
        return path.exists()

    async def finish(notes: Any, job: Any) -> None:
        """Note a finished job, and forget a failed one."""
        if failed.isdisjoint(map(str, job.output)):
            await note(notes, job)
        else:
            failed.difference_update(map(str, job.output))
            notes.cleanup(job)

    backup.backup_output = keep
    backup.restore_output = fail
    persistence.finished = finish
