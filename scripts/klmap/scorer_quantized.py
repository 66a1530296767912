"""Quantised models: weights quantised by bitsandbytes while loading, or stored quantised.

What is stored by bitsandbytes is loaded as it is; what is stored by GPTQ or AWQ is unpacked to an
ordinary model (``scorer_unpack``).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from copy import copy
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers.pytorch_utils import Conv1D

from klmap.errors import PermanentFailure
from klmap.files import read_json
from klmap.log import logger
from klmap.natives import CAUSAL
from klmap.quantization import Packing, packing_of
from klmap.scorer_unpack import Unpacked, dense_state

INT8_THRESHOLD = 6.0
"""Activations from this size on keep their column out of int8 (arXiv:2208.07339)."""


def arguments(method: str, dtype: str) -> dict[str, Any]:
    """Keyword arguments for ``from_pretrained`` that quantise the weights while loading.

    Args:
        method: ``int8``, ``nf4`` or ``fp4``.
        dtype: name of the dtype of computations, and of what is not quantised.
    """
    if method == "int8":
        config = transformers.BitsAndBytesConfig(
            load_in_8bit=True, llm_int8_threshold=INT8_THRESHOLD, llm_int8_has_fp16_weight=False
        )
    else:
        config = transformers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=method,
            bnb_4bit_compute_dtype=getattr(torch, dtype),
            bnb_4bit_use_double_quant=False,
            bnb_4bit_quant_storage=torch.uint8,
        )
    return {"quantization_config": config}


def settings(method: str, dtype: str) -> dict[str, Any]:
    """Everything that ``quantization: <method>`` means, for the score file."""
    found: dict[str, Any] = {"bitsandbytes": version("bitsandbytes"), "method": method}
    if method == "int8":
        found |= {"threshold": INT8_THRESHOLD, "activations": "float16"}
    else:
        found |= {"block_size": 64, "double_quantization": False}
    return found | {"compute_dtype": dtype, "head": dtype}


def stored_method(folder: Path) -> str | None:
    """How the weights in a folder are quantised, such as ``gptq-4bit``; None for ordinary ones.

    Raises:
        PermanentFailure: in a way that klmap does not read.
    """
    packing = _packing(folder)
    return packing.label if packing is not None else None


def _packing(folder: Path) -> Packing | None:
    return packing_of(str(folder), read_json(folder / "config.json"))


def load(
    folder: Path,
    dtype: str,
    device: str,
    quantization: str | None = None,
    placing: Mapping[str, Any] | None = None,
    loads: str = CAUSAL,
) -> tuple[Any, dict[str, Any]]:
    """Load a model that is to be quantised, or is stored quantised.

    Args:
        folder: a Hugging Face folder.
        dtype: name of the torch dtype to score in.
        device: ``cpu`` or ``cuda``.
        quantization: ``int8``, ``nf4`` or ``fp4``; None for weights that are stored quantised.
        placing: arguments of ``from_pretrained`` that spread a large model over several GPUs.
        loads: the class of transformers that finds the class of the model.

    Returns:
        The model on its device and what ``from_pretrained`` tells of the loading: missing,
        unexpected and mismatched keys.

    Raises:
        PermanentFailure: stored and asked for at once, or the packed weights do not fit together.
        Exception: whatever transformers raises.
    """
    packing = _packing(folder)
    if packing is not None and quantization:
        raise PermanentFailure(
            f"{folder}: quantization: {quantization} cannot be applied to weights that are stored "
            f"quantised ({packing.label}); remove quantization: from the entry, or give the "
            "original model"
        )
    given = {
        "dtype": getattr(torch, dtype),
        "trust_remote_code": False,
        "local_files_only": True,
        "output_loading_info": True,
        # A quantised model is loaded where it stays.
        "device_map": {"": device},
        **(placing or {}),
    }
    auto = getattr(transformers, loads)
    if packing is None:
        if not quantization:
            raise ValueError(f"{folder}: neither stored quantised nor to be quantised")
        given |= arguments(quantization, dtype)
        model, info = auto.from_pretrained(folder, **given)
    elif packing.method == "bitsandbytes":
        config = _bitsandbytes_config(folder, dtype)
        model, info = auto.from_pretrained(folder, config=config, **given)
    else:
        return _load_packed(folder, packing, dtype, given, auto)
    _prepare(model)
    return model, info


def _bitsandbytes_config(folder: Path, dtype: str) -> Any:
    """The configuration as stored, but for the dtype of computations."""
    config = _config(folder)
    for part in (config, config.get_text_config()):
        found = getattr(part, "quantization_config", None)
        if found is not None:
            found = dict(found)
            found["bnb_4bit_compute_dtype"] = dtype
            found["llm_int8_enable_fp32_cpu_offload"] = False
            part.quantization_config = found
    return config


def _config(folder: Path) -> Any:
    return transformers.AutoConfig.from_pretrained(
        folder, trust_remote_code=False, local_files_only=True
    )


def _prepare(model: Any) -> None:
    """See that bitsandbytes computes in the dtype that was asked for, and say what it left."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # one warning per layer and batch
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # Where a CPU has these instructions, 4-bit layers would round everything to bfloat16.
            module.support_avx512bf16_for_cpu = False
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if (
            state is not None
            and module.weight.device.type == "cpu"
            and state.shape[-1] % state.blocksize
        ):
            module.forward = partial(_forward_flat, module)
    share = quantized_share(model)
    if share == 0.0:
        raise PermanentFailure(
            f"{type(model).__name__}: bitsandbytes finds no layer that it can quantise; remove "
            "quantization: from the entry"
        )
    if share < 0.9:
        logger.warning(
            "only %.0f%% of the weights between embedding and head are quantised: bitsandbytes "
            "leaves fused experts and other special layers in full precision",
            100 * share,
        )


def _forward_flat(module: Any, inputs: torch.Tensor) -> torch.Tensor:
    """The product with a 4-bit weight on a CPU whose rows are no whole number of blocks.

    Blocks run from row to row, but where a CPU has AVX-512 bitsandbytes 0.50 begins a new one with
    every row when it unpacks such a weight, and takes the scales of other blocks for most of it.
    Unpacked as one long row all is right.
    """
    import bitsandbytes  # it takes seconds, and most models are not quantised

    dtype = module.compute_dtype or inputs.dtype
    state = copy(module.weight.quant_state)
    rows, state.shape, state.dtype = state.shape, torch.Size([state.shape.numel()]), dtype
    weight = bitsandbytes.functional.dequantize_4bit(module.weight.data, state).view(rows)
    bias = None if module.bias is None else module.bias.to(dtype)
    return nn.functional.linear(inputs.to(dtype), weight, bias).to(inputs.dtype)


def quantized_share(model: Any) -> float:
    """Quantised weights over all matrices but those of the embeddings and the head."""
    outside = {id(layer.weight) for layer in model.modules() if isinstance(layer, nn.Embedding)}
    head = model.get_output_embeddings()
    if head is not None:
        outside.add(id(head.weight))
    quantized = whole = 0
    for module in model.modules():
        packed = type(getattr(module, "weight", None)).__name__ in ("Params4bit", "Int8Params")
        if packed:
            quantized += module.in_features * module.out_features
        for name, parameter in module.named_parameters(recurse=False):
            inside = parameter.dim() > 1 and id(parameter) not in outside
            if inside and not (packed and name == "weight"):
                whole += parameter.numel()
    return quantized / max(quantized + whole, 1)


def dense_config(folder: Path) -> Any:
    """The configuration of a folder without its quantisation, so that none is set up."""
    config = _config(folder)
    for part in (config, config.get_text_config()):
        if hasattr(part, "quantization_config"):
            del part.quantization_config
    return config


def _load_packed(
    folder: Path, packing: Packing, dtype: str, given: dict[str, Any], auto: Any
) -> tuple[Any, dict[str, Any]]:
    """Load GPTQ or AWQ weights as ordinary ones."""
    config = dense_config(folder)
    with torch.device("meta"):
        skeleton = auto.from_config(config, trust_remote_code=False)
    state = dense_state(folder, packing, given["dtype"])
    transposed = {name for name, layer in skeleton.named_modules() if isinstance(layer, Conv1D)}
    packed = {name: weight for name, weight in state.items() if isinstance(weight, Unpacked)}
    for name, weight in packed.items():
        module = name.removesuffix(".weight")
        weight.transpose = any(f".{inner}".endswith(f".{module}") for inner in transposed)
    logger.info(
        "%s: %s weights in %d layers are unpacked to %s, %.1f GB",
        packing.label,
        f"{sum(weight.inputs * weight.outputs for weight in packed.values()):,}",
        len(packed),
        dtype,
        sum(weight.inputs * weight.outputs for weight in packed.values())
        * given["dtype"].itemsize
        / 1e9,
    )
    del given["trust_remote_code"]  # a class of transformers is called, not the one that chooses
    model, info = type(skeleton).from_pretrained(
        None, config=skeleton.config, state_dict=state, **given
    )
    _check_unused(state, packed, info)
    return model, info


def _check_unused(state: dict[str, Any], packed: dict[str, Unpacked], info: dict[str, Any]) -> None:
    """Old packers gave every layer a bias of zeros; one with other values must not be lost.

    Raises:
        PermanentFailure: stored weights of a quantised layer would be left out.
    """
    for name in sorted(info.get("unexpected_keys") or ()):
        module, _, part = name.rpartition(".")
        if f"{module}.weight" not in packed:
            continue
        if part != "bias" or bool(state[name][...].any()):
            raise PermanentFailure(
                f"{name}: the model has no place for it, and it is not zero; the weights belong "
                "to another class of model: give the original model"
            )
