"""The ways of scoring that the benchmark compares, each run as a whole process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from klmap import store_score
from klmap.config import fingerprint

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent

Floats = npt.NDArray[np.float64]

TIME_LIMIT = 3600
"""Seconds after which a process is stopped and counts as failed."""

MODEL = "bench--model"


class WayFailed(Exception):
    """A process ended with an error; the message is the last line it wrote."""


@dataclass(frozen=True)
class Inputs:
    """What every way gets for one model.

    Attributes:
        folder: holds texts.jsonl, texts.json, ``model`` (a Hugging Face folder), ``weights`` and
            card.json.
        device: ``cpu`` or ``cuda``.
        threads: CPU threads.
    """

    folder: Path
    device: str
    threads: int


@dataclass(frozen=True)
class Run:
    """One finished process.

    Attributes:
        seconds: from start to end of the process.
        startup: seconds from its start to the first batch; NaN where it does not say.
        loop_seconds: seconds of the scoring loop alone, tokenizing left out.
        scored: tokens that got a log-probability.
        peak: largest resident memory in bytes.
        loglik: (N,) nats.
    """

    seconds: float
    startup: float
    loop_seconds: float
    scored: int
    peak: int
    loglik: Floats

    @property
    def rate(self) -> float:
        """Scored tokens per second of the loop."""
        return self.scored / self.loop_seconds


@dataclass(frozen=True)
class Process:
    """When a process ran and what it took.

    Attributes:
        start: seconds on the monotonic clock, which all processes share.
        seconds: until its end.
        peak: largest resident memory in bytes.
    """

    start: float
    seconds: float
    peak: int


def run_process(command: Sequence[str], log: Path) -> Process:
    """Run a command with its output in a file.

    The peak memory that the kernel reports for a new process begins with that of the process it
    was started from, so this one imports no large library.

    Raises:
        WayFailed: it ended with an error or took too long.
    """
    # Everything lies on the disk: no library shall ask the network for anything.
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    with log.open("w") as output:
        start = time.monotonic()
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment
        )
        limit = threading.Timer(TIME_LIMIT, os.kill, (process.pid, signal.SIGKILL))
        limit.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            os.kill(process.pid, signal.SIGKILL)
            raise
        finally:
            limit.cancel()
        seconds = time.monotonic() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        reason = lines[-1].strip() if lines else "no output"
        raise WayFailed(f"exit status {process.returncode}: {reason[:300]}")
    return Process(start, seconds, usage.ru_maxrss * 1024)


@dataclass(frozen=True)
class Way:
    """A way of scoring.

    Attributes:
        name: as it stands in the tables.
        dtype: name of the torch dtype of the weights.
        after_bos: whether the first token of a text is scored, behind a token in front of it.
    """

    name: str
    dtype: str
    after_bos: bool = False

    def run(self, inputs: Inputs, folder: Path) -> Run:
        """Score all texts in a new process that writes into an empty folder."""
        raise NotImplementedError


@dataclass(frozen=True)
class Klmap(Way):
    """klmap, by the command that its workflow runs.

    Attributes:
        settings: of the score, beside those that all have.
    """

    settings: tuple[tuple[str, str | bool], ...] = ()

    def run(self, inputs: Inputs, folder: Path) -> Run:
        # No text is longer than the context: what goes through the model is what is scored.
        return self.measured(*self.scored(inputs, folder))

    def scored(self, inputs: Inputs, folder: Path) -> tuple[Process, store_score.Score]:
        """The process and what it wrote."""
        spec = {
            "id": "bench/model",
            "dtype": self.dtype,
            "prefix": "bos" if self.after_bos else "default",
            "overlength": "window",
            **dict(self.settings),
        }
        score = folder / f"{MODEL}.{fingerprint(spec)}.h5"
        files = {
            "card": inputs.folder / "card.json",
            "weights": inputs.folder / "weights",
            "texts": inputs.folder / "texts.jsonl",
            "manifest": inputs.folder / "texts.json",
            "score": score,
        }
        process = run_process(
            [
                sys.executable,
                str(ROOT / "scripts" / "score.py"),
                *(word for name, path in files.items() for word in (f"--{name}", str(path))),
                *("--model", MODEL, "--spec", json.dumps(spec)),
                *("--device", inputs.device, "--threads", str(inputs.threads)),
            ],
            folder / "log",
        )
        return process, store_score.read_score(score)

    @staticmethod
    def measured(process: Process, result: store_score.Score, passed: int | None = None) -> Run:
        """What is known of a run.

        Args:
            process: that ran.
            result: what it wrote.
            passed: tokens that went through the model; those that are scored by default.
        """
        scored = int(result.n_scored.sum())
        return Run(
            seconds=process.seconds,
            startup=float(result.attributes.get("startup_seconds", np.nan)),
            loop_seconds=(passed or scored) / float(result.attributes["tokens_per_second"]),
            scored=scored,
            peak=process.peak,
            loglik=result.loglik,
        )


@dataclass(frozen=True)
class Loop(Way):
    """One of the scripts beside this one that write their results as JSON.

    Attributes:
        python: the interpreter it runs in.
        script: its name.
        options: further options.
    """

    python: str = sys.executable
    script: str = "plain_loop.py"
    options: tuple[str, ...] = ()

    def run(self, inputs: Inputs, folder: Path) -> Run:
        process = run_process(
            [self.python, *loop_arguments(self.script, inputs, folder, self.dtype), *self.options],
            folder / "log",
        )
        result = json.loads((folder / "result.json").read_text())
        return Run(
            seconds=process.seconds,
            startup=result["first_batch"] - process.start,
            loop_seconds=result["loop_seconds"],
            scored=result["scored"],
            peak=process.peak,
            loglik=np.array(result["loglik"]),
        )


def loop_arguments(script: str, inputs: Inputs, folder: Path, dtype: str) -> list[str]:
    """The command line of a script beside this one."""
    return [
        str(HERE / script),
        *("--model", str(inputs.folder / "model")),
        *("--texts", str(inputs.folder / "texts.jsonl")),
        *("--dtype", dtype, "--device", inputs.device, "--threads", str(inputs.threads)),
        *("--output", str(folder / "result.json")),
    ]


def reference(inputs: Inputs, folder: Path, dtype: str, count: int) -> dict[str, Any]:
    """Sums of a few texts in high precision: ``number``, ``default`` and ``bos``."""
    arguments = loop_arguments("reference_loop.py", inputs, folder, dtype)
    run_process([sys.executable, *arguments, "--count", str(count)], folder / "log")
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result


def machine_speed(inputs: Inputs, folder: Path, dtypes: Sequence[str]) -> dict[str, Any]:
    """What machine_speed.py prints: parameter counts and FLOP per second."""
    script = str(HERE / "machine_speed.py")
    arguments = ["--model", str(inputs.folder / "model"), "--dtypes", *dtypes]
    arguments += ["--device", inputs.device, "--threads", str(inputs.threads)]
    run_process([sys.executable, script, *arguments], folder / "log")
    result: dict[str, Any] = json.loads((folder / "log").read_text().splitlines()[-1])
    return result


def bare_import(folder: Path) -> tuple[Process, bool]:
    """A process that imports torch and transformers and nothing else; whether it sees a GPU."""
    code = "import torch, transformers; print(torch.cuda.is_available())"
    process = run_process([sys.executable, "-c", code], folder / "log")
    return process, (folder / "log").read_text().split()[-1] == "True"
