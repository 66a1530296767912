"""The scale on real Snakemake: examples with small models, what is computed again, what fails."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from klmap import configfile, store
from klmap.cards import write_card
from klmap.files import read_json, read_tsv, write_json
from klmap.products import ANALYSES
from tests.builders import tiny_texts
from tests.project import ROOT, Project, copy_clone
from tests.test_allocation import TABLE
from tests.test_submission import STAND_INS, asked
from tests.zoo_project import give_zoo

pytestmark = pytest.mark.workflow

QUICK_MAP = {"iterations": 500, "bootstrap": 0, "domains": False}


# Examples as they are

EXAMPLES = sorted({path.stem for path in (ROOT / "examples").glob("*.yaml")} - {"selection"})
"""All but one that needs a finished map."""


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A clone without any results."""
    return copy_clone(tmp_path_factory.mktemp("bare") / "klmap")


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_dry_runs_as_it_is(bare: Project, example: str) -> None:
    path = ROOT / "examples" / f"{example}.yaml"
    config = configfile.check(yaml.safe_load(path.read_text()), [path])
    planned = bare.planned("--configfile", str(path))
    assert planned.get("score", 0) == sum(map(len, config.scored_on.values()))
    assert {*config.analyses.on} <= {*planned}


# Their small twins

GPT2 = {"id": "demo/gpt2-base"}
LLAMA = {"id": "demo/llama-base"}
CODE = {"id": "demo/llama-code"}
TWINS: dict[str, dict[str, dict[str, Any]]] = {
    "pythia": {
        "EleutherAI/pythia-160m": {**GPT2, "revisions": ["step150", "step180", "step210"]},
        "EleutherAI/pythia-160m-seed1": {"id": "demo/gpt2-base-seed2"},
        # As deep and wide as the others, but the demo has no sizes.
        "EleutherAI/pythia-410m": {**LLAMA, "size_group": "bases"},
    },
    "quantization": {
        "mistralai/Mistral-7B-v0.1": LLAMA,
        "mistralai/Mistral-7B-v0.3": {**CODE, "quantizations": ["none", "nf4"]},
        "EleutherAI/pythia-410m": {**GPT2, "quantizations": ["none"]},
    },
    "layers": {
        "EleutherAI/pythia-410m": GPT2,
        "openai-community/gpt2": LLAMA,
        "EleutherAI/pythia-2.8b": {**CODE, "layers": [0, 1]},
    },
}
"""What is different about the models of the examples in their twins; all others fall away."""

TEXTS = {"source": "environment", "n": 60, "max_bytes": 512}
RUNS = ["gpt2-base", "gpt2-base-seed2", "llama-code"]


def twin(example: str) -> dict[str, Any]:
    """An example with small models and few texts, in the results folder of all of them."""
    found: dict[str, Any] = yaml.safe_load((ROOT / "examples" / f"{example}.yaml").read_text())
    analyses = found["analyses"]
    if "trajectories" in analyses:
        analyses["trajectories"] = {"from_step": 150, "bootstrap": 100}
    if "true_kl" in analyses:
        analyses["true_kl"]["texts"] = 20
    small = [
        {key: value for key, value in entry.items() if key != "steps"} | TWINS[example][entry["id"]]
        for entry in found["models"]
        if entry["id"] in TWINS[example]
    ]
    if example == "pythia":
        # The second entry of the run is its end.
        del small[1]["revisions"]
        small[1]["size_group"] = "bases"
    return {
        **found,
        "results": "results",
        "texts": {"pile": TEXTS},
        "models": small,
        "map": QUICK_MAP,
    }


@dataclass
class Twin:
    """What became of a twin.

    Attributes:
        folder: what belongs to its text set.
        analyses: those that it asks for.
    """

    folder: Path
    analyses: list[str]

    def rows(self, name: str) -> list[dict[str, str]]:
        return read_tsv(self.folder / name)

    def models(self) -> dict[str, dict[str, str]]:
        return {row["model"]: row for row in self.rows("models.tsv")}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = copy_clone(tmp_path_factory.mktemp("twins") / "klmap")
    give_zoo(tmp_path_factory, project, *RUNS)
    return project


def run_twin(workshop: Project, example: str) -> Twin:
    """Run one twin after the others; what these have scored stays."""
    settings = twin(example)
    name = f"{example}.yaml"
    (workshop.folder / name).write_text(yaml.safe_dump(settings, sort_keys=False))
    workshop.run("--configfile", name)
    assert workshop.planned("--configfile", name) == {}
    assert not workshop.leftovers()
    assert not [*workshop.folder.glob("results/models/*/weights")]
    kept = workshop.folder / example
    shutil.copytree(workshop.folder / "results/pile", kept)
    return Twin(kept, [*settings["analyses"]])


@pytest.fixture(scope="module")
def pythia(workshop: Project) -> Twin:
    return run_twin(workshop, "pythia")


@pytest.fixture(scope="module")
def quantization(workshop: Project) -> Twin:
    return run_twin(workshop, "quantization")


@pytest.fixture(scope="module")
def layers(workshop: Project) -> Twin:
    return run_twin(workshop, "layers")


def number(row: dict[str, str], column: str) -> float:
    return float(row[column] or "nan")


def medians(twin: Twin) -> dict[str, float]:
    """Median KL of each relation that the scale has found, bits/byte."""
    return {row["relation"]: number(row, "median") for row in twin.rows("scale/scale.tsv")}


def assert_complete(twin: Twin) -> None:
    """Every table and figure of the map and of the analyses is there, and none is empty."""
    for analysis in twin.analyses:
        tables, figures = ANALYSES[analysis]
        for table in tables:
            assert (twin.folder / analysis / table).stat().st_size > 0
        for figure in figures:
            assert (twin.folder / analysis / f"{figure}.png").stat().st_size > 10_000
            assert "</svg>" in (twin.folder / analysis / f"{figure}.svg").read_text()[-100:]
    assert (twin.folder / "figures/map.png").stat().st_size > 10_000
    assert all(model in (twin.folder / "map.html").read_text() for model in twin.models())


def test_a_training_run_is_measured_and_its_steps_seeds_and_sizes_are_on_the_scale(
    pythia: Twin,
) -> None:
    assert_complete(pythia)
    run = ["demo--gpt2-base@step150", "demo--gpt2-base@step180", "demo--gpt2-base@step210"]
    assert [*pythia.models()] == [
        "demo--gpt2-base", "demo--gpt2-base-seed2", *run, "demo--llama-base",
    ]  # fmt: skip
    assert pythia.models()["demo--llama-base"]["size_group"] == "bases"
    assert {*medians(pythia)} >= {"later-checkpoints", "seeds", "sizes"}
    steps = pythia.rows("trajectories/steps.tsv")
    consecutive = zip(run, [*run[1:], "demo--gpt2-base"], strict=True)
    assert [(row["first"], row["second"]) for row in steps] == [*consecutive]
    assert all(number(row, "kl") > 0 and number(row, "weight_distance") > 0 for row in steps)
    distances = store.read_distances(pythia.folder / "kl.h5")
    assert distances.kl is not None
    row = {name: place for place, name in enumerate(distances.model)}
    expected = distances.kl[row["demo--gpt2-base@step210"], row["demo--gpt2-base"]]
    # The analysis leaves some outlier texts out, the map none.
    assert number(steps[-1], "kl") == pytest.approx(expected, rel=0.5)


def test_each_precision_is_compared_with_the_full_one_and_with_its_exact_kl(
    quantization: Twin,
) -> None:
    assert_complete(quantization)
    pairs = {("llama-base", method) for method in ("int8", "nf4", "fp4")} | {("llama-code", "nf4")}
    names = {(f"demo--{full}", f"demo--{full}+{method}") for full, method in pairs}
    shifts = quantization.rows("quantization/shift.tsv")
    found = {(row["full"], row["model"]) for row in shifts}
    assert found == names | {("demo--llama-base", "demo--llama-base+bfloat16")}
    assert {row["kind"] for row in quantization.rows("quantization/cosines.tsv")} >= {"family"}
    exact = quantization.rows("true_kl/true_kl.tsv")
    assert {(row["first"], row["second"]) for row in exact} == names
    assert all(row["texts"] == "20" and row["error"] == "" for row in exact)
    by_model = {row["model"]: row for row in shifts}
    for row in exact:
        ratio = number(by_model[row["second"]], "kl") / number(row, "kl")
        assert 0.3 < ratio < 30, "one order of magnitude, on twenty texts"
    found = medians(quantization)
    assert found["int8"] < found["nf4"] < found["parent-child"] < found["across-families"]


def test_layers_are_rows_of_the_map_that_come_near_to_their_model(layers: Twin) -> None:
    assert_complete(layers)
    models = layers.models()
    both = ("gpt2-base", "llama-base", "llama-code")
    names = [f"demo--{name}{layer}" for name in both for layer in ("", "+layer0", "+layer1")]
    assert [*models] == names
    assert {models[name]["layer"] for name in names} == {"", "0", "1"}
    for name in names[::3]:
        states = [f"{name}+layer0", f"{name}+layer1", name]
        bits = [number(models[each], "bits_per_byte") for each in states]
        assert bits == sorted(bits, reverse=True)
    (adjacent,) = (
        row for row in layers.rows("scale/scale.tsv") if row["relation"] == "adjacent-layers"
    )
    assert adjacent["pairs"] == "6", "the last hidden state is beside the model itself"


# What is computed again

SCALE = {"scale": 1, "merges": 1, "quantization": 1, "true_kl": 1}
"""What reads models off the map too."""

MIX = {
    "id": "merge/mix",
    "merge": {"of": ["demo/llama-base", "demo/llama-code"], "weights": [0.5, 0.5]},
    "on_map": False,
}
OFF = [
    {**LLAMA, "quantization": "int8", "on_map": False},
    {**GPT2, "layers": "all", "name": "gpt2-layers", "on_map": False},
]
PAIR = ["demo--llama-base", "demo--llama-code"]


@pytest.fixture(scope="module")
def scaled(workshop: Project) -> Project:
    """A finished project with models off its map, a merge and pairs. Copy it before any change."""
    ask(workshop, GPT2, LLAMA, CODE, *OFF, MIX)
    workshop.run()
    return workshop


def ask(
    project: Project, *models: dict[str, Any], pairs: list[Any] | None = None, **true_kl: Any
) -> None:
    """Configure models, and pairs to be compared."""
    project.configure(
        texts={"pile": TEXTS},
        models=list(models),
        map=QUICK_MAP,
        analyses={
            **dict.fromkeys(SCALE),
            "true_kl": {"texts": 20, "pairs": pairs or [PAIR], **true_kl},
        },
    )


@pytest.fixture
def project(scaled: Project, tmp_path: Path) -> Project:
    """The finished project of one's own."""
    return scaled.copy(tmp_path / "klmap")


USUAL = [GPT2, LLAMA, CODE, *OFF, MIX]
ADDED = {**CODE, "quantization": "int8", "on_map": False}


def mixed(*weights: list[float]) -> dict[str, Any]:
    """The merge with other weights."""
    return {**MIX, "merge": {**MIX["merge"], "weights": list(weights)}}


def test_a_finished_project_has_nothing_to_do(project: Project) -> None:
    assert project.planned() == {}
    shutil.rmtree(project.folder / ".snakemake")
    assert project.planned() == {}


def test_another_order_does_nothing(project: Project) -> None:
    ask(project, *reversed(USUAL))
    assert project.planned() == {}


def test_what_happens_on_failure_scores_and_makes_nothing_again(project: Project) -> None:
    project.configure(on_model_failure="skip")
    drawn = ("matrix", "kl", "layout", "tree", "figures", "explorer", "offmap")
    assert project.planned() == {**dict.fromkeys(drawn, 1), **SCALE}


def test_a_variant_off_the_map_is_scored_and_compared_alone_and_leaves_the_map(
    project: Project,
) -> None:
    """Its weights are also those of a part of a merge and of compared pairs."""
    ask(project, *USUAL, ADDED)
    expected = {"fetch": 1, "score": 1, "divergence": 1, "offmap_index": 1, "offmap": 1, **SCALE}
    assert project.planned() == expected
    ask(project, *USUAL, {**ADDED, "on_map": True})
    drawn = ("index", "matrix", "kl", "layout", "tree", "figures", "explorer", "offmap")
    expected = {"fetch": 1, "score": 1, "divergence": 1, **dict.fromkeys(drawn, 1), **SCALE}
    assert project.planned() == expected


@pytest.mark.parametrize(
    "weights", [[[0.5, 0.5], [0.75, 0.25]], [[0.75, 0.25]]], ids=["another", "changed"]
)
def test_a_merge_more_or_with_other_weights_is_made_and_scored_alone(
    project: Project, weights: list[list[float]]
) -> None:
    ask(project, *USUAL[:-1], mixed(*weights))
    made = {"fetch": 2, "merge_card": 1, "merge": 1, "score": 1}
    assert project.planned() == {**made, "offmap_index": 1, "offmap": 1, **SCALE}


def test_a_merge_that_leaves_touches_the_analyses_alone(project: Project) -> None:
    ask(project, *USUAL[:-1])
    assert project.planned() == {"offmap_index": 1, "offmap": 1, **SCALE}


def test_another_number_of_texts_compares_again_and_scores_nothing(project: Project) -> None:
    ask(project, *USUAL, texts=10)
    assert project.planned() == {"fetch": 2, "divergence": 2, "true_kl": 1}


def test_another_pair_leaves_other_pairs_and_all_scores_alone(project: Project) -> None:
    ask(project, *USUAL, pairs=[PAIR, ["demo--llama-code", "merge--mix-0.5-0.5"]])
    merged = {"fetch": 2, "merge": 1}
    assert project.planned() == {**merged, "divergence": 1, "true_kl": 1}
    ask(project, *USUAL, own=False)
    assert project.planned() == {"true_kl": 1}, "a pair less"


def test_where_a_part_moves_its_merge_and_its_pairs_follow(project: Project) -> None:
    card = project.folder / "results/models/demo--llama-base/card.json"
    found = read_json(card)
    write_json(card, {**found, "commit": "0" * 40})
    drawn = ("matrix", "kl", "layout", "tree", "figures", "explorer", "offmap")
    assert project.planned() == {
        **{"fetch": 2, "merge_card": 1, "merge": 1, "score": 3, "divergence": 2},
        **{**dict.fromkeys(drawn, 1), **SCALE},
    }


# What fails

BAD_MERGE = {
    "id": "merge/bad",
    "merge": {"of": ["demo/gpt2-base", "demo/llama-base"], "weights": [0.5, 0.5]},
    "on_map": False,
}
BAD_LAYERS = {**CODE, "layers": [0, 7], "name": "deep", "on_map": False}
BAD_PAIR = ["demo--gpt2-base", "demo--llama-base"]
REASONS = {
    "merge": (
        "merge/bad-0.5-0.5: demo/gpt2-base and demo/llama-base cannot be averaged, because their "
        "architecture differs (GPT2LMHeadModel and LlamaForCausalLM); give checkpoints of one "
        "architecture and size, or remove the merge from config.yaml"
    ),
    "layers": "layers: there is no 7: this model has 2 blocks",
    "pair": "demo--gpt2-base and demo--llama-base have no common vocabulary",
}


def test_what_cannot_be_made_scored_or_compared_is_listed_and_all_else_is_done(
    project: Project,
) -> None:
    project.configure(on_model_failure="skip")
    ask(project, *USUAL, ADDED, BAD_MERGE, BAD_LAYERS, pairs=[PAIR, BAD_PAIR])
    before = project.scores("pile")
    project.run()
    folder = project.folder / "results/pile"
    failed = {row["model"]: row["reason"] for row in read_tsv(folder / "offmap-failures.tsv")}
    assert {*failed} == {"merge--bad-0.5-0.5", "deep"}
    assert failed["merge--bad-0.5-0.5"] == REASONS["merge"]
    assert REASONS["layers"] in failed["deep"]
    (pair,) = (row for row in read_tsv(folder / "true_kl/true_kl.tsv") if row["error"])
    assert [pair["first"], pair["second"]] == BAD_PAIR
    assert REASONS["pair"] in pair["error"]
    assert pair["kl"] == pair["estimate_map"] == ""
    assert {row["model"] for row in read_tsv(folder / "offmap.tsv")} >= {"demo--llama-code+int8"}
    assert read_tsv(folder / "failures.tsv") == []
    assert (folder / "map.html").is_file()
    assert project.scores("pile").items() >= before.items(), "nothing was scored again"
    assert project.planned() == {}
    assert not project.leftovers()


def test_where_failures_stop_a_run_each_says_what_and_how_to_mend_it(project: Project) -> None:
    ask(project, *USUAL, BAD_MERGE, BAD_LAYERS, pairs=[PAIR, BAD_PAIR])
    said = project.run("--keep-going", check=False)
    assert REASONS["merge"] in said
    assert REASONS["layers"] in said
    assert "correct layers: of the entry, or give all" in said
    assert REASONS["pair"] in said
    assert "Take the pair out of analyses.true_kl.pairs" in said
    assert "Traceback" not in said
    assert not project.leftovers()
    ask(project, *USUAL)
    planned = project.planned()
    assert not {"fetch", "merge", "score", "divergence"} & {*planned}, "weights that are left"


def test_an_interrupted_merge_leaves_nothing_behind_and_is_made_in_the_next_run(
    project: Project,
) -> None:
    ask(project, *USUAL[:-1], mixed([0.5, 0.5], [0.75, 0.25]))
    script = project.folder / "scripts/merge.py"
    whole = script.read_text()
    script.write_text(
        whole.replace(
            "    log.run(main)\n",
            "    import os, signal, time\n"
            "    scorer_merge._write = lambda *_: (os.kill(os.getpid(), signal.SIGTERM),"
            " time.sleep(20))\n"
            "    log.run(main)\n",
        )
    )
    weights = "results/models/merge--mix-0.75-0.25/weights"
    project.run(weights, "--notemp", check=False)
    assert not (project.folder / weights).exists()
    assert not project.leftovers()
    script.write_text(whole)
    project.run(weights, "--notemp")
    assert (project.folder / weights / "model.safetensors").is_file()
    assert not project.leftovers()


# What is asked, looked at and removed


def test_nobody_is_asked_about_a_merge(project: Project) -> None:
    project.environment = {"HF_ENDPOINT": "http://127.0.0.1:9", "KLMAP_HUB_PATIENCE": "0"}
    ask(project, *USUAL[:-1], mixed([0.5, 0.5], [0.75, 0.25]), ADDED)
    said = project.run("preflight")
    rows = {row["model"]: row for row in read_tsv(project.folder / "results/preflight.tsv")}
    states = {model: row["state"] for model, row in rows.items()}
    new = {"demo--llama-code+int8": "ready", "merge--mix-0.75-0.25": "built here"}
    there = (
        *("demo--gpt2-base", "demo--llama-base", "demo--llama-code", "gpt2-layers"),
        *("demo--llama-base+int8", "merge--mix-0.5-0.5"),
    )
    assert states == {**dict.fromkeys(there, "scored"), **new}
    assert "models        8:" in said
    said = project.run("refresh")
    assert "0 cards rewritten, 0 without usable answer" in said
    assert "merge" not in said.partition("asked about")[0].rpartition("\n")[2]


def test_status_counts_models_off_the_map_and_merges(project: Project) -> None:
    ask(project, *USUAL[:-1], mixed([0.5, 0.5], [0.75, 0.25]), ADDED)
    project.run("status")
    rows = {row["model"]: row["state"] for row in read_tsv(project.folder / "results/status.tsv")}
    assert len(rows) == 8
    assert [model for model, state in rows.items() if state != "done"] == [
        "demo--llama-code+int8",
        "merge--mix-0.75-0.25",
    ]


def test_prune_removes_no_score_of_a_merge_or_off_the_map(project: Project) -> None:
    wanted = {"merge--mix-0.5-0.5", "demo--llama-base+int8", "gpt2-layers"}
    project.run("prune")
    project.run("prune")
    left = {*project.scores("pile")}
    assert left == wanted | {"demo--gpt2-base", "demo--llama-base", "demo--llama-code"}
    assert project.planned() == {}
    ask(project, *USUAL[:-1])
    project.run("prune")
    project.run("prune")
    assert left - {*project.scores("pile")} == {"merge--mix-0.5-0.5"}


# On a cluster

SEVEN_B = ["org/one", "org/two"]
"""Models that need a GPU, of the size of Llama-2-7b."""


def stand_ins(folder: Path) -> Path:
    """Commands in the place of SLURM's: what they are asked for is written down, and fails."""
    folder.mkdir()
    for name, body in STAND_INS.items():
        command = folder / name
        command.write_text(f"#!/usr/bin/env python3\n{body}\n")
        command.chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A clone that submits to stand-ins, whose models are there."""
    folder = tmp_path_factory.mktemp("cluster")
    project = copy_clone(folder / "klmap")
    search = os.pathsep.join([str(stand_ins(folder / "bin")), os.environ["PATH"]])
    project.environment = {"PATH": search, "SUBMITTED": str(folder / "submitted")}
    tiny_texts(project.folder / "texts.jsonl", n=12)
    merged = {"id": "merge/mix", "merge": {"of": SEVEN_B, "weights": [0.5, 0.5]}, "on_map": False}
    project.configure(
        texts={"tiny": {"source": "file", "path": "texts.jsonl"}},
        models=[*SEVEN_B, merged],
        analyses={"scale": None, "merges": None, "true_kl": {"pairs": [["org--one", "org--two"]]}},
        hardware={"gpu_memory_gb": 24, "max_gpus": 4},
    )
    project.run("results/tiny/texts.json")
    for name in SEVEN_B:
        folder = project.folder / "results/models" / name.replace("/", "--")
        write_card(folder / "card.json", replace(TABLE["llama-2-7b"][0], id=name, commit="0" * 40))
        (folder / "weights").mkdir()
    return project


def test_a_pair_asks_for_gpus_memory_and_time_of_both_models(cluster: Project) -> None:
    plan = cluster.snakemake("-n", "-p", "--profile", "profiles/slurm")
    said = plan.stdout + plan.stderr
    (path,) = {*re.findall(r"results/tiny/divergences/\S+\.h5", said)}
    scores = sorted({*re.findall(r"results/tiny/scores/org\S+\.h5", said)})
    log = Path(cluster.variables["SUBMITTED"])
    log.write_text("")
    cluster.snakemake(
        *(path, *scores, "--profile", "profiles/slurm", "--retries", "0"),
        *("--group-components", "tiny=1", "small=1", "cpu=1"),
        *("--max-jobs-per-timespan", "100/1s", "--slurm-init-seconds-before-status-checks", "3"),
        check=False,
    )
    calls = [json.loads(line) for line in log.read_text().splitlines()]
    lines = [shlex.join(call[:-1]) for call in calls]
    (pair,) = (asked(line) for line in lines if "rule_divergence" in line)
    one, two = (asked(line) for line in lines if "rule_score" in line)
    assert (one["--gpus"], two["--gpus"], pair["--gpus"]) == ("1", "1", "2")
    assert int(pair["--mem"]) == int(one["--mem"]) + int(two["--mem"])
    assert int(pair["-t"]) >= max(int(one["-t"]), int(two["-t"]))


def test_merges_and_pairs_are_jobs_and_the_analyses_are_drawn_with_the_map(
    cluster: Project,
) -> None:
    plan = cluster.snakemake("-n", "-p", "--profile", "profiles/slurm")
    said = plan.stdout + plan.stderr
    alone = {*re.findall(r"^rule (\w+):", said, flags=re.MULTILINE)}
    assert {"merge", "divergence"} <= alone
    drawn = said.partition("Group job map")[2].partition("\n[")[0]
    rules = {*re.findall(r"^ +rule (\w+):", drawn, flags=re.MULTILINE)}
    assert rules >= {"matrix", "kl", "offmap", "scale", "merges", "true_kl", "figures", "explorer"}
