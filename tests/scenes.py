"""Scenes to draw: of a finished run, and of made-up coordinates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from klmap import bootstrap, geometry, layout, neighbors, quality, tree
from klmap.alignment import Movement
from klmap.bootstrap import Ellipse
from klmap.domain_maps import DomainMap
from klmap.layout import Place, Report
from klmap.models_table import Model
from klmap.scene import Scene
from klmap.store import Distances
from tests.mapfiles import Folder


def scene_of(folder: Folder) -> Scene:
    found = folder.collect()
    distances, _ = neighbors.measure(found.matrix, 10, 5000)
    places = layout.place(found.matrix, found.models, iterations=250)
    report = report_of(distances, places)
    return Scene(
        found.models,
        places,
        distances,
        tree.build(distances),
        "demo",
        report=report,
        ellipses=bootstrap.ellipses(found.matrix, places, report, 4, 0),
        domains=[DomainMap("prose", 40, 0.5, layout.plane_of(places))],
        replicates=4,
    )


def report_of(distances: Distances, places: Sequence[Place]) -> Report:
    """A report of a layout from which one model has gone since the one before."""
    divergence = quality.divergence_of(distances)
    assert divergence is not None
    points = layout.plane_of(places)
    moved = Movement(len(places), 0, 1, 0.012, 0.034, 0.056)
    return Report(
        distances.texts_sha256,
        places[0].method.partition("-")[0],
        "euclidean",
        30,
        42,
        250,
        "",
        "",
        quality.measure(divergence, points),
        moved,
        "",
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
    axes = rng.uniform(0.01, 0.2, (len(models), 2)) * points[:, :1].std()
    ellipses = [
        Ellipse(place.model, place.x, place.y, float(max(pair)), float(min(pair)), 30.0)
        for place, pair in zip(places, axes, strict=True)
    ]
    return Scene(
        models,
        places,
        distances,
        tree.build(distances),
        "demo",
        report=report_of(distances, places),
        ellipses=ellipses,
        domains=[DomainMap(models[0].family, 40, 0.5, layout.plane_of(places))],
        replicates=100,
    )
