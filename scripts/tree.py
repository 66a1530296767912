"""Cluster the models by average linkage on KL and write the tree, with its support, as Newick."""

from __future__ import annotations

import argparse
from pathlib import Path

from klmap import bootstrap, log, store, tree


def main() -> None:
    """Read the arguments, cluster, repeat it on resampled texts, write the tree."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kl", type=Path, required=True, help="kl.h5")
    parser.add_argument("--matrix", type=Path, required=True, help="matrix.h5")
    parser.add_argument(
        "--bootstrap", type=int, default=100, help="bootstrap samples of the texts; 0 for none"
    )
    parser.add_argument("--seed", type=int, default=42, help="of the bootstrap")
    parser.add_argument("--tree", type=Path, required=True, help="tree.nwk to write")
    args = parser.parse_args()
    distances = store.read_distances(args.kl)
    root = tree.build(distances, str(args.kl))
    if args.bootstrap:
        matrix = store.read_matrix(args.matrix)
        samples = bootstrap.replicates(matrix, args.bootstrap, args.seed, distances)
        tree.add_support(root, matrix.model, samples)
    tree.write_tree(args.tree, root)


if __name__ == "__main__":
    log.run(main)
