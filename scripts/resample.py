"""What a selection of some of these texts would cost: errors, maps, places of new models."""

from __future__ import annotations

import argparse
from pathlib import Path

from klmap import figure_resample, figure_resample_maps, layout, log, models_table, resample, store


def main() -> None:
    """Read the arguments, choose texts again and again, write tables and figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--matrix", type=Path, required=True, help="matrix.h5")
    parser.add_argument("--models", type=Path, required=True, help="models.tsv of the matrix")
    parser.add_argument("--layout", type=Path, required=True, help="layout.tsv")
    parser.add_argument("--layout-report", type=Path, required=True, help="layout.json")
    parser.add_argument("--draws", type=int, default=100, help="selections of each kind and size")
    parser.add_argument("--maps", type=int, default=20, help="how many of them a map is made of")
    parser.add_argument(
        "--newest", type=float, default=0.1, help="share of the models that are placed anew"
    )
    parser.add_argument("--error", type=float, default=0.05, help="wanted relative error of a KL")
    parser.add_argument("--share", type=float, default=0.95, help="of the pairs, to be within it")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument(
        "--selections", nargs="*", default=[], metavar="NAME=METHOD,with|without,N",
        help="selections of these texts that are configured",
    )  # fmt: skip
    parser.add_argument("--folder", type=Path, required=True, help="folder to write to")
    args = parser.parse_args()
    asked = resample.asked(args.selections)
    settings = resample.Settings(
        args.draws, args.maps, args.newest, args.error, args.share, args.seed
    )
    with store.open_matrix(args.matrix) as matrix:
        models = models_table.read_models(args.models, matrix.model)
        places = layout.read_layout(args.layout, models)
        report = layout.read_report(args.layout_report)
        found = resample.measure(matrix, models, places, report, settings, asked)
    resample.write(args.folder, found, models)
    texts = args.matrix.resolve().parent.name
    figure_resample.write(args.folder, found, texts)
    figure_resample_maps.write(args.folder, found, models, places, texts)


if __name__ == "__main__":
    log.run(main)
