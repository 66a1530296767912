"""Scores and weights that no configuration asks for: list them first, remove when asked again."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path

from klmap import disk, leases
from klmap.config_models import FINGERPRINT_PATTERN, MODEL_PATTERN
from klmap.files import read_tsv, remove, write_tsv
from klmap.log import logger

_SCORE = re.compile(
    rf"({MODEL_PATTERN})\.({FINGERPRINT_PATTERN})\.(?:h5|partial|failed\.json|lease|lease\.ask)"
)


def unwanted(*indexes: Path) -> list[Path]:
    """Score files of one text set that none of its indexes names.

    Args:
        indexes: ``results/<texts>/index.tsv``, with the columns model and fingerprint, and that of
            the models off the map where there are some.

    Returns:
        Files in ``scores/`` beside them, sorted; files that klmap did not name are left out,
        and those of a score at which a job is at work.

    Raises:
        InputError: the index is missing or malformed.
    """
    wanted = {(row["model"], row["fingerprint"]) for index in indexes for row in read_tsv(index)}
    found = []
    for path in sorted((indexes[0].parent / "scores").glob("*")):
        match = _SCORE.fullmatch(path.name)
        if match and match.groups() not in wanted and not _at_work(path, *match.groups()):
            found.append(path)
    return found


def _at_work(path: Path, model: str, fingerprint: str) -> bool:
    lease = leases.read(path.with_name(f"{model}.{fingerprint}.lease"))
    return lease is not None and lease.is_alive(time.time())


def unwanted_weights(indexes: Sequence[Path], models: Path) -> list[Path]:
    """Weights, or parts of them, of models that no index names: rests of runs that were killed.

    Args:
        indexes: one ``index.tsv`` per text set, with the column source.
        models: folder of ``<source>/weights``.
    """
    wanted = {row["source"] for index in indexes for row in read_tsv(index)}
    return [
        path
        for name in (disk.WEIGHTS, disk.PARTIAL)
        for path in sorted(models.glob(f"*/{name}"))
        if path.parent.name not in wanted
    ]


def prune(indexes: Sequence[Path], models: Path, listing: Path) -> list[Path]:
    """List unwanted scores and weights; remove them if the listing of an earlier call is the same.

    Scores cost GPU hours, so nothing is removed that was not shown before: a configuration can
    be a wrong one, or two configurations can share a results folder.

    Args:
        indexes: ``index.tsv`` of each text set, and ``offmap-index.tsv`` where there is one.
        models: folder of ``<source>/weights``.
        listing: where the list is kept between the two calls.

    Returns:
        The files and folders that were removed.
    """
    of_texts: dict[Path, list[Path]] = {}
    for index in indexes:
        of_texts.setdefault(index.parent, []).append(index)
    files = [path for tables in of_texts.values() for path in unwanted(*tables)]
    files += unwanted_weights(indexes, models)
    sizes = [disk.size_of(path) if path.is_dir() else path.stat().st_size for path in files]
    if not files:
        listing.unlink(missing_ok=True)
        logger.info("all scores and weights are asked for by this configuration; nothing to remove")
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
        remove(path)
    listing.unlink()
    logger.info("removed %d files", len(files))
    return files
