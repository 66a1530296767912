"""Compute the exact KL per token of two models with one vocabulary, on some texts."""

from __future__ import annotations

from klmap import log, pair_arguments, scorer_divergence


def main() -> None:
    """Compare one pair of models."""
    parser = pair_arguments.parser(__doc__, "--divergence")
    parser.add_argument("--number", type=int, default=200, help="texts, evenly spread over the set")
    args = parser.parse_args()
    scorer_divergence.divergence(
        scorer_divergence.Job(**pair_arguments.job(args), number=args.number)
    )


if __name__ == "__main__":
    log.run(main)
