"""The logit lens: every hidden state through the model's own final norm and head, in one pass."""

from __future__ import annotations

import dataclasses
import gc
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from klmap import scorer, scorer_lens, scorer_stages
from klmap.errors import PermanentFailure
from klmap.scorer_as_causal import CausalModel
from klmap.scorer_lens import Lens
from klmap.scorer_load import load_weights
from klmap.scorer_precision import Loading, prepare
from klmap.scorer_products import ONEDNN
from klmap.scorer_run import layer_sums, make_plan, score_tokens, text_sums
from tests.builders import CONTEXT, sample_texts, tiny_model
from tests.oracle import ids_of, make_job, scored
from tests.test_parity import MODEL_HEAD, TYPES, VARIANTS, waits
from tests.test_resume import content, in_a_process, killed_after_batch

LAYERS = 5
BUDGET = 300

BLOCKS = {
    "gpt2": "transformer.h",
    "llama": "model.layers",
    "gpt_neox": "gpt_neox.layers",
    "mamba2": "backbone.layers",
    "gemma2": "model.layers",
    "opt": "model.decoder.layers",
    "rwkv": "rwkv.blocks",
}
"""Where some types have their blocks, from their source code."""

DEEP: dict[str, dict[str, Any]] = {
    "gpt2": {"n_layer": LAYERS},
    "gemma2": {"num_hidden_layers": LAYERS, "layer_types": ["full_attention"] * LAYERS},
}
"""Keys that make a type deeper; all others take ``num_hidden_layers``."""


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    prepare("cpu", 1)


def deep(folder: Path, kind: str, **overrides: Any) -> Path:
    """A tiny model of five blocks, all of whose numbers matter."""
    more = DEEP.get(kind, {"num_hidden_layers": LAYERS})
    return tiny_model(folder, kind, jitter=0.1, **{**more, **overrides})


def sequences_of(folder: Path, count: int = 9) -> list[list[int]]:
    return ids_of(folder, [text for text, _ in sample_texts(count)])


def layers_of(
    model: CausalModel,
    sequences: Sequence[Sequence[int]],
    wanted: str | Sequence[int] = "all",
    limit: int = CONTEXT,
) -> np.ndarray:
    """(Y, N) nats by each hidden state."""
    plan = make_plan(sequences, limit)
    lens = Lens(model, wanted, sequences[0][:limit])
    score_tokens(model, plan, BUDGET, lens=lens)
    return layer_sums(lens, plan)


@torch.inference_mode()
def behind_the_last_block(model: CausalModel, ids: Tensor, blocks: str) -> Tensor:
    """(B, T, D) the residual stream that leaves the last block."""
    found: list[Tensor] = []
    last = model.model.get_submodule(blocks)[-1]
    hook = last.register_forward_hook(
        lambda _, __, output: found.append(output if isinstance(output, Tensor) else output[0])
    )
    model.body(input_ids=ids, use_cache=False)
    hook.remove()
    (stream,) = found
    return stream


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", BLOCKS)
def test_the_last_residual_stream_gives_the_model_to_the_last_bit(
    tmp_path: Path, kind: str, dtype: str
) -> None:
    folder = deep(tmp_path, kind)
    sequences = sequences_of(folder, 2)
    model = Loading(folder, "cpu", sequences, CONTEXT, products=ONEDNN).load(dtype)
    ids = torch.tensor([sequence[:40] for sequence in sequences])
    rows, targets = torch.arange(79), ids.flatten()[1:]
    lens = Lens(model, "all", sequences[0])
    assert lens.depth == LAYERS
    stream = behind_the_last_block(model, ids, BLOCKS[kind])
    with torch.inference_mode():
        expected = model.logprobs(ids, rows, targets)
        assert torch.equal(lens.logprobs(stream, rows, targets), expected)


@pytest.mark.parametrize("products", ["blas", "onednn"])
@pytest.mark.parametrize("kind", ["gpt2", "llama", "gpt_neox", "mamba2", "opt", "mixtral"])
def test_all_layers_in_one_pass_equal_separate_passes(
    tmp_path: Path, kind: str, products: str
) -> None:
    folder = deep(tmp_path, kind)
    sequences = sequences_of(folder)
    model = Loading(folder, "cpu", sequences, CONTEXT, products=products).load("float32")
    together = layers_of(model, sequences)
    assert together.shape == (LAYERS, len(sequences))
    for number in range(LAYERS):
        alone = layers_of(model, sequences, [number])
        assert alone.tobytes() == together[number].tobytes()
    assert layers_of(model, sequences, [1, 4]).tobytes() == together[[1, 4]].tobytes()
    assert len({row.tobytes() for row in together}) == LAYERS


def layer_norm(values: Tensor, norm: Any, eps: float) -> Tensor:
    centred = values - values.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    return scaled * norm.weight + norm.bias


def rms_norm(values: Tensor, weight: Tensor, eps: float) -> Tensor:
    return values / (values.square().mean(-1, keepdim=True) + eps).sqrt() * weight


def opt_end(model: Any, values: Tensor) -> Tensor:
    decoder = model.model.decoder
    return layer_norm(values, decoder.final_layer_norm, 1e-5) @ decoder.project_out.weight.T


BY_HAND: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "gpt2": lambda m, h: layer_norm(h, m.transformer.ln_f, 1e-5) @ m.lm_head.weight.T,
    "llama": lambda m, h: rms_norm(h, m.model.norm.weight, 1e-6) @ m.lm_head.weight.T,
    "gpt_neox": lambda m, h: layer_norm(h, m.gpt_neox.final_layer_norm, 1e-5) @ m.lm_head.weight.T,
    "mamba2": lambda m, h: rms_norm(h, m.backbone.norm_f.weight, 1e-5) @ m.lm_head.weight.T,
    "gemma2": lambda m, h: (
        3.0 * torch.tanh(rms_norm(h, 1.0 + m.model.norm.weight, 1e-6) @ m.lm_head.weight.T / 3.0)
    ),
    "opt": lambda m, h: opt_end(m, h) @ m.lm_head.weight.T,
    "gptj": lambda m, h: (
        layer_norm(h, m.transformer.ln_f, 1e-5) @ m.lm_head.weight.T + m.lm_head.bias
    ),
    "granite": lambda m, h: rms_norm(h, m.model.norm.weight, 1e-6) @ m.lm_head.weight.T / 2.0,
}
"""Logits from a hidden state by final norm and unembedding, from the definitions."""


@torch.no_grad()
def by_hand(
    model: Any, end: Callable[[Any, Tensor], Tensor], pieces: Sequence[tuple[Sequence[int], int]]
) -> np.ndarray:
    """(H + 1,) nats of one text by each hidden state, one window at a time.

    Args:
        model: of transformers, in float64.
        end: hidden state to logits.
        pieces: token ids of each window, and from which one on tokens are scored.
    """
    total = 0.0
    for ids, first in pieces:
        output = model(torch.tensor([ids]), use_cache=False, output_hidden_states=True)
        # transformers gives the last one behind the norm, and of Mamba no embeddings.
        given = output.hidden_states[:-1]
        if len(given) == LAYERS and model.config.model_type == "mamba2":
            given = (model.get_input_embeddings()(torch.tensor([ids])), *given[:-1])
        states = [end(model, state[0].double()) for state in given]
        logprobs = torch.stack([*states, output.logits[0].double()]).log_softmax(-1)
        wanted = torch.tensor(ids[first:]).expand(len(logprobs), -1)[:, :, None]
        total += logprobs[:, first - 1 : -1].gather(2, wanted).sum((1, 2)).numpy()
    return np.asarray(total)


@pytest.mark.parametrize("kind", BY_HAND)
def test_equals_hidden_states_of_transformers_through_a_norm_by_hand(
    tmp_path: Path, kind: str
) -> None:
    folder = deep(tmp_path, kind)
    model = CausalModel(load_weights(folder, "float64", "cpu"))
    sequences = sequences_of(folder, 3)
    plain = load_weights(folder, "float64", "cpu")
    found = layers_of(model, sequences)
    for number, sequence in enumerate(sequences):
        expected = by_hand(plain, BY_HAND[kind], [(sequence, 1)])
        assert len(expected) == LAYERS + 1
        np.testing.assert_allclose(found[:, number], expected[:-1], rtol=1e-6)


def test_a_text_longer_than_the_context_is_read_in_the_windows_of_the_model(tmp_path: Path) -> None:
    folder = deep(tmp_path, "gpt2", n_positions=32)
    (long,) = (sequence[:75] for sequence in sequences_of(folder, 1))
    model = CausalModel(load_weights(folder, "float64", "cpu"))
    plain = load_weights(folder, "float64", "cpu")
    # Tokens 1 to 31, then those from 32 on behind token 31, then the last ones of 32.
    pieces = [(long[:32], 1), (long[31:63], 1), (long[43:], 20)]
    expected = by_hand(plain, BY_HAND["gpt2"], pieces)
    found = layers_of(model, [long, long[:9]], limit=32)
    np.testing.assert_allclose(found[:, 0], expected[:-1], rtol=1e-6)


@pytest.mark.parametrize("name", [*TYPES, *VARIANTS, "opt-350m"])
def test_blocks_and_norm_of_every_type_are_found_or_refused(tmp_path: Path, name: str) -> None:
    known = VARIANTS | {"opt-350m": ("opt", {"do_layer_norm_before": False})}
    kind, overrides = known.get(name, (name, {}))
    folder = tiny_model(tmp_path, kind, jitter=0.1, **overrides)
    sequences = sequences_of(folder, 2)
    model = Loading(folder, "cpu", sequences, CONTEXT, products="blas").load("float32")
    if kind in MODEL_HEAD:
        with pytest.raises(PermanentFailure, match=r"no plain head.*remove layers: from the entry"):
            Lens(model, "all", sequences[0])
        return
    lens = Lens(model, "all", sequences[0])
    assert lens.depth == model.model.config.num_hidden_layers
    own = text_sums(score_tokens(model, make_plan(sequences, CONTEXT), BUDGET)[0], [0, 1, 2])
    found = layers_of(model, sequences)
    assert np.isfinite(found).all()
    assert all(abs(row - own).max() > 1.0 for row in found), "no earlier state is the model"


def test_models_without_a_final_norm_are_read_as_they_end(tmp_path: Path) -> None:
    ends = {
        "opt": ({}, "LayerNorm (decoder.final_layer_norm) + Linear (decoder.project_out)"),
        "opt-350m": ({"do_layer_norm_before": False}, "Linear (decoder.project_out)"),
        "opt-same": ({"do_layer_norm_before": False, "word_embed_proj_dim": 32}, "none"),
    }
    for name, (overrides, expected) in ends.items():
        folder = deep(tmp_path / name, "opt", **overrides)
        for products in ("blas", "onednn"):
            sequences = sequences_of(folder, 2)
            model = Loading(folder, "cpu", sequences, CONTEXT, products=products).load("float32")
            assert Lens(model, "all", sequences[0]).name == expected


# Jobs


def layered(folder: Path, model: Path, layers: Any = "all", **spec: Any) -> scorer.Job:
    job: scorer.Job = make_job(folder, model, layers=layers, **spec)
    return dataclasses.replace(job, batch_tokens=BUDGET, save_every=0.0, products="blas")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_layers_change_nothing_of_the_model_s_own_score(tmp_path: Path, dtype: str) -> None:
    model = deep(tmp_path / "model", "llama", max_position_embeddings=64)
    plain = make_job(tmp_path / "plain", model, dtype=dtype)
    plain = dataclasses.replace(plain, batch_tokens=BUDGET, products="blas", keep_tokens=True)
    without = scored(plain)
    job = dataclasses.replace(layered(tmp_path / "all", model, dtype=dtype), keep_tokens=True)
    found = scored(job)
    assert found.attributes["n_windows"] > len(found.loglik), "some text has several windows"
    assert found.loglik.tobytes() == without.loglik.tobytes()
    assert found.token_logprob is not None
    assert without.token_logprob is not None
    assert found.token_logprob.tobytes() == without.token_logprob.tobytes()
    assert found.attributes["noise_nats"] == without.attributes["noise_nats"]
    assert found.layers.tolist() == list(range(LAYERS))
    assert found.layer_loglik.shape == (LAYERS, len(found.loglik))
    assert (found.attributes["lens"], found.attributes["n_layers"]) == (
        "LlamaRMSNorm (norm)",
        LAYERS,
    )
    one = scored(layered(tmp_path / "one", model, [3], dtype=dtype))
    assert one.layers.tolist() == [3]
    assert one.layer_loglik.tobytes() == found.layer_loglik[3].tobytes()
    assert without.layers.size == 0
    assert "lens" not in without.attributes


@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_quantised_models_are_read_by_the_same_lens(tmp_path: Path, quantization: str) -> None:
    model = deep(tmp_path / "model", "llama", hidden_size=64, intermediate_size=128, spread=0.1)
    found = scored(layered(tmp_path / "all", model, quantization=quantization))
    original = scored(layered(tmp_path / "original", model))
    one = scored(layered(tmp_path / "one", model, [2], quantization=quantization))
    assert one.layer_loglik.tobytes() == found.layer_loglik[2].tobytes()
    away = np.abs(found.layer_loglik - original.layer_loglik).max(axis=1)
    assert away[0] < 1e-3, "the embeddings are not quantised"
    assert (away[1:] > 1e-3).all()


def test_a_killed_job_goes_on_with_its_layers(tmp_path: Path) -> None:
    job = layered(tmp_path, deep(tmp_path / "model", "llama", max_position_embeddings=64))
    scorer.score(job)
    expected = content(job.output)
    for count in (1, 3):
        job.output.unlink()
        assert in_a_process(lambda n=count: killed_after_batch(job, n)) == -signal.SIGKILL
        with np.load(job.progress) as file:
            assert file["layers"].shape[0] == LAYERS
            assert file["layers"].shape[1] > 0
        scorer.score(job)
        assert content(job.output) == expected


def test_side_files_of_jobs_without_layers_are_what_they_were(tmp_path: Path) -> None:
    job: scorer.Job = make_job(tmp_path, deep(tmp_path / "model", "gpt2"))
    job = dataclasses.replace(job, batch_tokens=BUDGET, save_every=0.0, products="blas")
    in_a_process(lambda: killed_after_batch(job, 2))
    with np.load(job.progress) as file:
        assert set(file.files) == {"about", "values"}
        assert "lens" not in str(file["about"])


def test_texts_without_a_scored_token_are_zero(tmp_path: Path) -> None:
    model = deep(tmp_path / "model", "gpt2")
    found = scored(
        dataclasses.replace(
            make_job(tmp_path, model, ["", "a", "Two lamps along the harbour."], layers="all"),
            products="blas",
        )
    )
    assert found.layer_loglik[:, 0].tolist() == [0.0] * LAYERS
    assert (found.layer_loglik[:, 2] < 0).all()


# Memory


def live_bytes() -> int:
    """Bytes of all tensors that Python holds."""
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in gc.get_objects()
        if isinstance(tensor, Tensor)
        and tensor.device.type == "cpu"
        # Weights that other tests have packed for oneDNN have no storage to ask.
        and tensor.layout == torch.strided
    }
    return sum(storages.values())


def test_memory_does_not_grow_with_the_number_of_layers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_model(tmp_path, "gpt2", n_layer=12)
    model = CausalModel(load_weights(folder, "float32", "cpu"))
    sequences = [list(range(200))] * 8
    plan = make_plan(sequences, CONTEXT)
    lens = Lens(model, "all", sequences[0])
    original = scorer_lens.logprobs_of
    held: list[int] = []

    def watched(*arguments: Any) -> Tensor:
        held.append(live_bytes())
        return original(*arguments)

    monkeypatch.setattr(scorer_lens, "logprobs_of", watched)
    score_tokens(model, plan, 10_000, lens=lens)
    assert len(held) == 12
    hidden = 8 * 199 * 32 * 4
    assert max(held) - min(held) < hidden, "no layer leaves a hidden state behind"
    assert lens.sums.nbytes == 12 * 8 * 8


# Several GPUs


@pytest.mark.parametrize("kind", BLOCKS)
def test_reading_layers_waits_for_no_more_than_the_model(tmp_path: Path, kind: str) -> None:
    model = CausalModel(load_weights(deep(tmp_path, kind), "float32", "cpu"))
    ids = torch.arange(120).reshape(3, 40)
    lens = Lens(model, "all", list(range(40)))
    lens.begin(3)
    batch = ids, torch.tensor([1, 2, 3, 50, 90]), torch.tensor([1, 2, 3, 4, 5])
    alone = waits(model, batch)
    with lens.reading(batch[1], batch[2], 0, 3):
        assert waits(model, batch) == alone
    assert bool((lens.sums < 0).all()), "the hooks have run"


def test_stages_change_no_number(tmp_path: Path) -> None:
    folder = deep(tmp_path, "llama")
    sequences = sequences_of(folder)
    expected = layers_of(CausalModel(load_weights(folder, "float32", "cpu")), sequences)
    model = load_weights(folder, "float32", "cpu")
    names = [name for name, _ in model.named_modules() if name.count(".") == 2]
    model.hf_device_map = dict.fromkeys(names, "cpu:0") | {"lm_head": 0}
    scorer_stages.connect(model, lambda tensor, _: tensor.clone())
    assert layers_of(CausalModel(model), sequences).tobytes() == expected.tobytes()


# What is refused


def test_a_layer_beyond_the_model_is_a_permanent_failure(tmp_path: Path) -> None:
    job = layered(tmp_path, deep(tmp_path / "model", "gpt2"), [0, 5, 7])
    with pytest.raises(PermanentFailure) as failure:
        scorer.score(job)
    assert str(failure.value) == (
        "layers: there is no 5: this model has 5 blocks, so there are 0 (the embeddings) to 4, and "
        "5 is the model itself, which is always scored; correct layers: of the entry, or give all"
    )
    assert job.failure.is_file()


def refusal_of(model: CausalModel) -> str:
    with pytest.raises(PermanentFailure, match="remove layers: from the entry") as failure:
        Lens(model, "all", [1, 2, 3])
    return str(failure.value)


def test_what_cannot_be_read_is_refused_with_what_was_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = deep(tmp_path, "llama")
    model = CausalModel(load_weights(folder, "float32", "cpu"))
    handle = model.body.register_forward_hook(lambda _, __, output: (output[0] * 1.01,))
    assert "LlamaRMSNorm (norm), is off the hidden state of the model by 0.0" in refusal_of(model)
    handle.remove()
    handle = model.body.norm.register_forward_pre_hook(lambda _, values: (values[0] + 0.5,))
    assert Lens(model, "all", [1, 2, 3]).depth == LAYERS, "a hook of the norm belongs to it"
    handle.remove()
    monkeypatch.setattr(model.model.config, "num_hidden_layers", LAYERS + 1)
    assert "0 lists of 6 modules (num_hidden_layers) run one behind the other" in refusal_of(model)
    monkeypatch.undo()
    model.head = None
    assert "come from its own code" in refusal_of(model)


def test_a_hidden_state_that_overflows_is_named(tmp_path: Path) -> None:
    folder = deep(tmp_path, "gpt2")
    model = CausalModel(load_weights(folder, "float32", "cpu"))
    sequences = sequences_of(folder, 3)
    plan = make_plan(sequences, CONTEXT)
    lens = Lens(model, [1, 3], sequences[0])
    score_tokens(model, plan, BUDGET, lens=lens)
    lens.sums[1, 2] = float("nan")
    with pytest.raises(PermanentFailure, match="by hidden state 3 are not finite"):
        layer_sums(lens, plan)
