"""Join the score files of a text set into one matrix, with a table of models and of failures."""

from __future__ import annotations

import argparse
from pathlib import Path

from klmap import collect, log


def main() -> None:
    """Read the arguments, join the scores, write the tables beside the matrix."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--index", type=Path, required=True, help="table of the models to join")
    parser.add_argument("--scores", type=Path, required=True, help="folder of the score files")
    parser.add_argument("--cards", type=Path, required=True, help="folder of <source>/card.json")
    parser.add_argument("--texts", type=Path, required=True, help="texts.jsonl")
    parser.add_argument("--manifest", type=Path, required=True, help="texts.json")
    parser.add_argument(
        "--on-failure", choices=["stop", "skip"], default="stop", help="what to do without a score"
    )
    parser.add_argument(
        "--clip-threshold", type=float, help="nats; reuse the threshold of an existing map"
    )
    parser.add_argument("--matrix", type=Path, required=True, help="matrix.h5 to write")
    parser.add_argument("--models", type=Path, required=True, help="models.tsv to write")
    parser.add_argument("--failures", type=Path, required=True, help="failures.tsv to write")
    args = parser.parse_args()
    collection = collect.collect(
        args.index,
        args.scores,
        args.cards,
        args.texts,
        args.manifest,
        args.matrix,
        skip_failures=args.on_failure == "skip",
        threshold=args.clip_threshold,
    )
    collect.write_models(args.models, collection.models)
    collect.write_failures(args.failures, collection.failures)


if __name__ == "__main__":
    log.run(main)
