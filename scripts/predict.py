"""Predict benchmark scores of models from where they are on the map."""

from __future__ import annotations

import argparse
from pathlib import Path

from klmap import (
    benchmarks,
    figure_prediction,
    kernels,
    log,
    models_table,
    prediction,
    split,
    store,
)
from klmap import prediction_files as tables


def main() -> None:
    """Read the arguments and the tables, predict, write tables and figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--matrix", type=Path, required=True, help="matrix.h5")
    parser.add_argument("--models", type=Path, required=True, help="models.tsv")
    parser.add_argument(
        "--benchmarks",
        type=Path,
        nargs="+",
        required=True,
        help="tables of scores: a column model, and one for each task",
    )
    parser.add_argument(
        "--tasks", nargs="*", default=[], help="columns to predict; by default all of them"
    )
    parser.add_argument(
        "--features",
        nargs="+",
        choices=kernels.FEATURES,
        default=list(kernels.FEATURES),
        help="what to predict from: coordinates, log-likelihoods; models from the first",
    )
    parser.add_argument("--folds", type=int, default=5, help="parts that take turns as test set")
    parser.add_argument("--seeds", type=int, default=5, help="how often the folds are drawn")
    parser.add_argument(
        "--curve", choices=["true", "false"], default="true", help="whether to try fewer models"
    )
    parser.add_argument("--texts", help="the text set's name; by default the folder of matrix.h5")
    parser.add_argument("--folder", type=Path, required=True, help="folder to write to")
    args = parser.parse_args()
    with store.open_matrix(args.matrix) as matrix:
        models = models_table.read_models(args.models, matrix.model)
        scores = benchmarks.read_benchmarks(args.benchmarks, models).of(args.tasks)
        settings = prediction.Settings(
            tuple(args.features), args.folds, args.seeds, args.curve == "true"
        )
        found = prediction.predict(matrix, models, scores, settings)
        name = args.texts or args.matrix.resolve().parent.name
        texts = split.in_words(len(matrix.domain), name, matrix.design)
    tables.write(args.folder, found)
    figure_prediction.draw(found, models, texts, args.folder)


if __name__ == "__main__":
    log.run(main)
