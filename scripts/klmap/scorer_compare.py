"""Two loaded models side by side: divergences of their distributions of the next token.

Logits are computed in float32 and everything behind them in float64, over the whole vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from klmap import scorer_run
from klmap.arrays import Floats
from klmap.log import Progress
from klmap.scorer_as_causal import CausalModel

CPU_LOGITS = 2**21
"""Logits of one model at a time on a CPU: 16 MiB in 64 bits."""

CUDA_LOGITS = 2**26
"""The same on a GPU: 512 MiB. Some eight arrays of this size are held at one time."""

VALUES = ("kl", "kl_back", "loglik", "loglik_second", "squares", "outside", "outside_second")
"""What :func:`compare` gives for every scored token, in its order."""


def tokenwise(
    models: tuple[CausalModel, CausalModel],
    plan: scorer_run.Plan,
    budget: int,
    progress: Progress | None = None,
    temperature: float = 1.0,
) -> Floats:
    """Compare two models at every scored token of some texts.

    Args:
        models: loaded and verified; both read what the plan holds.
        plan: of the texts.
        budget: padded tokens per batch; a GPU out of memory halves it.
        progress: told of every batch.
        temperature: by which logits are divided.

    Returns:
        (7, T) float64 in the order of texts, see :func:`compare`.

    Raises:
        PermanentFailure: a model's own code fails.
        torch.OutOfMemoryError: memory does not suffice for a single text.
    """

    def values(logits: Sequence[Tensor], targets: Tensor) -> Tensor:
        if temperature != 1.0:
            logits = [each / temperature for each in logits]
        return compare(logits[0], logits[1], targets)

    return by_token(models, plan, budget, values, len(VALUES), progress)


def by_token(
    models: Sequence[CausalModel],
    plan: scorer_run.Plan,
    budget: int,
    values: Callable[[Sequence[Tensor], Tensor], Tensor],
    count: int,
    progress: Progress | None = None,
) -> Floats:
    """Some numbers for every scored token of some texts, from the logits of some models.

    Args:
        models: loaded and verified; all read what the plan holds.
        plan: of the texts.
        budget: padded tokens per batch; a GPU out of memory halves it.
        values: makes (count, R) numbers of the (R, V) logits of each model and the (R,) ids of
            the tokens that do come next.
        count: of numbers for each token.
        progress: told of every batch.

    Returns:
        (count, T) float64 in the order of texts.

    Raises:
        PermanentFailure: a model's own code fails.
        torch.OutOfMemoryError: memory does not suffice for a single text.
    """
    budget = scorer_run.capped(models, budget)
    result = np.zeros((count, int(plan.offset[-1])))

    def compute(batch: Sequence[scorer_run.Piece], _: int) -> Floats:
        return _batch(models, plan, batch, values)

    for done in scorer_run.batches(plan.ordered, 0, budget, compute, "a model fails on a text"):
        filled = 0
        for piece in done.pieces:
            place = slice(piece.offset, piece.offset + piece.scored)
            result[:, place] = done.found[:, filled : filled + piece.scored]
            filled += piece.scored
        if progress is not None:
            progress.add(done.tokens)
    return result


@torch.inference_mode()
def _batch(
    models: Sequence[CausalModel],
    plan: scorer_run.Plan,
    batch: Sequence[scorer_run.Piece],
    values: Callable[[Sequence[Tensor], Tensor], Tensor],
) -> Floats:
    """(count, R) numbers of the tokens that one batch scores, piece after piece."""
    width = batch[0].length
    ids = torch.zeros((len(batch), width), dtype=torch.int64)
    rows, targets = [], []
    for number, piece in enumerate(batch):
        window = piece.window
        sequence = torch.tensor(plan.sequences[piece.text][window.start : window.stop])
        ids[number, : piece.length] = sequence[:-1]
        scored = torch.arange(window.first - window.start, len(sequence))
        rows.append(number * width + scored - 1)
        targets.append(sequence[scored])
    places, wanted = torch.cat(rows), torch.cat(targets)
    each = [_logits(model, ids, places) for model in models]
    device = models[0].output_device
    widest = max(model.rows for model in models)
    step = max((CUDA_LOGITS if device.type == "cuda" else CPU_LOGITS) // widest, 1)
    parts = []
    for start in range(0, len(wanted), step):
        some = slice(start, start + step)
        logits = [logits_of(some).to(device) for logits_of in each]
        parts.append(values(logits, wanted[some].to(device)))
    return np.asarray(torch.cat(parts, dim=1).cpu().numpy(), np.float64)


def _logits(model: CausalModel, ids: Tensor, rows: Tensor) -> Callable[[slice], Tensor]:
    """Logits of some of the rows, computed when they are asked for.

    Returns:
        A function from a part of ``rows`` to (R, V) float32 or float64.
    """
    given = {"input_ids": ids.to(model.device), "use_cache": False}
    if model.head is None:
        logits = model.model(**given).logits.flatten(0, 1)
        return lambda some: logits[rows[some].to(logits.device)].to(model.output_device)
    hidden = model.body(**given)[0].flatten(0, 1).to(model.output_device)
    head = model.head.columns(0, len(model.head.weight))
    return lambda some: head.logits(hidden[rows[some].to(hidden.device)])


def compare(first: Tensor, second: Tensor, targets: Tensor) -> Tensor:
    """Divergences of two distributions of the next token, in float64.

    Where one model has more columns than the other, such as rows that only pad its embedding to a
    round number, both distributions are taken given that the token is one that both have: over
    the columns in common they are normalised anew (own). Log-likelihoods are those of the whole
    distributions, as in scores.

    Args:
        first: (R, V) logits of one model.
        second: (R, W) logits of the other.
        targets: (R,) ids of the tokens that do come next.

    Returns:
        (7, R) float64: ``KL(first || second)``, ``KL(second || first)`` and the log-probabilities
        of the targets by either, in nats; the square of the difference of these; and the
        probability that either gives to columns that the other one does not have.
    """
    common = min(first.shape[1], second.shape[1])
    logs, chosen, outside = [], [], []
    for logits in (first.double(), second.double()):
        total = logits.logsumexp(dim=1)
        chosen.append(logits.gather(1, targets[:, None]).squeeze(1) - total)
        inner = logits[:, :common].logsumexp(dim=1)
        rest = logits[:, common:]
        outside.append(
            (rest.logsumexp(dim=1) - total).exp() if rest.shape[1] else torch.zeros_like(total)
        )
        logs.append(logits[:, :common] - inner[:, None])
    kl = [_kl(one, other) for one, other in (logs, logs[::-1])]
    square = (chosen[0] - chosen[1]) ** 2
    return torch.stack([*kl, *chosen, square, *outside])


def _kl(one: Tensor, other: Tensor) -> Tensor:
    """(R,) sums over the columns of ``p log(p / q)``, from log-probabilities."""
    terms = (one - other).mul_(one.exp())
    # What a model rules out costs it nothing, where the difference of two infinities is none.
    return terms.masked_fill_(one == -torch.inf, 0.0).sum(dim=1)
