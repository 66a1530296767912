"""What one scoring job is asked to do, and what earlier attempts at it have left."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from klmap import store_score
from klmap.cards import Card
from klmap.config import SCORER_VERSION, fingerprint
from klmap.errors import InputError, PermanentFailure
from klmap.files import read_json, remove, write_json
from klmap.log import logger

SOFTWARE = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "numpy",
    "accelerate",
    "bitsandbytes",
)
"""Packages whose versions stand in every score file."""


_TEMPLATE = "chat_template_sha256"


@dataclass(frozen=True)
class Job:
    """What one scoring job is asked to do.

    Attributes:
        card: the model's card.json.
        weights: folder with the files the card names, or with a file that says why there are
            none.
        texts: texts.jsonl.
        manifest: texts.json.
        model: the model's name on the map.
        spec: settings that the fingerprint hashes.
        output: the score file, ``<model>.<fingerprint>.h5``.
        skip_failures: write a score with status ``failed`` instead of raising.
        refusal: why the machines that may be asked for do not hold the model; empty where they do.
        keep_tokens: also store the log-probability of every token.
        batch_tokens: tokens per batch; None chooses by device.
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: CPU threads.
        products: library of matrix products on a CPU, ``onednn`` or ``blas``; None times both.
        save_every: seconds after which an unfinished job saves what it has; 0 saves every batch.
        sketch: also store a random projection of the weights, for distances between checkpoints.
    """

    card: Path
    weights: Path
    texts: Path
    manifest: Path
    model: str
    spec: dict[str, Any]
    output: Path
    skip_failures: bool = False
    refusal: str = ""
    keep_tokens: bool = False
    batch_tokens: int | None = None
    device: str = "auto"
    threads: int = 1
    products: str | None = None
    save_every: float = 60.0
    sketch: bool = False

    @property
    def failure(self) -> Path:
        """Where the reason of a permanent failure is left for later attempts."""
        return self.output.with_suffix(".failed.json")

    @property
    def progress(self) -> Path:
        """The side file of an unfinished attempt."""
        return self.output.with_suffix(".partial")

    @property
    def lease(self) -> Path:
        """The file that says who works at this score."""
        return self.output.with_suffix(".lease")


def clean(job: Job) -> None:
    """Remove what unfinished attempts at this score left behind, half-written files included."""
    remove(job.progress)
    for path in (job.output, job.progress):
        for leftover in path.parent.glob(f".{path.name}.*.tmp"):
            remove(leftover)


def check_name(job: Job) -> None:
    """Refuse to write under a name that promises other settings.

    Raises:
        InputError: the configuration has changed since the job was submitted.
    """
    expected = fingerprint(job.spec)
    name = f"{job.model}.{expected}.h5"
    if job.output.name != name:
        found = job.output.name.removesuffix(".h5").rpartition(".")[2]
        raise InputError(
            f"{job.output}: this name asks for the settings {found}, config.yaml now gives "
            f"{expected} ({name}); config.yaml changed while this job was queued: run snakemake "
            "again"
        )


def state_of(path: Path) -> tuple[int, int] | None:
    """What changes whenever a file is written anew."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def is_finished(job: Job, card: Card, sha256: str, *, failed_too: bool = False) -> bool:
    """Whether the score is there, for this commit, these texts and these settings.

    Args:
        job: what is asked for.
        card: the model.
        sha256: of the texts.
        failed_too: whether a score with status ``failed`` counts.
    """
    if not job.output.is_file():
        return False
    try:
        found = store_score.read_score(job.output)
    except InputError as error:
        logger.warning("%s; it is written again", error)
        return False
    same = (card.commit, sha256, fingerprint(job.spec))
    if (found.commit, found.texts_sha256, found.fingerprint) != same:
        return False
    if found.attributes.get("selection") != selection_of(job):
        return False
    if found.attributes.get(_TEMPLATE) != template_of(job, card):
        return False
    kept = found.token_logprob is not None or not job.keep_tokens
    return kept if found.status == "ok" else failed_too


def raise_again(job: Job, card: Card, sha256: str) -> None:
    """End at once, with the same words, where an earlier attempt failed for good.

    Raises:
        PermanentFailure: it did, with the same weights, texts and libraries.
    """
    if not job.failure.is_file():
        return
    earlier = read_json(job.failure)
    found = identity(job, card, sha256)
    if {key: earlier.get(key) for key in found} == found:
        raise PermanentFailure(str(earlier.get("error")))


def identity(job: Job, card: Card, sha256: str) -> dict[str, Any]:
    """What has to be the same for a failure to be the same: newer libraries may know more."""
    return {
        "model": job.model,
        "commit": card.commit,
        "texts_sha256": sha256,
        "software": software(),
        **_named(_TEMPLATE, template_of(job, card)),
    }


def leave_reason(job: Job, card: Card, sha256: str, reason: str) -> None:
    """Tell later attempts why this model can never be scored like this."""
    found = {**identity(job, card, sha256), "error": reason}
    if not job.failure.is_file() or read_json(job.failure) != found:
        write_json(job.failure, found)
    logger.error("this is final; to try again all the same, remove %s", job.failure)


def software() -> dict[str, str | int]:
    """Versions of all that decides about a score's numbers."""
    return {**{name: version(name) for name in SOFTWARE}, "scorer": SCORER_VERSION}


def selection_of(job: Job) -> str | None:
    """Fingerprint of the selection that the texts are; None for texts of their own."""
    described: dict[str, str] = read_json(job.manifest).get("selection", {})
    return described.get("fingerprint")


def template_of(job: Job, card: Card) -> str | None:
    """Hash of the file that the chat template is read from, where these scores depend on it.

    None for texts that are not rendered by it, and where the commit follows from the template.
    """
    rendered = read_json(job.manifest).get("template") == "model"
    return card.chat_template_sha256 if rendered else None


def _named(key: str, value: str | None) -> dict[str, str]:
    return {} if value is None else {key: value}


def empty(job: Job, card: Card, sha256: str) -> store_score.Score:
    """A score that says what it is of, without numbers yet."""
    selection = selection_of(job)
    return store_score.Score(
        model=job.model,
        commit=card.commit,
        texts_sha256=sha256,
        fingerprint=fingerprint(job.spec),
        spec=job.spec,
        attributes={
            "quantization": job.spec.get("quantization") or "none",
            "prefix": job.spec["prefix"],
            "overlength": job.spec["overlength"],
            **{key: job.spec[key] for key in ("likelihood",) if key in job.spec},
            **_named("selection", selection),
            **_named(_TEMPLATE, template_of(job, card)),
        },
    )
