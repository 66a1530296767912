"""What decides how a model runs: matrix products, dtype, stages on several GPUs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from klmap import scorer_precision, scorer_products, scorer_stages
from klmap.errors import PermanentFailure
from klmap.scorer_as_causal import CausalModel
from klmap.scorer_load import load_weights
from klmap.scorer_precision import Loading, prepare, switches
from klmap.scorer_products import BLAS, ONEDNN, PackedLinear
from klmap.scorer_run import loglik_singly, make_plan, score_tokens, text_sums
from tests.builders import sample_texts, tiny_model
from tests.oracle import ids_of, make_job, scored


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    prepare("cpu", 1)


def sequences_of(folder: Path, count: int = 9) -> list[list[int]]:
    return ids_of(folder, [text for text, _ in sample_texts(count)])


def packed_layers(model: CausalModel) -> int:
    return sum(isinstance(layer, PackedLinear) for layer in model.model.modules())


@pytest.mark.parametrize("kind", ["gpt2", "llama", "opt", "gpt_neox", "mixtral", "mamba", "bloom"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_both_libraries_give_the_same_numbers(tmp_path: Path, kind: str, dtype: str) -> None:
    folder = tiny_model(tmp_path, kind)
    sequences = sequences_of(folder)
    found = {}
    for library in (BLAS, ONEDNN):
        model = Loading(folder, "cpu", sequences, 256, products=library).load(dtype)
        # Mamba multiplies with the weight of a layer by itself, which only BLAS can.
        expected = BLAS if kind == "mamba" else library
        assert (model.products, packed_layers(model) > 0) == (expected, expected == ONEDNN)
        tokens, _ = score_tokens(model, make_plan(sequences, 256), 600)
        assert tokens.dtype == np.float32
        found[library] = text_sums(tokens, make_plan(sequences, 256).offset)
    # A product of 16-bit numbers is rounded to 16 bits; the order of the sum decides how.
    tolerance = 1e-3 if dtype == "float32" else 0.02 * np.abs(found[BLAS]).max()
    np.testing.assert_allclose(found[ONEDNN], found[BLAS], atol=tolerance)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_unpacking_gives_the_same_weights_back(tmp_path: Path, kind: str) -> None:
    folder = tiny_model(tmp_path, kind)
    model = Loading(folder, "cpu", sequences_of(folder), 256, products=ONEDNN).load("float32")
    assert packed_layers(model) > 0
    state = model.to("float32").model.state_dict()
    plain = load_weights(folder, "float32", "cpu").state_dict()
    assert packed_layers(model) == 0
    assert state.keys() == plain.keys()
    assert all(torch.equal(state[name], plain[name]) for name in plain)


def test_head_and_tied_weights_are_not_packed(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path, "llama", tie_word_embeddings=True)
    model = Loading(folder, "cpu", sequences_of(folder), 256, products=ONEDNN).load("float32")
    assert isinstance(model.model.lm_head, nn.Linear)
    assert model.model.lm_head.weight is model.model.get_input_embeddings().weight


def test_a_model_that_does_not_suit_onednn_stays_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_model(tmp_path, "llama")
    sequences = sequences_of(folder)
    expected = loglik_singly(CausalModel(load_weights(folder, "float32", "cpu")), sequences, 256)

    def wrong(self: PackedLinear, values: torch.Tensor) -> torch.Tensor:
        return torch.zeros(*values.shape[:-1], self.weight.shape[0])

    def broken(*_: Any) -> torch.Tensor:
        raise RuntimeError("could not create a primitive")

    for owner, name, change in (
        (PackedLinear, "forward", wrong),
        (PackedLinear, "forward", broken),
        (scorer_products, "packed", broken),
    ):
        monkeypatch.setattr(owner, name, change)
        model = Loading(folder, "cpu", sequences, 256, products=ONEDNN).load("float32")
        assert (model.products, packed_layers(model)) == (BLAS, 0)
        assert loglik_singly(model, sequences, 256).tolist() == expected.tolist()


def test_the_faster_library_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_weights(tiny_model(tmp_path, "llama"), "float32", "cpu")
    for seconds, expected in (([1.0, 2.0], ONEDNN), ([1.0, 0.9], ONEDNN), ([1.0, 0.5], BLAS)):
        times = iter(seconds)
        monkeypatch.setattr(scorer_products, "_seconds", lambda _, found=times: next(found))
        assert scorer_products.faster(model) == expected

    def refuses(_: Any) -> float:
        raise RuntimeError("mkldnn is not available")

    monkeypatch.setattr(scorer_products, "_seconds", refuses)
    assert scorer_products.faster(model) == BLAS


def test_float16_that_overflows_gives_way_and_says_so(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path, "llama", spread=0.1)
    sequences = sequences_of(folder)
    loading = Loading(folder, "cpu", sequences, 256, stored="float32", products=BLAS)
    model, reason = scorer_precision.best(loading)
    assert model.dtype == "float16"
    assert "differs from float32 by" in reason
    weights = transformers.AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():  # beyond float16, within float32 and bfloat16
        weights.model.layers[0].mlp.down_proj.weight.mul_(1e6)
    weights.save_pretrained(folder)
    model, reason = scorer_precision.best(loading)
    assert (model.dtype, reason) == ("bfloat16", "auto: float16 overflows")
    with torch.no_grad():
        weights.model.layers[0].mlp.down_proj.weight.fill_(float("nan"))
    weights.save_pretrained(folder)
    with pytest.raises(PermanentFailure, match="no dtype gives finite"):
        scorer_precision.best(loading)


def test_float16_that_is_far_from_the_reference_gives_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scorer_precision, "FLOAT16_AGREEMENT", 0.0)
    folder = tiny_model(tmp_path, "llama", dtype=torch.bfloat16)
    loading = Loading(folder, "cpu", sequences_of(folder), 256, stored="bfloat16", products=BLAS)
    model, reason = scorer_precision.best(loading)
    assert model.dtype == "bfloat16"
    assert "float16 differs from bfloat16 by" in reason


def test_what_trades_exactness_for_speed_is_off_and_recorded(tmp_path: Path) -> None:
    result = scored(make_job(tmp_path, tiny_model(tmp_path / "model", "llama")))
    precision = result.attributes["precision"]
    assert '"tf32": false' in precision
    assert '"attention": "sdpa"' in precision
    assert '"float32_matmul": "highest"' in precision
    model = CausalModel(load_weights(tmp_path / "model", "float32", "cpu"))
    found = switches(model)
    assert not any(found[key] for key in found if key.startswith("reduced") or key == "tf32")
    assert result.attributes["dtype_choice"] == "auto: float32 on a CPU"
    assert result.attributes["startup_seconds"] > 0
    assert result.attributes["peak_memory"] > 2**20


def gpus(monkeypatch: pytest.MonkeyPatch, *free: float) -> None:
    """Pretend that there are GPUs with so many GiB of free memory."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(free))
    monkeypatch.setattr(
        torch.cuda, "mem_get_info", lambda index: (int(free[index] * 2**30), 80 * 2**30)
    )


@pytest.mark.parametrize(
    ("size", "free", "expected"),
    [
        (10, (80.0,), {"": 0}),
        (60, (80.0, 80.0), {"": 0}),
        (70, (80.0, 80.0), "balanced"),
        (140, (80.0, 80.0, 80.0, 80.0), "balanced"),
        (70, (80.0,), None),
        (300, (80.0, 80.0, 80.0), None),
    ],
)
def test_as_few_gpus_as_will_do(
    monkeypatch: pytest.MonkeyPatch, size: int, free: tuple[float, ...], expected: Any
) -> None:
    gpus(monkeypatch, *free)
    if expected is None:
        with pytest.raises(MemoryError, match=r"raise hardware\.max_gpus"):
            scorer_stages.loading_arguments("cuda", size * 2**30)
    else:
        found = scorer_stages.loading_arguments("cuda", size * 2**30)
        assert found["device_map"] == expected
        assert scorer_stages.loading_arguments("cpu", size * 2**30) == {}


@torch.inference_mode()
def test_stages_copy_what_layers_share_once(tmp_path: Path) -> None:
    """The meta device stands in for a second GPU: it has shapes, no numbers."""
    model = load_weights(tiny_model(tmp_path, "llama", num_hidden_layers=5), "float32", "cpu")
    second = ("model.layers.2", "model.layers.3", "model.layers.4", "model.norm", "lm_head")
    first = ("model.embed_tokens", "model.rotary_emb", "model.layers.0", "model.layers.1")
    for name in second:
        model.get_submodule(name).to("meta")
    model.hf_device_map = {**dict.fromkeys(first, "cpu:0"), **dict.fromkeys(second, "meta")}
    crossed: list[tuple[int, ...]] = []

    def move(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
        if device.type == "meta":
            crossed.append(tuple(tensor.shape))
        return tensor.to(device)

    scorer_stages.connect(model, move)
    for length in (7, 9):
        crossed.clear()
        hidden = model.base_model(input_ids=torch.ones(2, length, dtype=torch.long))[0]
        assert (hidden.device.type, hidden.shape) == ("meta", (2, length, 32))
        positions, rotary = (1, length), (1, length, 16)
        assert sorted(crossed) == [positions, rotary, rotary, (2, length, 32)], "each only once"


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mixtral", "gemma2", "bloom"])
def test_stages_change_no_number(tmp_path: Path, kind: str) -> None:
    folder = tiny_model(tmp_path, kind)
    sequences = sequences_of(folder)
    expected = loglik_singly(CausalModel(load_weights(folder, "float32", "cpu")), sequences, 256)
    model = load_weights(folder, "float32", "cpu")
    names = [name for name, _ in model.named_modules() if name.count(".") == 2]
    model.hf_device_map = dict.fromkeys(names, "cpu:0") | {"lm_head": 0}
    copies = 0

    def move(tensor: torch.Tensor, _: torch.device) -> torch.Tensor:
        nonlocal copies
        copies += 1
        return tensor.clone()

    scorer_stages.connect(model, move)
    assert loglik_singly(CausalModel(model), sequences, 256).tolist() == expected.tolist()
    assert copies > len(sequences)


def test_a_model_on_one_device_is_left_alone(tmp_path: Path) -> None:
    model = load_weights(tiny_model(tmp_path, "llama"), "float32", "cpu")
    scorer_stages.connect(model)
    model.hf_device_map = {"": 0}
    scorer_stages.connect(model)
    assert not any(module._forward_pre_hooks for module in model.modules())
    model.hf_device_map = {"model.layers.0": 0, "model.layers.1": "cpu"}
    with pytest.raises(MemoryError, match="some were put on cpu"):
        scorer_stages.connect(model)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox", "mixtral"])
def test_layers_are_never_cut(tmp_path: Path, kind: str) -> None:
    """What accelerate makes of ``balanced`` for two GPUs that hold half of the model each."""
    from accelerate import infer_auto_device_map

    model = load_weights(tiny_model(tmp_path, kind), "float32", "cpu")
    size = sum(parameter.numel() * 4 for parameter in model.parameters())
    places = infer_auto_device_map(
        model,
        max_memory={0: int(0.7 * size), 1: size},
        no_split_module_classes=model._no_split_modules,
    )
    assert set(places.values()) == {0, 1}
    layers = [
        name
        for name, module in model.named_modules()
        if type(module).__name__ in model._no_split_modules
    ]
    for layer in layers:
        assert any(layer == name or layer.startswith(f"{name}.") for name in places), layer


def test_out_of_memory_that_no_gpu_can_hold_is_said_before_loading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_model(tmp_path, "llama")
    gpus(monkeypatch, 0.0001)
    with pytest.raises(MemoryError, match="the weights take"):
        load_weights(folder, "float32", "cuda", parameters=10**9)


def test_budget_of_int8_is_one_text(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path, "llama", num_hidden_layers=1)
    sequences = sequences_of(folder, 3)
    model = CausalModel(load_weights(folder, "float32", "cpu"))
    model.model.is_loaded_in_8bit = True
    _, budget = score_tokens(model, make_plan(sequences, 256), 5000)
    assert budget == 1
