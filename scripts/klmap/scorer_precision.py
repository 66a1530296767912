"""Which dtype a model runs in, and how large the error is that comes from it."""

from __future__ import annotations

import math
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from klmap import scorer_products
from klmap.errors import KlmapError, PermanentFailure, UnsupportedHere
from klmap.log import logger
from klmap.scorer_model import CausalModel, load_weights
from klmap.scorer_products import ONEDNN
from klmap.scorer_run import Floats, loglik_singly, probe_texts
from klmap.tokens import check_ids

SAMPLE_TOKENS = 64
"""Length of the text on which a model's head is checked."""

DTYPE_TEXTS = 8
"""Texts on which float16 is tried."""

FLOAT16_AGREEMENT = 0.02
"""Nats per token by which float16 may differ from the reference dtype (own)."""

REFERENCE_PARAMETERS = 2_000_000_000
"""Up to this size a model on a CPU is converted to a higher precision for the error bar (own)."""

GPU_SHARE = 0.8
"""Share of a GPU's memory that weights in a higher precision may take (own)."""


def prepare(device: str, threads: int) -> str:
    """Set threads, switch off everything that trades exactness for speed, choose the device.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: CPU threads of torch.

    Returns:
        ``cpu`` or ``cuda``.

    Raises:
        KlmapError: a GPU was asked for and none is visible.
    """
    torch.set_num_threads(threads)
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise KlmapError(
            "no GPU is visible to torch; run on a machine with one, or use --device cpu"
        )
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    return "cuda" if available and device != "cpu" else "cpu"


def device_name(device: str) -> str:
    """What the device is called by its maker."""
    if device == "cuda":
        return str(torch.cuda.get_device_name())
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def load(
    folder: Path,
    *,
    wanted: str,
    stored: str | None,
    parameters: int,
    device: str,
    sequences: Sequence[Sequence[int]],
    limit: int | None,
) -> CausalModel:
    """Load a model in the dtype that was asked for, or in the best one.

    ``auto`` is float32 on a CPU. On a GPU it is float16 where a few texts are finite in it and
    agree with the stored precision, else bfloat16, else float32.

    Args:
        folder: a Hugging Face folder.
        wanted: ``auto`` or the name of a dtype.
        stored: dtype of the stored weights, if known.
        parameters: number of parameters.
        device: ``cpu`` or ``cuda``.
        sequences: token ids of all texts.
        limit: longest input in tokens.

    Raises:
        UnsupportedHere: float16 on a CPU.
        PermanentFailure: no dtype gives finite numbers, the ids do not fit
            the embedding, or the model is no causal language model.
    """
    if device == "cpu":
        if wanted == "float16":
            raise UnsupportedHere(
                "dtype: float16 is emulated on a CPU and some twenty times slower; use auto or "
                "bfloat16 there, or a GPU"
            )
        dtype = "float32" if wanted == "auto" else wanted
        return _load_verified(folder, dtype, device, sequences, limit)
    if wanted != "auto":
        return _load_verified(folder, wanted, device, sequences, limit)
    return _best_on_gpu(folder, stored, parameters, device, sequences, limit)


def _load_verified(
    folder: Path,
    dtype: str,
    device: str,
    sequences: Sequence[Sequence[int]],
    limit: int | None,
) -> CausalModel:
    model = CausalModel(load_weights(folder, dtype, device))
    check_ids(sequences, model.rows)
    sample = max(sequences, key=len)[: min(SAMPLE_TOKENS, limit or SAMPLE_TOKENS)]
    model.verify(sample)
    if device == "cpu" and len(sample) > 1 and scorer_products.faster(model.model) == ONEDNN:
        model.pack(sample)
    return model


def _best_on_gpu(
    folder: Path,
    stored: str | None,
    parameters: int,
    device: str,
    sequences: Sequence[Sequence[int]],
    limit: int | None,
) -> CausalModel:
    """float16 if it agrees with a reference, else bfloat16, else float32."""
    tried = [sequences[number] for number in probe_texts(len(sequences), DTYPE_TEXTS)]
    reference = "bfloat16" if stored == "bfloat16" else "float32"
    if not _fits(parameters, 2 if reference == "bfloat16" else 4):
        reference = "float16"
    model = _load_verified(folder, reference, device, sequences, limit)
    expected = _try(model, tried, limit)
    found = _try(model.to("float16"), tried, limit)
    count = sum(max(len(sequence) - 1, 0) for sequence in tried)
    if found is not None and expected is not None:
        difference = float(np.abs(found - expected).sum()) / max(count, 1)
        if difference <= FLOAT16_AGREEMENT:
            return model
        logger.info("float16 differs from %s by %.2g nats per token", reference, difference)
    for dtype in ("bfloat16", "float32"):
        del model
        torch.cuda.empty_cache()
        model = _load_verified(folder, dtype, device, sequences, limit)
        if _try(model, tried, limit) is not None:
            logger.info("float16 does not do for this model; %s is used", dtype)
            return model
    raise PermanentFailure("no dtype gives finite log-probabilities; the weights are damaged")


def _try(model: CausalModel, tried: Sequence[Sequence[int]], limit: int | None) -> Floats | None:
    """Log-likelihoods of a few texts; None where they are not finite."""
    try:
        return loglik_singly(model, tried, limit)
    except PermanentFailure:
        return None


def _fits(parameters: int, item_bytes: int) -> bool:
    _, total = torch.cuda.mem_get_info()
    return parameters * item_bytes < GPU_SHARE * total


def noise(
    model: CausalModel,
    sequences: Sequence[Sequence[int]],
    loglik: Floats,
    limit: int | None,
    *,
    parameters: int,
) -> dict[str, Any]:
    """How far production numbers are from those of a higher precision.

    The probe texts are scored again, one at a time, in float64 (a float32 model on a CPU) or
    float32 (16-bit models), where memory allows; else in the same dtype, which leaves out the
    error of the dtype. The model is converted in place and of no use afterwards.

    Args:
        model: the model that gave ``loglik``.
        sequences: token ids of the P probe texts.
        loglik: (P,) nats, from production batches.
        limit: longest input in tokens.
        parameters: number of parameters.

    Returns:
        ``noise_nats``, the root mean square difference per text, and ``noise_reference``, the
        dtype it was compared with.
    """
    dtype = model.dtype
    reference = _reference(dtype, parameters, model.device.type)
    exact = None
    if reference != dtype:
        exact = _try(model.to(reference), sequences, limit)
        if exact is None:
            logger.info("the model does not run in %s; the error bar compares %s", reference, dtype)
            model.to(dtype)
            reference = dtype
    if exact is None:
        exact = loglik_singly(model, sequences, limit)
    difference = math.sqrt(float(np.mean((exact - loglik) ** 2)))
    return {"noise_nats": difference, "noise_reference": reference}


def _reference(dtype: str, parameters: int, device: str) -> str:
    if device == "cuda":
        return "float32" if _fits(parameters, 4) else dtype
    if parameters > REFERENCE_PARAMETERS:
        return dtype
    return "float64" if dtype == "float32" else "float32"
