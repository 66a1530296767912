"""How long the published protocol of predicting benchmark scores takes, and scikit-learn's way.

Made-up log-likelihoods in realistic units, scores that are linear in the coordinates but for noise.
Every row runs in a process of its own, so that its peak memory is its own. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from bench_geometry import BYTES, collected, log_likelihoods
from sklearn.linear_model import RidgeCV

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from klmap import folds, kernels, prediction, ridge, store
from klmap.benchmarks import Benchmarks
from klmap.models_table import Model

TASKS = ["one", "two", "three", "four", "five", "six"]
TYPES = 40
ALL_FITS = 2 * 2 * 5 * 5
"""Outer training sets of the protocol: features, kinds of split, seeds, folds."""


def make(folder: Path, models: int, texts: int) -> None:
    """Write a matrix and the scores that belong to it."""
    matrix = collected(log_likelihoods(models, texts))
    rng = np.random.default_rng(1)
    q = matrix.coordinates
    along = q.T[:, rng.choice(models, 30, replace=False)].astype(np.float64)
    scores = (q @ along) @ rng.normal(size=(30, len(TASKS)))
    scores = 50 + 12 * scores / scores.std(axis=0) + rng.normal(0, 3, scores.shape)
    np.save(folder / "scores.npy", scores.clip(0, 100))
    store.write_matrix(folder / "matrix.h5", matrix)


def inputs(folder: Path, matrix: store.MatrixFile) -> tuple[list[Model], Benchmarks]:
    """What the protocol is given beside the matrix."""
    models = [
        Model(name, id=name, family=f"type-{row % TYPES}") for row, name in enumerate(matrix.model)
    ]
    return models, Benchmarks(TASKS, np.load(folder / "scores.npy"))


def protocol(folder: Path, settings: prediction.Settings) -> tuple[float, str]:
    start = time.perf_counter()
    with store.open_matrix(folder / "matrix.h5") as matrix:
        found = prediction.predict(matrix, *inputs(folder, matrix), settings)
    seconds = time.perf_counter() - start
    return seconds, f"{len(found.accuracy)} rows of accuracy"


def published(folder: Path) -> tuple[float, str]:
    return protocol(folder, prediction.Settings(curve=False))


def with_curve(folder: Path) -> tuple[float, str]:
    return protocol(folder, prediction.Settings(("Q",)))


def peer(folder: Path) -> tuple[float, str]:
    """One target and one outer training set, and how far klmap's predictions are from these."""
    with store.open_matrix(folder / "matrix.h5") as matrix:
        models, scores = inputs(folder, matrix)
        everyone = np.arange(len(models))
        test = folds.draw([model.family for model in models], 5, 1)["type"][0][0]
        train = np.setdiff1d(everyone, test)
        kernel = kernels.read(matrix, "Q", everyone).gram
        columns = matrix.coordinates(0, len(models)).astype(np.float64)
    fit = ridge.fit(kernel, train, scores.values[:, :1], np.array([folds.ALPHAS]))
    own = fit.predict(kernel[np.ix_(test, train)])[:, 0]
    start = time.perf_counter()
    other = RidgeCV(alphas=folds.ALPHAS, cv=5).fit(columns[train], scores.values[train, 0])
    predicted = other.predict(columns[test])
    seconds = time.perf_counter() - start
    return seconds, f"klmap's predictions differ by {np.abs(predicted - own).max():.0e} at most"


STEPS: dict[str, Callable[[Path], tuple[float, str]]] = {
    "klmap: the protocol, 8 targets, Q and L": published,
    "klmap: the half with Q, and the learning curve": with_curve,
    "scikit-learn: `RidgeCV(cv=5)`, 1 target, 1 training set": peer,
}


def _measured(step: str, folder: Path) -> tuple[float, str, float]:
    seconds, words = STEPS[step](folder)
    return seconds, words, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=1000)
    parser.add_argument("--texts", type=int, default=10_000)
    args = parser.parse_args()
    targets = len(TASKS) + 2
    print(
        f"{args.models:,} models of {TYPES} types, {args.texts:,} texts of {BYTES:.0f} bytes; "
        f"{targets} targets: six tasks, their mean, and the mean log-likelihood. Load of the "
        f"machine when it began: {os.getloadavg()[0]:.1f}.\n"
    )
    print("| step | seconds | peak memory (GB) | |\n|---|---:|---:|---|")
    took = {}
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), args.models, args.texts)
        for step in STEPS:
            with context.Pool(1) as pool:
                seconds, words, memory = pool.apply(_measured, (step, Path(folder)))
            took[step] = seconds
            print(f"| {step} | {seconds:.1f} | {memory:.2f} | {words} |", flush=True)
    klmap, _, one = took.values()
    whole = one * targets * ALL_FITS
    print(
        f"\nAll {targets * ALL_FITS} regressions of the protocol that way would take "
        f"{whole / 3600:.1f} hours, extrapolated from the one: {whole / klmap:,.0f} times as long."
    )


if __name__ == "__main__":
    main()
