"""What one scoring job asks the cluster for: GPUs, CPUs, host memory and time.

Everything follows from the card, the settings, the size of the texts and what the machines offer,
so a job that is too large for its request is rare, and gets more with its next attempt. Rules
call this while they are parsed, so nothing heavy is imported.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from klmap.cards import Card
from klmap.config import Hardware
from klmap.estimates import Speed
from klmap.files import size_in_words

WEIGHT_SHARE = 0.8
"""Share of a GPU's memory that weights may take; the scorer refuses more (own)."""

BATCH_TOKENS = 16384
"""Tokens of a batch on a GPU where the configuration does not say."""

ACTIVATION_BYTES = 32
"""Bytes per token of a batch and unit of the hidden size (own): hidden states, the normalised
ones in 32 bits, queries, keys, values, and the wide layer of a gated network, in 16 bits."""

GPU_BASE = 1e9
"""Bytes of a GPU that CUDA, its libraries and one block of logits take (own)."""

WIDTH_PER_LAYER = 128
"""How many times as wide as deep transformers are, about (own)."""

UNKNOWN_VOCABULARY = 50_000
"""Entries of a vocabulary whose size no card says."""

LAYERS_MARGIN = 1.5
"""Over the time that heads of hidden states are expected to take (own)."""

HOST_BASE = 8000
"""MB of host memory of a job on a GPU: Python, torch, CUDA's own share, the texts (own)."""

HOST_BASE_CPU = 3000
"""MB of host memory of a job on a CPU, besides its weights (own)."""

READING_SHARE = 1.2
"""Host memory while weights are read, over the size of what is read (own)."""

RAISED_PARAMETERS = 2_000_000_000
"""Up to this size the scorer raises a bfloat16 model on a CPU to 32 bits for its error bar."""

SMALL_JOB = 4000
"""MB of host memory of a job of the demo, or of one that only writes down a reason."""

UNKNOWN_MEMORY, UNKNOWN_MINUTES = 32000, 120
"""MB and minutes shown for a model that has no card yet; it has one before it is submitted."""

SHORTEST, SHORTEST_IN_GROUP = 15, 10
"""Minutes that a job asks for at least: alone, and as one of many in an allocation, where one that
is late uses what others left."""

STEP = 5
"""Minutes to which times are rounded up."""

MARGIN, MARGIN_ASSUMED = 2.0, 3.0
"""Time asked for over time expected: where speed was measured, and where it is assumed (own)."""

CPU_FLOPS = 30e9
"""Operations per second and core where no score on a CPU was measured (own)."""

UNKNOWN_TOKENS = 3e6
"""Tokens of a text set of unknown size: a little more than in the published one."""

SIZES = {"tiny": 200_000_000, "small": 2_000_000_000}
"""Size classes of models on one GPU, by the largest number of parameters; jobs of one class may
share an allocation."""

CPU = "cpu"
"""Size class of jobs without a GPU that end soon."""

_ITEM_BYTES = {"int8": 1.1, "nf4": 0.6, "fp4": 0.6, "float32": 4.0}


@dataclass(frozen=True)
class Request:
    """What one scoring job asks for.

    Attributes:
        gpus: GPUs; 0 for a job on a CPU.
        cpus: CPUs.
        memory: MB of host memory.
        minutes: time limit.
        size: class of jobs that may share an allocation with it; empty for none.
        refusal: why the configured machines cannot hold the model; empty where they can.
    """

    gpus: int
    cpus: int
    memory: int
    minutes: int
    size: str = ""
    refusal: str = ""

    def again(self, attempt: int) -> Request:
        """The same job at a later attempt: more memory and more time.

        Args:
            attempt: 1 for the first.
        """
        memory, minutes = self.memory * attempt, self.minutes * attempt
        return Request(self.gpus, self.cpus, memory, minutes, self.size, self.refusal)


def request(
    card: Card | None,
    dtype: str,
    quantization: str,
    tokens: float | None,
    hardware: Hardware,
    speed: Speed,
    *,
    demo: bool = False,
    skip: bool = False,
    shared: Collection[str] = (),
) -> Request:
    """What the first attempt at one score asks for.

    Args:
        card: the model; None while it is not known.
        dtype: as configured.
        quantization: ``int8``, ``nf4``, ``fp4``; empty for none.
        tokens: of all texts; None where their number is unknown.
        hardware: what the machines offer.
        speed: how fast models like this one are scored.
        demo: whether it is a model of the demo, which never gets a GPU.
        skip: whether a model whose card has an error gets a job that writes the reason down.
        shared: size classes of which several jobs share an allocation.
    """
    if demo or (skip and card is not None and card.error):
        return Request(0, 1, SMALL_JOB, _shortest(CPU, shared), CPU)
    gpus = min(1, hardware.max_gpus)
    if card is None:
        return Request(gpus, hardware.cpus, UNKNOWN_MEMORY, UNKNOWN_MINUTES)
    if hardware.max_gpus:
        gpus = gpus_needed(card, dtype, quantization, hardware)
        if gpus > hardware.max_gpus:
            reason = too_large(card, dtype, quantization, hardware)
            return Request(0, 1, SMALL_JOB, _shortest(CPU, shared), CPU, reason)
    size = size_of(card) if gpus == 1 else ""
    return Request(
        gpus,
        hardware.cpus,
        _host_memory(card, dtype, quantization, gpus > 0),
        max(
            _minutes(card, dtype, quantization, tokens or UNKNOWN_TOKENS, gpus, hardware, speed),
            _shortest(size, shared),
        ),
        size,
    )


def _shortest(size: str, shared: Collection[str]) -> int:
    return SHORTEST_IN_GROUP if size in shared else SHORTEST


def size_of(card: Card) -> str:
    """The size class of a model on one GPU; empty for one that is scored alone."""
    return next((name for name, most in SIZES.items() if 0 < card.parameters <= most), "")


def weights_in_memory(card: Card, dtype: str, quantization: str, *, gpu: bool = True) -> float:
    """Bytes that a model's weights take where it is scored.

    Args:
        card: the model.
        dtype: as configured; ``auto`` is a 16-bit one on a GPU, float32 on a CPU.
        quantization: ``int8``, ``nf4``, ``fp4``; empty or ``none`` for none.
        gpu: whether it is scored on GPUs.
    """
    if (card.quantization or "").startswith("bitsandbytes"):
        return float(card.bytes)
    dense = 4.0 if dtype == "float32" or (dtype == "auto" and not gpu) else 2.0
    # bitsandbytes leaves experts that are stored together in full precision.
    if card.active_parameters is not None:
        return card.parameters * dense
    return card.parameters * _ITEM_BYTES.get(quantization, dense)


def activations(card: Card, batch_tokens: int | None) -> float:
    """Bytes of one batch between the layers.

    The hidden size follows from the parameters that work on a token: transformers are about 128
    times as wide as deep, and have 12 weights per layer and squared width.

    Args:
        card: the model.
        batch_tokens: tokens per batch; None where the scorer chooses.
    """
    return ACTIVATION_BYTES * _hidden(card) * (batch_tokens or BATCH_TOKENS)


def _hidden(card: Card) -> float:
    return math.cbrt(card.working_parameters * WIDTH_PER_LAYER / 12)


def gpus_needed(card: Card, dtype: str, quantization: str, hardware: Hardware) -> int:
    """How many of the configured GPUs hold a model and one batch; at least one.

    A batch that does not fit is halved by the scorer, so one that would need another GPU only for
    itself is granted no more than a quarter of each.
    """
    weights = weights_in_memory(card, dtype, quantization)
    return _gpus(weights, activations(card, hardware.batch_tokens), hardware)


def gpus_of_pair(pair: Sequence[tuple[Card, str, str]], hardware: Hardware) -> int:
    """How many of the configured GPUs hold two models, and one batch in one of them.

    Args:
        pair: card, dtype and quantisation of each.
        hardware: what the machines offer.
    """
    weights = sum(weights_in_memory(*each) for each in pair)
    batch = max(activations(card, hardware.batch_tokens) for card, _, _ in pair)
    return _gpus(weights, batch, hardware)


def layers_factor(card: Card, layers: Sequence[int] | str) -> float:
    """How many times as long a score takes with hidden states: a head for each of them (own).

    Args:
        card: the model.
        layers: the hidden states, or ``all``; a model is taken to be as deep as ``activations``
            says.
    """
    hidden = _hidden(card)
    number = len(layers) if not isinstance(layers, str) else hidden / WIDTH_PER_LAYER
    heads = number * hidden * (card.vocabulary or UNKNOWN_VOCABULARY)
    return 1 + LAYERS_MARGIN * heads / max(card.working_parameters, 1)


def _gpus(weights: float, activated: float, hardware: Hardware) -> int:
    memory = hardware.gpu_memory_gb * 1e9
    batch = min(activated, memory / 4)
    room = min(WEIGHT_SHARE * memory, max(memory - GPU_BASE - batch, memory / 2))
    return max(1, math.ceil(weights / room))


def too_large(card: Card, dtype: str, quantization: str, hardware: Hardware) -> str:
    """Why a model cannot be scored on the configured GPUs, and what to do."""
    needed = gpus_needed(card, dtype, quantization, hardware)
    weights = weights_in_memory(card, dtype, quantization)
    smaller = "" if quantization else ", set quantization: int8 or nf4 for this model"
    return (
        f"{card.id}: its weights take {size_in_words(weights)} of GPU memory and with a batch "
        f"beside them {needed} GPUs of {hardware.gpu_memory_gb:g} GB; hardware.max_gpus is "
        f"{hardware.max_gpus}: raise max_gpus to {needed} (or gpu_memory_gb, if yours have "
        f"more){smaller}, or remove it from config.yaml"
    )


def _host_memory(card: Card, dtype: str, quantization: str, gpu: bool) -> int:
    """MB of host memory: on a GPU what reading takes, on a CPU the weights themselves."""
    weights = weights_in_memory(card, dtype, quantization, gpu=gpu)
    if gpu:
        packed = not (card.quantization or "bitsandbytes").startswith("bitsandbytes")
        largest = max((int(entry["size"]) for entry in card.files), default=card.bytes)
        # GPTQ and AWQ are unpacked here, all layers at once.
        return _rounded(HOST_BASE + READING_SHARE * (weights if packed else largest) / 1e6, 1000)
    if dtype == "bfloat16" and card.parameters <= RAISED_PARAMETERS:
        weights *= 2  # the error bar takes them in 32 bits
    return _rounded(HOST_BASE_CPU + READING_SHARE * weights / 1e6, 1000)


def _minutes(
    card: Card,
    dtype: str,
    quantization: str,
    tokens: float,
    gpus: int,
    hardware: Hardware,
    speed: Speed,
) -> int:
    """Minutes with a margin for nodes and file systems that are slower than those measured."""
    found = speed.seconds(card, tokens, max(gpus, 1), dtype, quantization)
    if found is None:
        rate = CPU_FLOPS * hardware.cpus
        found = speed.startup + 2.0 * card.working_parameters * tokens / rate
    margin = MARGIN if speed.sample else MARGIN_ASSUMED
    return _rounded(margin * found / max(gpus, 1) / 60, STEP)


def _rounded(value: float, step: int) -> int:
    return math.ceil(value / step) * step
