"""Mixtures on real Snakemake: a twin of the example, and what is computed and trained again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from klmap import store, store_score
from klmap.files import read_tsv
from klmap.products import ANALYSES
from tests.project import Project
from tests.prompts_project import (
    PROBES,
    QUICK_MAP,
    assert_complete,
    number,
    rows,
    settings,
    twins,
)

pytestmark = pytest.mark.workflow

KNOWN = {"python": 0.5, "licences": 0.3, "docstrings": 0.2, "headers": 0.0}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The finished twins. Copy them before any change."""
    return twins(tmp_path_factory)


@pytest.fixture(scope="module")
def folder(made: Project) -> Path:
    """What belongs to the texts on which mixtures are looked for."""
    return made.folder / "results/demo"


# What the example makes


def test_everything_that_the_example_promises_is_there(made: Project, folder: Path) -> None:
    for analysis in ("mixture", "mixture_check"):
        assert_complete(folder / analysis, *map(list, ANALYSES[analysis]))
    assert {path.name for path in (folder / "mixture_train").iterdir()} == {
        "mixed-found",
        "mixed-uniform",
    }
    for path in (folder / "mixture_train").rglob("*.h5"):
        score = store_score.read_score(path)
        assert (score.status, len(score.loglik)) == ("ok", 400)
    assert not (made.folder / "results/continuations/mixture").exists()
    assert made.planned() == {}


def weights(made: Project, plan: str) -> dict[str, dict[str, str]]:
    """Lines of one plan, by domain."""
    found = rows(made, "demo/mixture/weights.tsv")
    return {row["domain"]: row for row in found if row["plan"] == plan}


def test_the_mixture_that_a_model_was_trained_on_is_found_again(made: Project) -> None:
    found = weights(made, "mixed")
    assert {*found} == {*PROBES}
    for domain, row in found.items():
        assert row["probe"] == f"demo--gpt2-probe-{domain}"
        assert number(row, "known") == KNOWN[domain]
        assert abs(number(row, "weight") - KNOWN[domain]) < 0.1
        assert number(row, "low") <= number(row, "weight") <= number(row, "high")
    assert sum(number(row, "weight") for row in found.values()) == pytest.approx(1, abs=1e-4)


def test_a_target_of_another_tokenizer_and_texts_as_directions_say_which_domain(
    made: Project,
) -> None:
    def heaviest(plan: str) -> str:
        return max(weights(made, plan).items(), key=lambda item: number(item[1], "weight"))[0]

    assert heaviest("code") == "python"
    assert {*weights(made, "cheap")} > {*PROBES}, "every domain of the texts"
    assert {row["probe"] for row in weights(made, "cheap").values()} == {""}
    plans = {row["plan"]: row for row in rows(made, "demo/mixture/plans.tsv")}
    directions = {name: row["directions"] for name, row in plans.items()}
    assert directions == {"mixed": "probes", "code": "probes", "cheap": "texts"}
    assert number(plans["mixed"], "cosine") > number(plans["code"], "cosine")
    for row in plans.values():
        assert number(row, "cosine") > number(row, "cosine_uniform")
        assert number(row, "kl_end") < number(row, "kl")


def test_what_is_trained_under_the_mixture_ends_nearer_than_under_a_uniform_one(
    made: Project, folder: Path
) -> None:
    found = {row["kind"]: row for row in rows(made, "demo/mixture_check/check.tsv")}
    assert [*found] == ["base", "uniform", "found"]
    assert number(found["found"], "kl") < number(found["uniform"], "kl") / 2
    assert number(found["uniform"], "kl") < number(found["base"], "kl")
    assert number(found["found"], "nearer") > 2 * number(found["found"], "nearer_se")
    distances = store.read_distances(folder / "kl.h5")
    assert distances.kl is not None
    pair = [distances.model.index(f"demo--gpt2-{name}") for name in ("base", "mixed")]
    expected = distances.kl[pair[0], pair[1]]
    assert number(found["base"], "kl") == pytest.approx(expected, rel=1e-3)


def test_probes_are_on_no_map_and_the_page_shows_the_ways(folder: Path) -> None:
    drawn = {row["model"] for row in read_tsv(folder / "models.tsv")}
    assert not {name for name in drawn if "probe" in name}
    ways = read_tsv(folder / "mixture/ways.tsv")
    assert {row["group"]: row["model"] for row in ways} == dict.fromkeys(
        ("cheap", "code", "mixed"), "demo--gpt2-base"
    )
    page = (folder / "map.html").read_text()
    assert all(f'"key":"mixture/{plan}"' in page for plan in ("cheap", "code", "mixed"))
    places = {row["model"]: row for row in read_tsv(folder / "layout.tsv")}
    for way in (row for row in ways if row["step"] == "0"):
        begin = [number(way, axis) for axis in "xy"]
        stands = [number(places[way["model"]], axis) for axis in "xy"]
        np.testing.assert_allclose(begin, stands, atol=1e-4)


# What is computed again


@pytest.fixture
def project(made: Project, tmp_path: Path) -> Project:
    """The finished project of one's own."""
    return made.copy(tmp_path / "klmap")


FOUND = {"mixture": 1, "explorer": 1}
TRAINED = {"mixture_train": 2, "mixture_check": 1}
"""What follows where the weights of the mixture that is checked are written again."""


def ask(project: Project, order: int = 1, **plans: dict[str, Any] | None) -> None:
    """Change keys of plans; None takes a plan away."""
    analyses = settings()["analyses"]
    given = analyses["mixture"]["plans"]
    for name, keys in plans.items():
        given[name] = None if keys is None else {**given.get(name, {}), **keys}
    kept = [(name, plan) for name, plan in given.items() if plan is not None]
    analyses["mixture"]["plans"] = dict(kept[::order])
    project.configure(analyses=analyses)


def test_another_order_of_plans_does_nothing(project: Project) -> None:
    ask(project, order=-1)
    assert project.planned() == {}


def test_a_new_question_is_answered_from_the_scores_that_are_there(project: Project) -> None:
    ask(project, more={"base": "demo/llama-base", "target": "demo/llama-code", "texts": "demo"})
    assert project.planned() == {**FOUND, **TRAINED}


def test_another_target_or_fewer_probes_take_no_scoring(project: Project) -> None:
    probes = {name: f"demo/gpt2-probe-{name}" for name in PROBES[1:]}
    ask(project, mixed={"probes": probes}, code=None)
    assert project.planned() == {**FOUND, **TRAINED}


def test_a_check_trains_its_own_models_alone(project: Project) -> None:
    ask(project, code={"check": True})
    assert project.planned() == {"mixture_train": 2, "mixture_check": 1}


def test_without_its_check_a_mixture_stays(project: Project) -> None:
    ask(project, mixed={"check": False})
    assert project.planned() == {}


def test_the_look_of_the_map_scores_nothing(project: Project) -> None:
    project.configure(map={**QUICK_MAP, "color_by": "architecture"})
    assert project.planned() == {"figures": 3}


def test_a_probe_that_is_new_is_scored_alone_on_its_texts(project: Project) -> None:
    entry = {"id": "demo/gpt2-base@step150", "texts": "demo", "on_map": False}
    project.configure(models=[*settings()["models"], entry])
    ask(project, mixed={"base": "demo/gpt2-base@step150"})
    expected = {"resolve": 1, "fetch": 1, "score": 1, "offmap_index": 1, "offmap": 1}
    assert project.planned() == {**expected, **FOUND, **TRAINED}


def test_other_texts_are_scored_and_what_is_trained_is_scored_on_them(project: Project) -> None:
    texts = settings()["texts"]
    project.configure(texts={**texts, "demo": {**texts["demo"], "n": 300}})
    planned = project.planned()
    assert {name: planned[name] for name in ("texts", "score", "mixture_train")} == {
        "texts": 1,
        "score": 8,
        "mixture_train": 2,
    }
    assert not {"variant", "prompts", "zoo_train"} & {*planned}
