"""Print what finished scores have cost: the most wasteful, the slowest, and totals by device."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from klmap import efficiency, efficiency_table, log


def main() -> None:
    """Read the score files that the table does not know yet, and print the table's essence."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True, help="the results folder")
    parser.add_argument("--gpu-memory-gb", type=float, required=True, help="of one GPU")
    arguments = parser.parse_args()
    costs, _ = efficiency.read(arguments.results, arguments.gpu_memory_gb)
    width = shutil.get_terminal_size((100, 24)).columns
    table = arguments.results / efficiency.TABLE
    sys.stdout.write("\n" + efficiency_table.render(costs, table, width))


if __name__ == "__main__":
    log.run(main)
