"""A scoring job that is killed at any moment goes on where it was and ends with the same bytes."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from klmap import scorer, scorer_run
from klmap.errors import PermanentFailure
from klmap.scorer_precision import prepare
from klmap.scorer_resume import Checkpoint, digest
from tests.builders import tiny_model
from tests.oracle import make_job

VOLATILE = {"seconds", "startup_seconds", "tokens_per_second", "peak_memory"}
BUDGET = 300


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    prepare("cpu", 1)


@pytest.fixture
def job(tmp_path: Path) -> scorer.Job:
    """A job of several batches that saves after each of them."""
    found: scorer.Job = make_job(tmp_path, tiny_model(tmp_path / "model", "llama"))
    return dataclasses.replace(
        found, batch_tokens=BUDGET, keep_tokens=True, save_every=0.0, products="blas"
    )


def in_a_process(work: Callable[[], None]) -> int:
    """Exit status of a forked process that does the work, negative for a signal."""
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(120)
    assert process.exitcode is not None
    return process.exitcode


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed_after_batch(job: scorer.Job, count: int) -> None:
    original = scorer_run.next_batch
    calls = 0

    def counted(*arguments: Any) -> Any:
        nonlocal calls
        calls += arguments[2] > 1  # not those of the error bar, which takes texts singly
        if calls > count:
            kill()
        return original(*arguments)

    scorer_run.next_batch = counted
    scorer.score(job)


def killed_at_rename(job: scorer.Job, count: int, *, before: bool) -> None:
    original = Path.replace
    calls = 0

    def counted(self: Path, target: Path) -> Path:
        nonlocal calls
        calls += 1
        if calls == count and before:
            kill()
        result = original(self, target)
        if calls == count:
            kill()
        return result

    Path.replace = counted  # type: ignore[method-assign]
    scorer.score(job)


def content(path: Path) -> dict[str, Any]:
    """Every dataset and attribute of a score file, but for times and memory."""
    found: dict[str, Any] = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: (
                found.update({name: item[:].tobytes()}) if isinstance(item, h5py.Dataset) else None
            )
        )
        for key, value in file.attrs.items():
            if key not in VOLATILE:
                found[f"@{key}"] = np.asarray(value).tobytes() if key != "software" else value
    return found


def batches(job: scorer.Job, monkeypatch: pytest.MonkeyPatch) -> int:
    """Score, and count the batches that it takes, those of the error bar aside."""
    original = scorer_run.next_batch
    calls = []

    def counted(*arguments: Any) -> Any:
        calls.append(arguments[2])
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(scorer_run, "next_batch", counted)
        scorer.score(job)
    return sum(budget > 1 for budget in calls)


def test_killed_after_each_batch(job: scorer.Job, monkeypatch: pytest.MonkeyPatch) -> None:
    total = batches(job, monkeypatch)
    assert total >= 4
    expected = content(job.output)
    for count in range(1, total):
        job.output.unlink()
        assert in_a_process(lambda n=count: killed_after_batch(job, n)) == -signal.SIGKILL
        assert not job.output.exists()
        assert job.progress.is_file()
        assert batches(job, monkeypatch) == total - count, "finished batches are not done again"
        assert content(job.output) == expected
        assert not job.progress.exists()


@pytest.mark.parametrize("before", [True, False])
def test_killed_at_each_write(
    job: scorer.Job, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    writes = batches(job, monkeypatch) + 1  # a side file for each batch, and the score
    expected = content(job.output)
    for count in range(1, writes + 1):
        job.output.unlink()
        status = in_a_process(lambda n=count: killed_at_rename(job, n, before=before))
        assert status == -signal.SIGKILL
        if job.output.exists():
            assert (count, before) == (writes, False), "what has its name is whole"
        scorer.score(job)
        assert content(job.output) == expected
        left = [path.name for path in job.output.parent.iterdir() if "demo--tiny" in path.name]
        assert left == [job.output.name], "nothing half-written is left"


def test_killed_again_and_again(job: scorer.Job, monkeypatch: pytest.MonkeyPatch) -> None:
    batches(job, monkeypatch)
    expected = content(job.output)
    job.output.unlink()
    while in_a_process(lambda: killed_after_batch(job, 1)) == -signal.SIGKILL:
        pass
    assert content(job.output) == expected


def test_side_file_of_another_job_is_not_continued(
    job: scorer.Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    total = batches(job, monkeypatch)
    job.output.unlink()
    in_a_process(lambda: killed_after_batch(job, 2))
    side = job.progress.read_bytes()
    for change in ({"threads": 2}, {"batch_tokens": BUDGET + 1}):
        job.progress.write_bytes(side)
        other = dataclasses.replace(job, **change)
        assert batches(other, monkeypatch) >= total - 1
        job.output.unlink()
    prepare("cpu", 1)
    job.progress.write_bytes(side[: len(side) // 2])
    assert batches(job, monkeypatch) == total, "a damaged side file costs time, nothing else"
    job.output.unlink()
    job.progress.write_bytes(side)
    assert batches(job, monkeypatch) == total - 2


def test_checkpoint_goes_on_only_with_the_same_choices(tmp_path: Path) -> None:
    path = tmp_path / "a.partial"
    how = {"dtype": "float32", "head": "own", "products": "onednn"}
    first = Checkpoint(path, {"model": "a"}, 0.0)
    assert first.begin(how) is None
    assert first.due
    first.save(3, 100, np.arange(5, dtype=np.float32))
    state = Checkpoint(path, {"model": "a"}, 0.0).begin(how)
    assert state is not None
    assert (state.pieces, state.budget, state.values.tolist()) == (3, 100, [0, 1, 2, 3, 4])
    assert Checkpoint(path, {"model": "a"}, 0.0).begin({**how, "products": "blas"}) is None
    assert Checkpoint(path, {"model": "b"}, 0.0).state is None
    assert not Checkpoint(path, {"model": "a"}, 60.0).due


def test_a_final_failure_leaves_nothing_to_go_on_from(
    job: scorer.Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_a_process(lambda: killed_after_batch(job, 1))
    assert job.progress.is_file()

    def fails(*_: Any) -> None:
        raise PermanentFailure("not finite")

    with monkeypatch.context() as patch:
        patch.setattr(scorer_run, "text_sums", fails)
        with pytest.raises(PermanentFailure):
            scorer.score(job)
    assert job.failure.is_file()
    assert not job.progress.exists()


def test_digest_tells_where_a_text_ends() -> None:
    assert digest([[1, 2], [3]]) != digest([[1], [2, 3]])
    assert digest([[1, 2], [3]]) == digest(([1, 2], (3,)))


def test_identity_names_what_decides_about_last_digits(job: scorer.Job) -> None:
    in_a_process(lambda: killed_after_batch(job, 1))
    with np.load(job.progress) as file:
        identity = json.loads(json.loads(str(file["about"]))["identity"])
    assert set(identity) == {
        *("model", "commit", "texts_sha256", "software", "fingerprint"),
        *("sequences", "budget", "device", "threads"),
    }
