"""Train a base of the demo on under the mixture that was found for a plan, or a uniform one."""

from __future__ import annotations

import argparse
from pathlib import Path

from klmap import log


def main() -> None:
    """Read the arguments and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, required=True, help="weights.tsv of mixture")
    parser.add_argument("--plan", required=True, help="name of the plan")
    parser.add_argument("--kind", choices=("found", "uniform"), required=True, help="which weights")
    parser.add_argument("--base", type=Path, required=True, help="runs/<run>/<revision> of the zoo")
    parser.add_argument("--corpus", type=Path, required=True, help="folder of the training texts")
    parser.add_argument("--out", type=Path, required=True, help="folder of the model to write")
    args = parser.parse_args()
    from klmap import zoo_mixture

    zoo_mixture.train(args.weights, args.plan, args.kind, args.base, args.corpus, args.out)


if __name__ == "__main__":
    log.run(main)
