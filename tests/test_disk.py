"""The disk budget: never exceeded, in order, and no dead end, whoever is killed."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from base64 import urlsafe_b64encode
from pathlib import Path
from typing import Any

import psutil
import pytest

from klmap import disk
from klmap.disk import OVERHEAD, PARTIAL, WEIGHTS, Budget, Claim
from klmap.errors import KlmapError, PermanentFailure
from klmap.processes import Owner

MB = 10**6
ME = Owner.of(psutil.Process())
DEAD = Owner(socket.gethostname(), 2**22 + 1, 0.0)
ELSEWHERE = Owner("another-machine", 1, 0.0)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(disk, "POLL", 0.02)
    monkeypatch.setattr(disk, "SETTLE", 0.1)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def budget() -> Budget:
    """Ten megabytes, without a workflow around it."""
    return Budget(Path("models"), 10 * MB, grace=0.2)


def place(source: str, name: str, size: int) -> Path:
    """Files of a model on the disk."""
    folder = Path("models", source, name)
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(bytes(size))
    return folder


def note(budget: Budget, source: str, owner: Owner = DEAD, **values: Any) -> None:
    """A claim that another process left in the ledger."""
    claim = Claim(source, 4 * MB, 0, 0.0, True, owner, None)
    for key, value in values.items():
        setattr(claim, key, value)
    budget.ledger.mkdir(parents=True, exist_ok=True)
    budget._write(claim)


def fetching(budget: Budget, source: str, size: int = 4 * MB, rank: int = 0) -> threading.Thread:
    """Ask for room in the background and leave weights behind."""

    def run() -> None:
        with budget.room(source, size - 5 * OVERHEAD, 1, rank):
            place(source, WEIGHTS, size - 5 * OVERHEAD)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def test_room_is_given_while_it_lasts_and_again_when_weights_are_gone(budget: Budget) -> None:
    with budget.room("a", 4 * MB, 1, 0):
        weights = place("a", WEIGHTS, 4 * MB)
    with budget.room("b", 4 * MB, 1, 1):
        place("b", WEIGHTS, 4 * MB)
    third = fetching(budget, "c")
    third.join(0.5)
    assert third.is_alive(), "8 of 10 MB are taken"
    disk.remove(weights)
    third.join(2)
    assert not third.is_alive()
    assert Path("models/c", WEIGHTS).is_dir()


def test_links_take_no_room(budget: Budget) -> None:
    weights = place("a", "elsewhere", 9 * MB)
    linked = Path("models/a", WEIGHTS)
    linked.mkdir()
    (linked / "model.safetensors").symlink_to(weights / "model.safetensors")
    note(budget, "a")
    with budget.room("b", 9 * MB, 1, 0):
        pass


def test_nothing_to_download_asks_for_nothing(budget: Budget) -> None:
    with budget.room("a", 0, 0, 0):
        assert not budget.ledger.exists()


def test_the_first_in_line_is_not_overtaken(budget: Budget) -> None:
    """A large model waits for room; a small one that would fit but comes later waits for it."""
    weights = place("held", WEIGHTS, 4 * MB)
    note(budget, "held")
    order: list[str] = []

    def run(source: str, size: int, rank: int) -> None:
        with budget.room(source, size, 1, rank):
            order.append(source)
            time.sleep(0.1)

    small = threading.Thread(target=run, args=("small", MB, 2), daemon=True)
    large = threading.Thread(target=run, args=("large", 9 * MB, 1), daemon=True)
    large.start()
    time.sleep(0.2)
    small.start()
    time.sleep(0.5)
    assert order == []
    disk.remove(weights)
    large.join(5)
    small.join(5)
    assert order == ["large", "small"]


def test_larger_than_the_budget_is_refused_at_once(budget: Budget) -> None:
    expected = pytest.raises(PermanentFailure, match=r"raise hardware\.disk_budget_gb")
    with expected as error, budget.room("a", 11 * MB, 1, 0):
        pass
    assert error.value.state == "too large"
    assert "11.0 MB to download, and hardware.disk_budget_gb allows 10.0 MB" in str(error.value)


def test_weights_without_a_claim_count_as_well(budget: Budget) -> None:
    """Somebody removed the ledger after scores had failed."""
    left = place("left", WEIGHTS, 8 * MB)
    waiting = fetching(budget, "b")
    waiting.join(0.4)
    assert waiting.is_alive()
    disk.remove(left)
    waiting.join(2)
    assert not waiting.is_alive()


def test_exactly_the_budget_fits(budget: Budget) -> None:
    with budget.room("a", 10 * MB, 1, 0):
        pass


@pytest.mark.parametrize("owner", [DEAD, ELSEWHERE])
def test_claims_of_the_dead_are_forgotten(budget: Budget, owner: Owner) -> None:
    note(budget, "a", owner, size=9 * MB)
    if owner is ELSEWHERE:
        os.utime(budget._path("a"), (1.0, 1.0))
    with budget.room("b", 9 * MB, 1, 0):
        assert not budget._path("a").exists()


def test_a_claim_from_another_machine_counts_while_it_beats(budget: Budget) -> None:
    note(budget, "a", ELSEWHERE, size=9 * MB)
    waiting = fetching(budget, "b")
    waiting.join(0.4)
    assert waiting.is_alive()
    os.utime(budget._path("a"), (1.0, 1.0))
    waiting.join(2)
    assert not waiting.is_alive()


def test_what_a_killed_fetch_left_goes_before_anybody_waits(budget: Budget) -> None:
    partial = place("a", PARTIAL, 8 * MB)
    note(budget, "a", size=9 * MB)
    with budget.room("b", MB, 1, 0):
        assert partial.exists(), "there is room beside it"
    with budget.room("b", 4 * MB, 1, 0):
        assert not partial.exists()


def test_a_failed_fetch_keeps_its_claim_while_a_part_is_there(budget: Budget) -> None:
    for source, size in (("a", MB), ("b", 0)):
        with contextlib.suppress(KlmapError), budget.room(source, 4 * MB, 1, 0):
            place(source, PARTIAL, size)
            raise KlmapError("the network")
    assert budget._path("a").exists()
    assert not budget._path("b").exists()


def test_a_broken_claim_is_no_claim(budget: Budget) -> None:
    budget.ledger.mkdir(parents=True)
    budget._path("a").write_text("{")
    budget._path("b").write_text(json.dumps({"source": "b"}))
    with budget.room("c", 9 * MB, 1, 0):
        assert [path.stem for path in budget.ledger.glob("*.json")] == ["c"]


def test_the_same_model_is_not_fetched_twice_at_a_time(
    budget: Budget, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "klmap")
    note(budget, "a", ELSEWHERE)
    waiting = fetching(budget, "a", MB)
    waiting.join(0.4)
    assert waiting.is_alive()
    assert "process 1 on another-machine is fetching it already" in caplog.text
    os.utime(budget._path("a"), (1.0, 1.0))
    waiting.join(2)
    assert not waiting.is_alive()


def test_parts_of_waiting_models_count_and_give_way(budget: Budget) -> None:
    """Two that come later hold 3 MB each from an earlier attempt; there is room for 10."""
    parts = {name: place(name, PARTIAL, 3 * MB) for name in ("b", "c")}
    for rank, name in enumerate(parts, start=5):
        note(budget, name, ELSEWHERE, granted=False, place=rank)
    with budget.room("a", 6 * MB, 1, 0):
        assert parts["b"].exists()
        assert not parts["c"].exists(), "of the last in line"


def test_many_processes_never_exceed_the_budget(tmp_path: Path) -> None:
    """Twelve fetches at once; their weights go a moment later, as after scoring."""
    code = f"""
import sys, time
from pathlib import Path
sys.path.insert(0, {str(Path(disk.__file__).parents[1])!r})
from klmap import disk
disk.POLL, disk.SETTLE = 0.02, 0.1
source, size = sys.argv[1], int(sys.argv[2])
with disk.Budget(Path("models"), {10 * MB}).room(source, size, 1, int(sys.argv[3])):
    part = Path("models", source, disk.PARTIAL)
    part.mkdir(parents=True)
    for number in range(4):
        (part / str(number)).write_bytes(bytes(size // 4))
        time.sleep(0.02)
    part.rename(part.with_name(disk.WEIGHTS))
time.sleep(0.1)
disk.remove(Path("models", source, disk.WEIGHTS))
"""
    sizes = [3 * MB, 5 * MB, 2 * MB, 9 * MB] * 3
    jobs = [
        subprocess.Popen([sys.executable, "-c", code, f"m{n}", str(size), str(n)], cwd=tmp_path)
        for n, size in enumerate(sizes)
    ]
    most = 0
    deadline = time.monotonic() + 60
    while any(job.poll() is None for job in jobs) and time.monotonic() < deadline:
        most = max(
            most, disk.size_of(tmp_path / "models") - disk.size_of(tmp_path / "models/_disk")
        )
        time.sleep(0.005)
    assert [job.wait(5) for job in jobs] == [0] * len(jobs)
    assert 5 * MB < most <= 10 * MB


# A workflow that stands still


def in_work(*outputs: str) -> None:
    """Notes as Snakemake keeps them for the jobs that it has started."""
    notes = Path(".snakemake/incomplete")
    notes.mkdir(parents=True, exist_ok=True)
    for path in notes.iterdir():
        path.unlink()
    for output in outputs:
        (notes / urlsafe_b64encode(output.encode()).decode()).write_text("{}")


def locked() -> None:
    Path(".snakemake/locks").mkdir(parents=True)
    Path(".snakemake/locks/0.input.lock").write_text("")


def test_weights_of_a_failed_score_make_room_when_all_stand_still(budget: Budget) -> None:
    locked()
    failed = place("failed", WEIGHTS, 8 * MB)
    note(budget, "failed")
    in_work("models/b/weights", "results/texts/scores/other.h5")
    waiting = fetching(budget, "b")
    waiting.join(0.8)
    assert waiting.is_alive()
    assert failed.exists(), "a job is at work: it may free some room, or need these"
    in_work("models/b/weights")
    waiting.join(2)
    assert not waiting.is_alive()
    assert not failed.exists()


def test_fetches_that_wait_for_each_other_are_a_standstill(budget: Budget) -> None:
    locked()
    place("failed", WEIGHTS, 8 * MB)
    note(budget, "failed")
    in_work("models/b/weights", "models/c/weights")
    waiting = [fetching(budget, name, rank=rank) for rank, name in enumerate("bc")]
    for thread in waiting:
        thread.join(3)
    assert not any(thread.is_alive() for thread in waiting)


def test_nothing_is_given_up_where_snakemake_cannot_be_asked(budget: Budget) -> None:
    """Neither without a lock, nor where the waiting fetch itself is not in the notes."""
    weights = place("a", WEIGHTS, 8 * MB)
    note(budget, "a")
    waiting = fetching(budget, "b")
    waiting.join(0.6)
    locked()
    in_work()
    waiting.join(0.6)
    assert waiting.is_alive()
    assert weights.exists()
    disk.remove(weights)
    waiting.join(2)


def test_weights_of_another_live_workflow_are_never_given_up(budget: Budget) -> None:
    locked()
    in_work("models/b/weights")
    with subprocess.Popen(["sleep", "60"]) as other:
        theirs = place("a", WEIGHTS, 8 * MB)
        note(budget, "a", run=Owner.of(psutil.Process(other.pid)))
        waiting = fetching(budget, "b")
        waiting.join(0.8)
        assert waiting.is_alive()
        assert theirs.exists()
        other.kill()
    waiting.join(2)
    assert not waiting.is_alive(), "that workflow is dead, and its weights are nobody's"
    assert not theirs.exists()


def test_notes_of_an_earlier_run_do_not_count() -> None:
    in_work("results/texts/scores/killed.h5", "models/b/weights")
    for path in Path(".snakemake/incomplete").iterdir():
        os.utime(path, (1.0, 1.0))
    assert disk._outputs_in_work(Path(".snakemake/incomplete"), 2.0) == set()
    assert len(disk._outputs_in_work(Path(".snakemake/incomplete"), 0.0)) == 2


def test_long_names_of_notes_are_put_together() -> None:
    name = "results/models/" + "x" * 400 + "/weights"
    text = urlsafe_b64encode(name.encode()).decode()
    pieces = [text[start : start + 254] for start in range(0, len(text), 254)]
    folder = Path("notes", *("@" + piece for piece in pieces[:-1]))
    folder.mkdir(parents=True)
    (folder / pieces[-1]).write_text("{}")
    assert disk._outputs_in_work(Path("notes"), 0.0) == {name}


def test_a_fetch_ends_when_its_workflow_is_gone(
    budget: Budget, monkeypatch: pytest.MonkeyPatch
) -> None:
    place("a", WEIGHTS, 8 * MB)
    note(budget, "a")
    monkeypatch.setattr(disk, "workflow", lambda: DEAD)
    expected = pytest.raises(KlmapError, match="the workflow that asked for it has ended")
    with expected, budget.room("b", 4 * MB, 1, 0):
        pass
    assert not budget._path("b").exists()


def test_a_process_knows_the_workflow_above_it(tmp_path: Path) -> None:
    code = "from klmap import processes; print(processes.workflow().pid)"
    library = str(Path(disk.__file__).parents[1])
    script = tmp_path / "snakemake"
    script.write_text(
        "import os, subprocess, sys\n"
        f"out = subprocess.run([sys.executable, '-c', {code!r}], text=True, capture_output=True,\n"
        f"    env={{**os.environ, 'PYTHONPATH': {library!r}}})\n"
        "print(out.stdout.strip() == str(os.getpid()), out.stderr)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


def test_a_lock_of_a_killed_process_does_not_block(
    budget: Budget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "LEASE", 1.0)
    code = (
        "import sys, time; from filelock import SoftFileLease\n"
        "SoftFileLease(sys.argv[1], lease_duration=1.0).acquire()\n"
        "print('held', flush=True); time.sleep(60)"
    )
    budget.ledger.mkdir(parents=True)
    with subprocess.Popen(
        [sys.executable, "-c", code, str(budget.ledger / ".lock")], stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        holder.kill()
    began = time.monotonic()
    with budget.room("a", MB, 1, 0):
        assert time.monotonic() - began < 10
