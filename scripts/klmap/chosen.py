"""What pictures say of a text selection: which of how many texts, and who was scored on them alone.

That models which were added through a selection are told apart from the others is klmap's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from klmap.errors import InputError

_WORDS = {"ls": "LS selection", "kl": "KL selection", "uniform": "uniform selection"}


@dataclass(frozen=True)
class Chosen:
    """The texts of a selection, as words say them.

    Attributes:
        method: how their probabilities were made: ``ls``, ``kl`` or ``uniform``.
        draws: how many were drawn; of texts that were drawn twice, each draw counts.
        texts: number of different texts, d.
        of: number of texts of the reference, N.
    """

    method: str
    draws: int
    texts: int
    of: int

    @property
    def share(self) -> str:
        """How many of how many: ``146 of the 600 texts``."""
        return f"{self.texts:,} of the {self.of:,} texts"

    @property
    def words(self) -> str:
        """How the texts were chosen, in words."""
        return _WORDS.get(self.method, f"{self.method} selection")


def chosen_of(path: Path, manifest: Mapping[str, Any]) -> Chosen | None:
    """What a manifest says of a selection; None where its texts are a set of their own.

    Args:
        path: texts.json, for the error.
        manifest: what it holds.

    Raises:
        InputError: the manifest speaks of a selection and does not describe it.
    """
    found = manifest.get("selection")
    if found is None:
        return None
    try:
        texts, of = int(manifest["n"]), int(found["reference"]["n"])
        return Chosen(str(found["method"]), int(found["n"] or texts), texts, of)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: its block selection is broken ({error}); remove it and run again"
        ) from None
