"""Train the demo zoo's two tokenizers: byte-level BPE, and SentencePiece-like Unigram."""

from __future__ import annotations

import argparse
from pathlib import Path

from klmap import log, zoo_texts


def main() -> None:
    """Read the arguments and write the tokenizers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True, help="folder of the training texts")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    arguments = parser.parse_args()
    zoo_texts.write_tokenizers(arguments.corpus, arguments.out)


if __name__ == "__main__":
    log.run(main)
