"""Texts that a model writes itself: plain ancestral sampling, token by token.

No part of the distribution is cut off and nothing is penalised: at every position a token is drawn
from the softmax of the logits, in float64. What is drawn depends on the seed, the prompt and the
number of the sample alone, so neither batches nor their order matter, but for a draw that
hits the border between two tokens to the last digits of a logit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from klmap.arrays import Floats
from klmap.log import Progress, logger
from klmap.scorer_as_causal import CausalModel
from klmap.scorer_head import Head
from klmap.scorer_load import raise_for_model

PROBE_STEPS, PROBE_TOKENS = 4, 16
"""Tokens that are fed one by one to see whether a cache changes anything, and the least in all."""

CACHES = ("past_key_values", "cache_params")
"""What models call what they keep of earlier tokens; the second are state-space models."""


def uniforms(seed: int, side: int, text: int, sample: int, count: int) -> Floats:
    """The random numbers that make one sample.

    Args:
        seed: of the whole job.
        side: which of the two models samples.
        text: number of the text whose prompt is answered.
        sample: number of the sample of this prompt.
        count: how many: one for every token.

    Returns:
        (count,) float64 in [0, 1).
    """
    return np.random.default_rng([seed, side, text, sample]).random(count)


def draw(logits: Tensor, uniform: Tensor, temperature: float = 1.0) -> Tensor:
    """Draw from categorical distributions by inverting their distribution functions.

    Args:
        logits: (B, V) unnormalised log-probabilities.
        uniform: (B,) float64 in [0, 1).
        temperature: by which logits are divided.

    Returns:
        (B,) int64, never one whose probability is zero.
    """
    steps = (logits.double() / temperature).softmax(dim=1).cumsum(dim=1)
    # The last number of such a sum is 1 but for rounding.
    total = steps[:, -1:].contiguous()
    found = torch.searchsorted(steps, uniform[:, None] * total, right=True)
    last = torch.searchsorted(steps, total)
    return torch.minimum(found, last).squeeze(1)


class Writer:
    """A model that writes.

    Args:
        model: loaded and verified.
        columns: of its logits that can be drawn: ids below this number.
        stops: ids that end a response.
        temperature: by which logits are divided.
        sample: token ids of a prompt, on which is seen whether a cache of earlier tokens gives
            the numbers that the model gives without one; where it does not, every token costs
            the whole sequence.

    Attributes:
        cached: whether a cache is used.
    """

    def __init__(
        self,
        model: CausalModel,
        columns: int,
        stops: Sequence[int],
        temperature: float,
        sample: Sequence[int],
    ) -> None:
        self.model = model
        self.columns = columns
        self.stops = list(stops)
        self.temperature = temperature
        self._head: Head | None = None
        if model.head is not None:
            self._head = model.head.columns(0, len(model.head.weight))
        self.cached = self._can_cache(sample)

    @torch.inference_mode()
    def write(self, prompt: Sequence[int], uniform: Floats) -> list[list[int]]:
        """Sample some responses to one prompt.

        Args:
            prompt: token ids, at least one.
            uniform: (S, T) random numbers, a row for each response, a column for each token.

        Returns:
            S lists of at most T token ids; one that ends earlier ends with one of ``stops``.

        Raises:
            PermanentFailure: the model's own code fails.
            torch.OutOfMemoryError: memory does not suffice.
        """
        try:
            return self._write(prompt, uniform)
        except Exception as error:
            raise_for_model(error, "the model fails to go on with a text")

    def _write(self, prompt: Sequence[int], uniform: Floats) -> list[list[int]]:
        rows, count = uniform.shape
        ids = torch.tensor([list(prompt)] * rows, device=self.model.device)
        numbers = torch.from_numpy(uniform)
        written = torch.empty((rows, 0), dtype=torch.int64)
        ended = torch.zeros(rows, dtype=torch.bool)
        stops = torch.tensor(self.stops, dtype=torch.int64)
        cache, fresh = None, ids
        for step in range(count):
            logits, cache = self._last(fresh, cache)
            chosen = draw(
                logits[:, : self.columns], numbers[:, step].to(logits.device), self.temperature
            ).cpu()
            written = torch.cat([written, chosen[:, None]], dim=1)
            ended |= torch.isin(chosen, stops)
            if ended.all():
                break
            following = chosen[:, None].to(ids.device)
            ids = torch.cat([ids, following], dim=1)
            fresh = following if self.cached else ids
        return [self._until_end(row) for row in written.tolist()]

    def _until_end(self, row: list[int]) -> list[int]:
        end = next((place for place, token in enumerate(row) if token in self.stops), len(row))
        return row[: end + 1]

    def _last(self, ids: Tensor, cache: dict[str, Any] | None) -> tuple[Tensor, Any]:
        """(B, V) logits behind the last token, and the cache that holds all tokens so far."""
        given = {"input_ids": ids, "use_cache": self.cached, **(cache or {})}
        if self._head is None:
            output = self.model.model(**given)
            logits = output.logits[:, -1].to(self.model.output_device)
        else:
            output = self.model.body(**given)
            logits = self._head.logits(output[0][:, -1].to(self.model.output_device))
        held = {name: output[name] for name in CACHES if self.cached and name in output}
        return logits, held or None

    @torch.inference_mode()
    def _can_cache(self, sample: Sequence[int]) -> bool:
        """Whether tokens fed one by one give the logits that they give all at once."""
        repeats = -(-PROBE_TOKENS // len(sample))
        ids = torch.tensor([list(sample) * repeats] * 2, device=self.model.device)
        if self.model.mixes_batches:
            return False
        self.cached = False
        expected, _ = self._last(ids, None)
        self.cached = True
        try:
            found, cache = self._last(ids[:, :-PROBE_STEPS], None)
            if cache is None:
                return False
            for place in range(PROBE_STEPS, 0, -1):
                step = ids[:, -place:][:, :1]
                found, cache = self._last(step, cache)
        except (AttributeError, TypeError, ValueError, RuntimeError, IndexError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            logger.info("no cache: %s", str(error).split("\n")[0])
            return False
        difference = float((found - expected).abs().max())
        if difference <= self.model.tolerance(expected):
            return True
        logger.info("no cache: it moves logits by %.2g", difference)
        return False


def write_all(
    writer: Writer,
    prompts: Sequence[Sequence[int]],
    uniform: Sequence[Floats],
    budget: int,
    progress: Progress | None = None,
) -> list[list[list[int]]]:
    """Sample responses to some prompts.

    Args:
        writer: the model.
        prompts: P lists of token ids, each of at least one.
        uniform: P arrays (S, T) of random numbers.
        budget: tokens per batch, prompts included.
        progress: told of every sampled token.

    Returns:
        For each prompt S lists of token ids.
    """
    result = []
    for prompt, numbers in zip(prompts, uniform, strict=True):
        rows = max(budget // (len(prompt) + numbers.shape[1]), 1)
        found: list[list[int]] = []
        for start in range(0, len(numbers), rows):
            found += writer.write(prompt, numbers[start : start + rows])
        result.append(found)
        if progress is not None:
            progress.add(sum(map(len, found)))
    return result
