"""How straight the ways between models are, by the merges that lie on them."""

from __future__ import annotations

import argparse
from pathlib import Path

from klmap import figure_merges, log, merge_paths
from klmap.gathered import gathered


def main() -> None:
    """Read the arguments, measure all merges, write the tables and the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--matrix", type=Path, required=True, help="matrix.h5")
    parser.add_argument("--models", type=Path, required=True, help="models.tsv of the matrix")
    parser.add_argument(
        "--offmap", type=Path, nargs="*", default=[], help="offmap.h5, where there is one"
    )
    parser.add_argument(
        "--offmap-models", type=Path, nargs="*", default=[], help="offmap.tsv, where there is one"
    )
    parser.add_argument("--folder", type=Path, required=True, help="folder to write to")
    args = parser.parse_args()
    offmap, models = next(iter(args.offmap), None), next(iter(args.offmap_models), None)
    with gathered(args.matrix, args.models, offmap, models) as scored:
        found = merge_paths.measure(scored)
    merge_paths.write(args.folder, found)
    figure_merges.write(args.folder, found, args.matrix.resolve().parent.name)


if __name__ == "__main__":
    log.run(main)
