"""Make a text set of some texts of another one, drawn and weighted by what its models say."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from pydantic import ValidationError

from klmap import log, selection
from klmap.config_texts import SelectionTexts
from klmap.errors import InputError


def main() -> None:
    """Read the arguments and draw, unless it was drawn before."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", required=True, help="the text set of config.yaml, as JSON")
    parser.add_argument("--reference-matrix", type=Path, required=True, help="its matrix.h5")
    parser.add_argument("--reference-texts", type=Path, required=True, help="its texts.jsonl")
    parser.add_argument("--reference-manifest", type=Path, required=True, help="its texts.json")
    parser.add_argument("--path", type=Path, nargs="?", help="a selection.h5 that was drawn before")
    parser.add_argument("--texts", type=Path, required=True, help="texts.jsonl to write")
    parser.add_argument("--manifest", type=Path, required=True, help="texts.json to write")
    parser.add_argument("--selection", type=Path, required=True, help="selection.h5 to write")
    arguments = parser.parse_args()
    try:
        keys = json.loads(arguments.recipe)
        if isinstance(keys.get("of"), dict):
            # The workflow says what the reference is made of; here it is a folder.
            keys["of"] = arguments.reference_manifest.parent.name
        recipe = SelectionTexts.model_validate(keys)
    except (ValidationError, AttributeError, json.JSONDecodeError) as error:
        raise InputError(f"--recipe: not a selection of config.yaml: {error}") from None
    reference = selection.Reference(
        arguments.reference_matrix, arguments.reference_texts, arguments.reference_manifest
    )
    made = selection.Made(arguments.texts, arguments.manifest, arguments.selection)
    selection.build(recipe, arguments.texts.parent.name, reference, made, arguments.path)


if __name__ == "__main__":
    log.run(main)
