"""Which domains and texts carry the distance between two models, or two groups of models."""

from __future__ import annotations

import argparse
from pathlib import Path

from klmap import contrast, figure_contrast, groups, log, models_table, split, store, texts
from klmap.errors import InputError
from klmap.files import sha256_of


def main() -> None:
    """Read the arguments, compare the groups, write the tables and the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--matrix", type=Path, required=True, help="matrix.h5")
    parser.add_argument("--models", type=Path, required=True, help="models.tsv")
    parser.add_argument("--texts", type=Path, required=True, help="texts.jsonl of the matrix")
    parser.add_argument(
        "--comparisons", required=True,
        help="JSON: a name, and under it first and second, lists of names, ids or family:NAME; "
        "second is null for the pairs within first",
    )  # fmt: skip
    parser.add_argument(
        "--ends", type=int, default=20, help="texts that the table shows of each comparison"
    )
    parser.add_argument("--folder", type=Path, required=True, help="folder to write to")
    args = parser.parse_args()
    with store.open_matrix(args.matrix) as matrix:
        models = models_table.read_models(args.models, matrix.model)
        if sha256_of(args.texts) != matrix.texts_sha256:
            raise InputError(
                f"{args.texts}: not the texts of {args.matrix}, whose sha256 is "
                f"{matrix.texts_sha256[:12]}...; remove the matrix and run again"
            )
        found = contrast.measure(matrix, groups.find(args.comparisons, models))
        domains = split.domains_of(matrix.domain, most=len(matrix.domain))
    contrast.write_comparisons(args.folder / "comparisons.tsv", found)
    contrast.write_domains(args.folder / "domains.tsv", found, domains)
    contrast.write_texts(args.folder / "texts.tsv", found, texts.read_texts(args.texts), args.ends)
    figure_contrast.write(args.folder, found, domains, args.matrix.resolve().parent.name)


if __name__ == "__main__":
    log.run(main)
