"""Write the map as one page to open in a browser."""

from __future__ import annotations

import argparse
from pathlib import Path

from klmap import collect, explorer, files, layout, log, neighbors


def main() -> None:
    """Read the arguments and the tables, write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, required=True, help="models.tsv")
    parser.add_argument("--layout", type=Path, required=True, help="layout.tsv")
    parser.add_argument("--neighbors-table", type=Path, required=True, help="neighbors.tsv")
    parser.add_argument("--figure", type=Path, required=True, help="map.svg")
    parser.add_argument("--manifest", type=Path, required=True, help="texts.json")
    parser.add_argument("--texts", help="the text set's name; by default the manifest's folder")
    parser.add_argument("--page", type=Path, required=True, help="map.html to write")
    args = parser.parse_args()
    models = collect.read_models(args.models)
    html = explorer.page(
        models,
        layout.read_layout(args.layout, models),
        neighbors.read_neighbors(args.neighbors_table),
        args.figure.read_text(encoding="utf-8"),
        files.read_json(args.manifest),
        args.texts or args.manifest.resolve().parent.name,
    )
    explorer.write_page(args.page, html)


if __name__ == "__main__":
    log.run(main)
