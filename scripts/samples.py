"""Let two models answer the same prompts, and score all answers with both."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from klmap import log, scorer_samples
from klmap.scorer_divergence import Side


def main() -> None:
    """Sample from one pair of models."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cards", type=Path, nargs=2, required=True, help="their card.json")
    parser.add_argument("--weights", type=Path, nargs=2, required=True, help="their folders")
    parser.add_argument("--models", nargs=2, required=True, help="their names on the map")
    parser.add_argument(
        "--specs", type=json.loads, nargs=2, required=True, help="settings of their scores, as JSON"
    )
    parser.add_argument("--texts", type=Path, required=True, help="texts.jsonl, with prompts")
    parser.add_argument("--manifest", type=Path, required=True, help="texts.json")
    parser.add_argument("--prompts", type=int, default=50, help="evenly spread over the set")
    parser.add_argument("--samples", type=int, default=4, help="for each prompt and model")
    parser.add_argument("--tokens", type=int, default=64, help="most tokens of a response")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=42, help="of the sampling")
    parser.add_argument("--mauve", action="store_true", help="store features for MAUVE")
    parser.add_argument("--spec", type=json.loads, required=True, help="settings, as JSON")
    parser.add_argument(
        "--samples-file", type=Path, required=True, help="<first>~<second>.<fingerprint>.h5"
    )
    parser.add_argument("--on-failure", choices=("stop", "skip"), default="stop")
    parser.add_argument("--refuse", default="", metavar="REASON", help="end with this reason")
    parser.add_argument(
        "--batch-tokens", type=_tokens, metavar="N|auto", help="tokens per batch; auto by device"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    args = parser.parse_args()
    first, second = (
        Side(card, weights, model, spec)
        for card, weights, model, spec in zip(
            args.cards, args.weights, args.models, args.specs, strict=True
        )
    )
    scorer_samples.samples(
        scorer_samples.Job(
            (first, second), args.texts, args.manifest, args.prompts, args.samples, args.tokens,
            args.spec, args.samples_file, temperature=args.temperature, seed=args.seed,
            mauve=args.mauve, skip_failures=args.on_failure == "skip", refusal=args.refuse,
            batch_tokens=args.batch_tokens, device=args.device, threads=args.threads,
        )
    )  # fmt: skip


def _tokens(text: str) -> int | None:
    return None if text == "auto" else int(text)


if __name__ == "__main__":
    log.run(main)
