"""The sketch of weights keeps distances, and depends on the weights alone."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from klmap import scorer, scorer_sketch, store_score
from klmap.arrays import Floats
from tests.builders import sample_texts, tiny_model
from tests.oracle import make_job, scored

SIZE = scorer_sketch.SIZE
SHAPES = {
    "model.embed_tokens.weight": (300, 64),
    "model.layers.0.attn.weight": (4096, 128),  # a stride that the buckets meet again and again
    "model.layers.0.attn.bias": (128,),
    "model.norm.weight": (64,),
    "lm_head.weight": (300, 64),
}


def weights(seed: int = 0, scale: float = 1.0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: scale * torch.randn(shape, generator=generator, dtype=torch.float32)
        for name, shape in SHAPES.items()
    }


def stored(folder: Path, tensors: dict[str, torch.Tensor], form: str = "one") -> Path:
    """The tensors in the files of a Hugging Face folder."""
    folder.mkdir()
    names = sorted(tensors)
    if form == "one":
        save_file(tensors, folder / "model.safetensors")
    elif form == "sharded":
        parts = {f"model-0000{n}-of-00002.safetensors": names[n - 1 :: 2] for n in (1, 2)}
        for file, part in parts.items():
            save_file({name: tensors[name] for name in part}, folder / file)
        places = {name: file for file, part in parts.items() for name in part}
        index = folder / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": places}))
    else:
        old = form == "old"
        state = {name: torch.nn.Parameter(tensors[name]) for name in reversed(names)}
        if tensors["lm_head.weight"] is tensors["model.embed_tokens.weight"]:
            state["lm_head.weight"] = state["model.embed_tokens.weight"]
        torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=not old)
    return folder


def sketch(folder: Path) -> scorer_sketch.Sketch:
    found = scorer_sketch.sketch_folder(folder)
    assert found is not None
    return found


def projected(tensors: dict[str, torch.Tensor]) -> Floats:
    return np.sum([scorer_sketch.project(n, t)[0] for n, t in sorted(tensors.items())], axis=0)


def test_buckets_are_a_prime_number() -> None:
    assert all(SIZE % divisor for divisor in range(2, math.isqrt(SIZE) + 1))


def test_the_projection_is_a_sum_with_signs() -> None:
    """Written out for one tensor: each weight counts once, with a sign, in one bucket."""
    base = torch.zeros(3, 5)
    columns = []
    for place in range(15):
        base.zero_().view(-1)[place] = 1.0
        columns.append(scorer_sketch.project("w", base)[0])
    for place, column in enumerate(columns):
        (bucket,) = np.nonzero(column)
        assert len(bucket) == 1
        assert abs(column[bucket[0]]) == 1
        assert bucket[0] == (np.nonzero(columns[0])[0][0] + place) % SIZE
    values = torch.randn(3, 5, dtype=torch.float64)
    together = sum(v * c for v, c in zip(values.view(-1).numpy(), columns, strict=True))
    np.testing.assert_allclose(scorer_sketch.project("w", values)[0], together, atol=1e-12)


def test_signs_are_those_of_every_machine() -> None:
    """Numbers that were computed once: another sign would make old sketches useless."""
    found = scorer_sketch.project("model.norm.weight", torch.arange(1.0, 21.0))[0]
    (buckets,) = np.nonzero(found)
    assert buckets.tolist() == list(range(3442, 3462))
    signs = "".join("-" if value < 0 else "+" for value in found[buckets])
    assert signs == "-+-+++---++----+++-+"
    np.testing.assert_array_equal(abs(found[buckets]), np.arange(1.0, 21.0))


def test_squared_distances_are_kept_within_four_standard_deviations() -> None:
    first = weights(0)
    for seed, scale in ((1, 1.0), (2, 0.01), (3, 1e-4)):
        moved = {n: first[n] + change for n, change in weights(seed, scale).items()}
        exact = sum(float(((moved[n] - first[n]).double() ** 2).sum()) for n in first)
        found = float(((projected(moved) - projected(first)) ** 2).sum())
        assert abs(found / exact - 1) < 4 * math.sqrt(2 / SIZE)


@pytest.mark.parametrize("where", ["row", "column", "diagonal"])
def test_a_few_large_weights_in_line_are_spread_over_the_buckets(where: str) -> None:
    tensor = torch.zeros(4096, 4096)
    lines = {"row": tensor[7], "column": tensor[:, 7], "diagonal": tensor.diagonal()}
    lines[where].fill_(1.0)
    found = scorer_sketch.project("w", tensor)[0]
    # 4,096 weights in 4,093 buckets: three buckets hold two.
    assert abs(float((found**2).sum()) / 4096 - 1) < 0.01


def test_squared_lengths_are_right_in_the_mean_over_signs() -> None:
    tensor = torch.zeros(40, SIZE)
    tensor[:, 5] = torch.linspace(1, 3, 40)  # the worst case: all in one bucket
    exact = float((tensor**2).sum())
    found = [
        float((scorer_sketch.project(f"w{seed}", tensor)[0] ** 2).sum()) / exact
        for seed in range(400)
    ]
    assert abs(np.mean(found) - 1) < 4 * np.std(found) / math.sqrt(len(found))
    # Almost that of one squared normal number, as the docstring's formula has it.
    assert np.var(found) == pytest.approx(
        2 - 2 * float((tensor**4).sum()) / exact**2, rel=0.35
    )  # fmt: skip


def test_sketches_are_linear() -> None:
    first, second = weights(0), weights(1)
    difference = {n: first[n].double() - second[n].double() for n in first}
    np.testing.assert_allclose(
        projected(first) - projected(second), projected(difference), atol=1e-9
    )


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = weights()["model.layers.0.attn.weight"]
    whole = scorer_sketch.project("w", tensor)[0]
    monkeypatch.setattr(scorer_sketch, "_BLOCK", SIZE * 64)
    np.testing.assert_allclose(scorer_sketch.project("w", tensor)[0], whole, atol=1e-9)


@pytest.mark.parametrize("form", ["sharded", "bin", "old"])
def test_storage_changes_nothing(tmp_path: Path, form: str) -> None:
    one = sketch(stored(tmp_path / "one", weights()))
    other = sketch(stored(tmp_path / form, weights(), form))
    np.testing.assert_array_equal(one.values, other.values)
    assert one.described == other.described
    assert one.parameters == sum(math.prod(shape) for shape in SHAPES.values())
    exact = math.sqrt(sum(float((t.double() ** 2).sum()) for t in weights().values()))
    assert one.norm == pytest.approx(exact, rel=1e-12)


def test_tied_embeddings_count_once(tmp_path: Path) -> None:
    tensors = weights()
    del tensors["lm_head.weight"]
    alone = sketch(stored(tmp_path / "alone", tensors))
    embedding = tensors["model.embed_tokens.weight"]
    copied = sketch(stored(tmp_path / "copied", tensors | {"lm_head.weight": embedding.clone()}))
    shared = sketch(stored(tmp_path / "shared", tensors | {"lm_head.weight": embedding}, "bin"))
    for found in (copied, shared):
        np.testing.assert_array_equal(found.values, alone.values)
        assert found.described == alone.described


def test_equal_layers_count_each(tmp_path: Path) -> None:
    """At step 0 all norms are ones: that makes them no two names of one tensor."""
    tensors = weights() | {f"model.layers.{n}.norm.weight": torch.ones(64) for n in range(3)}
    found = sketch(stored(tmp_path / "x", tensors))
    assert found.parameters == sum(tensor.numel() for tensor in tensors.values())


def test_what_is_no_weight_is_left_out(tmp_path: Path) -> None:
    more = {
        "model.layers.0.attn.masked_bias": torch.tensor(-1e9),
        "model.layers.0.rotary_emb.inv_freq": torch.ones(16),
        "h.0.attn.bias": torch.ones(1, 1, 8, 8),
        "model.layers.0.mask": torch.ones(4, dtype=torch.bool),
        "position_ids": torch.arange(5),
    }
    plain = sketch(stored(tmp_path / "plain", weights()))
    with_more = sketch(stored(tmp_path / "more", weights() | more))
    np.testing.assert_array_equal(plain.values, with_more.values)
    assert plain.described == with_more.described


def test_other_shapes_have_another_layout(tmp_path: Path) -> None:
    first = sketch(stored(tmp_path / "first", weights()))
    again = sketch(stored(tmp_path / "again", weights(7)))
    other = sketch(stored(tmp_path / "other", weights() | {"extra.weight": torch.ones(3)}))
    assert first.layout == again.layout != other.layout


def test_half_precision_is_read_as_it_is_stored(tmp_path: Path) -> None:
    halves = {name: tensor.bfloat16() for name, tensor in weights().items()}
    found = sketch(stored(tmp_path / "x", halves))
    assert found.dtype == "bfloat16"
    np.testing.assert_allclose(
        found.values, projected({n: t.double() for n, t in halves.items()}), atol=1e-9
    )


@pytest.mark.parametrize("content", ["damaged", "nan", "nothing"])
def test_files_without_weights_to_sketch_are_told_and_cost_no_score(
    tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "x"
    if content == "damaged":
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"no such thing")
    elif content == "nan":
        stored(folder, {"w": torch.full((3,), torch.nan)})
    else:
        stored(folder, {"position_ids": torch.arange(5)})
    assert scorer_sketch.sketch_folder(folder) is None
    assert "no sketch of the weights" in caplog.text


def test_a_request_to_end_is_heard_between_tensors(tmp_path: Path) -> None:
    class Asked(Exception):
        pass

    seen = []

    def ask() -> None:
        seen.append(1)
        if len(seen) == 3:
            raise Asked

    with pytest.raises(Asked):
        scorer_sketch.sketch_folder(stored(tmp_path / "x", weights()), ask)


def test_a_score_holds_the_sketch_where_it_is_asked_for_and_is_the_same_without(
    tmp_path: Path,
) -> None:
    model = tiny_model(tmp_path / "model", "gpt2")
    texts = [text for text, _ in sample_texts(3)]
    plain = make_job(tmp_path / "plain", model, texts)
    without = scored(plain)
    assert without.weights_sketch is None
    assert "weights" not in without.attributes
    asked = dataclasses.replace(make_job(tmp_path / "asked", model, texts), sketch=True)
    found = scored(asked)
    assert found.fingerprint == without.fingerprint
    np.testing.assert_array_equal(found.loglik, without.loglik)
    np.testing.assert_array_equal(found.weights_sketch, sketch(model).values)
    np.testing.assert_array_equal(store_score.read_sketch(asked.output), found.weights_sketch)
    assert json.loads(found.attributes["weights"]) == sketch(model).described
    # Nobody loads a model again for it.
    before = plain.output.read_bytes()
    scorer.score(dataclasses.replace(plain, sketch=True))
    assert plain.output.read_bytes() == before


def test_a_quantised_score_has_the_sketch_of_the_stored_weights(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model", "gpt2")
    texts = [text for text, _ in sample_texts(2)]
    job = make_job(tmp_path / "x", model, texts, quantization="int8")
    found = scored(dataclasses.replace(job, sketch=True))
    np.testing.assert_array_equal(found.weights_sketch, sketch(model).values)
