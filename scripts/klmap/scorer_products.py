"""Matrix products on a CPU: by the faster of two libraries, on weights laid out for it.

Nearly all the time of a forward pass goes into products with weights. torch hands those in 32
bits to the BLAS it was built with (MKL on x86), which on AMD processors is slower than oneDNN;
torch has that as well and uses it for 16 bits. So both are timed for a moment on a weight of the
model, and where BLAS is not clearly faster, the weights are packed once into the layout of oneDNN.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from klmap.log import logger

BLAS = "blas"
ONEDNN = "onednn"

PACKED_DTYPES = (torch.float32, torch.bfloat16)

ROWS = 256
"""Rows of the timed product: tokens of an ordinary text."""

OPERATIONS = 2**28
"""Multiplications and additions of a timed product; some milliseconds on two cores."""

REPEATS = 5

_PAGE_OUT = 21
"""MADV_PAGEOUT of Linux."""

ADVANTAGE = 1.2
"""BLAS must be faster by this factor to be taken: the choice should not depend on the noise of a
short measurement, because the last digits of a score depend on the choice (own)."""


def packed(weight: Tensor) -> Tensor:
    """(N, K) in the layout in which oneDNN multiplies with it."""
    result: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), ROWS)
    return result


def multiply(values: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(..., K) times the transpose of a packed (N, K), by oneDNN, plus (N,)."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(values, weight, bias, "none", [], "")
    return product


class PackedLinear(nn.Module):
    """Stands in for a linear layer, whose weight it keeps in the layout of oneDNN.

    Args:
        layer: ``Linear`` or ``Conv1D``; it loses its weight to this one until ``restored``.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        # No parameter: nothing that walks over a model's tensors knows this layout.
        self.weight = packed(_weight(layer))
        self.bias = layer.bias
        _page_out(layer.weight)
        layer.weight = None
        self._replaced = (layer,)  # in a tuple, so that it is no part of the model

    def forward(self, values: Tensor) -> Tensor:
        """(..., K) to (..., N)."""
        return multiply(values, self.weight, self.bias)

    def restored(self) -> Any:
        """The layer that was replaced, with the numbers it had."""
        (layer,) = self._replaced
        weight = self.weight.to_dense()
        if isinstance(layer, Conv1D):
            weight = weight.T.contiguous()
        layer.weight = nn.Parameter(weight, requires_grad=False)
        return layer


def faster(model: Any) -> str:
    """Time a product with a weight of the model both ways.

    Args:
        model: on a CPU, unpacked.

    Returns:
        ``onednn``, or ``blas`` where that is clearly faster or oneDNN cannot do this.
    """
    candidates = [layer for _, layer in _layers(model)]
    if not candidates:
        return BLAS
    weight = _weight(max(candidates, key=lambda layer: layer.weight.numel()))
    weight = weight[: max(OPERATIONS // (2 * ROWS * weight.shape[1]), 1)].contiguous()
    values = torch.full((ROWS, weight.shape[1]), 0.5, dtype=weight.dtype)
    try:
        ready = packed(weight)
        onednn = _seconds(lambda: multiply(values, ready))
    except (RuntimeError, AttributeError) as error:
        logger.info("oneDNN cannot be used for %s: %s", weight.dtype, str(error).split("\n")[0])
        return BLAS
    blas = _seconds(lambda: nn.functional.linear(values, weight))
    operations = 2 * ROWS * weight.numel() / 1e9
    chosen = BLAS if blas * ADVANTAGE < onednn else ONEDNN
    logger.info(
        "matrix products: oneDNN %.0f, BLAS %.0f GFLOP/s; %s is used",
        operations / onednn,
        operations / blas,
        chosen,
    )
    return chosen


@torch.inference_mode()
def _seconds(product: Callable[[], Any]) -> float:
    """The shortest of a few runs."""
    product()
    found = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        product()
        found.append(time.perf_counter() - start)
    return min(found)


@torch.no_grad()
def pack(model: Any) -> None:
    """Replace the linear layers of a model by packed ones, in place, one by one.

    A weight that other modules share (the embedding as head) stays as it is, since packing
    would double it.
    """
    for name, layer in list(_layers(model)):
        model.set_submodule(name, PackedLinear(layer))
        _give_back()


@torch.no_grad()
def unpack(model: Any) -> None:
    """Put ordinary layers back."""
    names = [name for name, layer in model.named_modules() if isinstance(layer, PackedLinear)]
    for name in names:
        model.set_submodule(name, model.get_submodule(name).restored())
        _give_back()


@torch.no_grad()
def convert(model: Any, dtype: torch.dtype) -> None:
    """Convert the floating-point weights of a model in place, never holding two whole copies."""
    for parameter in model.parameters():
        stored = parameter.data
        if stored.is_floating_point() and stored.dtype != dtype:
            parameter.data = stored.to(dtype)
            _page_out(stored)
            del stored
            _give_back()


def _give_back() -> None:
    """Return what was just freed to the system, which glibc is told to keep while texts run."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _page_out(tensor: Tensor) -> None:
    """Tell Linux that a tensor's memory is not needed any more.

    Weights that are used as they are stored lie in the mapped file, all of which stays resident as
    long as any tensor of it is in use. The advice loses nothing: pages come back when read.
    """
    page = mmap.PAGESIZE
    start = -(-tensor.data_ptr() // page) * page
    length = (tensor.data_ptr() + tensor.nbytes - start) // page * page
    if sys.platform == "linux" and length > 0:
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), _PAGE_OUT)


def _layers(model: Any) -> Iterator[tuple[str, Any]]:
    """Names and linear layers whose weights can be packed; never the model's head."""
    head = model.get_output_embeddings()
    owners: dict[int, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners[parameter.data_ptr()] = owners.get(parameter.data_ptr(), 0) + 1
    for name, layer in model.named_modules():
        if (
            type(layer) in (nn.Linear, Conv1D)
            and layer is not head
            and layer.weight.dtype in PACKED_DTYPES
            and owners[layer.weight.data_ptr()] == 1
        ):
            yield name, layer


def _weight(layer: Any) -> Tensor:
    """(N, K) weight of a layer."""
    weight: Tensor = layer.weight.detach()
    return weight.T if isinstance(layer, Conv1D) else weight
