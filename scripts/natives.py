"""Write down which model types the installed transformers loads as causal language models."""

from __future__ import annotations

import argparse
from importlib.metadata import version
from pathlib import Path

from klmap import files, log


def main() -> None:
    """Ask transformers and write the table that ``klmap.natives`` reads."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--table",
        type=Path,
        default=Path(__file__).with_name("klmap") / "natives.json",
        help="file to write; the library's own without it",
    )
    arguments = parser.parse_args()
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    causal = dict(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    files.write_json(arguments.table, {"transformers": version("transformers"), "causal": causal})
    log.logger.info("%s: %d model types", arguments.table, len(causal))


if __name__ == "__main__":
    log.run(main)
