"""How near to its target a model comes that is trained under the mixture that was found."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from klmap import figure_mixture_check, log, mixture
from klmap import scorer_mixture as check
from klmap.gathered import gathered


def main() -> None:
    """Read the arguments, score the trained models, write the table and the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--matrix", type=Path, required=True, help="matrix.h5")
    parser.add_argument("--models", type=Path, required=True, help="models.tsv of the matrix")
    parser.add_argument("--offmap", type=Path, nargs="*", default=[], help="offmap.h5, if any")
    parser.add_argument("--offmap-models", type=Path, nargs="*", default=[], help="offmap.tsv")
    parser.add_argument("--texts", type=Path, required=True, help="texts.jsonl of the matrix")
    parser.add_argument("--manifest", type=Path, required=True, help="texts.json")
    parser.add_argument(
        "--plans", required=True, help="JSON of the plans that are checked, as for mixture"
    )
    parser.add_argument(
        "--trained", required=True,
        help='JSON: {"plan": {"found": folder, "uniform": folder}}, written by mixture_train',
    )  # fmt: skip
    parser.add_argument("--weights", type=Path, required=True, help="weights.tsv of mixture")
    parser.add_argument(
        "--spec", type=json.loads, required=True, help="settings of a base's score, as JSON"
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--folder", type=Path, required=True, help="folder to write to")
    args = parser.parse_args()
    off = next(iter(args.offmap), None), next(iter(args.offmap_models), None)
    scoring = check.Scoring(args.texts, args.manifest, args.spec, args.folder, args.threads)
    with gathered(args.matrix, args.models, *off) as scored:
        plans = mixture.read_plans(args.plans, scored)
        found = check.check(scored, plans, args.weights, check.read_models(args.trained), scoring)
    check.write(args.folder / "check.tsv", found)
    texts = len(scored.domain)
    figure_mixture_check.write(args.folder, found, texts, args.matrix.resolve().parent.name)


if __name__ == "__main__":
    log.run(main)
