"""What two models write after the same prompts, and how likely it is by either: one job per pair.

Both models answer some prompts of a text set; then both say how likely all answers are. The mean
of ``log p(y|x) - log q(y|x)`` over what the first one wrote is a Monte-Carlo estimate of
``KL(p || q)`` (Takase et al. 2026 compare estimates from log-likelihood vectors with such ones).
``scorer_pair`` has what every job of a pair needs, ``scorer_generate`` samples,
``scorer_responses`` reads and ``scorer_written`` scores.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from klmap import scorer_pair, store_samples
from klmap.cards import Card
from klmap.errors import InputError, PermanentFailure
from klmap.likelihoods import CAUSAL
from klmap.log import logger
from klmap.scorer_pair import Side
from klmap.store_samples import TEXT, TOKENS, Samples
from klmap.texts import Text, read_texts

if TYPE_CHECKING:
    from klmap.scorer_responses import Reader


@dataclass(frozen=True, kw_only=True)
class Job(scorer_pair.Job):
    """What the job of one pair is asked to do.

    Attributes:
        prompts: how many, evenly spread over those that leave room for a response.
        samples: responses of each model to each prompt.
        tokens: most tokens of a response.
        temperature: by which logits are divided, when sampling and when scoring samples.
        seed: of the sampling.
        mauve: also store features of all responses.
    """

    prompts: int
    samples: int
    tokens: int
    temperature: float = 1.0
    seed: int = 42
    mauve: bool = False


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
    scorer_pair.run(
        "samples", job, Samples, store_samples.read_samples, store_samples.write_samples,
        lambda cards, result: _compute(job, cards, result),
    )  # fmt: skip


def _compute(job: Job, cards: Sequence[Card], result: Samples) -> None:
    """Everything between the checks and the file."""
    texts = read_texts(job.texts, job.manifest)
    if not all(text.is_paired for text in texts):
        raise InputError(
            f"{job.texts}: texts without prompts; generation needs prompts to answer: give the "
            "text set prompt_bytes: or fields: with a prompt, or take generation: out of analyses:"
        )
    scorer_pair.begin(job, cards)
    for side in job.sides:
        kind = side.spec.get("likelihood", CAUSAL)
        if kind != CAUSAL:
            raise PermanentFailure(
                f"{side.model}: its likelihood is {kind}, and only models that read from left to "
                "right write texts here; take the pair out of analyses.generation.pairs"
            )
    began = time.monotonic()
    from klmap import scorer_precision, scorer_responses, scorer_run, scorer_written

    device = scorer_precision.prepare(job.device, job.threads)
    allowed = scorer_pair.permitted(job, cards)
    readers = [_reader(side, run, texts) for side, run in zip(job.sides, allowed, strict=True)]
    limit = scorer_pair.limit_of(job)
    chosen, left_out = _chosen(job, readers, limit)
    sequences = [[reader.ids[place] for place in chosen] for reader in readers]
    models, choices = scorer_pair.load(job, cards, sequences, limit, device)
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
    result.attributes = {
        **scorer_pair.described(job, models, choices, limit, device, began),
        "scored_as": TOKENS if shared else TEXT,
        "prompts": len(chosen),
        "prompts_left_out": left_out,
        "unreadable": sum(item.unreadable for item in written),
        "left_out": len(written) - len(kept),
        "cache": cached,
    }
    logger.info(
        "%s~%s: %d responses to %d prompts, scored as %s, %d left out",
        result.first, result.second, len(kept), len(chosen), result.attributes["scored_as"],
        result.attributes["left_out"],
    )  # fmt: skip


def _reader(side: Side, remote_code: bool, texts: Sequence[Text]) -> Reader:
    """How one model reads the prompts."""
    from klmap import scorer_responses, tokens, tokens_chat

    tokenizer = tokens.load_tokenizer(side.weights, remote_code)
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
