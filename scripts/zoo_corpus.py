"""Write the texts the demo zoo learns from: real text of the installed Python environment."""

from __future__ import annotations

import argparse
from pathlib import Path

from klmap import log, zoo_texts


def main() -> None:
    """Read the arguments and write the corpus."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    arguments = parser.parse_args()
    zoo_texts.write_corpus(arguments.out)


if __name__ == "__main__":
    log.run(main)
