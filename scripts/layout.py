"""Place every model on the plane, near the place that it had before."""

from __future__ import annotations

import argparse
from pathlib import Path

from klmap import log, models_table, placement, store
from klmap.embedding import Settings


def main() -> None:
    """Read the arguments, place the models, write the layout and what is to be known of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--matrix", type=Path, required=True, help="matrix.h5")
    parser.add_argument("--kl", type=Path, required=True, help="kl.h5")
    parser.add_argument("--models", type=Path, required=True, help="models.tsv")
    parser.add_argument("--method", choices=["tsne", "opentsne", "umap", "pca"], default="tsne")
    parser.add_argument(
        "--metric",
        choices=["euclidean", "sqeuclidean"],
        default="euclidean",
        help="what the method calls a distance: the square root of KL, or KL",
    )
    parser.add_argument("--perplexity", type=float, default=30)
    parser.add_argument("--iterations", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument(
        "--dense-limit", type=int, default=5000, help="most models that scikit-learn places"
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--fresh", action="store_true", help="forget where the models were")
    how.add_argument("--fixed", action="store_true", help="place new models alone")
    parser.add_argument(
        "--layout", type=Path, required=True, help="layout.tsv to continue and write"
    )
    parser.add_argument(
        "--report", type=Path, required=True, help="layout.json to continue and write"
    )
    parser.add_argument(
        "--reference-layout", type=Path, nargs="?", help="layout.tsv of the reference"
    )
    parser.add_argument(
        "--reference-report", type=Path, nargs="?", help="layout.json of the reference"
    )
    args = parser.parse_args()
    if (args.reference_layout is None) != (args.reference_report is None):
        parser.error("--reference-layout and --reference-report go together")
    asked = (args.method, args.metric, args.perplexity, args.iterations, args.seed)
    settings = Settings(*asked, args.dense_limit, args.fixed)
    distances = store.read_distances(args.kl)
    with store.open_matrix(args.matrix) as matrix:
        models = models_table.read_models(args.models, matrix.model)
        cloud = placement.cloud(matrix, distances, models, settings.dense_limit)
        reference = (args.reference_layout, args.reference_report, matrix.model, matrix.complete)
    if args.reference_layout:
        before = placement.reference(*reference)
    else:
        before = placement.ASKED_FOR if args.fresh else placement.previous(args.layout, args.report)
    made = placement.make(cloud, settings, before)
    faithful = placement.measured(made, distances)
    placement.write(made, cloud, settings, faithful, args.layout, args.report)


if __name__ == "__main__":
    log.run(main)
