"""Ask about every configured model without a card; print what a run would meet, take and skip."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from klmap import log, preflight, preflight_table, refresh
from klmap.config import Hardware
from klmap.errors import KlmapError


def main() -> None:
    """Look at what is configured and print the table; exit status 1 if anything is to be mended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sources", type=Path, required=True, help="table of configured models")
    parser.add_argument("--plan", type=Path, required=True, help="table of wanted scores")
    parser.add_argument("--cards", type=Path, required=True, help="folder of <source>/card.json")
    parser.add_argument(
        "--texts",
        type=preflight.TextSet.parse,
        nargs="+",
        required=True,
        help="text sets as name=n,max_bytes",
    )
    parser.add_argument(
        "--on-failure",
        choices=("stop", "skip"),
        default="stop",
        help="with skip, an unusable model gets a card that says why",
    )
    parser.add_argument(
        "--mirrors", type=Path, nargs="*", default=[], help="filled caches of the Hub"
    )
    parser.add_argument("--disk-budget-gb", type=float, required=True, help="for downloads")
    parser.add_argument("--gpu-memory-gb", type=float, required=True, help="of one GPU")
    parser.add_argument("--max-gpus", type=int, required=True, help="of one job; 0 for none")
    parser.add_argument("--table", type=Path, required=True, help="preflight.tsv to write")
    arguments = parser.parse_args()
    outlook = preflight.look(
        refresh.read_index(arguments.sources),
        preflight.read_plan(arguments.plan),
        arguments.texts,
        arguments.cards,
        Hardware(
            disk_budget_gb=arguments.disk_budget_gb,
            gpu_memory_gb=arguments.gpu_memory_gb,
            max_gpus=arguments.max_gpus,
        ),
        skip=arguments.on_failure == "skip",
        mirrors=arguments.mirrors,
    )
    preflight.write_rows(arguments.table, outlook)
    width = shutil.get_terminal_size((100, 24)).columns
    sys.stdout.write("\n" + preflight_table.render(outlook, arguments.table, width))
    sys.stdout.flush()
    if outlook.blocking:
        raise KlmapError(
            f"not ready to run: of {len(outlook.rows)} models {len(outlook.blocking)} are to be "
            f"mended first: {arguments.table}"
        )


if __name__ == "__main__":
    log.run(main)
