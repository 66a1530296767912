"""What only a GPU can show; skipped where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from klmap import scorer_run
from klmap.scorer_precision import Loading, load, prepare
from klmap.scorer_run import make_plan, score_tokens, text_sums
from tests.builders import sample_texts, tiny_model
from tests.oracle import ids_of

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

KINDS = ["llama", "gpt2", "gpt_neox", "opt", "qwen2", "mistral", "gemma2", "mixtral", "mamba"]


@pytest.fixture(autouse=True)
def _prepared() -> Iterator[None]:
    prepare("cuda", 1)
    yield
    torch.cuda.set_sync_debug_mode("default")


def logliks(folder: Path, device: str, dtype: str, sequences: list[list[int]]) -> Any:
    model, _ = load(Loading(folder, device, sequences, 256), dtype)
    plan = make_plan(sequences, 256)
    return text_sums(score_tokens(model, plan, 1000)[0], plan.offset)


@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_cpu(tmp_path: Path, kind: str) -> None:
    folder = tiny_model(tmp_path, kind)
    sequences = ids_of(folder, [text for text, _ in sample_texts(9)])
    expected = logliks(folder, "cpu", "float32", sequences)
    np.testing.assert_allclose(
        logliks(folder, "cuda", "float32", sequences), expected, atol=1e-2, rtol=0
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_nothing_waits_for_the_gpu(
    tmp_path: Path, kind: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_model(tmp_path, kind, spread=0.05)
    sequences = ids_of(folder, [text for text, _ in sample_texts(9)])
    model = Loading(folder, "cuda", sequences, 256).load(dtype)
    plan = make_plan(sequences, 256)
    score_tokens(model, plan, 1000)  # what is set up once may wait
    original = scorer_run._logprobs

    def guarded(*arguments: Any) -> torch.Tensor:
        torch.cuda.set_sync_debug_mode("error")
        try:
            return original(*arguments)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(scorer_run, "_logprobs", guarded)
    score_tokens(model, plan, 1000)


def test_out_of_memory_halves_the_budget(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path, "llama", vocabulary=512, vocab_size=200_000)
    sequences = [[7] * 200 for _ in range(64)]
    model = Loading(folder, "cuda", sequences, 256).load("float32")
    plan = make_plan(sequences, 256)
    expected, _ = score_tokens(model, plan, 200)
    free, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction(
        (torch.cuda.memory_reserved() + 2**27) / total if free > 2**28 else 1.0
    )
    try:
        found, budget = score_tokens(model, plan, 64 * 200)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert budget < 64 * 200


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_equal_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_model(tmp_path, "llama", num_hidden_layers=6)
    sequences = ids_of(folder, [text for text, _ in sample_texts(9)])
    expected = logliks(folder, "cuda", "float32", sequences)
    both = {"device_map": "balanced", "max_memory": {0: 2**18, 1: 2**30}}
    monkeypatch.setattr("klmap.scorer_stages.loading_arguments", lambda *_: both)
    np.testing.assert_allclose(
        logliks(folder, "cuda", "float32", sequences), expected, atol=1e-3, rtol=0
    )
