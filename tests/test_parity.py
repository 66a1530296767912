"""Every kind of architecture against a slow float64 oracle, one text at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

from klmap.repository import context_length
from klmap.scorer_as_causal import CausalModel
from klmap.scorer_load import load_weights
from klmap.scorer_precision import prepare
from klmap.scorer_run import make_plan, score_tokens
from tests.builders import CONTEXT, WINDOW, sample_texts, tiny_model
from tests.oracle import exact_model, ids_of, make_job, oracle, scored, token_logprobs

TYPES = [
    # dense: learned or sinusoidal positions, ALiBi
    "biogpt",
    "bloom",
    "gpt2",
    "gpt_bigcode",
    "gpt_neo",
    "mpt",
    "openai-gpt",
    "opt",
    "xglm",
    # dense: rotary positions
    "apertus",
    "arcee",
    "codegen",
    "cohere",
    "cohere2",
    "ernie4_5",
    "exaone4",
    "falcon",
    "gemma",
    "gemma2",
    "gemma3_text",
    "glm",
    "glm4",
    "gpt_neox",
    "gpt_neox_japanese",
    "gptj",
    "granite",
    "helium",
    "hunyuan_v1_dense",
    "hyperclovax",
    "llama",
    "minicpm3",
    "ministral",
    "mistral",
    "nanochat",
    "nemotron",
    "olmo",
    "olmo2",
    "olmo3",
    "phi",
    "phi3",
    "qwen2",
    "qwen3",
    "seed_oss",
    "smollm3",
    "stablelm",
    "starcoder2",
    "vaultgemma",
    # mixtures of experts
    "deepseek_v2",
    "deepseek_v3",
    "ernie4_5_moe",
    "glm4_moe",
    "gpt_oss",
    "granitemoe",
    "inkling_text",
    "llama4_text",
    "minimax",
    "mixtral",
    "olmoe",
    "phimoe",
    "qwen2_moe",
    "qwen3_moe",
    # recurrent and mixed
    "bamba",
    "falcon_h1",
    "falcon_mamba",
    "granitemoehybrid",
    "jamba",
    "lfm2",
    "mamba",
    "mamba2",
    "nemotron_h",
    "qwen3_5_text",
    "qwen3_next",
    "recurrent_gemma",
    "rwkv",
    "xlstm",
    "zamba2",
]

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "falcon-rotary": ("falcon", {"alibi": False}),
    "falcon-many-queries": ("falcon", {"alibi": False, "multi_query": False}),
    "falcon-new": ("falcon", {"alibi": False, "new_decoder_architecture": True}),
    "falcon-new-alibi": ("falcon", {"new_decoder_architecture": True}),
    "falcon-serial": ("falcon", {"parallel_attn": False, "bias": True}),
    "gemma3-capped": ("gemma3_text", {"final_logit_softcapping": 2.0}),
    "gpt_neox-serial": ("gpt_neox", {"use_parallel_residual": False}),
    "inkling-padded": ("inkling_text", {"vocab_size": 640, "unpadded_vocab_size": 512}),
    "llama-grouped": ("llama", {"num_key_value_heads": 1, "attention_bias": True}),
    "opt-post-norm": ("opt", {"do_layer_norm_before": False, "word_embed_proj_dim": 32}),
    "phi-normed": ("phi", {"qk_layernorm": True}),
    "qwen2-sliding": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    ),
    "stablelm-parallel": ("stablelm", {"use_parallel_residual": True, "qk_layernorm": True}),
}
"""What one type has in several ways: name, type, keys of its configuration."""

NEVER_TIED = ("inkling_text", "nemotron_h", "xlstm")
"""Types whose classes have no way to tie the head to the embedding."""

MODEL_HEAD = {
    "llama4_text": "its class calls the body `model` and the prefix `language_model`, so that the "
    "`base_model` of transformers is the whole model",
}
"""Types that may fall back on the model's own logits, and why."""

CALMER = {
    "qwen3_next": "its recurrence runs in float32 in a float64 model too, and multiplies errors",
    "qwen3_5_text": "the same recurrence",
}
"""Types with matrices half as large: with ordinary ones float32 alone is off by up to 1e-3."""

UNLIMITED = ("bloom", "falcon_mamba", "mamba", "mamba2", "rwkv", "xlstm")
"""Types without a longest input."""

WINDOWED = {
    "cohere2": "sliding_window",
    "exaone4": "sliding_window",
    "gemma2": "sliding_window",
    "gemma3_text": "sliding_window",
    "gpt_neo": "window_size",
    "gpt_oss": "sliding_window",
    "llama4_text": "attention_chunk_size",
    "ministral": "sliding_window",
    "mistral": "sliding_window",
    "mixtral": "sliding_window",
    "olmo3": "sliding_window",
    "phi3": "sliding_window",
    "recurrent_gemma": "attention_window_size",
    "starcoder2": "sliding_window",
    "vaultgemma": "sliding_window",
}
"""Types some of whose layers see the last few tokens only, and the key that says how many."""

POSITIONS = {
    "biogpt": "max_position_embeddings",
    "gpt2": "n_positions",
    "gpt_bigcode": "n_positions",
    "gpt_neo": "max_position_embeddings",
    "openai-gpt": "n_positions",
    "opt": "max_position_embeddings",
    "xglm": "max_position_embeddings",
}
"""Types with a table of positions, and the key that gives its size."""

HOST_READS = {
    "is_nonzero",
    "_local_scalar_dense",
    "item",
    "equal",
    "nonzero",
    "nonzero_numpy",
    "masked_select",
    "bincount",
    "_unique",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
}
"""Operations whose result, or its size, the host has to wait for."""

HOST_WRITES = {"lift_fresh"}
"""A tensor made of numbers of Python, which on a GPU is copied there and waited for."""

SYNCING: dict[str, tuple[set[str], str]] = {
    "biogpt": ({"is_nonzero"}, "makes a mask of ones and then asks whether it is all ones"),
    "falcon": ({"lift_fresh"}, "takes keys and values by lists, [-2] and [-1]"),
    "gpt_neo": ({"lift_fresh"}, "makes a tensor of the number that masks"),
}
"""Types that make the host wait in each forward pass, by which operations, and why."""


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    prepare("cpu", 1)


def build(folder: Path, kind: str, **overrides: Any) -> Path:
    """A tiny model with all its numbers random."""
    return tiny_model(folder, kind, spread=0.15 if kind in CALMER else 0.3, jitter=0.2, **overrides)


def cases() -> Iterator[Any]:
    """Every type and variant, with the head tied to the embedding and not."""
    for name in [*TYPES, *VARIANTS]:
        kind, overrides = VARIANTS.get(name, (name, {}))
        for tied in (False,) if kind in NEVER_TIED else (False, True):
            label = f"{name}-{'tied' if tied else 'untied'}"
            yield pytest.param(kind, {**overrides, "tie_word_embeddings": tied}, id=label)


@pytest.mark.parametrize(("kind", "overrides"), cases())
def test_equals_the_oracle(tmp_path: Path, kind: str, overrides: dict[str, Any]) -> None:
    if kind in NEVER_TIED:
        overrides = {key: overrides[key] for key in overrides if key != "tie_word_embeddings"}
    model = build(tmp_path / "model", kind, **overrides)
    assert not untouched(model)
    texts = [text for text, _ in sample_texts(5)]
    job = make_job(tmp_path, model, texts)
    result = scored(dataclasses.replace(job, batch_tokens=600, keep_tokens=True))
    sequences = ids_of(model, texts)
    lengths = {len(ids) for ids in sequences}
    assert 3 * WINDOW < min(lengths) < max(lengths) < CONTEXT
    assert len(lengths) == len(texts), "so that batches are padded"
    exact = exact_model(model)
    tied = exact.get_output_embeddings().weight is exact.get_input_embeddings().weight
    assert tied == overrides.get("tie_word_embeddings", False)
    expected = [token_logprobs(exact, ids) for ids in sequences]
    assert np.concatenate(expected).std() > 0.5, "far from guessing evenly"
    assert result.token_logprob is not None
    np.testing.assert_allclose(result.token_logprob, np.concatenate(expected), atol=1e-4, rtol=0)
    sums = [values.sum() for values in expected]
    np.testing.assert_allclose(result.loglik, sums, atol=1e-3, rtol=0)
    assert result.n_scored.tolist() == [len(ids) - 1 for ids in sequences]
    assert result.attributes["head"] == ("model" if kind in MODEL_HEAD else "own")
    assert result.attributes["noise_nats"] < 1e-3
    assert result.attributes["context"] == (-1 if kind in UNLIMITED else CONTEXT)


def untouched(folder: Path) -> list[str]:
    """Names of stored tensors that an error could not show itself in: constant, or 0, or 1."""
    stored = load_file(folder / "model.safetensors")
    return [
        name
        for name, tensor in stored.items()
        if tensor.is_floating_point()
        and (tensor.min() == tensor.max() if tensor.numel() > 1 else float(tensor) in (0.0, 1.0))
    ]


@pytest.mark.parametrize("kind", WINDOWED)
def test_texts_are_longer_than_sliding_windows(tmp_path: Path, kind: str) -> None:
    model = build(tmp_path, kind)
    (ids,) = ids_of(model, [sample_texts(1)[0][0]])
    narrow = token_logprobs(exact_model(model), ids)
    wide = token_logprobs(exact_model(model, **{WINDOWED[kind]: CONTEXT}), ids)
    np.testing.assert_allclose(narrow[: WINDOW - 1], wide[: WINDOW - 1], atol=1e-9)
    assert np.abs(narrow - wide).max() > 0.01


def plain_model(folder: Path) -> CausalModel:
    return CausalModel(load_weights(folder, "float32", "cpu"))


class Recorder(TorchDispatchMode):
    """Names of the operations that make the host wait for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = function.overloadpacket.__name__
        if name in HOST_READS | HOST_WRITES:
            self.found.add(name)
        if function is torch.ops.aten.repeat_interleave.Tensor:
            self.found.add(name)
        if name.startswith(("index", "_index_put")) and isinstance(args[1], (list, tuple)):
            masks = [index for index in args[1] if index is not None]
            if any(index.dtype in (torch.bool, torch.uint8) for index in masks):
                self.found.add(f"{name} by a mask")
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", TYPES)
def test_a_batch_waits_for_nothing_but_what_is_known(tmp_path: Path, kind: str) -> None:
    model = plain_model(build(tmp_path, kind))
    ids = torch.arange(120).reshape(3, 40)
    model.verify(ids[0].tolist())
    batch = ids, torch.tensor([1, 2, 3, 50, 90]), torch.tensor([1, 2, 3, 4, 5])
    model.logprobs(*batch)  # what is made once and kept is made here
    known, _ = SYNCING.get(kind, (set(), ""))
    assert waits(model, batch) == known


def waits(model: CausalModel, batch: tuple[torch.Tensor, ...]) -> set[str]:
    with torch.inference_mode(), Recorder() as recorder:
        model.logprobs(*batch)
    return recorder.found


def test_recorder_sees_what_waits() -> None:
    values = torch.arange(4.0)
    for reads in (
        lambda: values.sum().item(),
        lambda: bool((values > 2).any()),
        lambda: values[values > 2],
        lambda: torch.nonzero(values),
        lambda: torch.unique(values),
        lambda: values.repeat_interleave(torch.tensor([1, 2, 3, 4])),
        lambda: torch.tensor([1.0, 2.0]),
    ):
        with Recorder() as recorder:
            reads()
        assert recorder.found
    with Recorder() as recorder:
        values[torch.arange(2)].repeat_interleave(2).softmax(0)
    assert not recorder.found


@pytest.mark.parametrize("kind", POSITIONS)
def test_positions_end_with_their_table(tmp_path: Path, kind: str) -> None:
    limit = 32
    model = plain_model(build(tmp_path, kind, **{POSITIONS[kind]: limit}))
    assert context_length(model.model.config.to_dict()) == limit
    generator = np.random.default_rng(3)
    lengths = [limit - 1, limit, limit + 1, 3 * limit]
    sequences = [generator.integers(0, 512, length).tolist() for length in lengths]
    tokens, _ = score_tokens(model, make_plan(sequences, limit), 1000)
    exact = exact_model(tmp_path)
    expected = [by_windows(exact, sequence, limit) for sequence in sequences]
    assert [len(values) for values in expected] == [length - 1 for length in lengths]
    np.testing.assert_allclose(tokens, np.concatenate(expected), atol=1e-4, rtol=0)


def by_windows(exact: Any, sequence: Sequence[int], limit: int) -> np.ndarray:
    """Every token but the first once: windows that overlap by one token, the last by more."""
    found: list[float] = []
    while len(found) < len(sequence) - 1:
        start = max(min(len(found), len(sequence) - limit), 0)
        values = token_logprobs(exact, sequence[start : start + limit])
        found += values[len(found) - start :].tolist()
    return np.array(found)


SPECIAL_TEXTS = [
    "A tag </s> closes what <s> opened, and <|endoftext|> ends a file.",
    "<s>At the very beginning, and at the end</s>",
    "<|endoftext|>At the very beginning, twice<|endoftext|><|endoftext|>",
    "</s></s> and <unk>",
]


@pytest.mark.parametrize(
    ("kind", "tokenizer", "bos", "others"),
    [("llama", "sentencepiece", 1, [2]), ("gpt2", "bytes", 0, [])],
)
def test_special_tokens_as_text(
    tmp_path: Path, kind: str, tokenizer: str, bos: int, others: list[int]
) -> None:
    settings = {"tokenizer_class": "LlamaTokenizer"} if tokenizer == "sentencepiece" else {}
    model = tiny_model(tmp_path / "model", kind, tokenizer=tokenizer, settings=settings)
    plain = ids_of(model, SPECIAL_TEXTS)
    for special in (bos, *others):
        assert sum(ids.count(special) for ids in plain) >= 2, "each is one token"
    once = [ids if ids[0] == bos else [bos, *ids] for ids in plain]
    template = [[bos, *ids] for ids in plain]
    default = scored(make_job(tmp_path / "a", model, SPECIAL_TEXTS))
    front = scored(make_job(tmp_path / "b", model, SPECIAL_TEXTS, prefix="bos"))
    expected = oracle(model, template if tokenizer == "sentencepiece" else plain)
    np.testing.assert_allclose(default.loglik, expected, atol=1e-3, rtol=0)
    np.testing.assert_allclose(front.loglik, oracle(model, once), atol=1e-3, rtol=0)
    assert front.n_scored.tolist() == [len(ids) - 1 for ids in once]
