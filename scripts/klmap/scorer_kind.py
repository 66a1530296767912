"""What a kind of likelihood has to say, and what all of them share: one loaded model.

A kind is a class that derives from :class:`Model`, alone in its file ``scorer_as_<kind>.py``, and
says how texts become sequences, sequences pieces, and a batch of pieces log-probabilities. Batches,
memory, resuming, the choice of the dtype and the error bar are the same for all. docs/extending.md
shows a new one.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy.typing as npt
import torch
from torch import Tensor

from klmap import likelihoods, scorer_load, scorer_products, tokens
from klmap.likelihoods import Kind
from klmap.log import logger
from klmap.scorer_head import Head, logprobs_of, own_head, parts, split, upcast
from klmap.scorer_load import DTYPES, raise_for_model
from klmap.scorer_plan import Piece, Plan
from klmap.tokens import Encoded, TextTokenizer

CUBLAS = "cublas"


class Model(ABC):
    """A loaded model that gives log-probabilities of chosen tokens.

    Args:
        model: a transformers model with a language-model head, in evaluation mode.
        tokenizer: of the model, for kinds that put tokens of their own into sequences.

    Attributes:
        loads: class of transformers that loads such a model. With ``means`` and whatever else
            :class:`klmap.likelihoods.Kind` knows, it is read from the file without running it, and
            so has to be a plain value there.
        head: the own head; None where the model's logits are used.
        rows: rows of the input embedding: ids must be smaller.
        products: library of the matrix products, ``blas``, ``onednn``, or ``cublas`` on a GPU.
    """

    loads: ClassVar[str]

    def __init__(self, model: Any, tokenizer: TextTokenizer | None = None) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.device = next(model.parameters()).device
        self.rows = int(model.get_input_embeddings().weight.shape[0])
        self.head = self._find_head()
        self.products = CUBLAS if self.device.type == "cuda" else scorer_products.BLAS

    @classmethod
    def limit(cls, folder: Path) -> int | None:
        """Longest input in tokens of the model in a folder; None without a limit.

        Raises:
            PermanentFailure: transformers does not know this type of model, or needs its code.
        """
        return scorer_load.context_of(folder)

    @classmethod
    def encode(cls, tokenizer: TextTokenizer, texts: Sequence[str], **policies: Any) -> Encoded:
        """Make a sequence of token ids of every text, as :func:`klmap.tokens.encode` does.

        Args:
            tokenizer: of the model.
            texts: N texts; responses where there are prompts.
            policies: ``prefix``, ``overlength`` and ``limit``, and whatever concerns prompts.
        """
        return tokens.encode(tokenizer, texts, **policies)

    @abstractmethod
    def plan(
        self,
        sequences: Sequence[Sequence[int]],
        limit: int | None,
        first: Sequence[int] | None = None,
    ) -> Plan:
        """Cut sequences into pieces and number the scored tokens.

        Args:
            sequences: N lists of token ids, from :meth:`encode`.
            limit: longest input in tokens; None without one.
            first: N positions of the first token of each response; None for texts without prompts.
        """

    @abstractmethod
    def score(self, plan: Plan, batch: Sequence[Piece]) -> Tensor:
        """Log-probabilities of the tokens that one batch scores, piece after piece.

        Args:
            plan: from :meth:`plan`.
            batch: some of its pieces, the longest first, all with the same ``mates``.

        Returns:
            (R,) nats, float32 or float64, on :attr:`output_device`; R is the sum of ``scored``.
        """

    def given(self, ids: Tensor) -> dict[str, Any]:
        """What the model is called with, for one short text on which it is checked.

        Args:
            ids: (1, T) token ids.
        """
        return {"input_ids": ids}

    @abstractmethod
    def check(self, ids: Tensor) -> None:
        """See that a loaded model is of this kind, by what it makes of a short text.

        Args:
            ids: (1, T) token ids, at least two.

        Raises:
            PermanentFailure: it is of another kind.
        """

    def described(self) -> dict[str, Any]:
        """What a score file says of this kind besides."""
        return {}

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

    def to(self, dtype: str) -> Self:
        """Convert the weights in place; the head follows."""
        self.unpack()
        if self.device.type == "cpu":
            scorer_products.convert(self.model, DTYPES[dtype])
        self.model.to(DTYPES[dtype])
        if self.head is not None:
            device = self.head.weight.device
            head = self._find_head()
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
        expected = self.read(self.given(ids), rows, targets)
        self.products = scorer_products.ONEDNN
        try:
            scorer_products.pack(self.model)
            if self.head is not None:
                self.head.onednn = True
            found = self.read(self.given(ids), rows, targets)
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

    def read(self, given: Mapping[str, Any], rows: Tensor, targets: Tensor) -> Tensor:
        """Log-probabilities of tokens at some positions of a batch.

        Args:
            given: what the model is called with.
            rows: (R,) positions ``b * T + t`` of the output, (B, T) of them.
            targets: (R,) ids of the tokens whose log-probabilities are wanted there.

        Returns:
            (R,) nats, float32 or float64 as the head computes.
        """
        if self.head is None:
            logits = self.logits(given).flatten(0, 1)
            found = [
                upcast(logits[some]).log_softmax(1).gather(1, wanted[:, None]).squeeze(1)
                for some, wanted in zip(split(rows), split(targets), strict=True)
            ]
            return torch.cat(found)
        hidden = self.hidden(given).flatten(0, 1)
        return logprobs_of(self.head, hidden.to(self.output_device)[rows], targets)

    def hidden(self, given: Mapping[str, Any]) -> Tensor:
        """(B, T, H) what the last layer is given, which then computes one position alone."""
        caught: list[Tensor] = []

        def cut(_: Any, arguments: Any) -> Any:
            caught.append(arguments[0])
            return (arguments[0][:, :1], *arguments[1:])

        handle = self.model.get_output_embeddings().register_forward_pre_hook(cut)
        try:
            self.model(**given)
        finally:
            handle.remove()
        return caught[-1]

    def logits(self, given: Mapping[str, Any]) -> Tensor:
        """(B, T, V) the model's own logits."""
        logits: Tensor = self.model(**given).logits
        return logits

    def _find_head(self) -> Head | None:
        return own_head(self.model)

    @torch.inference_mode()
    def verify(self, sample: Sequence[int]) -> None:
        """Compare the own head with the model's, and see that the model is of this kind.

        Where the heads differ the own one is dropped, and the model's logits are used.

        Args:
            sample: token ids of one text, at least two for the check to see anything.

        Raises:
            PermanentFailure: the model is of another kind, or its code fails.
        """
        if len(sample) < 2:
            return
        ids = torch.tensor([list(sample)], device=self.device)
        try:
            self._verify_head(ids)
            self.check(ids)
        except Exception as error:
            raise_for_model(error, "the model fails on a text")

    def _verify_head(self, ids: Tensor) -> None:
        expected = upcast(self.logits(self.given(ids))[0])
        if self.head is None or not expected.isfinite().all():
            return
        hidden = self.hidden(self.given(ids))[0]
        # A head tied to the embedding lies on the first of several GPUs, and would keep it waiting
        # for the last one.
        self.head = self.head.on(hidden.device)
        expected = expected.to(hidden.device)
        difference = math.inf
        if len(self.head.weight) == expected.shape[1] and len(hidden) == len(expected):
            found = [
                (self.head.columns(start, stop).logits(hidden) - part).abs().max()
                for start, stop, part in parts(expected)
            ]
            difference = float(torch.stack(found).max())  # NaN where there is any
        if not difference <= self.tolerance(expected):
            logger.info(
                "the own head differs from the model's by %.2g; the model's logits are used",
                difference,
            )
            self.head = None

    def moved(self, given: Mapping[str, Any], changed: Mapping[str, Any]) -> tuple[Tensor, float]:
        """By how much the logits of one text move when the model is called differently.

        Args:
            given: what the model is called with first.
            changed: what it is called with then.

        Returns:
            (T,) the largest difference at each position, and what rounding alone may move.
        """
        expected = upcast(self.logits(given)[0])
        found = upcast(self.logits(changed)[0])
        return (found - expected).abs().amax(dim=1), self.tolerance(expected)

    def other(self, token: Tensor) -> Tensor:
        """An id that is not the one given."""
        return (token + 1) % self.rows

    def tolerance(self, values: Tensor) -> float:
        """What rounding alone may move logits or hidden states by, generously (own)."""
        eps: float = torch.finfo(self.model.dtype).eps
        return 64 * eps * max(float(values.abs().max()), 1.0)


def send(values: npt.NDArray[Any], device: torch.device) -> Tensor:
    """Copy to the device without waiting for it, from memory that is pinned until it is read."""
    tensor = torch.from_numpy(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def class_of(kind: Kind) -> type[Model]:
    """The class of a kind, from its file."""
    found: type[Model] = getattr(import_module(f"klmap.scorer_as_{kind.name}"), kind.class_name)
    return found


def find(name: str) -> type[Model]:
    """The class of a kind by its name.

    Raises:
        InputError: there is no such kind.
    """
    return class_of(likelihoods.kind(name))
