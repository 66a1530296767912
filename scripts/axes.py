"""Find the principal axes of a map, and which texts and benchmark scores go with them."""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl

from klmap import (
    axes,
    benchmarks,
    code_lengths,
    figure_axes,
    log,
    models_table,
    store,
    style,
    texts,
)
from klmap.errors import InputError
from klmap.files import sha256_of


def main() -> None:
    """Read the arguments and the tables, find the axes, write tables and figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--matrix", type=Path, required=True, help="matrix.h5")
    parser.add_argument("--models", type=Path, required=True, help="models.tsv")
    parser.add_argument("--texts", type=Path, required=True, help="texts.jsonl")
    parser.add_argument("--benchmarks", type=Path, nargs="*", default=[], help="tables of scores")
    parser.add_argument("--components", type=int, default=10, help="axes to describe")
    parser.add_argument("--ends", type=int, default=10, help="texts at each end of an axis")
    parser.add_argument("--folder", type=Path, required=True, help="to write to")
    args = parser.parse_args()
    with store.open_matrix(args.matrix) as matrix:
        if sha256_of(args.texts) != matrix.texts_sha256:
            raise InputError(
                f"{args.texts}: not the texts of {args.matrix}, whose sha256 is "
                f"{matrix.texts_sha256[:12]}...; remove the matrix and run again"
            )
        models = models_table.read_models(args.models, matrix.model)
        scores = benchmarks.read_benchmarks(args.benchmarks, models)
        found = axes.find(matrix, args.components)
        domains = code_lengths.told_apart(matrix.domain)
        correlations = axes.correlate(matrix, models, found, scores)
    described = texts.read_texts(args.texts)
    axes.write(args.folder, found, models, domains, described, args.ends)
    axes.write_correlations(args.folder / "correlations.tsv", correlations)
    name = args.texts.resolve().parent.name
    drawn = figure_axes.Described(found, models, domains, described, name)
    with mpl.rc_context(style.RC):
        style.save(figure_axes.draw_variance(drawn), args.folder, "variance")
        style.save(figure_axes.draw_axes(drawn), args.folder, "axes")
        figure = figure_axes.draw_correlations(drawn, correlations)
        style.save(figure, args.folder, "correlations")


if __name__ == "__main__":
    log.run(main)
