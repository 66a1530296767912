"""The workflow on a real SLURM: what is promised when jobs, nodes and heads end in the middle."""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.builders import tiny_texts
from tests.project import make_project
from tests.slurm_cluster import Cluster, said, wait_until
from tests.slurm_project import Clone, SlurmJob, make_placeholders, one_node

pytestmark = pytest.mark.workflow

MANY = 1018
"""Models of the published map."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """One node with four GPUs."""
    yield from one_node(4)


def make_clone(folder: Path) -> Clone:
    """A clone with three models of several batches each, which ask for GPUs."""
    clone = Clone.of(make_project(folder))
    tiny_texts(folder / "texts.jsonl", n=24)
    clone.configure(hardware={"max_gpus": 2, "batch_tokens": 600})
    return clone


def break_model(clone: Clone, name: str) -> None:
    """Let a model give no finite number."""
    path = clone.folder / "models" / name / "model.safetensors"
    tensors = load_file(path)
    tensors = {key: np.full_like(value, np.nan) for key, value in tensors.items()}
    save_file(tensors, path, metadata={"format": "pt"})


def is_complete(clone: Clone, model: str) -> bool:
    """Whether a model has one score, without gaps."""
    (path,) = (clone.folder / "results/tiny/scores").glob(f"{model}.*.h5")
    with h5py.File(path) as file:
        return file.attrs["status"] == "ok" and bool(np.isfinite(file["loglik"][:]).all())


def left_behind(clone: Clone) -> list[str]:
    """Files beside the scores that a finished run should not leave."""
    folder = clone.folder / "results/tiny/scores"
    return [path.name for path in folder.iterdir() if path.suffix not in (".h5", ".json")]


class Turbulent:
    """One run with every accident at a time: jobs cancelled, requeued, out of memory, hopeless."""

    def __init__(self, folder: Path) -> None:
        self.clone = clone = make_clone(folder)
        break_model(clone, "c")
        self.cancelled, self.requeued = "models--a", "models--b"
        self.hungry, self.hopeless = "models--a+float32", "models--c"
        clone.configure(
            models=[
                "./models/a",
                "./models/b",
                {"id": "./models/a", "dtype": "float32"},
                "./models/c",
            ]
        )
        holds = [clone.tell(name, "hold", "2") for name in (self.cancelled, self.requeued)]
        clone.tell(self.hungry, "hungry")
        self.head = clone.head("scores")
        jobs = [clone.held(name) for name in (self.cancelled, self.requeued)]
        said("scancel", jobs[0])
        said("scontrol", "requeue", jobs[1])
        for hold in holds:
            hold.unlink()
        wait_until(lambda: SlurmJob.of(jobs[1]).state == "PENDING", "the job in the queue again")
        # SLURM lets a requeued job wait for two minutes.
        said("scontrol", "update", f"JobId={jobs[1]}", "StartTime=now")
        self.status = self.head.wait()
        self.jobs = self.head.jobs()

    def starts(self, model: str) -> list[int]:
        """Where the batches of a model began, over all attempts."""
        return [line["start"] for line in self.clone.events(model, "batch")]


@pytest.fixture(scope="module")
def turbulent(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Turbulent:
    assert cluster.keeper.poll() is None
    return Turbulent(tmp_path_factory.mktemp("turbulent") / "klmap")


def test_a_cancelled_job_is_tried_again_and_goes_on_where_it_was(turbulent: Turbulent) -> None:
    clone, model = turbulent.clone, turbulent.cancelled
    assert len(set(clone.begins(model))) == 2
    starts = turbulent.starts(model)
    assert len(starts) > 3
    assert starts == sorted(starts), "no finished batch was scored again"
    assert is_complete(clone, model)


def test_a_requeued_job_goes_on_without_another_submission(turbulent: Turbulent) -> None:
    clone, model = turbulent.clone, turbulent.requeued
    first, second = clone.begins(model)
    assert first == second, "SLURM starts the same job again"
    starts = turbulent.starts(model)
    assert starts == sorted(starts), "no finished batch was scored again"
    assert is_complete(clone, model)
    assert [job.restarts for job in turbulent.jobs if job.number == first] == [1]


def test_a_job_over_its_memory_gets_more(turbulent: Turbulent) -> None:
    numbers = turbulent.clone.begins(turbulent.hungry)
    asked = [job.memory for job in turbulent.jobs if job.number in numbers]
    assert len(asked) == 2
    assert asked[1] >= 2 * asked[0]
    assert is_complete(turbulent.clone, turbulent.hungry)


def test_a_hopeless_model_ends_at_once_and_holds_up_no_other(turbulent: Turbulent) -> None:
    assert turbulent.status != 0
    attempts = [
        [line["event"] for line in turbulent.clone.events(turbulent.hopeless) if line["job"] == job]
        for job in turbulent.clone.begins(turbulent.hopeless)
    ]
    assert len(attempts) == 3
    assert all("batch" not in attempt for attempt in attempts[1:])
    assert "finite" in turbulent.head.output
    assert set(turbulent.clone.scores()) == {
        turbulent.cancelled,
        turbulent.requeued,
        turbulent.hungry,
    }


def test_nothing_is_left_behind_by_what_was_killed(turbulent: Turbulent) -> None:
    assert left_behind(turbulent.clone) == []
    assert turbulent.clone.leftovers() == []


def test_jobs_at_one_time_have_a_gpu_each(turbulent: Turbulent) -> None:
    events = turbulent.clone.events(turbulent.cancelled, "begin")
    events += turbulent.clone.events(turbulent.requeued, "begin")
    first = {line["job"]: line["gpus"] for line in reversed(events)}
    assert "" not in first.values()
    held = [turbulent.clone.begins(name)[0] for name in (turbulent.cancelled, turbulent.requeued)]
    assert first[held[0]] != first[held[1]], "both were held at the same time"


def test_a_model_added_later_submits_its_own_score_only(turbulent: Turbulent) -> None:
    clone = turbulent.clone
    before = clone.scores()
    added = {"id": "./models/b", "dtype": "float32"}
    clone.configure(models=["./models/a", "./models/b", added])
    head = clone.head("scores")
    assert head.wait() == 0, head.output
    (job,) = head.jobs()
    assert clone.begins("models--b+float32") == [job.number]
    after = clone.scores()
    kept = {name: score for name, score in after.items() if name != "models--b+float32"}
    assert {name: before[name] for name in kept} == kept


@pytest.mark.usefixtures("cluster")
def test_the_demo_becomes_a_map_and_asks_for_no_gpu(tmp_path: Path) -> None:
    clone = make_clone(tmp_path / "klmap")
    demo = ["demo/neox-base@step180", "demo/neox-base"]
    clone.configure(
        texts={"demo": {"source": "environment", "n": 30}}, models=[*demo, "./models/a"]
    )
    head = clone.head()
    assert head.wait() == 0, head.output
    assert (clone.folder / "results/demo/map.html").is_file()
    gpus = {job.comment: job.gpus for job in head.jobs()}
    assert [comment for comment in gpus if gpus[comment]] == [
        comment for comment in gpus if "models--a" in comment
    ]
    drawn = [comment for comment in gpus if "explorer" in comment]
    assert len(drawn) == 1
    assert all(rule in drawn[0] for rule in ("map", "figures", "kl")), "one allocation for all"


@pytest.mark.usefixtures("cluster")
def test_after_a_killed_head_every_model_is_scored_once(tmp_path: Path) -> None:
    clone = make_clone(tmp_path / "klmap")
    models = ["models--a", "models--b"]
    holds = [clone.tell(name, "hold", "2") for name in models]
    first = clone.head("scores")
    before = [clone.held(name) for name in models]
    first.process.send_signal(signal.SIGKILL)
    first.process.wait()
    assert "--unlock" in clone.submit("scores", check=False)

    clone.snakemake("--unlock")
    second = clone.head("scores")
    wait_until(lambda: any(len(clone.begins(name)) == 2 for name in models), "a new job")
    for hold in holds:
        hold.unlink()
    assert second.wait() == 0, second.output
    for name, job in zip(models, before, strict=True):
        starts = [line["start"] for line in clone.events(name, "batch")]
        assert starts == sorted(starts), "no finished batch was scored again"
        assert clone.begins(name)[0] == job
        assert is_complete(clone, name)
    wait_until(lambda: not said("squeue", "--noheader"), "the end of the first head's jobs")
    assert left_behind(clone) == []
    assert clone.leftovers() == []
    assert clone.planned("scores") == {}


def test_a_controller_that_is_away_for_a_while_loses_no_job(
    cluster: Cluster, tmp_path: Path
) -> None:
    clone = make_clone(tmp_path / "klmap")
    clone.configure(models=["./models/a"])
    hold = clone.tell("models--a", "hold", "2")
    head = clone.head("--verbose", "scores")
    clone.held("models--a")
    cluster.controller(stopped=True)
    try:
        wait_until(lambda: "could not check status" in head.output, "a failing question")
    finally:
        cluster.controller(stopped=False)
    hold.unlink()
    assert head.wait() == 0, head.output
    assert len(clone.begins("models--a")) == 1


class Shared:
    """One allocation of four small models, of which the first one fails for good."""

    models = ("models--b", "models--a", "models--a+float32")
    hopeless = "models--c"

    def __init__(self, folder: Path) -> None:
        self.clone = clone = make_clone(folder)
        break_model(clone, "c")
        larger = {"id": "./models/a", "dtype": "float32"}
        clone.configure(models=["./models/c", "./models/b", "./models/a", larger])
        clone.snakemake("preflight", "--cores", "1")
        self.head = clone.head("--retries", "1", "scores")
        self.status = self.head.wait()
        self.jobs = [job for job in self.head.jobs() if "texts" not in job.comment]


@pytest.fixture(scope="module")
def shared(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Shared:
    assert cluster.keeper.poll() is None
    return Shared(tmp_path_factory.mktemp("shared") / "klmap")


def test_small_models_share_an_allocation_one_after_another(shared: Shared) -> None:
    first = shared.jobs[0]
    events = [
        {**line, "model": model}
        for model in (*shared.models, shared.hopeless)
        for line in shared.clone.events(model)
        if line["job"] == first.number and line["event"] in ("begin", "end")
    ]
    turns = [line["model"] for line in sorted(events, key=lambda line: float(line["time"]))]
    assert len(turns) == 8
    assert turns[::2] == turns[1::2], "one ends before the next one begins"
    assert len({line["gpus"] for line in events if line["event"] == "begin"}) == 1


def test_in_an_allocation_time_adds_up_but_neither_memory_nor_gpus(shared: Shared) -> None:
    first = shared.jobs[0]
    assert first.gpus == 1
    assert first.minutes >= 4 * 5
    assert first.memory < 2 * 9000


def test_a_model_that_fails_costs_its_neighbours_nothing(shared: Shared) -> None:
    assert shared.status != 0
    assert set(shared.clone.scores()) == set(shared.models)
    for model in shared.models:
        jobs = {line["job"] for line in shared.clone.events(model, "batch")}
        assert jobs == {shared.jobs[0].number}, "what is finished is not scored again"
        assert is_complete(shared.clone, model)
    assert left_behind(shared.clone) == []


@pytest.mark.usefixtures("cluster")
def test_of_a_thousand_models_each_is_scored_once(tmp_path: Path) -> None:
    clone = make_placeholders(tmp_path / "klmap", MANY)
    head = clone.head("scores")
    assert head.wait(1800) == 0, head.output
    scored = [line.split()[0] for line in (clone.journal / "instant.txt").read_text().splitlines()]
    assert len(scored) == len(set(scored)) == len(clone.scores()) == MANY
    assert left_behind(clone) == []
    states = said("squeue", "--states=all", "--noheader", f"--name={head.run}", "--format=%T")
    assert states.split() == ["COMPLETED"] * math.ceil(MANY / 16), "sixteen share an allocation"
