"""Estimated KLs against the exact KLs per token of pairs of models with one vocabulary."""

from __future__ import annotations

import argparse
from pathlib import Path

from klmap import figure_true_kl, log, true_kl
from klmap.gathered import gathered


def main() -> None:
    """Read the arguments, compare estimates with exact KLs, write tables and figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--matrix", type=Path, required=True, help="matrix.h5")
    parser.add_argument("--models", type=Path, required=True, help="models.tsv of the matrix")
    parser.add_argument("--offmap", type=Path, nargs="*", default=[], help="offmap.h5, if any")
    parser.add_argument("--offmap-models", type=Path, nargs="*", default=[], help="offmap.tsv")
    parser.add_argument(
        "--divergences", type=Path, nargs="*", default=[], help="exact KLs of pairs, .h5"
    )
    parser.add_argument("--folder", type=Path, required=True, help="folder to write to")
    args = parser.parse_args()
    off = (next(iter(args.offmap), None), next(iter(args.offmap_models), None))
    with gathered(args.matrix, args.models, *off) as models:
        found = true_kl.measure(models, args.divergences)
    true_kl.write(args.folder, found)
    figure_true_kl.write(args.folder, found, args.matrix.resolve().parent.name)


if __name__ == "__main__":
    log.run(main)
