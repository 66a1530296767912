"""What a selection of texts takes, and how far its distances are from those by all texts.

Made-up log-likelihoods whose variance differs from text to text, as that of real ones does. Every
row runs in a process of its own, so that its peak memory is its own. Prints Markdown tables.
"""

from __future__ import annotations

import argparse
import json
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

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from klmap import files, geometry, resampling, selection, store, store_selection
from klmap.arrays import Floats
from klmap.blocks import ranges
from klmap.config_texts import SelectionTexts

DRAWS, UNIQUE = 10, 0.22
PEER_TEXTS = 20


def make(folder: Path, models: int, texts: int) -> None:
    """Write a reference: a matrix, its texts and their manifest."""
    rng = np.random.default_rng(2)
    loglik = log_likelihoods(models, texts)
    middle = loglik.mean(axis=0)
    matrix = collected(middle + (loglik - middle) * np.exp(rng.normal(0, 0.7, texts)))
    with (folder / "texts.jsonl").open("w") as file:
        for index in range(texts):
            text = {"index": index, "text": f"{index:0972d}", "domain": "all", "n_bytes": 972}
            file.write(json.dumps(text) + "\n")
    matrix.texts_sha256 = files.sha256_of(folder / "texts.jsonl")
    manifest = {"n": texts, "sha256": matrix.texts_sha256, "mean_bytes": BYTES, "recipe": {}}
    files.write_json(folder / "texts.json", manifest)
    store.write_matrix(folder / "matrix.h5", matrix)


def drawn(folder: Path, **keys: object) -> str:
    """A selection by the command's own function."""
    reference = selection.Reference(
        *(folder / n for n in ("matrix.h5", "texts.jsonl", "texts.json"))
    )
    to = folder / "chosen"
    to.mkdir(exist_ok=True)
    made = selection.Made(to / "texts.jsonl", to / "texts.json", to / "selection.h5")
    recipe = SelectionTexts(source="selection", of="reference", method="ls", **keys)
    selection.build(recipe, "chosen", reference, made)
    found = store_selection.read_selection(made.selection)
    return f"{len(found.index):,} different texts, n={found.n:,}"


def published(folder: Path) -> str:
    return drawn(folder, n=2900)


def automatic(folder: Path) -> str:
    return drawn(folder, error=0.05, replacement=False)


def by_polynomial(folder: Path) -> str:
    with store.open_matrix(folder / "matrix.h5") as matrix:
        parts = ranges(len(matrix.model), 8 * len(matrix.domain))
        blocks = (matrix.coordinates(begin, end) for begin, end in parts)
        found = resampling.moments(blocks, len(matrix.domain))
    resampling.probabilities(found, "kl")
    return "all texts"


def by_pairs(folder: Path) -> str:
    """The double sum as it is defined, text by text."""
    matrix = store.read_matrix(folder / "matrix.h5")
    for text in range(PEER_TEXTS):
        column = matrix.coordinates[:, text].astype(np.float64)
        ((column[:, None] - column) ** 4).sum()
    return f"{PEER_TEXTS} texts of {len(matrix.domain):,}"


def distances(folder: Path) -> str:
    matrix = store.read_matrix(folder / "matrix.h5")
    geometry.pairwise_kl(geometry.double_centre(matrix.loglik, matrix.clip_threshold), BYTES)
    return "all texts"


def fewer(folder: Path) -> str:
    published(folder)
    chosen = store_selection.read_selection(folder / "chosen" / "selection.h5")
    matrix = store.read_matrix(folder / "matrix.h5")
    some = np.ascontiguousarray(matrix.loglik[:, chosen.index])
    q = geometry.double_centre(some, matrix.clip_threshold, chosen.design)
    start = time.perf_counter()
    geometry.pairwise_kl(q, BYTES, chosen.design)
    return (
        f"{len(chosen.index):,} texts, of which the distances {time.perf_counter() - start:.1f} s"
    )


STEPS: dict[str, Callable[[Path], str]] = {
    "draw as published, LS, n=2,900": published,
    "choose n: 95 % of the KLs within 5 %, without replacement": automatic,
    "KL probabilities, klmap": by_polynomial,
    "KL probabilities, the double sum over pairs": by_pairs,
    "KL of all pairs with standard errors, by all texts": distances,
    "the same by the selection, and drawing it": fewer,
}


def _measured(step: str, folder: Path) -> tuple[float, str, float]:
    start = time.perf_counter()
    words = STEPS[step](folder)
    seconds = time.perf_counter() - start
    return seconds, words, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def errors(folder: Path) -> None:
    """Print how far the distances by some texts are from those by all, at equal numbers."""
    matrix = store.read_matrix(folder / "matrix.h5")
    q = geometry.double_centre(matrix.loglik, matrix.clip_threshold)
    unique = round(UNIQUE * q.shape[1])
    exact = resampling.squared_distances(q @ q.T)
    upper = np.triu_indices(len(q), 1)
    moments = resampling.moments([q], q.shape[1])
    order = np.argsort(np.linalg.svd(q - q.mean(axis=0), full_matrices=False)[2][0])
    print("| texts chosen | n | texts | error of all distances | 95 % of the KLs within |")
    print("|---|---:|---:|---:|---:|")
    for replacement in (True, False):
        for method in resampling.METHODS:
            probability = resampling.probabilities(moments, method)
            n = resampling.draws_for(probability, unique) if replacement else unique
            found = []
            for seed in range(DRAWS):
                chosen = resampling.draw(probability, n, replacement, order, seed)
                some = resampling.squared_distances(resampling.gram(q, chosen))
                off: Floats = np.abs(some[upper] / exact[upper] - 1)
                error = resampling.absolute_error(some, exact)
                found.append((len(chosen.index), error, np.quantile(off, 0.95)))
            texts, error, off95 = np.mean(found, axis=0)
            how = "with" if replacement else "without"
            print(
                f"| {method}, {how} replacement | {n:,} | {texts:,.0f} | {100 * error:.1f} % | "
                f"{100 * off95:.1f} % |",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=1018)
    parser.add_argument("--texts", type=int, default=10_000)
    args = parser.parse_args()
    print(
        f"{args.models:,} models, {args.texts:,} texts of {BYTES:.0f} bytes. Load of the machine "
        f"when it began: {os.getloadavg()[0]:.1f}.\n"
    )
    print("| step | seconds | peak memory (GB) | |\n|---|---:|---:|---|")
    took = {}
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder, args.models, args.texts)
        for step in STEPS:
            with context.Pool(1) as pool:
                seconds, words, memory = pool.apply(_measured, (step, folder))
            took[step] = seconds
            print(f"| {step} | {seconds:.1f} | {memory:.2f} | {words} |", flush=True)
        polynomial, pairs = list(took.values())[2:4]
        times = pairs * args.texts / PEER_TEXTS / polynomial
        print(f"\nThe double sum over all texts would take {times:,.0f} times as long as klmap.\n")
        errors(folder)


if __name__ == "__main__":
    main()
