"""The exact lines with which a table of models is submitted to SLURM, at each attempt.

sbatch and squeue are stand-ins here: the first writes down its arguments, the second says that
every job has failed. What a real scheduler makes of such lines is tested in ``test_slurm``.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections import defaultdict
from pathlib import Path

import pytest

from klmap.cards import write_card
from tests.builders import tiny_texts
from tests.project import Project, copy_clone
from tests.test_allocation import TABLE

pytestmark = pytest.mark.workflow

STAND_INS = {
    "sbatch": """
import json, os, sys
with open(os.environ["SUBMITTED"], "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
print(sum(1 for _ in open(os.environ["SUBMITTED"])))
""",
    "squeue": """
import os
for number, _ in enumerate(open(os.environ["SUBMITTED"]), start=1):
    print(f"{number}|FAILED")
""",
    "sinfo": 'print("gpu*")',
    "sacct": "raise SystemExit(1)",
    "sacctmgr": 'print("lab")',
    "sshare": 'print("lab")',
    "scontrol": 'print("MinJobAge = 300 sec")',
}

MODELS = {
    "pythia-14m": {"id": "EleutherAI/pythia-14m"},
    "pythia-1.4b": {"id": "EleutherAI/pythia-1.4b"},
    "llama-2-7b": {"id": "meta-llama/Llama-2-7b-hf"},
    "llama-2-7b, int8": {"id": "meta-llama/Llama-2-7b-hf", "quantization": "int8"},
    "llama-2-70b": {"id": "meta-llama/Llama-2-70b-hf"},
    "mixtral-8x7b": {"id": "mistralai/Mixtral-8x7B-v0.1"},
    "demo": {"id": "demo/gpt2-base"},
}

Lines = dict[str, list[str]]


def prepare(project: Project) -> None:
    """A project in which nothing but scores is left to do."""
    tiny_texts(project.folder / "texts.jsonl", n=12)
    project.configure(
        texts={"tiny": {"source": "file", "path": "texts.jsonl"}},
        models=list(MODELS.values()),
        hardware={"gpu_memory_gb": 80, "max_gpus": 4},
    )
    project.run("results/tiny/texts.json")
    manifest = project.folder / "results/tiny/texts.json"
    # As many tokens as the published texts have.
    known = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**known, "n": 10_000, "mean_bytes": 972}))
    models = project.folder / "results/models"
    (models / "_zoo/runs/gpt2-base").mkdir(parents=True)
    for name, entry in MODELS.items():
        folder = models / entry["id"].replace("/", "--")
        if "quantization" not in entry:
            write_card(folder / "card.json", TABLE[name if name in TABLE else "pythia-14m"][0])
            (folder / "weights").mkdir()


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Project:
    folder = tmp_path_factory.mktemp("submission")
    commands = folder / "bin"
    commands.mkdir()
    for name, body in STAND_INS.items():
        command = commands / name
        command.write_text(f"#!/usr/bin/env python3\n{body}\n")
        command.chmod(0o755)
    project = copy_clone(folder / "klmap")
    project.environment = {
        "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
        "SUBMITTED": str(folder / "submitted"),
    }
    prepare(project)
    return project


def submit(project: Project, *arguments: str, attempts: int = 1) -> Lines:
    """What sbatch was called with, by comment, in the order of attempts."""
    log = Path(project.variables["SUBMITTED"])
    log.write_text("")
    for attempt in range(1, attempts + 1):
        project.snakemake(
            *("scores", "--profile", "profiles/slurm", *arguments),
            *("--attempt", str(attempt), "--retries", "0"),
            # All are submitted before they are asked about for the first time.
            *("--max-jobs-per-timespan", "100/1s"),
            *("--slurm-init-seconds-before-status-checks", "3"),
            check=False,
        )
    lines: Lines = defaultdict(list)
    for text in log.read_text().splitlines():
        call = json.loads(text)
        end = next(n for n, part in enumerate(call) if part.startswith("--wrap"))
        comment = call[call.index("--comment") + 1]
        lines[comment].append(shlex.join(call[:end]))
    return lines


@pytest.fixture(scope="module")
def alone(clone: Project) -> Lines:
    """Submissions of a profile without groups."""
    return submit(clone, "--group-components", "tiny=1", "small=1", "cpu=1", attempts=3)


def asked(line: str) -> dict[str, str]:
    """What one line asks for, without names, paths and comments."""
    call = shlex.split(line)
    options = iter(call)
    found: dict[str, str] = {}
    for part in options:
        name, _, value = part.partition("=")
        if name in ("--ntasks", "--cpus-per-task", "--gpus"):
            found[name] = value
        elif part in ("-t", "--mem", "-p", "-A"):
            found[part] = next(options)
    return found


def of(lines: Lines, slug: str) -> list[dict[str, str]]:
    """What the attempts at one model asked for."""
    return next(
        [asked(line) for line in found]
        for comment, found in lines.items()
        if re.search(rf"wildcards_tiny_{re.escape(slug)}_[0-9a-f]{{12}}$", comment)
    )


EXPECTED = {
    "EleutherAI--pythia-14m": ("1", "9000", "15"),
    "EleutherAI--pythia-1.4b": ("1", "12000", "15"),
    "meta-llama--Llama-2-7b-hf": ("1", "20000", "25"),
    "meta-llama--Llama-2-7b-hf+int8": ("1", "20000", "80"),
    "meta-llama--Llama-2-70b-hf": ("3", "20000", "75"),
    "mistralai--Mixtral-8x7B-v0.1": ("2", "14000", "30"),
}


@pytest.mark.parametrize("slug", EXPECTED)
def test_each_attempt_is_submitted_with_more_memory_and_time(alone: Lines, slug: str) -> None:
    gpus, memory, minutes = EXPECTED[slug]
    expected = [
        {
            "-p": "gpu",
            "-t": str(int(minutes) * attempt),
            "--mem": str(int(memory) * attempt),
            "--cpus-per-task": "4",
            "--gpus": gpus,
        }
        for attempt in (1, 2, 3)
    ]
    assert of(alone, slug) == expected


def test_a_model_on_the_cpu_asks_for_no_gpu(alone: Lines) -> None:
    first, *_ = of(alone, "demo--gpt2-base")
    assert first == {
        **{"-p": "gpu", "-t": "15", "--mem": "4000"},
        **{"--ntasks": "1", "--cpus-per-task": "1"},
    }


def test_the_whole_line_is_this(clone: Project, alone: Lines) -> None:
    (comment,) = (key for key in alone if "Llama-2-70b" in key)
    run = re.search(r"--job-name (klmap_[0-9a-f-]{36}) ", alone[comment][0])
    assert run is not None
    log = f"{clone.folder}/logs/slurm/rule_score/{comment.partition('wildcards_')[2]}/%j.log"
    assert alone[comment][0] == (
        f"--parsable --job-name {run[1]} --output {log} --export=ALL --comment {comment} -p gpu "
        f"-t 75 --mem 20000 --requeue --cpus-per-task=4 -D {clone.folder} --gpus=3"
    )


def test_where_gpu_memory_did_not_suffice_the_next_attempt_asks_for_more_gpus(
    clone: Project,
) -> None:
    plan = clone.snakemake("-n", "-p", "scores", "--profile", "profiles/slurm")
    (score,) = set(re.findall(r"results/tiny/scores/mistralai\S+\.h5", plan.stdout + plan.stderr))
    path = clone.folder / "logs/score/tiny" / Path(score).with_suffix(".log").name
    path.parent.mkdir(parents=True, exist_ok=True)
    found = []
    for reason in ("the weights take 90 GiB of GPU memory, 2 GPUs", "memory does not suffice"):
        path.write_text(f"12:00:00 ERROR {reason}\n")
        done = clone.snakemake("-n", "-p", "--attempt", "2", "--profile", "profiles/slurm", score)
        found += re.findall(r"gpu=(\d)", (done.stdout + done.stderr).partition("rule score")[2])[:1]
    assert found == ["4", "2"]


def test_small_models_share_an_allocation_one_after_another(clone: Project) -> None:
    clone.configure(models=[*MODELS.values(), {"id": "EleutherAI/pythia-70m"}])
    folder = clone.folder / "results/models/EleutherAI--pythia-70m"
    write_card(folder / "card.json", TABLE["pythia-14m"][0])
    (folder / "weights").mkdir()
    lines = submit(clone)
    together = [asked(found[0]) for comment, found in lines.items() if "tiny" in comment]
    shared = {"-p": "gpu", "-t": "20", "--mem": "9000", "--cpus-per-task": "4", "--gpus": "1"}
    assert shared in together, "ten minutes each, and the memory and GPU of one"
    assert of(lines, "meta-llama--Llama-2-70b-hf")[0]["--gpus"] == "3", "large ones stay alone"


def test_a_model_that_could_not_be_fetched_keeps_no_neighbour_waiting(clone: Project) -> None:
    (clone.folder / "results/models/EleutherAI--pythia-70m/weights").rmdir()
    log = clone.folder / "logs/fetch/EleutherAI--pythia-70m.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    groups = []
    for last in ("12:00:00 ERROR org/model: refused", "12:00:00 INFO fetched"):
        log.write_text(f"11:59:00 WARNING once more\n{last}\n")
        done = clone.snakemake("-n", "-p", "scores", "--profile", "profiles/slurm")
        behind = (done.stdout + done.stderr).partition("Group job tiny_tiny_0")[2]
        # In a group the time of each job is indented, its command is not; the order is by chance.
        groups.append(re.split(r"\n(?=\[|Would remove)", behind)[0])
    alone, together = groups
    assert "EleutherAI--pythia-14m" in alone
    assert "EleutherAI--pythia-70m" not in alone
    assert "EleutherAI--pythia-70m" in together


def test_a_class_whose_weights_would_fill_the_disk_shares_nothing(clone: Project) -> None:
    clone.configure(hardware={"gpu_memory_gb": 80, "max_gpus": 4, "disk_budget_gb": 20})
    done = clone.snakemake("-n", "scores", "--profile", "profiles/slurm")
    assert "group" not in done.stdout + done.stderr


def test_a_model_that_is_too_large_for_the_machines_is_submitted_without_a_gpu(
    clone: Project,
) -> None:
    clone.configure(
        models=[MODELS["llama-2-70b"]],
        hardware={"gpu_memory_gb": 16, "max_gpus": 1, "disk_budget_gb": 500},
    )
    lines = submit(clone, "--group-components", "cpu=1")
    (line,) = of(lines, "meta-llama--Llama-2-70b-hf")
    assert "--gpus" not in line
    done = clone.snakemake("-n", "-p", "scores", "--profile", "profiles/slurm")
    assert "--refuse 'org/model: its weights take 138 GB" in done.stdout + done.stderr
