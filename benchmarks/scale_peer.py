"""What scikit-learn does with the same matrix: neighbours, principal components, t-SNE."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.neighbors import NearestNeighbors

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from klmap import store
from klmap.arrays import Floats32


def neighbors(q: Floats32) -> None:
    NearestNeighbors(n_neighbors=10, algorithm="brute", n_jobs=2).fit(q).kneighbors()


def components(q: Floats32) -> Floats32:
    reduced = PCA(min(128, *q.shape), svd_solver="randomized", random_state=0).fit_transform(q)
    return np.asarray(reduced, np.float32)


def neighbors_and_components(q: Floats32) -> None:
    components(q)
    neighbors(q)


def layout(q: Floats32) -> None:
    TSNE(init="pca", n_jobs=2, random_state=0).fit_transform(components(q))


WAYS: dict[str, Callable[[Floats32], object]] = {
    "neighbors": neighbors_and_components,
    "layout": layout,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("matrix", type=Path)
    args = parser.parse_args()
    with store.open_matrix(args.matrix) as matrix:
        q = matrix.coordinates(0, len(matrix.model))
    WAYS[args.way](q)


if __name__ == "__main__":
    main()
