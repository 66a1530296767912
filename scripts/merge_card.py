"""Find out what a merge of several models is, from their cards alone, and write its card."""

from __future__ import annotations

import argparse
from pathlib import Path

from klmap import cards, log, merging


def main() -> None:
    """Write the card of one merge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--id", required=True, help="id of the merge: merge/<name>-<weights>")
    parser.add_argument(
        "--cards", type=Path, nargs="+", required=True, help="card.json of each parent"
    )
    parser.add_argument(
        "--weights",
        type=float,
        nargs="+",
        required=True,
        help="one for each parent, sum 1",
    )
    parser.add_argument(
        "--on-failure",
        choices=("stop", "skip"),
        default="stop",
        help="parents that cannot be averaged end with exit status 3, or give a card that says why",
    )
    parser.add_argument("--card", type=Path, required=True, help="card.json to write")
    args = parser.parse_args()
    parents = [cards.read_card(path) for path in args.cards]
    stop = args.on_failure == "stop"
    make = merging.merge_card if stop else merging.merge_card_or_explain
    card = make(args.id, parents, args.weights)
    cards.write_card(args.card, card)
    if card.error:
        log.logger.warning("%s", card.error)
    else:
        log.logger.info(
            "%s: of %s, commit %s", card.id, ", ".join(card.base_model), card.commit[:12]
        )


if __name__ == "__main__":
    log.run(main)
