"""Scores that no configuration asks for any more: list them first, remove them when asked again."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from klmap.config import FINGERPRINT_PATTERN, MODEL_PATTERN
from klmap.files import read_tsv, write_tsv
from klmap.log import logger

_SCORE = re.compile(rf"({MODEL_PATTERN})\.({FINGERPRINT_PATTERN})\.(?:h5|partial|failed\.json)")


def unwanted(index: Path) -> list[Path]:
    """Score files of one text set that its index does not name.

    Args:
        index: ``results/<texts>/index.tsv``, with the columns model and fingerprint.

    Returns:
        Files in ``scores/`` beside the index, sorted; files that klmap did not name are left out.

    Raises:
        InputError: the index is missing or malformed.
    """
    wanted = {(row["model"], row["fingerprint"]) for row in read_tsv(index)}
    found = []
    for path in sorted((index.parent / "scores").glob("*")):
        match = _SCORE.fullmatch(path.name)
        if match and match.groups() not in wanted:
            found.append(path)
    return found


def prune(indexes: Sequence[Path], listing: Path) -> list[Path]:
    """List unwanted scores; remove them if the listing of an earlier call is the same.

    Scores cost GPU hours, so nothing is removed that was not shown before: a configuration can
    be a wrong one, or two configurations can share a results folder.

    Args:
        indexes: one ``index.tsv`` per text set.
        listing: where the list is kept between the two calls.

    Returns:
        The files that were removed.
    """
    files = [path for index in indexes for path in unwanted(index)]
    sizes = [path.stat().st_size for path in files]
    if not files:
        listing.unlink(missing_ok=True)
        logger.info("every score is asked for by this configuration; nothing to remove")
        return []
    shown = [row["file"] for row in read_tsv(listing)] if listing.is_file() else []
    confirmed = shown == [str(path) for path in files]
    for path, size in zip(files, sizes, strict=True):
        logger.info(
            "%s %s (%d kB)", "removing" if confirmed else "not asked for:", path, size // 1000
        )
    if not confirmed:
        write_tsv(listing, ("file", "bytes"), zip(map(str, files), sizes, strict=True))
        logger.info(
            "%d files that this configuration does not ask for, listed in %s. Nothing was "
            "removed yet: run `snakemake prune` again to remove exactly these.",
            len(files),
            listing,
        )
        return []
    for path in files:
        path.unlink()
    listing.unlink()
    logger.info("removed %d files", len(files))
    return files
