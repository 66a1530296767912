"""The scale of KL: how large it is between models, by how these are related."""

from __future__ import annotations

import argparse
from pathlib import Path

from klmap import figure_scale, log, relations, scale, style
from klmap.errors import InputError
from klmap.gathered import gathered


def main() -> None:
    """Read the arguments, find and measure the pairs, write the tables and the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--matrix", type=Path, required=True, help="matrix.h5")
    parser.add_argument("--models", type=Path, required=True, help="models.tsv of the matrix")
    parser.add_argument(
        "--offmap", type=Path, nargs="*", default=[], help="offmap.h5 where there is one"
    )
    parser.add_argument(
        "--offmap-models", type=Path, nargs="*", default=[], help="offmap.tsv where there is one"
    )
    parser.add_argument(
        "--early-until",
        default="auto",
        help="training steps up to which checkpoints are early; auto: half of each run",
    )
    parser.add_argument("--pairs", type=int, default=20_000, help="most pairs of each relation")
    parser.add_argument("--bootstrap", type=int, default=200, help="bootstrap samples of the texts")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--folder", type=Path, required=True, help="folder to write to")
    args = parser.parse_args()
    try:
        early_until = None if args.early_until == "auto" else float(args.early_until)
    except ValueError:
        raise InputError(
            f"--early-until {args.early_until}: neither a number of training steps nor auto"
        ) from None
    offmap, offmap_models = (next(iter(paths), None) for paths in (args.offmap, args.offmap_models))
    with gathered(args.matrix, args.models, offmap, offmap_models) as found:
        related = relations.find(found.models, found.on_map, early_until, args.pairs, args.seed)
        measured = scale.measure(found, related, args.bootstrap, args.seed)
        scale.write(args.folder, found, measured)
        name = args.matrix.resolve().parent.name
        subject = style.subject(len(found.models), len(found.domain), name)
        if found.design is not None:
            subject += f", which stand for {found.design.texts:,}"
    figure_scale.write(args.folder, measured, subject)


if __name__ == "__main__":
    log.run(main)
