"""How far the distances between models depend on the texts."""

from __future__ import annotations

import argparse
from pathlib import Path

from klmap import figure_robustness, log, models_table, robustness, store, text_sets


def main() -> None:
    """Read the arguments, compare parts of the texts and text sets, write tables and figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--matrix", type=Path, required=True, help="matrix.h5")
    parser.add_argument("--models", type=Path, required=True, help="models.tsv of the matrix")
    parser.add_argument(
        "--others", nargs="*", default=[], metavar="NAME=PATH", help="matrix.h5 of other text sets"
    )
    parser.add_argument("--splits", type=int, default=50, help="divisions into random halves")
    parser.add_argument("--draws", type=int, default=20, help="samples of each number of texts")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--folder", type=Path, required=True, help="folder to write to")
    args = parser.parse_args()
    others = text_sets.named(args.others)
    with store.open_matrix(args.matrix) as matrix:
        models_table.read_models(args.models, matrix.model)
        found = robustness.measure(matrix, others, args.splits, args.draws, args.seed)
    robustness.write(args.folder, found)
    figure_robustness.write(args.folder, found, args.matrix.resolve().parent.name)


if __name__ == "__main__":
    log.run(main)
