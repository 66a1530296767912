"""How long the cheap half of a map takes: matrix, KL with standard errors, neighbours, t-SNE.

Made-up log-likelihoods in realistic units (40 shared directions and noise of each model's own).
Every row runs in a process of its own, so that its peak memory is its own. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from klmap import geometry, layout, neighbors, tree
from klmap.arrays import Floats
from klmap.models_table import Model
from klmap.store import Matrix

BYTES = 972.3188


def log_likelihoods(models: int, texts: int) -> Floats:
    """(K, N) nats: median KL of about 2 bits/byte, as between published models."""
    rng = np.random.default_rng(0)
    unit = np.sqrt(2 * BYTES * np.log(2))
    loglik = rng.normal(0, 0.3 * unit, (models, texts))
    loglik += (rng.normal(size=(models, 40)) * np.geomspace(0.8, 0.05, 40) * 0.55 * unit) @ (
        rng.normal(size=(40, texts))
    )
    loglik -= rng.uniform(250, 1024, texts) * 0.65
    return loglik


def collected(loglik: Floats) -> Matrix:
    """What the rule ``matrix`` computes."""
    threshold = geometry.clip_threshold(loglik)
    return Matrix(
        loglik,
        geometry.double_centre(loglik, threshold).astype(np.float32),
        [f"org--model-{row:05d}" for row in range(len(loglik))],
        ["all"] * loglik.shape[1],
        np.full(loglik.shape[1], 972, np.int32),
        geometry.CLIP_QUANTILE,
        threshold,
        BYTES,
        "0" * 64,
    )


def dense(matrix: Matrix) -> None:
    neighbors.measure(matrix, 10, len(matrix.model))


def sparse(matrix: Matrix) -> None:
    neighbors.measure(matrix, 10, 0)


def tsne(matrix: Matrix) -> None:
    layout.place(matrix, [Model(name) for name in matrix.model])


def linkage(matrix: Matrix) -> None:
    tree.newick(tree.build(neighbors.measure(matrix, 10, len(matrix.model))[0]))


STEPS: dict[str, Callable[[Matrix], None]] = {
    "matrix, KL, standard errors, neighbours": dense,
    "matrix, neighbours among components": sparse,
    "matrix, t-SNE, 1,000 iterations": tsne,
    "matrix, KL, tree": linkage,
}


def _timed(step: str, models: int, texts: int) -> tuple[float, float]:
    loglik = log_likelihoods(models, texts)
    start = time.perf_counter()
    STEPS[step](collected(loglik))
    seconds = time.perf_counter() - start
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=1018)
    parser.add_argument("--texts", type=int, default=10_000)
    args = parser.parse_args()
    print(f"{args.models:,} models, {args.texts:,} texts\n")
    print("| step | seconds | peak memory (GB) |\n|---|---:|---:|")
    context = multiprocessing.get_context("spawn")
    for step in STEPS:
        with context.Pool(1) as pool:
            seconds, memory = pool.apply(_timed, (step, args.models, args.texts))
        print(f"| {step} | {seconds:.1f} | {memory:.2f} |", flush=True)


if __name__ == "__main__":
    main()
