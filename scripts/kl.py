"""KL divergences in bits per byte with standard errors, and the nearest models of each model."""

from __future__ import annotations

import argparse
from pathlib import Path

from klmap import log, models_table, neighbors, store


def main() -> None:
    """Read the arguments, measure, write distances and neighbours."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--matrix", type=Path, required=True, help="matrix.h5")
    parser.add_argument("--models", type=Path, required=True, help="models.tsv")
    parser.add_argument("--neighbors", type=int, default=10, help="how many for each model")
    parser.add_argument(
        "--dense-limit", type=int, default=5000, help="most models of which all pairs are stored"
    )
    parser.add_argument(
        "--reference-kl",
        type=Path,
        nargs="?",
        help="kl.h5 of the reference, where the texts are a selection",
    )
    parser.add_argument("--kl", type=Path, required=True, help="kl.h5 to write")
    parser.add_argument(
        "--neighbors-table", type=Path, required=True, help="neighbors.tsv to write"
    )
    args = parser.parse_args()
    reference = store.read_distances(args.reference_kl) if args.reference_kl else None
    with store.open_matrix(args.matrix) as matrix:
        models = models_table.read_models(args.models, matrix.model)
        distances, nearest = neighbors.measure(matrix, args.neighbors, args.dense_limit, reference)
    store.write_distances(args.kl, distances)
    rows = neighbors.table(nearest, models, distances.neighbor_below_noise)
    neighbors.write_neighbors(args.neighbors_table, rows)


if __name__ == "__main__":
    log.run(main)
