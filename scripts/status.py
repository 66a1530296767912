"""Print what a run is doing: what is done, at work, waiting and failed, and the GPU hours of it."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from klmap import log, preflight, status, status_table
from klmap.config import Hardware


def main() -> None:
    """Look at the files and the queue, write the table and print what a person wants to know."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plan", type=Path, required=True, help="table of wanted scores")
    parser.add_argument("--results", type=Path, required=True, help="the results folder")
    parser.add_argument(
        "--texts",
        type=preflight.TextSet.parse,
        nargs="+",
        required=True,
        help="text sets as name=n,max_bytes",
    )
    parser.add_argument("--disk-budget-gb", type=float, required=True, help="for downloads")
    parser.add_argument("--gpu-memory-gb", type=float, required=True, help="of one GPU")
    parser.add_argument("--max-gpus", type=int, required=True, help="of one job; 0 for none")
    parser.add_argument("--table", type=Path, required=True, help="status.tsv to write")
    arguments = parser.parse_args()
    overview = status.look(
        preflight.read_plan(arguments.plan),
        arguments.texts,
        arguments.results,
        Hardware(
            disk_budget_gb=arguments.disk_budget_gb,
            gpu_memory_gb=arguments.gpu_memory_gb,
            max_gpus=arguments.max_gpus,
        ),
    )
    status.write_rows(arguments.table, overview)
    width = shutil.get_terminal_size((100, 24)).columns
    sys.stdout.write("\n" + status_table.render(overview, arguments.table, width))


if __name__ == "__main__":
    log.run(main)
