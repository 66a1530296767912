"""The exact divergence of two models with one vocabulary: both read the same tokens.

The distance of two models on the map is estimated from one number per text. Where both cut texts
into the same tokens, what it estimates can be computed: at every position the Kullback-Leibler
divergence of the two distributions of the next token, over the whole vocabulary (the check is
klmap's own). ``scorer_pair`` has what every job of a pair needs, and
``scorer_compare`` computes; here stands what both read, and what is made of it.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from klmap import scorer_pair, store_divergence
from klmap.arrays import Floats
from klmap.cards import Card
from klmap.errors import PermanentFailure
from klmap.log import Progress, logger
from klmap.store_divergence import Divergence
from klmap.texts import read_texts

if TYPE_CHECKING:
    from klmap.scorer_run import Plan


@dataclass(frozen=True, kw_only=True)
class Job(scorer_pair.Job):
    """What the job of one pair is asked to do.

    Attributes:
        number: of texts, evenly spread over the set; all where there are fewer.
    """

    number: int


def divergence(job: Job) -> None:
    """Compute the divergences of one pair and write them.

    Raises:
        InputError: the file name does not belong to the settings, or an input is broken.
        PermanentFailure: this pair can never be compared like this; the reason stands beside the
            output. With ``skip_failures`` a file with status ``failed`` is written instead.
        KlmapError: memory does not suffice.
        OSError: the machine's trouble; try again.
    """
    scorer_pair.run(
        "divergence", job, Divergence, store_divergence.read_divergence,
        store_divergence.write_divergence, lambda cards, result: _compute(job, cards, result),
    )  # fmt: skip


def _compute(job: Job, cards: Sequence[Card], result: Divergence) -> None:
    """Everything between the checks and the file."""
    texts = read_texts(job.texts, job.manifest)
    scorer_pair.begin(job, cards)
    began = time.monotonic()
    from klmap import (
        scorer_compare,
        scorer_precision,
        scorer_run,
        tokens,
        tokens_texts,
    )

    device = scorer_precision.prepare(job.device, job.threads)
    remote = scorer_pair.permitted(job, cards)
    limit = scorer_pair.limit_of(job)
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
    models, choices = scorer_pair.load(job, cards, (first, first), limit, device)
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
    result.attributes = {
        **scorer_pair.described(job, models, choices, limit, device, began),
        "mass_outside_first": float(sums[5].sum()) / scored,
        "mass_outside_second": float(sums[6].sum()) / scored,
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
