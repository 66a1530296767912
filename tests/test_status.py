"""Status: every state from the files and the queue, whatever is broken, and quickly."""

from __future__ import annotations

import csv
import os
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest

from klmap import disk, files, natives, queue, status, status_table, store_score
from klmap.disk import Claim
from klmap.errors import InputError
from klmap.files import write_json
from klmap.processes import Owner
from tests.project import SNAKEMAKE, Project, make_project
from tests.running import (
    COMMIT,
    FINGERPRINT,
    RUN,
    Moment,
    comment,
    write_large,
    write_score,
)

OTHER_RUN = "klmap_99999999-2222-3333-4444-555555555555"


@pytest.fixture
def now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Moment:
    monkeypatch.chdir(tmp_path)
    # The machine that runs the tests may have a squeue of its own.
    paths = os.environ["PATH"].split(os.pathsep)
    kept = [path for path in paths if not Path(path, "squeue").exists()]
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sh", "cat", "sleep"):
        (tools / name).symlink_to(f"/bin/{name}")
    monkeypatch.setenv("PATH", os.pathsep.join([*kept, str(tools)]))
    return Moment(tmp_path)


# Done


def test_a_large_score_is_done_and_is_not_opened(now: Moment) -> None:
    write_large(now.add("org/a"))
    assert now.row().state == "done"


def test_a_score_that_failed_is_no_done_one(now: Moment) -> None:
    write_score(now.add("org/a"), status="failed", error="org--a: no weights; give another")
    row = now.row()
    assert (row.state, row.final, row.reason) == (
        "failed",
        True,
        "org--a: no weights; give another",
    )


def test_a_score_older_than_its_card_is_done_if_the_commit_is_the_same(now: Moment) -> None:
    item = now.add("org/a", weights=True)
    write_score(item)
    os.utime(item.score, (1, 1))
    assert now.row().state == "done"
    now.wanted.clear()
    now.add("org/a", commit="b" * 40)
    assert now.row().state == "waiting"


def test_a_score_of_other_texts_is_to_be_made_again(now: Moment) -> None:
    item = now.add("org/a", weights=True)
    write_score(item)
    now.manifest(sha256="others")
    os.utime(item.score, (1, 1))
    assert now.row().state == "waiting"


# Running


def test_a_running_job_says_how_far_it_is_and_where(now: Moment) -> None:
    item = now.add("org/a")
    now.lease(item, job="12")
    row = now.row()
    assert (row.state, row.host, row.job) == ("running", "node07", "12")
    assert row.share == pytest.approx(1 / 3)
    assert row.rate == pytest.approx(20)
    assert row.seconds == pytest.approx(100), "one GPU for what its job says is left"
    [line] = [line for line in now.print().splitlines() if "org--a" in line]
    assert line.split()[:4] == ["org--a", "tiny", "node07", "12"]
    assert line.split()[-4:] == ["33%", "20", "2", "min"]


def test_a_job_that_loads_has_no_share_yet(now: Moment) -> None:
    now.lease(now.add("org/a"), done=0, total=0, left_seconds=None)
    row = now.row()
    assert (row.state, row.share, row.rate, row.left) == ("running", None, None, None)
    assert row.seconds is not None
    assert "loading" in now.print()


def test_a_job_of_this_machine_is_alive_as_long_as_its_process(now: Moment) -> None:
    item = now.add("org/a")
    me = psutil.Process()
    mine = {"host": socket.gethostname(), "pid": me.pid, "silent": 900.0}
    now.lease(item, process_started=me.create_time(), **mine)
    assert now.row().state == "running"
    now.lease(item, process_started=me.create_time() - 900, **mine)
    row = now.row()
    assert row.state == "interrupted"
    assert "ended without a word" in row.reason


def test_a_job_without_a_sign_of_life_is_probably_dead(now: Moment) -> None:
    now.lease(now.add("org/a"), silent=301, job="12")
    row = now.row()
    assert row.state == "silent"
    assert row.reason.startswith("silent for 5 min, probably dead: SLURM job 12 on node07")
    assert not row.final


def test_a_silent_job_that_left_the_queue_is_dead(now: Moment) -> None:
    now.lease(now.add("org/a"), silent=301, job="12")
    now.squeue()
    assert now.row().state == "interrupted"


# The queue


def test_a_pending_job_is_queued_with_the_reason_of_squeue(now: Moment) -> None:
    item = now.add("org/a", weights=True)
    now.squeue(f"12|PENDING|Resources|{RUN}|{comment(item)}")
    row = now.row()
    assert (row.state, row.reason, row.job) == ("queued", "Resources", "12")


def test_a_job_that_was_requeued_is_queued_whatever_it_left(now: Moment) -> None:
    item = now.add("org/a")
    now.lease(item, silent=301, job="12")
    now.squeue(f"12|PENDING|BeginTime|{RUN}|{comment(item)}")
    assert now.row().state == "queued"


def test_members_of_an_allocation_are_known_by_the_notes_of_snakemake(now: Moment) -> None:
    one, two, three = (now.add(f"org/{name}", weights=True) for name in "abc")
    now.squeue(f"12|PENDING|Priority|{RUN}|rule_tiny_tiny_0_score")
    now.note(one, "12")
    now.note(two, "12")
    now.note(three, "11")
    assert [row.state for row in now.look().rows] == ["queued", "queued", "interrupted"]


def test_members_of_a_running_allocation_are_known_by_its_output(now: Moment) -> None:
    one, two = now.add("org/a", weights=True), now.add("org/b", weights=True)
    now.add("org/c", weights=True)
    now.lease(one, job="12")
    now.squeue(f"12|RUNNING|None|{RUN}|rule_tiny_tiny_0_score")
    said = "".join(
        f"rule score:\n    output: {item.score} (update)\n    log: x\n" for item in (one, two)
    )
    now.write("logs/slurm/group_tiny_tiny_0_score/12.log", said)
    assert [row.state for row in now.look().rows] == ["running", "starting", "waiting"]


def test_a_job_that_runs_and_has_no_lease_yet_is_starting(now: Moment) -> None:
    item = now.add("org/a", weights=True)
    now.squeue(f"12|RUNNING|None|{RUN}|{comment(item)}")
    row = now.row()
    assert (row.state, row.job) == ("starting", "12")


def test_jobs_of_other_folders_are_none_of_ours(now: Moment) -> None:
    item = now.add("org/a", weights=True)
    now.squeue(f"12|PENDING|Resources|{RUN}|{comment(item)}")
    now.write("bin/rows", f"12|PENDING|Resources|{RUN}|{comment(item)}|/elsewhere\n")
    assert now.row().state == "waiting"


def test_jobs_of_an_earlier_run_are_told_apart_and_can_be_ended(
    now: Moment, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = now.add("org/a"), now.add("org/b")
    now.started(OTHER_RUN, log="2026-01-01T000000.0")
    now.started(RUN, log="2026-01-02T000000.0")
    # A call of status under the cluster's profile has a run id, too, and submits nothing.
    now.write(".snakemake/log/2026-01-03T000000.0.snakemake.log", "SLURM run ID: klmap_3\n")
    now.squeue(
        f"11|RUNNING|None|{OTHER_RUN}|{comment(one)}",
        f"12|PENDING|Priority|{RUN}|{comment(one)}",
        f"13|PENDING|Priority|{RUN}|{comment(two)}",
    )
    assert now.look().queue.orphans == {OTHER_RUN: Counter(running=1)}
    monkeypatch.setattr(status, "heads", lambda _: [Owner.of(psutil.Process())])
    assert RUN not in now.print()
    text = " ".join(now.print().split())
    assert "3 jobs of this folder: 1 running, 2 pending" in text
    assert "1 running of an earlier run, which has ended: let them go on" in text
    assert f"scancel --name={OTHER_RUN}" in text


def test_jobs_of_a_run_that_was_killed_can_be_ended(now: Moment) -> None:
    now.started()
    now.squeue(f"12|RUNNING|None|{RUN}|{comment(now.add('org/a'))}")
    assert now.look().queue.orphans == {}, "no later run has taken over"
    assert f"end them with scancel --name={RUN}" in " ".join(now.print().split())


def test_without_logs_no_job_is_called_an_orphan(now: Moment) -> None:
    now.squeue(f"11|RUNNING|None|{RUN}|{comment(now.add('org/a'))}")
    assert now.look().queue.orphans == {}


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("#!/bin/sh\necho 'slurm_load_jobs error: Unable to contact' >&2; exit 1\n", "Unable to"),
        ("#!/bin/sh\nexit 1\n", "ended with status 1"),
        ("#!/no/such/shell\n", "cannot be started"),
    ],
)
def test_a_squeue_that_fails_is_one_line(now: Moment, script: str, words: str) -> None:
    now.lease(now.add("org/a"))
    now.squeue(script=script)
    overview = now.look()
    assert overview.rows[0].state == "running", "all else is from files"
    assert words in overview.queue.trouble
    [line] = [line for line in now.print().splitlines() if line.startswith("SLURM")]
    assert "the queue is unknown" in line


def test_a_squeue_that_hangs_is_given_up(now: Moment) -> None:
    now.squeue(script="#!/bin/sh\nexec sleep 600\n")
    found = queue.ask(now.folder, patience=0.2)
    assert found.trouble == "squeue did not answer within 0.2 s"
    assert not found.is_known


def test_without_squeue_nothing_is_said_of_a_cluster(now: Moment) -> None:
    now.add("org/a")
    assert "SLURM" not in now.print()


def test_nonsense_of_squeue_is_left_out(now: Moment) -> None:
    now.squeue("12", "a|b|c", "")
    assert now.look().queue.jobs == []


# Waiting


def test_a_score_waits_for_the_next_thing_that_is_missing(now: Moment) -> None:
    now.add("org/a", card=False)
    assert now.row().reason == "to be looked up"
    now.wanted.clear()
    item = now.add("org/a")
    assert now.row().reason == "for weights"
    (now.results / "models" / "org--a" / "weights").mkdir()
    (now.results / "tiny" / "texts.json").unlink()
    assert now.row().reason == "for texts"
    now.manifest()
    assert now.row().reason == "to be started"
    assert "1 to be started" in now.print()
    assert item.model not in now.print(), "thousands may wait"


def claim(source: str, *, granted: bool, ended: bool = False) -> None:
    owner = Owner.of(psutil.Process())
    path = Path("results/models/_disk", f"{source}.json")
    found = Claim(source, 10_000_000, 0, time.time(), granted, owner, None, ended)
    write_json(path, vars(found) | {"owner": vars(owner)})


def test_weights_on_their_way_are_listed_with_what_is_here(now: Moment) -> None:
    for name in "abc":
        now.add(f"org/{name}")
    claim("org--a", granted=True)
    claim("org--b", granted=False)
    claim("org--c", granted=True, ended=True)
    partial = now.results / "models" / "org--a" / disk.PARTIAL
    partial.mkdir()
    (partial / "model.safetensors").write_bytes(bytes(4_000_000))
    overview = now.look()
    assert [row.reason for row in overview.rows] == [
        "for weights on their way",
        "for room on the disk",
        "for weights",
    ]
    text = now.print()
    assert "4.0 MB  10.0 MB" in text
    assert "waits for room" in text
    assert "disk          4.0 MB of weights" in text


# Failed


def test_a_model_that_cannot_be_used_has_failed_for_good(now: Moment) -> None:
    now.add("org/a", error="org/a: not a causal language model", state="not a causal LM")
    row = now.row()
    assert (row.state, row.final) == ("failed", True)
    assert row.seconds is None, "it takes no more time"


def test_a_reason_that_a_job_left_counts(now: Moment) -> None:
    item = now.add("org/a")
    software = {"transformers": natives.VERSION}
    left = {"commit": COMMIT, "error": "no tokenizer", "software": software}
    write_json(item.score.with_suffix(".failed.json"), left)
    row = now.row()
    assert row.final
    assert row.reason.startswith("no tokenizer; to try again all the same, remove ")


def test_weights_that_could_not_be_had(now: Moment) -> None:
    now.add("org/a", weights=True)
    now.write("results/models/org--a/weights/FAILED", "org/a: gone from the Hub\n")
    row = now.row()
    assert (row.final, row.reason) == (True, "org/a: gone from the Hub")


def test_an_error_in_the_log_of_a_job_is_tried_again(now: Moment) -> None:
    item = now.add("org/a")
    log = now.log(item, "12:00:01 INFO begins\n12:00:02 ERROR no GPU here; ask for one\n")
    row = now.row()
    assert (row.state, row.final, row.reason) == ("failed", False, "no GPU here; ask for one")
    assert row.log == str(log)
    assert row.seconds is not None, "it is still to be done"
    text = now.print()
    assert "is tried again" in text
    assert str(log) in text


def test_of_an_unexpected_error_the_last_line_says_what_it_was(now: Moment) -> None:
    trace = 'Traceback (most recent call last):\n  File "x"\nRuntimeError: CUDA out of memory'
    now.log(now.add("org/a"), f"12:00:02 ERROR unexpected error; please report it\n{trace}\n")
    reason = now.row().reason
    assert reason == "unexpected error; please report it: RuntimeError: CUDA out of memory"


def test_a_job_that_is_at_work_again_has_not_failed(now: Moment) -> None:
    item = now.add("org/a")
    now.log(item, "12:00:02 ERROR no GPU here; ask for one\n")
    now.lease(item)
    assert now.row().state == "running"


def test_a_job_that_was_asked_to_end_has_not_failed(now: Moment) -> None:
    now.log(now.add("org/a"), "12:00:02 ERROR ended by SIGTERM; what was saved is continued\n")
    row = now.row()
    assert row.state == "interrupted"
    assert not row.final


@pytest.mark.parametrize(
    ("said", "state", "words"),
    [
        ("slurmstepd: error: *** STEP 7.0 CANCELLED DUE TO TIME LIMIT ***", "interrupted", "time"),
        ("error: Detected 1 oom_kill event in StepId=7.0", "failed", "memory"),
        ("*** JOB 7 CANCELLED DUE TO PREEMPTION ***", "interrupted", "preempted"),
    ],
)
def test_what_slurm_ended_says_why(now: Moment, said: str, state: str, words: str) -> None:
    item = now.add("org/a")
    now.log(item, "12:00:02 INFO 10 of 20 tokens\n")
    folder = f"logs/slurm/rule_score/tiny_{item.model}_{FINGERPRINT}"
    now.write(f"{folder}/7.log", f"{said}\n")
    row = now.row()
    assert row.state == state
    assert words in row.reason
    now.lease(item, silent=900, job="7")
    row = now.row()
    assert row.state == state
    assert words in row.reason


def test_a_job_that_was_killed_left_its_side_file(now: Moment) -> None:
    item = now.add("org/a")
    item.score.with_suffix(".partial").touch()
    row = now.row()
    assert (row.state, row.reason) == ("interrupted", "its job was killed without a word")


def test_a_score_that_was_removed_by_hand_has_not_failed(now: Moment) -> None:
    now.log(now.add("org/a"), "12:00:02 INFO org--a: 1.2 bits per byte\n")
    assert now.row().state == "waiting"


def test_a_model_that_could_not_be_fetched_or_looked_up(now: Moment) -> None:
    now.add("org/a")
    now.write("logs/fetch/org--a.log", "12:00:02 ERROR org/a: no connection; try again\n")
    now.add("org/b", card=False)
    now.write("logs/resolve/org--b.log", "12:00:02 ERROR org/b: unreachable\n")
    one, two = now.look().rows
    assert (one.state, one.reason, one.final) == (
        "failed",
        "org/a: no connection; try again",
        False,
    )
    assert (two.state, two.log) == ("failed", "logs/resolve/org--b.log")
    (now.results / "models" / "org--a" / "weights").mkdir()
    assert now.look().rows[0].state == "waiting", "another attempt has succeeded"


# What is broken


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'"x"', b"\xff\xfe", b"{}", b'{"id": "x", "parameters": "many"}']
)
def test_broken_files_never_end_it(now: Moment, content: bytes) -> None:
    items = [now.add(f"org/{name}", weights=True) for name in "abcdef"]
    items[0].score.write_bytes(content)
    (now.results / "models" / "org--b" / "card.json").write_bytes(content)
    items[2].score.with_suffix(".lease").write_bytes(content)
    items[3].score.with_suffix(".failed.json").write_bytes(content)
    now.log(items[4], "").write_bytes(content)
    (now.results / "tiny" / "texts.json").write_bytes(content)
    now.write("results/models/_disk/org--e.json", "").write_bytes(content)
    now.write("results/models/_speed.tsv", "").write_bytes(content)
    now.write("results/efficiency.tsv", "").write_bytes(content)
    now.write(".snakemake/incomplete/nonsense", "").write_bytes(content)
    now.write(".snakemake/log/1.snakemake.log", "").write_bytes(content)
    rows = now.look().rows
    assert rows[0].state == "failed"
    assert rows[1].state == "failed"
    assert "card.json" in rows[1].reason
    assert rows[5].state == "waiting"
    now.print()


@pytest.mark.parametrize(
    "values",
    [
        {"left_seconds": "soon"},
        {"left_seconds": 0},
        {"done": 5_000},
        {"total": -1},
        {"pid": -1, "host": socket.gethostname()},
        {"beat": 1e300},
    ],
)
def test_an_odd_lease_never_ends_it(now: Moment, values: dict[str, Any]) -> None:
    now.lease(now.add("org/a"), **values)
    share = now.row().share
    assert share is None or 0 <= share <= 1
    now.print()


def test_folders_in_place_of_files_never_end_it(now: Moment) -> None:
    one, two = now.add("org/a"), now.add("org/b", card=False)
    one.score.with_suffix(".lease").mkdir()
    (now.results / "models" / "org--b" / "card.json").mkdir(parents=True)
    two.score.mkdir()
    now.log(one, "").unlink()
    Path("logs/score/tiny", f"{one.score.stem}.log").mkdir()
    now.print()


def test_without_any_results_all_is_waiting(now: Moment) -> None:
    now.add("org/a", card=False)
    now.results.rename("elsewhere")
    assert now.row().state == "waiting"


# Totals


def test_totals(now: Moment) -> None:
    write_score(now.add("org/a"))
    now.lease(now.add("org/b"))
    now.add("org/c")
    now.add("org/d", error="org/d: gone", state="gone")
    text = " ".join(now.print().split())
    assert "1 done, 1 running, 1 waiting, 1 failed (1 for good), of 4" in text
    assert "waiting 1 for weights" in text
    assert "GPU hours less than 0.1 for 1 finished score;" in text
    assert "to come for 2 scores" in text
    assert "with the GPU now at work" in text
    assert "no Snakemake is at work in this folder on this machine" in text


def test_demo_models_take_cpu_hours(now: Moment) -> None:
    write_score(now.add("demo/a"), gpus=0, device="a CPU")
    now.add("demo/b")
    text = now.print()
    assert "CPU hours" in text
    assert "GPU hours" not in text


def test_long_names_and_reasons_stay_within_the_terminal(now: Moment) -> None:
    name = "org/" + "a-very-long-name-of-a-model-" * 3
    now.lease(now.add(name), host="a-host-with-a-long-name", job="1234567")
    now.add("org/b", error=f"{'word ' * 60}end")
    claim(name.replace("/", "--"), granted=True)
    assert max(map(len, now.print().splitlines())) <= 100


def test_of_many_problems_the_first_are_listed_and_the_rest_counted(now: Moment) -> None:
    for number in range(status_table.LISTED + 5):
        now.add(f"org/m{number:03}", error="gone")
    text = now.print()
    assert text.count("org--m") == status_table.LISTED
    assert "... and 5 more: results/status.tsv" in text


def test_the_table_has_every_score(now: Moment) -> None:
    now.lease(now.add("org/a"), job="12")
    now.add("org/b", card=False)
    status.write_rows(Path("status.tsv"), now.look())
    with Path("status.tsv").open(newline="") as file:
        one, two = csv.DictReader(file, delimiter="\t")
    assert (one["state"], one["job"], one["tokens_per_second"]) == ("running", "12", "20")
    assert float(one["hours_left"]) == pytest.approx(100 / 3600, rel=1e-4)
    assert (two["state"], two["share"], two["reason"]) == ("waiting", "", "to be looked up")


# Speed


def test_ten_thousand_models_are_looked_at_without_opening_what_is_done(
    now: Moment, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = 10_000
    monkeypatch.setattr(files, "_sync", lambda _: None)
    for index in range(number):
        item = now.add(f"org/m{index:05}")
        if index < number - 50:
            write_large(item)
    now.lease(now.wanted[-1])
    opened: Counter[str] = Counter()
    builtin = Path.open

    def count(path: Path, *arguments: Any, **options: Any) -> Any:
        opened[path.name.rpartition(".")[2]] += 1
        return builtin(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", count)
    scores: list[Path] = []
    monkeypatch.setattr(store_score, "opened", lambda path, _: scores.append(path) or _refuse(path))
    states = Counter(row.state for row in now.look().rows)
    assert states == {"done": number - 50, "waiting": 49, "running": 1}
    assert len(scores) <= 200 + status.OPENED, "for speed and cost, never for the state"
    assert sum(opened.values()) < 400, opened


def _refuse(path: Path) -> Any:
    raise InputError(f"{path}: not a score")


def test_no_torch() -> None:
    code = (
        "import sys; import klmap.status_table, klmap.efficiency_table; "
        "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    folder = Path(status.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(folder)})
    assert done.returncode == 0


# With a real Snakemake


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make_project(tmp_path_factory.mktemp("status") / "project")


@pytest.mark.workflow
def test_status_before_and_after_a_run(project: Project) -> None:
    before = project.snakemake("status", "--cores", "1")
    assert "0 done, 2 waiting, of 2" in before.stdout
    project.run("scores")
    after = project.snakemake("status", "--cores", "1")
    assert "2 done, of 2" in after.stdout
    assert "nothing is left" in after.stdout
    project.configure(models=["./models/a", "./models/b", "./models/c"])
    assert "2 done, 1 waiting, of 3" in project.snakemake("status", "--cores", "1").stdout


@pytest.mark.workflow
def test_status_while_another_snakemake_holds_the_lock(project: Project, tmp_path: Path) -> None:
    clone = project.copy(tmp_path / "clone")
    shutil.rmtree(clone.folder / "logs", ignore_errors=True)
    with socket.create_server(("127.0.0.1", 0)) as silence:  # accepts and never answers
        url = f"http://127.0.0.1:{silence.getsockname()[1]}/texts.jsonl"
        clone.configure(texts={"tiny": {"source": "url", "url": url, "sha256": "0" * 64}})
        look_while_at_work(clone)


def look_while_at_work(clone: Project) -> None:
    """Start a run that never ends, and ask for its status."""
    run = subprocess.Popen(
        [SNAKEMAKE, "--cores", "1", "scores"],
        cwd=clone.folder,
        env=clone.variables,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 120
        while not (clone.folder / "logs/texts/tiny.log").exists():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        done = clone.snakemake("status", "--cores", "1")
        assert f"at work on this machine: process {run.pid}" in " ".join(done.stdout.split())
        assert list(clone.folder.glob(".snakemake/locks/*.output.lock")), "the run is at work"
    finally:
        for process in [*psutil.Process(run.pid).children(recursive=True), run]:
            process.kill()
        run.wait()


@pytest.mark.workflow
def test_the_queue_is_asked_by_the_rule_too(project: Project, tmp_path: Path) -> None:
    clone = project.copy(tmp_path / "clone")
    fake = clone.folder / "bin" / "squeue"
    fake.parent.mkdir()
    fake.write_text(f"#!/bin/sh\necho '12|PENDING|Priority|x|rule_fetch|{clone.folder}'\n")
    fake.chmod(0o755)
    clone.environment = {"PATH": f"{fake.parent}:{os.environ['PATH']}"}
    done = clone.snakemake("status", "--cores", "1")
    assert "1 jobs of this folder: 1 pending" in done.stdout
