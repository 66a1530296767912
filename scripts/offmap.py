"""Join the scores of the models that are kept off the map, clipped as those on it."""

from __future__ import annotations

import argparse
from pathlib import Path

from klmap import collect, log, models_table, store
from klmap.store_score import VECTORS


def main() -> None:
    """Read the arguments, join the scores, write the tables beside the matrix."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--index", type=Path, required=True, help="table of the models to join")
    parser.add_argument("--clip-from", type=Path, required=True, help="matrix.h5 of the map")
    parser.add_argument("--scores", type=Path, required=True, help="folder of the score files")
    parser.add_argument("--cards", type=Path, required=True, help="folder of <source>/card.json")
    parser.add_argument("--texts", type=Path, required=True, help="texts.jsonl")
    parser.add_argument("--manifest", type=Path, required=True, help="texts.json")
    parser.add_argument("--selection", type=Path, nargs="?", help="selection.h5 of the texts")
    rows = "what the rows are; pmi: what responses gain by their prompts"
    parser.add_argument("--vector", choices=VECTORS, default=VECTORS[0], help=rows)
    parser.add_argument("--mixed-likelihoods", action="store_true", help="join different kinds")
    parser.add_argument(
        "--on-failure", choices=["stop", "skip"], default="stop", help="what to do without a score"
    )
    parser.add_argument("--offmap", type=Path, required=True, help="offmap.h5 to write")
    parser.add_argument("--models", type=Path, required=True, help="offmap.tsv to write")
    parser.add_argument("--failures", type=Path, required=True, help="table of failures to write")
    args = parser.parse_args()
    with store.open_matrix(args.clip_from) as matrix:
        threshold = matrix.clip_threshold
    collection = collect.collect(
        args.index,
        args.scores,
        args.cards,
        args.texts,
        args.manifest,
        args.offmap,
        skip_failures=args.on_failure == "skip",
        threshold=threshold,
        selection=args.selection,
        may_be_empty=True,
        vector=args.vector,
        mixed_likelihoods=args.mixed_likelihoods,
    )
    models_table.write_models(args.models, collection.models)
    models_table.write_failures(args.failures, collection.failures)


if __name__ == "__main__":
    log.run(main)
