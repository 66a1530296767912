"""Where models of the Hub are measured: a Hub in one process, and others that ask it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from tests import hub_models  # noqa: E402
from tests.hub_server import Hub, Repository, serve  # noqa: E402

SMALL_MODELS = 1000
BIG = "org/big"


@dataclass(frozen=True)
class Cost:
    """What a process took.

    Attributes:
        seconds: from its start to its end.
        peak: most bytes in the watched folder.
        said: its standard output.
    """

    seconds: float
    peak: int
    said: str


@dataclass(frozen=True)
class Place:
    """Where everything happens.

    Attributes:
        folder: temporary, removed in the end.
        url: of the Hub.
        talk: to the Hub's process.
    """

    folder: Path
    url: str
    talk: Connection

    def hub(self, **settings: Any) -> dict[str, int]:
        """Set attributes of the Hub; what it was asked for since the last time."""
        self.talk.send(settings)
        found: dict[str, int] = self.talk.recv()
        return found

    def run(self, command: Sequence[object], watched: Path | None = None) -> Cost:
        """Run a process that sees nothing but this Hub, with an empty cache."""
        home = self.folder / "home"
        shutil.rmtree(home, ignore_errors=True)
        os.sync()
        begun = time.perf_counter()
        with (self.folder / "errors").open("w+") as errors:
            process = subprocess.Popen(
                [sys.executable, *map(str, command)],
                env=Hub(self.url).environment(home),
                cwd=self.folder,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
            peak = 0
            while watched is not None and process.poll() is None:
                peak = max(peak, _allocated(watched))
                time.sleep(0.05)
            said, _ = process.communicate()
            seconds = time.perf_counter() - begun
            errors.seek(0)
            if process.returncode:
                raise RuntimeError(
                    f"{command[0]}: exit status {process.returncode}: {errors.read()}"
                )
        return Cost(seconds, peak, said)


def _allocated(folder: Path) -> int:
    """Bytes that the files of a folder take on the disk."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += Path(root, name).lstat().st_blocks * 512
    return total


def _serve(talk: Connection, folder: Path) -> None:
    """Run the Hub until the other end is gone."""
    small, big = folder / "small", folder / "big"
    with serve() as hub, contextlib.suppress(EOFError):
        for number in range(SMALL_MODELS):
            hub.repositories[id_of(number)] = Repository(small, hub_models.COMMIT)
        hub.repositories[BIG] = Repository(big, hub_models.COMMIT)
        talk.send(hub.url)
        while True:
            for name, value in talk.recv().items():
                setattr(hub, name, value)
            sent = sum(hub.repositories[BIG].sent.values())
            talk.send({"requests": len(hub.requests), "sent": sent})
            hub.requests.clear()
            hub.repositories[BIG].sent.clear()


@contextlib.contextmanager
def running_hub(folder: Path) -> Iterator[Place]:
    """The Hub in a process of its own, so that its work is not done inside a client."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, folder), daemon=True)
    process.start()
    there.close()
    try:
        yield Place(folder, here.recv(), here)
    finally:
        here.close()
        process.join(10)
        process.terminate()


def id_of(number: int) -> str:
    """The same ids as those of ``bench_dryrun``."""
    return f"org{number % 50}/model-{number}"


def source_of(id: str) -> str:
    """What a model is filed under."""
    return id.replace("/", "--")
