"""Entries of config.yaml that stand for many models, and what is said of how models are related."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from klmap import config, configfile
from klmap.config import Config
from klmap.errors import ConfigError

TEXTS = {"tiny": {"source": "environment"}}
PLAIN = ["org/a", "org/b", {"id": "org/c", "quantization": "nf4"}]


def read(*models: Any, **keys: Any) -> Config:
    """A configuration that is not checked across its models."""
    return Config.model_validate({"texts": TEXTS, "models": list(models), **keys})


def write(folder: Path, *models: Any, **keys: Any) -> Path:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({"texts": TEXTS, "models": list(models), **keys}))
    return path


def refusal(folder: Path, *models: Any, **keys: Any) -> str:
    with pytest.raises(ConfigError) as told:
        configfile.load(write(folder, *models, **keys))
    return str(told.value)


def merge(*of: str, **keys: Any) -> dict[str, Any]:
    """An entry of one merge."""
    shares = [round(1 / len(of), 12)] * len(of) if len(of) != 3 else [0.5, 0.25, 0.25]
    how = {"of": list(of), "weights": [shares], **keys.pop("how", {})}
    return {"id": "merge/mix", "merge": how, **keys}


# Many models of one line


def test_revisions_steps_and_quantizations_give_every_combination() -> None:
    entry = {
        "id": "org/run",
        "revisions": ["step0", "step512"],
        "steps": {"first": 1000, "last": 3000, "every": 1000},
        "quantizations": ["none", "int8", "nf4", "fp4"],
        "dtype": "float16",
    }
    revisions = ["step0", "step512", "step1000", "step2000", "step3000"]
    quantizations = [None, "int8", "nf4", "fp4"]
    found = read(entry)
    made = [(each.effective_revision, each.quantization) for each in found.models]
    assert made == list(itertools.product(revisions, quantizations))
    assert list(found.by_slug) == [
        "+".join([f"org--run@{revision}", *([quantization] if quantization else []), "float16"])
        for revision, quantization in made
    ]
    assert list(found.by_source) == [f"org--run@{revision}" for revision in revisions]


def test_what_an_entry_stands_for_is_what_entries_of_one_each_give(tmp_path: Path) -> None:
    keys = {"family": "mine", "seed_group": "s", "on_map": False, "layers": [2], "texts": ["tiny"]}
    short = read({"id": "org/a", "revisions": ["x", "y"], "quantizations": ["none", "nf4"], **keys})
    long = read(
        *(
            {"id": "org/a", "revision": revision, **quantization, **keys}
            for revision in ("x", "y")
            for quantization in ({}, {"quantization": "nf4"})
        )
    )
    assert list(short.by_slug) == list(long.by_slug)
    for one, other in zip(short.models, long.models, strict=True):
        assert short.spec("tiny", one) == long.spec("tiny", other)
        assert one.model_dump() == other.model_dump()
        assert one.models == (one,), "a model stands for itself"
    assert configfile.load(write(tmp_path, "org/z")).models[0].models[0].slug == "org--z"


def test_the_entry_itself_is_no_model_unless_it_stands_for_itself() -> None:
    found = read("org/a", {"id": "org/b", "revisions": ["x"]})
    assert [each.slug for each in found.models] == ["org--a", "org--b@x"]
    assert found.models[0] is found.entries[0]


@pytest.mark.parametrize(
    ("steps", "revisions"),
    [
        ({"first": 0, "last": 10, "every": 5}, ["step0", "step5", "step10"]),
        ({"first": 1, "last": 10, "every": 4}, ["step1", "step5", "step9"]),
        ({"first": 7, "last": 7, "every": 100}, ["step7"]),
        ({"first": 1, "last": 2, "every": 1, "name": "ckpt-{}-hf"}, ["ckpt-1-hf", "ckpt-2-hf"]),
    ],
)
def test_steps_go_from_the_first_to_the_last(steps: dict[str, Any], revisions: list[str]) -> None:
    assert [each.revision for each in read({"id": "org/a", "steps": steps}).models] == revisions


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ({"first": 9, "last": 1, "every": 1}, ": no step is between first: 9 and last: 1"),
        ({"first": 1, "last": 9, "every": 0}, r"\.every: 0: .*greater than or equal to 1"),
        ({"first": 1, "last": 9}, r"\.every: missing"),
        ({"first": 1, "last": 9, "every": 1, "by": 2}, ".*known keys: first, last, every, name"),
        ({"first": 1, "last": 9, "every": 1, "name": "ckpt"}, ".*'ckpt' has no place for the step"),
        ({"first": 1, "last": 9, "every": 1, "name": "{}-{}"}, ".*write {} there, once"),
    ],
)
def test_steps_that_are_none_are_refused(tmp_path: Path, steps: dict[str, Any], said: str) -> None:
    told = refusal(tmp_path, "org/a", {"id": "org/b", "steps": steps})
    assert re.search(rf"config\.yaml: models\[1\]\.steps{said}", told), told


def test_numbers_are_names_of_revisions_too() -> None:
    assert [each.slug for each in read({"id": "org/a", "revisions": [1000, "2000"]}).models] == [
        "org--a@1000",
        "org--a@2000",
    ]


@pytest.mark.parametrize(
    ("layers", "kept"), [("all", "all"), ([6, 0, 6], [0, 6]), ("2, 0", [0, 2])]
)
def test_layers_are_one_job_of_one_model(layers: Any, kept: Any) -> None:
    (found,) = read({"id": "org/a", "layers": layers}).models
    assert (found.slug, found.layers) == ("org--a", kept)


@pytest.mark.parametrize("layers", ["some", [], 3, [-1], [1.5], True, {"first": 1}, "0-6"])
def test_layers_that_are_no_numbers_of_blocks_are_refused(tmp_path: Path, layers: Any) -> None:
    told = refusal(tmp_path, "org/b", {"id": "org/a", "layers": layers})
    assert re.search(
        r"models\[1\]\.layers: .* is neither all nor a list of numbers of blocks", told
    )


def test_a_sheet_has_lists_in_cells_with_commas(tmp_path: Path) -> None:
    sheet = tmp_path / "more.tsv"
    header = "id\trevisions\tquantizations\tlayers\ton_map\tparent\tmerge_of\tseed_group"
    rows = [
        "org/a\tstep1,step2\tnone, nf4\t0,6\tfalse\torg/base\t\t",
        "org/b\t\t\tall\ttrue\t\torg/a, org/c\tmine",
        "org/c\t\t\t\t\torg/a org/b\t\t",
    ]
    sheet.write_text("\n".join([header, *rows]) + "\n")
    found = configfile.load(write(tmp_path, model_files=[str(sheet)]))
    assert list(found.by_slug) == [
        *("org--a@step1", "org--a@step1+nf4", "org--a@step2", "org--a@step2+nf4"),
        *("org--b", "org--c"),
    ]
    a, b, c = (found.by_slug[name] for name in ("org--a@step2+nf4", "org--b", "org--c"))
    assert (a.layers, a.on_map, a.parent) == ([0, 6], False, ["org/base"])
    assert (b.layers, b.on_map, b.merge_of, b.seed_group) == (
        "all",
        True,
        ["org/a", "org/c"],
        "mine",
    )
    assert (c.parent, c.merge_of, c.on_map) == (["org/a", "org/b"], None, True)


def test_a_wrong_line_of_a_sheet_is_named(tmp_path: Path) -> None:
    sheet = tmp_path / "more.tsv"
    sheet.write_text("id\tquantizations\norg/a\tnf4\norg/b\tnf4,int7\n")
    told = refusal(tmp_path, model_files=[str(sheet)])
    assert re.search(r"more\.tsv: line 3: quantizations\.1: 'int7' is not one of none, int8", told)
    sheet.write_text("id\trevisions\norg/a\tx\norg/b\tx,x\n")
    told = refusal(tmp_path, model_files=[str(sheet)])
    assert f"{sheet}: line 3: gives 'org--b@x' twice" in told


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"revision": "x", "revisions": ["y"]}, "there are revision: and revisions:; keep one"),
        ({"revision": "x", "steps": {"first": 1, "last": 2, "every": 1}}, "revision: and steps:"),
        ({"quantization": "nf4", "quantizations": ["none"]}, "quantization: and quantizations:"),
        ({"parent": "org/b", "merge_of": ["org/b", "org/c"]}, "parent: and merge_of:; keep one"),
        ({"name": "mine", "revisions": ["x", "y"]}, "name: mine would be the name of 2 models"),
        ({"name": "mine", "quantizations": ["none", "nf4"]}, "write one entry for each"),
        ({"id": "org/a@z", "revisions": ["x"]}, "'org/a@z' names a revision and there is a key"),
        ({"revisions": ["x", "y", "x"]}, "gives 'org--a@x' twice; remove one of its revisions"),
        ({"quantizations": ["nf4", "nf4"]}, "gives 'org--a\\+nf4' twice; .* quantizations"),
        (
            {"revisions": ["step1"], "steps": {"first": 0, "last": 2, "every": 1}},
            "gives 'org--a@step1' twice",
        ),
        ({"revisions": []}, "revisions: is empty; give at least one"),
        ({"revisions": ["x y/:"]}, "gives the file name 'org--a@x y--:', which cannot be one"),
        ({"revisions": [""]}, "gives the file name 'org--a@', which cannot be one"),
        ({"quantizations": []}, "quantizations: is empty; give at least one"),
        ({"quantizations": ["int4"]}, r"quantizations\[0\]: 'int4' is not one of none, int8"),
        ({"parent": []}, "parent: is empty; give at least one"),
        ({"merge_of": ["org/b"]}, "merge_of: 1 given; give at least 2"),
        ({"seed_group": ""}, "seed_group: is empty"),
        ({"revisons": ["x"]}, "revisons: unknown key; known keys: id, revision, revisions, steps"),
        (
            {"merge": {"of": ["org/b", "org/c"], "weights": [0.5, 0.5]}},
            "has an id merge/NAME and a",
        ),
    ],
)
def test_a_wrong_entry_names_its_place_and_the_fix(
    tmp_path: Path, entry: dict[str, Any], said: str
) -> None:
    told = refusal(tmp_path, "org/b", "org/c", "org/d", {"id": "org/a", **entry})
    assert re.search(rf"config\.yaml: models\[3\].*{said}.*\(line \d+\)", told), told


def test_a_model_of_an_entry_is_not_to_be_in_another_one(tmp_path: Path) -> None:
    told = refusal(tmp_path, "org/a@y", "org/b", {"id": "org/a", "revisions": ["x", "y"]})
    assert "models[2]: 'org--a@y' is the name of models[0] (org/a@y) too" in told
    assert "models[1]" not in told
    told = refusal(tmp_path, {"id": "org/a", "quantizations": ["none", "nf4"]}, "org/a")
    assert "models[1]: 'org--a' is the name of models[0] (org/a) too" in told


def test_every_wrong_entry_is_told_at_once(tmp_path: Path) -> None:
    told = refusal(
        tmp_path,
        {"id": "org/a", "revisions": ["x", "x"]},
        "org/b",
        merge("org/b", "org/gone"),
        {"id": "org/c", "quantizations": ["nf4", "nf4"]},
    )
    assert [line.split()[1] for line in told.splitlines()] == [
        *("models[0]:", "models[2]:", "models[3]:")
    ]


# Merges


def test_a_list_of_shares_gives_a_merge_each() -> None:
    how = {"of": ["org/a", "org/b"], "weights": [[0.75, 0.25], [0.5, 0.5], [1, 0]]}
    found = read(*PLAIN, {"id": "merge/mix", "merge": how, "quantizations": ["none", "int8"]})
    made = [each for each in found.models if each.is_merge]
    assert [each.slug for each in made] == [
        f"merge--mix-{shares}{ending}"
        for shares in ("0.75-0.25", "0.5-0.5", "1-0")
        for ending in ("", "+int8")
    ]
    assert [each.merge.weights for each in made[::2] if each.merge] == [
        *([[0.75, 0.25]], [[0.5, 0.5]], [[1.0, 0.0]])
    ]
    assert len({each.source for each in made}) == 3, "quantised ones are made of the same weights"


def test_one_list_of_shares_is_one_merge() -> None:
    one = read(*PLAIN, merge("org/a", "org/b", how={"weights": [0.5, 0.5]}))
    many = read(*PLAIN, merge("org/a", "org/b", how={"weights": [[0.5, 0.5]]}))
    assert one.models == many.models


def test_parts_are_found_by_id_by_revision_and_by_name() -> None:
    found = read(
        "org/a",
        {"id": "org/a", "revisions": ["x", "y"]},
        {"id": "./models/own", "name": "mine"},
        {"id": "org/b", "quantization": "nf4"},
    )
    names = {
        "org/a": "org--a",
        "org--a": "org--a",
        "org/a@y": "org--a@y",
        "org--a@x": "org--a@x",
        "mine": "mine",
        "./models/own": "mine",
        "org/b": "org--b+nf4",
        "org/a@z": None,
        "org/gone": None,
        "": None,
    }
    parts = {name: found.part(name) for name in names}
    assert {name: part and part.slug for name, part in parts.items()} == names


def test_a_merge_of_configured_models_is_accepted(tmp_path: Path) -> None:
    for of in (
        ["org/a", "org/b"],
        ["org--a", "./own"],
        ["org/a", "org/b", "org/r@x"],
        # Only its quantised variant is scored; its weights are there all the same.
        ["org/a", "org/c"],
    ):
        models = [*PLAIN, "./own", {"id": "org/r", "revisions": ["x", "y"], "on_map": False}]
        found = configfile.load(write(tmp_path, *models, merge(*of, layers="all", dtype="float32")))
        assert found.models[-1].is_merge


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (merge("org/a", "org/gone"), "merge.of: 'org/gone' is no model of this config.*; add"),
        (merge("org/a", "org/b@x"), "merge.of: 'org/b@x' is no model of this configuration"),
        (merge("org/a", "org--c+nf4"), r"'org--c\+nf4' is a quantised variant; name the"),
        (merge("org/a", "merge/it-0.5-0.5"), "'merge/it-0.5-0.5' is a merge itself; name what"),
        (merge("org/a", "merge--it-0.5-0.5"), "'merge--it-0.5-0.5' is a merge itself"),
        (merge("org/a", "org/code"), "'org/code' is no model"),
        (merge("org/a", "coded"), "'coded' is run by the code of its repository"),
        (merge("org/a", "org/a"), "'org/a' and 'org/a' are the same weights; keep one"),
        (merge("org/a", "org/b", "org--a"), "'org/a' and 'org--a' are the same weights"),
        (merge("org/a"), "merge.of: 1 given; give at least 2"),
        (merge(*["org/a"] * 4, how={"weights": [[0.25] * 4]}), "merge.of.*at most 3"),
        (merge("org/a", "org/b", how={"weights": []}), "merge.weights: is empty; give"),
        (merge("org/a", "org/b", how={"weight": 1}), "merge.weight: unknown key; known keys: of, "),
        (merge("org/a", "org/b", revision="x"), "revision: has no meaning for a merge"),
        (merge("org/a", "org/b", revisions=["x"]), "revisions: has no meaning for a merge"),
        (merge("org/a", "org/b", parent="org/a"), "parent: has no meaning for a merge"),
        (merge("org/a", "org/b", merge_of="org/a,org/b"), "merge_of: has no meaning for a merge"),
        (merge("org/a", "org/b", remote_code=True), "remote_code: has no meaning for a merge"),
        ({**merge("org/a", "org/b"), "id": "org/mix"}, "'org/mix': .* has an id merge/NAME"),
        ({**merge("org/a", "org/b"), "id": "merge/mix@x"}, "a merge has no revision; take"),
        ({"id": "merge/mix"}, "'merge/mix': .* has an id merge/NAME and a key merge:"),
        (merge("org/a", "org/b", how={"weights": [[0.5, 0.5]] * 2}), "gives .* twice; .* weights"),
        ({**merge("org/a", "org/b"), "id": "merge/it", "dtype": "float16"}, "is made of other"),
        ({**merge("org/a", "org/b"), "id": "merge/it", "name": "it"}, "is made of other"),
    ],
)  # fmt: skip
def test_a_wrong_merge_names_its_place_and_the_fix(
    tmp_path: Path, entry: dict[str, Any], said: str
) -> None:
    coded = {"id": "org/code", "revision": "0" * 40, "remote_code": True, "name": "coded"}
    other = {**merge("org/b", "org/a"), "id": "merge/it"}
    told = refusal(tmp_path, *PLAIN, coded, other, entry)
    assert re.search(rf"config\.yaml: models\[5\].*{said}", told), told
    assert len(told.splitlines()) == 1, told


@pytest.mark.parametrize(
    "shares",
    [
        *([0.5, 0.4], [0.5, 0.6], [1.5, -0.5], [1], [0.5, 0.25, 0.25], [0.5, 0.500002]),
        *([float("nan"), 1], [float("nan")] * 2, [float("inf"), 0], [0, 0]),
    ],
)
def test_shares_that_are_no_weighted_mean_are_refused(tmp_path: Path, shares: list[float]) -> None:
    wrong = merge("org/a", "org/b", how={"weights": [[0.5, 0.5], shares]})
    told = refusal(tmp_path, *PLAIN, wrong)
    assert re.search(
        r"models\[3\]\.merge: weights \[.*\] are not 2 shares of at least 0 that", told
    )


def test_shares_may_be_rounded() -> None:
    third = [0.3333333, 0.3333333, 0.3333333]
    found = read(*PLAIN, merge("org/a", "org/b", "org/c", how={"weights": third}))
    assert found.models[-1].merge is not None
    assert found.models[-1].merge.weights == [third]


# On the map and off it


def test_what_is_off_the_map_is_scored_all_the_same() -> None:
    found = read("org/a", {"id": "org/b", "on_map": False}, {"id": "org/c", "on_map": True})
    assert list(found.scored_on["tiny"]) == ["org--a", "org--b", "org--c"]
    assert list(found.mapped_on["tiny"]) == ["org--a", "org--c"]
    assert list(found.unmapped_on["tiny"]) == ["org--b"]


def test_off_the_map_holds_for_all_models_of_an_entry_and_each_text_set() -> None:
    found = read(
        {"id": "org/a", "texts": "other"},
        {"id": "org/b", "revisions": ["x", "y"], "on_map": False, "texts": "tiny, other"},
        {"id": "org/c", "on_map": False, "texts": "tiny"},
        texts={**TEXTS, "other": {"source": "file", "path": "a"}},
    )
    assert {name: list(each) for name, each in found.mapped_on.items()} == {
        "tiny": [],
        "other": ["org--a"],
    }
    assert {name: list(each) for name, each in found.unmapped_on.items()} == {
        "tiny": ["org--b@x", "org--b@y", "org--c"],
        "other": ["org--b@x", "org--b@y"],
    }


# Fingerprints


def test_a_plain_model_has_the_spec_that_it_had_before() -> None:
    """A change here means that every user's scores are computed again."""
    found = read("org/a")
    spec = found.spec("tiny", found.models[0])
    assert set(spec) == {
        *("id", "revision", "dtype", "quantization", "prefix", "overlength", "texts"),
        "scorer_version",
    }
    assert config.fingerprint(spec) == "a0555496d96a"


@pytest.mark.parametrize(
    "said",
    [
        *({"on_map": False}, {"parent": "org/z"}, {"merge_of": ["org/y", "org/z"]}),
        *({"seed_group": "mine"}, {"size_group": "mine"}, {"family": "mine"}),
    ],
)
def test_what_is_said_of_a_model_leaves_its_fingerprint(said: dict[str, Any]) -> None:
    plain, told = read("org/a"), read({"id": "org/a", **said})
    assert plain.spec("tiny", plain.models[0]) == told.spec("tiny", told.models[0])


def test_what_decides_numbers_changes_the_fingerprint() -> None:
    found = [
        read(*PLAIN, entry)
        for entry in (
            "org/x",
            {"id": "org/x", "layers": "all"},
            {"id": "org/x", "layers": [0, 1]},
            {"id": "org/x", "layers": [0, 2]},
            {"id": "org/x", "revisions": ["r"]},
            {"id": "org/x", "quantizations": ["nf4"]},
            merge("org/a", "org/b"),
            merge("org/b", "org/a"),
            merge("org/a", "org/c"),
            merge("org/a", "org/b", layers="all"),
            merge("org/a", "org/b", how={"weights": [0.25, 0.75]}),
        )
    ]
    prints = [config.fingerprint(each.spec("tiny", each.models[-1])) for each in found]
    assert len(set(prints)) == len(prints)


def test_layers_in_another_order_are_the_same_job() -> None:
    found = [read({"id": "org/a", "layers": layers}) for layers in ([2, 0], "0,2", [0, 2, 2])]
    assert len({config.fingerprint(each.spec("tiny", each.models[0])) for each in found}) == 1


def test_none_in_a_list_of_quantizations_is_the_model_itself() -> None:
    listed, plain = read({"id": "org/a", "quantizations": ["none"]}), read("org/a")
    assert listed.models[0].slug == plain.models[0].slug
    assert listed.spec("tiny", listed.models[0]) == plain.spec("tiny", plain.models[0])


# Analyses


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        ([["org--a", "org--gone"]], r"pairs\[0\]: no model has the name 'org--gone' on the map"),
        ([["org--a", "org--b"], ["org/a", "org--b"]], r"pairs\[1\]: no model has the name 'org/a'"),
        ([["org--a", "org--b+layer3"]], r"pairs\[0\]: no model has the name 'org--b\+layer3'"),
        ([["org--a"]], r"pairs\[0\]"),
        ([["org--a", "org--b", "org--c+nf4"]], r"pairs\[0\]"),
    ],
)
def test_pairs_of_unknown_names_are_refused(tmp_path: Path, pairs: Any, said: str) -> None:
    models = [*PLAIN[1:], {"id": "org/a", "on_map": False}]
    told = refusal(tmp_path, *models, analyses={"true_kl": {"pairs": pairs}})
    assert re.search(rf"config\.yaml: analyses\.true_kl\.{said}", told), told


def test_pairs_off_the_map_and_of_expanded_models_are_accepted(tmp_path: Path) -> None:
    models = [{"id": "org/a", "on_map": False}, {"id": "org/b", "revisions": ["x", "y"]}]
    pairs = [["org--a", "org--b@x"], ["org--b@x", "org--b@y"]]
    found = configfile.load(write(tmp_path, *models, analyses={"true_kl": {"pairs": pairs}}))
    assert found.analyses.true_kl is not None
    assert [list(pair) for pair in found.analyses.true_kl.pairs] == pairs


@pytest.mark.parametrize("name", ["scale", "trajectories", "merges", "quantization", "true_kl"])
def test_an_analysis_is_on_when_it_is_named(name: str) -> None:
    values: tuple[Any, ...] = (None, True, {})
    for value in values:
        assert read("org/a", analyses={name: value}).analyses.on == [name]
    assert read("org/a", analyses={name: False}).analyses.on == []
