"""Selections of texts before and behind their jobs: configuration, plan, index, joined scores."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from klmap import (
    arguments,
    configfile,
    files,
    geometry,
    index,
    models_table,
    plan_tables,
    products,
    references,
    selection,
    store,
)
from klmap.config import Config
from klmap.config_texts import SelectionTexts
from klmap.errors import ConfigError, InputError
from klmap.plan import Plan
from klmap.store_selection import Selection, read_selection, write_selection
from tests import mapfiles
from tests.mapfiles import Folder

PILE = {"source": "hub", "dataset": "monology/pile-uncopyrighted", "n": 10000}
MINE = {"source": "file", "path": "my-texts.jsonl"}
FEWER = {"source": "selection", "of": "pile", "n": 2900}
OUTSIDE = {"source": "selection", "of": "made", "error": 0.1}
OLD = {"id": "org/old", "name": "old"}
NEW = {"id": "org/new", "name": "new", "texts": "fewer"}


def write(folder: Path, **keys: Any) -> Path:
    """A configuration of a reference, its selection, and a model of each."""
    usual = {
        "results": str(folder / "results"),
        "texts": {"pile": PILE, "fewer": FEWER},
        "models": [OLD, NEW],
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({**usual, **keys}, sort_keys=False))
    return path


def load(folder: Path, **keys: Any) -> Config:
    return configfile.load(write(folder, **keys))


def planned(folder: Path, **keys: Any) -> Plan:
    path = write(folder, **keys)
    return Plan(configfile.load(path), path)


def refusal(folder: Path, **keys: Any) -> str:
    with pytest.raises(ConfigError) as told:
        planned(folder, **keys)
    return str(told.value)


def finished(folder: Path, texts: dict[str, Any] = PILE, **manifest: Any) -> Path:
    """What a plan sees of a text set that another configuration has made: 600 texts, 3 models."""
    folder.mkdir(parents=True)
    for name in references.FILES:
        (folder / name).write_text("")
    (folder / "index.tsv").write_text("model\nfirst\nsecond\nthird\n")
    (set_of_its,) = Config.model_validate({"texts": {"made": texts}}).texts.values()
    manifest = {"n": 600, "recipe": set_of_its.recipe(), **manifest}
    files.write_json(folder / "texts.json", manifest)
    return folder


# What is refused


@pytest.mark.parametrize(
    ("keys", "place", "said"),
    [
        ({}, "", "give n: .* error: .* or path: .*found none of them"),
        ({"n": 9, "error": 0.1}, "", "one of the three; found n: and error:"),
        ({"n": 9, "path": "drawn.h5"}, "", "one of the three; found n: and path:"),
        ({"error": 0.1, "path": "drawn.h5"}, "", "one of the three; found error: and path:"),
        ({"n": 9, "share": 0.9}, "", "share: says for how many pairs error: holds; give error:"),
        ({"path": "drawn.h5", "method": "kl"}, "", "method: decided by the file at path:"),
        (
            {"path": "drawn.h5", "seed": 1, "replacement": False},
            "",
            "replacement, seed: decided by the file",
        ),
        ({"n": 1}, r"\.n", "1: input should be greater than or equal to 2"),
        ({"error": 1.5}, r"\.error", "1.5: input should be less than 1"),
        ({"n": 9, "method": "best"}, r"\.method", "'best' is not one of ls, kl, uniform"),
        ({"n": 9, "texts": 3}, r"\.texts", "unknown key; known keys: source, of, method"),
        ({"n": 9, "of": None}, r"\.of", "string"),
        ({"n": 9, "of": "fewer"}, r"\.of", "cannot be a selection of itself; name its reference"),
        (
            {"n": 9, "of": "half"},
            r"\.of",
            "'half' is a selection itself, .* name its reference, 'pile'",
        ),
        ({"n": 9, "of": "the pile"}, r"\.of", "'the pile' is neither a text set nor a folder"),
    ],
)
def test_a_wrong_selection_names_its_place_and_the_fix(
    tmp_path: Path, keys: dict[str, Any], place: str, said: str
) -> None:
    texts = {
        "pile": PILE,
        "half": {"source": "selection", "of": "pile", "n": 5000},
        "fewer": {"source": "selection", "of": "pile", **keys},
    }
    told = refusal(tmp_path, texts=texts)
    assert re.search(rf"texts\.fewer{place}: .*{said}", told), told
    assert re.search(r"config\.yaml.*line \d+|line \d+", told), told


def test_a_reference_that_nobody_has_made_is_told_with_both_ways_out(tmp_path: Path) -> None:
    told = refusal(tmp_path, texts={"fewer": {**FEWER, "of": "gone"}})
    assert f"{tmp_path}/config.yaml: texts.fewer.of: no text set 'gone' is configured here" in told
    assert f"{tmp_path}/results/gone is not that of a finished map" in told
    assert "run the configuration that makes it first, or add it below texts:" in told


@pytest.mark.parametrize("missing", [*references.FILES, "texts.json"])
def test_an_unfinished_reference_is_told_with_the_file_that_it_lacks(
    tmp_path: Path, missing: str
) -> None:
    made = finished(tmp_path / "results/made")
    (made / missing).unlink()
    told = refusal(tmp_path, texts={"fewer": OUTSIDE})
    assert f"{made}/{missing}" in told
    assert "run the configuration that makes it first" in told


def test_a_reference_that_is_a_selection_itself_is_refused(tmp_path: Path) -> None:
    finished(tmp_path / "results/made", selection={"fingerprint": "0" * 12})
    told = refusal(tmp_path, texts={"fewer": OUTSIDE})
    assert "results/made is a selection itself, and its models lack most texts" in told


@pytest.mark.parametrize(
    ("marks", "said"),
    [
        ({"vector": "pmi"}, r"is of what prompts add \(PMI\), and has no map of scores of its own"),
        ({"recipe": {"edits": [{"prefix": "a"}]}}, "has edited prompts, and has no map"),
    ],
)
def test_a_text_set_that_follows_from_another_is_no_reference(
    tmp_path: Path, marks: dict[str, Any], said: str
) -> None:
    finished(tmp_path / "results/made", **marks)
    told = refusal(tmp_path, texts={"fewer": OUTSIDE})
    assert re.search(rf"results/made {said}.*name the text set that it follows from", told), told


@pytest.mark.parametrize("of", ["{}/results/pile", "{}/results/../results/pile"])
def test_a_text_set_of_this_configuration_is_named_not_pointed_at(tmp_path: Path, of: str) -> None:
    of = of.format(tmp_path)
    told = refusal(tmp_path, texts={"pile": PILE, "fewer": {**FEWER, "of": of}})
    assert "is the folder of a text set of this configuration; give its name, of: pile" in told


def test_a_manifest_without_a_recipe_is_refused(tmp_path: Path) -> None:
    finished(tmp_path / "results/made", recipe=None)
    told = refusal(tmp_path, texts={"fewer": OUTSIDE})
    assert "results/made/texts.json has no recipe" in told


def test_models_of_a_release_stand_on_the_reference_not_on_a_selection(tmp_path: Path) -> None:
    lab = {"texts": "fewer", "loglik": "loglik.npy", "names": "names.txt"}
    told = refusal(tmp_path, published={"lab": lab}, models=[])
    assert "published.lab.texts: 'fewer' is a selection" in told
    assert "texts: pile" in told


@pytest.mark.parametrize("asked", ["gone", ["fewer", "gone"]])
def test_a_model_for_texts_that_nobody_knows_is_refused(tmp_path: Path, asked: Any) -> None:
    told = refusal(tmp_path, models=[{"id": "org/new", "texts": asked}])
    assert "models[0]" in told
    assert "no text set 'gone'; configured: pile, fewer" in told


def test_a_reference_that_nobody_is_scored_on_is_refused(tmp_path: Path) -> None:
    told = refusal(tmp_path, models=[NEW])
    assert "texts.fewer.of: no model is scored on all of 'pile'" in told


@pytest.mark.parametrize(
    "spelled", ["./results/made", "results/../results/made/", "~/results/made"]
)
def test_another_spelling_of_a_folder_beside_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelled: str
) -> None:
    finished(tmp_path / "results" / "made")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    found = [
        planned(tmp_path, results="results", texts={"fewer": {**OUTSIDE, "of": of}}, models=[NEW])
        for of in ("made", spelled)
    ]
    assert found[0].references == found[1].references


def test_a_selection_cannot_be_made_from_its_own_file(tmp_path: Path) -> None:
    own = {"source": "selection", "of": "pile", "path": f"{tmp_path}/results/fewer/selection.h5"}
    told = refusal(tmp_path, texts={"pile": PILE, "fewer": own})
    assert "is what this text set writes; copy the file" in told


# Who is scored where


@pytest.mark.parametrize(
    ("texts", "asked", "scored"),
    [
        ({"pile": PILE, "fewer": FEWER}, None, ["pile"]),
        ({"pile": PILE, "fewer": FEWER}, "fewer", ["fewer"]),
        ({"pile": PILE, "fewer": FEWER}, "pile", ["pile"]),
        ({"pile": PILE, "fewer": FEWER}, ["fewer", "pile"], ["pile"]),
        ({"fewer": {**OUTSIDE}}, None, ["fewer"]),
        ({"fewer": {**OUTSIDE}}, "fewer", ["fewer"]),
        ({"pile": PILE, "fewer": FEWER, "mine": MINE}, None, ["mine", "pile"]),
        ({"pile": PILE, "fewer": FEWER, "mine": MINE}, "mine, fewer", ["fewer", "mine"]),
        ({"pile": PILE, "fewer": FEWER, "less": {**FEWER, "n": 99}}, None, ["pile"]),
        ({"pile": PILE, "fewer": FEWER, "less": {**FEWER, "n": 99}}, "less", ["less"]),
        ({"pile": PILE, "fewer": FEWER, "out": {**OUTSIDE}}, None, ["out", "pile"]),
    ],
)
def test_a_model_is_scored_once_where_its_scores_stand_for_others(
    texts: dict[str, Any], asked: Any, scored: list[str]
) -> None:
    found = Config.model_validate(
        {"texts": texts, "models": [{"id": "org/model", "texts": asked}]}
    ).scored_on
    assert list(found) == list(texts), "a text set without models of its own is there too"
    assert sorted(name for name, models in found.items() if models) == scored


@pytest.mark.parametrize("cell", ["fewer,mine", "fewer, mine", "mine fewer"])
def test_a_sheet_names_several_texts_in_one_cell(tmp_path: Path, cell: str) -> None:
    sheet = tmp_path / "more.tsv"
    sheet.write_text(f"id\ttexts\norg/sheet\t{cell}\norg/plain\t\n")
    read = load(
        tmp_path,
        texts={"pile": PILE, "fewer": FEWER, "mine": MINE},
        models=[],
        model_files=[str(sheet)],
    )
    found = {name: sorted(models) for name, models in read.scored_on.items()}
    assert found == {
        "pile": ["org--plain"],
        "fewer": ["org--sheet"],
        "mine": ["org--plain", "org--sheet"],
    }


def test_only_what_is_scored_is_asked_for(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    rows = [row.split("\t")[:3] for row in plan_tables.score_rows(plan)]
    assert rows == [["new", "org--new", "fewer"], ["old", "org--old", "pile"]]
    assert [row.split("\t")[0] for row in plan_tables.index_rows(plan, "fewer")] == ["new"]
    assert plan.entry("fewer", "new", plan.score("fewer", "new").split(".")[-2]).id == "org/new"
    with pytest.raises(ConfigError, match="no model 'old' for the texts 'fewer'"):
        plan.entry("fewer", "old", "0" * 12)


# Fingerprints


def test_ordinary_scores_keep_their_fingerprints_beside_a_selection(tmp_path: Path) -> None:
    """A change here means that every user's scores are computed again."""
    alone = planned(tmp_path, texts={"pile": PILE}, models=[OLD])
    beside = planned(tmp_path)
    assert alone.score("pile", "old") == beside.score("pile", "old")
    assert alone.spec("pile", "old") == beside.spec("pile", "old")
    assert Path(alone.score("pile", "old")).name == "old.17bfdaa5123f.h5"


def test_the_fingerprint_of_a_score_on_a_selection_is_pinned(tmp_path: Path) -> None:
    """A change here means that every score on a selection is computed again."""
    assert Path(planned(tmp_path).score("fewer", "new")).name == "new.8e82a2809f87.h5"


@pytest.mark.parametrize(
    "texts",
    [
        PILE,
        MINE,
        {"source": "environment", "n": 600},
        {**PILE, "field": "content", "documents": None, "subset": "all"},
        {"source": "url", "url": "https://example.org/a.txt", "sha256": "A" * 64, "seed": 1},
    ],
    ids=["hub", "file", "environment", "null", "url"],
)
@pytest.mark.parametrize("elsewhere", [False, True])
def test_where_the_reference_is_made_changes_no_fingerprint(
    tmp_path: Path, texts: dict[str, Any], elsewhere: bool
) -> None:
    chosen = {"source": "selection", "of": "made", "n": 50}
    model = [{"id": "org/new", "name": "new", "texts": "fewer"}]
    here = planned(tmp_path, texts={"made": texts, "fewer": chosen}, models=[OLD, *model])
    made = finished(tmp_path / ("other" if elsewhere else "results") / "made", texts)
    of = str(made) if elsewhere else "made"
    there = planned(tmp_path, texts={"fewer": {**chosen, "of": of}}, models=model)
    assert there.score("fewer", "new") == here.score("fewer", "new")
    # Snakemake compares these letter by letter.
    assert there.spec("fewer", "new") == here.spec("fewer", "new")
    assert there.recipe("fewer") == here.recipe("fewer")


@pytest.mark.parametrize(
    ("pile", "fewer"),
    [
        ({"n": 9999}, {}),
        ({"seed": 1}, {}),
        ({}, {"n": 2901}),
        ({}, {"seed": 1}),
        ({}, {"method": "kl"}),
        ({}, {"replacement": False}),
        ({}, {"n": None, "error": 0.1}),
        ({}, {"n": None, "error": 0.1, "share": 0.9}),
        ({}, {"n": None, "path": "drawn.h5"}),
    ],
)
def test_what_decides_the_chosen_texts_changes_the_fingerprint(
    tmp_path: Path, pile: dict[str, Any], fewer: dict[str, Any]
) -> None:
    texts = {"pile": {**PILE, **pile}, "fewer": {**FEWER, **fewer}}
    changed, usual = planned(tmp_path, texts=texts), planned(tmp_path)
    assert changed.score("fewer", "new") != usual.score("fewer", "new")
    assert (changed.score("pile", "old") == usual.score("pile", "old")) is (not pile)


def test_a_share_that_is_the_default_and_none_at_all_are_the_same(tmp_path: Path) -> None:
    ways: list[dict[str, Any]] = [{"error": 0.1}, {"error": 0.1, "share": 0.95}]
    found = {
        planned(
            tmp_path, texts={"pile": PILE, "fewer": {"source": "selection", "of": "pile", **way}}
        ).score("fewer", "new")
        for way in ways
    }
    assert len(found) == 1


# Sizes, files and command lines


def test_a_selection_is_as_large_as_its_draws_or_its_reference(tmp_path: Path) -> None:
    finished(tmp_path / "results/made", {**PILE, "max_bytes": 512})
    texts = {
        "pile": {**PILE, "max_bytes": 2048},
        "all": {**MINE, "max_bytes": 100},
        "n": FEWER,
        "many": {**FEWER, "n": 20000},
        "error": {"source": "selection", "of": "pile", "error": 0.1},
        "open": {"source": "selection", "of": "all", "error": 0.1},
        "bounded": {"source": "selection", "of": "all", "n": 70},
        "out": OUTSIDE,
        "few": {"source": "selection", "of": "made", "n": 70},
    }
    plan = planned(tmp_path, texts=texts, models=[OLD])
    expected = {
        "pile": (10000, 2048),
        "all": (None, 100),
        "n": (2900, 2048),
        "many": (10000, 2048),
        "error": (10000, 2048),
        "open": (None, 100),
        "bounded": (70, 100),
        "out": (600, 512),
        "few": (70, 512),
    }
    assert {name: plan.sizes(name) for name in texts} == expected
    told = arguments.preflight(plan)
    for name, (number, longest) in expected.items():
        assert f" {name}={'all' if number is None else number},{longest} " in f" {told} "


def test_the_models_of_a_map_are_its_own_and_those_of_the_reference(tmp_path: Path) -> None:
    finished(tmp_path / "results/made")
    lab = {"texts": "pile", "loglik": "loglik.npy", "names": "names.txt", "models": 40}
    alike = {"dtype": "float16", "overlength": "truncate"}
    texts = {"pile": PILE, "fewer": FEWER, "out": OUTSIDE}
    models = [OLD, {**NEW, "texts": "fewer, out"}]
    plan = planned(tmp_path, texts=texts, models=models, published={"lab": lab}, scoring=alike)
    assert [plan.models_on(name) for name in texts] == [41, 42, 1 + 1 + 3]
    assert [plan.models_of_reference(name) for name in texts] == [0, 41, 3]
    assert [plan.reference_name(name) for name in texts] == ["", "pile", ""]
    assert [plan.reference_title(name) for name in texts] == ["", "pile", "made"]
    assert products.most_models(plan) == 42


def test_a_map_takes_what_its_reference_has(tmp_path: Path) -> None:
    made = finished(tmp_path / "other/made")
    texts = {"pile": PILE, "fewer": FEWER, "out": {**OUTSIDE, "of": str(made)}}
    plan = planned(tmp_path, texts=texts)
    results = tmp_path / "results"
    assert products.of_reference(plan, "pile", "kl.h5") == []
    assert products.of_reference(plan, "fewer", "kl.h5") == [f"{results}/pile/kl.h5"]
    assert products.of_reference(plan, "out", "kl.h5") == [f"{made}/kl.h5"]
    assert products.of_reference(plan, "fewer", "ellipses.tsv") == [f"{results}/pile/ellipses.tsv"]
    assert products.of_reference(plan, "out", "ellipses.tsv") == [], "nobody would make it here"
    assert products.selection_file(plan, "pile") == []
    assert products.selection_file(plan, "out") == [f"{results}/out/selection.h5"]
    assert arguments.clip(plan, "pile") == ""
    assert arguments.clip(plan, "fewer") == f"--clip-from {results}/pile/matrix.h5"
    assert arguments.clip(plan, "out") == f"--clip-from {made}/matrix.h5"
    kept = planned(tmp_path, map={"clip_threshold": -700.0})
    assert arguments.clip(kept, "pile") == "--clip-threshold=-700.0"
    assert arguments.clip(kept, "fewer") == f"--clip-from {results}/pile/matrix.h5"


def test_names_of_text_sets_tell_who_makes_them(tmp_path: Path) -> None:
    finished(tmp_path / "results/made")
    texts = {"pile": PILE, "pile-2k": FEWER, "out": OUTSIDE, "made-up": MINE}
    found = planned(tmp_path, texts=texts, models=[OLD]).references

    def match(pattern: str) -> list[str]:
        # A wildcard stands in front of a slash.
        names = [*texts, "made"]
        return [name for name in names if re.match(f"(?:{pattern})/", f"{name}/")]

    assert match(references.pattern_of(found)) == ["pile-2k", "out"]
    assert match(references.drawn_pattern(found, [])) == ["pile", "made-up"]
    assert match(references.here_pattern(found)) == ["pile", "pile-2k", "out", "made-up"]
    other = {**OUTSIDE, "of": str(finished(tmp_path / "other/pile"))}
    found = planned(tmp_path, texts={"pile": PILE, "out": other}, models=[OLD]).references
    assert match(references.here_pattern(found)) == ["pile", "pile-2k", "out", "made-up", "made"]
    assert match(references.drawn_pattern(found, [])) == ["pile", "pile-2k", "made-up", "made"]
    none = planned(tmp_path, texts={"pile": PILE}, models=[OLD]).references
    assert match(references.pattern_of(none)) == []


def test_resample_is_told_of_the_selections_of_its_texts(tmp_path: Path) -> None:
    texts = {
        "pile": PILE,
        "mine": MINE,
        "b": {**FEWER, "method": "kl", "replacement": False},
        "a": {**FEWER, "n": 99},
        "auto": {"source": "selection", "of": "pile", "error": 0.1},
        "file": {"source": "selection", "of": "pile", "path": "drawn.h5"},
    }
    plan = planned(tmp_path, texts=texts, models=[OLD], analyses={"resample": {"draws": 7}})
    told = arguments.resample(plan, "pile")
    assert told.endswith(" --selections a=ls,with,99 b=kl,without,2900")
    assert "--draws 7 " in told
    assert "--selections" not in arguments.resample(plan, "mine")


def test_what_depends_on_the_texts_is_not_asked_of_a_selection(tmp_path: Path) -> None:
    asked: dict[str, Any] = {"axes": {}, "robustness": {}, "resample": {}}
    texts = {"pile": PILE, "fewer": FEWER, "mine": MINE}
    plan = planned(tmp_path, texts=texts, analyses=asked)
    found = {tuple(Path(path).parts[-3:-1]) for path in products.analysis_files(plan)}
    everywhere = {(name, analysis) for name in ("pile", "mine") for analysis in asked}
    assert found == everywhere | {("fewer", "axes")}
    assert list(products.other_matrices(plan, "mine")) == ["pile"], "a part is no other text set"


# Releases


def test_models_of_a_selection_are_compared_with_the_release_of_its_reference(
    tmp_path: Path,
) -> None:
    lab = {"texts": "pile", "loglik": "loglik.npy", "names": "names.txt", "metadata": "known.pkl"}
    texts = {"pile": PILE, "fewer": FEWER, "mine": MINE}
    own = {"id": "org/own", "name": "own", "texts": "mine"}
    told = refusal(tmp_path, texts=texts, models=[NEW, own], published={"lab": lab})
    assert "published.lab" in told
    assert "new by dtype: auto; new by overlength: window" in told
    assert "own" not in told, "its map has no release"
    allowed = {**lab, "allow": ["dtype", "overlength"]}
    plan = planned(tmp_path, texts=texts, models=[NEW, own], published={"lab": allowed})
    assert arguments.allow(plan, "fewer") == "--allow dtype overlength"
    assert arguments.allow(plan, "mine") == ""
    table = f"{tmp_path}/results/published/lab/benchmarks.tsv"
    assert products.benchmarks_on(plan, "fewer") == products.benchmarks_on(plan, "pile") == [table]
    assert products.benchmarks_on(plan, "mine") == []
    assert products.release_tables(plan, "pile") != []
    assert products.release_tables(plan, "fewer") == [], "they come with the index of the reference"


# Joined scores


class Chosen(Folder):
    """``results/fewer``: a selection of a folder of scores, and what is scored on it alone."""

    def __init__(self, reference: Folder, name: str = "fewer", **keys: Any) -> None:
        self.reference = reference
        self.root = reference.root.parent / name
        self.rng = np.random.default_rng(1)
        self.made = []
        recipe = SelectionTexts.model_validate(
            {"source": "selection", "of": "pile", "n": 60, **keys}
        )
        of = selection.Reference(
            reference.root / "collected.h5", reference.texts, reference.manifest
        )
        made = selection.Made(self.texts, self.manifest, self.path)
        selection.build(recipe, name, of, made)
        described = files.read_json(self.manifest)
        self.sha256, self.mean_bytes = described["sha256"], described["mean_bytes"]
        self.lengths = reference.lengths[self.drawn.index]

    @property
    def path(self) -> Path:
        return self.root / "selection.h5"

    @property
    def drawn(self) -> Selection:
        return read_selection(self.path)

    def add_of(self, model: str, everywhere: np.ndarray[Any, Any], **kwargs: Any) -> None:
        """Score a model on the chosen texts that would have these values on all."""
        attributes = {"selection": self.drawn.fingerprint, **kwargs.pop("attributes", {})}
        self.add(model, everywhere[self.drawn.index], attributes=attributes, **kwargs)

    def write_index(self, order: list[int] | None = None) -> None:
        rows = [self.made[i] for i in (order or range(len(self.made)))]
        cells = [
            (m.model, m.model, m.fingerprint, m.id, m.revision, m.family, m.variant) for m in rows
        ]
        finished = [m.model for m in self.reference.made if m.loglik is not None]
        models = self.reference.root / "models.tsv"
        models_table.write_models(models, [models_table.Model(name) for name in finished])
        index.write_index(
            self.index, ["\t".join(row) for row in cells], [], [str(self.reference.index), models]
        )

    def collect(self, **kwargs: Any) -> mapfiles.Collected:
        return super().collect(**{"selection": self.path, **kwargs})


@pytest.fixture
def pile(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path / "results/pile", n_texts=200)
    for name in ("b", "d", "a"):
        folder.add(name)
    folder.collect()
    return folder


def test_the_index_names_the_folder_of_models_that_have_all_texts(pile: Folder) -> None:
    fewer = Chosen(pile)
    fewer.add("c")
    fewer.write_index()
    entries = index.read_index(fewer.index, fewer.scores, fewer.cards)
    assert [(entry.model, entry.is_complete) for entry in entries] == [
        ("a", True),
        ("b", True),
        ("c", False),
        ("d", True),
    ]
    for entry in entries:
        of = pile if entry.is_complete else fewer
        assert entry.path == of.score_path(entry.model)
        assert entry.card.is_file()
    header, *rows = fewer.index.read_text().splitlines()
    assert header.split("\t") == [*index.COLUMNS, index.REFERENCE]
    assert {row.split("\t")[0]: row.split("\t")[-1] for row in rows} == {
        "c": "",
        **dict.fromkeys("abd", str(pile.root)),
    }


def test_other_indices_have_no_such_column(pile: Folder) -> None:
    pile.write_index()
    header = pile.index.read_text().splitlines()[0]
    assert header.split("\t") == list(index.COLUMNS)
    entries = index.read_index(pile.index, pile.scores, pile.cards)
    assert not any(entry.is_complete for entry in entries)


def test_a_model_that_has_all_texts_already_is_refused_by_name(pile: Folder) -> None:
    fewer = Chosen(pile)
    fewer.add("d")
    with pytest.raises(InputError, match=r"'d' was scored on all texts already .*pile/index\.tsv"):
        fewer.write_index()
    assert not fewer.index.exists()


def test_rows_of_complete_models_are_their_scores_of_the_chosen_texts(pile: Folder) -> None:
    fewer = Chosen(pile)
    value = pile.values()
    fewer.add_of("c", value)
    found = fewer.collect().matrix
    place = fewer.drawn.index
    of_all = store.read_matrix(pile.root / "collected.h5")
    assert found.model == ["a", "b", "c", "d"]
    assert found.complete is not None
    assert found.complete.tolist() == [True, True, False, True]
    np.testing.assert_array_equal(found.loglik[[0, 1, 3]], of_all.loglik[:, place])
    np.testing.assert_array_equal(found.loglik[2], value[place])
    assert found.domain == [of_all.domain[i] for i in place]
    np.testing.assert_array_equal(found.n_bytes, of_all.n_bytes[place])
    assert found.selection == fewer.drawn.fingerprint
    assert found.texts_sha256 == fewer.sha256
    assert found.mean_bytes == of_all.mean_bytes != fewer.mean_bytes
    assert found.texts == 200
    assert found.design is not None
    for name in ("weight", "variance", "balance"):
        np.testing.assert_array_equal(getattr(found.design, name), getattr(fewer.drawn, name))


def test_a_selection_is_clipped_where_its_reference_is(pile: Folder) -> None:
    fewer = Chosen(pile)
    low = pile.values()
    low[fewer.drawn.index[0]] = -1e6
    fewer.add_of("c", low)
    found = fewer.collect().matrix
    threshold = store.read_matrix(pile.root / "collected.h5").clip_threshold
    assert found.clip_threshold == threshold != geometry.clip_threshold(found.loglik)
    slow = np.maximum(found.loglik, threshold)
    share = fewer.drawn.weight**2 / (fewer.drawn.weight**2).sum()
    slow = fewer.drawn.weight * (slow - (slow @ share)[:, None])
    slow -= slow.mean(axis=0)
    np.testing.assert_allclose(found.coordinates, slow, rtol=1e-5, atol=1e-4)
    assert fewer.collect(threshold=-900.0).matrix.clip_threshold == -900.0


def test_the_table_says_on_how_many_texts_each_was_scored(pile: Folder) -> None:
    fewer = Chosen(pile)
    fewer.add_of("c", pile.values())
    rows = {row.model: row for row in fewer.collect().models}
    of_all = {row.model: row for row in pile.collect().models}
    assert {name: row.texts for name, row in rows.items()} == {
        "a": 200, "b": 200, "c": len(fewer.lengths), "d": 200,
    }  # fmt: skip
    assert {name: rows[name] for name in of_all} == of_all, "all else of them is as it was"


@pytest.mark.parametrize("replacement", [True, False])
def test_the_mean_of_an_added_model_is_nearer_to_the_truth_than_the_weighted_mean(
    pile: Folder, replacement: bool
) -> None:
    for name in "efgh":
        pile.add(name)
    pile.collect()
    error: list[float] = []
    plain: list[float] = []
    for seed in range(8):
        fewer = Chosen(pile, f"seed-{seed}", seed=seed, replacement=replacement)
        share = fewer.drawn.design.share
        truth = {f"new-{number}": pile.values(15) - 9.0 * number for number in range(3)}
        for model, value in truth.items():
            fewer.add_of(model, value)
            plain.append(share @ value[fewer.drawn.index] - value.mean())
        for row in fewer.collect().models:
            if row.model in truth:
                error.append(row.mean_loglik - truth[row.model].mean())
                expected = -row.mean_loglik / (pile.mean_bytes * np.log(2))
                assert row.bits_per_byte == pytest.approx(expected)
    assert len(error) == len(plain) == 24
    # Texts differ by some 180 nats, models on one text by some 40.
    assert np.mean(np.square(error)) < 0.2 * np.mean(np.square(plain))


def test_a_score_of_another_selection_is_refused_with_both(pile: Folder) -> None:
    fewer = Chosen(pile)
    fewer.add_of("c", pile.values(), attributes={"selection": "0123456789ab"})
    with pytest.raises(
        InputError, match="was scored for the selection 0123456789ab, this is "
    ) as e:
        fewer.collect()
    assert str(fewer.score_path("c")) in str(e.value)
    assert fewer.drawn.fingerprint in str(e.value)


def test_a_score_of_other_texts_is_refused_by_name(pile: Folder) -> None:
    fewer = Chosen(pile)
    fewer.add_of("c", pile.values())
    fewer.write(fewer.made[0], texts_sha256="0" * 64)
    with pytest.raises(InputError, match="1 of 4 scores were computed on other texts") as error:
        fewer.collect()
    assert str(fewer.score_path("c")) in str(error.value)


def test_a_complete_model_needs_all_texts_and_an_added_one_the_chosen(pile: Folder) -> None:
    fewer = Chosen(pile)
    fewer.add_of("c", pile.values())
    wanted = {"loglik": np.zeros(7), "n_tokens": np.ones(7), "n_scored": np.ones(7)}
    short = {**wanted, "truncated": np.zeros(7, np.bool_)}
    made = next(made for made in pile.made if made.model == "d")
    pile.write(made, **short)
    with pytest.raises(InputError, match="7 log-likelihoods for 200 texts"):
        fewer.collect()
    pile.write(made)
    fewer.write(fewer.made[0], **short)
    with pytest.raises(InputError, match=f"7 log-likelihoods for {len(fewer.lengths)} texts"):
        fewer.collect()


def test_a_selection_that_its_manifest_does_not_name_is_refused(pile: Folder) -> None:
    fewer, other = Chosen(pile), Chosen(pile, "other", seed=1)
    fewer.add_of("c", pile.values())
    with pytest.raises(InputError, match=r"other/selection\.h5: holds the selection ") as error:
        fewer.collect(selection=other.path)
    assert fewer.drawn.fingerprint in str(error.value)
    assert other.drawn.fingerprint in str(error.value)
    heavier = dataclasses.replace(fewer.drawn, weight=2 * fewer.drawn.weight)
    write_selection(fewer.path, heavier)
    with pytest.raises(InputError, match="remove both and run again"):
        fewer.collect()


def test_what_failed_here_is_listed_and_what_failed_for_the_reference_is_left_out(
    pile: Folder,
) -> None:
    pile.add("z", error="no weights")
    fewer = Chosen(pile)
    fewer.add("y", error="not finite")
    fewer.add_of("c", pile.values())
    pile.write_index()
    found = fewer.collect(skip_failures=True)
    assert [failure.model for failure in found.failures] == ["y"]
    assert found.matrix.model == ["a", "b", "c", "d"]
    assert found.matrix.complete is not None
    assert found.matrix.complete.tolist() == [True, True, False, True]


def test_a_selection_has_a_map_before_anybody_is_scored_on_it(pile: Folder) -> None:
    found = Chosen(pile).collect()
    assert found.matrix.model == ["a", "b", "d"]
    assert found.matrix.complete is not None
    assert found.matrix.complete.all()
    assert [row.texts for row in found.models] == [200] * 3
