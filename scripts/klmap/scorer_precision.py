"""Which dtype a model runs in, and how large the error is that comes from it."""

from __future__ import annotations

import contextlib
import ctypes
import math
import platform
import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

import numpy as np
import torch
from typing_extensions import TypeVar

from klmap import scorer_products
from klmap.allocation import RAISED_PARAMETERS
from klmap.errors import KlmapError, PermanentFailure, UnsupportedHere
from klmap.log import logger
from klmap.scorer_as_causal import CausalModel
from klmap.scorer_kind import Model
from klmap.scorer_load import load_weights, raise_for_model
from klmap.scorer_run import Floats, loglik_singly, probe_texts
from klmap.tokens import TextTokenizer, check_ids

Kind = TypeVar("Kind", bound=Model, default=CausalModel)
"""What is loaded; a causal model where nothing is said."""

SAMPLE_TOKENS = 64
"""Length of the text on which a model's head is checked."""

DTYPE_TEXTS = 8
"""Texts on which float16 is tried."""

FLOAT16_AGREEMENT = 0.02
"""Nats per token by which float16 may differ from the reference dtype (own)."""

REFERENCE_PARAMETERS = {"float32": 64_000_000, "bfloat16": RAISED_PARAMETERS}
"""Up to this size a model on a CPU is converted to a higher precision for the error bar (own): a
quarter of a gigabyte more for float32, whose error is small anyway; for bfloat16 as much as it
takes, because there the dtype is the error."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
LARGEST_KEPT = 2**25
TRIM_BYTES = 2**29
"""Bytes: freed blocks up to the first are kept for the next use, up to the second in all."""

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
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(False)
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    if available and device != "cpu":
        return "cuda"
    _keep_freed_memory()
    return "cpu"


def _keep_freed_memory() -> None:
    """Let glibc use the memory of the last batch again instead of giving it back to the system.

    Otherwise every tensor of some hundred kilobytes is mapped, and zeroed, anew: a twentieth of
    the time on two cores.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, LARGEST_KEPT)
        libc.mallopt(_M_TRIM_THRESHOLD, TRIM_BYTES)


def switches(model: Model) -> dict[str, Any]:
    """What decides about the exactness of products and attention, as it is set right now."""
    cuda = torch.backends.cuda
    return {
        "products": model.products,
        "attention": str(getattr(model.model.config, "_attn_implementation", None)),
        "float32_matmul": torch.get_float32_matmul_precision(),
        "tf32": cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32,
        "reduced_float16_sums": cuda.matmul.allow_fp16_reduced_precision_reduction,
        "reduced_bfloat16_sums": cuda.matmul.allow_bf16_reduced_precision_reduction,
        "reduced_attention_sums": cuda.fp16_bf16_reduction_math_sdp_allowed(),  # type: ignore[no-untyped-call]
    }


def gpus_of(model: Model) -> int:
    """GPUs that hold a part of the model."""
    devices = {parameter.device for parameter in model.model.parameters()}
    return sum(device.type == "cuda" for device in devices)


def peak_memory(device: str) -> int:
    """Bytes this process has held at most: of all GPUs together, or of main memory."""
    if device == "cuda":
        gpus = range(torch.cuda.device_count())
        return sum(torch.cuda.max_memory_reserved(index) for index in gpus)
    kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kibibytes * (1 if sys.platform == "darwin" else 1024)


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


@dataclass(frozen=True)
class Loading(Generic[Kind]):
    """What a model is loaded from, and onto.

    Attributes:
        folder: a Hugging Face folder.
        device: ``cpu`` or ``cuda``.
        sequences: token ids of all texts.
        limit: longest input in tokens; None without one.
        stored: dtype of the stored weights, if known.
        parameters: number of parameters.
        quantization: ``int8``, ``nf4``, ``fp4``, or None.
        products: library of matrix products on a CPU; None times both.
        kind: what the model is to be.
        tokenizer: of the model, for kinds that need it.
        first: positions from which on the sequences are scored; None for all but the first token.
    """

    folder: Path
    device: str
    sequences: Sequence[Sequence[int]]
    limit: int | None = None
    stored: str | None = None
    parameters: int = 0
    quantization: str | None = None
    products: str | None = None
    kind: type[Kind] = CausalModel  # type: ignore[assignment]
    tokenizer: TextTokenizer | None = None
    first: Sequence[int] | None = None

    @property
    def sample(self) -> Sequence[int]:
        """Token ids of one text on which a loaded model is checked."""
        return max(self.sequences, key=len)[: min(SAMPLE_TOKENS, self.limit or SAMPLE_TOKENS)]

    def load(self, dtype: str) -> Kind:
        """Load in one dtype and check what can be checked before any text is scored.

        Raises:
            PermanentFailure: the ids do not fit the embedding, the model is of another kind, or
                cannot be loaded.
        """
        weights = load_weights(
            self.folder,
            dtype,
            self.device,
            parameters=self.parameters,
            quantization=self.quantization,
            loads=self.kind.loads,
        )
        try:
            model = self.kind(weights, self.tokenizer)
        except Exception as error:
            raise_for_model(error, "the model is built in a way that is not understood")
        check_ids(self.sequences, model.rows)
        sample = self.sample
        model.verify(sample)
        if self.device == "cpu" and len(sample) > 1:
            wanted = self.products or scorer_products.faster(model.model)
            if wanted == scorer_products.ONEDNN:
                model.pack(sample)
        return model


def load(loading: Loading[Kind], wanted: str) -> tuple[Kind, str]:
    """Load a model in the dtype that was asked for, or in the best one.

    ``auto`` is float32 on a CPU. On a GPU it is float16 where a few texts are finite in it and
    agree with the stored precision, else bfloat16, else float32.

    Args:
        loading: what, and onto which device.
        wanted: ``auto`` or the name of a dtype.

    Returns:
        The model, and why it has the dtype that it has.

    Raises:
        UnsupportedHere: float16 on a CPU.
        PermanentFailure: no dtype gives finite numbers, or as ``Loading.load``.
    """
    if loading.device == "cpu" and wanted == "float16":
        raise UnsupportedHere(
            "dtype: float16 is emulated on a CPU and some twenty times slower; use auto or "
            "bfloat16 there, or a GPU"
        )
    if wanted != "auto":
        return loading.load(wanted), "as configured"
    if loading.device == "cpu":
        return loading.load("float32"), "auto: float32 on a CPU"
    if loading.quantization:
        tried = ("float16", "bfloat16", "float32")
        return first_finite(loading, tried, f"auto: the first finite one of {', '.join(tried)}")
    return best(loading)


def best(loading: Loading[Kind]) -> tuple[Kind, str]:
    """float16 if it agrees with a reference on a few texts, else bfloat16, else float32.

    Raises:
        PermanentFailure: none of them gives finite numbers.
    """
    reference = "bfloat16" if loading.stored == "bfloat16" else "float32"
    if not _fits(loading, 2 if reference == "bfloat16" else 4):
        reference = "float16"
    model = loading.load(reference)
    expected = _try(model, loading)
    found = _try(model.to("float16"), loading)
    if found is None:
        reason = "auto: float16 overflows"
    elif expected is None:
        reason = f"auto: {reference} overflows, float16 is not checked"
    else:
        texts, first = _tried(loading)
        begins = first or [1] * len(texts)
        count = sum(max(len(ids) - begin, 0) for ids, begin in zip(texts, begins, strict=True))
        difference = float(np.abs(found - expected).sum()) / max(count, 1)
        reason = f"auto: float16 differs from {reference} by {difference:.1g} nats per token"
        if difference <= FLOAT16_AGREEMENT:
            return model, reason
    del model
    logger.info("%s", reason)
    return first_finite(loading, ("bfloat16", "float32"), reason)


def first_finite(loading: Loading[Kind], dtypes: Sequence[str], reason: str) -> tuple[Kind, str]:
    """The model in the first dtype in which a few texts are finite.

    Raises:
        PermanentFailure: there is none.
    """
    for dtype in dtypes:
        if loading.device == "cuda":
            torch.cuda.empty_cache()
        model = loading.load(dtype)
        if _try(model, loading) is not None:
            return model, reason
        del model
    raise PermanentFailure("no dtype gives finite log-probabilities; the weights are damaged")


def _tried(loading: Loading[Kind]) -> tuple[list[Sequence[int]], list[int] | None]:
    """The texts on which a dtype is tried, and where scoring begins in them."""
    sequences, first = loading.sequences, loading.first
    chosen = probe_texts(len(sequences), DTYPE_TEXTS)
    begins = None if first is None else [first[number] for number in chosen]
    return [sequences[number] for number in chosen], begins


def _try(model: Model, loading: Loading[Kind]) -> Floats | None:
    """Log-likelihoods of a few texts; None where they are not finite."""
    texts, first = _tried(loading)
    return _finite(model, texts, loading.limit, first)


def _finite(
    model: Model,
    texts: Sequence[Sequence[int]],
    limit: int | None,
    first: Sequence[int] | None = None,
) -> Floats | None:
    try:
        return loglik_singly(model, texts, limit, first)
    except PermanentFailure:
        return None


def _fits(loading: Loading[Kind], item_bytes: int) -> bool:
    """Whether weights of this size leave enough room on the GPUs that are visible."""
    if loading.device == "cpu":
        return True
    return loading.parameters * item_bytes < GPU_SHARE * gpu_memory()


def gpu_memory() -> int:
    """Bytes of all visible GPUs together."""
    return sum(torch.cuda.mem_get_info(index)[1] for index in range(torch.cuda.device_count()))


def noise(
    model: Model,
    sequences: Sequence[Sequence[int]],
    loglik: Floats,
    limit: int | None,
    *,
    parameters: int,
    first: Sequence[int] | None = None,
) -> dict[str, Any]:
    """How far production numbers are from those of a higher precision.

    The probe texts are scored again, one at a time, in float64 (a float32 model on a CPU) or
    float32 (16-bit models), where memory allows; else, and for weights that bitsandbytes
    quantised, in the same dtype, which leaves out the error of the dtype. The model is converted
    in place and of no use afterwards.

    Args:
        model: the model that gave ``loglik``.
        sequences: token ids of the P probe texts.
        loglik: (P,) nats, from production batches.
        limit: longest input in tokens.
        parameters: number of parameters.
        first: (P,) positions from which on they are scored; all but the first token without them.

    Returns:
        ``noise_nats``, the root mean square difference per text, and ``noise_reference``, the
        dtype it was compared with.
    """
    dtype = model.dtype
    reference = _reference(model, parameters)
    exact = None
    if reference != dtype:
        exact = _finite(model.to(reference), sequences, limit, first)
        if exact is None:
            logger.info("the model does not run in %s; the error bar compares %s", reference, dtype)
            model.to(dtype)
            reference = dtype
    if exact is None:
        model.unpack()  # on a CPU the other library at least sums in another order
        exact = loglik_singly(model, sequences, limit, first)
    difference = math.sqrt(float(np.mean((exact - loglik) ** 2)))
    return {"noise_nats": difference, "noise_reference": reference}


def _reference(model: Model, parameters: int) -> str:
    """The dtype of the second run."""
    if model.quantized:
        return model.dtype
    if model.device.type == "cuda":
        return "float32" if parameters * 4 < GPU_SHARE * gpu_memory() else model.dtype
    if parameters > REFERENCE_PARAMETERS.get(model.dtype, 0):
        return model.dtype
    return "float64" if model.dtype == "float32" else "float32"
