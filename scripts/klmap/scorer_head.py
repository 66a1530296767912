"""The last matrix of a language model, computed exactly.

Models keep the dtype of their weights up to the logits, and a log-softmax in 16 bits costs up to
a nat per text. So the body of the model runs as it is, and the head runs here: in blocks of 32-bit
logits.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from klmap import scorer_products

SIXTEEN_BITS = (torch.float16, torch.bfloat16)

CPU_ROWS = 256
CPU_COLUMNS = 8192
"""Logits at a time on a CPU, texts' tokens by entries of the vocabulary: 8 MiB in 32 bits, which
stay in its cache, so that memory does not grow with the vocabulary."""

CUDA_LOGITS = 2**28
"""Logits at a time on a GPU: 1 GiB in 32 bits."""


@dataclass
class Head:
    """The last matrix of a model and the arithmetic behind it.

    Attributes:
        weight: (V, H) unembedding.
        bias: (V,) or None.
        scale: factor on the logits.
        softcap: c of ``c * tanh(logits / c)``; None where there is none.
        onednn: whether products are computed by oneDNN, on a CPU.
    """

    weight: Tensor
    bias: Tensor | None
    scale: float
    softcap: float | None
    onednn: bool = False

    def on(self, device: torch.device) -> Head:
        """The head with its weights on a device."""
        bias = None if self.bias is None else self.bias.to(device)
        return dataclasses.replace(self, weight=self.weight.to(device), bias=bias)

    def columns(self, start: int, stop: int) -> Head:
        """The head for a part of the vocabulary, ready for many rows.

        Sixteen-bit weights are raised to 32 bits on a CPU, where no product of 16-bit numbers
        has a 32-bit result.
        """
        weight = self.weight[start:stop]
        if weight.dtype in SIXTEEN_BITS and not weight.is_cuda:
            weight = weight.float()
        if self.onednn:
            weight = scorer_products.packed(weight)
        bias = None if self.bias is None else self.bias[start:stop]
        return dataclasses.replace(self, weight=weight, bias=bias)

    def logits(self, hidden: Tensor) -> Tensor:
        """(R, H) hidden states to (R, V) logits in float32, or float64 for a float64 model."""
        hidden = hidden.to(self.weight.dtype)
        if self.weight.dtype in SIXTEEN_BITS:
            logits = torch.mm(hidden, self.weight.T, out_dtype=torch.float32)
        elif self.onednn:
            logits = scorer_products.multiply(hidden, self.weight)
        else:
            logits = nn.functional.linear(hidden, self.weight)
        if self.bias is not None:
            logits += self.bias
        if self.scale != 1.0:
            logits *= self.scale
        if self.softcap is not None:
            logits = torch.tanh_(logits.div_(self.softcap)).mul_(self.softcap)
        return logits


def logprobs_of(head: Head, hidden: Tensor, targets: Tensor) -> Tensor:
    """Log-probabilities of chosen tokens, a block of logits at a time.

    On a CPU a block holds some rows and a part of the vocabulary: the logarithm of a sum over the
    vocabulary is that of the sums over its parts. On a GPU it holds whole rows.

    Args:
        head: of the model.
        hidden: (R, H) final hidden states.
        targets: (R,) ids.

    Returns:
        (R,) nats, float32 or float64.
    """
    vocabulary = len(head.weight)
    columns, step = CPU_COLUMNS, CPU_ROWS
    if hidden.is_cuda:
        columns, step = vocabulary, max(CUDA_LOGITS // vocabulary, CPU_ROWS)
    precision = torch.float64 if head.weight.dtype == torch.float64 else torch.float32
    starts = range(0, vocabulary, columns)
    sums = hidden.new_empty((len(starts), len(targets)), dtype=precision)
    chosen = hidden.new_zeros(len(targets), dtype=precision)
    for number, start in enumerate(starts):
        part = head.columns(start, start + columns)
        for row in range(0, len(targets), step):
            some = slice(row, row + step)
            logits = part.logits(hidden[some])
            place = targets[some] - start
            inside = (place >= 0) & (place < logits.shape[1])
            place = place.clamp(0, logits.shape[1] - 1)
            found = logits.gather(1, place[:, None]).squeeze(1)
            chosen[some] = torch.where(inside, found, chosen[some])
            sums[number, some] = torch.logsumexp(logits, dim=1)
    return chosen - torch.logsumexp(sums, dim=0)


def split(values: Tensor) -> Iterator[Tensor]:
    """Parts of at most ``CPU_ROWS`` rows."""
    return (values[start : start + CPU_ROWS] for start in range(0, len(values), CPU_ROWS))


def parts(logits: Tensor) -> Iterator[tuple[int, int, Tensor]]:
    """Parts of the vocabulary: where they begin and end, and their logits."""
    for start in range(0, logits.shape[1], CPU_COLUMNS):
        yield start, start + CPU_COLUMNS, logits[:, start : start + CPU_COLUMNS]


def upcast(logits: Tensor) -> Tensor:
    """Logits in at least 32 bits."""
    return logits if logits.dtype == torch.float64 else logits.float()


_FACTORS = ("logit_scale", "lm_head_multiplier")
"""Keys of configurations by which logits are multiplied: Cohere; Falcon-H1."""

_DIVISORS = ("logits_scaling", "logits_mup_width_multiplier")
"""By which they are divided: Granite and MiniCPM3; Inkling."""

_CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
"""At which they are capped: Gemma-2 and its heirs; RecurrentGemma; xLSTM."""


def own_head(model: Any) -> Head | None:
    """The head as the configuration describes it; None if the model has no plain one."""
    layer = model.get_output_embeddings()
    if type(layer) is not nn.Linear:
        return None
    config = model.config.get_text_config()
    size = getattr(config, "unpadded_vocab_size", None)  # Inkling drops the rows behind it
    weight = layer.weight.detach()[:size]
    bias: Tensor | None = layer.bias
    if bias is None and getattr(model, "final_logits_bias", None) is not None:
        bias = model.final_logits_bias[0]  # BART and its heirs add it behind their head
    bias = None if bias is None else bias.detach()[:size]
    if bias is not None and bias.dtype in SIXTEEN_BITS:
        bias = bias.float()
    values = {
        name: float(value)
        for name in (*_FACTORS, *_DIVISORS, *_CAPS)
        if isinstance(value := getattr(config, name, None), (int, float))
    }
    scale = math.prod(values.get(name, 1.0) for name in _FACTORS)
    divisor = math.prod(values.get(name, 1.0) for name in _DIVISORS)
    # HyperCLOVA X multiplies by what the others divide by.
    scale *= divisor if config.model_type == "hyperclovax" else 1.0 / divisor
    caps = [values[name] for name in _CAPS if values.get(name)]
    return Head(weight, bias, scale, caps[0] if caps else None)
