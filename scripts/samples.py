"""Let two models answer the same prompts, and score all answers with both."""

from __future__ import annotations

from klmap import log, pair_arguments, scorer_samples


def main() -> None:
    """Sample from one pair of models."""
    parser = pair_arguments.parser(__doc__, "--samples-file")
    parser.add_argument("--prompts", type=int, default=50, help="evenly spread over the set")
    parser.add_argument("--samples", type=int, default=4, help="for each prompt and model")
    parser.add_argument("--tokens", type=int, default=64, help="most tokens of a response")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=42, help="of the sampling")
    parser.add_argument("--mauve", action="store_true", help="store features for MAUVE")
    args = parser.parse_args()
    names = ("prompts", "samples", "tokens", "temperature", "seed", "mauve")
    how = {name: getattr(args, name) for name in names}
    scorer_samples.samples(scorer_samples.Job(**pair_arguments.job(args), **how))


if __name__ == "__main__":
    log.run(main)
