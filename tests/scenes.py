"""Scenes to draw: of a finished run, and of made-up coordinates."""

from __future__ import annotations

import numpy as np

from klmap import geometry, layout, neighbors, tree
from klmap.collect import Model
from klmap.scene import Scene
from klmap.store import Distances
from tests.mapfiles import Folder


def scene_of(folder: Folder) -> Scene:
    found = folder.collect()
    distances, _ = neighbors.measure(found.matrix, 10, 5000)
    return Scene(
        found.models,
        layout.place(found.matrix, found.models, iterations=250),
        distances,
        tree.build(distances),
        "demo",
    )


def synthetic(models: list[Model], seed: int = 0) -> Scene:
    """A scene of made-up coordinates, for as many models as wanted."""
    rng = np.random.default_rng(seed)
    q = (
        rng.normal(0, 20, (len(models), 300))
        + rng.normal(0, 20, (5, 300))[np.arange(len(models)) % 5]
    )
    kl, se = geometry.pairwise_kl(q, 700.0)
    near = geometry.nearest(kl, se, 5)
    names = [model.model for model in models]
    distances = Distances(names, near.index, near.kl, kl, se, "a" * 64, 300, 700.0)
    points = geometry.principal_components(geometry.features(q, 700.0))
    x, y = points[:, 0], points[:, 1] if points.shape[1] > 1 else 0 * points[:, 0]
    places = [
        layout.Place(name, float(a), float(b), "pca")
        for name, a, b in zip(names, x, y, strict=True)
    ]
    return Scene(models, places, distances, tree.build(distances), "demo")
