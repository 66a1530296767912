"""Put the files that a model's card names into one folder: downloaded, or linked if local."""

from __future__ import annotations

import argparse
from pathlib import Path

from klmap import cards, hub, log


def main() -> None:
    """Fetch one model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--card", type=Path, required=True, help="the model's card.json")
    parser.add_argument("--folder", type=Path, help="local folder the card was made from")
    parser.add_argument("--weights", type=Path, required=True, help="folder to make")
    arguments = parser.parse_args()
    card = cards.read_card(arguments.card)
    hub.fetch(card, arguments.weights, arguments.folder)
    log.logger.info(
        "%s: %d files, %s bytes of weights", card.id, len(card.files), f"{card.bytes:,}"
    )


if __name__ == "__main__":
    log.run(main)
