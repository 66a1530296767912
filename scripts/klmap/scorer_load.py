"""Load the weights of a language model, and sort what can go wrong while a model runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import torch
import transformers
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

from klmap import scorer_code, scorer_quantized, scorer_stages
from klmap.errors import PermanentFailure, UnsupportedHere
from klmap.log import logger
from klmap.natives import CAUSAL
from klmap.repository import context_length

DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
}

QUANTIZED_BYTES = {"int8": 1.1, "nf4": 0.6, "fp4": 0.6}
"""Bytes per parameter of quantised weights, with scales and what stays in full precision (own)."""


def context_of(folder: Path) -> int | None:
    """Longest input in tokens of the model in a folder; None without a limit.

    The configuration is read by transformers, which knows what a key that is left out means.

    Raises:
        PermanentFailure: transformers does not know this type of model, or needs its code.
    """
    own_code = scorer_code.is_permitted(folder)
    try:
        config = transformers.AutoConfig.from_pretrained(
            folder, trust_remote_code=own_code, local_files_only=True
        )
    except Exception as error:
        raise_for_model(error, "config.json describes no model that transformers knows")
    limit = context_length(config.to_dict(), own_code=own_code)
    if own_code and limit is None:
        logger.warning("config.json names no longest input: no text is cut into windows")
    return limit


def load_weights(
    folder: Path,
    dtype: str,
    device: str,
    *,
    parameters: int = 0,
    quantization: str | None = None,
    loads: str = CAUSAL,
) -> Any:
    """Load a model's weights, refusing anything that was not stored.

    Args:
        folder: a Hugging Face folder.
        dtype: name of a torch dtype.
        device: ``cpu`` or ``cuda``; several GPUs are used where one is too small.
        parameters: number of parameters, from which the memory is reckoned.
        quantization: ``int8``, ``nf4`` or ``fp4``; None loads what is stored.
        loads: the class of transformers that finds the class of the model.

    Raises:
        PermanentFailure: transformers has no class for it without running its code, weights are
            missing or of another shape, or the files are damaged.
        MemoryError: there is not enough memory (transient).
    """
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    transformers.masking_utils.find_packed_sequence_indices = never_packed
    size = QUANTIZED_BYTES.get(quantization or "", DTYPES[dtype].itemsize)
    placing = {
        **scorer_stages.loading_arguments(device, int(parameters * size)),
        "trust_remote_code": scorer_code.is_permitted(folder),
    }
    try:
        if quantization or scorer_quantized.stored_method(folder):
            model, info = scorer_quantized.load(folder, dtype, device, quantization, placing, loads)
        else:
            model, info = getattr(transformers, loads).from_pretrained(
                folder,
                dtype=DTYPES[dtype],
                local_files_only=True,
                output_loading_info=True,
                **placing,
            )
    except Exception as error:
        raise_for_model(error, "the model cannot be loaded")
    for key in ("missing_keys", "mismatched_keys", "error_msgs"):
        names = sorted(str(name) for name in info.get(key) or ())
        if names:
            shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            raise PermanentFailure(
                f"{len(names)} weights are not in the files and would be random ({shown}); "
                "the checkpoint is incomplete or belongs to another class of model"
            )
    if info.get("unexpected_keys"):
        logger.info("%d stored weights are not used", len(info["unexpected_keys"]))
    scorer_stages.connect(model)
    return model.eval()


def never_packed(position_ids: torch.Tensor) -> None:
    """Answer for transformers that no row holds several texts, which would need a mask.

    transformers looks for that in the positions of every batch, for each kind of mask, and so
    waits for the GPU before the first layer. klmap never packs.
    """


def raise_for_model(error: Exception, what: str) -> NoReturn:
    """Sort an exception: the machine's troubles as they are, the model's as a permanent failure.

    Raises:
        PermanentFailure: the model itself is the reason.
        UnsupportedHere: a package that it needs is missing.
        MemoryError: memory did not suffice.
        Exception: ``error`` itself, where the machine is the reason.
    """
    if isinstance(error, (PermanentFailure, MemoryError, torch.OutOfMemoryError)):
        raise error
    text = " ".join(str(error).split())
    if isinstance(error, RuntimeError) and "allocate memory" in text:
        raise MemoryError(text) from error
    if isinstance(error, ImportError):
        # Code of a repository may need a package that somebody installs tomorrow.
        raise UnsupportedHere(f"{what}: {text[:500]}") from error
    if isinstance(error, (LocalEntryNotFoundError, OfflineModeIsEnabled)):
        raise PermanentFailure(
            f"{what}: its code asks the Hub for another file, and nothing is downloaded while a "
            "model is scored; give a folder that has all files, with code that reads them there"
        ) from error
    # Code that imports a file its repository lacks is not the machine's fault.
    lacks_code = isinstance(error, FileNotFoundError) and str(error.filename).endswith(".py")
    machine = isinstance(error, OSError) and error.errno is not None and not lacks_code
    if machine or "CUDA error" in text or "out of memory" in text:
        raise error
    raise PermanentFailure(f"{what}: {type(error).__name__}: {text[:500]}") from error
