"""Scores on a selection of texts: of models that have all texts, and of models that have no others.

A model that was scored on all texts of the reference gives what the selection keeps of them. Of one
that was scored on the selection alone the mean over all texts is estimated: by the weighted mean of
its difference from the reference's models, whose mean over all texts is known, so that it is far
more exact than the weighted mean of the log-likelihoods themselves (klmap's own choice; a
difference estimator, Cochran 1977).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from klmap.arrays import Floats
from klmap.errors import InputError
from klmap.files import read_json
from klmap.index import Entry
from klmap.store_score import Score
from klmap.store_selection import Selection, read_selection


@dataclass(frozen=True)
class Texts:
    """The texts of a map, and what a selection makes of them.

    Attributes:
        sha256: hash of the texts, from their manifest.
        number: how many.
        mean_bytes: UTF-8 bytes per text that distances are of, B: of the reference, if there is
            one.
        selection: how they stand for those of a reference; None for texts of their own.
    """

    sha256: str
    number: int
    mean_bytes: float
    selection: Selection | None = None

    def expected(self, entry: Entry) -> tuple[str, int]:
        """Hash and number of the texts that a score has to be of."""
        if self.selection is not None and entry.is_complete:
            return self.selection.texts_sha256, self.selection.texts
        return self.sha256, self.number

    def check(self, entry: Entry, score: Score) -> None:
        """Refuse a score on these texts that were chosen from another reference, or otherwise.

        Raises:
            InputError: the score belongs to another selection.
        """
        if self.selection is None or entry.is_complete:
            return
        found = score.attributes.get("selection", "none")
        if found != self.selection.fingerprint:
            raise InputError(
                f"{entry.path}: was scored for the selection {found}, this is "
                f"{self.selection.fingerprint} of another draw or reference; remove the score and "
                "run again"
            )

    def row(self, entry: Entry, score: Score) -> Floats:
        """The log-likelihoods of a model on these texts, (number,) nats."""
        if self.selection is not None and entry.is_complete:
            return score.loglik[self.selection.index]
        return score.loglik

    def share(self, entry: Entry) -> Floats | None:
        """Weights of the texts that a score is of; None where all count alike."""
        if self.selection is None or entry.is_complete:
            return None
        return self.selection.design.share

    def mean(self, entry: Entry, score: Score) -> float:
        """Mean log-likelihood of a model, nats per text: of all texts, or estimated for them."""
        if self.selection is None or entry.is_complete:
            return float(score.loglik.mean())
        difference = score.loglik - self.selection.expected
        return self.selection.expected_mean + float(self.selection.design.share @ difference)


def read(path: Path | None, manifest: Path, number: int, mean_bytes: float) -> Texts:
    """The texts of a map.

    Args:
        path: selection.h5, if they are a selection.
        manifest: texts.json.
        number: how many texts there are.
        mean_bytes: their UTF-8 bytes per text.

    Raises:
        InputError: the selection is broken, or not the one that the manifest names.
    """
    described = read_json(manifest)
    sha256 = str(described["sha256"])
    if path is None:
        return Texts(sha256, number, mean_bytes)
    selection = read_selection(path)
    named = described.get("selection", {}).get("fingerprint", "none")
    if named != selection.fingerprint or len(selection.index) != number:
        raise InputError(
            f"{path}: holds the selection {selection.fingerprint} of {len(selection.index)} texts, "
            f"{manifest} names {named} of {number}; remove both and run again"
        )
    return Texts(sha256, number, selection.mean_bytes, selection)
