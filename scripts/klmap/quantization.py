"""Weights that are stored quantised: which of them klmap reads, and how many weights they are.

config.json and the headers of the weight files tell all of this, so a repository that cannot be
read is refused before anything is downloaded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from klmap.errors import PermanentFailure

GPTQ_BITS = (2, 3, 4, 8)

WAY_OUT = (
    "give a repository of the same model whose weights are float16, bfloat16 or float32 (its "
    "README usually names it), with quantization: in config.yaml if a quantised one is meant"
)
"""What to do where stored weights cannot be read."""

_ITEM_BYTES = {"U8": 1, "I8": 1, "F16": 2, "BF16": 2, "F32": 4}
"""Bytes per item of what bitsandbytes stores 4-bit weights in, by the names of safetensors."""


@dataclass(frozen=True)
class Packing:
    """How a repository stores quantised weights.

    Attributes:
        method: ``gptq``, ``awq`` or ``bitsandbytes``.
        kind: ``4bit`` and so on, or ``int8``, ``nf4``, ``fp4`` of bitsandbytes.
        bits: bits per weight.
        group_size: inputs that share a scale and a zero point; -1 where all do.
        minus_one: zero points are stored minus one (the first GPTQ format).
        symmetric: GPTQ's zero points are all ``2 ** (bits - 1)``.
        varied: some modules have other bits or groups than these.
    """

    method: str
    kind: str
    bits: int
    group_size: int = -1
    minus_one: bool = False
    symmetric: bool = False
    varied: bool = False

    @property
    def label(self) -> str:
        """As the card names it, such as ``gptq-4bit``."""
        return f"{self.method}-{self.kind}"


def packing_of(where: str, config: Mapping[str, Any]) -> Packing | None:
    """How the weights of a model are quantised.

    Args:
        where: the id or folder, for messages.
        config: config.json.

    Returns:
        None for ordinary weights.

    Raises:
        PermanentFailure: quantised in a way that klmap does not read.
    """
    found = _settings(config)
    if found is None:
        return None
    method = str(found.get("quant_method") or "").lower()
    eight = found.get("load_in_8bit") or found.get("_load_in_8bit")
    four = found.get("load_in_4bit") or found.get("_load_in_4bit")
    if method == "gptq":
        return _gptq(where, found)
    if method == "awq":
        return _awq(where, found)
    if method == "bitsandbytes" or (not method and (eight or four)):
        if not eight and not four:
            raise _refusal(where, "bitsandbytes, neither load_in_8bit nor load_in_4bit")
        kind = "int8" if eight else str(found.get("bnb_4bit_quant_type", "fp4"))
        return Packing("bitsandbytes", kind, 8 if eight else 4)
    if not method and "config_groups" in found:
        method = "compressed-tensors"
    raise _refusal(where, method or "by an unnamed method", "gptq, awq and bitsandbytes")


def _settings(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The part of config.json that speaks of quantisation; multimodal models nest it."""
    for part in (config, config.get("text_config")):
        if isinstance(part, Mapping):
            for key in ("quantization_config", "compression_config"):
                found = part.get(key)
                if isinstance(found, Mapping):
                    return found
    return None


def _gptq(where: str, found: Mapping[str, Any]) -> Packing:
    bits = found.get("bits")
    form = str(found.get("checkpoint_format") or found.get("format") or "gptq").lower()
    if found.get("is_marlin_format"):
        form = "marlin"
    if bits not in GPTQ_BITS:
        raise _refusal(where, f"gptq, {bits} bits", "2, 3, 4 and 8 bits")
    if form not in ("gptq", "gptq_v2"):
        raise _refusal(where, f"gptq in the format {form}", "the formats gptq and gptq_v2")
    if str(found.get("pack_dtype") or "int32") != "int32":
        raise _refusal(where, f"gptq packed in {found['pack_dtype']}", "int32")
    symmetric = bool(found.get("sym", False))
    meta = found.get("meta")
    maker = str(meta.get("quantizer")) if isinstance(meta, Mapping) else ""
    if bits == 3 and form == "gptq" and not symmetric and "gptqmodel" in maker:
        # Its versions subtract different things from the three words of 32 zero points.
        raise _refusal(
            where, f"gptq, 3 bits, asymmetric, by {maker}, whose versions store zero points unlike"
        )
    return Packing(
        "gptq",
        f"{bits}bit",
        int(bits),
        int(found.get("group_size", 128)),
        minus_one=form == "gptq",
        symmetric=symmetric and not found.get("dynamic"),
        varied=bool(found.get("dynamic")),
    )


def _awq(where: str, found: Mapping[str, Any]) -> Packing:
    bits = found.get("bits", found.get("w_bit", 4))
    form = found.get("version") or found.get("checkpoint_format") or found.get("format") or "gemm"
    if str(found.get("backend")).lower() == "llm-awq":
        form = "llm-awq"
    if bits != 4:
        raise _refusal(where, f"awq, {bits} bits", "4 bits")
    if str(form).lower() != "gemm":
        raise _refusal(where, f"awq in the format {form}", "the format gemm")
    group = int(found.get("group_size", found.get("q_group_size", 128)))
    return Packing("awq", "4bit", 4, group)


def _refusal(where: str, how: str, read: str = "") -> PermanentFailure:
    limits = f"; klmap reads {read} only" if read else ""
    return PermanentFailure(
        f"{where}: the stored weights are already quantised ({how}{limits}); {WAY_OUT}"
    )


def count_weights(
    tensors: Mapping[str, tuple[str, Sequence[int]]], packing: Packing
) -> dict[str, int]:
    """Number of weights by dtype, packed ones counted as what they unpack to.

    Zero points, scales and other helpers of the quantisation are no weights. Those of GPTQ and
    AWQ count under the dtype of their scales, those of bitsandbytes under the dtype stored.

    Args:
        tensors: dtype and shape of every stored tensor, as the header of safetensors has them.
        packing: how they are quantised.

    Returns:
        Counts by the dtypes of safetensors (``F16``, ``U8``, ...).
    """
    counts: dict[str, int] = {}
    for name, (dtype, shape) in tensors.items():
        number = math.prod(shape)
        if packing.method == "bitsandbytes":
            if _helps_bitsandbytes(name, tensors):
                continue
            if f"{name}.absmax" in tensors:
                number *= 2 * _ITEM_BYTES.get(dtype, 1)
        else:
            module, _, part = name.rpartition(".")
            if part in ("qzeros", "scales", "g_idx") and f"{module}.qweight" in tensors:
                continue
            if part == "qweight":
                number = number * 32 // _bits(module, tensors, packing)
                dtype = tensors.get(f"{module}.scales", (dtype, ()))[0]
        counts[dtype] = counts.get(dtype, 0) + number
    return counts


def _helps_bitsandbytes(name: str, tensors: Mapping[str, Any]) -> bool:
    """Whether a tensor only says how to read a weight beside it."""
    weight, inside, _ = name.rpartition(".weight.")
    if inside:
        return f"{weight}.weight" in tensors
    module, _, part = name.rpartition(".")
    return part in ("SCB", "weight_format") and f"{module}.weight" in tensors


def _bits(module: str, tensors: Mapping[str, tuple[str, Sequence[int]]], packing: Packing) -> int:
    """Bits per weight of one module; where they vary, zero points tell: one per output."""
    zeros = tensors.get(f"{module}.qzeros")
    if not packing.varied or zeros is None:
        return packing.bits
    return max(32 * zeros[1][-1] // tensors[f"{module}.qweight"][1][-1], 1)
