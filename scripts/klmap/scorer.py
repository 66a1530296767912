"""One scoring job: one model, one text set, one file of log-likelihoods.

This module decides whether there is anything to compute, and what is written when the job ends
well or badly. ``scorer_job`` knows what earlier attempts have left, ``tokens`` makes the
sequences, ``scorer_load`` loads the model, ``scorer_run`` computes.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence

import numpy as np
import psutil
from huggingface_hub import constants

from klmap import fetch, handover, leases, likelihoods, scorer_code, scorer_job, store_score
from klmap.cards import Card, read_card
from klmap.config import fingerprint
from klmap.errors import KlmapError, PermanentFailure, UnsupportedHere
from klmap.files import read_json
from klmap.interruption import Interruption
from klmap.log import Progress, logger
from klmap.scorer_job import Job as Job
from klmap.texts import Text, read_texts

UNTRAINED_MARGIN = 0.5
"""A mean loss within this many nats of guessing evenly looks untrained (own)."""


def score(job: Job, interruption: Interruption | None = None) -> None:
    """Score one model on one text set and write the result.

    Where another job works at this score it is waited for, or hands over.

    Args:
        job: what is asked for.
        interruption: asks the job to end behind a batch; other jobs can ask without it.

    Raises:
        InputError: the file name does not belong to the settings, or an input is broken.
        PermanentFailure: this model can never be scored like this; the reason stands beside the
            output. With ``skip_failures`` a score with status ``failed`` is written instead.
        KlmapError: memory does not suffice, or another job works at this score from here on.
        OSError: the machine's trouble; try again.
    """
    scorer_job.check_name(job)
    card = read_card(job.card)
    sha256 = str(read_json(job.manifest).get("sha256"))
    if scorer_job.is_finished(job, card, sha256):
        logger.info("%s: finished already", job.output)
        other = leases.read(job.lease)
        if other is None or not other.is_alive(time.time()):
            scorer_job.clean(job)
            leases.clear(job.lease)
        return
    before = scorer_job.state_of(job.output)
    with handover.hold(job.lease, interruption or Interruption(), lambda: _device(job)) as held:
        # The job that was waited for may have finished, or found out that nobody can.
        is_new = scorer_job.state_of(job.output) != before
        if scorer_job.is_finished(job, card, sha256, failed_too=is_new and job.skip_failures):
            logger.info("%s: finished meanwhile by another job", job.output)
            scorer_job.clean(job)
        else:
            _write(job, card, sha256, held)


def _write(job: Job, card: Card, sha256: str, held: handover.Held) -> None:
    """Compute and write what has to be written, a failure included."""
    try:
        scorer_job.raise_again(job, card, sha256)
        result = _score(job, card, read_texts(job.texts, job.manifest), sha256, held)
    except PermanentFailure as failure:
        reason = str(failure)
        if not isinstance(failure, UnsupportedHere):
            # Whoever tries again starts anew: what was saved may be what is wrong.
            scorer_job.clean(job)
        if not job.skip_failures:
            if not isinstance(failure, UnsupportedHere):
                scorer_job.leave_reason(job, card, sha256, reason)
            raise
        logger.error("%s", reason)
        result = scorer_job.empty(job, card, sha256)
        result.status, result.error = "failed", reason
        store_score.write_score(job.output, result)
        return
    except MemoryError as error:
        if "GPU memory" in str(error):
            raise KlmapError(str(error)) from error
        raise KlmapError(
            f"memory does not suffice: {str(error) or 'this process gets no more'}. On a cluster "
            "each attempt asks for more main memory; to begin with more, give for instance "
            "--set-resources score:mem_mb=64000"
        ) from error
    except RuntimeError as error:
        if "out of memory" not in str(error):
            raise
        said = " ".join(str(error).split())[:300]
        raise KlmapError(
            f"GPU memory does not suffice, not even for one text at a time: {said}. "
            "hardware.gpu_memory_gb must be what one GPU has, because the number of GPUs is "
            "reckoned from it: a smaller value asks for more of them. Nobody else may use them"
        ) from error
    store_score.write_score(job.output, result)
    job.failure.unlink(missing_ok=True)
    if held.is_mine:
        scorer_job.clean(job)


def _score(
    job: Job, card: Card, texts: Sequence[Text], sha256: str, held: handover.Held
) -> store_score.Score:
    """Everything between the checks and the file."""
    reason = card.error or fetch.failure_in(job.weights)
    if reason:
        raise PermanentFailure(reason)
    if job.refusal:
        raise UnsupportedHere(job.refusal)
    quantization = job.spec.get("quantization")
    if quantization and card.quantization:
        raise PermanentFailure(
            f"{job.model}: quantization: {quantization} cannot be applied to weights that are "
            f"stored quantised ({card.quantization}); remove quantization: from the entry, or give "
            "the original model"
        )
    kind = likelihoods.kind(job.spec.get("likelihood", likelihoods.CAUSAL))
    if kind.needs_prompts and not texts[0].is_paired:
        raise PermanentFailure(
            f"{job.model}: likelihood: {kind.name} scores responses to prompts, and these texts "
            "have none; give the text set fields: with a prompt and a response, or prompt_bytes:"
        )
    began = time.monotonic()
    _set_environment(job)
    opted_in = bool(job.spec.get("remote_code"))
    if opted_in:
        scorer_code.isolate()
    from klmap import (
        scorer_kind,
        scorer_lens,
        scorer_precision,
        scorer_quantized,
        scorer_resume,
        scorer_run,
        scorer_sketch,
        tokens,
        tokens_texts,
    )

    device = scorer_precision.prepare(job.device, job.threads)
    likelihood = scorer_kind.class_of(kind)
    remote_code = scorer_code.permit(job.weights, card, opted_in, likelihood.loads)
    limit = likelihood.limit(job.weights)
    tokenizer = tokens.load_tokenizer(job.weights, remote_code)
    reading = tokens_texts.read(
        tokenizer,
        job.weights,
        texts,
        prefix=str(job.spec["prefix"]),
        overlength=str(job.spec["overlength"]),
        limit=limit,
        pmi=bool(job.spec.get("pmi")),
        encode=likelihood.encode,
    )
    encoded = reading.encoded
    held.interruption.obey()
    probe = scorer_run.probe_texts(len(texts))
    wanted_budget = scorer_run.budget_for(device, job.batch_tokens)
    checkpoint = scorer_resume.Checkpoint(
        job.progress,
        {
            **scorer_job.identity(job, card, sha256),
            "fingerprint": fingerprint(job.spec),
            "sequences": scorer_resume.digest(reading.identity),
            "budget": wanted_budget,
            "device": scorer_precision.device_name(device),
            "threads": job.threads,
        },
        job.save_every,
        held.interruption,
    )
    loading = scorer_precision.Loading(
        job.weights,
        device,
        reading.sequences,
        limit,
        stored=None if card.quantization else card.dtype,
        parameters=card.parameters,
        quantization=quantization,
        products=checkpoint.state.how["products"] if checkpoint.state else job.products,
        kind=likelihood,
        tokenizer=tokenizer,
        first=reading.first,
    )
    model, choice = scorer_precision.load(loading, str(job.spec["dtype"]))
    plan = model.plan(reading.sequences, limit, reading.first)
    held.interruption.obey()
    how = {"dtype": model.dtype, "head": model.head_name, "products": model.products}
    lens = None
    if job.spec.get("layers"):
        lens = scorer_lens.Lens(model, job.spec["layers"], loading.sample)
        how["lens"] = lens.name
    state = checkpoint.begin(how)
    total = sum(piece.length for piece in plan.pieces)
    ahead = sum(piece.length for piece in plan.ordered[: state.pieces]) if state is not None else 0
    if ahead:
        logger.info("%s of %s tokens were scored before; going on", f"{ahead:,}", f"{total:,}")
    progress = Progress(total - ahead, "tokens")
    held.follow(progress, ahead, scorer_precision.device_name(device))
    startup = time.time() - psutil.Process().create_time()
    with held.interruption.patiently():
        logprobs, budget = scorer_run.score_tokens(
            model, plan, wanted_budget, progress, checkpoint, lens
        )
    offset = plan.offset[: len(texts) + 1]
    loglik = scorer_run.text_sums(logprobs[: offset[-1]], offset)
    rate = total / max(checkpoint.seconds, 1e-9)
    progress.close()
    result = scorer_job.empty(job, card, sha256)
    result.loglik = loglik
    result.n_tokens = np.array(encoded.n_tokens, np.int32)
    result.n_scored = np.diff(offset).astype(np.int32)
    result.truncated = np.array(encoded.truncated, np.bool_)
    if job.keep_tokens:
        result.token_logprob = logprobs[: offset[-1]].astype(np.float32)
        result.token_offset = offset
    if reading.is_paired:
        result.boundary_loglik = np.zeros(len(texts))
        crossing = np.flatnonzero(encoded.crossing)
        result.boundary_loglik[crossing] = logprobs[offset[crossing]]
        result.chat_template = reading.template
        result.attributes |= reading.attributes()
    if kind.name != likelihoods.CAUSAL:
        result.attributes |= model.described()
    if reading.alone is not None:
        alone = plan.offset[len(texts) :] - offset[-1]
        result.unconditional = scorer_run.text_sums(logprobs[offset[-1] :], alone)
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
        "software": scorer_job.software(),
        "tokens_per_second": rate,
        "startup_seconds": startup,
    }
    if lens is not None:
        result.layers = np.array(lens.layers, np.int32)
        result.layer_loglik = scorer_run.layer_sums(lens, plan)[:, : len(texts)]
        result.attributes |= {"lens": lens.name, "n_layers": lens.depth}
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
        first=[encoded.first[number] for number in probe],
    )
    # Packed weights have no distances that would mean what those of others do.
    if job.sketch and not card.quantization:
        sketch = scorer_sketch.sketch_folder(job.weights, held.interruption.obey)
        if sketch is not None:
            result.weights_sketch = sketch.values
            result.attributes["weights"] = sketch.described
    result.attributes["seconds"] = time.monotonic() - began
    _report(job.model, result, texts)
    return result


def _set_environment(job: Job) -> None:
    """Say what libraries read when they are imported, as huggingface_hub has been.

    The weights are here, and nothing else is asked.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"
    constants.HF_HUB_OFFLINE = True
    os.environ["RAYON_NUM_THREADS"] = str(job.threads)


def _device(job: Job) -> str:
    """What the device of this job is called by its maker."""
    _set_environment(job)
    from klmap import scorer_precision

    return scorer_precision.device_name(scorer_precision.prepare(job.device, job.threads))


def _looks_untrained(result: store_score.Score, rows: int) -> bool:
    """Whether the mean loss per token is about that of guessing evenly."""
    scored = int(result.n_scored.sum())
    return scored > 0 and -result.loglik.sum() / scored >= math.log(rows) - UNTRAINED_MARGIN


def _report(model: str, result: store_score.Score, texts: Sequence[Text]) -> None:
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
