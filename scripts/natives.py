"""Write down which model types the installed transformers loads, and as what kind of model."""

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
    from transformers.models.auto import modeling_auto

    parts = {
        "causal": dict(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES),
        "masked": dict(modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES),
        "seq2seq": dict(modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES),
    }
    files.write_json(arguments.table, {"transformers": version("transformers"), **parts})
    for name, part in parts.items():
        log.logger.info("%s: %d model types are %s", arguments.table, len(part), name)


if __name__ == "__main__":
    log.run(main)
