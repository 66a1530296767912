"""Ask again about every model that has a card; rewrite the cards of those that have moved."""

from __future__ import annotations

import argparse
from pathlib import Path

from klmap import log, refresh


def main() -> None:
    """Refresh the cards of the configured models."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--index",
        type=Path,
        required=True,
        help="table with the columns source, id, revision, folder (empty for the Hub) and, where "
        "a model opted in, or is not causal, remote_code and likelihood",
    )
    parser.add_argument("--cards", type=Path, required=True, help="folder of <source>/card.json")
    arguments = parser.parse_args()
    refresh.refresh(refresh.read_index(arguments.index), arguments.cards)


if __name__ == "__main__":
    log.run(main)
