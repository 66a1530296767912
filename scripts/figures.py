"""Draw the map and its companions, each as PNG and SVG."""

from __future__ import annotations

import argparse
from pathlib import Path

from klmap import (
    bootstrap,
    chosen,
    domain_maps,
    figures,
    files,
    layout,
    log,
    models_table,
    scene,
    store,
    tree,
)


def main() -> None:
    """Read the arguments and the tables, draw the figures that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, required=True, help="models.tsv")
    parser.add_argument("--layout", type=Path, required=True, help="layout.tsv")
    parser.add_argument("--layout-report", type=Path, required=True, help="layout.json")
    parser.add_argument("--kl", type=Path, required=True, help="kl.h5")
    parser.add_argument("--tree", type=Path, nargs="?", help="tree.nwk; not for the maps alone")
    parser.add_argument("--ellipses", type=Path, nargs="?", help="ellipses.tsv, for that figure")
    parser.add_argument("--domains", type=Path, nargs="?", help="domains.tsv, for that figure")
    parser.add_argument(
        "--bootstrap", type=int, default=0, help="how many samples tree and ellipses are made of"
    )
    parser.add_argument("--color-by", default="family", help="column of models.tsv")
    parser.add_argument("--manifest", type=Path, nargs="?", help="texts.json, for a text selection")
    parser.add_argument("--texts", help="the text set's name; by default the folder of kl.h5")
    parser.add_argument("--figures", type=Path, required=True, help="folder to write to")
    parser.add_argument("names", nargs="+", metavar="NAME", help=", ".join(figures.FIGURES))
    args = parser.parse_args()
    distances = store.read_distances(args.kl)
    models = models_table.read_models(args.models, distances.model)
    manifest = files.read_json(args.manifest) if args.manifest else {}
    drawn = scene.Scene(
        models=models,
        places=layout.read_layout(args.layout, models),
        distances=distances,
        tree=tree.read_tree(args.tree) if args.tree else None,
        texts=args.texts or args.kl.resolve().parent.name,
        color_by=args.color_by,
        report=layout.read_report(args.layout_report),
        ellipses=bootstrap.read_ellipses(args.ellipses, models) if args.ellipses else (),
        domains=domain_maps.read_domains(args.domains, models) if args.domains else (),
        replicates=args.bootstrap,
        chosen=chosen.chosen_of(args.manifest, manifest),
    )
    figures.draw(drawn, args.figures, args.names)


if __name__ == "__main__":
    log.run(main)
