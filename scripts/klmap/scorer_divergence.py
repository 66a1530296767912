"""The exact divergence of two models with one vocabulary: both read the same tokens.

The distance of two models on the map is estimated from one number per text. Where both cut texts
into the same tokens, what it estimates can be computed: at every position the Kullback-Leibler
divergence of the two distributions of the next token, over the whole vocabulary (the check is
klmap's own). This module decides whether there is anything to compute and what is written;
``scorer_compare`` computes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from huggingface_hub import constants

from klmap import fetch, scorer_code, scorer_job, store_divergence
from klmap.arrays import Floats
from klmap.cards import Card, read_card
from klmap.config import fingerprint
from klmap.errors import InputError, KlmapError, PermanentFailure, UnsupportedHere
from klmap.files import read_json
from klmap.log import Progress, logger
from klmap.store_divergence import Divergence
from klmap.texts import Text, read_texts

if TYPE_CHECKING:
    from klmap.scorer_as_causal import CausalModel
    from klmap.scorer_run import Plan


@dataclass(frozen=True)
class Side:
    """One of the two models.

    Attributes:
        card: its card.json.
        weights: folder with the files the card names, or with a file that says why there are none.
        model: its name on the map.
        spec: the settings of its score.
    """

    card: Path
    weights: Path
    model: str
    spec: dict[str, Any]


@dataclass(frozen=True)
class Job:
    """What the job of one pair is asked to do.

    Attributes:
        sides: the two models.
        texts: texts.jsonl.
        manifest: texts.json.
        number: of texts, evenly spread over the set; all where there are fewer.
        spec: settings that the fingerprint hashes.
        output: ``<first>~<second>.<fingerprint>.h5``.
        skip_failures: write a file with status ``failed`` instead of raising.
        refusal: why the machines that may be asked for do not hold both models; empty where they
            do.
        batch_tokens: tokens per batch; None chooses by device.
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: CPU threads.
    """

    sides: tuple[Side, Side]
    texts: Path
    manifest: Path
    number: int
    spec: dict[str, Any]
    output: Path
    skip_failures: bool = False
    refusal: str = ""
    batch_tokens: int | None = None
    device: str = "auto"
    threads: int = 1

    @property
    def named(self) -> scorer_job.Job:
        """The pair as a job of one model, for what is kept of failures and checked of names."""
        return scorer_job.Job(
            self.sides[0].card, self.sides[0].weights, self.texts, self.manifest,
            "~".join(side.model for side in self.sides), self.spec, self.output,
        )  # fmt: skip


def divergence(job: Job) -> None:
    """Compute the divergences of one pair and write them.

    Raises:
        InputError: the file name does not belong to the settings, or an input is broken.
        PermanentFailure: this pair can never be compared like this; the reason stands beside the
            output. With ``skip_failures`` a file with status ``failed`` is written instead.
        KlmapError: memory does not suffice.
        OSError: the machine's trouble; try again.
    """
    named = job.named
    scorer_job.check_name(named)
    cards = [read_card(side.card) for side in job.sides]
    sha256 = str(read_json(job.manifest).get("sha256"))
    result = Divergence(
        job.sides[0].model, job.sides[1].model, [card.commit for card in cards], sha256,
        fingerprint(job.spec), job.spec,
    )  # fmt: skip
    if _is_finished(job.output, result):
        logger.info("%s: finished already", job.output)
        return
    both = dataclasses.replace(cards[0], commit="~".join(result.commits))
    try:
        scorer_job.raise_again(named, both, sha256)
        with memory("divergence"):
            _compute(job, cards, read_texts(job.texts, job.manifest), result)
    except PermanentFailure as failure:
        if not job.skip_failures:
            if not isinstance(failure, UnsupportedHere):
                scorer_job.leave_reason(named, both, sha256, str(failure))
            raise
        logger.error("%s", failure)
        result.status, result.error = "failed", str(failure)
    store_divergence.write_divergence(job.output, result)
    if result.status == "ok":
        named.failure.unlink(missing_ok=True)


def _is_finished(path: Path, wanted: Divergence) -> bool:
    """Whether the divergences are there, for these commits, texts and settings."""
    if not path.is_file():
        return False
    try:
        found = store_divergence.read_divergence(path)
    except InputError as error:
        logger.warning("%s; it is written again", error)
        return False
    same = all(
        getattr(found, key) == getattr(wanted, key)
        for key in ("commits", "texts_sha256", "fingerprint")
    )
    return same and found.status == "ok"


@contextlib.contextmanager
def memory(rule: str) -> Iterator[None]:
    """Say what helps where two models at a time are too much.

    Args:
        rule: whose job this is.

    Raises:
        KlmapError: memory does not suffice.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = " ".join(str(error).split())[:300]
        if isinstance(error, RuntimeError) and "out of memory" not in text:
            raise
        raise KlmapError(
            "memory does not suffice for both models at one time: "
            f"{text or 'this process gets no more'}. On a cluster each attempt asks for more; to "
            f"begin with more, give for instance --set-resources {rule}:mem_mb=64000, or set "
            "hardware.gpu_memory_gb to what one GPU has"
        ) from error


def _compute(job: Job, cards: Sequence[Card], texts: Sequence[Text], result: Divergence) -> None:
    """Everything between the checks and the file."""
    for side, card in zip(job.sides, cards, strict=True):
        reason = card.error or fetch.failure_in(side.weights)
        if reason:
            raise PermanentFailure(f"{side.model}: {reason}")
    if job.refusal:
        raise UnsupportedHere(job.refusal)
    began = time.monotonic()
    os.environ["HF_HUB_OFFLINE"] = "1"
    constants.HF_HUB_OFFLINE = True  # read when huggingface_hub was imported
    os.environ["RAYON_NUM_THREADS"] = str(job.threads)
    if any(side.spec.get("remote_code") for side in job.sides):
        scorer_code.isolate()
    from klmap import (
        scorer_compare,
        scorer_load,
        scorer_precision,
        scorer_run,
        tokens,
        tokens_texts,
    )

    device = scorer_precision.prepare(job.device, job.threads)
    remote = [
        scorer_code.permit(side.weights, card, bool(side.spec.get("remote_code")))
        for side, card in zip(job.sides, cards, strict=True)
    ]
    limit = min(
        (
            known
            for side in job.sides
            if (known := scorer_load.context_of(side.weights)) is not None
        ),
        default=None,
    )
    chosen = scorer_run.probe_texts(len(texts), job.number)
    ours, theirs = (
        tokens_texts.read(
            tokens.load_tokenizer(side.weights, permitted),
            side.weights,
            texts,
            prefix=str(side.spec["prefix"]),
            overlength=str(side.spec["overlength"]),
            limit=limit,
        ).encoded
        for side, permitted in zip(job.sides, remote, strict=True)
    )
    first = ours.sequences
    check_same([side.model for side in job.sides], first, theirs.sequences, chosen)
    models, choices = load_pair(job.sides, cards, (first, first), limit, device)
    plan = scorer_run.make_plan(
        [first[number] for number in chosen], limit, [ours.first[number] for number in chosen]
    )
    budget = scorer_run.budget_for(device, job.batch_tokens)
    progress = Progress(sum(piece.length for piece in plan.pieces), "tokens")
    values = scorer_compare.tokenwise(models, plan, budget, progress)
    progress.close()
    sums = _by_text(values, plan, chosen)
    result.kl, result.loglik, result.squares = sums[:2], sums[2:4], sums[4]
    result.text = np.array(chosen, np.int32)
    result.n_scored = np.diff(plan.offset).astype(np.int32)
    scored = max(int(result.n_scored.sum()), 1)
    result.attributes |= {
        "dtype": [model.dtype for model in models],
        "dtype_choice": choices,
        "head": [model.head_name for model in models],
        "quantization": [side.spec.get("quantization") or "none" for side in job.sides],
        "precision": [scorer_precision.switches(model) for model in models],
        "context": -1 if limit is None else limit,
        "mass_outside_first": float(sums[5].sum()) / scored,
        "mass_outside_second": float(sums[6].sum()) / scored,
        "device": scorer_precision.device_name(device),
        "threads": job.threads,
        "peak_memory": scorer_precision.peak_memory(device),
        "software": scorer_job.software(),
        "seconds": time.monotonic() - began,
    }
    logger.info(
        "%s~%s: %.3g and %.3g nats per token, %s tokens of %d texts",
        result.first,
        result.second,
        *(sums[:2].sum(axis=1) / scored),
        f"{scored:,}",
        len(chosen),
    )


def check_same(
    names: Sequence[str],
    first: Sequence[Sequence[int]],
    second: Sequence[Sequence[int]],
    chosen: Sequence[int],
) -> None:
    """Refuse two models that read different tokens.

    Args:
        names: of the two models.
        first: token ids of all texts as the first model reads them.
        second: the same for the second.
        chosen: numbers of the texts that are compared.

    Raises:
        PermanentFailure: a chosen text becomes other tokens; the message names the first one.
    """
    for number in chosen:
        ours, theirs = first[number], second[number]
        if list(ours) == list(theirs):
            continue
        place = next(
            (at for at, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b),
            min(len(ours), len(theirs)),
        )
        ids = " and ".join(
            str(ids[place]) if place < len(ids) else "none" for ids in (ours, theirs)
        )
        raise PermanentFailure(
            f"{' and '.join(names)} have no common vocabulary: text {number} becomes "
            f"{len(ours)} and {len(theirs)} tokens, which differ from token {place} on (ids "
            f"{ids}); an exact KL per token needs the same tokenizer, prefix: and overlength: on "
            "both sides. Take the pair out of analyses.true_kl.pairs"
        )


def load_pair(
    sides: Sequence[Side],
    cards: Sequence[Card],
    sequences: Sequence[Sequence[Sequence[int]]],
    limit: int | None,
    device: str,
) -> tuple[tuple[CausalModel, CausalModel], list[str]]:
    """Both models in the dtypes of their scores, and why they have these.

    Args:
        sides: the two models.
        cards: their cards.
        sequences: for either the token ids of some texts as it reads them.
        limit: longest input of both in tokens; None without one.
        device: ``cpu`` or ``cuda``.

    Raises:
        PermanentFailure: a model cannot be loaded, or not as it is configured.
    """
    import torch

    from klmap import scorer_precision

    first, second = (
        scorer_precision.Loading(
            side.weights,
            device,
            ids,
            limit,
            stored=None if card.quantization else card.dtype,
            parameters=card.parameters,
            quantization=_quantization(side, card),
        )
        for side, card, ids in zip(sides, cards, sequences, strict=True)
    )
    wanted = [str(side.spec["dtype"]) for side in sides]
    one, reason = scorer_precision.load(first, wanted[0])
    dtype, products = one.dtype, one.products
    if device == "cuda" and "auto" in wanted:
        # A dtype is chosen by loading in several, for which there is room with one model alone.
        del one
        torch.cuda.empty_cache()
        other, other_reason = scorer_precision.load(second, wanted[1])
        one = first.load(dtype)
    else:
        # With one library for both, a model compared with itself has no divergence at all.
        second = dataclasses.replace(second, products=products if device == "cpu" else None)
        other, other_reason = scorer_precision.load(second, wanted[1])
    return (one, other), [reason, other_reason]


def _quantization(side: Side, card: Card) -> str | None:
    method: str | None = side.spec.get("quantization")
    if method and card.quantization:
        raise PermanentFailure(
            f"{side.model}: quantization: {method} cannot be applied to weights that are stored "
            f"quantised ({card.quantization}); remove quantization: from the entry"
        )
    return method


def _by_text(values: Floats, plan: Plan, chosen: Sequence[int]) -> Floats:
    """(7, n) sums over each text's tokens; 0 for a text without any.

    Raises:
        PermanentFailure: a value is not finite.
    """
    finite = np.isfinite(values.sum(axis=0))
    if not finite.all():
        text = int(np.searchsorted(plan.offset, np.argmin(finite), side="right")) - 1
        raise PermanentFailure(
            f"the KL of {int((~finite).sum()):,} of {len(finite):,} tokens is not finite, first in "
            f"text {chosen[text]}: weights hold NaN or infinity, or overflow in this dtype (try "
            "dtype: float32), or one model rules out a token that the other does not"
        )
    spans = itertools.pairwise(plan.offset)
    return np.stack([values[:, start:stop].sum(axis=1) for start, stop in spans], axis=1)
