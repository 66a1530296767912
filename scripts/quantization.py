"""What a lower precision does to models, and whether that is more than error."""

from __future__ import annotations

import argparse
from pathlib import Path

from klmap import figure_quantization, log, precision_directions, precision_shift, precision_tables
from klmap.gathered import gathered


def main() -> None:
    """Read the arguments, compare precisions, write the tables and the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--matrix", type=Path, required=True, help="matrix.h5")
    parser.add_argument("--models", type=Path, required=True, help="models.tsv")
    parser.add_argument(
        "--offmap", type=Path, nargs="*", default=[], help="matrix of models kept off the map"
    )
    parser.add_argument("--offmap-models", type=Path, nargs="*", default=[], help="their table")
    parser.add_argument("--folder", type=Path, required=True, help="folder to write to")
    args = parser.parse_args()
    offmap = (*args.offmap, None)[0], (*args.offmap_models, None)[0]
    with gathered(args.matrix, args.models, *offmap) as found:
        shifts = precision_shift.measure(found)
        cosines = precision_directions.cosines(shifts)
        tables = precision_tables.write(args.folder, shifts)
    precision_directions.write(args.folder / "cosines.tsv", shifts, cosines)
    texts = args.matrix.resolve().parent.name
    figure_quantization.write(args.folder, shifts, cosines, tables, texts)


if __name__ == "__main__":
    log.run(main)
