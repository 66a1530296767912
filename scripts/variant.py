"""Make the texts of a variant: the responses of a text set, with its prompts edited or as they are.

Without edits the texts are a copy, for what prompts add to the responses (PMI).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from klmap import log, variants
from klmap.config_prompts import Edit
from klmap.errors import InputError


def main() -> None:
    """Read the arguments and edit the prompts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=Path, required=True, help="texts.jsonl to start from")
    parser.add_argument("--manifest", type=Path, required=True, help="texts.json beside it")
    parser.add_argument("--edits", required=True, help="single edits in order, as a JSON list")
    parser.add_argument("--recipe", required=True, help="recipe of the variant, as JSON")
    parser.add_argument("--out-texts", type=Path, required=True, help="texts.jsonl to write")
    parser.add_argument("--out-manifest", type=Path, required=True, help="texts.json to write")
    arguments = parser.parse_args()
    try:
        edits = TypeAdapter(list[Edit]).validate_json(arguments.edits)
        recipe = TypeAdapter(dict[str, object]).validate_python(json.loads(arguments.recipe))
    except (ValidationError, json.JSONDecodeError) as error:
        raise InputError(f"--edits, --recipe: not as config.yaml gives them: {error}") from None
    if any(edit.of is not None for edit in edits):
        raise InputError("--edits: an edit with of: is given as the edits that it consists of")
    made = (arguments.out_texts, arguments.out_manifest)
    variants.build(arguments.texts, arguments.manifest, edits, recipe, made)


if __name__ == "__main__":
    log.run(main)
