"""Run token sequences through a model: the batch plan, the sums, the error bar."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from klmap.allocation import BATCH_TOKENS
from klmap.errors import PermanentFailure
from klmap.log import Progress, logger
from klmap.scorer_kind import Model
from klmap.scorer_lens import Lens
from klmap.scorer_load import raise_for_model
from klmap.scorer_plan import Piece as Piece
from klmap.scorer_plan import Plan as Plan
from klmap.scorer_plan import make_plan as make_plan
from klmap.scorer_plan import next_batch as next_batch
from klmap.scorer_resume import Checkpoint

Floats = npt.NDArray[np.float64]
TokenFloats = npt.NDArray[np.float32] | npt.NDArray[np.float64]

CPU_BATCH_TOKENS = 1024
"""Tokens per batch on a CPU: larger batches leave its cache."""

CUDA_BATCH_TOKENS = BATCH_TOKENS
"""Tokens per batch on a GPU to begin with; halved when memory does not suffice."""

FALLBACK_LOGITS = 2**28
"""Logits per batch where the model's own head gives them for every position."""

PROBE_TEXTS = 64
"""Texts scored twice for the error bar."""

Found = TypeVar("Found")


@dataclass(frozen=True)
class Batch(Generic[Found]):
    """A batch that went through.

    Attributes:
        pieces: of the plan.
        found: what was computed of them.
        stop: how many pieces are done with it.
        budget: padded tokens of the batches from here on.
    """

    pieces: Sequence[Piece]
    found: Found
    stop: int
    budget: int

    @property
    def tokens(self) -> int:
        """Without padding."""
        return sum(piece.length for piece in self.pieces)


def capped(models: Sequence[Model], budget: int) -> int:
    """Padded tokens per batch that these models may have.

    A model whose own head gives logits for every position has fewer, one that mixes the texts of a
    batch has one text at a time.
    """
    for model in models:
        if model.head is None:
            budget = min(budget, max(FALLBACK_LOGITS // model.rows, 1))
        if model.mixes_batches:
            budget = 1
    return budget


def batches(
    pieces: Sequence[Piece],
    start: int,
    budget: int,
    compute: Callable[[Sequence[Piece], int], Found],
    failure: str,
) -> Iterator[Batch[Found]]:
    """Run pieces through one or more models; a GPU out of memory halves the budget.

    The batch that was too large is cut in two; what is done stays.

    Args:
        pieces: in the order in which they are run.
        start: how many are done before.
        budget: padded tokens per batch.
        compute: given a batch and the number of its first piece.
        failure: what is said where a model's own code fails.

    Yields:
        Each batch when it is done.

    Raises:
        PermanentFailure: a model's own code fails.
        torch.OutOfMemoryError: memory does not suffice for a single text.
    """
    while start < len(pieces):
        batch = next_batch(pieces, start, budget)
        try:
            found = compute(batch, start)
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise
            budget = len(batch) // 2 * batch[0].length
            torch.cuda.empty_cache()
            logger.info("out of GPU memory: from here on %d tokens per batch", budget)
            continue
        except Exception as error:
            raise_for_model(error, failure)
        start += len(batch)
        yield Batch(batch, found, start, budget)


def score_tokens(
    model: Model,
    plan: Plan,
    budget: int,
    progress: Progress | None = None,
    checkpoint: Checkpoint | None = None,
    lens: Lens | None = None,
) -> tuple[TokenFloats, int]:
    """Log-probability of every scored token of a text set.

    Batches depend on the lengths and the budget alone: longest pieces first, ties in the order
    of texts. A GPU out of memory halves the budget and goes on with the same batch. On a GPU
    nothing waits for a result before the next batch is sent, except to save.

    Args:
        model: loaded and verified.
        plan: of the text set.
        budget: padded tokens per batch.
        progress: told of every batch.
        checkpoint: where to go on from and to save to; it also ends the job when that is asked.
        lens: reads hidden states in the same pass; its sums are filled.

    Returns:
        (T,) nats in the order of texts, in the precision of the head; and the final budget.

    Raises:
        PermanentFailure: the model's own code fails.
        torch.OutOfMemoryError: memory does not suffice for a single text.
    """
    budget = capped([model], budget)
    pieces = plan.ordered
    precision = torch.float64 if model.dtype == "float64" else torch.float32
    result = torch.zeros(int(plan.offset[-1]), dtype=precision, device=model.output_device)
    start = filled = 0
    state = checkpoint.state if checkpoint is not None else None
    if state is not None:
        start, budget, filled = state.pieces, state.budget, len(state.values)
        result[:filled] = torch.from_numpy(state.values)
    if lens is not None:
        lens.begin(len(pieces), None if state is None else state.layers)

    def compute(batch: Sequence[Piece], place: int) -> torch.Tensor:
        return _logprobs(model, plan, batch, lens, place)

    for done in batches(pieces, start, budget, compute, "the model fails on a text"):
        result[filled : filled + len(done.found)] = done.found
        filled += len(done.found)
        start, budget = done.stop, done.budget
        if progress is not None:
            progress.add(done.tokens)
        if checkpoint is not None and checkpoint.due and start < len(pieces):
            checkpoint.save(start, budget, result[:filled].cpu().numpy(), _sums(lens, start))
    logprobs = result.cpu().numpy()
    if checkpoint is not None and checkpoint.due:
        # What comes next can be interrupted as well.
        checkpoint.save(start, budget, logprobs, _sums(lens, start))
    return _in_order_of_texts(plan, logprobs), budget


def _sums(lens: Lens | None, count: int) -> Floats | None:
    """(Y, count) nats of the first windows by each hidden state; None where none is read."""
    return None if lens is None else lens.sums[:, :count].cpu().numpy()


def _in_order_of_texts(plan: Plan, values: TokenFloats) -> TokenFloats:
    result = np.empty_like(values)
    filled = 0
    for piece in plan.ordered:
        result[piece.offset : piece.offset + piece.scored] = values[filled : filled + piece.scored]
        filled += piece.scored
    return result


@torch.inference_mode()
def _logprobs(
    model: Model, plan: Plan, batch: Sequence[Piece], lens: Lens | None, start: int
) -> torch.Tensor:
    """Log-probabilities of the tokens that one batch scores, piece after piece."""
    if lens is None:
        return model.score(plan, batch)
    ids, rows, targets = lens.model.batch(plan, batch)
    with lens.reading(rows, targets, start, len(batch)):
        return lens.model.logprobs(ids, rows, targets)


def text_sums(tokens: TokenFloats, offset: npt.NDArray[np.int64]) -> Floats:
    """(N,) sums in float64 over each text's tokens; 0 for a text without any.

    Raises:
        PermanentFailure: a token's log-probability is not finite.
    """
    finite = np.isfinite(tokens)
    if not finite.all():
        first = int(np.searchsorted(offset, np.argmin(finite), side="right")) - 1
        raise PermanentFailure(
            f"{int((~finite).sum()):,} of {len(tokens):,} token log-probabilities are not finite, "
            f"the first in text {first}: the weights hold NaN or infinity, or overflow in this "
            "dtype (try dtype: float32)"
        )
    spans = itertools.pairwise(offset)
    return np.array([tokens[start:stop].sum(dtype=np.float64) for start, stop in spans])


def layer_sums(lens: Lens, plan: Plan) -> Floats:
    """(Y, N) nats per text by each hidden state; 0 for a text without a scored token.

    Raises:
        PermanentFailure: a sum is not finite.
    """
    sums = lens.sums.cpu().numpy()
    result = np.zeros((len(lens.layers), len(plan.sequences)))
    for number, piece in enumerate(plan.ordered):
        result[:, piece.text] += sums[:, number]
    bad = ~np.isfinite(result).all(axis=1)
    if bad.any():
        raise PermanentFailure(
            f"layers: log-likelihoods by hidden state {lens.layers[int(bad.argmax())]} are not "
            "finite: it overflows in this dtype (try dtype: float32); or remove layers: from the "
            "entry"
        )
    return result


def probe_texts(count: int, wanted: int = PROBE_TEXTS) -> list[int]:
    """Numbers of the texts scored twice: evenly spread over the set, the same for every model."""
    return sorted({int(number) for number in np.linspace(0, count - 1, min(wanted, count))})


def loglik_singly(
    model: Model,
    sequences: Sequence[Sequence[int]],
    limit: int | None,
    first: Sequence[int] | None = None,
) -> Floats:
    """(N,) log-likelihoods in nats with one window per batch, summed in float64.

    Args:
        model: loaded and verified.
        sequences: N lists of token ids.
        limit: longest window in tokens; None without one.
        first: N positions from which on each sequence is scored, as of :meth:`Model.plan`.
    """
    plan = model.plan(sequences, limit, first)
    tokens, _ = score_tokens(model, plan, budget=1)
    return text_sums(tokens, plan.offset)


def budget_for(device: str, wanted: int | None) -> int:
    """Tokens per batch: what was asked for, else what suits the device."""
    if wanted is not None:
        return wanted
    return CUDA_BATCH_TOKENS if device == "cuda" else CPU_BATCH_TOKENS
