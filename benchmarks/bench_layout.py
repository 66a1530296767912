"""Layouts that stay: how far old models move when others are added, and what that costs.

Made-up log-likelihoods of many families (`scale_data.py`), clipped anew with every addition, as in
the workflow. Each method makes a layout of the old models, and then one of all: continued from the
first, as klmap does, and afresh, turned onto the first as well as it goes. The peers are the plain
libraries, which know of no layout before. Prints Markdown tables.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from scale_data import Universe
from threadpoolctl import threadpool_limits

from klmap import alignment, embedding, geometry, layout, placement, quality
from klmap.arrays import Floats
from klmap.embedding import Settings
from klmap.placement import Cloud, Layout

TEXTS_SHA256 = "0" * 64
PERPLEXITY, SEED = 30, 42
METHODS = (
    Settings("tsne"),
    Settings("tsne", metric="sqeuclidean"),
    Settings("opentsne"),
    Settings("umap"),
    Settings("pca"),
)
HEAD = """\
| layout | seconds | neighbours kept | trustworthiness | moved: median | 95 % | largest |
|---|---:|---:|---:|---:|---:|---:|"""

Rows = npt.NDArray[np.intp]


class Models:
    """Models with their log-likelihoods, any of which make a map."""

    def __init__(self, count: int, texts: int) -> None:
        universe = Universe(texts)
        self.mean_bytes = float(universe.lengths.mean())
        self.loglik = np.stack([universe.loglik(row) for row in range(count)])
        self.points: dict[bytes, Floats] = {}

    def cloud(self, rows: Rows) -> Cloud:
        key = rows.tobytes()
        if key not in self.points:
            loglik = self.loglik[rows]
            threshold = geometry.clip_threshold(loglik)
            self.points[key] = layout.points_of(loglik, threshold, self.mean_bytes)
        names = [f"org--model-{row:05d}" for row in rows]
        return Cloud(names, self.points[key], np.arange(len(rows)), TEXTS_SHA256, key.hex())


def truth_of(points: Floats) -> quality.Divergence:
    """KL of all pairs."""
    norm = np.einsum("kr,kr->k", points, points)
    kl = np.maximum(norm[:, None] + norm - 2 * points @ points.T, 0)
    return lambda rows: kl[rows]


def then(made: Layout, cloud: Cloud, settings: Settings) -> placement.Previous:
    """What the next job finds of a layout."""
    with tempfile.TemporaryDirectory() as folder:
        table, report = Path(folder, "layout.tsv"), Path(folder, "layout.json")
        nothing = quality.Quality(0, 1.0, 1.0, 0, 0)
        placement.write(made, cloud, settings, nothing, table, report)
        found = placement.previous(table, report)
    assert isinstance(found, placement.Previous)
    return found


def scikit_learn(points: Floats) -> Floats:
    from sklearn.manifold import TSNE

    method = TSNE(perplexity=PERPLEXITY, init="pca", random_state=SEED, n_jobs=1)
    return np.asarray(method.fit_transform(points), np.float64)


def open_tsne(points: Floats) -> Floats:
    from openTSNE import TSNE

    return np.array(TSNE(perplexity=PERPLEXITY, random_state=SEED, n_jobs=1).fit(points))


def umap_learn(points: Floats) -> Floats:
    from umap import UMAP

    method = UMAP(n_neighbors=PERPLEXITY, random_state=SEED, n_jobs=1)
    return np.asarray(method.fit_transform(points), np.float64)


PEERS: dict[str, Callable[[Floats], Floats]] = {
    "scikit-learn's `TSNE`": scikit_learn,
    "openTSNE's `TSNE`": open_tsne,
    "umap-learn's `UMAP`": umap_learn,
}


def line(name: str, seconds: float, cloud: Cloud, plane: Floats, rows: Rows, goal: Floats) -> str:
    """One line of a table; ``rows`` of the plane were at ``goal`` before."""
    found = quality.measure(truth_of(cloud.points), plane)
    moved = alignment.movement(plane, rows, goal, gone=0)
    return (
        f"| {name} | {seconds:.1f} | {100 * found.preserved:.1f} % | {found.trustworthiness:.3f} "
        f"| {100 * moved.median:.1f} % | {100 * moved.p95:.1f} % | {100 * moved.largest:.1f} % |"
    )


def added(models: Models, everyone: Rows, old: Rows) -> None:
    """Print the table of one addition."""
    print(HEAD)
    first, after = models.cloud(old), models.cloud(everyone)
    rows = np.searchsorted(everyone, old)
    for settings in METHODS:
        label = settings.label(len(old))
        before = placement.make(first, settings, placement.FIRST)
        goal = layout.plane_of(before.places)
        previous = then(before, first, settings)
        for name, start in (("continued", previous), ("afresh", placement.ASKED_FOR)):
            begin = time.perf_counter()
            made = placement.make(after, settings, start)
            seconds = time.perf_counter() - begin
            plane = layout.plane_of(made.places)
            if name == "afresh":
                plane = alignment.onto(plane, rows, goal, settings.method != "pca")
            print(line(f"{label}, {name}", seconds, after, plane, rows, goal), flush=True)
    for name, peer in PEERS.items():
        goal = peer(first.points)
        begin = time.perf_counter()
        plane = peer(after.points)
        seconds = time.perf_counter() - begin
        plane = alignment.onto(plane, rows, goal, True)
        print(line(f"{name}, afresh", seconds, after, plane, rows, goal), flush=True)


def grown(models: Models, everyone: Rows, steps: int) -> str:
    """What becomes of a map to which one model after another is added."""
    settings = METHODS[0]
    now = models.cloud(everyone[:-steps])
    made = placement.make(now, settings, placement.FIRST)
    first = layout.plane_of(made.places)
    for count in range(len(everyone) - steps + 1, len(everyone) + 1):
        previous, now = then(made, now, settings), models.cloud(everyone[:count])
        made = placement.make(now, settings, previous)
    truth = truth_of(now.points)
    last = layout.plane_of(made.places)
    fresh = placement.make(now, settings, placement.ASKED_FOR)
    ours, theirs = (
        100 * quality.measure(truth, layout.plane_of(found.places)).preserved
        for found in (made, fresh)
    )
    moved = alignment.movement(last, np.arange(len(first)), first, 0)
    return (
        f"{steps} models added one at a time, {settings.label(len(everyone))}: {ours:.1f} % of "
        f"neighbours kept, {theirs:.1f} % by a fresh layout; the others moved by a median of "
        f"{100 * moved.median:.1f} % of the map's width in all {steps} steps together."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=1018, help="how many there are at first")
    parser.add_argument("--texts", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=20, help="models added one at a time")
    args = parser.parse_args()
    new = round(args.models * 0.05)
    models = Models(args.models + new, args.texts)
    everyone = np.arange(args.models + new)
    with threadpool_limits(1):
        # What is compiled when it is first used is no part of a layout's time.
        embedding.fresh(models.cloud(everyone[:50]).points, Settings("umap"))
        print(f"\n{args.models:,} models, and {new} more from among their families:\n")
        chosen = np.random.default_rng(0).permutation(len(everyone))[: args.models]
        added(models, everyone, np.sort(chosen))
        print(f"\nThe same, the {new} new ones being families of their own:\n")
        added(models, everyone, everyone[: args.models])
        print(f"\n{grown(models, everyone, args.steps)}")


if __name__ == "__main__":
    main()
