"""Train one run of the demo zoo, or merge two, and write all its revisions."""

from __future__ import annotations

import argparse
from pathlib import Path

from klmap import log
from klmap.zoo_runs import RUNS


def main() -> None:
    """Read the arguments and build the run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", required=True, choices=list(RUNS), help="which run")
    parser.add_argument("--corpus", type=Path, required=True, help="folder of the training texts")
    parser.add_argument("--tokenizers", type=Path, required=True, help="folder of the tokenizers")
    parser.add_argument(
        "--parents", type=Path, nargs="*", default=[], help="folders of the parents' runs"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the run to write")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="share of the full steps and width, for tests"
    )
    arguments = parser.parse_args()
    from klmap import zoo

    zoo.build(
        RUNS[arguments.run],
        arguments.corpus,
        arguments.tokenizers,
        arguments.parents,
        arguments.out,
        zoo.Scale(arguments.scale),
    )


if __name__ == "__main__":
    log.run(main)
