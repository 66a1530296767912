"""A model's files in one folder: linked where they are here already, downloaded where not.

What is downloaded is compared with size and hash of the card before anybody may use it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import constants

from klmap import caches, cards, disk, processes, repository
from klmap.cards import Card
from klmap.download import PART
from klmap.errors import InputError, KlmapError, PermanentFailure
from klmap.files import atomic, flush, read_json, remove, sha256_of, write_json
from klmap.log import Progress, logger

FAILED = "FAILED"
"""File that stands in a weights folder instead of weights; holds the reason."""

STALL = float(os.environ.get("KLMAP_STALL_SECONDS", "120"))
"""Seconds without a new byte after which a download counts as stalled (own)."""

ATTEMPTS = 5
"""How often a download is begun before the job gives up."""

_Entry = Mapping[str, Any]


@dataclass(frozen=True)
class Way:
    """How a model is fetched; changes nothing about what comes.

    Attributes:
        budget: the disk budget; None for none.
        place: rank in the order in which scoring wants the models.
        mirrors: caches and mirrors of the Hub whose files are linked.
        stall: seconds without a new byte after which a download counts as stalled.
    """

    budget: disk.Budget | None = None
    place: int = 0
    mirrors: Sequence[Path] = ()
    stall: float = STALL


def fetch(card: Card, target: Path, folder: Path | None = None, way: Way | None = None) -> None:
    """Put the files that a card names into one folder.

    Args:
        card: the model; one with an ``error`` gives a folder with a file ``FAILED`` that says
            why, so that the workflow goes on to record the failure.
        target: the folder to make; it appears complete or not at all.
        folder: the local folder the card was made from; its files are linked, not copied.
        way: disk budget, mirrors and patience.

    Raises:
        InputError: the local folder is not the one the card describes any more.
        PermanentFailure: the model is gone from the Hub, access was withdrawn, its upload is
            damaged, or it is larger than the disk budget.
        KlmapError: the Hub could not be reached, or files came incomplete; try again.
    """
    if card.error:
        explain(target, card.error)
    elif folder is not None:
        _check_folder(card, folder)
        _link(target, {name: (folder / name).resolve() for name in card.names})
    else:
        _fetch_hub(card, target, way or Way())


def explain(target: Path, reason: str) -> None:
    """Make a weights folder that holds nothing but the reason why there are no weights."""
    with atomic(target) as temporary:
        temporary.mkdir()
        (temporary / FAILED).write_text(reason + "\n", encoding="utf-8")
    _record(target).unlink(missing_ok=True)


def _record(target: Path) -> Path:
    """Where the reason of a damaged upload is left for later attempts."""
    return target.with_name(f"{target.name}.failed.json")


def failure_in(weights: Path) -> str | None:
    """The reason why a weights folder holds no weights; None where it does."""
    path = weights / FAILED
    return path.read_text(encoding="utf-8").strip() if path.is_file() else None


def _link(target: Path, files: Mapping[str, Path]) -> None:
    with atomic(target) as temporary:
        temporary.mkdir()
        for name, path in files.items():
            (temporary / name).symlink_to(path)


def _check_folder(card: Card, folder: Path) -> None:
    """The content hash of a folder must still be the card's commit, and its template the card's."""
    missing = [name for name in card.names if not (folder / name).is_file()]
    commit, template = "", None
    if not missing:
        hashes = {name: sha256_of(folder / name) for name in card.names}
        commit = repository.folder_commit(hashes)
        template = hashes.get(repository.CHAT_TEMPLATE)
    if (commit, template) != (card.commit, card.chat_template_sha256):
        found = f"{', '.join(missing)} missing" if missing else f"content {commit[:12]}"
        if commit == card.commit:
            found = f"another {repository.CHAT_TEMPLATE}"
        raise InputError(
            f"{folder}: changed since its card was made ({found}, the card says "
            f"{card.commit[:12]}); run `snakemake refresh`, then start again"
        )


def _fetch_hub(card: Card, target: Path, way: Way) -> None:
    """Link what caches hold, download the rest within the budget, check all of it."""
    processes.workflow()  # once it is gone it can no longer be found
    if _is_there(card, target):
        logger.info("%s: fetched already", card.id)
        return
    here: dict[str, Path] = {}
    for entry in card.files:
        found = caches.find(card.id, card.commit, entry, way.mirrors)
        if found is not None:
            here[str(entry["name"])] = found
    missing = [entry for entry in card.files if entry["name"] not in here]
    if here:
        logger.info("%s: %d of %d files are in a cache", card.id, len(here), len(card.files))
    if not missing:
        with atomic(target) as temporary:
            temporary.mkdir()
            _take(here, temporary)
        return
    if constants.HF_HUB_OFFLINE:
        raise KlmapError(
            f"{card.id}: {missing[0]['name']} is in no cache and HF_HUB_OFFLINE is set; unset it, "
            f"or fill a cache with `hf download {card.id} --revision {card.commit}`"
        )
    partial = target.parent / disk.PARTIAL
    record = _record(target)
    if record.is_file() and (known := read_json(record)).get("commit") == card.commit:
        raise PermanentFailure(str(known.get("error")))
    with _room(target, missing, way):
        if _is_there(card, target):
            return
        try:
            _download(card, partial, missing, way)
        except PermanentFailure as failure:
            # Nobody will ever go on from here.
            remove(partial)
            if isinstance(failure, _Damaged):
                write_json(record, {"commit": card.commit, "error": str(failure)})
                logger.error("this is final; to try again all the same, remove %s", record)
            raise
        record.unlink(missing_ok=True)
        _take(here, partial)
        remove(partial / ".cache")
        flush(partial)
        _check_workflow(card)
        remove(target)
        partial.replace(target)


def _is_there(card: Card, target: Path) -> bool:
    """Whether somebody else has fetched this model; what is something else is removed."""
    if target.is_dir() and not any(cards.mismatch(target / e["name"], e) for e in card.files):
        return True
    remove(target)
    return False


def _take(files: Mapping[str, Path], folder: Path) -> None:
    """Link weights from a cache; copy what is small.

    Looking a model up leaves its config.json in the cache of this account, which compute nodes may
    not see; where somebody filled a cache with weights, they can be expected to.
    """
    weights = set(repository.weight_files(files))
    for name, path in files.items():
        if name in weights:
            (folder / name).symlink_to(path)
        else:
            shutil.copyfile(path, folder / name)


def _room(
    target: Path, missing: Sequence[_Entry], way: Way
) -> contextlib.AbstractContextManager[None]:
    if way.budget is None:
        return contextlib.nullcontext()
    size = sum(int(entry["size"]) for entry in missing)
    return way.budget.room(target.parent.name, size, len(missing), way.place)


def _prepare(partial: Path, missing: Sequence[_Entry]) -> set[str]:
    """Keep of an earlier attempt what is right or may become it; say which files are whole."""
    partial.mkdir(parents=True, exist_ok=True)
    expected = {str(entry["name"]): entry for entry in missing}
    kept = set()
    for path in partial.iterdir():
        entry = expected.get(path.name)
        if path.name.removesuffix(PART) in expected and path.name.endswith(PART):
            continue
        if entry is None or path.is_symlink() or cards.mismatch(path, entry):
            remove(path)
        else:
            kept.add(path.name)
    if kept:
        logger.info("%d files are here from an earlier attempt", len(kept))
    return kept


def _download(card: Card, partial: Path, missing: Sequence[_Entry], way: Way) -> None:
    """Download until every file is what the card says, or it is clear that it never will be."""
    done = _prepare(partial, missing)
    wrong: dict[str, str] = {}
    checks = _Checks(partial, [entry for entry in missing if entry["name"] not in done])
    classic = bool(constants.HF_HUB_DISABLE_XET)
    for attempt in range(1, ATTEMPTS + 1):
        todo = [entry for entry in missing if entry["name"] not in done]
        trouble = ""
        try:
            _attempt(card, partial, todo, way, classic, checks)
        except KlmapError as error:
            if isinstance(error, (PermanentFailure, _WorkflowEnded)):
                raise
            trouble = str(error)
        checks.begin()
        for entry in todo:
            name = str(entry["name"])
            problem = checks.problem(name)
            if not problem:
                done.add(name)
            elif (partial / name).exists():
                remove(partial / name)
                if wrong.get(name) == problem:
                    raise _Damaged(
                        f"{card.id}: {name} {problem}, twice; its upload is damaged: tell its "
                        "owner, and remove the model or give another revision"
                    )
                wrong[name] = problem
                trouble = f"{card.id}: {name} {problem}"
        if len(done) == len(missing):
            return
        logger.warning("attempt %d of %d: %s", attempt, ATTEMPTS, trouble)
        # The chunk service has a path of its own; where it hangs or errs, plain HTTP may not.
        classic = True
        if attempt < ATTEMPTS:
            time.sleep(min(2.0 ** (attempt - 1), way.stall))
    raise KlmapError(f"{trouble}; what arrived whole is kept, run again to go on")


class _Damaged(PermanentFailure):
    """The Hub hands out other files than it lists; finding that out takes two downloads."""


class _WorkflowEnded(KlmapError):
    """Nobody waits for the files any more."""


def _check_workflow(card: Card) -> None:
    """Leave nothing to a workflow that was killed: the next one would find it unannounced.

    Raises:
        _WorkflowEnded: the Snakemake that started this process is gone.
    """
    run = processes.workflow()
    if run is not None and not run.is_alive:
        raise _WorkflowEnded(f"{card.id}: the workflow that asked for it has ended")


class _Checks:
    """Compares files with their entries in the card, each as soon as it is whole.

    Hashing a gigabyte takes about a second, which is free while others still come.
    """

    def __init__(self, folder: Path, entries: Sequence[_Entry]) -> None:
        self._folder = folder
        self._entries = {str(entry["name"]): entry for entry in entries}
        self._pool = ThreadPoolExecutor(max_workers=2)
        self._found: dict[str, Future[str]] = {}

    def begin(self) -> None:
        """Begin with what has become whole; to be called while files arrive."""
        for name in self._entries:
            if name not in self._found and (self._folder / name).is_file():
                self._found[name] = self._submit(name)

    def problem(self, name: str) -> str:
        """How a file differs from its entry, empty if it does not; asked again it looks anew."""
        return (self._found.pop(name, None) or self._submit(name)).result()

    def _submit(self, name: str) -> Future[str]:
        return self._pool.submit(cards.mismatch, self._folder / name, self._entries[name])


def _attempt(
    card: Card,
    partial: Path,
    todo: Sequence[_Entry],
    way: Way,
    classic: bool,
    checks: _Checks,
) -> None:
    """Run one download in a process of its own, and end it where it hangs.

    Raises:
        PermanentFailure: the model is gone, or access was withdrawn.
        KlmapError: it stalled, or the Hub could not be reached.
        OSError: the disk is full.
    """
    asked = {
        "id": card.id,
        "revision": card.revision,
        "commit": card.commit,
        "folder": str(partial.absolute()),
        "names": [entry["name"] for entry in todo],
    }
    with subprocess.Popen(
        [sys.executable, "-m", "klmap.download"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=_environment(partial, classic),
        text=True,
    ) as process:
        assert process.stdin is not None
        # The pipe stays open: the download ends by itself when this process does.
        process.stdin.write(json.dumps(asked) + "\n")
        process.stdin.flush()
        try:
            _watch(process, card, partial, sum(int(entry["size"]) for entry in todo), way, checks)
        finally:
            process.kill()
        answer = process.stdout.read() if process.stdout is not None else ""
    found = (
        json.loads(answer) if answer.strip() else {"error": f"{card.id}: the download broke off"}
    )
    if "state" in found:
        raise PermanentFailure(found["error"], found["state"])
    if found.get("errno"):
        raise OSError(found["errno"], found["error"])
    if "error" in found:
        raise KlmapError(found["error"])


def _environment(partial: Path, classic: bool) -> dict[str, str]:
    """Variables for a download: its notes and caches stay in the folder that goes with it."""
    library = str(Path(__file__).parents[1])
    variables = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [library, os.environ.get("PYTHONPATH")])),
        "HF_XET_CACHE": str((partial / ".cache" / "xet").absolute()),
        "HF_XET_CHUNK_CACHE_SIZE_BYTES": "0",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    return {**variables, "HF_HUB_DISABLE_XET": "1"} if classic else variables


def _watch(
    process: subprocess.Popen[str],
    card: Card,
    partial: Path,
    expected: int,
    way: Way,
    checks: _Checks,
) -> None:
    """Wait for a download and show how far it is.

    Raises:
        KlmapError: no new byte has come for too long, or nobody waits for it any more.
    """
    before = seen = disk.size_of(partial)
    progress = Progress(expected, "bytes")
    last = time.monotonic()
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.25)
            progress.add(max(0, disk.size_of(partial) - seen))
            progress.close()
            return
        now = disk.size_of(partial)
        if now > seen:
            progress.add(now - seen)
            last = time.monotonic()
        # A file that is begun again makes the folder smaller; that is no standstill either.
        seen = now
        if time.monotonic() - last > way.stall:
            raise KlmapError(
                f"{card.id}: no byte for {way.stall:g} s after {seen - before:,} of {expected:,}"
            )
        checks.begin()
        _check_workflow(card)
