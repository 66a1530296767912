"""One job at a time works at a score; another one takes over, and nothing is scored twice."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from klmap import handover, scorer, scorer_run
from klmap.errors import KlmapError
from klmap.handover import hold
from klmap.interruption import Interruption, Terminated
from klmap.leases import Lease, ask_of, read
from klmap.log import Progress
from klmap.prune import unwanted
from klmap.scorer_precision import prepare
from tests.builders import sample_texts, tiny_model
from tests.oracle import make_job
from tests.test_resume import content

BUDGET = 300
PACED = Path(__file__).with_name("paced_score.py")


def until(condition: Callable[[], Any], seconds: float = 90.0) -> Any:
    """Wait for a condition and give its value."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
    return value


def lease_of(**changes: Any) -> Lease:
    """The lease of a job on another host."""
    now = time.time()
    other = Lease("other", "elsewhere", 1, now, "", now, now)
    return dataclasses.replace(other, **changes)


def write(path: Path, lease: Lease) -> None:
    """Write a lease as another host would."""
    temporary = path.with_name("foreign")
    temporary.write_text(json.dumps(dataclasses.asdict(lease)))
    temporary.replace(path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "scores" / "demo--tiny.0123456789ab.lease"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """All times a hundredth of the real ones."""
    for name in ("SILENT", "BEAT", "POLL", "NEARLY_DONE", "PATIENCE"):
        monkeypatch.setattr(handover, name, getattr(handover, name) / 100)


class Alive:
    """A job on another host whose lease shows signs of life."""

    def __init__(self, path: Path, lease: Lease) -> None:
        self.path, self.lease = path, lease
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, lease)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat)

    def _beat(self) -> None:
        for count in itertools.count():
            lease = read(self.path)
            if self._ended.wait(0.02) or lease is None or lease.token != self.lease.token:
                return
            write(self.path, dataclasses.replace(self.lease, beat=self.lease.beat - count))

    def __enter__(self) -> Alive:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.die()

    def die(self) -> None:
        self._ended.set()
        self._thread.join()

    def end(self) -> None:
        self.die()
        self.path.unlink()


@pytest.fixture
def beside() -> Iterator[Callable[[Callable[[], None]], threading.Thread]]:
    """Start something in a thread that is waited for."""
    threads = []

    def start(work: Callable[[], None]) -> threading.Thread:
        threads.append(threading.Thread(target=work))
        threads[-1].start()
        return threads[-1]

    yield start
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


# --- the lease itself


@pytest.mark.usefixtures("quick")
def test_a_lease_shows_progress_and_is_gone_at_the_end(path: Path) -> None:
    with hold(path, Interruption()) as held:
        first = read(path)
        assert first is not None
        assert (first.pid, first.done, first.total, first.left_seconds) == (os.getpid(), 0, 0, None)
        assert first.is_alive(time.time())
        progress = Progress(80, "tokens")
        held.follow(progress, 20, "a GPU")
        progress.add(20)
        later = until(lambda: (lease := read(path)) and lease.done and lease)
        assert (later.token, later.done, later.total) == (first.token, 40, 100)
        assert (first.device, later.device) == ("", "a GPU")
        assert later.left_seconds >= 0
        assert later.beat > first.beat
    assert list(path.parent.iterdir()) == []


def test_it_is_gone_after_an_error_too(path: Path) -> None:
    with contextlib.suppress(ZeroDivisionError), hold(path, Interruption()):
        assert read(path) is not None
        raise ZeroDivisionError
    assert list(path.parent.iterdir()) == []


def test_a_file_system_without_links(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    with hold(path, Interruption()):
        assert read(path) is not None
        assert not handover.Held(path, Interruption())._create(), "there is one already"


@pytest.mark.usefixtures("quick")
def test_a_removed_lease_is_made_again(path: Path) -> None:
    with hold(path, Interruption()) as held:
        path.unlink()
        assert until(lambda: read(path)).token == held.lease.token


@pytest.mark.usefixtures("quick")
def test_whoever_is_replaced_ends_without_saving_and_leaves_the_lease(path: Path) -> None:
    interruption = Interruption()
    with hold(path, interruption):
        write(path, lease_of())
        until(lambda: interruption.is_asked)
    assert not interruption.saves, "the other job may be further by now"
    with pytest.raises(KlmapError, match="process 1 on elsewhere has taken over"):
        interruption.obey()
    found = read(path)
    assert found is not None
    assert found.token == "other"


@pytest.mark.usefixtures("quick")
def test_signs_of_life_are_compared_with_earlier_ones_and_never_with_a_clock(
    path: Path, beside: Any
) -> None:
    """The other host's clock stands in the past, and goes backwards."""
    taken = threading.Event()

    def work() -> None:
        with hold(path, Interruption()):
            taken.set()

    with Alive(path, lease_of(beat=0.0)) as other:
        beside(work)
        assert not taken.wait(3 * handover.SILENT)
        other.die()
        assert taken.wait(20)


@pytest.mark.usefixtures("quick")
def test_an_unreadable_lease_is_taken_when_it_does_not_change(path: Path) -> None:
    path.parent.mkdir()
    for damaged in ("", "[]", '{"token": 1}', "\x00\xff"):
        path.write_text(damaged)
        assert read(path) is None
        with hold(path, Interruption()) as held:
            assert until(lambda: read(path)).token == held.lease.token


def test_a_dead_process_of_this_host_is_followed_at_once(path: Path) -> None:
    path.parent.mkdir()
    began = time.monotonic()
    with hold(path, Interruption()) as held:
        mine = held.lease
    for change in ({"pid": 2**22 + 1}, {"process_started": mine.process_started - 60}):
        write(path, dataclasses.replace(mine, token="dead", **change))
        with hold(path, Interruption()):
            pass
    assert time.monotonic() - began < handover.SILENT


def test_a_job_that_slurm_starts_again_follows_itself_at_once(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    path.parent.mkdir()
    write(path, lease_of(job="7"))
    began = time.monotonic()
    with hold(path, Interruption()) as held:
        assert held.lease.job == "7"
    assert time.monotonic() - began < handover.SILENT


def test_the_earlier_submission_ends(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "99")
    path.parent.mkdir()
    write(path, lease_of(job="100"))
    with (
        pytest.raises(KlmapError, match=r"SLURM job 100 on elsewhere .* later than this job, 99"),
        hold(path, Interruption()),
    ):
        pytest.fail("two jobs at one score")
    assert [found.name for found in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(("mine", "theirs"), [("101", "99"), ("", "99"), ("5", ""), ("9_1", "99")])
@pytest.mark.usefixtures("quick")
def test_the_later_submission_asks(
    path: Path, monkeypatch: pytest.MonkeyPatch, beside: Any, mine: str, theirs: str
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", mine)
    taken = threading.Event()

    def work() -> None:
        with hold(path, Interruption()):
            taken.set()

    with Alive(path, lease_of(job=theirs)) as other:
        beside(work)
        asked = until(lambda: ask_of(path).is_file() and json.loads(ask_of(path).read_text()))
        assert asked["to"] == "other"
        assert not taken.is_set()
        other.end()
        assert taken.wait(20)
    until(lambda: not list(path.parent.iterdir()))


@pytest.mark.usefixtures("quick")
def test_a_job_that_is_nearly_done_is_not_asked(path: Path, beside: Any) -> None:
    taken = threading.Event()

    def work() -> None:
        with hold(path, Interruption()):
            taken.set()

    with Alive(path, lease_of(left_seconds=handover.NEARLY_DONE / 2)) as other:
        beside(work)
        assert not taken.wait(10 * handover.POLL)
        assert not ask_of(path).exists()
        other.end()
        assert taken.wait(20)


@pytest.mark.usefixtures("quick")
def test_a_job_on_another_kind_of_device_is_waited_for(path: Path, beside: Any) -> None:
    """What it has saved would be of no use, so to hand over would be to throw work away."""
    taken = threading.Event()

    def work() -> None:
        with hold(path, Interruption(), lambda: "NVIDIA A100"):
            taken.set()

    with Alive(path, lease_of(device="NVIDIA H200")) as other:
        beside(work)
        assert not taken.wait(10 * handover.POLL)
        assert not ask_of(path).exists()
        other.end()
        assert taken.wait(20)
    with Alive(path, lease_of(device="NVIDIA A100")) as other:
        beside(work)
        until(ask_of(path).exists)
        other.end()


@pytest.mark.usefixtures("quick")
def test_a_holder_hands_over_to_who_asks_it_and_not_its_predecessor(path: Path) -> None:
    path.parent.mkdir()
    interruption = Interruption()
    with hold(path, interruption) as held:
        ask_of(path).write_text(json.dumps({"token": "b", "to": "former", "whom": "SLURM job 3"}))
        before = held._now()
        until(lambda: (lease := read(path)) and lease.beat > json.loads(before)["beat"])
        until(lambda: (lease := read(path)) and lease.beat > time.time() - handover.BEAT / 2)
        assert not interruption.is_asked
        asked = {"token": "b", "to": held.lease.token, "whom": "SLURM job 3"}
        ask_of(path).write_text(json.dumps(asked))
        until(lambda: interruption.is_asked)
    assert interruption.saves
    with pytest.raises(KlmapError, match="handed over to SLURM job 3"):
        interruption.obey()
    assert not ask_of(path).exists()


@pytest.mark.usefixtures("quick")
def test_a_holder_that_was_asked_and_hangs_is_not_waited_for_for_ever(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover, "PATIENCE", 1.0)
    with Alive(path, lease_of(done=5)), hold(path, Interruption()) as held:
        assert held.lease.token != "other"


@pytest.mark.usefixtures("quick")
def test_of_many_that_find_a_dead_job_one_works(path: Path) -> None:
    """All others wait, end, or are told to end; none is left behind."""
    path.parent.mkdir()
    write(path, lease_of())
    working, ended, clash = [0], [], threading.Lock()
    whole: list[int] = []

    def work(number: int) -> None:
        interruption = Interruption()
        with hold(path, interruption):
            with clash:
                working[0] += 1
            end = time.monotonic() + 20 * handover.BEAT
            while time.monotonic() < end and not interruption.is_asked:
                time.sleep(0.001)
            with clash:
                working[0] -= 1
                (ended if interruption.is_asked else whole).append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert len(whole) + len(ended) == 4
    assert len(whole) == 1, "each later one makes the one before it end; the last one works"
    assert list(path.parent.iterdir()) == []


def test_whether_a_job_seems_alive() -> None:
    now = 1e9
    other = lease_of(beat=now)
    assert other.is_alive(now + handover.SILENT / 2)
    assert not other.is_alive(now + handover.SILENT * 2)


def test_prune_leaves_a_job_at_work_alone_and_finds_what_dead_ones_left(path: Path) -> None:
    path.parent.mkdir()
    (path.parents[1] / "index.tsv").write_text("model\tsource\tfingerprint\n")
    partial = path.with_suffix(".partial")
    partial.touch()
    ask_of(path).touch()
    write(path, lease_of())
    assert unwanted(path.parents[1] / "index.tsv") == []
    write(path, lease_of(beat=0.0))
    assert unwanted(path.parents[1] / "index.tsv") == [path, ask_of(path), partial]


# --- how a job is asked to end


def test_the_first_who_asks_counts() -> None:
    interruption = Interruption()
    interruption.obey()
    interruption.ask(KlmapError("first"))
    interruption.ask(KlmapError("second"), saves=False)
    assert interruption.saves
    with pytest.raises(KlmapError, match="first"):
        interruption.obey()


def test_no_library_keeps_a_signal() -> None:
    assert not issubclass(Terminated, Exception)
    assert Terminated(signal.SIGTERM).status == 143
    assert Terminated(signal.SIGINT).status == 130


def test_two_attempts_with_one_log_leave_no_hole_in_it(tmp_path: Path) -> None:
    go = tmp_path / "go"
    script = tmp_path / "script.py"
    script.write_text(
        "import pathlib, time\n"
        "from klmap import log\n"
        "def main():\n"
        "    log.logger.info('a first line, longer than what the other attempt writes')\n"
        f"    while not pathlib.Path({str(go)!r}).exists():\n"
        "        time.sleep(0.01)\n"
        "    log.logger.info('a last line')\n"
        "log.run(main)\n"
    )
    log = tmp_path / "log"
    scripts = str(PACED.parents[1] / "scripts")
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, str(script)], stderr=file, env={**os.environ, "PYTHONPATH": scripts}
        )
    until(lambda: "first" in log.read_text())
    log.write_text("begun anew\n")
    go.touch()
    assert process.wait(60) == 0
    first, last = log.read_text().splitlines()
    assert first == "begun anew"
    assert last.isprintable()
    assert last.endswith("a last line")


# --- jobs


@pytest.fixture
def job(tmp_path: Path) -> scorer.Job:
    """A job of some twenty batches that saves only when asked to."""
    texts = [text for text, _ in sample_texts(40)]
    found: scorer.Job = make_job(tmp_path, tiny_model(tmp_path / "model", "llama"), texts)
    return dataclasses.replace(
        found, batch_tokens=BUDGET, keep_tokens=True, save_every=600.0, products="blas"
    )


@pytest.fixture
def undisturbed(job: scorer.Job) -> tuple[dict[str, Any], int]:
    """The score of a job that nobody disturbs, and how many batches it takes."""
    prepare("cpu", 1)
    calls = []
    original = scorer_run.next_batch
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scorer_run, "next_batch", lambda *a: (calls.append(a[2]), original(*a))[1])
        scorer.score(job)
    found = content(job.output)
    job.output.unlink()
    return found, sum(budget > 1 for budget in calls)


class Attempt:
    """One process that scores, started by ``attempt``."""

    def __init__(self, job: scorer.Job, name: str, halt: int, pace: float, **extra: str) -> None:
        folder = job.output.parent
        self.job = job
        self.go = folder / f"{name}.go"
        self._batches = folder / f"{name}.batches"
        self._log = folder / f"{name}.log"
        variables = {
            "KLMAP_TEST_BATCHES": str(self._batches),
            "KLMAP_TEST_HALT": str(halt),
            "KLMAP_TEST_GO": str(self.go),
            "KLMAP_TEST_PACE": str(pace),
            "KLMAP_LEASE_SECONDS": "3",
            "SLURM_JOB_ID": "",
            **extra,
        }
        arguments = {
            "card": job.card,
            "weights": job.weights,
            "texts": job.texts,
            "manifest": job.manifest,
            "model": job.model,
            "spec": json.dumps(job.spec),
            "score": job.output,
            "on-failure": "skip" if job.skip_failures else "stop",
            "keep-tokens": "true",
            "batch-tokens": BUDGET,
            "device": "cpu",
            "products": "blas",
            "save-every": job.save_every,
        }
        line = [str(part) for key, value in arguments.items() for part in (f"--{key}", value)]
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(PACED), *line],
                env={**os.environ, **variables},
                stdout=log,
                stderr=log,
            )

    @property
    def batches(self) -> list[str]:
        """Batches that were begun, each by the number of its first piece."""
        return self._batches.read_text().split() if self._batches.exists() else []

    @property
    def log(self) -> str:
        return self._log.read_text()

    def reaches(self, count: int) -> None:
        """Wait until a number of batches have begun."""
        until(lambda: len(self.batches) >= count or self.process.poll() is not None)
        assert len(self.batches) >= count, self.log

    def holds(self) -> Lease:
        """Wait until the lease is this process's."""

        def mine() -> Lease | None:
            assert self.process.poll() is None, self.log
            lease = read(self.job.lease)
            return lease if lease is not None and lease.pid == self.process.pid else None

        found = until(mine)
        assert isinstance(found, Lease)
        return found

    def ends(self) -> int:
        """Exit status."""
        return self.process.wait(120)


@pytest.fixture
def attempt(job: scorer.Job) -> Iterator[Callable[..., Attempt]]:
    started: list[Attempt] = []

    def start(*, halt: int = -1, pace: float = 0.0, **extra: Any) -> Attempt:
        asked = extra.pop("job", job)
        started.append(Attempt(asked, f"attempt{len(started)}", halt, pace, **extra))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()


def leftovers(job: scorer.Job) -> list[str]:
    """What lies beside the score."""
    names = (path.name for path in job.output.parent.iterdir())
    return [name for name in names if "demo--tiny" in name and name != job.output.name]


def test_a_second_job_takes_over_and_no_batch_is_scored_twice(
    job: scorer.Job, undisturbed: Any, attempt: Callable[..., Attempt]
) -> None:
    expected, total = undisturbed
    assert total >= 12
    first = attempt(halt=3, pace=0.5)
    first.reaches(3)
    second = attempt()
    until(lambda: ask_of(job.lease).exists())
    first.go.touch()
    assert first.ends() == 1
    assert "handed over to process" in first.log
    assert second.ends() == 0, second.log
    assert "asked to save behind its batch" in second.log
    assert content(job.output) == expected
    assert len(first.batches) < total
    assert len(first.batches) + len(second.batches) == total
    assert len({*first.batches, *second.batches}) == total
    assert leftovers(job) == []


def test_a_job_hands_over_while_it_loads(
    job: scorer.Job, undisturbed: Any, attempt: Callable[..., Attempt]
) -> None:
    expected, total = undisturbed
    first = attempt(halt=0)
    first.reaches(1)
    token = first.holds().token
    second = attempt()
    until(lambda: ask_of(job.lease).exists())
    seen = until(lambda: read(job.lease)).beat
    until(lambda: (lease := read(job.lease)) and lease.beat > seen + 2 * 3 / 6)
    assert until(lambda: read(job.lease)).token == token, "it is waited for as long as it is alive"
    first.go.touch()
    assert first.ends() == 1
    assert first.batches == ["loading"]
    assert second.ends() == 0, second.log
    assert len(second.batches) == total
    assert content(job.output) == expected
    assert leftovers(job) == []


def test_a_job_that_is_nearly_done_is_waited_for(
    job: scorer.Job, undisturbed: Any, attempt: Callable[..., Attempt]
) -> None:
    _, total = undisturbed
    first = attempt(halt=total, KLMAP_LEASE_SECONDS="20")
    first.reaches(total)
    until(lambda: first.holds().left_seconds)
    second = attempt(KLMAP_LEASE_SECONDS="20")
    until(lambda: "nearly done" in second.log)
    first.go.touch()
    assert first.ends() == 0, first.log
    written = job.output.read_bytes()
    assert second.ends() == 0, second.log
    assert "finished meanwhile" in second.log
    assert second.batches == []
    assert job.output.read_bytes() == written
    assert leftovers(job) == []


def test_a_killed_job_is_followed_at_once_and_nothing_is_left(
    job: scorer.Job, undisturbed: Any, attempt: Callable[..., Attempt]
) -> None:
    expected, total = undisturbed
    saving = dataclasses.replace(job, save_every=0.0)
    first = attempt(halt=4, job=saving)
    first.reaches(4)
    first.process.kill()
    assert first.ends() == -signal.SIGKILL
    assert job.lease.exists()
    second = attempt(KLMAP_LEASE_SECONDS="6000")
    assert second.ends() == 0, second.log
    assert "not there any more" in second.log
    assert len(second.batches) == total - 3
    assert content(job.output) == expected
    assert leftovers(job) == []


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_behind_the_batch_and_the_next_attempt_goes_on(
    job: scorer.Job,
    undisturbed: Any,
    attempt: Callable[..., Attempt],
    number: signal.Signals,
    status: int,
) -> None:
    expected, total = undisturbed
    first = attempt(halt=4)
    first.reaches(4)
    first.process.send_signal(number)
    if number == signal.SIGTERM:
        first.process.send_signal(number)  # as srun does
    first.go.touch()
    assert first.ends() == status, first.log
    assert f"ended by {number.name}" in first.log
    assert len(first.batches) == 4, "no batch is begun after it"
    assert not job.lease.exists()
    second = attempt()
    assert second.ends() == 0, second.log
    assert len(second.batches) == total - 4
    assert content(job.output) == expected
    assert leftovers(job) == []


def test_a_second_interrupt_ends_at_once(attempt: Callable[..., Attempt]) -> None:
    first = attempt(halt=2)
    first.reaches(2)
    first.process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        first.process.wait(0.5)
    first.process.send_signal(signal.SIGINT)
    assert first.ends() == -signal.SIGINT


def test_a_signal_ends_a_job_that_loads_or_waits_at_once(
    job: scorer.Job, attempt: Callable[..., Attempt]
) -> None:
    first = attempt(halt=0)
    first.reaches(1)
    second = attempt()
    until(lambda: ask_of(job.lease).exists())
    second.process.send_signal(signal.SIGTERM)
    assert second.ends() == 143, second.log
    assert not ask_of(job.lease).exists(), "nobody hands over to a job that has ended"
    first.process.send_signal(signal.SIGTERM)
    assert first.ends() == 143, first.log
    assert leftovers(job) == []


def test_jobs_of_slurm(job: scorer.Job, undisturbed: Any, attempt: Callable[..., Attempt]) -> None:
    """A job that an earlier Snakemake submitted ends; one that was preempted goes on."""
    expected, total = undisturbed
    saving = dataclasses.replace(job, save_every=0.0)
    first = attempt(halt=3, job=saving, SLURM_JOB_ID="100")
    first.reaches(3)
    assert first.holds().job == "100"
    orphan = attempt(SLURM_JOB_ID="99")
    assert orphan.ends() == 1
    assert "SLURM job 100" in orphan.log
    assert orphan.batches == []
    first.process.kill()
    first.ends()
    lease = read(job.lease)
    assert lease is not None
    write(job.lease, dataclasses.replace(lease, host="elsewhere", pid=os.getpid()))
    again = attempt(SLURM_JOB_ID="100", KLMAP_LEASE_SECONDS="6000")
    assert again.ends() == 0, again.log
    assert len(again.batches) == total - 2
    assert content(job.output) == expected
    assert leftovers(job) == []


def test_a_job_that_died_on_another_host_is_followed_after_a_while(
    job: scorer.Job, undisturbed: Any, attempt: Callable[..., Attempt]
) -> None:
    expected, _ = undisturbed
    write(job.lease, lease_of(beat=time.time() + 3600))
    found = attempt()
    assert found.ends() == 0, found.log
    assert "asked to save" in found.log
    assert "not there any more" in found.log
    assert content(job.output) == expected
    assert leftovers(job) == []


@pytest.mark.parametrize("skip", [False, True])
def test_a_finished_score_ends_a_job_before_torch_is_imported(job: scorer.Job, skip: bool) -> None:
    scorer.score(job)
    write(job.lease, lease_of(beat=0.0))
    written = job.output.read_bytes()
    done = subprocess.run(
        [
            *(sys.executable, "-X", "importtime", "scripts/score.py", "--card", job.card),
            *("--weights", job.weights, "--texts", job.texts, "--manifest", job.manifest),
            *("--model", job.model, "--spec", json.dumps(job.spec), "--score", job.output),
            *("--on-failure", "skip" if skip else "stop"),
        ],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "finished already" in done.stderr
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "numpy" in imported
    assert "torch" not in imported
    assert job.output.read_bytes() == written
    assert leftovers(job) == []


@pytest.mark.usefixtures("quick")
def test_a_failure_that_another_job_found_meanwhile_is_not_looked_for_again(
    job: scorer.Job, beside: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    skipping = dataclasses.replace(job, skip_failures=True)

    def fails(*_: Any) -> None:
        raise scorer.PermanentFailure("not finite")

    with monkeypatch.context() as patch:
        patch.setattr(scorer_run, "text_sums", fails)
        scorer.score(skipping)
    failed = job.output.read_bytes()
    job.output.unlink()
    with Alive(job.lease, lease_of()) as other:
        monkeypatch.setattr(scorer, "_score", lambda *_: pytest.fail("computed again"))
        thread = beside(lambda: scorer.score(skipping))
        until(lambda: ask_of(job.lease).exists())
        job.output.write_bytes(failed)
        other.end()
        thread.join(60)
    assert job.output.read_bytes() == failed
    assert leftovers(job) == []


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), r"main memory; to begin with more, give for instance --set-resources"),
        (RuntimeError("CUDA out of memory. Tried"), r"hardware\.gpu_memory_gb"),
    ],
)
def test_a_job_without_memory_says_what_to_raise_and_may_be_tried_again(
    job: scorer.Job, monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    def fails(*_: Any) -> None:
        raise error

    monkeypatch.setattr(scorer_run, "score_tokens", fails)
    with pytest.raises(KlmapError, match=words) as caught:
        scorer.score(job)
    assert not isinstance(caught.value, scorer.PermanentFailure)
    assert not job.failure.exists()
    assert leftovers(job) == []
