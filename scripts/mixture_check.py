"""How near to its target a model came that was trained under the mixture that was found."""

from __future__ import annotations

import argparse
from pathlib import Path

from klmap import figure_mixture_check, log, mixture, mixture_check
from klmap.gathered import gathered


def main() -> None:
    """Read the arguments, compare the trained models, write the table and the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--matrix", type=Path, required=True, help="matrix.h5")
    parser.add_argument("--models", type=Path, required=True, help="models.tsv of the matrix")
    parser.add_argument("--offmap", type=Path, nargs="*", default=[], help="offmap.h5, if any")
    parser.add_argument("--offmap-models", type=Path, nargs="*", default=[], help="offmap.tsv")
    parser.add_argument(
        "--plans", required=True, help="JSON of the plans that are checked, as for mixture"
    )
    parser.add_argument(
        "--trained", required=True,
        help='JSON: {"plan": {"found": folder, "uniform": folder}}, written by mixture_train',
    )  # fmt: skip
    parser.add_argument("--weights", type=Path, required=True, help="weights.tsv of mixture")
    parser.add_argument("--folder", type=Path, required=True, help="folder to write to")
    args = parser.parse_args()
    off = next(iter(args.offmap), None), next(iter(args.offmap_models), None)
    with gathered(args.matrix, args.models, *off) as scored:
        plans = mixture.read_plans(args.plans, scored)
        trained = mixture_check.read_trained(args.trained)
        found = mixture_check.check(scored, plans, args.weights, trained)
    mixture_check.write(args.folder / "check.tsv", found)
    texts = len(scored.domain)
    figure_mixture_check.write(args.folder, found, texts, args.matrix.resolve().parent.name)


if __name__ == "__main__":
    log.run(main)
