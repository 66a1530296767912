"""Pairs, merges, layers and models off the map before their jobs: plan, tables, arguments."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from klmap import arguments, divergences, plan_tables, products
from klmap.cards import Card
from klmap.config import Config, fingerprint
from klmap.errors import ConfigError
from klmap.index import COLUMNS, GIVEN
from klmap.plan import Plan
from klmap.submission import Submission
from tests.test_plan import place

TINY = {"tiny": {"source": "environment"}}
OFF = {"on_map": False}
RUN = {"id": "org/run", "revisions": ["step30", "step4", "step200"]}
QUANTISED = {"id": "org/q", "quantizations": ["none", "int8", "nf4"]}
MIX = {"id": "merge/mix", "merge": {"of": ["org/a", "org--b"], "weights": [[0.75, 0.25], [1, 0]]}}


def planned(folder: Path, *models: Any, **others: Any) -> Plan:
    """A plan whose results lie in a folder."""
    keys = {"texts": TINY, "results": str(folder / "results"), **others}
    config = Config.model_validate({"models": list(models), **keys})
    return Plan(config, Path("config.yaml"))


def compared(folder: Path, *models: Any, how: Any = None, **others: Any) -> Plan:
    """The same where exact divergences are asked for."""
    return planned(folder, *models, analyses={"true_kl": how or {}}, **others)


def done(plan: Plan, *paths: str) -> None:
    """Files that are there, younger than all cards and texts."""
    for source in plan.config.by_source:
        place(plan.card(source), 9)
    place(f"{plan.results}/tiny/texts.json", 9)
    for path in paths:
        place(path, 1)


# Which pairs


def test_only_where_it_is_asked_for_pairs_are_compared(tmp_path: Path) -> None:
    assert planned(tmp_path, QUANTISED, RUN).divergences.of("tiny") == []
    assert compared(tmp_path, QUANTISED, RUN, how={"own": False}).divergences.of("tiny") == []


def test_a_quantised_model_is_compared_with_its_original(tmp_path: Path) -> None:
    plan = compared(tmp_path, QUANTISED)
    assert plan.divergences.of("tiny") == [("org--q", "org--q+int8"), ("org--q", "org--q+nf4")]


def test_the_original_is_the_one_that_is_scored_alike(tmp_path: Path) -> None:
    plan = compared(
        tmp_path,
        {"id": "org/q", "dtype": "float32"},
        {"id": "org/q", "quantizations": ["none", "nf4"], "dtype": "bfloat16"},
        {"id": "org/q", "quantizations": ["nf4"]},
        {"id": "org/q", "quantizations": ["none", "nf4"], "revisions": ["step1", "step2"]},
        {"id": "org/q", "quantization": "nf4", "prefix": "bos"},
    )
    ways = [(one, other) for one, other in plan.divergences.of("tiny") if "nf4" in other]
    assert ways == [
        ("org--q+bfloat16", "org--q+nf4+bfloat16"),
        ("org--q@step1", "org--q@step1+nf4"),
        ("org--q@step2", "org--q@step2+nf4"),
    ]


def test_checkpoints_are_compared_in_the_order_of_training(tmp_path: Path) -> None:
    plan = compared(tmp_path, "org/run", RUN, "org/other@step10")
    assert plan.divergences.of("tiny") == [
        ("org--run@step4", "org--run@step30"),
        ("org--run@step30", "org--run@step200"),
        ("org--run@step200", "org--run"),
    ]


def test_final_weights_under_two_names_are_one_checkpoint(tmp_path: Path) -> None:
    plan = compared(tmp_path, "org/run", "org/run@main", "org/run@step5")
    (pair,) = plan.divergences.of("tiny")
    assert pair[0] == "org--run@step5"


@pytest.mark.parametrize("turned", [False, True])
def test_a_checkpoint_is_compared_under_its_own_name_not_that_of_its_layers(
    tmp_path: Path, turned: bool
) -> None:
    models = [
        {"id": "org/run", "revisions": ["step1", "step2"], "layers": "all", "name": None},
        {"id": "org/run", "revision": "step2", "name": "plain"},
        {"id": "org/run", "revision": "step1", "quantization": "nf4"},
    ]
    plan = compared(tmp_path, *(reversed(models) if turned else models))
    assert plan.divergences.of("tiny") == [
        ("org--run@step1", "org--run@step1+nf4"),
        ("org--run@step1", "plain"),
    ]


def test_branches_and_tags_are_no_checkpoints(tmp_path: Path) -> None:
    revisions = ["main", "gptq-4bit", "v1.0", "step20", "step10"]
    plan = compared(tmp_path, {"id": "org/a", "revisions": revisions})
    assert plan.divergences.of("tiny") == [
        ("org--a@step10", "org--a@step20"),
        ("org--a@step20", "org--a@main"),
    ]


def test_merges_are_no_checkpoints_of_each_other(tmp_path: Path) -> None:
    assert compared(tmp_path, "org/a", "org/b", MIX).divergences.of("tiny") == []


def test_each_pair_is_compared_once_however_it_is_written(tmp_path: Path) -> None:
    pairs = [["org--q+int8", "org--q"], ["org--q", "org--q+int8"], ["org--q", "org--q"]]
    pairs += [["org--z", "org--q"], ["org--q", "org--z"]]
    plan = compared(tmp_path, QUANTISED, "org/z", how={"pairs": pairs})
    own = [("org--q", "org--q+int8"), ("org--q", "org--q+nf4")]
    assert plan.divergences.of("tiny") == [*own, ("org--q", "org--z")]
    plan = compared(tmp_path, QUANTISED, "org/z", how={"pairs": pairs, "own": False})
    assert plan.divergences.of("tiny") == [own[0], ("org--q", "org--z")]


def test_a_pair_is_compared_where_both_are_scored_but_on_no_selection(tmp_path: Path) -> None:
    texts = {
        **TINY,
        "mine": {"source": "file", "path": "a"},
        "fewer": {"source": "selection", "of": "tiny", "n": 50},
    }
    models = ["org/a", {"id": "org/b", "texts": "tiny", **OFF}, {"id": "org/c", "texts": "mine"}]
    models += [{"id": "org/d", "texts": "fewer"}, {"id": "org/e", "texts": "fewer"}]
    names = ["org--a", "org--b", "org--c"]
    pairs = [[names[i], names[j]] for i, j in ((0, 1), (0, 2), (1, 2))] + [["org--d", "org--e"]]
    plan = compared(tmp_path, *models, how={"pairs": pairs}, texts=texts)
    assert {name: plan.divergences.of(name) for name in texts} == {
        "tiny": [("org--a", "org--b")],
        "mine": [("org--a", "org--c")],
        "fewer": [],
    }


# How their jobs are named


def test_a_pair_is_named_by_all_that_decides_its_numbers(tmp_path: Path) -> None:
    plans = {
        "usual": compared(tmp_path, QUANTISED),
        "dtype": compared(tmp_path, QUANTISED, scoring={"dtype": "float32"}),
        "texts": compared(tmp_path, QUANTISED, texts={"tiny": {"source": "environment", "n": 50}}),
        "number": compared(tmp_path, QUANTISED, how={"texts": 100}),
    }
    files = {
        key: plan.divergences.file("tiny", *plan.divergences.of("tiny")[0])
        for key, plan in plans.items()
    }
    turned = compared(tmp_path, QUANTISED, how={"pairs": [["org--q+int8", "org--q"]]})
    assert turned.divergences.file("tiny", *turned.divergences.of("tiny")[0]) == files["usual"]
    assert len(set(files.values())) == len(plans)
    for key, plan in plans.items():
        pair = plan.divergences.of("tiny")[0]
        digits = fingerprint(json.loads(plan.divergences.spec("tiny", *pair)))
        assert files[key] == (f"{plan.results}/tiny/divergences/{pair[0]}~{pair[1]}.{digits}.h5")
        assert plan.divergences.asked("tiny", *pair, digits) == ("tiny", *pair)


def test_what_is_said_of_models_changes_no_name_of_a_pair(tmp_path: Path) -> None:
    said = {"on_map": False, "seed_group": "s", "family": "f"}
    plans = compared(tmp_path, QUANTISED), compared(tmp_path, {**QUANTISED, **said}, "org/z")
    names = [plan.divergences.file("tiny", "org--q", "org--q+int8") for plan in plans]
    assert names[0] == names[1]


def test_a_pair_that_was_edited_while_its_job_waited_is_refused(tmp_path: Path) -> None:
    plan = compared(tmp_path, QUANTISED)
    for texts, first, second in (
        ("tiny", "org--q", "org--q+int8"),
        ("tiny", "org--q+int8", "org--q"),
        ("tiny", "org--q", "org--gone"),
        ("gone", "org--q", "org--q+int8"),
    ):
        job = f"{texts}/divergences/{first}~{second}.{'0' * 12}.h5"
        with pytest.raises(ConfigError, match="Nothing was computed; run snakemake again") as told:
            plan.divergences.asked(texts, first, second, "0" * 12)
        assert job in str(told.value)
        assert str(told.value).startswith("config.yaml: ")


def test_both_models_of_a_pair_are_handed_over_in_its_order(tmp_path: Path) -> None:
    plan = compared(tmp_path, RUN, QUANTISED)
    runs, own = plan.divergences.of("tiny")[-1], plan.divergences.of("tiny")[0]
    assert plan.divergences.cards("tiny", *runs) == [
        plan.card("org--run@step30"),
        plan.card("org--run@step200"),
    ]
    assert plan.divergences.weights("tiny", *own) == [plan.weights("org--q")] * 2
    words = shlex.split(arguments.pair(plan.divergences, "tiny", *runs))
    assert words[:4] == ["--models", *runs, "--specs"]
    assert words[4:6] == [plan.spec("tiny", model) for model in runs]
    assert words[6:] == ["--number", "200"]


# What is there, and what is not


def test_a_comparison_is_there_when_it_is_no_older_than_what_it_was_made_from(
    tmp_path: Path,
) -> None:
    pair = "org--run@step4", "org--run@step30"
    plan = compared(tmp_path, RUN)
    path = plan.divergences.file("tiny", *pair)
    assert not plan.divergences.is_made("tiny", *pair)
    done(plan, path)
    assert plan.divergences.is_made("tiny", *pair)
    for newer in (*plan.divergences.cards("tiny", *pair), f"{plan.results}/tiny/texts.json"):
        done(plan, path)
        place(newer, 0)
        assert not plan.divergences.is_made("tiny", *pair), newer


def test_weights_are_needed_again_where_only_part_of_what_they_give_is_there(
    tmp_path: Path,
) -> None:
    whole = compared(tmp_path, QUANTISED)
    scores = [whole.score("tiny", model) for model in whole.config.by_slug]
    divergent = [whole.divergences.file("tiny", *pair) for pair in whole.divergences.of("tiny")]
    for made, partly in (
        ([], False),
        (scores[:1], True),
        (scores, True),
        (divergent[:1], True),
        ([*scores, divergent[0]], True),
        ([*scores, *divergent], False),
    ):
        for path in (*scores, *divergent):
            Path(path).unlink(missing_ok=True)
        done(whole, *made)
        plan = compared(tmp_path, QUANTISED)
        assert plan.is_partly_finished("org--q") is partly
        # Only a finished comparison whose weights come again needs no job.
        expected = {path for path in made if path in divergent} if partly else set()
        assert plan.divergences.handed_over("tiny") == expected


def test_parts_of_an_unfinished_merge_are_needed_again(tmp_path: Path) -> None:
    models = ["org/a", "org/b", "org/c", MIX]
    plan = planned(tmp_path, *models)
    done(plan, *(plan.score("tiny", f"org--{name}") for name in "abc"))
    plan = planned(tmp_path, *models)
    assert [plan.is_partly_finished(f"org--{name}") for name in "abc"] == [True, True, False]
    merges = ["merge--mix-0.75-0.25", "merge--mix-1-0"]
    done(plan, plan.score("tiny", merges[0]))
    plan = planned(tmp_path, *models)
    assert [plan.is_partly_finished(f"org--{name}") for name in "abc"] == [True, True, False]
    done(plan, plan.score("tiny", merges[1]))
    plan = planned(tmp_path, *models)
    assert not any(plan.is_partly_finished(source) for source in plan.config.by_source)


@pytest.mark.parametrize(
    "more",
    [
        {"id": "org/a", "quantization": "nf4"},
        {"id": "merge/other", "merge": {"of": ["org/a", "org/c"], "weights": [0.5, 0.5]}},
    ],
)
def test_a_finished_merge_is_handed_over_where_a_part_of_it_is_fetched_again(
    tmp_path: Path, more: dict[str, Any]
) -> None:
    """Else Snakemake would make its weights again, and the score after them."""
    models = ["org/a", "org/b", "org/c", MIX]
    plan = planned(tmp_path, *models)
    done(plan, *(plan.score("tiny", model) for model in plan.config.by_slug))
    plan = planned(tmp_path, *models, more)
    done(plan)
    partly = {
        entry.source
        for model, entry in plan.config.by_slug.items()
        if plan.is_finished("tiny", model) and plan.is_partly_finished(entry.source)
    }
    merges = {"merge--mix-0.75-0.25", "merge--mix-1-0"}
    of_other = {"org--c"} if "merge" in more else set()
    assert partly == {"org--a", *merges, *of_other}, "the other part is not needed"


def test_a_merge_is_as_old_as_what_is_known_of_its_parts(tmp_path: Path) -> None:
    models = ["org/a", "org/b", "org/c", MIX]
    plan = planned(tmp_path, *models)
    done(plan, *(plan.score("tiny", model) for model in plan.config.by_slug))
    place(plan.card("org--b"), 0)
    plan = planned(tmp_path, *models)
    finished = {model for model in plan.config.by_slug if plan.is_finished("tiny", model)}
    assert finished == {"org--a", "org--c"}


# Merges, checkpoints, layers


def test_a_merge_knows_its_parts_and_these_their_merges(tmp_path: Path) -> None:
    plan = planned(tmp_path, "org/a", "org/b", "org/c", MIX)
    merges = ["merge--mix-0.75-0.25", "merge--mix-1-0"]
    assert [plan.parts(merge) for merge in merges] == [["org--a", "org--b"]] * 2
    assert [plan.shares(merge) for merge in merges] == [[0.75, 0.25], [1.0, 0.0]]
    assert plan.merges_of == {"org--a": merges, "org--b": merges}
    assert not plan.parts("org--a")
    assert not plan.shares("org--a")
    assert arguments.merge(plan, merges[0]) == "--weights 0.75 0.25"
    assert arguments.merge(plan, merges[1]) == "--weights 1 0"


@pytest.mark.parametrize(
    "shares", [[1 / 3, 1 / 3, 1 / 3], [0.3333333] * 3, [1e-9, 0.5, 0.5 - 1e-9]]
)
def test_every_digit_of_a_share_is_handed_on(tmp_path: Path, shares: list[float]) -> None:
    of = ["org/a", "org/b", "org/c"]
    plan = planned(tmp_path, *of, {"id": "merge/x", "merge": {"of": of, "weights": shares}})
    (merge,) = (name for name in plan.config.by_slug if name.startswith("merge"))
    told = arguments.merge(plan, merge).removeprefix("--weights ").split()
    assert [float(word) for word in told] == shares


def test_three_revisions_are_a_run_and_get_a_sketch(tmp_path: Path) -> None:
    two = {"id": "org/two", "revisions": ["x", "y"], "quantizations": ["none", "nf4"]}
    plan = planned(tmp_path, {**RUN, **OFF}, two, "org/a", "org/b", MIX, QUANTISED)
    runs = {source for source in plan.config.by_source if plan.is_checkpoint(source)}
    assert runs == {f"org--run@{revision}" for revision in RUN["revisions"]}
    told = {source: arguments.extras(plan, source) for source in plan.config.by_source}
    assert {source for source, words in told.items() if words == "--sketch true"} == runs
    assert {words for source, words in told.items() if source not in runs} == {""}


def test_hidden_states_count_as_models_of_a_map(tmp_path: Path) -> None:
    plain = planned(tmp_path, "org/a").models_on("tiny")
    layers = planned(tmp_path, "org/a", {"id": "org/b", "layers": [0, 3, 9]}).models_on("tiny")
    every = planned(tmp_path, "org/a", {"id": "org/b", "layers": "all"}).models_on("tiny")
    off = planned(tmp_path, "org/a", {"id": "org/b", "layers": "all", **OFF}).models_on("tiny")
    assert (plain, layers, off) == (1, 1 + 1 + 3, 1)
    assert every > layers


def looked_up(plan: Plan, parameters: int = 2_000_000_000) -> None:
    """Cards of all models of a plan."""
    for source in plan.config.by_source:
        card = Card(id=source, commit="0" * 40, parameters=parameters, bytes=2 * parameters)
        place(plan.card(source), 9, json.dumps(asdict(card)))


def test_layers_ask_for_more_time_and_nothing_else(tmp_path: Path) -> None:
    plan = planned(tmp_path, "org/a", {"id": "org/b", "layers": "all"})
    looked_up(plan)
    submission = Submission(plan, dict)
    plain, layers = (submission.request("tiny", model) for model in ("org--a", "org--b"))
    assert layers.minutes > plain.minutes
    assert (layers.gpus, layers.cpus, layers.memory) == (plain.gpus, plain.cpus, plain.memory)


def test_a_pair_asks_for_room_for_both_models(tmp_path: Path) -> None:
    plan = compared(tmp_path, QUANTISED)
    looked_up(plan)
    submission = Submission(plan, dict)
    one, other = (submission.request("tiny", model) for model in plan.divergences.of("tiny")[0])
    both = submission.pair(plan.divergences, "tiny", *plan.divergences.of("tiny")[0])
    assert (both.gpus, both.memory) == (1, one.memory + other.memory), "small ones share a GPU"
    assert both.minutes >= max(one.minutes, other.minutes)
    assert not both.refusal


@pytest.mark.parametrize(("most", "refused"), [(0, False), (2, True), (3, False)])
def test_a_pair_too_large_for_the_gpus_is_refused_with_the_fix(
    tmp_path: Path, most: int, refused: bool
) -> None:
    plan = compared(tmp_path, QUANTISED, hardware={"max_gpus": most})
    looked_up(plan, 55_000_000_000)  # 110 GB and 61 GB, on GPUs of 80 GB
    found = Submission(plan, dict).pair(plan.divergences, "tiny", "org--q", "org--q+int8")
    assert bool(found.refusal) is refused
    if refused:
        assert found.gpus == 0
        assert "org--q and org--q+int8 together need 3 GPUs" in found.refusal
        assert "hardware.max_gpus is 2" in found.refusal
        assert "analyses.true_kl" in found.refusal


def test_a_pair_with_a_model_that_is_too_large_alone_says_so(tmp_path: Path) -> None:
    plan = compared(tmp_path, QUANTISED, hardware={"max_gpus": 1})
    looked_up(plan, 400_000_000_000)
    submission = Submission(plan, dict)
    alone = submission.request("tiny", "org--q").refusal
    assert alone
    both = submission.pair(plan.divergences, "tiny", "org--q", "org--q+int8")
    assert both.refusal == alone


# Tables


def test_a_plain_configuration_has_the_index_that_it_had_before(tmp_path: Path) -> None:
    """Snakemake compares these letter by letter: another one would draw every map again."""
    plan = planned(
        tmp_path, "org/a", {"id": "org/b", "family": "mine", "quantization": "nf4"}, "org/a@x"
    )
    prints = {name: plan.score("tiny", name).split(".")[-2] for name in plan.config.by_slug}
    assert plan_tables.index_rows(plan, "tiny") == [
        f"org--a\torg--a\t{prints['org--a']}\torg/a\t\t\t",
        f"org--a@x\torg--a@x\t{prints['org--a@x']}\torg/a\tx\t\t",
        f"org--b+nf4\torg--b\t{prints['org--b+nf4']}\torg/b\t\tmine\tnf4",
    ]
    assert plan_tables.offmap_rows(plan, "tiny") == []
    assert prints["org--a"] == "a0555496d96a"


def rows_of(rows: list[str]) -> dict[str, dict[str, str]]:
    """Rows of an index by model, as columns and cells."""
    return {
        row.split("\t")[0]: dict(zip(COLUMNS + GIVEN, row.split("\t"), strict=False))
        for row in rows
    }


def test_what_is_said_of_models_stands_in_columns_of_its_own(tmp_path: Path) -> None:
    plan = planned(
        tmp_path,
        "org/plain",
        {"id": "org/child", "parent": "org/p"},
        {"id": "org/merged", "merge_of": ["org/p", "org/q@x"]},
        {"id": "org/all", "layers": "all", "seed_group": "seeds"},
        {"id": "org/some", "layers": [0, 7], "size_group": "sizes"},
    )
    found = rows_of(plan_tables.index_rows(plan, "tiny"))
    assert {len(row) for row in found.values()} == {len(COLUMNS + GIVEN)}
    given = {name: tuple(row[key] for key in GIVEN) for name, row in found.items()}
    assert given == {
        "org--plain": ("", "", "", "", ""),
        "org--child": ("", "org/p", "", "", ""),
        "org--merged": ("", "org/p,org/q@x", "merge", "", ""),
        "org--all": ("all", "", "", "seeds", ""),
        "org--some": ("0,7", "", "", "", "sizes"),
    }


def test_off_the_map_is_not_in_the_index_and_says_nothing_there(tmp_path: Path) -> None:
    plain = planned(tmp_path, "org/a")
    plan = planned(tmp_path, "org/a", {"id": "org/b", "layers": [1], **OFF})
    assert plan_tables.index_rows(plan, "tiny") == plan_tables.index_rows(plain, "tiny")
    assert list(rows_of(plan_tables.offmap_rows(plan, "tiny"))) == ["org--b"]
    scored = [row.split("\t")[0] for row in plan_tables.score_rows(plan)]
    assert scored == ["org--a", "org--b"]
    assert [row.split("\t")[0] for row in plan_tables.source_rows(plan)] == ["org--a", "org--b"]


# Products


def test_files_off_the_map_are_there_where_a_model_is(tmp_path: Path) -> None:
    texts = {**TINY, "mine": {"source": "file", "path": "a"}}
    plan = planned(tmp_path, "org/a", {"id": "org/b", "texts": "tiny", **OFF}, texts=texts)
    where = f"{plan.results}/tiny"
    assert products.index_files(plan, "tiny") == [f"{where}/index.tsv", f"{where}/offmap-index.tsv"]
    assert products.offmap(plan, "tiny") == [f"{where}/offmap.h5"]
    assert products.offmap_models(plan, "tiny") == [f"{where}/offmap.tsv"]
    assert products.index_files(plan, "mine") == [f"{plan.results}/mine/index.tsv"]
    assert products.offmap(plan, "mine") == products.offmap_models(plan, "mine") == []


def test_analyses_without_material_are_left_out(tmp_path: Path) -> None:
    names = ["scale", "trajectories", "merges", "quantization", "true_kl"]
    asked = dict.fromkeys(names)

    def found(*models: Any, **keys: Any) -> set[str]:
        plan = planned(tmp_path, *models, analyses=asked, **keys)
        return {
            re.sub(r".*/results/", "", str(Path(x).parent)) for x in products.analysis_files(plan)
        }

    always = {"tiny/scale", "tiny/merges", "tiny/quantization"}
    assert found("org/a", "org/b") == always
    assert found("org/a", RUN) == {*always, "tiny/trajectories", "tiny/true_kl"}
    assert found("org/a", {**RUN, **OFF}) == {*always, "tiny/trajectories", "tiny/true_kl"}
    assert found("org/a", QUANTISED) == {*always, "tiny/true_kl"}
    fewer = {**TINY, "fewer": {"source": "selection", "of": "tiny", "n": 50}}
    assert {name for name in found("org/a", RUN, texts=fewer) if "fewer" in name} == {"fewer/scale"}


def test_checkpoints_are_drawn_where_there_are_some_on_a_map(tmp_path: Path) -> None:
    three = {"id": "org/q", "quantizations": ["none", "int8", "nf4"]}
    for models, drawn in (([three], False), ([RUN], True), (["org/a", {**RUN, **OFF}], False)):
        assert ("checkpoints" in products.figure_names(planned(tmp_path, *models))) is drawn


def test_arguments_of_the_scale_are_the_same_to_the_letter(tmp_path: Path) -> None:
    plan = planned(tmp_path, "org/a")
    assert arguments.scale(plan.config) == (
        "--early-until auto --pairs 20000 --bootstrap 200 --seed 42"
    )
    assert arguments.trajectories(plan.config) == (
        "--from-step 2000 --drop 0.03 --ahead 10 --bootstrap 1000 --seed 42"
    )
    told = {"scale": {"early_until": 2500.5}, "trajectories": {"from_step": 1_234_567}}
    asked = planned(tmp_path, "org/a", analyses=told).config
    assert arguments.scale(asked).startswith("--early-until 2500.5 ")
    assert arguments.trajectories(asked).startswith("--from-step 1234567 ")


def test_without_the_analysis_there_are_no_pairs() -> None:
    config = Config.model_validate({"texts": TINY, "models": ["org/a"]})
    assert divergences.pairs(config, "tiny") == []
