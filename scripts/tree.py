"""Cluster the models by average linkage on KL and write the tree as Newick."""

from __future__ import annotations

import argparse
from pathlib import Path

from klmap import log, store, tree


def main() -> None:
    """Read the arguments, cluster, write the tree."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kl", type=Path, required=True, help="kl.h5")
    parser.add_argument("--tree", type=Path, required=True, help="tree.nwk to write")
    args = parser.parse_args()
    tree.write_tree(args.tree, tree.build(store.read_distances(args.kl), str(args.kl)))


if __name__ == "__main__":
    log.run(main)
