"""How long a map of up to 100,000 models takes, and how much memory, beside scikit-learn.

The real scripts as whole processes, on score files that are made up and written first (179 kB
each; up to 30 GB at a time for 100,000 models, removed before the next size). Prints a Markdown
table and the growth of each step.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from scale_data import Place

from klmap import store

HERE = Path(__file__).resolve().parent
SCRIPTS = HERE.parent / "scripts"
DENSE_LIMIT = 5000
PEERS = {"kl": ("neighbors", 30_000), "layout": ("layout", 10_000)}
"""Ways of scale_peer.py for a step, and the most models for which they end within the hour."""


@dataclass(frozen=True)
class Row:
    """One process.

    Attributes:
        models: number of models.
        step: script.
        seconds: wall time.
        memory: peak, GB.
        peer: seconds and GB of scikit-learn, None where it did not run.
        note: what else is to be said.
    """

    models: int
    step: str
    seconds: float
    memory: float
    peer: tuple[float, float] | None = None
    note: str = ""


def whole_process(arguments: list[str]) -> tuple[float, float]:
    """Seconds and peak memory in GB of one process.

    Raises:
        SystemExit: it failed; the message is what it wrote.
    """
    with tempfile.TemporaryFile("w+") as output:
        start = time.perf_counter()
        process = subprocess.Popen([sys.executable, *arguments], stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        if status:
            output.seek(0)
            raise SystemExit(f"{' '.join(arguments)} failed:\n{output.read()[-2000:]}")
    return seconds, usage.ru_maxrss / 2**20


def commands(place: Place, method: str) -> dict[str, list[str]]:
    """The scripts with their arguments, in the order in which they run."""

    def paths(*names: str) -> list[str]:
        known = {"cards": "models", "scores": "scores", "texts": "texts.jsonl"}
        known |= {"manifest": "texts.json", "index": "index.tsv", "matrix": "matrix.h5"}
        known |= {"models": "models.tsv", "failures": "failures.tsv", "kl": "kl.h5"}
        known |= {"neighbors-table": "neighbors.tsv", "layout": "layout.tsv"}
        known |= {"report": "layout.json"}
        return [part for name in names for part in (f"--{name}", str(place.path(known[name])))]

    limit = ["--dense-limit", str(DENSE_LIMIT)]
    collected = paths("index", "scores", "cards", "texts", "manifest")
    return {
        "matrix": [*collected, *paths("matrix", "models", "failures"), "--on-failure", "skip"],
        "kl": [*paths("matrix", "models", "kl", "neighbors-table"), *limit],
        "layout": [
            *paths("matrix", "kl", "models", "layout", "report"),
            "--method",
            method,
            *limit,
        ],
    }


def measure(place: Place, steps: list[str], method: str) -> list[Row]:
    """All steps for one number of models."""
    start = time.perf_counter()
    place.write()
    print(f"{place.models:,} scores in {time.perf_counter() - start:.0f} s", file=sys.stderr)
    rows = []
    for step, arguments in commands(place, method).items():
        if step not in steps:
            continue
        seconds, memory = whole_process([str(SCRIPTS / f"{step}.py"), *arguments])
        way, most = PEERS.get(step, ("", 0))
        peer, note = None, ""
        if place.models <= most:
            script = str(HERE / "scale_peer.py")
            peer = whole_process([script, way, str(place.path("matrix.h5"))])
        if step == "matrix":
            note = f"{1e3 * seconds / place.models:.1f} ms a model"
        elif step == "kl":
            found = store.read_distances(place.path("kl.h5"))
            way_of = "all pairs" if found.kl is not None else "neighbours"
            note = f"{way_of}, recall {found.recall:.4f}"
        rows.append(Row(place.models, step, seconds, memory, peer, note))
        print(line_of(rows[-1]), file=sys.stderr, flush=True)
    return rows


def line_of(row: Row) -> str:
    peer = ["", "", ""]
    if row.peer is not None:
        seconds, memory = row.peer
        peer = [f"{seconds:.0f}", f"{memory:.2f}", f"{seconds / row.seconds:.1f}"]
    cells = [
        f"{row.models:,}",
        row.step,
        f"{row.seconds:.0f}",
        f"{row.memory:.2f}",
        *peer,
        row.note,
    ]
    return f"| {' | '.join(cells)} |"


def growth(rows: list[Row]) -> str:
    """The exponents between each two numbers of models that follow each other."""
    parts = []
    for step in dict.fromkeys(row.step for row in rows):
        of_step = [row for row in rows if row.step == step]
        exponents = [
            math.log(after.seconds / before.seconds) / math.log(after.models / before.models)
            for before, after in pairwise(of_step)
        ]
        if exponents:
            parts.append(f"{step} {', '.join(f'{value:.2f}' for value in exponents)}")
    return "; ".join(parts)


def main() -> None:
    """Parse the arguments, measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    sizes = [1000, 3000, 10_000, 30_000, 100_000]
    parser.add_argument("--sizes", type=int, nargs="+", default=sizes)
    parser.add_argument("--texts", type=int, default=10_000)
    parser.add_argument("--steps", nargs="+", default=["matrix", "kl", "layout"])
    parser.add_argument("--method", default="opentsne", help="of the layout")
    parser.add_argument("--folder", type=Path, help="where the files are written for the while")
    args = parser.parse_args()
    rows: list[Row] = []
    for models in args.sizes:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            rows += measure(Place(Path(folder), models, args.texts), args.steps, args.method)
    print(f"{args.texts:,} texts; all pairs up to {DENSE_LIMIT:,} models; layout: {args.method}.\n")
    peer = "scikit-learn (s) | its memory (GB) | ratio"
    print(f"| models | step | seconds | peak memory (GB) | {peer} | |")
    print("|---:|---|---:|---:|---:|---:|---:|---|")
    for row in rows:
        print(line_of(row))
    if len(args.sizes) > 1:
        print(f"\nGrowth, as the exponent from each number of models to the next: {growth(rows)}.")


if __name__ == "__main__":
    main()
