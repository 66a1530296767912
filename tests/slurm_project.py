"""A klmap clone whose jobs go through SLURM and keep a journal."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import pytest

from klmap import configfile
from klmap.cards import Card, write_card
from tests.project import SNAKEMAKE, Project, make_project
from tests.slurm_cluster import Cluster, said, wait_until, why_not

PROFILE = ("--profile", "profiles/slurm")
QUICK = ("--slurm-init-seconds-before-status-checks", "1", "--latency-wait", "20")
"""Tests ask more often than the profile does."""

SCORE = Path(__file__).with_name("slurm_score.py")
INSTANT = Path(__file__).with_name("slurm_instant.py")


@dataclass
class Clone(Project):
    """One clone with a journal."""

    @classmethod
    def of(cls, project: Project, score: Path = SCORE) -> Self:
        """Let the scoring jobs of a clone keep a journal, with a stand-in for scripts/score.py."""
        clone = cls(project.folder, project.environment)
        scripts = clone.folder / "scripts"
        (scripts / "score.py").rename(scripts / "real_score.py")
        shutil.copy2(score, scripts / "score.py")
        clone.journal.mkdir()
        # The plugin asks sacct whenever the controller does not answer, for ever where accounting
        # is off as it is here. So these runs find no sacct, as on a machine without it.
        hidden = clone.folder / "bin" / "which"
        hidden.parent.mkdir()
        hidden.write_text('#!/bin/sh\n[ "$1" != sacct ] && exec /usr/bin/which "$@"\n')
        hidden.chmod(0o755)
        search = os.pathsep.join([str(hidden.parent), os.environ["PATH"]])
        clone.environment = {**(clone.environment or {}), "PATH": search}
        return clone

    @property
    def journal(self) -> Path:
        """Where the jobs write down what they do."""
        return self.folder / "journal"

    def tell(self, model: str, what: str, value: str = "") -> Path:
        """Tell the jobs of a model what to do, until the file is removed."""
        path = self.journal / f"{model}.{what}"
        path.write_text(value)
        return path

    def events(self, model: str, event: str | None = None) -> list[dict[str, Any]]:
        """What the jobs of a model wrote down."""
        path = self.journal / f"{model}.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        found = [json.loads(line) for line in lines]
        return [line for line in found if event in (None, line["event"])]

    def begins(self, model: str) -> list[str]:
        """SLURM's number of each attempt."""
        return [line["job"] for line in self.events(model, "begin")]

    def held(self, model: str) -> str:
        """Wait until an attempt of the model waits, and give the number of its job."""

        def waiting() -> list[str]:
            head = Head.started[-1]
            assert head.process.poll() is None, head.output
            return [line["job"] for line in self.events(model, "held")]

        wait_until(waiting, f"a job of {model} at work")
        return waiting()[-1]

    def head(self, *arguments: str) -> Head:
        """Start a run as a user does on a login node."""
        return Head(self, [SNAKEMAKE, *PROFILE, *QUICK, *arguments])

    def submit(self, *arguments: str, check: bool = True) -> str:
        """Run to the end and return everything that was said."""
        head = self.head(*arguments)
        status = head.wait()
        if check:
            assert status == 0, head.output
        return head.output


class Head:
    """One Snakemake process that submits jobs."""

    started: ClassVar[list[Head]] = []
    """All of this test session."""

    def __init__(self, clone: Clone, command: list[str]) -> None:
        number = len(list(clone.folder.glob("head*.txt")))
        self.path = clone.folder / f"head{number}.txt"
        with self.path.open("w") as log:
            self.process = subprocess.Popen(
                command, cwd=clone.folder, env=clone.variables, stdout=log, stderr=log
            )
        self.started.append(self)

    @property
    def output(self) -> str:
        """What it has said so far."""
        return self.path.read_text()

    @property
    def run(self) -> str:
        """The name that its jobs have in SLURM."""
        found = re.search(r"SLURM run ID: (\S+)", self.output)
        assert found, self.output
        return found[1]

    def wait(self, seconds: float = 400) -> int:
        """Exit status, when it has ended."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            print(self.output, file=sys.stderr)
            print(said("squeue", "--states=all"), file=sys.stderr)
            raise

    def jobs(self) -> list[SlurmJob]:
        """All that it has submitted, in order."""
        listed = said("squeue", "--states=all", "--noheader", f"--name={self.run}", "--format=%i")
        return [SlurmJob.of(number) for number in sorted(listed.split(), key=int)]


def make_placeholders(folder: Path, models: int) -> Clone:
    """A clone in which only scores are left to do, each of them in an instant."""
    clone = Clone.of(make_project(folder), INSTANT)
    # Neither the Hub nor a disk is asked for what is here already.
    clone.configure(
        models=[f"org{number % 50}/model-{number}" for number in range(models)],
        hardware={"max_gpus": 1},
    )
    clone.snakemake("--cores", "2", "--quiet", "--", "results/tiny/texts.json")
    card = Card("", "0" * 40, parameters=100_000_000, bytes=200_000_000)
    for source in configfile.load(folder / "config.yaml").by_source:
        write_card(folder / "results/models" / source / "card.json", replace(card, id=source))
        (folder / "results/models" / source / "weights").mkdir()
    return clone


@dataclass
class SlurmJob:
    """What SLURM knows of a job."""

    number: str
    comment: str
    state: str
    gpus: int
    memory: int
    minutes: int
    restarts: int

    @classmethod
    def of(cls, number: str) -> Self:
        """Ask SLURM."""
        text = said("scontrol", "show", "job", number)
        found = dict(re.findall(r"(\S+?)=(\S*)", text))
        days, _, clock = found["TimeLimit"].rpartition("-")
        hours, minutes, _ = clock.split(":")
        gpus = re.search(r"gpu:(\d+)", found.get("TresPerJob", ""))
        return cls(
            number,
            found["Comment"],
            found["JobState"],
            int(gpus[1]) if gpus else 0,
            int(found["MinMemoryNode"].removesuffix("M")),
            int(days or 0) * 1440 + int(hours) * 60 + int(minutes),
            int(found["Restarts"]),
        )


def one_node(gpus: int) -> Iterator[Cluster]:
    """A cluster of one node, for a fixture; no Snakemake that was started on it outlives it."""
    reason = why_not()
    if reason and os.environ.get("CI") == "true":
        pytest.fail(f"continuous integration tests SLURM, but: {reason}")
    if reason:
        pytest.skip(reason)
    with Cluster(gpus=gpus) as made:
        yield made
        for head in Head.started:
            head.process.kill()
