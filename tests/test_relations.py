"""Which pairs of models have which relation, and that no pair has two."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from klmap import pair_samples, relations
from klmap.models_table import Model
from klmap.relations import Related


def row(id: str, revision: str = "", variant: str = "", **changes: Any) -> Model:
    name = "+".join(filter(None, [f"{id}@{revision}" if revision else id, variant]))
    values = {"family": "llama", "dtype": "float32", **changes}
    return Model(name, id=id, revision=revision, variant=variant, **values)


def layer(id: str, number: int, variant: str = "", of: int = 3) -> Model:
    name = "+".join(filter(None, [variant, f"layer{number}"]))
    return row(id, variant=name, layer=number, n_layers=of)


def find(
    models: Sequence[Model],
    off: int = 0,
    early_until: float | None = None,
    most: int = 1000,
    seed: int = 1,
) -> list[Related]:
    """Relations of models of which the last ``off`` are kept off the map."""
    on_map = np.arange(len(models)) < len(models) - off
    return relations.find(models, on_map, early_until, most, seed)


def named(models: Sequence[Model], off: int = 0, **options: Any) -> dict[str, set[tuple[str, str]]]:
    return {
        item.name: {
            (models[a].model, models[b].model)
            for a, b in zip(item.first, item.second, strict=True)
        }
        for item in find(models, off, **options)
    }  # fmt: skip


def test_a_precision_is_compared_with_the_most_exact_row_of_its_source():
    models = [
        row("a/m"), row("a/m", variant="int8"), row("a/m", variant="nf4"),
        row("a/m", variant="float16", dtype="float16"), row("b/m", variant="fp4"),
    ]  # fmt: skip
    found = named(models)
    assert found["int8"] == {("a/m", "a/m+int8")}
    assert found["nf4"] == {("a/m", "a/m+nf4")}
    assert found["float16"] == {("a/m", "a/m+float16")}
    assert "fp4" not in found


def test_the_most_exact_row_need_not_be_the_plain_one():
    models = [
        row("a/m", dtype="bfloat16"), row("a/m", variant="float32"), row("a/m", variant="int8"),
    ]  # fmt: skip
    found = named(models)
    assert found["bfloat16"] == {("a/m+float32", "a/m")}
    assert found["int8"] == {("a/m+float32", "a/m+int8")}


def test_a_model_on_the_map_keeps_its_relations_beside_a_more_exact_copy_off_it():
    models = [
        row("A/b", dtype="bfloat16"), row("t/x", base_model=("A/b",)),
        row("t/y", base_model=("o/base",)), row("o/z", family="gpt2"), row("u/b", size_group="g"),
    ]  # fmt: skip
    models[0] = replace(models[0], base_model=("o/base",), size_group="g")
    copied = [*models, row("A/b", variant="float32")]
    found = named(copied, off=1)
    assert found.pop("bfloat16") == {("A/b+float32", "A/b")}
    assert found == named(models)
    assert found[relations.PARENT] == {("A/b", "t/x")}
    assert found[relations.SIBLINGS] == {("A/b", "t/y")}
    assert ("A/b", "o/z") in found[relations.ACROSS]


def test_half_formats_are_not_compared_with_each_other():
    models = [row("a/m", dtype="bfloat16"), row("a/m", variant="float16", dtype="float16")]
    assert named(models) == {}


def test_precisions_of_other_revisions_and_settings_are_no_pairs():
    models = [
        row("a/m"), row("a/m", "step10", "int8"), row("a/m", variant="int8+bos"),
        row("a/m", variant="bos"),
    ]  # fmt: skip
    assert named(models)["int8"] == {("a/m+bos", "a/m+int8+bos")}


@pytest.mark.parametrize(
    ("id", "name"),
    [
        ("q/Model-7B-GPTQ", "stored-gptq"),
        ("q/model-AWQ-4bit", "stored-awq-4bit"),
        ("q/model-bnb-4bit", "stored-bnb-4bit"),
        ("q/model-8-bit", "stored-8bit"),
        ("q/copy", relations.STORED),
    ],
)
def test_models_stored_quantised_have_a_method_by_their_name(id: str, name: str):
    copy = row(id, base_model=("a/m",), relation="quantized")
    other = row("b/other", family="gpt2")
    found = named([row("a/m"), copy, other])
    assert found[name] == {("a/m", id)}
    assert found[relations.ACROSS] == {("a/m", "b/other")}, "a copy is no model of its own"


def test_adjacent_layers_end_with_the_model_itself():
    models = [row("a/m"), *(layer("a/m", n) for n in (0, 1, 2))]
    assert named(models, off=3) == {
        relations.LAYERS: {
            ("a/m+layer0", "a/m+layer1"), ("a/m+layer1", "a/m+layer2"), ("a/m+layer2", "a/m"),
        }
    }  # fmt: skip


def test_layers_with_gaps_are_not_adjacent_and_say_nothing_of_the_last():
    models = [row("a/m"), *(layer("a/m", n, of=7) for n in (1, 2, 5))]
    assert named(models) == {relations.LAYERS: {("a/m+layer1", "a/m+layer2")}}


def test_layers_belong_to_the_model_of_their_own_variant():
    models = [row("a/m"), row("a/m", variant="int8"), layer("a/m", 0, "int8", of=1)]
    assert named(models)[relations.LAYERS] == {("a/m+int8+layer0", "a/m+int8")}


def run(id: str = "a/m", steps: Sequence[int] = (1, 2, 4, 8), final: bool = True) -> list[Model]:
    return [*(row(id, f"step{step}") for step in steps), *([row(id)] if final else [])]


def test_consecutive_checkpoints_are_early_up_to_half_of_the_last_known_step():
    assert named(run()) == {
        relations.EARLY: {("a/m@step1", "a/m@step2"), ("a/m@step2", "a/m@step4")},
        relations.LATER: {("a/m@step4", "a/m@step8"), ("a/m@step8", "a/m")},
    }


def test_early_until_is_a_number_of_steps_for_all_runs():
    found = named([*run(), *run("b/m", (10, 20))], early_until=2)
    assert found[relations.EARLY] == {("a/m@step1", "a/m@step2")}
    assert len(found[relations.LATER]) == 5


def test_checkpoints_in_any_order_and_off_the_map_are_one_run():
    models = [row("a/m", "step8"), row("a/m", "step1"), row("a/m", "step4")]
    found = named(models, off=1)
    assert found[relations.EARLY] == {("a/m@step1", "a/m@step4")}
    assert found[relations.LATER] == {("a/m@step4", "a/m@step8")}


COMMITS = ("3f9a" * 10, "07bc" * 10)


def test_weights_pinned_by_commit_are_the_end_of_their_run():
    models = [row("a/m", COMMITS[0]), *run(steps=(10, 20), final=False)]
    assert named(models) == {
        relations.LATER: {("a/m@step10", "a/m@step20"), ("a/m@step20", models[0].model)},
    }


@pytest.mark.parametrize("final", ["", "main"])
def test_branches_without_a_step_are_no_checkpoints(final: str):
    branches = ["gptq-4bit-32g", "gptq-8bit-128g", "v1.0", *COMMITS]
    models = [row("a/m", revision) for revision in ("step1", *branches, final)]
    assert named(models) == {relations.LATER: {("a/m@step1", models[-1].model)}}
    assert named(models[1:]) == {}
    assert named(models[:-1]) == {}, "two commits: which is the end cannot be told"


def test_a_model_is_its_final_weights_or_last_step_rather_than_another_branch():
    for last in ("", "main", "step3"):
        models = [row("a/m", name) for name in ("step1", "chat", "v2", last)]
        found = named([*models, row("b/m", family="gpt2")])
        assert found[relations.ACROSS] == {(models[-1].model, "b/m")}


def test_a_last_step_and_final_weights_of_one_commit_are_no_pair():
    models = [row("a/m", "step1", commit="1"), row("a/m", "step2", commit="2")]
    for commit, later in (("2", 1), ("3", 2), ("", 2)):
        assert len(named([*models, row("a/m", commit=commit)])[relations.LATER]) == later
    unknown = [row("a/m", "step1"), row("a/m")]
    assert named(unknown)[relations.LATER] == {("a/m@step1", "a/m")}


def test_a_quantised_checkpoint_is_no_part_of_the_run():
    models = [*run(steps=(1, 2), final=False), row("a/m", "step1", "int8")]
    assert named(models) == {
        "int8": {("a/m@step1", "a/m@step1+int8")},
        relations.LATER: {("a/m@step1", "a/m@step2")},
    }


def test_a_merge_made_here_is_compared_with_its_parts_alone():
    mixed = [
        row(f"merge/mix-{share:g}", base_model=("a/m", "b/m@step4"), relation="merge")
        for share in (0.25, 0.5)
    ]
    models = [row("a/m"), row("b/m", "step4"), *mixed]
    assert named(models, off=1)[relations.MERGE] == {
        (part, mix.model) for part in ("a/m", "b/m@step4") for mix in mixed
    }
    others = {key: pairs for key, pairs in named(models).items() if key != relations.MERGE}
    assert others == {relations.FAMILY: {("a/m", "b/m@step4")}}


def test_parent_and_child_are_those_of_the_final_weights():
    models = [
        *run("a/base"), row("t/code", "step5", base_model=("a/base",)),
        row("t/code", base_model=("a/base",), relation="finetune"),
        row("t/old", base_model=("a/base@step2",), relation="adapter"),
        row("t/code", variant="int8", base_model=("a/base",)),
    ]  # fmt: skip
    assert named(models)[relations.PARENT] == {("a/base", "t/code"), ("a/base@step2", "t/old")}


def test_siblings_need_no_parent_that_is_there():
    models = [row(f"t/{name}", base_model=("a/base",)) for name in "xyz"]
    assert named(models) == {relations.SIBLINGS: {("t/x", "t/y"), ("t/x", "t/z"), ("t/y", "t/z")}}


def test_models_off_the_map_have_no_parents_siblings_or_families():
    models = [row("a/base"), row("t/x", base_model=("a/base",)), row("b/y", family="gpt2")]
    assert named(models, off=2) == {}


@pytest.mark.parametrize("ending", ["-seed2", "_seed_3", "-s1", ".seed-12"])
def test_seeds_are_read_off_ids_where_the_id_without_one_is_there(ending: str):
    assert relations.SEEDS in named([row("a/m"), row(f"a/m{ending}")])
    assert relations.SEEDS not in named([row(f"a/m{ending}"), row(f"a/m{ending}4")])
    assert relations.SEEDS not in named([row("a/m"), row("a/m-small1")])


def test_seeds_are_compared_at_the_same_step():
    models = [*run("a/m", (10, 20)), *run("a/m-seed2", (10, 30))]
    assert named(models)[relations.SEEDS] == {
        ("a/m@step10", "a/m-seed2@step10"), ("a/m", "a/m-seed2"),
    }  # fmt: skip


def test_a_seed_group_joins_ids_that_say_nothing():
    models = [row(f"a/{name}", seed_group="g", base_model=("a/base",)) for name in "xyz"]
    assert named(models) == {relations.SEEDS: {("a/x", "a/y"), ("a/x", "a/z"), ("a/y", "a/z")}}


def test_groups_by_hand_hold_for_weights_that_are_pinned_to_commits():
    one, two, three = (
        row(f"a/{name}", at, seed_group="g") for name, at in zip("xyz", (*COMMITS, ""), strict=True)
    )
    pairs = {(a.model, b.model) for a, b in itertools.combinations((one, two, three), 2)}
    assert named([one, two, three]) == {relations.SEEDS: pairs}
    sized = [replace(model, seed_group="", size_group="g") for model in (one, two, three)]
    assert named(sized) == {relations.SIZES: pairs}
    small, large = row("e/p-70m", COMMITS[0]), row("e/p-160m", COMMITS[1])
    assert named([small, large]) == {relations.SIZES: {(small.model, large.model)}}


def test_a_size_group_by_hand_holds_at_other_steps_and_one_read_off_ids_does_not():
    models = [row("a/x", "step10", size_group="g"), row("b/y", "step20", size_group="g")]
    assert named(models) == {relations.SIZES: {("a/x@step10", "b/y@step20")}}
    models = [row("e/p-70m", "step10"), row("e/p-160m", "step20")]
    assert named(models) == {relations.FAMILY: {("e/p-70m@step10", "e/p-160m@step20")}}


def test_another_branch_of_a_run_is_no_other_seed_of_the_final_weights():
    models = [row("a/m"), row("a/m", "chat"), row("a/m-seed2"), row("a/m-seed2", "v1.0")]
    assert named(models) == {relations.SEEDS: {("a/m", "a/m-seed2")}}


def test_sizes_are_ids_that_differ_in_the_size_alone():
    models = [row(f"e/pythia-{size}") for size in ("14m", "1.4b", "70m-deduped")]
    models += [row("e/pythia-6.9B-deduped"), row("e/m", size_group="g"), row("f/n", size_group="g")]
    assert named(models)[relations.SIZES] == {
        ("e/pythia-14m", "e/pythia-1.4b"), ("e/pythia-70m-deduped", "e/pythia-6.9B-deduped"),
        ("e/m", "f/n"),
    }  # fmt: skip


def test_the_rest_is_told_apart_by_family_and_unknown_families_are_left_out():
    models = [row("a/a"), row("a/b"), row("b/c", family="gpt2"), row("b/d", family="")]
    assert named(models) == {
        relations.FAMILY: {("a/a", "a/b")},
        relations.ACROSS: {("a/a", "b/c"), ("a/b", "b/c")},
    }


def zoo() -> list[Model]:
    """Something of every relation, again and again."""
    models = []
    for number, family in enumerate(("llama", "gpt2", "neox")):
        base = f"o/{family}-{number + 1}b"
        models += run(base)
        models += [row(f"{base}-seed{seed}") for seed in (2, 3)]
        models += [row(f"o/{family}-{size}", family=family) for size in ("70m", "160m")]
        models += [row(f"t/{family}-{n}", base_model=(base,), family=family) for n in "abcd"]
        models += [row(base, variant=method) for method in ("int8", "nf4", "fp4")]
        models.append(row(f"t/{family}-soup", base_model=(f"t/{family}-a", f"t/{family}-b")))
        models += [layer(base, n) for n in range(4)]
    return models


def test_no_pair_has_two_relations_and_no_model_is_paired_with_itself():
    pairs = [
        frozenset((int(a), int(b)))
        for item in find(zoo())
        for a, b in zip(item.first, item.second, strict=True)
    ]
    assert len(pairs) == len(set(pairs)) > 100
    assert all(len(pair) == 2 for pair in pairs)


def test_every_pair_of_whole_models_has_exactly_one_relation():
    models = [model for model in zoo() if model.layer is None and not model.variant]
    whole = [place for place, model in enumerate(models) if not model.revision]
    found = {
        frozenset((int(a), int(b)))
        for item in find(models)
        for a, b in zip(item.first, item.second, strict=True)
    }
    assert {frozenset(pair) for pair in itertools.combinations(whole, 2)} <= found


def test_more_pairs_than_wanted_are_sampled_the_same_way_each_time():
    few, again, other = (find(zoo(), most=5, seed=seed) for seed in (1, 1, 2))
    everything = {item.name: item for item in find(zoo())}
    for one, two in zip(few, again, strict=True):
        assert one.pairs <= 5
        assert one.sampled == (everything[one.name].pairs > 5)
        assert np.array_equal([one.first, one.second], [two.first, two.second])
        every = everything[one.name]
        assert {*zip(one.first, one.second, strict=True)} <= {
            *zip(every.first, every.second, strict=True)
        }
    assert any(
        not np.array_equal(one.first, two.first) for one, two in zip(few, other, strict=True)
    )


def test_very_many_models_are_sampled_without_listing_their_pairs():
    count = 30_000
    models = [
        row(f"o/m{n}", family=f"f{n % 7}", base_model=(f"o/base{n % 50}",) if n % 3 else ())
        for n in range(count)
    ]
    found = {item.name: item for item in find(models, most=300)}
    assert [*found] == [relations.SIBLINGS, relations.FAMILY, relations.ACROSS]
    for name, item in found.items():
        assert item.pairs == 300
        assert item.sampled
        assert np.all(item.first < item.second)
        for a, b in zip(item.first, item.second, strict=True):
            one, two = models[a], models[b]
            siblings = bool(one.base_model) and one.base_model == two.base_model
            expected = relations.FAMILY if one.family == two.family else relations.ACROSS
            assert name == (relations.SIBLINGS if siblings else expected)


def test_a_large_sample_takes_every_pair_as_often(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pair_samples, "ENUMERATED", 10)
    groups = [np.arange(6), np.arange(10, 13)]
    count: dict[tuple[int, int], int] = dict.fromkeys(
        [*itertools.combinations(range(6), 2), *itertools.combinations(range(10, 13), 2)], 0
    )
    for seed in range(2000):
        rng = np.random.default_rng(seed)
        pairs, more = pair_samples.within(groups, lambda _: True, 3, rng)
        assert more
        for a, b in pairs:
            count[int(a), int(b)] += 1
    expected = 2000 * 3 / len(count)
    assert max(abs(value - expected) for value in count.values()) < 4.5 * math.sqrt(expected)
