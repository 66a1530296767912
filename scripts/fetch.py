"""Put the files that a model's card names into one folder: linked if here, else downloaded."""

from __future__ import annotations

import argparse
from pathlib import Path

from klmap import cards, disk, fetch, log
from klmap.errors import PermanentFailure


def main() -> None:
    """Fetch one model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--card", type=Path, required=True, help="the model's card.json")
    parser.add_argument("--folder", type=Path, help="local folder the card was made from")
    parser.add_argument("--weights", type=Path, required=True, help="folder to make")
    parser.add_argument(
        "--mirrors",
        type=Path,
        nargs="*",
        default=[],
        help="caches and mirrors of the Hub besides one's own cache; what they hold is linked",
    )
    parser.add_argument(
        "--budget-gb",
        type=float,
        help="what all downloads beside this one may take together; this one waits for its turn",
    )
    parser.add_argument(
        "--place", type=int, default=0, help="whose turn it is: the smallest number first"
    )
    parser.add_argument(
        "--stall",
        type=float,
        default=fetch.STALL,
        metavar="SECONDS",
        help="a download without a new byte for so long is begun again; default %(default)g",
    )
    parser.add_argument("--on-failure", choices=("stop", "skip"), default="stop")
    arguments = parser.parse_args()
    card = cards.read_card(arguments.card)
    budget = arguments.budget_gb and disk.Budget(
        arguments.weights.parent.parent, int(arguments.budget_gb * 1e9)
    )
    way = fetch.Way(budget or None, arguments.place, arguments.mirrors, arguments.stall)
    try:
        fetch.fetch(card, arguments.weights, arguments.folder, way)
    except PermanentFailure as failure:
        if arguments.on_failure == "stop":
            raise
        log.logger.error("%s", failure)
        fetch.explain(arguments.weights, str(failure))
        return
    log.logger.info(
        "%s: %d files, %s bytes of weights", card.id, len(card.files), f"{card.bytes:,}"
    )


if __name__ == "__main__":
    log.run(main)
