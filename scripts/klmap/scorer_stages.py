"""A model that one GPU cannot hold: consecutive layers on several GPUs, all of them busy.

The layers are cut into stages of about equal size, one per GPU. Work on a GPU is queued, and the
batch loop never waits for a result, so while the second GPU computes a batch the first one already
has the next. That works only if nothing but the hidden states crosses from one GPU to the next: a
copy waits for both sides, and the usual hooks copy rotary embeddings and masks again for every
layer, which keeps all GPUs but one idle. Here what all layers share is copied once per stage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from accelerate.hooks import remove_hook_from_submodules
from torch import Tensor, nn

from klmap.allocation import WEIGHT_SHARE
from klmap.log import logger

GIB = 2**30

Move = Callable[[Tensor, torch.device], Tensor]


def loading_arguments(device: str, weight_bytes: int) -> dict[str, Any]:
    """Keyword arguments of ``from_pretrained`` that bring weights straight to where they belong.

    One GPU is used where the weights fit there, even if more are visible: a second one would
    save memory, not time.

    Args:
        device: ``cpu`` or ``cuda``.
        weight_bytes: size of the weights in the dtype of the computation.

    Raises:
        MemoryError: all visible GPUs together are too small.
    """
    if device == "cpu":
        return {}
    free = {
        index: int(WEIGHT_SHARE * torch.cuda.mem_get_info(index)[0])
        for index in range(torch.cuda.device_count())
    }
    if weight_bytes <= free[0]:
        return {"device_map": {"": 0}}
    if weight_bytes > sum(free.values()):
        raise MemoryError(
            f"the weights take {weight_bytes / GIB:.1f} GiB of GPU memory, {len(free)} GPUs have "
            f"room for {sum(free.values()) / GIB:.1f} GiB; each attempt asks for more of them. Set "
            "hardware.gpu_memory_gb to what one of yours has, raise hardware.max_gpus, or use a "
            "smaller dtype or quantization: for this model"
        )
    return {"device_map": "balanced", "max_memory": free}


def connect(model: Any, move: Move | None = None) -> None:
    """Let the stages of a model that was loaded onto several GPUs hand over to each other.

    Args:
        model: loaded with a device map; one that lies on a single device is left alone.
        move: copies a tensor to a device; for tests.

    Raises:
        MemoryError: parts of the model were put beside the GPUs.
    """
    places: Mapping[str, Any] = getattr(model, "hf_device_map", {})
    if len(set(places.values())) < 2:
        return
    outside = sorted({str(place) for place in places.values()} & {"cpu", "disk"})
    if outside:
        raise MemoryError(
            f"the layers of this model do not fit the GPUs: some were put on {', '.join(outside)}; "
            "raise hardware.max_gpus, or use quantization: for this model"
        )
    remove_hook_from_submodules(model)
    hands = _Hands(move or _copy)
    for name, place in places.items():
        device = torch.device(place) if isinstance(place, str) else torch.device("cuda", place)
        module: nn.Module = model.get_submodule(name)
        module.register_forward_pre_hook(hands.before(device), with_kwargs=True)
    model.base_model.register_forward_pre_hook(hands.forget, prepend=True)
    logger.info("%d stages: %s", len(set(places.values())), _shown(places))


class _Hands:
    """Carries the arguments of layers to their device, each tensor once per batch and device."""

    def __init__(self, move: Move) -> None:
        self.move = move
        # The tensor itself is kept beside its copy, so that its id stays its own.
        self.known: dict[tuple[int, torch.device], tuple[Tensor, Tensor]] = {}

    def forget(self, *_: Any) -> None:
        """Drop what belongs to the batch before."""
        self.known.clear()

    def before(self, device: torch.device) -> Callable[..., tuple[Any, Any]]:
        """A hook that runs before a module on this device."""

        def carry(_: nn.Module, arguments: Any, named: Any) -> tuple[Any, Any]:
            return self.carry(arguments, device), self.carry(named, device)

        return carry

    def carry(self, value: Any, device: torch.device) -> Any:
        """The same value with every tensor in it on the device."""
        if isinstance(value, Tensor):
            return value if value.device == device else self._moved(value, device)
        if isinstance(value, (tuple, list)):
            return type(value)(self.carry(item, device) for item in value)
        if isinstance(value, dict):
            return {key: self.carry(item, device) for key, item in value.items()}
        return value

    def _moved(self, tensor: Tensor, device: torch.device) -> Tensor:
        key = (id(tensor), device)
        if key not in self.known:
            self.known[key] = (tensor, self.move(tensor, device))
        return self.known[key][1]


def _copy(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.to(device, non_blocking=True)


def _shown(places: Mapping[str, Any]) -> str:
    """How many modules lie where."""
    counts: dict[str, int] = {}
    for place in places.values():
        counts[str(place)] = counts.get(str(place), 0) + 1
    return ", ".join(f"{count} modules on {place}" for place, count in counts.items())
