"""Merges made here: averages to the bit, refusals that name what differs, and room on the disk."""

from __future__ import annotations

import logging
import runpy
import subprocess
import sys
import threading
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from klmap import cards, disk, fetch, merging, scorer_merge
from klmap.cards import Card
from klmap.errors import InputError, PermanentFailure
from klmap.files import read_json, write_json
from klmap.log import logger

ROOT = Path(__file__).parents[1]
TOKENS = {"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": [{"content": "<s>", "id": 2}]}
Tensors = Mapping[str, torch.Tensor]


@pytest.fixture
def told() -> Any:
    """Lines that were logged."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)


def card(id: str = "org/a", **values: Any) -> Card:
    return Card(**{
        "id": id, "commit": f"{hash(id):x}", "architecture": "LlamaForCausalLM",
        "model_type": "llama", "parameters": 1000, "bytes": 2000, "dtype": "bfloat16",
        "context": 512, "vocabulary": 3, "tokenizer_sha256": "t", "license": "mit",
        "files": [{"name": "model.safetensors", "size": 2000}], **values,
    })  # fmt: skip


def tensors(seed: int, dtype: torch.dtype = torch.float32, rows: int = 5) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    made = {
        name: torch.randn(*shape, generator=generator).to(dtype)
        for name, shape in {"embed": (rows, 4), "norm": (4,), "head": (rows, 4)}.items()
    }
    return {**made, "scale": torch.randn((), generator=generator).to(dtype)}


def folder(
    path: Path, stored: Tensors, *, pickled: bool = False, shards: int = 1, **config: Any
) -> Path:
    """A Hugging Face folder with some tensors."""
    path.mkdir(parents=True)
    write_json(path / "config.json", {"model_type": "llama", "dtype": "float32", **config})
    write_json(path / "tokenizer.json", TOKENS)
    names = sorted(stored)
    stem, ending = ("pytorch_model", "bin") if pickled else ("model", "safetensors")
    for number in range(shards):
        part = {name: stored[name] for name in names[number::shards]}
        several = f"-{number + 1:05d}-of-{shards:05d}" if shards > 1 else ""
        file = path / f"{stem}{several}.{ending}"
        if pickled:
            torch.save(part, file)
        else:
            save_file(part, file)
    if shards > 1:
        write_json(path / f"{stem}.{ending}.index.json", {"weight_map": {}})
    return path


def merged(
    tmp_path: Path, parents: list[Path], weights: list[float], **values: Any
) -> dict[str, torch.Tensor]:
    out = tmp_path / "models" / "merge--m" / "weights"
    scorer_merge.merge(Card("merge/m"), parents, weights, out, **values)
    files = sorted(out.glob("*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def exact(parents: list[Tensors], weights: list[float]) -> dict[str, torch.Tensor]:
    return {
        name: sum(
            (p[name].double() * w for p, w in zip(parents, weights, strict=True)),
            torch.zeros((), dtype=torch.float64),
        )
        for name in parents[0]
    }


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("weights", [[0.5, 0.5], [0.3, 0.7], [-0.5, 1.5], [0.2, 0.3, 0.5]])
def test_a_merge_is_the_exact_mean_rounded_once(tmp_path, dtype, weights):
    made = [tensors(seed, dtype) for seed in range(len(weights))]
    parents = [folder(tmp_path / str(n), stored) for n, stored in enumerate(made)]
    found = merged(tmp_path, parents, weights)
    for name, mean in exact(made, weights).items():
        assert found[name].dtype == dtype
        assert found[name].shape == made[0][name].shape
        if dtype == torch.float32:
            assert torch.equal(found[name], mean.to(dtype)), name
        else:
            assert torch.allclose(found[name].double(), mean, rtol=torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_weights_one_and_zero_give_the_parent_to_the_bit(tmp_path, dtype):
    made = [tensors(1, dtype), tensors(2, dtype)]
    made[0]["norm"][0] = -0.0
    made[0]["norm"][1] = float("nan")
    made[1]["norm"][2] = float("inf")
    parents = [folder(tmp_path / "a", made[0]), folder(tmp_path / "b", made[1])]
    found = merged(tmp_path, parents, [1.0, 0.0])
    for name, tensor in made[0].items():
        bits = [item.reshape(-1).view(torch.uint8) for item in (found[name], tensor)]
        assert torch.equal(*bits), name


def test_parts_and_shards_change_no_number(tmp_path, monkeypatch):
    made = [tensors(1, rows=50), tensors(2, rows=50)]
    parents = [folder(tmp_path / "a", made[0]), folder(tmp_path / "b", made[1], shards=3)]
    whole = merged(tmp_path, parents, [0.3, 0.7])
    monkeypatch.setattr(scorer_merge, "CHUNK", 12)
    monkeypatch.setattr(scorer_merge, "SHARD", 810)
    parts = merged(tmp_path, parents, [0.3, 0.7])
    assert {name: value.tolist() for name, value in parts.items()} == {
        name: value.tolist() for name, value in whole.items()
    }
    out = tmp_path / "models/merge--m/weights"
    files = sorted(path.name for path in out.glob("*.safetensors"))
    assert files == [f"model-{n:05d}-of-00003.safetensors" for n in (1, 2, 3)]
    index = read_json(out / "model.safetensors.index.json")
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in made[0].values())
    for name, file in index["weight_map"].items():
        assert name in load_file(out / file)


def test_pickled_and_sharded_parents_are_read_too(tmp_path):
    made = [tensors(1), tensors(2), tensors(3)]
    parents = [
        folder(tmp_path / "a", made[0], pickled=True),
        folder(tmp_path / "b", made[1], pickled=True, shards=2),
        folder(tmp_path / "c", made[2], shards=2),
    ]
    found = merged(tmp_path, parents, [0.25, 0.25, 0.5])
    for name, mean in exact(made, [0.25, 0.25, 0.5]).items():
        assert torch.equal(found[name], mean.float())


def test_a_merge_of_the_demo_is_a_model_that_transformers_loads(tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=1, tie_word_embeddings=True,
    )  # fmt: skip
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        model.save_pretrained(tmp_path / str(seed))
        write_json(tmp_path / str(seed) / "tokenizer.json", TOKENS)
        states.append(model.state_dict())
    merged(tmp_path, [tmp_path / "1", tmp_path / "2"], [0.5, 0.5])
    out = tmp_path / "models/merge--m/weights"
    found, info = LlamaForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    for name, tensor in found.state_dict().items():
        assert torch.equal(tensor, (states[0][name] + states[1][name]) / 2), name


def test_what_is_no_weight_comes_from_the_first_parent_as_copies(tmp_path):
    first = folder(tmp_path / "a", tensors(1))
    (first / "real.model").write_text("vocabulary")
    (first / "tokenizer.model").symlink_to(first / "real.model")
    (first / ".snakemake_timestamp").touch()
    second = folder(tmp_path / "b", tensors(2), rope_theta=5)
    merged(tmp_path, [first, second], [0.5, 0.5])
    out = tmp_path / "models/merge--m/weights"
    assert (out / "config.json").read_bytes() == (first / "config.json").read_bytes()
    assert (out / "tokenizer.model").read_text() == "vocabulary"
    assert not (out / "tokenizer.model").is_symlink()
    assert not (out / ".snakemake_timestamp").exists()
    assert sorted(path.name for path in out.parent.iterdir()) == ["weights"]


def test_settings_that_differ_are_told(tmp_path, told):
    parents = [
        folder(tmp_path / "a", tensors(1), rope_theta=1e4, transformers_version="4"),
        folder(tmp_path / "b", tensors(2), rope_theta=1e6, transformers_version="5"),
    ]
    merged(tmp_path, parents, [0.5, 0.5])
    differing = [line for line in told if "differs in config.json" in line]
    assert len(differing) == 1
    assert "rope_theta" in differing[0]


def test_tied_weights_that_one_parent_stores_twice_are_merged_once_or_as_they_are_used(tmp_path):
    once = {name: t for name, t in tensors(1).items() if name != "head"}
    twice = tensors(2)
    twice["head"] = twice["embed"].clone()
    a, b = folder(tmp_path / "a", once), folder(tmp_path / "b", twice)
    found = merged(tmp_path, [a, b], [0.25, 0.75])
    assert sorted(found) == sorted(once)
    found = merged(tmp_path, [b, a], [0.75, 0.25])
    assert torch.equal(found["head"], found["embed"])
    assert torch.equal(
        found["head"], (twice["embed"].double() * 0.75 + once["embed"].double() * 0.25).float()
    )


@pytest.mark.parametrize("pickled", [False, True])
def test_a_tied_twin_is_looked_for_part_by_part(tmp_path, monkeypatch, pickled):
    once = {name: t for name, t in tensors(1, rows=50).items() if name != "head"}
    twice = tensors(2, rows=50)
    twice["head"] = twice["embed"].clone()
    # Equal to the head in all parts but the last, and before the twin by name.
    once["down"], twice["down"] = once["embed"].clone(), twice["head"].clone()
    twice["down"][-1, -1] += 1
    a, b = folder(tmp_path / "a", once), folder(tmp_path / "b", twice, pickled=pickled)
    sizes, read = [], scorer_merge._Stored.read

    def watched(stored: Any, rows: slice) -> torch.Tensor:
        part = read(stored, rows)
        sizes.append(part.numel())
        return part

    monkeypatch.setattr(scorer_merge, "CHUNK", 12)
    monkeypatch.setattr(scorer_merge._Stored, "read", watched)
    found = merged(tmp_path, [b, a], [0.75, 0.25])
    assert torch.equal(found["head"], found["embed"])
    assert not torch.equal(found["head"], found["down"])
    assert max(sizes) <= 12


def test_masks_that_one_parent_lacks_are_left_out_and_others_are_the_first_ones(tmp_path, told):
    mask, other = torch.ones(1, 1, 3, 3).bool().tril(), torch.ones(1, 1, 3, 3).bool()
    a, b = tensors(1), tensors(2)
    a |= {"h.0.attn.bias": mask, "h.0.rotary_emb.inv_freq": torch.ones(2), "kind": torch.arange(3)}
    b |= {"h.0.attn.masked_bias": torch.tensor(-1e4), "kind": torch.arange(3) + 1}
    parents = [folder(tmp_path / "a", a), folder(tmp_path / "b", b)]
    found = merged(tmp_path, parents, [0.5, 0.5])
    assert set(found) == {"embed", "norm", "head", "scale", "kind"}
    assert found["kind"].tolist() == [0, 1, 2]
    assert any("kind differs between the parents" in line for line in told)
    told.clear()
    b["h.0.attn.bias"] = other
    found = merged(tmp_path, [parents[0], folder(tmp_path / "c", b)], [0.5, 0.5])
    assert torch.equal(found["h.0.attn.bias"], mask)
    b["h.0.attn.bias"] = other.float()
    found = merged(tmp_path, [parents[0], folder(tmp_path / "d", b)], [0.5, 0.5])
    assert "h.0.attn.bias" not in found


def test_parents_of_two_formats_give_the_wider_one_and_say_so(tmp_path):
    a, b = tensors(1, torch.bfloat16), tensors(2, torch.float16)
    parents = [folder(tmp_path / "a", a, dtype="bfloat16"), folder(tmp_path / "b", b)]
    found = merged(tmp_path, parents, [0.5, 0.5])
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}
    assert read_json(tmp_path / "models/merge--m/weights/config.json")["dtype"] == "float32"
    made = merging.merge_card("merge/m", [card(), card("org/b", dtype="float16")], [0.5, 0.5])
    assert (made.dtype, made.bytes) == ("float32", 4000)


def changed(name: str, value: torch.Tensor | None) -> Callable[[dict[str, Any]], None]:
    def change(stored: dict[str, Any]) -> None:
        stored.pop(name, None)
        if value is not None:
            stored[name] = value

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (changed("embed", torch.zeros(6, 4)), r"embed has the shape \[5, 4\] \(F32\).*\[6, 4\]"),
        (changed("norm", torch.zeros(4).int()), r"norm has the shape .*F32.*I32"),
        (changed("norm", None), "norm is in .*a and not in .*b"),
        (changed("adapter", torch.zeros(4)), "adapter is in .*b and not in .*a"),
        (changed("norm", torch.zeros(4).to(torch.float8_e4m3fn)), "norm in .* stored as F8_E4M3"),
    ],
)
@pytest.mark.parametrize("pickled", [False, True])
def test_tensors_that_do_not_fit_are_named_and_nothing_is_left(tmp_path, change, words, pickled):
    stored = tensors(2)
    change(stored)
    if pickled:
        words = words.replace("stored as F8_E4M3", "stored as an unusual format")
    parents = [folder(tmp_path / "a", tensors(1)), folder(tmp_path / "b", stored, pickled=pickled)]
    with pytest.raises(PermanentFailure, match=words):
        merged(tmp_path, parents, [0.5, 0.5])
    assert not list((tmp_path / "models").rglob("*"))


def test_damaged_files_are_named(tmp_path):
    a, b = folder(tmp_path / "a", tensors(1)), folder(tmp_path / "b", tensors(2))
    (b / "model.safetensors").write_bytes(b"\0" * 20)
    with pytest.raises(PermanentFailure, match=r"b/model\.safetensors: not a complete"):
        merged(tmp_path, [a, b], [0.5, 0.5])
    (b / "model.safetensors").rename(b / "pytorch_model.bin")
    with pytest.raises(PermanentFailure, match=r"b/pytorch_model\.bin: cannot be read"):
        merged(tmp_path, [a, b], [0.5, 0.5])


def test_tokens_with_other_numbers_are_refused_and_further_ones_are_not(tmp_path):
    a, b = folder(tmp_path / "a", tensors(1)), folder(tmp_path / "b", tensors(2))
    further = {**TOKENS, "added_tokens": [{"content": "<chat>", "id": 3}], "version": "2"}
    write_json(b / "tokenizer.json", further)
    merged(tmp_path, [a, b], [0.5, 0.5])
    write_json(b / "tokenizer.json", {"model": {"vocab": [["b", -1.0], ["a", -2.0]]}})
    with pytest.raises(PermanentFailure, match=r"2 tokens have other numbers in .*b than in .*a"):
        merged(tmp_path, [a, b], [0.5, 0.5])


def test_a_parent_without_weights_leaves_its_reason(tmp_path):
    a, b = folder(tmp_path / "a", tensors(1)), tmp_path / "b"
    fetch.explain(b, "gated: no access")
    merged(tmp_path, [a, b], [0.5, 0.5])
    reason = fetch.failure_in(tmp_path / "models/merge--m/weights")
    assert reason == "merge/m: cannot be made: gated: no access"
    out = tmp_path / "out"
    scorer_merge.merge(Card("merge/m", error="unlike"), [a, a], [0.5, 0.5], out)
    assert fetch.failure_in(out) == "unlike"


def test_weights_must_sum_to_one(tmp_path):
    with pytest.raises(InputError, match=r"the weights 0\.5, 0\.6 sum to 1\.1"):
        merging.merge_card("merge/m", [card(), card("org/b")], [0.5, 0.6])
    with pytest.raises(InputError, match="3 weights for 2 parents"):
        merged(tmp_path, [tmp_path, tmp_path], [0.2, 0.3, 0.5])
    merging.check_weights([1 / 3, 1 / 3, 1 / 3], 3)


def test_the_card_of_a_merge_follows_from_those_of_its_parents():
    first = card("org/a", revision="step5", commit="1" * 40)
    second = card("org/b", commit="2" * 40, license="apache-2.0", tokenizer_sha256="other")
    found = merging.merge_card("merge/m-0.75-0.25", [first, second], [0.75, 0.25])
    assert found.base_model == ["org/a@step5", "org/b"]
    assert found.relation == "merge"
    assert found.revision is None
    assert found.license is None
    assert found.tokenizer_sha256 == "t"
    assert (found.parameters, found.bytes, found.dtype) == (1000, 2000, "bfloat16")
    assert len(found.commit) == 40
    assert int(found.commit, 16)
    same = merging.merge_card("merge/other-name", [first, replace(second)], [0.75, 0.25])
    assert same.commit == found.commit
    others = [
        merging.merge_card("merge/m", parents, weights).commit
        for parents, weights in (
            ([second, first], [0.75, 0.25]),
            ([first, second], [0.25, 0.75]),
            ([first, replace(second, commit="3" * 40)], [0.75, 0.25]),
        )
    ]
    assert len({found.commit, *others}) == 4


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"architecture": "GPT2LMHeadModel"}, r"architecture differs \(Llama.* and GPT2"),
        ({"model_type": "mistral"}, r"model type differs \(llama and mistral\)"),
        ({"vocabulary": 4}, r"vocabulary differs \(3 and 4\)"),
        ({"parameters": 2000}, r"number of parameters differs \(1,000 and 2,000\)"),
        ({"quantization": "gptq-4bit"}, "org/b are stored as gptq-4bit"),
        ({"dtype": "float8_e4m3"}, "org/b are stored as float8_e4m3"),
        ({"error": "org/b: gone", "state": "gone"}, "org/b cannot be used: org/b: gone"),
    ],
)
def test_parents_that_cannot_be_averaged_are_refused_or_explained(values, words):
    parents = [card(), card("org/b", **values)]
    with pytest.raises(PermanentFailure, match=words) as refused:
        merging.merge_card("merge/m", parents, [0.5, 0.5])
    assert refused.value.state == values.get("state", "unusable")
    found = merging.merge_card_or_explain("merge/m", parents, [0.5, 0.5])
    assert found.error == str(refused.value)
    assert found.base_model == ["org/a", "org/b"]


def test_stored_masks_and_estimates_are_no_other_size():
    parents = [card(), card("org/b", parameters=1400)]
    merging.merge_card("merge/m", parents, [0.5, 0.5])
    parents[1] = card("org/b", parameters=5000, files=[{"name": "pytorch_model.bin", "size": 1}])
    merging.merge_card("merge/m", parents, [0.5, 0.5])


def test_the_scripts_write_card_and_weights_or_a_reason(tmp_path, monkeypatch):
    def run(script: str, *arguments: Any) -> int:
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        try:
            runpy.run_path(str(ROOT / "scripts" / script), run_name="__main__")
        except SystemExit as ended:
            return int(ended.code or 0)
        return 0

    for name in "abc":
        write_json(tmp_path / f"{name}.json", {"id": name, "dtype": "float32", "model_type": name})
    cards.write_card(tmp_path / "b.json", Card("b", dtype="float32", model_type="a"))
    common = ("--id", "merge/m-0.5-0.5", "--weights", 0.5, 0.5)
    made = tmp_path / "merge--m" / "card.json"
    pair = (tmp_path / "a.json", tmp_path / "b.json")
    assert run("merge_card.py", *common, "--cards", *pair, "--card", made) == 0
    unlike = (*common, "--cards", tmp_path / "a.json", tmp_path / "c.json", "--card")
    assert run("merge_card.py", *unlike, tmp_path / "no.json") == 3
    assert run("merge_card.py", *unlike, made, "--on-failure", "skip") == 0
    assert "model type differs" in cards.read_card(made).error
    cards.write_card(made, merging.merge_card("m", [cards.read_card(p) for p in pair], [0.5, 0.5]))
    a, b = (folder(tmp_path / name, tensors(1, rows=rows)) for name, rows in (("a", 5), ("b", 6)))
    weighed = ("--card", made, "--weights", 0.5, 0.5, "--budget-gb", 1)
    out = made.parent / "weights"
    assert run("merge.py", *weighed, "--parents", a, a, "--out", out) == 0
    assert torch.equal(load_file(out / "model.safetensors")["embed"], tensors(1)["embed"])
    asked = ("--parents", a, b, "--out", out)
    assert run("merge.py", *weighed, *asked) == 3
    assert run("merge.py", *weighed, *asked, "--on-failure", "skip") == 0
    assert "embed has the shape" in str(fetch.failure_in(out))


MB = 10**6


@pytest.fixture
def stocked(tmp_path, monkeypatch):
    """Two parents of 2 MB below models/, and another model of 3 MB."""
    monkeypatch.setattr(disk, "POLL", 0.02)
    monkeypatch.setattr(disk, "SETTLE", 0.05)
    monkeypatch.chdir(tmp_path)
    models = tmp_path / "models"
    stored = {"w": torch.zeros(500, 1000)}
    parents = [folder(models / name / "weights", stored) for name in ("a", "b")]
    folder(models / "c" / "weights", {"w": torch.zeros(750, 1000)})
    return models, parents


def test_a_merge_that_never_fits_is_refused_with_the_numbers(tmp_path, stocked):
    models, parents = stocked
    with pytest.raises(
        PermanentFailure, match=r"parents take 4\.0 MB and it takes 2\.0 MB.*5\.0 MB"
    ):
        merged(tmp_path, parents, [0.5, 0.5], budget=disk.Budget(models, 5 * MB))
    assert not (models / "merge--m" / "weights").exists()


def test_a_merge_waits_for_room_but_not_for_ever(tmp_path, stocked, monkeypatch):
    models, parents = stocked
    monkeypatch.setattr(disk, "PATIENCE", 0.6)
    # 9 MB are needed at one time, and nothing would ever make room but the merge itself.
    begin = time.monotonic()
    merged(tmp_path, parents, [0.5, 0.5], budget=disk.Budget(models, 7 * MB, grace=0.05))
    assert time.monotonic() - begin >= 0.6
    assert all((path / "model.safetensors").exists() for path in parents), "nobody gave them up"


def test_a_merge_takes_room_as_soon_as_there_is_some_and_before_any_fetch(stocked):
    models, _ = stocked
    budget = disk.Budget(models, 9 * MB)
    order = []

    def take(source: str, place: int, patience: float | None) -> None:
        with budget.room(source, MB * 3, 1, place, patience):
            order.append(source)
            (models / source / "weights").mkdir(parents=True)
            (models / source / "weights" / "w").write_bytes(bytes(3 * MB))

    fetching = threading.Thread(target=take, args=("first", 0, None), daemon=True)
    fetching.start()
    time.sleep(0.3)
    merging_ = threading.Thread(target=take, args=("merge", 9, 60.0), daemon=True)
    merging_.start()
    time.sleep(0.3)
    assert order == []
    disk.remove(models / "c" / "weights")
    merging_.join(5)
    assert order == ["merge"]
    assert fetching.is_alive()
    disk.remove(models / "a" / "weights")
    disk.remove(models / "b" / "weights")
    fetching.join(5)
    assert order == ["merge", "first"]


def test_a_merge_that_waits_is_at_work(stocked):
    """So no fetch takes it for a standstill, and removes the weights of its parents."""
    models, _ = stocked
    notes = Path(".snakemake/incomplete")
    notes.mkdir(parents=True)
    Path(".snakemake/locks").mkdir()
    Path(".snakemake/locks/0.input.lock").touch()
    noted = {}
    for source in ("merge", "fetch"):
        output = f"{models}/{source}/weights".encode()
        noted[source] = notes / urlsafe_b64encode(output).decode()
        noted[source].touch()
    budget = disk.Budget(models, 8 * MB, grace=0.1)

    def take(source: str, place: int, patience: float | None) -> None:
        with budget.room(source, 2 * MB, 1, place, patience):
            pass

    threads = [
        threading.Thread(target=take, args=arguments, daemon=True)
        for arguments in (("merge", 9, 1.0), ("fetch", 0, None))
    ]
    for thread in threads:
        thread.start()
    threads[0].join(5)
    assert all((models / name / "weights").exists() for name in "abc")
    noted["merge"].unlink()
    threads[1].join(5)
    assert not all((models / name / "weights").exists() for name in "abc"), "now all stood still"


def test_what_a_killed_merge_left_is_removed(tmp_path, stocked):
    models, parents = stocked
    left = models / "merge--m" / ".weights.local.elsewhere.1.tmp"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    merged(tmp_path, parents, [0.5, 0.5], budget=disk.Budget(models, 20 * MB))
    assert sorted(path.name for path in left.parent.iterdir()) == ["weights"]


def test_memory_does_not_grow_with_the_models(tmp_path):
    """Once 33 MB of weights and then 270 MB, in one process: the peak is the same."""
    pairs = []
    for count in (2, 16):
        stored = {f"w{n}": torch.zeros(1024, 4096) for n in range(count)}
        path = tmp_path / str(count)
        pairs.append((folder(path / "a", stored), folder(path / "b", stored, pickled=True)))
    program = f"""
from pathlib import Path
from klmap import scorer_merge
from klmap.cards import Card
for number, (a, b) in enumerate({[tuple(map(str, pair)) for pair in pairs]}):
    out = Path({str(tmp_path)!r}, f"out{{number}}")
    scorer_merge.merge(Card("m"), [Path(a), Path(b)], [0.5, 0.5], out)
    print(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True,
        env={"PYTHONPATH": str(ROOT / "scripts"), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    small, large = (int(line) / 1024 for line in done.stdout.split())
    assert large - small < 50, (small, large)
    assert large < 700, (small, large)
