"""How a model reads prompts and what was written after them, and what it says of it.

Responses are scored in one of two ways. Where both models have one vocabulary, as the ids that were
sampled, the end included: the mean of ``log p - log q`` is then the KL of the distributions of
responses of at most so many tokens, without bias. Else as their text, which each model cuts
into tokens together with the prompt, as responses of a text set are, and whose end each has a
probability of its own for. A sampled response need not consist of the tokens that the tokenizer
makes of its text, and its probability as text is then less than that with which it was sampled;
how often that happens is counted (the choice is klmap's own).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from klmap import scorer_compare, scorer_run, tokens
from klmap.arrays import Bools, Floats
from klmap.files import read_json
from klmap.log import Progress
from klmap.scorer_as_causal import CausalModel

REPLACEMENT = "\ufffd"
"""What decoding makes of bytes that are no character."""


@dataclass(frozen=True)
class Reader:
    """How one model reads.

    Attributes:
        tokenizer: of the model.
        prefix: policy of its score.
        bare: whether nothing is put around a prompt, because a chat template wrote all of it.
        prompts: for each text of the set what stands in front of a response.
        ids: the token ids of these, with what stands before them; empty where there are none.
        stops: ids that end a response; empty where the model has none.
    """

    tokenizer: tokens.TextTokenizer
    prefix: str
    bare: bool
    prompts: list[str]
    ids: list[list[int]]
    stops: list[int]

    def responses(
        self, places: Sequence[int], texts: Sequence[str], ended: Bools
    ) -> tuple[list[list[int]], list[int]]:
        """Prompts and responses as this model cuts them into tokens.

        Args:
            places: n numbers of texts whose prompts are answered.
            texts: n responses.
            ended: (n,) whether an end stands behind each.

        Returns:
            n lists of token ids, and the positions of their first scored tokens.
        """
        prompts = [self.prompts[place] for place in places]
        encoded = tokens.encode(
            self.tokenizer, texts, prefix=self.prefix, overlength="window", limit=None,
            prompts=prompts, affixes=not self.bare,
        )  # fmt: skip
        behind = [] if self.prefix == "bos" or self.bare else self.tokenizer.after
        sequences, first = [], []
        for place, sequence, begin, end in zip(
            places, encoded.sequences, encoded.first, ended, strict=True
        ):
            # Of an empty response to an empty prompt nothing is left but what stands in front.
            read = sequence[: len(sequence) - len(behind)] if sequence else self.ids[place]
            first.append(min(begin, len(read)) if sequence else len(read))
            sequences.append([*read, *(self.stops[:1] if end else [])])
        return sequences, first


def reader(
    tokenizer: tokens.TextTokenizer,
    folder: Path,
    prefix: str,
    prompts: Sequence[str],
    bare: bool,
) -> Reader:
    """How a model reads the prompts of a set.

    Args:
        tokenizer: of the model.
        folder: its files.
        prefix: policy of its score.
        prompts: N texts that stand in front of a response.
        bare: whether nothing is put around them.

    Raises:
        PermanentFailure: the tokenizer loses the spaces between words.
    """
    encoded = tokens.encode(
        tokenizer, prompts, prefix=prefix, overlength="window", limit=None, affixes=not bare
    )
    front, behind = tokenizer.before, tokenizer.after
    if prefix == "bos":
        front, behind = [encoded.bos_id] if encoded.bos_id >= 0 else [], []
    if bare and prefix != "bos":
        front, behind = [], []
    ids = [
        sequence[: len(sequence) - len(behind)] if sequence else front
        for sequence in encoded.sequences
    ]
    return Reader(tokenizer, prefix, bare, list(prompts), ids, stops_of(tokenizer, folder))


def stops_of(tokenizer: tokens.TextTokenizer, folder: Path) -> list[int]:
    """Ids that end a response: the tokenizer's EOS, and those of generation_config.json."""
    path = folder / "generation_config.json"
    found = read_json(path).get("eos_token_id") if path.is_file() else None
    listed = found if isinstance(found, list) else [found]
    named = [token for token in (tokenizer.eos_id, *listed) if isinstance(token, int)]
    return list(dict.fromkeys(named))


def share_vocabulary(first: Reader, second: Reader, chosen: Sequence[int], columns: int) -> bool:
    """Whether ids mean the same to two models, and they read the prompts as the same ids.

    Args:
        first: how one model reads.
        second: how the other does.
        chosen: numbers of the texts whose prompts count.
        columns: ids below this number count.
    """
    if any(first.ids[place] != second.ids[place] for place in chosen):
        return False
    singly = [[token] for token in range(columns)]
    try:
        one, other = (side.tokenizer.engine.decode(singly) for side in (first, second))
    except (IndexError, TypeError, ValueError, OverflowError):
        return False  # a tokenizer with fewer entries than the model has columns
    return one == other


def columns_of(model: CausalModel) -> int:
    """Columns of a model's logits."""
    return model.rows if model.head is None else len(model.head.weight)


def loglik(
    model: CausalModel,
    sequences: Sequence[Sequence[int]],
    first: Sequence[int],
    ended: Bools,
    stops: Sequence[int],
    limit: int | None,
    budget: int,
    temperature: float = 1.0,
    progress: Progress | None = None,
) -> Floats:
    """Log-likelihoods of responses that are scored as text.

    Args:
        model: loaded and verified.
        sequences: n lists of token ids, an end included.
        first: positions of their first scored tokens.
        ended: (n,) whether the last id of each stands for an end.
        stops: ids whose probabilities together are that of an end.
        limit: longest input in tokens; None without one.
        budget: padded tokens per batch.
        temperature: by which logits are divided.
        progress: told of every batch.

    Returns:
        (n,) nats; 0 where nothing is scored.

    Raises:
        PermanentFailure: a number is not finite, or the model's own code fails.
    """

    def values(logits: Sequence[Tensor], targets: Tensor) -> Tensor:
        logs = (logits[0].double() / temperature).log_softmax(dim=1)
        chosen = logs.gather(1, targets[:, None]).squeeze(1)
        ends = logs[:, list(stops)].logsumexp(dim=1) if stops else chosen
        return torch.stack([chosen, ends])

    plan = scorer_run.make_plan(sequences, limit, first)
    chosen, ends = scorer_compare.by_token([model], plan, budget, values, 2, progress)
    last = plan.offset[1:][ended] - 1
    chosen[last] = ends[last]
    return scorer_run.text_sums(chosen, plan.offset)


@torch.inference_mode()
def features(
    model: CausalModel, sequences: Sequence[Sequence[int]], skipped: Sequence[int], budget: int
) -> npt.NDArray[np.float32]:
    """Means over a response's tokens of the last hidden states (own; for MAUVE).

    Args:
        model: loaded and verified.
        sequences: n lists of token ids.
        skipped: how many of each stand in front of the response.
        budget: padded tokens per batch.

    Returns:
        (n, H) float32; NaN for a response without a token.
    """
    known = [place for place, ids in enumerate(sequences) if len(ids) > skipped[place]]
    known.sort(key=lambda place: (-len(sequences[place]), place))
    found: dict[int, npt.NDArray[np.float32]] = {}
    start = 0
    while start < len(known):
        rows = 1 if model.mixes_batches else max(budget // len(sequences[known[start]]), 1)
        some = known[start : start + rows]
        start += rows
        width = len(sequences[some[0]])
        ids = torch.zeros((len(some), width), dtype=torch.int64)
        for row, place in enumerate(some):
            ids[row, : len(sequences[place])] = torch.tensor(list(sequences[place]))
        hidden = _hidden(model, ids.to(model.device))
        for row, place in enumerate(some):
            part = hidden[row, skipped[place] : len(sequences[place])]
            found[place] = part.float().mean(dim=0).cpu().numpy()
    size = len(next(iter(found.values()))) if found else 0
    result = np.full((len(sequences), size), np.nan, np.float32)
    for place, values in found.items():
        result[place] = values
    return result


def _hidden(model: CausalModel, ids: Tensor) -> Tensor:
    """(B, T, H) last hidden states, behind the last norm."""
    if model.body is not model.model:
        hidden: Tensor = model.body(input_ids=ids, use_cache=False)[0]
        return hidden
    output: Any = model.model(input_ids=ids, use_cache=False, output_hidden_states=True)
    last: Tensor = output.hidden_states[-1]
    return last
