"""Bad input and accidents, through the real workflow: clear words, nothing lost."""

import os
import shutil
import signal
import subprocess
import time

import h5py
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.project import SNAKEMAKE, Project

pytestmark = pytest.mark.workflow


def spoil(project: Project) -> list[object]:
    """Five models that cannot be scored, and what makes each of them so."""
    models = project.folder / "models"
    shutil.copytree(models / "c", models / "empty")
    (models / "empty" / "model.safetensors").unlink()

    shutil.copytree(models / "c", models / "badtok")
    (models / "badtok" / "tokenizer.json").write_text('{"version": "1.0", "model": {}}')

    shutil.copytree(models / "c", models / "nan")
    tensors = load_file(models / "nan" / "model.safetensors")
    name = next(name for name in sorted(tensors) if "final_layer_norm" in name)
    tensors[name] = np.full_like(tensors[name], np.nan)
    save_file(tensors, models / "nan" / "model.safetensors", metadata={"format": "pt"})

    return [
        "./models/nowhere",
        "./models/empty",
        "./models/badtok",
        "./models/nan",
        {"id": "./models/b", "dtype": "float16"},
    ]


def test_failed_models_are_skipped_and_explained(project):
    project.configure(models=["./models/a", "./models/b", *spoil(project)])
    project.configure(on_model_failure="skip")
    before = project.scores()
    project.run()
    after = project.scores()
    assert {name: after[name] for name in before} == before
    lines = (project.folder / "results/tiny/failures.tsv").read_text().splitlines()
    reasons = {line.split("\t")[0]: line for line in lines[1:]}
    assert "does not exist" in reasons["models--nowhere"]
    assert "weights" in reasons["models--empty"]
    assert "tokenizer" in reasons["models--badtok"]
    assert "finite" in reasons["models--nan"]
    assert "float16" in reasons["models--b+float16"]
    names = (project.folder / "results/tiny/models.tsv").read_text().splitlines()[1:]
    assert [line.split("\t")[0] for line in names] == ["models--a", "models--b"]
    assert project.planned() == {}

    project.configure(on_model_failure="stop")
    output = project.run(check=False)
    assert "models--nan" in output
    assert "on_model_failure" in output


def test_failed_models_stop_the_map_but_not_the_others(project):
    project.configure(models=["./models/a", "./models/b", "./models/c", *spoil(project)[:4]])
    output = project.run(check=False)
    assert "models/nowhere" in output
    assert "Traceback" not in output
    assert set(project.scores()) == {"models--a", "models--b", "models--c"}
    assert not project.leftovers()

    failed = sorted((project.folder / "results/tiny/scores").glob("*.failed.json"))
    assert [path.name.split(".")[0] for path in failed] == ["models--badtok", "models--nan"]
    again = project.run(check=False)
    assert "finite" in again, "a later attempt ends with the same words"


@pytest.mark.parametrize("models", [["./models/a"], ["./models/a", "./models/b"]], ids=["1", "2"])
def test_maps_of_one_and_two_models(project, models):
    project.configure(models=models)
    project.run()
    table = (project.folder / "results/tiny/layout.tsv").read_text().splitlines()
    assert len(table) == 1 + len(models)
    assert (project.folder / "results/tiny/map.html").stat().st_size > 1000


def test_one_text_is_refused(project):
    text = (project.folder / "texts.jsonl").read_text().splitlines()[0]
    (project.folder / "one.jsonl").write_text(text + "\n")
    project.configure(texts={"one": {"source": "file", "path": "one.jsonl"}})
    output = project.run(check=False)
    assert "one.jsonl" in output
    assert not (project.folder / "results/one/texts.jsonl").exists()


def test_truncated_and_foreign_scores_name_the_file(project):
    paths = sorted((project.folder / "results/tiny/scores").glob("*.h5"))
    good = paths[0].read_bytes()
    paths[0].write_bytes(good[: len(good) // 2])
    output = project.run("--forcerun", "index", check=False)
    assert f"{paths[0].name}: truncated or not a klmap file" in output

    paths[0].unlink()
    with h5py.File(paths[0], "w") as file:
        file.attrs["format"] = "something else"
        file["loglik"] = np.zeros(12)
    output = project.run("--forcerun", "index", check=False)
    assert "expected 'klmap-score'" in output
    assert paths[1].exists()


def test_two_models_with_one_slug_are_refused(project):
    project.configure(models=["./models/a", {"id": "./models/b", "name": "models--a"}])
    done = project.snakemake("--dry-run", check=False)
    output = done.stdout + done.stderr
    assert done.returncode != 0
    assert "config.yaml: models[1]: 'models--a' is the name of models[0]" in output
    assert "Traceback" not in output


def test_interruption_keeps_what_is_finished(project):
    """Ctrl-C while a model is scored: nothing half-written, and the next run goes on."""
    project.configure(models=["./models/a", "./models/b", "./models/c"])
    before = project.scores()
    process = subprocess.Popen(
        [SNAKEMAKE, "--cores", "2"],
        cwd=project.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        # Whoever started the tests in the background may have had Ctrl-C ignored; a user has not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    log = project.folder / "logs" / "score" / "tiny"
    deadline = time.monotonic() + 120
    while not list(log.glob("models--c.*.log")):
        assert time.monotonic() < deadline, "scoring never began"
        assert process.poll() is None, "the run ended before it could be interrupted"
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=60) != 0
    assert project.scores() == before
    assert not project.leftovers()
    project.run()
    after = project.scores()
    assert {name: after[name] for name in before} == before
    assert set(after) == {"models--a", "models--b", "models--c"}
