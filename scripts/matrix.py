"""Join the score files of a text set into one matrix, with a table of models and of failures."""

from __future__ import annotations

import argparse
from pathlib import Path

from klmap import collect, conventions, log, models_table, releases, store
from klmap.store_score import VECTORS


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
    clip = parser.add_mutually_exclusive_group()
    clip.add_argument(
        "--clip-threshold", type=float, help="nats; reuse the threshold of an existing map"
    )
    clip.add_argument("--clip-from", type=Path, help="report.json or matrix.h5 that has it")
    parser.add_argument("--selection", type=Path, nargs="?", help="selection.h5 of the texts")
    allow = "in what scores may differ from those that others have computed"
    parser.add_argument("--allow", choices=conventions.KEYS, nargs="*", default=[], help=allow)
    rows = "what the rows are; pmi: what responses gain by their prompts"
    parser.add_argument("--vector", choices=VECTORS, default=VECTORS[0], help=rows)
    parser.add_argument("--mixed-likelihoods", action="store_true", help="join different kinds")
    parser.add_argument("--differences", type=Path, nargs="?", help="conventions.tsv to write")
    parser.add_argument("--matrix", type=Path, required=True, help="matrix.h5 to write")
    parser.add_argument("--models", type=Path, required=True, help="models.tsv to write")
    parser.add_argument("--failures", type=Path, required=True, help="failures.tsv to write")
    args = parser.parse_args()
    threshold = _threshold(args.clip_from) if args.clip_from else args.clip_threshold
    collection = collect.collect(
        args.index,
        args.scores,
        args.cards,
        args.texts,
        args.manifest,
        args.matrix,
        skip_failures=args.on_failure == "skip",
        threshold=threshold,
        allowed=args.allow,
        selection=args.selection,
        vector=args.vector,
        mixed_likelihoods=args.mixed_likelihoods,
    )
    if args.differences is not None:
        conventions.write_differences(args.differences, collection.differences)
    models_table.write_models(args.models, collection.models)
    models_table.write_failures(args.failures, collection.failures)


def _threshold(path: Path) -> float:
    """The clip threshold that a release or a reference has, nats."""
    if path.suffix != ".h5":
        return releases.clip_threshold(path)
    with store.open_matrix(path) as reference:
        return reference.clip_threshold


if __name__ == "__main__":
    log.run(main)
