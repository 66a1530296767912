"""GPTQ and AWQ weights as ordinary ones: ``(q - zero) * scale``, computed here.

Their kernels exist for a few GPUs only, and each rounds in its own way. Here the result is the
exact value, rounded once to the scoring dtype, on every device; the price is the memory of the
dense model.
"""

from __future__ import annotations

import math
import threading
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from klmap import repository
from klmap.errors import PermanentFailure
from klmap.quantization import GPTQ_BITS, Packing

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight neighbouring outputs AWQ puts into each four bits, from the lowest on."""

EXCHANGED = (0x24924924, -0x6DB6DB6E, 0x49249249)
"""What older gptqmodel took from the three words of 32 three-bit zero points.

Minus one in every field would be the last, the second and the first (gptqmodel #2763).
"""

CHUNK = 2**18
"""Weights that are unpacked at a time: what a CPU's cache holds (own)."""

_one_at_a_time = threading.Lock()


def dense_state(folder: Path, packing: Packing, dtype: torch.dtype) -> dict[str, Any]:
    """The weights of a GPTQ or AWQ folder by the names that the model has for ordinary ones.

    Nothing is read yet but headers: a value is read, and unpacked, when it is indexed with
    ``[...]``, as transformers does with the state it is given.

    Args:
        folder: a Hugging Face folder.
        packing: how its weights are packed.
        dtype: of the unpacked weights; the others keep theirs.

    Raises:
        PermanentFailure: the tensors do not fit together; the first wrong one is named.
    """
    stored = _stored(folder)
    state: dict[str, Any] = {}
    for name, entry in stored.items():
        module, _, part = name.rpartition(".")
        if part == "qweight":
            state[f"{module}.weight"] = Unpacked(module, stored, packing, dtype)
        elif part not in ("qzeros", "scales", "g_idx"):
            state[name] = entry
        elif f"{module}.qweight" not in stored:
            raise PermanentFailure(
                f"{name}: belongs to no packed weight ({module}.qweight is not there); klmap "
                "does not read this kind of scaling: give the original model"
            )
    if not any(isinstance(weight, Unpacked) for weight in state.values()):
        raise PermanentFailure(
            f"{folder}: config.json says {packing.label}, but no tensor is packed (none is called "
            "qweight); give the original model"
        )
    return state


def _stored(folder: Path) -> dict[str, Any]:
    """Everything the weight files hold, as slices that are read when indexed."""
    names = repository.weight_files(path.name for path in folder.iterdir())
    safe = [name for name in names if name.endswith(".safetensors")]
    found: dict[str, Any] = {}
    for name in safe:
        file: Any = safe_open(folder / name, framework="pt")
        found |= {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
    for name in names if not safe else []:
        found |= torch.load(folder / name, map_location="cpu", weights_only=True, mmap=True)
    return found


def _shape(entry: Any) -> list[int]:
    return list(entry.get_shape() if hasattr(entry, "get_shape") else entry.shape)


class Unpacked:
    """A weight of GPTQ or AWQ that is unpacked when it is indexed.

    Args:
        module: name of the layer.
        stored: every stored tensor, by name.
        packing: how the weights are packed.
        dtype: of the result.

    Attributes:
        inputs: columns of the dense weight.
        outputs: rows of the dense weight.
        transpose: whether the model keeps it the other way round, (inputs, outputs).

    Raises:
        PermanentFailure: a tensor is missing or has another shape than the others imply.
    """

    def __init__(
        self, module: str, stored: dict[str, Any], packing: Packing, dtype: torch.dtype
    ) -> None:
        self.module = module
        self.packing = packing
        self.dtype = dtype
        self.transpose = False
        parts = ("qweight", "qzeros", "scales", "g_idx")
        self.parts = {p: stored[f"{module}.{p}"] for p in parts if f"{module}.{p}" in stored}
        self.bits = self._find_bits()
        rows, columns = self._matrix("qweight")
        if packing.method == "gptq":
            self.inputs, self.outputs = rows * 32 // self.bits, columns
        else:
            self.inputs, self.outputs = rows, columns * 32 // self.bits
        self._check_shapes()

    def _fail(self, part: str, found: str) -> PermanentFailure:
        return PermanentFailure(
            f"{self.module}.{part}: {found}; the file is damaged or was packed in another way: "
            "download or copy it again, or give the original model"
        )

    def _matrix(self, part: str) -> tuple[int, int]:
        if part not in self.parts:
            raise self._fail(part, "missing")
        shape = _shape(self.parts[part])
        if len(shape) != 2 or min(shape) < 1:
            raise self._fail(part, f"shape {shape}, not a matrix")
        return shape[0], shape[1]

    def _find_bits(self) -> int:
        """Bits per weight: one zero point per output tells, where modules differ."""
        if not self.packing.varied:
            return self.packing.bits
        bits = 32 * self._matrix("qzeros")[1] // self._matrix("qweight")[1]
        if bits not in GPTQ_BITS:
            raise self._fail("qzeros", f"{bits} bits per zero point, not one of {GPTQ_BITS}")
        return bits

    def _check_shapes(self) -> None:
        rows = _shape(self.parts["qweight"])[0]
        if self.packing.method == "gptq" and rows * 32 % self.bits:
            raise self._fail("qweight", f"{rows} rows hold no whole number of {self.bits}-bit rows")
        if self.outputs * self.bits % 32:
            raise self._fail("qweight", f"{self.outputs} outputs fill no whole 32-bit words")
        size = self.packing.group_size if self.packing.group_size > 0 else self.inputs
        groups = math.ceil(self.inputs / size)
        if self.packing.varied:
            groups = self._matrix("scales")[0]
        expected = {
            "scales": [groups, self.outputs],
            "qzeros": [groups, self.outputs * self.bits // 32],
        }
        if "g_idx" in self.parts:
            expected["g_idx"] = [self.inputs]
        for part, wanted in expected.items():
            if part not in self.parts:
                raise self._fail(part, "missing")
            shape = _shape(self.parts[part])
            if shape != wanted:
                raise self._fail(
                    part,
                    f"shape {shape}, expected {wanted} for {self.bits}-bit weights of "
                    f"{self.inputs} inputs and {self.outputs} outputs",
                )

    def __getitem__(self, index: Any) -> Tensor:
        """The dense weight, (outputs, inputs) unless transposed, in the scoring dtype.

        Raises:
            PermanentFailure: words are no 32-bit integers, an input has no group, or the zero
                points of a symmetric model are no constant.
        """
        with _one_at_a_time:  # transformers reads in several threads, each of which needs memory
            weight = self._unpack()
            return (weight if self.transpose else weight.T.contiguous())[index]

    def _words(self, part: str) -> Tensor:
        words: Tensor = self.parts[part][...]
        if words.dtype != torch.int32:
            raise self._fail(part, f"{words.dtype}, expected torch.int32")
        return words

    def _unpack(self) -> Tensor:
        """(inputs, outputs), as the layouts have it: there rows are contiguous."""
        scales = self.parts["scales"][...]
        # A field times a 16-bit scale is exact in 32 bits, so the result is rounded once.
        wide = torch.promote_types(torch.promote_types(scales.dtype, self.dtype), torch.float32)
        scales = scales.to(wide)
        zeros = self._zero_points()
        group = self._groups(len(scales))
        words = self._words("qweight")
        weight = torch.empty(self.inputs, self.outputs, dtype=self.dtype)
        step = max(CHUNK // self.outputs // 32, 1) * 32
        for start in range(0, self.inputs, step):
            rows = slice(start, start + step)
            steps = self._codes(words, rows).to(torch.int16) - zeros[group[rows]]
            weight[rows] = steps * scales[group[rows]]
        return weight

    def _codes(self, words: Tensor, rows: slice) -> Tensor:
        """(rows, outputs) uint8 fields of some inputs; of GPTQ whole words of them."""
        if self.packing.method == "awq":
            return _awq_fields(words[rows])
        return fields(words[rows.start * self.bits // 32 : rows.stop * self.bits // 32], self.bits)

    def _zero_points(self) -> Tensor:
        """(groups, outputs) int16."""
        words = self._words("qzeros")
        if self.packing.method == "awq":
            return _awq_fields(words).to(torch.int16)
        plain = self._fields_in_rows(words)
        if self.packing.symmetric:
            return self._symmetric(words, plain)
        if not self.packing.minus_one:
            return plain
        if self.bits == 3:
            return plain + 1
        # One was taken from each field of a word at once, so that a zero point of 0 borrowed from
        # its neighbour; adding it to the word gives both back.
        ones = sum(1 << shift for shift in range(0, 32, self.bits))
        return self._fields_in_rows(words + ones)

    def _fields_in_rows(self, words: Tensor) -> Tensor:
        return fields(words.T, self.bits).T.to(torch.int16)

    def _symmetric(self, words: Tensor, plain: Tensor) -> Tensor:
        """The one zero point there can be, where the stored ones are it in any known way.

        Files exist that say one format and hold the other, which this finds.
        """
        middle = 2 ** (self.bits - 1)
        ways = [plain + 1, plain] if self.packing.minus_one else [plain, plain + 1]
        if self.bits == 3 and words.shape[1] % 3 == 0:
            offsets = torch.tensor(EXCHANGED, dtype=torch.int32).repeat(words.shape[1] // 3)
            ways.append(self._fields_in_rows(words + offsets))
        for zeros in ways:
            if bool((zeros == middle).all()):
                return zeros
        raise self._fail(
            "qzeros", f"config.json says symmetric, but the zero points are not all {middle}"
        )

    def _groups(self, count: int) -> Tensor:
        """(inputs,) number of the group of each input."""
        size = self.packing.group_size
        if self.packing.varied or size < 1:
            size = math.ceil(self.inputs / count)
        order = torch.arange(self.inputs) // size
        if "g_idx" not in self.parts:
            return order
        group: Tensor = self.parts["g_idx"][...].long()
        if count > 1 and not bool(group.any()):
            return order  # a placeholder: all inputs in one group would leave the others empty
        if int(group.min()) < 0 or int(group.max()) >= count:
            raise self._fail(
                "g_idx", f"groups {int(group.min())} to {int(group.max())}, there are {count}"
            )
        return group


def fields(words: Tensor, bits: int) -> Tensor:
    """Split 32-bit words into unsigned fields along the first axis, the lowest bits first.

    Fields of 3 bits run across the borders of words: three words hold 32 of them.

    Args:
        words: (W, N) int32; W a multiple of 3 for 3 bits.
        bits: 2, 3, 4 or 8.

    Returns:
        (32 * W / bits, N) uint8.
    """
    together = 3 if bits == 3 else 1
    grouped = words.reshape(-1, together, words.shape[1])
    number = 32 * together // bits
    result = torch.empty(len(grouped), number, words.shape[1], dtype=torch.uint8)
    for place in range(number):
        word, shift = divmod(place * bits, 32)
        inside = min(bits, 32 - shift)
        value = (grouped[:, word] >> shift) & ((1 << inside) - 1)
        if inside < bits:
            value |= (grouped[:, word + 1] & ((1 << (bits - inside)) - 1)) << inside
        result[:, place] = value
    return result.flatten(0, 1)


def _awq_fields(words: Tensor) -> Tensor:
    """(R, W) int32 words of AWQ to (R, 8 W) uint8 in the order of the outputs."""
    place = torch.tensor(AWQ_ORDER).argsort()
    parts = fields(words.T, 4).reshape(-1, 8, len(words))
    return parts[:, place].flatten(0, 1).T
