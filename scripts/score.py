"""Compute one model's log-likelihoods on one text set and write them as one HDF5 file."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from klmap import log, scorer
from klmap.interruption import Interruption


def main() -> None:
    """Score one model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--card", type=Path, required=True, help="the model's card.json")
    parser.add_argument("--weights", type=Path, required=True, help="folder with its files")
    parser.add_argument("--texts", type=Path, required=True, help="texts.jsonl")
    parser.add_argument("--manifest", type=Path, required=True, help="texts.json")
    parser.add_argument("--model", required=True, help="the model's name on the map")
    parser.add_argument("--spec", type=json.loads, required=True, help="settings, as JSON")
    parser.add_argument("--score", type=Path, required=True, help="<model>.<fingerprint>.h5")
    parser.add_argument("--on-failure", choices=("stop", "skip"), default="stop")
    parser.add_argument("--refuse", default="", metavar="REASON", help="end with this reason")
    for switch in ("--keep-tokens", "--sketch"):
        parser.add_argument(switch, choices=("true", "false"), default="false")
    parser.add_argument(
        "--batch-tokens", type=_tokens, metavar="N|auto", help="tokens per batch; auto by device"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument(
        "--products", choices=("auto", "onednn", "blas"), default="auto", help="library on a CPU"
    )
    parser.add_argument(
        "--save-every", type=float, default=60.0, metavar="SECONDS",
        help="how often an unfinished job saves what it has; 0 saves every batch",
    )  # fmt: skip
    arguments = parser.parse_args()
    scorer.score(
        scorer.Job(
            card=arguments.card,
            weights=arguments.weights,
            texts=arguments.texts,
            manifest=arguments.manifest,
            model=arguments.model,
            spec=arguments.spec,
            output=arguments.score,
            skip_failures=arguments.on_failure == "skip",
            refusal=arguments.refuse,
            keep_tokens=arguments.keep_tokens == "true",
            batch_tokens=arguments.batch_tokens,
            device=arguments.device,
            threads=arguments.threads,
            products=None if arguments.products == "auto" else arguments.products,
            save_every=arguments.save_every,
            sketch=arguments.sketch == "true",
        ),
        Interruption().on_signals(),
    )


def _tokens(text: str) -> int | None:
    return None if text == "auto" else int(text)


if __name__ == "__main__":
    log.run(main)
