"""A run of a thousand models through a real SLURM of one node: what the head takes, and each job.

Models are placeholders: their cards and weights are there, and a score is written in an instant,
so what is measured is submitting, asking and starting. Needs root and the packages slurm-wlm and
munge. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from tests.slurm_cluster import Cluster, said, why_not
from tests.slurm_project import Clone, make_placeholders

ALONE = ("--group-components", "tiny=1", "small=1", "cpu=1")


def peak_of(process: int) -> float:
    """Largest resident memory of a process so far in MB; 0 when it is gone."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0.0
    found = re.search(r"VmHWM:\s+(\d+)", status)
    return int(found[1]) / 1e3 if found else 0.0


def measure(clone: Clone, models: int, *options: str) -> str:
    """One line of the table: a whole run of all scores."""
    began = time.perf_counter()
    head = clone.head("scores", *options)
    peak = 0.0
    while head.process.poll() is None:
        peak = max(peak, peak_of(head.process.pid))
        time.sleep(0.5)
    seconds = time.perf_counter() - began
    scores = len(list((clone.folder / "results/tiny/scores").glob("*.h5")))
    if head.process.returncode != 0 or scores != models:
        raise SystemExit(f"{scores} of {models} scores\n{head.output}")
    listed = said("squeue", "--states=all", "--noheader", f"--name={head.run}", "--format=%i")
    jobs = len(listed.split())
    return f"| {models} | {jobs} | {seconds:.0f} s | {60 * jobs / seconds:.1f} | {peak:.0f} MB |"


def main() -> None:
    """Measure with shared allocations and without."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=1018, help="models that share allocations")
    parser.add_argument("--alone", type=int, default=100, help="models with one allocation each")
    parser.add_argument("--gpus", type=int, default=4, help="jobs at one time")
    arguments = parser.parse_args()
    reason = why_not()
    if reason:
        print(f"Not measured: {reason}.")
        return
    print("| models | SLURM jobs | wall time | jobs per minute | peak memory of the head |")
    print("|---|---|---|---|---|")
    for models, options in ((arguments.models, ()), (arguments.alone, ALONE)):
        with tempfile.TemporaryDirectory() as folder, Cluster(arguments.gpus):
            clone = make_placeholders(Path(folder) / "klmap", models)
            print(measure(clone, models, *options), flush=True)


if __name__ == "__main__":
    main()
