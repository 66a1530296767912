"""What Snakemake notes about jobs at work: one small file per output, named after its path."""

from __future__ import annotations

import contextlib
import json
import os
from base64 import urlsafe_b64decode
from collections.abc import Iterator
from pathlib import Path

NOTES = Path(".snakemake/incomplete")
"""Where they stand, below the folder of the workflow."""


def read_notes(folder: Path = NOTES) -> Iterator[tuple[str, Path]]:
    """Outputs of the jobs that were started and not seen to end, each with the note about it.

    The notes of a workflow that was killed stay. Files that are no notes are left out.
    """
    for root, _, names in os.walk(folder):
        for name in names:
            path = Path(root, name)
            # Long names are cut; all parts but the last are folders.
            parts = [part.removeprefix("@") for part in path.relative_to(folder).parts]
            with contextlib.suppress(ValueError):
                yield os.path.normpath(urlsafe_b64decode("".join(parts)).decode()), path


def cluster_job(note: Path) -> str:
    """Number of the cluster's job that a note is about; empty for a job of this machine.

    Empty, too, once that job has begun: Snakemake writes the note anew on the node.
    """
    try:
        found = json.loads(note.read_text(encoding="utf-8"))
        return str(found["external_jobid"] or "")
    except (OSError, ValueError, KeyError, TypeError):
        return ""
