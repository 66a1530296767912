"""The promises about what is computed again, each counted on real Snakemake."""

import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from klmap.disk import PARTIAL, WEIGHTS
from tests.project import AGGREGATION, Project

pytestmark = pytest.mark.workflow


def change_weights(folder: Path) -> None:
    """What a moved branch or an overwritten checkpoint looks like."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    name = sorted(tensors)[0]
    tensors[name] = tensors[name] + np.float32(0.01)
    save_file(tensors, path, metadata={"format": "pt"})


def test_second_run_has_nothing_to_do(project):
    done = project.snakemake("--dry-run")
    assert "Nothing to be done" in done.stdout + done.stderr


def test_weights_are_gone_when_scored(project):
    assert not list(project.folder.glob("results/models/*/weights"))
    assert not project.leftovers()


def test_adding_a_model_computes_it_and_the_map(project):
    project.configure(models=["./models/a", "./models/b", "./models/c"])
    assert project.planned() == {"resolve": 1, "fetch": 1, "score": 1, **AGGREGATION}
    before = project.scores()
    project.run()
    after = project.scores()
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"models--c"}
    assert project.planned() == {}
    table = (project.folder / "results/tiny/models.tsv").read_text()
    assert len(table.splitlines()) == 4


def test_removing_a_model_draws_the_map_again(project):
    project.configure(models=["./models/a"])
    assert project.planned() == AGGREGATION


def test_changing_one_dtype_scores_that_model(project):
    project.configure(models=["./models/a", {"id": "./models/b", "dtype": "bfloat16"}])
    assert project.planned() == {"fetch": 1, "score": 1, **AGGREGATION}


def test_changing_the_default_dtype_scores_all(project):
    project.configure(scoring={"dtype": "bfloat16"})
    assert project.planned() == {"fetch": 2, "score": 2, **AGGREGATION}


def test_changing_the_texts_scores_all(project):
    project.configure(texts={"tiny": {"source": "file", "path": "texts.jsonl", "n": 9}})
    assert project.planned() == {"texts": 1, "fetch": 2, "score": 2, **AGGREGATION}


def test_a_second_text_set_leaves_the_first_alone(project):
    more = {"source": "file", "path": "texts.jsonl", "n": 9}
    project.configure(texts={"tiny": {"source": "file", "path": "texts.jsonl"}, "more": more})
    assert project.planned() == {"texts": 1, "fetch": 2, "score": 2, **AGGREGATION}


def test_variants_leave_the_other_variant_alone(project):
    variants = [
        {"id": "./models/b", "dtype": "bfloat16"},
        {"id": "./models/b", "quantization": "nf4"},
    ]
    project.configure(models=["./models/a", "./models/b", *variants])
    assert project.planned() == {"fetch": 1, "score": 2, **AGGREGATION}
    before = project.scores()
    project.run("scores")
    after = project.scores()
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"models--b+bfloat16", "models--b+nf4"}
    (quantized,) = (project.folder / "results/tiny/scores").glob("models--b+nf4.*.h5")
    with h5py.File(quantized) as file:
        assert file.attrs["quantization"] == "nf4"
        assert '"block_size": 64' in file.attrs["quantization_settings"]
    assert project.planned() == AGGREGATION
    assert project.planned("--forcerun", "score")["score"] == 4


def test_layout_settings_redraw_only(project):
    project.configure(map={"seed": 1})
    redrawn = dict.fromkeys(("layout", "tree", "domains", "figures", "explorer"), 1)
    assert project.planned() == redrawn


@pytest.mark.parametrize(
    "changes",
    [
        {"models": ["./models/b", "./models/a"]},
        {"models": [{"dtype": None, "id": "./models/a"}, {"id": "./models/b"}]},
        {"hardware": {"batch_tokens": 64, "gpu_memory_gb": 16, "cpus": 2, "max_gpus": 0}},
        {"scoring": {"overlength": "window", "dtype": "auto", "keep_tokens": True}},
    ],
    ids=["order", "spelling", "hardware", "keep_tokens"],
)
def test_what_changes_no_number_reruns_nothing(project, changes):
    project.configure(**changes)
    assert project.planned() == {}


def test_order_of_keys_reruns_nothing(project):
    path = project.folder / "config.yaml"
    texts, models = path.read_text().split("models:")
    path.write_text(f"models:{models}{texts}")
    assert project.planned() == {}


def test_touching_and_checking_out_rerun_nothing(project):
    for part in ("Snakefile", "rules", "scripts", "profiles", "config.yaml"):
        path = project.folder / part
        for file in [path, *path.rglob("*")]:
            os.utime(file)
    script = project.folder / "scripts" / "score.py"
    script.write_text(script.read_text() + "\n# another version of the script\n")
    assert project.planned() == {}


def test_a_new_library_version_draws_again_and_scores_nothing(project):
    module = project.folder / "scripts" / "klmap" / "geometry.py"
    module.write_text(module.read_text() + "\n# another version of the library\n")
    drawn = dict(AGGREGATION)
    del drawn["index"]
    assert project.planned() == drawn


def test_without_metadata_nothing_reruns(project):
    shutil.rmtree(project.folder / ".snakemake")
    assert project.planned() == {}


def test_configuration_edited_while_a_job_waits_is_refused(project):
    """A queued job starts Snakemake anew on its node, for the file it was submitted for."""
    queued = next((project.folder / "results/tiny/scores").glob("models--b.*.h5"))
    queued.unlink()
    project.configure(scoring={"dtype": "float32"})
    done = project.snakemake(
        "--cores", "1", "--force", str(queued.relative_to(project.folder)), check=False
    )
    output = done.stdout + done.stderr
    assert done.returncode != 0
    assert "it was edited while the job waited" in output
    assert queued.name in output
    assert not queued.exists()
    project.configure(models=["./models/a"])
    done = project.snakemake("--cores", "1", str(queued.relative_to(project.folder)), check=False)
    assert "no model 'models--b' for the texts 'tiny'" in done.stdout + done.stderr


def test_refresh_without_news_touches_nothing(project):
    cards = sorted(project.folder.glob("results/models/*/card.json"))
    before = [path.stat().st_mtime_ns for path in cards]
    project.run("refresh")
    assert [path.stat().st_mtime_ns for path in cards] == before
    assert project.planned() == {}


@pytest.mark.parametrize("metadata", [True, False], ids=["metadata", "no-metadata"])
def test_refresh_with_news_scores_what_moved(project, metadata):
    change_weights(project.folder / "models" / "b")
    assert project.planned() == {}, "a normal run never asks about a model it knows"
    if not metadata:
        shutil.rmtree(project.folder / ".snakemake")
    output = project.run("refresh")
    assert "models--b" in output
    aggregation = dict(AGGREGATION)
    del aggregation["index"]
    assert project.planned() == {"fetch": 1, "score": 1, **aggregation}


def test_a_job_that_fails_does_not_pass_the_old_score_for_a_new_one(project):
    """The file of the commit before is there; only a finished job may make it count."""
    change_weights(project.folder / "models" / "b")
    project.run("refresh")
    script = project.folder / "scripts" / "score.py"
    whole = script.read_text()
    script.write_text("raise SystemExit('the node has failed')\n")
    before = project.scores()
    project.run(check=False)
    assert project.scores() == before
    script.write_text(whole)
    planned = project.planned()
    assert (planned["score"], planned["matrix"]) == (1, 1)


def test_weights_changed_behind_the_card_are_refused(project):
    change_weights(project.folder / "models" / "b")
    project.configure(models=["./models/a", {"id": "./models/b", "dtype": "float32"}])
    output = project.run(check=False)
    assert "snakemake refresh" in output
    assert "models--b+float32" not in project.scores()


def test_prune_lists_first_and_removes_when_asked_again(project):
    project.configure(models=["./models/a"])
    before = project.scores()
    folder = project.folder / "results/tiny/scores"
    for score in folder.glob("models--b*.h5"):
        score.with_suffix(".partial").write_bytes(b"of a job that was killed")
    rests = [project.folder / "results/models/models--b" / name for name in (WEIGHTS, PARTIAL)]
    for rest in rests:
        rest.mkdir()
        (rest / "model.safetensors").write_bytes(bytes(1000))
    output = project.run("prune")
    assert "Nothing was removed yet" in output
    assert project.scores() == before
    project.run("prune")
    assert set(project.scores()) == {"models--a"}
    assert not list(folder.glob("*.partial"))
    assert not any(rest.exists() for rest in rests)
    assert "nothing to remove" in project.run("prune")


def test_snakemake_report_holds_the_figures(project: Project):
    project.snakemake("--report", "report.html")
    text = (project.folder / "report.html").read_text()
    assert "figures/map.png" in text
