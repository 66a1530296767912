"""Import a release: log-likelihoods that others have computed become score files of a text set."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from pydantic import ValidationError

from klmap import log, published
from klmap.config_published import Published
from klmap.errors import InputError


def main() -> None:
    """Read the arguments and import."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True, help="the release's name in config.yaml")
    parser.add_argument("--recipe", required=True, help="its entry in config.yaml, as JSON")
    parser.add_argument(
        "--spec", required=True, help='what decides the texts, as JSON: {"texts": {...}}'
    )
    parser.add_argument("--texts", type=Path, required=True, help="texts.jsonl")
    parser.add_argument("--manifest", type=Path, required=True, help="texts.json")
    parser.add_argument("--scores", type=Path, required=True, help="folder of the score files")
    parser.add_argument("--downloads", type=Path, required=True, help="folder of fetched files")
    parser.add_argument("--index", type=Path, required=True, help="index.tsv to write")
    parser.add_argument("--benchmarks", type=Path, required=True, help="benchmarks.tsv to write")
    parser.add_argument("--report", type=Path, required=True, help="report.json to write")
    arguments = parser.parse_args()
    try:
        recipe = Published.model_validate(json.loads(arguments.recipe))
        texts = json.loads(arguments.spec)["texts"]
    except (ValidationError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"--recipe or --spec: not what config.yaml gives: {error}") from None
    places = published.Places(
        arguments.texts,
        arguments.manifest,
        arguments.scores,
        arguments.downloads,
        arguments.index,
        arguments.benchmarks,
        arguments.report,
    )
    published.import_release(arguments.name, recipe, texts, places)


if __name__ == "__main__":
    log.run(main)
