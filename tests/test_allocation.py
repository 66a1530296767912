"""What scoring jobs ask for, for a table of models, and what changes it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from klmap import allocation, repository
from klmap.allocation import SHORTEST, SHORTEST_IN_GROUP, Request
from klmap.cards import Card
from klmap.config import Hardware
from klmap.estimates import Measured, Speed

TEXTS = 2.7e6
"""Tokens of the published 10,000 texts."""

MACHINE = Hardware(gpu_memory_gb=80, max_gpus=4)
ASSUMED = Speed(True)


def card_of(parameters: float, shard: float = math.inf, item: int = 2, **values: Any) -> Card:
    """A model in files of at most ``shard`` bytes."""
    size = int(parameters) * item
    sizes = [int(min(shard, size))] * max(1, math.ceil(size / min(shard, size)))
    files = [{"name": f"model-{n}.safetensors", "size": one} for n, one in enumerate(sizes)]
    known: dict[str, Any] = {"dtype": "float16", "files": files, **values}
    return Card(id="org/model", parameters=int(parameters), bytes=size, **known)


TABLE = {
    "pythia-14m": (card_of(14.1e6, item=4), "auto", ""),
    "pythia-160m": (card_of(162e6), "auto", ""),
    "pythia-410m": (card_of(405e6), "auto", ""),
    "pythia-1.4b": (card_of(1.41e9), "auto", ""),
    "gemma-3-4b": (card_of(4.3e9, 5e9), "auto", ""),
    "llama-2-7b": (card_of(6.74e9, 9.98e9), "auto", ""),
    "llama-2-7b, float32": (card_of(6.74e9, 9.98e9), "float32", ""),
    "llama-2-7b, int8": (card_of(6.74e9, 9.98e9), "auto", "int8"),
    "llama-2-13b": (card_of(13.0e9, 9.95e9), "auto", ""),
    "codellama-34b": (card_of(33.7e9, 9.9e9), "auto", ""),
    "llama-2-70b": (card_of(69.0e9, 9.9e9), "auto", ""),
    "llama-2-70b, nf4": (card_of(69.0e9, 9.9e9), "auto", "nf4"),
    "llama-2-70b, gptq": (
        card_of(69.0e9, 9.9e9, quantization="gptq-4bit"),
        "auto",
        "",
    ),
    "mixtral-8x7b": (card_of(46.7e9, 4.98e9, active_parameters=int(12.9e9)), "auto", ""),
    "mixtral-8x7b, int8": (card_of(46.7e9, 4.98e9, active_parameters=int(12.9e9)), "auto", "int8"),
    "qwen3-30b-a3b": (card_of(30.5e9, 4.0e9, active_parameters=int(3.3e9)), "auto", ""),
}

REQUESTS = {
    # GPUs, CPUs, MB, minutes, class
    "pythia-14m": Request(1, 4, 9000, 15, "tiny"),
    "pythia-160m": Request(1, 4, 9000, 15, "tiny"),
    "pythia-410m": Request(1, 4, 9000, 15, "small"),
    "pythia-1.4b": Request(1, 4, 12000, 15, "small"),
    "gemma-3-4b": Request(1, 4, 14000, 20),
    "llama-2-7b": Request(1, 4, 20000, 25),
    "llama-2-7b, float32": Request(1, 4, 20000, 80),
    "llama-2-7b, int8": Request(1, 4, 20000, 80),
    "llama-2-13b": Request(1, 4, 20000, 40),
    "codellama-34b": Request(2, 4, 20000, 55),
    "llama-2-70b": Request(3, 4, 20000, 75),
    "llama-2-70b, nf4": Request(1, 4, 20000, 385),
    "llama-2-70b, gptq": Request(3, 4, 174000, 75),
    "mixtral-8x7b": Request(2, 4, 14000, 30),
    "mixtral-8x7b, int8": Request(2, 4, 14000, 80),
    "qwen3-30b-a3b": Request(1, 4, 13000, 15),
}


def asked(card: Card | None, dtype: str = "auto", quantization: str = "", **values: Any) -> Request:
    known = {"tokens": TEXTS, "hardware": MACHINE, "speed": ASSUMED, **values}
    tokens, hardware, speed = (known.pop(key) for key in ("tokens", "hardware", "speed"))
    return allocation.request(card, dtype, quantization, tokens, hardware, speed, **known)


@pytest.mark.parametrize("name", TABLE)
def test_a_model_of_the_table_asks_for_this(name: str) -> None:
    assert asked(*TABLE[name]) == REQUESTS[name]


@pytest.mark.parametrize("name", TABLE)
def test_weights_and_a_batch_fit_the_gpus_that_are_asked_for(name: str) -> None:
    card, dtype, quantization = TABLE[name]
    weights = allocation.weights_in_memory(card, dtype, quantization)
    batch = allocation.activations(card, None)
    for memory in (16, 24, 40, 80, 141):
        hardware = replace_hardware(gpu_memory_gb=memory, max_gpus=64)
        gpus = asked(card, dtype, quantization, hardware=hardware).gpus
        assert weights <= 0.8 * gpus * memory * 1e9, "the scorer refuses more"
        assert gpus == 1 or weights > (gpus - 1) * memory * 1e9 / 2, "none is asked for in vain"
        if batch < memory * 1e9 / 4:
            assert weights / gpus + batch < memory * 1e9


def replace_hardware(**values: Any) -> Hardware:
    return Hardware(**{**MACHINE.model_dump(), **values})


def test_a_larger_batch_may_need_another_gpu() -> None:
    card = card_of(30e9)
    assert asked(card).gpus == 1
    assert asked(card, hardware=replace_hardware(batch_tokens=200_000)).gpus == 2


def test_each_attempt_asks_for_more_memory_and_time_and_for_nothing_else() -> None:
    first = asked(card_of(6.74e9))
    third = first.again(3)
    assert (third.memory, third.minutes) == (3 * first.memory, 3 * first.minutes)
    assert replace(third, memory=first.memory, minutes=first.minutes) == first
    assert first.again(1) == first


def test_time_grows_with_the_texts_and_shrinks_with_measured_speed() -> None:
    card = card_of(6.74e9)
    assert asked(card, tokens=10 * TEXTS).minutes > 5 * asked(card).minutes
    fast = Speed(True, (Measured(int(6.74e9), 6e14, 40.0, 1, False, "", 0),))
    slow = Speed(True, (Measured(int(6.74e9), 3e13, 40.0, 1, False, "", 0),))
    assert asked(card, speed=fast).minutes == SHORTEST
    assert asked(card, speed=slow).minutes > asked(card).minutes


def test_idle_experts_cost_memory_and_no_time() -> None:
    dense, mixture = card_of(30.5e9), card_of(30.5e9, active_parameters=int(3.3e9))
    assert asked(mixture).memory == asked(dense).memory
    assert asked(mixture).minutes < asked(dense).minutes


def test_a_machine_without_a_gpu_gets_no_request_for_one() -> None:
    cpu = replace_hardware(max_gpus=0)
    for card in (card_of(135e6), card_of(6.74e9), card_of(69e9)):
        found = asked(card, hardware=cpu, speed=Speed(False))
        assert (found.gpus, found.refusal) == (0, "")
        assert found.memory * 1e6 > card.parameters * 4, "float32 on a CPU"
    halves = asked(card_of(6.74e9), "bfloat16", hardware=cpu, speed=Speed(False))
    assert halves.memory < asked(card_of(6.74e9), hardware=cpu, speed=Speed(False)).memory


def test_demo_models_never_ask_for_a_gpu() -> None:
    for card in (None, card_of(1e6)):
        assert asked(card, demo=True) == Request(0, 1, 4000, SHORTEST, "cpu")


def test_a_model_that_only_gets_its_reason_written_down_asks_for_nothing() -> None:
    broken = card_of(6.74e9, error="gone")
    assert asked(broken, skip=True) == Request(0, 1, 4000, SHORTEST, "cpu")


def test_what_is_not_known_yet_is_shown_as_one_gpu() -> None:
    assert asked(None) == Request(1, 4, 32000, 120)
    assert asked(None, hardware=replace_hardware(max_gpus=0)).gpus == 0


def test_a_model_that_no_machine_holds_gets_no_gpu_and_a_reason() -> None:
    found = asked(card_of(405e9))
    assert (found.gpus, found.size) == (0, "cpu")
    for part in ("org/model", "810 GB", "13 GPUs of 80 GB", "raise max_gpus to 13", "int8 or nf4"):
        assert part in found.refusal


def test_members_of_a_group_ask_for_less_time_each_than_a_job_alone() -> None:
    tiny, large = card_of(14e6), card_of(6.74e9)
    assert asked(tiny, shared=["tiny"]).minutes == SHORTEST_IN_GROUP < asked(tiny).minutes
    assert asked(tiny, shared=["small", "cpu"]) == asked(tiny), "another class shares"
    assert asked(large, shared=["tiny"]) == asked(large), "a large one has an allocation of its own"


def test_a_small_model_that_needs_two_gpus_shares_no_allocation() -> None:
    found = asked(card_of(1.9e9), hardware=replace_hardware(gpu_memory_gb=4))
    assert (found.gpus, found.size) == (2, "")


def test_bitsandbytes_leaves_fused_experts_as_they_are() -> None:
    mixture = card_of(46.7e9, active_parameters=int(12.9e9))
    assert allocation.weights_in_memory(mixture, "auto", "int8") == 2 * mixture.parameters
    assert allocation.weights_in_memory(card_of(1e9), "auto", "int8") == pytest.approx(1.1e9)


MIXTURES = {
    "mixtral": (
        {
            "model_type": "mixtral",
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
        },
        46_702_792_704,
        12.88e9,
    ),
    "qwen3_moe": (
        {
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "moe_intermediate_size": 768,
            "num_hidden_layers": 48,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
        },
        30_532_122_624,
        3.35e9,
    ),
    "deepseek_v3": (
        {
            "n_routed_experts": 256,
            "num_experts_per_tok": 8,
            "hidden_size": 7168,
            "intermediate_size": 18432,
            "moe_intermediate_size": 2048,
            "num_hidden_layers": 61,
            "first_k_dense_replace": 3,
        },
        671_026_419_200,
        37.5e9,
    ),
}


@pytest.mark.parametrize("name", MIXTURES)
def test_active_parameters_are_those_that_the_authors_state(name: str) -> None:
    config, parameters, stated = MIXTURES[name]
    assert repository.active_parameters(config, parameters) == pytest.approx(stated, rel=0.01)
    nested = {"text_config": config}
    assert repository.active_parameters(nested, parameters) == pytest.approx(stated, rel=0.01)


def test_a_dense_model_or_keys_that_mean_something_else_give_no_active_parameters() -> None:
    config, parameters, _ = MIXTURES["mixtral"]
    assert repository.active_parameters({**config, "num_local_experts": 1}, parameters) is None
    assert repository.active_parameters({**config, "num_experts_per_tok": None}, parameters) is None
    assert repository.active_parameters(config, parameters // 4) is None, "experts beyond the whole"
    assert repository.active_parameters({}, parameters) is None
