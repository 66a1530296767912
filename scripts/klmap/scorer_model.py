"""Turn the hidden states of a causal language model into log-probabilities, exactly.

Models keep the dtype of their weights up to the logits, and a log-softmax in 16 bits costs up to
a nat per text. So the body of the model runs as it is, and the head runs here: in blocks of 32-bit
logits, checked once against the model's own.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from klmap import scorer_products
from klmap.errors import PermanentFailure
from klmap.log import logger
from klmap.scorer_load import DTYPES, raise_for_model

CUBLAS = "cublas"

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


class CausalModel:
    """A loaded model that gives log-probabilities of chosen next tokens.

    Args:
        model: a transformers model with a language-model head, in evaluation mode.

    Attributes:
        head: the own head; None where the model's logits are used.
        rows: rows of the input embedding: ids must be smaller.
        products: library of the matrix products, ``blas``, ``onednn``, or ``cublas`` on a GPU.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.device = next(model.parameters()).device
        self.rows = int(model.get_input_embeddings().weight.shape[0])
        self.head = _own_head(model)
        self.products = CUBLAS if self.device.type == "cuda" else scorer_products.BLAS

    @property
    def dtype(self) -> str:
        """Name of the dtype of the weights in use."""
        return str(self.model.dtype).removeprefix("torch.")

    @property
    def head_name(self) -> str:
        """``own``, or ``model`` where the model's own logits are used."""
        return "model" if self.head is None else "own"

    @property
    def quantized(self) -> bool:
        """Whether the weights are in a format of bitsandbytes, which no dtype can replace."""
        return getattr(self.model, "quantization_method", None) is not None

    @property
    def mixes_batches(self) -> bool:
        """Whether a text's numbers depend on its batch mates.

        LLM.int8() keeps columns with outliers in 16 bits, and looks for them in the whole batch.
        """
        return bool(getattr(self.model, "is_loaded_in_8bit", False))

    @property
    def output_device(self) -> torch.device:
        """Where log-probabilities come out: with several GPUs the one that holds the head."""
        return self.device if self.head is None else self.head.weight.device

    @property
    def body(self) -> nn.Module:
        """The model without its head."""
        body: nn.Module = self.model.base_model
        return body

    def to(self, dtype: str) -> CausalModel:
        """Convert the weights in place; the head follows."""
        self.unpack()
        if self.device.type == "cpu":
            scorer_products.convert(self.model, DTYPES[dtype])
        self.model.to(DTYPES[dtype])
        if self.head is not None:
            device = self.head.weight.device
            head = _own_head(self.model)
            self.head = None if head is None else head.on(device)
        return self

    @torch.no_grad()
    def pack(self, sample: Sequence[int]) -> None:
        """Compute matrix products with oneDNN, on packed weights.

        A model that does not come to the same numbers this way stays as it was.

        Args:
            sample: token ids of one text.
        """
        ids = torch.tensor([list(sample)])
        rows, targets = torch.arange(len(sample) - 1), ids[0, 1:]
        expected = self.logprobs(ids, rows, targets)
        self.products = scorer_products.ONEDNN
        try:
            scorer_products.pack(self.model)
            if self.head is not None:
                self.head.onednn = True
            found = self.logprobs(ids, rows, targets)
            if torch.allclose(found, expected, rtol=0, atol=self.tolerance(expected)):
                return
            logger.info("oneDNN gives other numbers for this model and is not used")
        except (RuntimeError, AttributeError, TypeError) as error:
            logger.info("oneDNN does not suit this model: %s", str(error).split("\n")[0])
        self.unpack()

    def unpack(self) -> None:
        """Compute matrix products with BLAS, on plain weights."""
        if self.products != scorer_products.ONEDNN:
            return
        scorer_products.unpack(self.model)
        self.products = scorer_products.BLAS
        if self.head is not None:
            self.head.onednn = False

    def logprobs(self, ids: Tensor, rows: Tensor, targets: Tensor) -> Tensor:
        """Log-probabilities of tokens given all tokens to the left of them.

        Args:
            ids: (B, T) right-padded token ids. No attention mask is needed: a causal model never
                looks at the padding behind a text.
            rows: (R,) positions ``b * T + t`` that predict.
            targets: (R,) ids of the tokens at ``t + 1``.

        Returns:
            (R,) nats, float32 or float64 as the head computes.
        """
        if self.head is None:
            logits = self._logits(ids).flatten(0, 1)
            parts = [
                _upcast(logits[some]).log_softmax(1).gather(1, wanted[:, None]).squeeze(1)
                for some, wanted in zip(_split(rows), _split(targets), strict=True)
            ]
            return torch.cat(parts)
        hidden = self._hidden(ids).flatten(0, 1)
        return logprobs_of(self.head, hidden.to(self.output_device)[rows], targets)

    def _hidden(self, ids: Tensor) -> Tensor:
        output = self.body(input_ids=ids, use_cache=False)
        hidden: Tensor = output[0]
        return hidden

    def _logits(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.model(input_ids=ids, use_cache=False).logits
        return logits

    @torch.inference_mode()
    def verify(self, sample: Sequence[int]) -> None:
        """Compare the own head with the model's, and look for a dependence on later tokens.

        Where the heads differ the own one is dropped, and the model's logits are used.

        Args:
            sample: token ids of one text, at least two for the check to see anything.

        Raises:
            PermanentFailure: the model is no causal language model, or its code fails.
        """
        if len(sample) < 2:
            return
        ids = torch.tensor([list(sample)], device=self.device)
        try:
            self._verify_head(ids)
            self._verify_causality(ids)
        except Exception as error:
            raise_for_model(error, "the model fails on a text")

    def _verify_head(self, ids: Tensor) -> None:
        expected = _upcast(self._logits(ids)[0])
        if self.head is None or not expected.isfinite().all():
            return
        hidden = self._hidden(ids)[0]
        # A head tied to the embedding lies on the first of several GPUs, and would keep it waiting
        # for the last one.
        self.head = self.head.on(hidden.device)
        expected = expected.to(hidden.device)
        difference = math.inf
        if len(self.head.weight) == expected.shape[1]:
            found = [
                (self.head.columns(start, stop).logits(hidden) - part).abs().max()
                for start, stop, part in _parts(expected)
            ]
            difference = float(torch.stack(found).max())  # NaN where there is any
        if not difference <= self.tolerance(expected):
            logger.info(
                "the own head differs from the model's by %.2g; the model's logits are used",
                difference,
            )
            self.head = None

    def _verify_causality(self, ids: Tensor) -> None:
        if self.mixes_batches:
            return  # an outlier in a later token moves earlier ones a little, too
        expected = _upcast(self._logits(ids)[0, :-1])
        changed = ids.clone()
        changed[0, -1] = (changed[0, -1] + 1) % self.rows
        moved = float((_upcast(self._logits(changed)[0, :-1]) - expected).abs().max())
        if moved > self.tolerance(expected):
            raise PermanentFailure(
                "the model looks at later tokens (changing the last token of a text moves earlier "
                f"logits by {moved:.2g}): it is no causal language model"
            )

    def tolerance(self, values: Tensor) -> float:
        """What rounding alone may move logits or hidden states by, generously (own)."""
        eps: float = torch.finfo(self.model.dtype).eps
        return 64 * eps * max(float(values.abs().max()), 1.0)


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


def _split(values: Tensor) -> Iterator[Tensor]:
    """Parts of at most ``CPU_ROWS`` rows."""
    return (values[start : start + CPU_ROWS] for start in range(0, len(values), CPU_ROWS))


def _parts(logits: Tensor) -> Iterator[tuple[int, int, Tensor]]:
    """Parts of the vocabulary: where they begin and end, and their logits."""
    for start in range(0, logits.shape[1], CPU_COLUMNS):
        yield start, start + CPU_COLUMNS, logits[:, start : start + CPU_COLUMNS]


def _upcast(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


_FACTORS = ("logit_scale", "lm_head_multiplier")
"""Keys of configurations by which logits are multiplied: Cohere; Falcon-H1."""

_DIVISORS = ("logits_scaling", "logits_mup_width_multiplier")
"""By which they are divided: Granite and MiniCPM3; Inkling."""

_CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
"""At which they are capped: Gemma-2 and its heirs; RecurrentGemma; xLSTM."""


def _own_head(model: Any) -> Head | None:
    """The head as the configuration describes it; None if the model has no plain one."""
    layer = model.get_output_embeddings()
    if type(layer) is not nn.Linear or model.base_model is model:
        return None
    config = model.config.get_text_config()
    size = getattr(config, "unpadded_vocab_size", None)  # Inkling drops the rows behind it
    weight = layer.weight.detach()[:size]
    bias = None if layer.bias is None else layer.bias.detach()[:size]
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
