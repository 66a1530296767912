"""Make a text set: the texts every model is scored on, and the manifest that vouches for them."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from klmap import log, texts
from klmap.config_texts import DrawnTexts
from klmap.errors import InputError


def main() -> None:
    """Read the arguments and build the set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", required=True, help="the text set of config.yaml, as JSON")
    parser.add_argument("--url", help="where the file of a url set is, unless its JSON says so")
    parser.add_argument("--texts", type=Path, required=True, help="texts.jsonl to write")
    parser.add_argument("--manifest", type=Path, required=True, help="texts.json to write")
    arguments = parser.parse_args()
    try:
        keys = json.loads(arguments.recipe)
        if arguments.url is not None:
            keys = {**keys, "url": arguments.url}
        recipe = TypeAdapter(DrawnTexts).validate_python(keys)
    except (ValidationError, TypeError, json.JSONDecodeError) as error:
        raise InputError(f"--recipe: not a text set of config.yaml: {error}") from None
    texts.build(recipe, arguments.texts, arguments.manifest)


if __name__ == "__main__":
    log.run(main)
