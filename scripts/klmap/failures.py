"""Reasons for which jobs have failed for good, as they left them beside their score."""

from __future__ import annotations

from pathlib import Path

from klmap import natives
from klmap.cards import Card
from klmap.files import read_json


def left_reason(path: Path, card: Card) -> str:
    """Why an earlier attempt failed for good; empty where the next one will try again.

    Args:
        path: ``<score>.failed.json``, which may be missing.
        card: the model as it is now.

    Raises:
        InputError: the file is no JSON object.
    """
    if not path.is_file():
        return ""
    left = read_json(path)
    version = (left.get("software") or {}).get("transformers")
    if (left.get("commit"), version) != (card.commit, natives.VERSION):
        return ""
    return f"{left.get('error')}; to try again all the same, remove {path}"
