"""Quantised models against weights that are packed and unpacked here, plainly and by hand."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bitsandbytes.functional as bnb
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from klmap import cards, quantization, recognition, resolve, scorer_quantized, scorer_unpack
from klmap.errors import PermanentFailure
from tests.builders import tiny_model

GROUP = 32
TEXTS = [
    list(range(3 + shift, 43 + shift)) + [7 * shift % 500 for _ in range(4)] for shift in range(6)
]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "llama"
    return tiny_model(folder, "llama", spread=0.1, hidden_size=64, intermediate_size=128)


@torch.inference_mode()
def logliks(model: Any) -> Tensor:
    """Log-likelihood of each text, alone, from the model's own logits."""
    sums = []
    for text in TEXTS:
        ids = torch.tensor([text])
        logprobs = model(ids, use_cache=False).logits[0, :-1].double().log_softmax(-1)
        sums.append(logprobs.gather(1, ids[0, 1:, None]).sum())
    return torch.stack(sums)


def plain(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


# Packing, from the published layouts


def words(values: list[int], bits: int) -> list[int]:
    """Values as one long number, the first in the lowest bits, cut into signed 32-bit words."""
    stream = sum(value << (bits * place) for place, value in enumerate(values))
    cut = [(stream >> (32 * word)) & 0xFFFFFFFF for word in range(len(values) * bits // 32)]
    return [word - 2**32 if word >= 2**31 else word for word in cut]


def in_columns(codes: Tensor, bits: int) -> Tensor:
    """(I, O) values to (I * bits / 32, O) words."""
    return torch.tensor([words(column, bits) for column in codes.T.tolist()]).T.int().contiguous()


def in_rows(codes: Tensor, bits: int) -> Tensor:
    """(G, O) values to (G, O * bits / 32) words."""
    return torch.tensor([words(row, bits) for row in codes.tolist()]).int()


def awq_rows(codes: Tensor) -> Tensor:
    """(R, O) values to (R, O / 8) words; the outputs 0 2 4 6 1 3 5 7 go from the low bits up."""
    order = [
        8 * (place // 8) + (0, 2, 4, 6, 1, 3, 5, 7)[place % 8] for place in range(codes.shape[1])
    ]
    return in_rows(codes[:, order], 4)


class Packer:
    """Quantises a weight (O, I) by rounding, packs it and keeps what it stands for."""

    def __init__(
        self,
        method: str = "gptq",
        bits: int = 4,
        *,
        form: str = "gptq",
        symmetric: bool = False,
        shuffled: bool = False,
        index: bool = True,
        zero_bias: bool = False,
        scales: torch.dtype = torch.float16,
    ) -> None:
        self.method, self.bits, self.form, self.symmetric = method, bits, form, symmetric
        self.shuffled, self.index, self.zero_bias, self.scales = shuffled, index, zero_bias, scales

    def config(self) -> dict[str, Any]:
        if self.method == "awq":
            return {"quant_method": "awq", "bits": 4, "group_size": GROUP, "version": "GEMM"}
        return {
            "quant_method": "gptq",
            "bits": self.bits,
            "group_size": GROUP,
            "desc_act": self.shuffled,
            "sym": self.symmetric,
            "checkpoint_format": self.form,
        }

    def group(self, inputs: int) -> Tensor:
        order = torch.arange(inputs)
        if self.shuffled:
            order = order[torch.randperm(inputs, generator=torch.Generator().manual_seed(1))]
        return order // GROUP

    def __call__(self, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The stored tensors, and the dense weight in float64."""
        top = 2**self.bits - 1
        group = self.group(weight.shape[1])
        scale = torch.empty(int(group.max()) + 1, weight.shape[0], dtype=torch.float64)
        zero = torch.empty_like(scale, dtype=torch.int64)
        for number in range(len(scale)):
            part = weight[:, group == number].double()
            low, high = part.amin(1).clamp(max=0), part.amax(1).clamp(min=0)
            scale[number] = ((high - low) / top).to(self.scales).double()
            zero[number] = (-low / scale[number]).round().clamp(1, top).long()
            if self.symmetric:
                zero[number] = 2 ** (self.bits - 1)
        codes = (weight.T.double() / scale[group]).round().long() + zero[group]
        codes = codes.clamp(0, top)
        dense = ((codes - zero[group]).double() * scale[group]).T
        if self.method == "awq":
            stored = {"qweight": awq_rows(codes), "qzeros": awq_rows(zero)}
        else:
            shift = 1 if self.form == "gptq" else 0
            stored = {
                "qweight": in_columns(codes, self.bits),
                "qzeros": in_rows(zero - shift, self.bits),
            }
            if self.index:
                stored["g_idx"] = group.int()
        stored["scales"] = scale.to(self.scales)
        if self.zero_bias:
            stored["bias"] = torch.zeros(weight.shape[0], dtype=torch.float16)
        return stored, dense


def pack(source: Path, target: Path, packer: Packer, transposed: bool = False) -> dict[str, Tensor]:
    """Pack all layers of a model; returns the dense weights, exactly, by name."""
    shutil.copytree(source, target)
    state = load_file(target / "model.safetensors")
    exact: dict[str, Tensor] = {}
    result: dict[str, Tensor] = {}
    for name, tensor in state.items():
        inside = ".layers." in name or ".h." in name or name.startswith("h.")
        if tensor.dim() == 2 and inside and name.endswith(".weight") and len(tensor) >= 32:
            stored, dense = packer(tensor.T if transposed else tensor)
            exact[name] = dense.T if transposed else dense
            result |= {f"{name.removesuffix('weight')}{part}": t for part, t in stored.items()}
        else:
            result[name] = tensor
    save_file({key: t.contiguous() for key, t in result.items()}, target / "model.safetensors")
    edit(target, quantization_config=packer.config())
    return exact


def edit(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


PACKERS = {
    "gptq 4": Packer(),
    "gptq 2": Packer(bits=2),
    "gptq 3": Packer(bits=3),
    "gptq 8": Packer(bits=8),
    "gptq_v2 4": Packer(form="gptq_v2"),
    "gptq_v2 3": Packer(bits=3, form="gptq_v2"),
    "gptq 4 symmetric": Packer(symmetric=True, zero_bias=True),
    "gptq 3 symmetric": Packer(bits=3, symmetric=True),
    "gptq 4 desc_act": Packer(shuffled=True),
    "gptq 3 desc_act": Packer(bits=3, shuffled=True),
    "gptq 4 without g_idx": Packer(index=False),
    "gptq 4 bfloat16 scales": Packer(scales=torch.bfloat16),
    "awq": Packer("awq"),
}


@pytest.mark.parametrize("name", PACKERS)
def test_packed_weights_are_unpacked_exactly(llama: Path, tmp_path: Path, name: str) -> None:
    exact = pack(llama, tmp_path / "packed", PACKERS[name])
    assert len(exact) == 14
    for dtype in ("float32", "bfloat16", "float64"):
        model, info = scorer_quantized.load(tmp_path / "packed", dtype, "cpu")
        assert not info["missing_keys"]
        assert not info["mismatched_keys"]
        assert model.dtype == getattr(torch, dtype)
        state = model.state_dict()
        for key, dense in exact.items():
            # Every product is exact in 32 bits, so float32 loses nothing on the way to bfloat16.
            assert torch.equal(dense.float().double(), dense)
            assert torch.equal(state[key], dense.float().to(model.dtype)), key


@pytest.mark.parametrize("name", ["gptq 3 desc_act", "awq"])
def test_piecewise_unpacking_changes_nothing(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    exact = pack(llama, tmp_path / "packed", PACKERS[name])
    monkeypatch.setattr(scorer_unpack, "CHUNK", 64 * 40)
    state = scorer_quantized.load(tmp_path / "packed", "float32", "cpu")[0].state_dict()
    assert all(torch.equal(state[key], dense.float()) for key, dense in exact.items())


@pytest.mark.parametrize("name", ["gptq 4", "gptq 3 desc_act", "awq"])
def test_a_packed_model_scores_like_the_dense_one(llama: Path, tmp_path: Path, name: str) -> None:
    exact = pack(llama, tmp_path / "packed", PACKERS[name])
    dense = Path(shutil.copytree(llama, tmp_path / "dense"))
    state = load_file(dense / "model.safetensors")
    state |= {key: weight.float().contiguous() for key, weight in exact.items()}
    save_file(state, dense / "model.safetensors", metadata={"format": "pt"})
    model, _ = scorer_quantized.load(tmp_path / "packed", "float32", "cpu")
    found = logliks(model)
    assert torch.equal(found, logliks(plain(dense)))
    assert not torch.allclose(found, logliks(plain(llama)), atol=1e-3), "really quantised"


def test_layers_that_keep_their_weights_transposed(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "gpt2", "gpt2", n_embd=64)
    exact = pack(folder, tmp_path / "packed", Packer(), transposed=True)
    assert len(exact) == 8
    model, info = scorer_quantized.load(tmp_path / "packed", "float32", "cpu")
    assert not info["missing_keys"]
    state = model.state_dict()
    assert all(torch.equal(state[key], dense.float()) for key, dense in exact.items())


def test_fused_experts_are_put_together(tmp_path: Path) -> None:
    folder = tiny_model(
        tmp_path / "mixtral", "mixtral", hidden_size=64, intermediate_size=64, num_local_experts=2
    )
    before = plain(folder).state_dict()
    pack(folder, tmp_path / "packed", Packer(bits=8))
    model, info = scorer_quantized.load(tmp_path / "packed", "float32", "cpu")
    assert not info["missing_keys"]
    for key, tensor in model.state_dict().items():
        assert torch.allclose(tensor, before[key], atol=0.02), key


def test_three_bit_fields_run_across_words() -> None:
    """The layout as its packer writes it: 10 fields, 2 + 1 bits, 10 fields, 1 + 2 bits, 10."""
    values = [(5 * place + place // 7) % 8 for place in range(32)]
    first = sum(value << (3 * place) for place, value in enumerate(values[:10]))
    first |= (values[10] & 0b011) << 30
    second = values[10] >> 2
    second |= sum(value << (3 * place + 1) for place, value in enumerate(values[11:21]))
    second |= (values[21] & 0b001) << 31
    third = values[21] >> 1
    third |= sum(value << (3 * place + 2) for place, value in enumerate(values[22:]))
    packed = torch.tensor([first, second, third]).to(torch.int32)
    assert scorer_unpack.fields(packed[:, None], 3).flatten().tolist() == values


def change(folder: Path, **tensors: Tensor | None) -> None:
    """Replace, or with None remove, tensors of the first query projection."""
    path = folder / "model.safetensors"
    state = load_file(path)
    for part, tensor in tensors.items():
        name = f"model.layers.0.self_attn.q_proj.{part}"
        if tensor is None:
            del state[name]
        else:
            state[name] = tensor.contiguous()
    save_file(state, path)


def part_of(folder: Path, part: str) -> Tensor:
    return load_file(folder / "model.safetensors")[f"model.layers.0.self_attn.q_proj.{part}"]


def test_zero_points_that_borrowed_from_their_neighbour(llama: Path, tmp_path: Path) -> None:
    """A word minus one in each of its fields, where the lowest field was 0."""
    packed = tmp_path / "packed"
    exact = pack(llama, packed, Packer())
    codes = scorer_unpack.fields(part_of(packed, "qweight"), 4).T.double()
    zeros = torch.arange(64).repeat(2, 1) % 16
    taken = [[word - 0x11111111 for word in row] for row in in_rows(zeros, 4).tolist()]
    wrapped = torch.tensor(taken).remainder(2**32)
    change(packed, qzeros=torch.where(wrapped >= 2**31, wrapped - 2**32, wrapped).int())
    model, _ = scorer_quantized.load(packed, "float32", "cpu")
    scale = part_of(packed, "scales").double().T.repeat_interleave(GROUP, 1)
    dense = (codes - zeros.T.repeat_interleave(GROUP, 1)) * scale
    name = "model.layers.0.self_attn.q_proj.weight"
    assert torch.equal(model.state_dict()[name], dense.float())
    assert not torch.equal(exact[name], dense)


@pytest.mark.parametrize("bits", [3, 4])
def test_symmetric_zero_points_under_the_wrong_name(llama: Path, tmp_path: Path, bits: int) -> None:
    """Files exist that call themselves gptq and hold what gptq_v2 means, or three odd bits."""
    exact = pack(llama, tmp_path / "packed", Packer(bits=bits, form="gptq_v2", symmetric=True))
    config = Packer(bits=bits, symmetric=True).config()
    edit(tmp_path / "packed", quantization_config=config)
    name = "model.layers.0.self_attn.q_proj.weight"
    if bits == 3:
        right = in_rows(torch.full((2, 64), 4), 3)
        taken = torch.tensor([0x24924924, 0x92492492, 0x49249249]).repeat(2)
        wrong = (right.long() - taken).remainder(2**32)
        change(tmp_path / "packed", qzeros=torch.where(wrong >= 2**31, wrong - 2**32, wrong).int())
    model, _ = scorer_quantized.load(tmp_path / "packed", "float32", "cpu")
    assert torch.equal(model.state_dict()[name], exact[name].float())


Spoil = Callable[[Path], None]

DAMAGE: dict[str, tuple[Packer, Spoil, str]] = {
    "zeros": (
        Packer(),
        lambda f: change(f, qzeros=part_of(f, "qzeros")[:, :-1]),
        r"layers\.0\.self_attn\.q_proj\.qzeros: shape \[2, 7\], expected \[2, 8\]",
    ),
    "scales": (
        Packer(),
        lambda f: change(f, scales=part_of(f, "scales")[:1]),
        r"q_proj\.scales: shape \[1, 64\], expected \[2, 64\]",
    ),
    "rows": (
        Packer(bits=3),
        lambda f: change(f, qweight=part_of(f, "qweight")[:-1]),
        r"q_proj\.qweight: 5 rows hold no whole number of 3-bit rows",
    ),
    "index": (
        Packer(),
        lambda f: change(f, g_idx=part_of(f, "g_idx")[:-1]),
        r"q_proj\.g_idx: shape \[63\], expected \[64\]",
    ),
    "groups": (
        Packer(),
        lambda f: change(f, g_idx=part_of(f, "g_idx") + 1),
        r"q_proj\.g_idx: groups 1 to 2, there are 2",
    ),
    "vector": (
        Packer(),
        lambda f: change(f, qweight=part_of(f, "qweight").flatten()),
        r"q_proj\.qweight: shape \[512\], not a matrix",
    ),
    "missing": (Packer("awq"), lambda f: change(f, qzeros=None), r"q_proj\.qzeros: missing"),
    "orphan": (
        Packer("awq"),
        lambda f: change(f, qweight=None),
        r"q_proj\.(qzeros|scales): belongs to no packed weight",
    ),
    "kind": (
        Packer("awq"),
        lambda f: change(f, qweight=part_of(f, "qweight").float()),
        r"q_proj\.qweight: torch\.float32, expected torch\.int32",
    ),
    "awq zeros": (
        Packer("awq"),
        lambda f: change(f, qzeros=part_of(f, "qzeros")[:1]),
        r"q_proj\.qzeros: shape \[1, 8\], expected \[2, 8\]",
    ),
    "not symmetric": (
        Packer(symmetric=True),
        lambda f: change(f, qzeros=part_of(f, "qzeros") * 3),
        r"q_proj\.qzeros: config\.json says symmetric",
    ),
    "bias": (
        Packer(zero_bias=True),
        lambda f: change(f, bias=torch.ones(64)),
        r"q_proj\.bias: the model has no place for it",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_tensors_are_named(llama: Path, tmp_path: Path, name: str) -> None:
    packer, spoil, message = DAMAGE[name]
    pack(llama, tmp_path / "packed", packer)
    spoil(tmp_path / "packed")
    with pytest.raises(PermanentFailure, match=message):
        scorer_quantized.load(tmp_path / "packed", "float32", "cpu")


def test_missing_and_unpacked_weights_are_noticed(llama: Path, tmp_path: Path) -> None:
    pack(llama, tmp_path / "packed", Packer())
    change(tmp_path / "packed", **dict.fromkeys(("qweight", "qzeros", "scales", "g_idx")))
    _, info = scorer_quantized.load(tmp_path / "packed", "float32", "cpu")
    assert info["missing_keys"] == {"model.layers.0.self_attn.q_proj.weight"}
    dense = Path(shutil.copytree(llama, tmp_path / "dense"))
    edit(dense, quantization_config=Packer().config())
    with pytest.raises(PermanentFailure, match=r"gptq-4bit, but no tensor is packed"):
        scorer_quantized.load(dense, "float32", "cpu")


def test_modules_with_bits_of_their_own(llama: Path, tmp_path: Path) -> None:
    pack(llama, tmp_path / "packed", Packer())
    weight = load_file(llama / "model.safetensors")["model.layers.0.self_attn.q_proj.weight"]
    stored, dense = Packer(bits=8)(weight)
    change(tmp_path / "packed", **stored)
    config = Packer().config() | {"dynamic": {"+:.*q_proj": {"bits": 8}}}
    edit(tmp_path / "packed", quantization_config=config)
    model, _ = scorer_quantized.load(tmp_path / "packed", "float32", "cpu")
    name = "model.layers.0.self_attn.q_proj.weight"
    assert torch.equal(model.state_dict()[name], dense.float())
    packed, dense_card = (resolve.resolve("x", None, path) for path in (tmp_path / "packed", llama))
    assert packed.parameters == dense_card.parameters


# bitsandbytes


@pytest.mark.parametrize("method", ["int8", "nf4", "fp4"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_quantised_while_loading(llama: Path, method: str, dtype: str) -> None:
    model, info = scorer_quantized.load(llama, dtype, "cpu", method)
    assert not info["missing_keys"]
    assert type(model.get_output_embeddings()) is torch.nn.Linear
    assert scorer_quantized.quantized_share(model) == 1.0
    expected = logliks(plain(llama, getattr(torch, dtype)))
    found = logliks(model)
    assert found.isfinite().all()
    difference = (found - expected).abs()
    assert difference.max() > 1e-4, "really quantised"
    assert difference.max() < 0.1 * expected.abs().min()
    recorded = scorer_quantized.settings(method, dtype)
    assert json.loads(json.dumps(recorded)) == recorded
    assert recorded["compute_dtype"] == dtype


@torch.no_grad()
def by_hand(folder: Path, method: str) -> Any:
    """The model with every matrix between embedding and head quantised and dequantised."""
    model = plain(folder)
    for name, layer in model.named_modules():
        turned = isinstance(layer, Conv1D)
        if not (turned or isinstance(layer, torch.nn.Linear)) or name == "lm_head":
            continue
        if method == "int8":
            codes, scale, _ = bnb.int8_vectorwise_quant(layer.weight.half())
            layer.weight.copy_(codes.float() * scale[:, None] / 127)
        else:
            weight = (layer.weight.T if turned else layer.weight).contiguous()
            packed, state = bnb.quantize_4bit(weight, blocksize=64, quant_type=method)
            dense = bnb.dequantize_4bit(packed, state)
            layer.weight.copy_(dense.T if turned else dense)
    return model


@pytest.mark.parametrize("method", ["nf4", "fp4"])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox"])
def test_four_bits_are_those_of_the_library(tmp_path: Path, method: str, kind: str) -> None:
    sizes = {"n_embd": 64} if kind == "gpt2" else {"hidden_size": 64, "intermediate_size": 128}
    folder = tiny_model(tmp_path / kind, kind, spread=0.1, **sizes)
    model, _ = scorer_quantized.load(folder, "float32", "cpu", method)
    assert scorer_quantized.quantized_share(model) == 1.0
    found = logliks(model)
    assert (found - logliks(by_hand(folder, method))).abs().max() < 1e-3
    assert torch.equal(found, logliks(model)), "nothing is repacked between texts"


@pytest.mark.parametrize("method", ["nf4", "fp4"])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@torch.no_grad()
def test_blocks_that_run_from_row_to_row(tmp_path: Path, method: str, kind: str) -> None:
    sizes = {"n_embd": 96} if kind == "gpt2" else {"hidden_size": 96, "intermediate_size": 160}
    folder = tiny_model(tmp_path / kind, kind, spread=0.1, **sizes)
    model, _ = scorer_quantized.load(folder, "float32", "cpu", method)
    assert scorer_quantized.quantized_share(model) == 1.0
    code = bnb.get_4bit_type(method, device="cpu")
    expected = plain(folder)
    for name, layer in expected.named_modules():
        turned = isinstance(layer, Conv1D)
        if not (turned or isinstance(layer, torch.nn.Linear)) or name == "lm_head":
            continue
        weight = (layer.weight.T if turned else layer.weight).contiguous()
        blocks = weight.reshape(-1, 64)
        scale = blocks.abs().amax(1, keepdim=True)
        nearest = (blocks[..., None] / scale[..., None] - code).abs().argmin(-1)
        dense = (code[nearest] * scale).reshape(weight.shape)
        layer.weight.copy_(dense.T if turned else dense)
    assert (logliks(model) - logliks(expected)).abs().max() < 1e-2


def test_eight_bits_differ_from_their_weights_by_activations_alone(llama: Path) -> None:
    model, _ = scorer_quantized.load(llama, "float32", "cpu", "int8")
    full = logliks(plain(llama))
    weights = logliks(by_hand(llama, "int8"))
    difference = (logliks(model) - weights).abs().max()
    assert 0 < difference < 4 * (weights - full).abs().max() + 0.05


@pytest.mark.parametrize("method", ["int8", "nf4", "fp4"])
def test_what_bitsandbytes_stored_is_loaded_as_it_is(
    llama: Path, tmp_path: Path, method: str
) -> None:
    stored = Path(shutil.copytree(llama, tmp_path / "stored"))
    (stored / "model.safetensors").unlink()
    model, _ = scorer_quantized.load(llama, "float32", "cpu", method)
    model.save_pretrained(stored)
    card = resolve.resolve("x/y", None, stored)
    assert card.quantization == f"bitsandbytes-{method}"
    assert card.parameters == resolve.resolve("x/y", None, llama).parameters
    assert scorer_quantized.stored_method(stored) == card.quantization
    again, info = scorer_quantized.load(stored, "float32", "cpu")
    assert not info["missing_keys"]
    assert torch.equal(logliks(again), logliks(model))
    with pytest.raises(PermanentFailure, match=f"quantization: nf4 cannot.*bitsandbytes-{method}"):
        scorer_quantized.load(stored, "float32", "cpu", "nf4")


def test_what_is_left_in_full_precision_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tiny_model(tmp_path / "mixtral", "mixtral", hidden_size=64, num_local_experts=2)
    model, _ = scorer_quantized.load(folder, "float32", "cpu", "nf4")
    assert 0 < scorer_quantized.quantized_share(model) < 0.9
    assert "of the weights between embedding and head are quantised" in caplog.text


def test_a_model_with_nothing_to_quantise(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "gpt2", "gpt2", n_layer=0)
    with pytest.raises(PermanentFailure, match="finds no layer that it can quantise"):
        scorer_quantized.load(folder, "float32", "cpu", "nf4")


# Cards


def test_card_of_a_packed_model(llama: Path, tmp_path: Path) -> None:
    dense = resolve.resolve("x/y", None, llama)
    cards.write_card(tmp_path / "dense.json", dense)
    assert "quantization" not in json.loads((tmp_path / "dense.json").read_text())
    for name, packer in PACKERS.items():
        folder = tmp_path / name.replace(" ", "-")
        pack(llama, folder, packer)
        card = resolve.resolve("x/y", None, folder)
        assert card.quantization == f"{packer.method}-{packer.bits}bit"
        biases = 2 * (5 * 64 + 2 * 128) if packer.zero_bias else 0
        assert card.parameters == dense.parameters + biases, name
        cards.write_card(tmp_path / "card.json", card)
        assert cards.read_card(tmp_path / "card.json") == card


REFUSED: list[tuple[dict[str, Any], str]] = [
    *(
        ({"quant_method": method}, rf"already quantised \({method}; klmap reads gptq, awq and")
        for method in (
            *("fp8", "fbgemm_fp8", "compressed-tensors", "mxfp4", "hqq", "aqlm", "quanto", "eetq"),
            *("bitnet", "vptq", "spqr", "higgs", "torchao", "quark", "auto-round", "unheard-of"),
        )
    ),
    ({}, "by an unnamed method"),
    ({"config_groups": {}}, "compressed-tensors"),
    ({"quant_method": "bitsandbytes"}, "neither load_in_8bit nor load_in_4bit"),
    ({"quant_method": "gptq", "bits": 5}, r"gptq, 5 bits; klmap reads 2, 3, 4 and 8 bits only"),
    ({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}, "in the format marlin"),
    ({"quant_method": "gptq", "bits": 4, "is_marlin_format": True}, "in the format marlin"),
    ({"quant_method": "gptq", "bits": 4, "pack_dtype": "int64"}, "packed in int64"),
    (
        {"quant_method": "gptq", "bits": 3, "sym": False, "meta": {"quantizer": ["gptqmodel:2.0"]}},
        "3 bits, asymmetric, by .*gptqmodel:2.0",
    ),
    ({"quant_method": "awq", "bits": 8}, "awq, 8 bits; klmap reads 4 bits only"),
    ({"quant_method": "awq", "version": "gemv"}, "awq in the format gemv"),
    ({"quant_method": "awq", "backend": "llm-awq"}, "awq in the format llm-awq"),
]


@pytest.mark.parametrize(("settings", "message"), REFUSED, ids=[text for _, text in REFUSED])
def test_other_methods_are_refused_by_name(settings: dict[str, Any], message: str) -> None:
    for config in (
        {"quantization_config": settings},
        {"text_config": {"quantization_config": settings}},
    ):
        with pytest.raises(PermanentFailure, match=message) as error:
            recognition.recognise("org/model", config)
        assert str(error.value).startswith("org/model: the stored weights are already quantised")
        assert quantization.WAY_OUT in str(error.value)


def test_unquantised_configurations() -> None:
    assert recognition.recognise("x", {"quantization_config": None}) is None
    assert recognition.recognise("x", {}) is None
    found = recognition.recognise("x", {"quantization_config": {"load_in_8bit": True}})
    assert found is not None
    assert found.label == "bitsandbytes-int8"
