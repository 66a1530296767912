"""What two models write after the same prompts, and how likely it is by either: one job per pair.

Both models answer some prompts of a text set; then both say how likely all answers are. The mean
of ``log p(y|x) - log q(y|x)`` over what the first one wrote is a Monte-Carlo estimate of
``KL(p || q)`` (Takase et al. 2026 compare estimates from log-likelihood vectors with such ones).
``scorer_generate`` samples, ``scorer_responses`` reads and ``scorer_written`` scores; here stands
what a job is asked for and what it writes.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from huggingface_hub import constants

from klmap import fetch, scorer_code, scorer_divergence, scorer_job, store_samples
from klmap.cards import Card, read_card
from klmap.config import fingerprint
from klmap.errors import InputError, PermanentFailure, UnsupportedHere
from klmap.files import read_json
from klmap.likelihoods import CAUSAL
from klmap.log import logger
from klmap.scorer_divergence import Side
from klmap.store_samples import TEXT, TOKENS, Samples
from klmap.texts import Text, read_texts

if TYPE_CHECKING:
    from klmap.scorer_responses import Reader


@dataclass(frozen=True)
class Job:
    """What the job of one pair is asked to do.

    Attributes:
        sides: the two models.
        texts: texts.jsonl, of prompts and responses.
        manifest: texts.json.
        prompts: how many, evenly spread over those that leave room for a response.
        samples: responses of each model to each prompt.
        tokens: most tokens of a response.
        spec: settings that the fingerprint hashes.
        output: ``<first>~<second>.<fingerprint>.h5``.
        temperature: by which logits are divided, when sampling and when scoring samples.
        seed: of the sampling.
        mauve: also store features of all responses.
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
    prompts: int
    samples: int
    tokens: int
    spec: dict[str, Any]
    output: Path
    temperature: float = 1.0
    seed: int = 42
    mauve: bool = False
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


def samples(job: Job) -> None:
    """Let both models of a pair write, score what they wrote, and store it.

    Raises:
        InputError: the file name does not belong to the settings, the texts have no prompts, or
            an input is broken.
        PermanentFailure: this pair can never be sampled like this; the reason stands beside the
            output. With ``skip_failures`` a file with status ``failed`` is written instead.
        KlmapError: memory does not suffice.
        OSError: the machine's trouble; try again.
    """
    named = job.named
    scorer_job.check_name(named)
    cards = [read_card(side.card) for side in job.sides]
    sha256 = str(read_json(job.manifest).get("sha256"))
    result = Samples(
        job.sides[0].model, job.sides[1].model, [card.commit for card in cards], sha256,
        fingerprint(job.spec), job.spec,
    )  # fmt: skip
    if _is_finished(job.output, result):
        logger.info("%s: finished already", job.output)
        return
    texts = read_texts(job.texts, job.manifest)
    if not all(text.is_paired for text in texts):
        raise InputError(
            f"{job.texts}: texts without prompts; generation needs prompts to answer: give the "
            "text set prompt_bytes: or fields: with a prompt, or take generation: out of analyses:"
        )
    both = dataclasses.replace(cards[0], commit="~".join(result.commits))
    try:
        scorer_job.raise_again(named, both, sha256)
        with scorer_divergence.memory("samples"):
            _compute(job, cards, texts, result)
    except PermanentFailure as failure:
        if not job.skip_failures:
            if not isinstance(failure, UnsupportedHere):
                scorer_job.leave_reason(named, both, sha256, str(failure))
            raise
        logger.error("%s", failure)
        result.status, result.error = "failed", str(failure)
    store_samples.write_samples(job.output, result)
    if result.status == "ok":
        named.failure.unlink(missing_ok=True)


def _is_finished(path: Path, wanted: Samples) -> bool:
    """Whether the samples are there, for these commits, texts and settings."""
    if not path.is_file():
        return False
    try:
        found = store_samples.read_samples(path)
    except InputError as error:
        logger.warning("%s; it is written again", error)
        return False
    same = all(
        getattr(found, key) == getattr(wanted, key)
        for key in ("commits", "texts_sha256", "fingerprint")
    )
    return same and found.status == "ok"


def _compute(job: Job, cards: Sequence[Card], texts: Sequence[Text], result: Samples) -> None:
    """Everything between the checks and the file."""
    for side, card in zip(job.sides, cards, strict=True):
        kind = side.spec.get("likelihood", CAUSAL)
        reason = card.error or fetch.failure_in(side.weights)
        if reason or kind != CAUSAL:
            reason = reason or (
                f"its likelihood is {kind}, and only models that read from left to right write "
                "texts here; take the pair out of analyses.generation.pairs"
            )
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
        scorer_load,
        scorer_precision,
        scorer_responses,
        scorer_run,
        scorer_written,
    )

    device = scorer_precision.prepare(job.device, job.threads)
    readers = [_reader(side, card, texts) for side, card in zip(job.sides, cards, strict=True)]
    limits = [scorer_load.context_of(side.weights) for side in job.sides]
    limit = min((known for known in limits if known is not None), default=None)
    chosen, left_out = _chosen(job, readers, limit)
    models, choices = scorer_divergence.load_pair(
        job.sides, cards, [[reader.ids[place] for place in chosen] for reader in readers],
        limit, device,
    )  # fmt: skip
    columns = [scorer_responses.columns_of(model) for model in models]
    readers = [
        dataclasses.replace(reader, stops=[token for token in reader.stops if token < count])
        for reader, count in zip(readers, columns, strict=True)
    ]
    shared = scorer_responses.share_vocabulary(readers[0], readers[1], chosen, min(columns))
    if shared:
        stops = sorted({token for reader in readers for token in reader.stops})
        readers = [dataclasses.replace(reader, stops=stops) for reader in readers]
        columns = [min(columns)] * 2
    how = scorer_written.How(
        job.seed, job.samples, job.tokens, job.temperature, limit,
        scorer_run.budget_for(device, job.batch_tokens),
    )  # fmt: skip
    written, cached = [], []
    for source, (model, reader) in enumerate(zip(models, readers, strict=True)):
        found, uses_cache = scorer_written.write(
            how, source, model, columns[source], reader, chosen
        )
        written += found
        cached.append(uses_cache)
    kept = [item for item in written if shared or not item.unreadable]
    if {item.source for item in kept} != {0, 1}:
        raise PermanentFailure(
            "a model wrote nothing that the other one can read: every response has bytes that are "
            "no character, or changes the prompt; take the pair out of analyses.generation.pairs"
        )
    score = scorer_written.as_tokens if shared else scorer_written.as_text
    result.loglik, result.steps = score(how, models, readers, kept)
    scorer_written.describe(result, kept, readers)
    if job.mauve:
        result.features = scorer_written.features_of(how, models[0], readers[0], kept)
    result.attributes |= {
        "scored_as": TOKENS if shared else TEXT,
        "prompts": len(chosen),
        "prompts_left_out": left_out,
        "unreadable": sum(item.unreadable for item in written),
        "left_out": len(written) - len(kept),
        "cache": cached,
        "dtype": [model.dtype for model in models],
        "dtype_choice": choices,
        "head": [model.head_name for model in models],
        "quantization": [side.spec.get("quantization") or "none" for side in job.sides],
        "precision": [scorer_precision.switches(model) for model in models],
        "context": -1 if limit is None else limit,
        "device": scorer_precision.device_name(device),
        "threads": job.threads,
        "peak_memory": scorer_precision.peak_memory(device),
        "software": scorer_job.software(),
        "seconds": time.monotonic() - began,
    }
    logger.info(
        "%s~%s: %d responses to %d prompts, scored as %s, %d left out",
        result.first, result.second, len(kept), len(chosen), result.attributes["scored_as"],
        result.attributes["left_out"],
    )  # fmt: skip


def _reader(side: Side, card: Card, texts: Sequence[Text]) -> Reader:
    """How one model reads the prompts."""
    from klmap import scorer_responses, tokens, tokens_chat

    permitted = scorer_code.permit(side.weights, card, bool(side.spec.get("remote_code")))
    tokenizer = tokens.load_tokenizer(side.weights, permitted)
    bare = texts[0].prompt is None
    if bare:
        prompts = tokens_chat.render(
            tokens_chat.read_template(side.weights),
            [text.messages or () for text in texts],
            tokens_chat.special_tokens(side.weights, tokenizer),
        )
    else:
        prompts = [text.prompt or "" for text in texts]
    return scorer_responses.reader(tokenizer, side.weights, str(side.spec["prefix"]), prompts, bare)


def _chosen(job: Job, readers: Sequence[Reader], limit: int | None) -> tuple[list[int], int]:
    """Numbers of the texts whose prompts are answered, and how many leave no room for that."""
    from klmap import scorer_run

    lengths = [[len(ids) for ids in reader.ids] for reader in readers]
    most = np.inf if limit is None else limit - job.tokens
    usable = [
        place for place, both in enumerate(zip(*lengths, strict=True))
        if min(both) > 0 and max(both) <= most
    ]  # fmt: skip
    left_out = len(lengths[0]) - len(usable)
    if not usable:
        raise PermanentFailure(
            f"no prompt leaves room for {job.tokens} tokens in a context of {limit}, or has a "
            "token to go on from; give fewer analyses.generation.tokens, or shorter prompts"
        )
    if left_out:
        logger.info("%d prompts leave no room for a response, or are empty", left_out)
    return [usable[at] for at in scorer_run.probe_texts(len(usable), job.prompts)], left_out
