"""One scoring job: one model, one text set, one file of log-likelihoods.

This module decides whether the job is the one that was asked for, what dtype it runs in, and
what is written when it ends well or badly. ``tokens`` makes the sequences, ``scorer_load`` loads
the model, ``scorer_run`` computes.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from huggingface_hub import constants

from klmap import fetch, scorer_code, store
from klmap.cards import Card, read_card
from klmap.config import SCORER_VERSION, fingerprint
from klmap.errors import InputError, PermanentFailure, UnsupportedHere
from klmap.files import read_json, remove, write_json
from klmap.log import Progress, logger
from klmap.texts import Text, read_texts

UNTRAINED_MARGIN = 0.5
"""A mean loss within this many nats of guessing evenly looks untrained (own)."""

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
        keep_tokens: also store the log-probability of every token.
        batch_tokens: tokens per batch; None chooses by device.
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: CPU threads.
        products: library of matrix products on a CPU, ``onednn`` or ``blas``; None times both.
        save_every: seconds after which an unfinished job saves what it has; 0 saves every batch.
    """

    card: Path
    weights: Path
    texts: Path
    manifest: Path
    model: str
    spec: dict[str, Any]
    output: Path
    skip_failures: bool = False
    keep_tokens: bool = False
    batch_tokens: int | None = None
    device: str = "auto"
    threads: int = 1
    products: str | None = None
    save_every: float = 60.0

    @property
    def failure(self) -> Path:
        """Where the reason of a permanent failure is left for later attempts."""
        return self.output.with_suffix(".failed.json")

    @property
    def progress(self) -> Path:
        """The side file of an unfinished attempt."""
        return self.output.with_suffix(".partial")


def score(job: Job) -> None:
    """Score one model on one text set and write the result.

    Raises:
        InputError: the file name does not belong to the settings, or an input is broken.
        PermanentFailure: this model can never be scored like this; the reason stands beside the
            output. With ``skip_failures`` a score with status ``failed`` is written instead.
        MemoryError, OSError, torch.OutOfMemoryError: the machine's trouble; try again.
    """
    _check_name(job)
    card = read_card(job.card)
    sha256 = str(read_json(job.manifest).get("sha256"))
    if _is_finished(job, card, sha256):
        logger.info("%s: finished already", job.output)
        _clean(job)
        return
    try:
        _raise_again(job, card, sha256)
        result = _score(job, card, read_texts(job.texts, job.manifest), sha256)
    except PermanentFailure as failure:
        reason = str(failure)
        if not isinstance(failure, UnsupportedHere):
            _clean(job)  # whoever tries again starts anew: what was saved may be what is wrong
        if not job.skip_failures:
            if not isinstance(failure, UnsupportedHere):
                _leave_reason(job, card, sha256, reason)
            raise
        logger.error("%s", reason)
        result = _empty(job, card, sha256)
        result.status, result.error = "failed", reason
        store.write_score(job.output, result)
        return
    store.write_score(job.output, result)
    job.failure.unlink(missing_ok=True)
    _clean(job)


def _clean(job: Job) -> None:
    """Remove what unfinished attempts at this score left behind, half-written files included."""
    remove(job.progress)
    for path in (job.output, job.progress):
        for leftover in path.parent.glob(f".{path.name}.*.tmp"):
            remove(leftover)


def _check_name(job: Job) -> None:
    """Refuse to write under a name that promises other settings."""
    expected = fingerprint(job.spec)
    name = f"{job.model}.{expected}.h5"
    if job.output.name != name:
        found = job.output.name.removesuffix(".h5").rpartition(".")[2]
        raise InputError(
            f"{job.output}: this name asks for the settings {found}, config.yaml now gives "
            f"{expected} ({name}); config.yaml changed while this job was queued: run snakemake "
            "again"
        )


def _is_finished(job: Job, card: Card, sha256: str) -> bool:
    if not job.output.is_file():
        return False
    try:
        found = store.read_score(job.output)
    except InputError as error:
        logger.warning("%s; it is written again", error)
        return False
    same = (card.commit, sha256, fingerprint(job.spec))
    kept = found.token_logprob is not None or not job.keep_tokens
    return (
        found.status == "ok"
        and kept
        and (found.commit, found.texts_sha256, found.fingerprint) == same
    )


def _raise_again(job: Job, card: Card, sha256: str) -> None:
    """End at once, with the same words, where an earlier attempt failed for good."""
    if not job.failure.is_file():
        return
    earlier = read_json(job.failure)
    found = _identity(job, card, sha256)
    if {key: earlier.get(key) for key in found} == found:
        raise PermanentFailure(str(earlier.get("error")))


def _identity(job: Job, card: Card, sha256: str) -> dict[str, Any]:
    """What has to be the same for a failure to be the same: newer libraries may know more."""
    return {
        "model": job.model,
        "commit": card.commit,
        "texts_sha256": sha256,
        "software": _software(),
    }


def _leave_reason(job: Job, card: Card, sha256: str, reason: str) -> None:
    found = {**_identity(job, card, sha256), "error": reason}
    if not job.failure.is_file() or read_json(job.failure) != found:
        write_json(job.failure, found)
    logger.error("this is final; to try again all the same, remove %s", job.failure)


def _software() -> dict[str, str | int]:
    return {**{name: version(name) for name in SOFTWARE}, "scorer": SCORER_VERSION}


def _empty(job: Job, card: Card, sha256: str) -> store.Score:
    return store.Score(
        model=job.model,
        commit=card.commit,
        texts_sha256=sha256,
        fingerprint=fingerprint(job.spec),
        spec=job.spec,
        attributes={
            "quantization": job.spec.get("quantization") or "none",
            "prefix": job.spec["prefix"],
            "overlength": job.spec["overlength"],
        },
    )


def _score(job: Job, card: Card, texts: Sequence[Text], sha256: str) -> store.Score:
    """Everything between the checks and the file."""
    reason = card.error or fetch.failure_in(job.weights)
    if reason:
        raise PermanentFailure(reason)
    quantization = job.spec.get("quantization")
    if quantization and card.quantization:
        raise PermanentFailure(
            f"{job.model}: quantization: {quantization} cannot be applied to weights that are "
            f"stored quantised ({card.quantization}); remove quantization: from the entry, or give "
            "the original model"
        )
    began = time.monotonic()
    # The weights are here, and nothing else is asked. Libraries read their environment when they
    # are imported, which huggingface_hub has been.
    os.environ["HF_HUB_OFFLINE"] = "1"
    constants.HF_HUB_OFFLINE = True
    os.environ["RAYON_NUM_THREADS"] = str(job.threads)
    opted_in = bool(job.spec.get("remote_code"))
    if opted_in:
        scorer_code.isolate()
    from klmap import (
        scorer_load,
        scorer_precision,
        scorer_quantized,
        scorer_resume,
        scorer_run,
        tokens,
    )

    device = scorer_precision.prepare(job.device, job.threads)
    remote_code = scorer_code.permit(job.weights, card, opted_in)
    limit = scorer_load.context_of(job.weights)
    encoded = tokens.encode(
        tokens.load_tokenizer(job.weights, remote_code),
        [text.text for text in texts],
        prefix=str(job.spec["prefix"]),
        overlength=str(job.spec["overlength"]),
        limit=limit,
    )
    plan = scorer_run.make_plan(encoded.sequences, limit)
    probe = scorer_run.probe_texts(len(texts))
    wanted_budget = scorer_run.budget_for(device, job.batch_tokens)
    checkpoint = scorer_resume.Checkpoint(
        job.progress,
        {
            **_identity(job, card, sha256),
            "fingerprint": fingerprint(job.spec),
            "sequences": scorer_resume.digest(encoded.sequences),
            "budget": wanted_budget,
            "device": scorer_precision.device_name(device),
            "threads": job.threads,
        },
        job.save_every,
    )
    loading = scorer_precision.Loading(
        job.weights,
        device,
        encoded.sequences,
        limit,
        stored=None if card.quantization else card.dtype,
        parameters=card.parameters,
        quantization=quantization,
        products=checkpoint.state.how["products"] if checkpoint.state else job.products,
    )
    model, choice = scorer_precision.load(loading, str(job.spec["dtype"]))
    state = checkpoint.begin(
        {"dtype": model.dtype, "head": model.head_name, "products": model.products}
    )
    total = sum(piece.length for piece in plan.pieces)
    if state is not None:
        ahead = sum(piece.length for piece in plan.ordered[: state.pieces])
        logger.info("%s of %s tokens were scored before; going on", f"{ahead:,}", f"{total:,}")
        total -= ahead
    progress = Progress(total, "tokens")
    start = time.monotonic()
    startup = time.time() - psutil.Process().create_time()
    logprobs, budget = scorer_run.score_tokens(model, plan, wanted_budget, progress, checkpoint)
    loglik = scorer_run.text_sums(logprobs, plan.offset)
    rate = total / max(time.monotonic() - start, 1e-9)
    progress.close()
    result = _empty(job, card, sha256)
    result.loglik = loglik
    result.n_tokens = np.array(encoded.n_tokens, np.int32)
    result.n_scored = np.diff(plan.offset).astype(np.int32)
    result.truncated = np.array(encoded.truncated, np.bool_)
    if job.keep_tokens:
        result.token_logprob = logprobs.astype(np.float32)
        result.token_offset = plan.offset
    result.attributes |= {
        "dtype": model.dtype,
        "dtype_choice": choice,
        "head": model.head_name,
        "remote_code": remote_code,
        "precision": scorer_precision.switches(model),
        "context": -1 if limit is None else limit,
        "bos_id": encoded.bos_id,
        "prefix_source": encoded.prefix_source,
        "share_changed": encoded.share_changed,
        "n_windows": len(plan.pieces),
        "n_unscored": int((result.n_scored == 0).sum()),
        "untrained": _looks_untrained(result, model.rows),
        "batch_tokens": budget,
        "device": scorer_precision.device_name(device),
        "gpus": scorer_precision.gpus_of(model),
        "threads": job.threads,
        "peak_memory": scorer_precision.peak_memory(device),
        "software": _software(),
        "tokens_per_second": rate,
        "startup_seconds": startup,
    }
    if quantization:
        result.attributes["quantization_settings"] = {
            **scorer_quantized.settings(quantization, model.dtype),
            "quantized_share": scorer_quantized.quantized_share(model.model),
        }
    elif card.quantization:
        result.attributes["quantization"] = card.quantization
    result.attributes |= scorer_precision.noise(
        model,
        [encoded.sequences[number] for number in probe],
        loglik[probe],
        limit,
        parameters=card.parameters,
    )
    result.attributes["seconds"] = time.monotonic() - began
    _report(job.model, result, texts)
    return result


def _looks_untrained(result: store.Score, rows: int) -> bool:
    """Whether the mean loss per token is about that of guessing evenly."""
    scored = int(result.n_scored.sum())
    return scored > 0 and -result.loglik.sum() / scored >= math.log(rows) - UNTRAINED_MARGIN


def _report(model: str, result: store.Score, texts: Sequence[Text]) -> None:
    """Log what a user wants to know of a finished score, and what should make them look twice."""
    found = result.attributes
    bits = -result.loglik.sum() / (math.log(2) * sum(text.n_bytes for text in texts))
    logger.info(
        "%s: %.4f bits per byte, %s tokens in %s, %.0f tokens/s, noise %.2g nats",
        model,
        bits,
        f"{int(result.n_scored.sum()):,}",
        found["dtype"],
        found["tokens_per_second"],
        found["noise_nats"],
    )
    if found["untrained"]:
        logger.warning("%s looks untrained: it predicts no better than guessing evenly", model)
    if found["n_unscored"]:
        logger.warning("%s: %d texts have no scored token", model, found["n_unscored"])
