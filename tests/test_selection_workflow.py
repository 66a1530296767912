"""Fewer texts, on real Snakemake: drawn once, scored alone, drawn among the models of all texts."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file, save_file

from klmap import store, store_score
from klmap.files import read_json, read_tsv
from tests.builders import tiny_model, tiny_texts
from tests.project import AGGREGATION, Project, copy_clone
from tests.release import make_release
from tests.slurm_cluster import Cluster
from tests.slurm_project import Clone, one_node

pytestmark = pytest.mark.workflow

MAP = {**AGGREGATION, "ellipses": 1}
SCORED = {"resolve": 1, "fetch": 1, "score": 1}
TINY = {"source": "file", "path": "texts.jsonl"}
FEWER = {"source": "selection", "of": "tiny", "n": 16}
REFERENCE = [
    "./models/a",
    "./models/b",
    "./models/c",
    {"id": "./models/b", "quantization": "nf4"},
    {"id": "./models/c", "quantization": "nf4"},
]
"""As many as t-SNE needs, so that places are kept to the last digit."""
ADDED = {"id": "./models/d", "texts": "fewer"}
MAP_SETTINGS = {"bootstrap": 5, "iterations": 500, "ellipses": True}
SETTINGS = {"scoring": {"dtype": "float32"}, "map": MAP_SETTINGS}
OF_ALL = ["models--a", "models--b", "models--b+nf4", "models--c", "models--c+nf4"]

Files = dict[str, tuple[int, bytes]]


def make_clone(folder: Path) -> Project:
    """A clone with forty texts, and the models of a reference before anything is selected."""
    project = copy_clone(folder)
    kinds = {"a": "gpt2", "b": "llama", "c": "gpt_neox", "d": "gpt2", "e": "llama"}
    for seed, (name, kind) in enumerate(kinds.items()):
        tiny_model(folder / "models" / name, kind, seed=seed)
    tiny_texts(folder / "texts.jsonl", n=40)
    project.configure(texts={"tiny": TINY}, models=REFERENCE, **SETTINGS)
    return project


def configure(project: Project, *models: object, **selection: object) -> None:
    """Let a reference and its selection be made by one configuration, with more models."""
    texts = {"tiny": TINY, "fewer": {**FEWER, **selection}}
    project.configure(texts=texts, models=[*REFERENCE, ADDED, *models])


def contents(folder: Path) -> Files:
    """Time stamp and bytes of every file below a folder."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@dataclass
class Steps:
    """A map that was finished before one model joined it by fewer texts.

    Attributes:
        project: after both runs; copy it before changing anything.
        reference: files of the reference after the first run.
        planned: jobs of the second run.
        announced: what a dry run of it said.
    """

    project: Project
    reference: Files
    planned: dict[str, int]
    announced: str

    @property
    def folder(self) -> Path:
        return self.project.folder / "results"


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> Steps:
    project = make_clone(tmp_path_factory.mktemp("selection") / "klmap")
    project.run()
    reference = contents(project.folder / "results/tiny")
    configure(project)
    planned = project.planned()
    announced = project.snakemake("--dry-run").stdout
    project.run()
    return Steps(project, reference, planned, announced)


@pytest.fixture
def project(steps: Steps, tmp_path: Path) -> Project:
    return steps.project.copy(tmp_path / "klmap")


def places(folder: Path) -> dict[str, dict[str, str]]:
    """Rows of layout.tsv by model."""
    return {row["model"]: row for row in read_tsv(folder / "layout.tsv")}


def is_within(before: Mapping[str, object], after: Mapping[str, object]) -> bool:
    """Whether all of one table stands in another one, to the letter."""
    return {name: after.get(name) for name in before} == before


def is_alike(first: Path, second: Path) -> bool:
    """Whether two tables differ by rounding alone.

    A model that is scored again differs by that: the library for its products is chosen by timing.
    """
    rows = [read_tsv(path) for path in (first, second)]
    if [list(row) for row in rows[0]] != [list(row) for row in rows[1]]:
        return False
    return all(
        one[key] == other[key]
        or key == "noise_nats"
        or float(one[key]) == pytest.approx(float(other[key]), rel=1e-3, abs=1e-3)
        for one, other in zip(*rows, strict=True)
        for key in one
    )


def kl(folder: Path) -> dict[tuple[str, str], float]:
    """KL of every pair, bits per byte."""
    found = store.read_distances(folder / "kl.h5")
    assert found.kl is not None
    return {
        (first, second): float(found.kl[i, j])
        for i, first in enumerate(found.model)
        for j, second in enumerate(found.model)
    }


# In one configuration


def test_only_the_selection_its_model_and_its_map_are_made(steps: Steps) -> None:
    assert steps.planned == {"selection": 1, **SCORED, **MAP}


def test_the_dry_run_says_who_is_on_the_map_without_a_score(steps: Steps) -> None:
    assert (
        "Texts fewer, 6 models:\n"
        "  of the reference     5  tiny, by all of its texts\n"
        "  new                  1  models--d\n"
    ) in steps.announced
    assert "Texts tiny, 5 models:\n  scored already       5\n" in steps.announced
    assert steps.announced.count("to be drawn") == 1


def test_no_file_of_the_reference_is_touched(steps: Steps) -> None:
    assert contents(steps.folder / "tiny") == steps.reference


def test_the_added_model_is_scored_on_the_chosen_texts_alone(steps: Steps) -> None:
    manifest = read_json(steps.folder / "fewer/texts.json")
    assert manifest["n"] < 40
    (path,) = (steps.folder / "fewer/scores").iterdir()
    score = store_score.read_score(path)
    assert (score.model, len(score.loglik)) == ("models--d", manifest["n"])
    with h5py.File(path) as file:
        assert file.attrs["selection"] == manifest["selection"]["fingerprint"]


def test_all_models_are_on_the_map_and_say_on_how_many_texts_they_were_scored(
    steps: Steps,
) -> None:
    chosen = read_json(steps.folder / "fewer/texts.json")["n"]
    rows = read_tsv(steps.folder / "fewer/models.tsv")
    assert [(row["model"], row["texts"]) for row in rows] == [
        *((name, "40") for name in OF_ALL),
        ("models--d", str(chosen)),
    ]
    of_all = {row["model"]: row for row in read_tsv(steps.folder / "tiny/models.tsv")}
    assert [row for row in rows if row["model"] != "models--d"] == list(of_all.values())
    page = (steps.folder / "fewer/map.html").read_text()
    assert all(row["model"] in page for row in rows)
    assert (steps.folder / "fewer/figures/map.png").stat().st_size > 10_000


def test_models_of_the_reference_keep_places_and_distances_to_the_last_digit(steps: Steps) -> None:
    before, after = places(steps.folder / "tiny"), places(steps.folder / "fewer")
    assert set(after) - set(before) == {"models--d"}
    assert is_within(before, after)
    assert kl(steps.folder / "tiny").items() <= kl(steps.folder / "fewer").items()


# What is computed again


def test_a_second_run_has_nothing_to_do(project: Project) -> None:
    assert project.planned() == {}
    assert not project.leftovers()


@pytest.mark.parametrize("change", [{"n": 12}, {"seed": 7}, {"replacement": False}])
def test_another_draw_scores_the_added_model_again_and_nobody_else(
    project: Project, change: dict[str, object]
) -> None:
    configure(project, **change)
    assert project.planned() == {"selection": 1, "fetch": 1, "score": 1, **MAP}


def test_another_draw_is_made_where_the_map_of_the_reference_is_made_again_too(
    project: Project,
) -> None:
    configure(project, n=12)
    project.configure(map={**MAP_SETTINGS, "clip_threshold": -500.0})
    both = {**dict.fromkeys(MAP, 2), "index": 1}
    assert project.planned() == {"selection": 1, "fetch": 1, "score": 1, **both}


def test_what_was_drawn_stays_where_another_draw_fails(steps: Steps, project: Project) -> None:
    configure(project, n=41, replacement=False)
    said = project.run("results/fewer/texts.json", check=False)
    assert "texts.fewer: 41 texts are asked for without replacement, of 40" in said
    configure(project)
    assert project.planned() == {}
    assert contents(project.folder / "results/fewer") == contents(steps.folder / "fewer")


def test_one_more_added_model_costs_its_own_jobs_and_the_map_of_the_selection(
    project: Project,
) -> None:
    configure(project, {"id": "./models/e", "texts": "fewer"})
    assert project.planned() == {**SCORED, **MAP}


def test_an_added_model_that_leaves_draws_the_map_of_the_selection_alone(project: Project) -> None:
    configure(project)
    project.configure(models=REFERENCE)
    assert project.planned() == MAP


def test_an_added_model_that_joins_the_reference_is_scored_on_all_texts(project: Project) -> None:
    configure(project)
    project.configure(models=[*REFERENCE, "./models/d"])
    both = dict.fromkeys(MAP, 2)
    assert project.planned() == {"fetch": 1, "score": 1, **both}


def test_a_selection_without_models_of_its_own_is_no_concern_of_its_reference(
    project: Project,
) -> None:
    project.configure(texts={"tiny": TINY}, models=REFERENCE)
    assert project.planned() == {}


def test_settings_of_the_map_redraw_and_select_nothing(project: Project) -> None:
    project.configure(map={**MAP_SETTINGS, "seed": 1})
    drawn = ("layout", "tree", "domains", "ellipses", "figures", "explorer")
    assert project.planned() == dict.fromkeys(drawn, 2)


def test_other_texts_of_the_reference_are_another_selection(project: Project) -> None:
    project.configure(texts={"tiny": {**TINY, "n": 30}, "fewer": FEWER})
    both = dict.fromkeys(MAP, 2)
    assert project.planned() == {"texts": 1, "selection": 1, "fetch": 4, "score": 6, **both}


def test_touching_checking_out_and_lost_metadata_rerun_nothing(project: Project) -> None:
    for part in ("Snakefile", "rules", "scripts", "profiles", "config.yaml"):
        path = project.folder / part
        for file in [path, *path.rglob("*")]:
            os.utime(file)
    assert project.planned() == {}
    shutil.rmtree(project.folder / ".snakemake")
    assert project.planned() == {}


def test_a_reference_that_grows_draws_no_other_selection(steps: Steps, project: Project) -> None:
    configure(project, "./models/e")
    both = dict.fromkeys(MAP, 2)
    assert project.planned() == {**SCORED, **both}
    project.run("results/fewer/layout.tsv")
    folder = project.folder / "results"
    for name in ("selection.h5", "texts.jsonl", "texts.json"):
        assert contents(folder / "fewer")[name] == contents(steps.folder / "fewer")[name]
    assert project.scores("fewer") == steps.project.scores("fewer")
    before, after = places(folder / "tiny"), places(folder / "fewer")
    assert set(before) == {*OF_ALL, "models--e"}
    assert is_within(before, after), "on the new map of the reference"
    assert set(after) - set(before) == {"models--d"}
    left = ("tree", "domains", "ellipses", "figures", "explorer")
    assert project.planned() == dict.fromkeys(left, 2)


def test_an_added_model_that_fails_is_listed_and_the_others_are_drawn(project: Project) -> None:
    path = project.folder / "models/e/model.safetensors"
    tensors = {name: np.full_like(value, np.nan) for name, value in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})
    project.configure(on_model_failure="skip")
    configure(project, {"id": "./models/e", "texts": "fewer"})
    project.run("results/fewer/matrix.h5")
    folder = project.folder / "results"
    (failed,) = read_tsv(folder / "fewer/failures.tsv")
    assert (failed["model"], "finite" in failed["reason"]) == ("models--e", True)
    assert read_tsv(folder / "tiny/failures.tsv") == []
    rows = read_tsv(folder / "fewer/models.tsv")
    assert {row["model"] for row in rows} == {*OF_ALL, "models--d"}


# In a configuration of its own


def other(project: Project, **keys: Any) -> tuple[str, str]:
    """Options of a run by a configuration that knows new models alone."""
    keys = {"results": "results", "models": ["./models/d"], **SETTINGS, **keys}
    (project.folder / "other.yaml").write_text(yaml.safe_dump(keys))
    return "--configfile", "other.yaml"


def test_the_same_selection_is_known_in_a_configuration_without_its_reference(
    project: Project,
) -> None:
    assert project.planned(*other(project, texts={"fewer": FEWER})) == {}


def test_the_same_results_can_have_a_selection_by_another_configuration(
    steps: Steps, project: Project
) -> None:
    options = other(project, texts={"dozen": {**FEWER, "n": 12}}, models=["./models/e"])
    assert project.planned(*options) == {"selection": 1, **SCORED, **MAP}
    project.run("results/dozen/kl.h5", *options)
    assert contents(project.folder / "results/tiny") == steps.reference
    assert contents(project.folder / "results/fewer") == contents(steps.folder / "fewer")
    found = kl(project.folder / "results/dozen")
    assert kl(steps.folder / "tiny").items() <= found.items()
    assert ("models--a", "models--e") in found
    assert project.planned() == {}, "and the configuration of the reference is none the wiser"


def test_the_reference_can_lie_anywhere_and_have_the_name_of_its_selection(
    steps: Steps, project: Project
) -> None:
    (project.folder / "results").rename(project.folder / "old maps")
    texts = {"tiny": {**FEWER, "of": "old maps/tiny"}}
    options = other(project, results="mine", texts=texts)
    assert project.planned(*options) == {"selection": 1, **SCORED, **MAP}
    project.run("mine/tiny/layout.tsv", "mine/tiny/ellipses.tsv", *options)
    assert contents(project.folder / "old maps/tiny") == steps.reference
    mine = project.folder / "mine/tiny"
    for name in ("selection.h5", "texts.jsonl"):
        assert (mine / name).read_bytes() == (steps.folder / "fewer" / name).read_bytes()
    for name in ("models.tsv", "layout.tsv", "ellipses.tsv"):
        assert is_alike(mine / name, steps.folder / "fewer" / name)
    assert {path.name for path in (project.folder / "mine").iterdir()} == {"tiny", "models"}
    left = ("tree", "domains", "figures", "explorer")
    assert project.planned(*options) == dict.fromkeys(left, 1)


def test_a_reference_that_is_not_there_is_told_before_anything_runs(project: Project) -> None:
    options = other(project, results="mine", texts={"fewer": {**FEWER, "of": "pile"}})
    done = project.snakemake("--cores", "1", *options, check=False)
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert "texts.fewer.of: no text set 'pile' is configured here, and mine/pile" in said
    assert "run the configuration that makes it first" in said
    assert "Traceback" not in said
    assert not (project.folder / "mine").exists()


# A selection that was drawn elsewhere


def test_a_selection_that_was_drawn_before_gives_the_same_texts(
    steps: Steps, project: Project
) -> None:
    shutil.copy2(steps.folder / "fewer/selection.h5", project.folder / "drawn.h5")
    again = {"source": "selection", "of": "tiny", "path": "drawn.h5"}
    options = other(project, texts={"again": again})
    assert project.planned(*options) == {"selection": 1, "fetch": 1, "score": 1, **MAP}
    project.run("results/again/matrix.h5", *options)
    first, second = steps.folder / "fewer", project.folder / "results/again"
    assert (second / "texts.jsonl").read_bytes() == (first / "texts.jsonl").read_bytes()
    described = [read_json(folder / "texts.json")["selection"] for folder in (first, second)]
    assert described[0]["fingerprint"] == described[1]["fingerprint"]
    assert is_alike(second / "models.tsv", first / "models.tsv")
    with h5py.File(first / "matrix.h5") as drawn, h5py.File(second / "matrix.h5") as taken:
        for name in drawn:
            if name in ("L", "Q"):
                np.testing.assert_allclose(taken[name][()], drawn[name][()], rtol=1e-4, atol=1e-3)
            elif name != "noise":
                np.testing.assert_array_equal(taken[name][()], drawn[name][()])


def test_a_selection_of_another_reference_is_refused_and_leaves_nothing_behind(
    steps: Steps, project: Project
) -> None:
    shutil.copy2(steps.folder / "fewer/selection.h5", project.folder / "drawn.h5")
    with h5py.File(project.folder / "drawn.h5", "r+") as file:
        file.attrs["texts_sha256"] = "0123456789ab" + "0" * 52
    again = {"source": "selection", "of": "tiny", "path": "drawn.h5"}
    options = other(project, texts={"again": again})
    done = project.snakemake("--cores", "1", "results/again/texts.json", *options, check=False)
    assert done.returncode != 0
    log = (project.folder / "logs/selection/again.log").read_text()
    digits = read_json(steps.folder / "tiny/texts.json")["sha256"][:12]
    assert "drawn.h5: selection of another reference" in log
    assert "0123456789ab" in log
    assert digits in log
    assert "Traceback" not in log
    assert [path for path in (project.folder / "results/again").rglob("*") if path.is_file()] == []
    assert not project.leftovers()


# A release as the reference


def test_own_models_stand_on_the_map_of_a_release_by_fewer_texts(tmp_path: Path) -> None:
    project = copy_clone(tmp_path / "klmap")
    release = make_release(project.folder / "release", models=60, texts=150)
    tiny_model(project.folder / "mine", "llama", seed=3)
    project.configure(
        texts={
            "pile": {"source": "file", "path": "release/texts.jsonl",
                     "domain_field": "pile_set_name"},
            "fewer": {"source": "selection", "of": "pile", "method": "kl", "n": 50},
        },
        published={"lab": {"texts": "pile", "loglik": "release/raw_log-likelihood_60.pkl",
                           "metadata": "release/model-data-60.pkl", "models": 60,
                           "allow": ["dtype"]}},
        models=[{"id": "./mine", "name": "mine", "texts": "fewer"}],
        scoring={"dtype": "float32", "overlength": "truncate"},
        map={"iterations": 500, "bootstrap": 0, "domains": False},
        analyses={"predict": {"seeds": 1}},
    )  # fmt: skip
    asked = [f"results/fewer/{name}" for name in ("map.html", "predict/accuracy.tsv")]
    project.run(*asked)
    folder = project.folder / "results"
    before, after = places(folder / "pile"), places(folder / "fewer")
    assert len(before) == 60
    assert is_within(before, after)
    assert set(after) - set(before) == {"mine"}
    rows = read_tsv(folder / "fewer/predict/predictions.tsv")
    predicted = {row["task"]: row["predicted"] for row in rows if row["model"] == "mine"}
    assert set(predicted) == set(release.tasks)
    assert np.isfinite([float(value) for value in predicted.values()]).all()
    (difference,) = read_tsv(folder / "fewer/conventions.tsv")
    assert (difference["model"], difference["release"]) == ("mine", "lab")
    matrix = store.read_matrix(folder / "fewer/matrix.h5")
    assert matrix.clip_threshold == store.read_matrix(folder / "pile/matrix.h5").clip_threshold
    page = (folder / "fewer/map.html").read_text()
    assert '"mine"' in page
    assert "6-TaskMean, predicted" in page


# On a cluster


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """One node with a GPU."""
    yield from one_node(1)


@pytest.mark.usefixtures("cluster")
def test_reference_selection_and_added_model_end_in_one_run_on_slurm(tmp_path: Path) -> None:
    """Jobs in one allocation must not wait for what waits for it."""
    project = make_clone(tmp_path / "klmap")
    project.configure(
        models=REFERENCE[:2],
        map={**MAP_SETTINGS, "ellipses": False, "bootstrap": 0, "domains": False},
        hardware={"max_gpus": 1},
    )
    project.run("scores")
    clone = Clone.of(project)
    clone.configure(texts={"tiny": TINY, "fewer": FEWER}, models=[*REFERENCE[:2], ADDED])
    head = clone.head()
    assert head.wait() == 0, head.output
    assert set(places(clone.folder / "results/fewer")) == {f"models--{name}" for name in "abd"}
    drawn = [job.comment for job in head.jobs() if "explorer" in job.comment]
    assert len(drawn) == 2, "one allocation for each map"
