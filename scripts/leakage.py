"""Find models that know the texts better than their benchmark scores tell."""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl

from klmap import benchmarks, figure_leakage, leakage, log, models_table, split, store, style


def main() -> None:
    """Read the arguments and the tables, compare, write tables and figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--matrix", type=Path, required=True, help="matrix.h5")
    parser.add_argument("--models", type=Path, required=True, help="models.tsv")
    parser.add_argument(
        "--benchmarks", type=Path, nargs="+", required=True, help="tables of scores"
    )
    parser.add_argument(
        "--tasks", nargs="*", default=[], help="whose mean is taken; by default a mean, or all"
    )
    parser.add_argument("--texts", help="the text set's name; by default the folder of matrix.h5")
    parser.add_argument("--folder", type=Path, required=True, help="to write to")
    args = parser.parse_args()
    with store.open_matrix(args.matrix) as matrix:
        models = models_table.read_models(args.models, matrix.model)
        scores = benchmarks.read_benchmarks(args.benchmarks, models)
        found = leakage.find(matrix, models, scores, args.tasks)
        name = args.texts or args.matrix.resolve().parent.name
        texts = split.in_words(len(matrix.domain), name, matrix.design)
    leakage.write(args.folder, found, models)
    with mpl.rc_context(style.RC):
        style.save(figure_leakage.draw(found, models, texts), args.folder, "leakage")


if __name__ == "__main__":
    log.run(main)
