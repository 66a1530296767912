"""Where other samples of the texts would place each model: a 95 % ellipse per model."""

from __future__ import annotations

import argparse
from pathlib import Path

from klmap import bootstrap, layout, log, models_table, store
from klmap.errors import InputError


def main() -> None:
    """Read the arguments, repeat the layout on resampled texts, write the ellipses."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--matrix", type=Path, required=True, help="matrix.h5")
    parser.add_argument("--models", type=Path, required=True, help="models.tsv")
    parser.add_argument("--layout", type=Path, required=True, help="layout.tsv")
    parser.add_argument("--layout-report", type=Path, required=True, help="layout.json")
    parser.add_argument("--dense-limit", type=int, default=5000, help="most models")
    parser.add_argument("--bootstrap", type=int, default=100, help="samples of the texts")
    parser.add_argument("--seed", type=int, default=42, help="of the bootstrap")
    parser.add_argument(
        "--reference-ellipses", type=Path, nargs="?", help="ellipses.tsv of the reference"
    )
    parser.add_argument("--ellipses", type=Path, required=True, help="ellipses.tsv to write")
    args = parser.parse_args()
    matrix = store.read_matrix(args.matrix)
    if len(matrix.model) > args.dense_limit:
        raise InputError(
            f"{args.matrix}: {len(matrix.model):,} models, and ellipses are computed for at most "
            f"{args.dense_limit:,}: set map.ellipses to false in config.yaml, or raise "
            "map.dense_limit"
        )
    if args.bootstrap < 2:
        raise InputError("ellipses need map.bootstrap of at least 2 in config.yaml")
    places = layout.read_layout(args.layout, models_table.read_models(args.models, matrix.model))
    report = layout.read_report(args.layout_report)
    known = bootstrap.read_rows(args.reference_ellipses) if args.reference_ellipses else {}
    rows = bootstrap.ellipses(matrix, places, report, args.bootstrap, args.seed, known)
    bootstrap.write_ellipses(args.ellipses, rows)


if __name__ == "__main__":
    log.run(main)
