"""Write the map as one page to open in a browser."""

from __future__ import annotations

import argparse
from pathlib import Path

from klmap import explorer, explorer_data, log


def main() -> None:
    """Read the arguments and the files of a map, write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, required=True, help="models.tsv")
    parser.add_argument("--layout", type=Path, required=True, help="layout.tsv")
    parser.add_argument("--layout-report", type=Path, required=True, help="layout.json")
    parser.add_argument("--neighbors-table", type=Path, required=True, help="neighbors.tsv")
    parser.add_argument("--kl", type=Path, required=True, help="kl.h5")
    parser.add_argument("--matrix", type=Path, required=True, help="matrix.h5")
    parser.add_argument("--manifest", type=Path, required=True, help="texts.json")
    parser.add_argument("--ellipses", type=Path, nargs="?", help="ellipses.tsv, where there is one")
    parser.add_argument(
        "--benchmarks", type=Path, nargs="*", default=[], help="tables of benchmark scores"
    )
    parser.add_argument(
        "--predictions", type=Path, nargs="?", help="predictions.tsv, where there is one"
    )
    parser.add_argument(
        "--conventions", type=Path, nargs="?", help="conventions.tsv, where there is one"
    )
    parser.add_argument(
        "--reference", nargs="?", help="of a text selection: the name of the set it was made from"
    )
    parser.add_argument(
        "--ways", type=Path, nargs="*", default=[], help="tables of ways, <analysis>/ways.tsv"
    )
    parser.add_argument("--texts", help="the text set's name; by default the manifest's folder")
    parser.add_argument("--page", type=Path, required=True, help="map.html to write")
    args = parser.parse_args()
    payload = explorer_data.payload(
        args.models,
        args.layout,
        args.layout_report,
        args.neighbors_table,
        args.kl,
        args.matrix,
        args.manifest,
        args.texts or args.manifest.resolve().parent.name,
        args.ellipses,
        args.benchmarks,
        args.predictions,
        args.conventions,
        args.reference,
        args.ways,
    )
    explorer.write_page(args.page, explorer.page(payload))


if __name__ == "__main__":
    log.run(main)
