"""Estimated KLs against those of texts that models write themselves, and MAUVE beside them."""

from __future__ import annotations

import argparse
from pathlib import Path

from klmap import figure_generation, generation, log
from klmap.gathered import gathered


def main() -> None:
    """Read the arguments, compare estimates with samples, write tables and figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--matrix", type=Path, required=True, help="matrix.h5")
    parser.add_argument("--models", type=Path, required=True, help="models.tsv of the matrix")
    parser.add_argument("--offmap", type=Path, nargs="*", default=[], help="offmap.h5, if any")
    parser.add_argument("--offmap-models", type=Path, nargs="*", default=[], help="offmap.tsv")
    parser.add_argument(
        "--samples", type=Path, nargs="*", default=[], help="responses of pairs of models, .h5"
    )
    parser.add_argument("--mauve", action="store_true", help="also MAUVE, from mauve-text")
    parser.add_argument("--seed", type=int, default=42, help="of the bootstrap, and of MAUVE")
    parser.add_argument("--folder", type=Path, required=True, help="folder to write to")
    args = parser.parse_args()
    off = (next(iter(args.offmap), None), next(iter(args.offmap_models), None))
    with gathered(args.matrix, args.models, *off) as models:
        found = generation.measure(models, args.samples, args.mauve, args.seed)
    generation.write(args.folder, found)
    figure_generation.write(args.folder, found, args.matrix.resolve().parent.name)


if __name__ == "__main__":
    log.run(main)
