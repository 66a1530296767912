"""Compute the exact KL per token of two models with one vocabulary, on some texts."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from klmap import log, scorer_divergence


def main() -> None:
    """Compare one pair of models."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cards", type=Path, nargs=2, required=True, help="their card.json")
    parser.add_argument("--weights", type=Path, nargs=2, required=True, help="their folders")
    parser.add_argument("--models", nargs=2, required=True, help="their names on the map")
    parser.add_argument(
        "--specs", type=json.loads, nargs=2, required=True, help="settings of their scores, as JSON"
    )
    parser.add_argument("--texts", type=Path, required=True, help="texts.jsonl")
    parser.add_argument("--manifest", type=Path, required=True, help="texts.json")
    parser.add_argument("--number", type=int, default=200, help="texts, evenly spread over the set")
    parser.add_argument("--spec", type=json.loads, required=True, help="settings, as JSON")
    parser.add_argument(
        "--divergence", type=Path, required=True, help="<first>~<second>.<fingerprint>.h5"
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
        scorer_divergence.Side(card, weights, model, spec)
        for card, weights, model, spec in zip(
            args.cards, args.weights, args.models, args.specs, strict=True
        )
    )
    scorer_divergence.divergence(
        scorer_divergence.Job(
            (first, second), args.texts, args.manifest, args.number, args.spec, args.divergence,
            skip_failures=args.on_failure == "skip", refusal=args.refuse,
            batch_tokens=args.batch_tokens, device=args.device, threads=args.threads,
        )
    )  # fmt: skip


def _tokens(text: str) -> int | None:
    return None if text == "auto" else int(text)


if __name__ == "__main__":
    log.run(main)
