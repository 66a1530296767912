"""Train a base of the demo on under the mixture that was found or a uniform one, and score it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from klmap import log


def main() -> None:
    """Read the arguments, train and score."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, required=True, help="weights.tsv of mixture")
    parser.add_argument("--plan", required=True, help="name of the plan")
    parser.add_argument("--kind", choices=("found", "uniform"), required=True, help="which weights")
    parser.add_argument("--base", type=Path, required=True, help="runs/<run>/<revision> of the zoo")
    parser.add_argument("--corpus", type=Path, required=True, help="folder of the training texts")
    parser.add_argument("--texts", type=Path, required=True, help="texts.jsonl")
    parser.add_argument("--manifest", type=Path, required=True, help="texts.json")
    parser.add_argument(
        "--spec", type=json.loads, required=True, help="settings of the base's score, as JSON"
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    args = parser.parse_args()
    from klmap import zoo_mixture

    zoo_mixture.train_and_score(
        args.weights, args.plan, args.kind, args.base, args.corpus, args.texts, args.manifest,
        args.spec, args.out, args.threads,
    )  # fmt: skip


if __name__ == "__main__":
    log.run(main)
