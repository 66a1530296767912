"""Average the weights of several models, a part of a tensor at a time, into a folder of its own."""

from __future__ import annotations

import argparse
from pathlib import Path

from klmap import cards, disk, fetch, log, scorer_merge
from klmap.errors import PermanentFailure
from klmap.interruption import Interruption


def main() -> None:
    """Make one merge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--card", type=Path, required=True, help="the merge's card.json")
    parser.add_argument(
        "--parents", type=Path, nargs="+", required=True, help="folders of the parents' weights"
    )
    parser.add_argument(
        "--weights",
        type=float,
        nargs="+",
        required=True,
        help="one for each parent, sum 1",
    )
    parser.add_argument(
        "--budget-gb",
        type=float,
        help="what all weights on the disk may take together; refused where parents and merge "
        "are more",
    )
    parser.add_argument(
        "--place", type=int, default=0, help="whose turn it is: the smallest number first"
    )
    parser.add_argument("--on-failure", choices=("stop", "skip"), default="stop")
    parser.add_argument("--out", type=Path, required=True, help="weights folder to make")
    args = parser.parse_args()
    # Half a merge is removed before the process ends.
    Interruption().on_signals()
    card = cards.read_card(args.card)
    budget = None
    if args.budget_gb:
        budget = disk.Budget(args.out.parent.parent, int(args.budget_gb * 1e9))
    try:
        scorer_merge.merge(card, args.parents, args.weights, args.out, budget, args.place)
    except PermanentFailure as failure:
        if args.on_failure == "stop":
            raise
        log.logger.error("%s", failure)
        fetch.explain(args.out, str(failure))


if __name__ == "__main__":
    log.run(main)
