"""Place every model on the plane, by t-SNE or principal components."""

from __future__ import annotations

import argparse
from pathlib import Path

from klmap import collect, layout, log, store


def main() -> None:
    """Read the arguments, place the models, write the layout."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--matrix", type=Path, required=True, help="matrix.h5")
    parser.add_argument("--models", type=Path, required=True, help="models.tsv")
    parser.add_argument("--method", choices=["tsne", "pca"], default="tsne")
    parser.add_argument(
        "--metric",
        choices=["euclidean", "sqeuclidean"],
        default="euclidean",
        help="what t-SNE calls a distance: the square root of KL, or KL",
    )
    parser.add_argument("--perplexity", type=float, default=30)
    parser.add_argument("--iterations", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--layout", type=Path, required=True, help="layout.tsv to write")
    args = parser.parse_args()
    matrix = store.read_matrix(args.matrix)
    models = collect.read_models(args.models, matrix.model)
    places = layout.place(
        matrix, models, args.method, args.metric, args.perplexity, args.iterations, args.seed
    )
    layout.write_layout(args.layout, places)


if __name__ == "__main__":
    log.run(main)
