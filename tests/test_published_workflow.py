"""A release of others as a map: imported, drawn, analysed, and joined by one more model."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from klmap import conventions, store, store_score
from klmap.files import read_tsv
from tests.builders import tiny_model
from tests.project import AGGREGATION, Project, copy_clone
from tests.release import Release, make_release

CONFIG = {
    "texts": {"pile": {"source": "file", "path": "release/texts.jsonl",
                       "domain_field": "pile_set_name"}},
    "published": {
        "lab": {
            "texts": "pile",
            "loglik": "release/raw_log-likelihood_300.pkl",
            "clipped": "release/clipped_log-likelihood_300.pkl",
            "metadata": "release/model-data-300.pkl",
            "allow": ["dtype"],
        }
    },
    "scoring": {"dtype": "float32", "overlength": "truncate"},
    "map": {"stable": "fixed", "iterations": 500, "bootstrap": 10},
    "analyses": {
        "predict": {"seeds": 2},
        "leakage": {},
        "axes": {},
        "contrast": {"comparisons": {"pair": {"first": "family:llama-2",
                                              "second": "family:mistral"}}},
        "robustness": {"splits": 4, "draws": 3},
    },
}  # fmt: skip
ANALYSES = dict.fromkeys(("predict", "leakage", "axes", "contrast", "robustness"), 1)
MAP = {**AGGREGATION, **ANALYSES}


@dataclass
class Drawn:
    """A release and the map of it."""

    project: Project
    release: Release

    @property
    def folder(self) -> Path:
        return self.project.folder / "results" / "pile"

    def table(self, name: str) -> list[dict[str, str]]:
        return read_tsv(self.folder / name)

    def copy(self, target: Path) -> Drawn:
        return Drawn(self.project.copy(target), self.release)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    project = copy_clone(tmp_path_factory.mktemp("published") / "clone")
    release = make_release(project.folder / "release")
    project.configure(**CONFIG)
    assert project.planned() == {"texts": 1, "published": 1, **MAP}
    project.run()
    return Drawn(project, release)


def test_a_second_run_has_nothing_to_do(drawn: Drawn) -> None:
    assert drawn.project.planned() == {}


def test_every_vector_is_a_score_file_like_all_others(drawn: Drawn) -> None:
    scores = sorted((drawn.folder / "scores").glob("*.h5"))
    assert len(scores) == len(drawn.release.names)
    found = {}
    for path in scores:
        score = store_score.read_score(path)
        assert path.name == f"{score.model}.{score.fingerprint}.h5"
        found[score.spec["id"]] = score.loglik
    for name, row in zip(drawn.release.names, drawn.release.loglik, strict=True):
        np.testing.assert_array_equal(found[name], row)


def test_the_map_is_clipped_where_the_release_was(drawn: Drawn) -> None:
    matrix = store.read_matrix(drawn.folder / "matrix.h5")
    assert matrix.clip_threshold == drawn.release.threshold


def test_planted_families_are_neighbours(drawn: Drawn) -> None:
    family = {row["model"]: row["family"] for row in drawn.table("models.tsv")}
    assert set(family.values()) == set(drawn.release.families.values())
    nearest = [row for row in drawn.table("neighbors.tsv") if row["rank"] == "1"]
    same = np.mean([family[row["model"]] == family[row["neighbor"]] for row in nearest])
    assert same > 0.85


def test_scores_are_predicted_for_types_that_were_never_seen(drawn: Drawn) -> None:
    rows = [
        row
        for row in drawn.table("predict/accuracy.tsv")
        if (row["features"], row["split"]) == ("Q", "type") and row["task"] in drawn.release.tasks
    ]
    assert {row["task"] for row in rows} == set(drawn.release.tasks)
    assert min(float(row["pearson"]) for row in rows) > 0.9
    known = {row["model"] for row in drawn.table("predict/predictions.tsv") if row["measured"]}
    new = {row["model"] for row in drawn.table("predict/predictions.tsv") if not row["measured"]}
    assert known
    assert new - known


def test_planted_leaks_come_first(drawn: Drawn) -> None:
    slug = {name: name.replace("/", "--") for name in drawn.release.names}
    everywhere = {slug[name] for name, domain in drawn.release.leaked.items() if not domain}
    rows = drawn.table("leakage/leakage.tsv")
    assert {row["model"] for row in rows[: len(everywhere)]} == everywhere
    assert {row["model"] for row in rows if row["flag"] == "true"} == everywhere
    for name, domain in drawn.release.leaked.items():
        if domain:
            own = [row for row in drawn.table("leakage/domains.tsv") if row["domain"] == domain]
            first = max(own, key=lambda row: float(row["studentised"]))
            assert (first["model"], first["flag"]) == (slug[name], "true")


def test_all_that_was_asked_for_is_there(drawn: Drawn) -> None:
    names = {str(path.relative_to(drawn.folder)) for path in drawn.folder.rglob("*.png")}
    for analysis in ANALYSES:
        assert any(name.startswith(f"{analysis}/") for name in names)
    assert drawn.table("conventions.tsv") == []
    page = (drawn.folder / "map.html").read_text()
    assert "6-TaskMean, predicted" in page


def test_importing_again_writes_no_score_and_draws_nothing(drawn: Drawn, tmp_path: Path) -> None:
    other = drawn.copy(tmp_path / "clone")
    before = other.project.scores("pile")
    other.project.run("results/published/lab/index.tsv", "--force")
    assert other.project.scores("pile") == before
    assert other.project.planned() == {}


def test_one_more_model_joins_and_nobody_moves(drawn: Drawn, tmp_path: Path) -> None:
    other = drawn.copy(tmp_path / "clone")
    tiny_model(other.project.folder / "mine", "llama", seed=3)
    before = other.project.scores("pile")
    places = {row["model"]: row for row in other.table("layout.tsv")}
    other.project.configure(models=[{"id": "./mine", "name": "mine"}])
    assert other.project.planned() == {"resolve": 1, "fetch": 1, "score": 1, **MAP}
    output = other.project.run()
    assert "Finished jobid" in output
    after = {row["model"]: row for row in other.table("layout.tsv")}
    assert places.items() <= after.items(), "old points stay, to the last digit"
    assert set(after) - set(places) == {"mine"}
    assert before.items() <= other.project.scores("pile").items()
    matrix = store.read_matrix(other.folder / "matrix.h5")
    assert matrix.clip_threshold == drawn.release.threshold
    assert sum(row["model"] == "mine" for row in other.table("neighbors.tsv")) == 10
    (difference,) = conventions.read_differences(other.folder / "conventions.tsv")
    assert (difference.model, difference.value) == ("mine", "float32")
    new = [row for row in other.table("predict/predictions.tsv") if row["model"] == "mine"]
    assert {row["task"] for row in new} == set(drawn.release.tasks)
    report = json.loads((other.folder / "layout.json").read_text())
    assert report["stable"]["largest"] == 0


def test_a_dry_run_counts_the_models_of_a_release(drawn: Drawn, tmp_path: Path) -> None:
    other = drawn.copy(tmp_path / "clone")
    other.project.configure(models=["./release"])
    done = other.project.snakemake("-n")
    assert "Texts pile, 301 models:\n  imported           300  lab\n" in done.stdout
    shutil.rmtree(other.project.folder / "results" / "published")
    done = other.project.snakemake("-n")
    assert "  to be imported       1  release lab, with as many models as it has\n" in done.stdout
    lab = {**CONFIG["published"]["lab"], "models": 300}  # type: ignore[dict-item]
    other.project.configure(published={"lab": lab})
    done = other.project.snakemake("-n")
    assert "Texts pile, 301 models:\n  to be imported     300  lab\n" in done.stdout


def test_the_same_name_twice_is_explained(drawn: Drawn, tmp_path: Path) -> None:
    other = drawn.copy(tmp_path / "clone")
    tiny_model(other.project.folder / "mine", "llama", seed=3)
    taken = drawn.release.names[0].replace("/", "--")
    other.project.configure(models=[{"id": "./mine", "name": taken}])
    said = other.project.run("results/pile/index.tsv", check=False)
    assert f"{taken!r} is the name of a model of results/published/lab/index.tsv" in said
    assert "give yours another name with name: in config.yaml" in said


def test_files_that_do_not_fit_stop_the_import_with_the_reason(
    drawn: Drawn, tmp_path: Path
) -> None:
    other = drawn.copy(tmp_path / "clone")
    lab = {**CONFIG["published"]["lab"], "models": 7}  # type: ignore[dict-item]
    other.project.configure(published={"lab": lab})
    other.project.run("results/published/lab/index.tsv", check=False)
    log = (other.project.folder / "logs/published/lab.log").read_text()
    assert "holds 300 models, but config.yaml says models: 7 for lab" in log


def test_efficiency_and_prune_know_what_was_not_computed_here(drawn: Drawn, tmp_path: Path) -> None:
    other = drawn.copy(tmp_path / "clone")
    other.project.run("efficiency", "prune")
    assert not (other.project.folder / "results" / "efficiency.tsv").exists()
    assert not (other.project.folder / "results" / "prune.tsv").exists()
