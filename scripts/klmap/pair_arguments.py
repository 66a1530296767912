"""Arguments of the scripts that compute something of two models at one time."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from klmap.scorer_pair import Side


def parser(description: str | None, output: str) -> argparse.ArgumentParser:
    """A parser that knows all that every job of a pair is told.

    Args:
        description: of the script.
        output: the option that names the file to write.
    """
    found = argparse.ArgumentParser(description=description)
    found.add_argument("--cards", type=Path, nargs=2, required=True, help="their card.json")
    found.add_argument("--weights", type=Path, nargs=2, required=True, help="their folders")
    found.add_argument("--models", nargs=2, required=True, help="their names on the map")
    found.add_argument(
        "--specs", type=json.loads, nargs=2, required=True, help="settings of their scores, as JSON"
    )
    found.add_argument("--texts", type=Path, required=True, help="texts.jsonl")
    found.add_argument("--manifest", type=Path, required=True, help="texts.json")
    found.add_argument("--spec", type=json.loads, required=True, help="settings, as JSON")
    found.add_argument(
        output, type=Path, required=True, dest="output", help="<first>~<second>.<fingerprint>.h5"
    )
    found.add_argument("--on-failure", choices=("stop", "skip"), default="stop")
    found.add_argument("--refuse", default="", metavar="REASON", help="end with this reason")
    found.add_argument(
        "--batch-tokens", type=_tokens, metavar="N|auto", help="tokens per batch; auto by device"
    )
    found.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    found.add_argument("--threads", type=int, default=1, help="CPU threads")
    return found


def job(args: argparse.Namespace) -> dict[str, Any]:
    """The same as arguments of a :class:`klmap.scorer_pair.Job`."""
    each = zip(args.cards, args.weights, args.models, args.specs, strict=True)
    named = ("texts", "manifest", "spec", "output", "batch_tokens", "device", "threads")
    return {
        "sides": tuple(Side(*side) for side in each),
        **{name: getattr(args, name) for name in named},
        "skip_failures": args.on_failure == "skip",
        "refusal": args.refuse,
    }


def _tokens(text: str) -> int | None:
    return None if text == "auto" else int(text)
