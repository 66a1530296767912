"""How fast this machine multiplies the matrices of one model, by library and dtype.

On a CPU: ``F.linear`` (MKL where torch has it) and oneDNN with plain and with packed weights, over
all weight matrices of the model, each with the number of rows that suits the library best. Wide
matrices are taken in blocks of outputs, so that fresh memory for a product costs nothing. On a
GPU: one large square product. Prints a JSON object.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

ROWS = (128, 512, 1024)
BLOCK = 8192
"""Outputs of a wide matrix taken at a time."""

SECONDS = 0.15
"""How long one product is repeated."""

SQUARE = 8192
"""Side of the large product on a GPU."""

Product = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Library:
    """A way to compute ``x @ w.T``.

    Attributes:
        product: of rows and a weight.
        packed: whether the weight is first laid out for the library, outside the clock.
    """

    product: Product
    packed: bool = False

    def prepared(self, weight: Tensor, rows: int) -> Tensor:
        """The weight as the product takes it."""
        if not self.packed:
            return weight
        packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
        return packed


def onednn(x: Tensor, weight: Tensor) -> Tensor:
    """``x @ weight.T`` by oneDNN, of a plain or a packed weight."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return product


def libraries() -> dict[str, Library]:
    """What this torch offers."""
    found = {"F.linear": Library(nn.functional.linear)}
    if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        found["oneDNN"] = Library(onednn)
        found["oneDNN, packed"] = Library(onednn, packed=True)
    return found


def seconds_of(call: Callable[[], object], synchronize: Callable[[], object]) -> float:
    """Seconds of the fastest call: what the machine can do, however busy it is at times."""
    call()
    times: list[float] = []
    while len(times) < 3 or sum(times) < SECONDS:
        synchronize()
        start = time.perf_counter()
        call()
        synchronize()
        times.append(time.perf_counter() - start)
    return min(times)


def sweep(product: Product, x: Tensor, blocks: Sequence[Tensor]) -> None:
    """One product with a whole matrix."""
    for block in blocks:
        product(x, block)


def cpu_speeds(shapes: Counter[tuple[int, int]], dtype: torch.dtype) -> dict[str, float]:
    """FLOP per second of each library over all matrices of a model.

    The libraries take turns at every matrix, so that a busy moment of the machine hits all.
    """
    flop = 0.0
    seconds = dict.fromkeys(libraries(), 0.0)
    for (outputs, inputs), count in shapes.items():
        blocks = torch.split(torch.randn(outputs, inputs).to(dtype), BLOCK)
        per_row = dict.fromkeys(seconds, math.inf)
        for rows in ROWS:
            x = torch.randn(rows, inputs).to(dtype)
            for title, library in libraries().items():
                weights = [library.prepared(block, rows) for block in blocks]
                call = functools.partial(sweep, library.product, x, weights)
                per_row[title] = min(per_row[title], seconds_of(call, lambda: None) / rows)
        flop += 2.0 * outputs * inputs * count
        for title in seconds:
            seconds[title] += per_row[title] * count
    return {title: flop / found for title, found in seconds.items()}


def cuda_speed(dtype: torch.dtype) -> float:
    """FLOP per second of one large square product."""
    a, b = torch.randn(2, SQUARE, SQUARE, device="cuda", dtype=dtype)
    return 2.0 * SQUARE**3 / seconds_of(lambda: torch.mm(a, b), torch.cuda.synchronize)


def main() -> None:
    """Parse the arguments, measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="folder of the model")
    parser.add_argument("--dtypes", nargs="+", required=True, help="names of torch dtypes")
    parser.add_argument("--device", choices=("cpu", "cuda"), required=True)
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(arguments.model))
    shapes = Counter(
        (layer.out_features, layer.in_features)
        for layer in model.modules()
        if isinstance(layer, nn.Linear)
    )
    speeds: dict[str, dict[str, float]] = {}
    with torch.inference_mode():
        for name in arguments.dtypes:
            dtype = getattr(torch, name)
            if arguments.device == "cuda":
                speeds[name] = {"torch.mm": cuda_speed(dtype)}
            else:
                speeds[name] = cpu_speeds(shapes, dtype)
    result = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "in_products": sum(a * b * count for (a, b), count in shapes.items()),
        "speeds": speeds,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
