"""What goes through a model at once: the pieces of a text set, and how they become batches."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from klmap.tokens import Window, windows


@dataclass(frozen=True)
class Piece:
    """A window of one text's sequence; kinds of likelihood derive their own from it.

    Attributes:
        text: number of the text.
        window: what goes through the model, and from where on tokens are scored.
        offset: where its first scored token stands among all scored tokens of the set.
    """

    text: int
    window: Window
    offset: int

    @property
    def length(self) -> int:
        """Tokens that go through the model; the last token of a window is only predicted."""
        return self.window.stop - self.window.start - 1

    @property
    def scored(self) -> int:
        """Tokens whose log-probability is wanted."""
        return self.window.stop - self.window.first

    @property
    def mates(self) -> int:
        """Only pieces with the same number share a batch; larger ones are scored first."""
        return 0


@dataclass
class Plan:
    """All windows of a text set.

    Attributes:
        sequences: N lists of token ids.
        pieces: windows in the order of texts and positions.
        offset: (N+1,) where each text's scored tokens begin.
    """

    sequences: Sequence[Sequence[int]]
    pieces: list[Piece]
    offset: npt.NDArray[np.int64]

    @cached_property
    def ordered(self) -> list[Piece]:
        """The windows as they are scored: longest first, ties in the order of texts."""
        return sorted(self.pieces, key=lambda piece: (-piece.mates, -piece.length, piece.offset))


def make_plan(
    sequences: Sequence[Sequence[int]], limit: int | None, first: Sequence[int] | None = None
) -> Plan:
    """Cut sequences into windows and number the scored tokens.

    What stands before a sequence's first scored token is context alone. The windows are those of a
    sequence that is scored from its beginning, without those in which nothing would be scored; so
    every token is predicted from the same context, whichever tokens before it are scored.

    Args:
        sequences: N lists of token ids.
        limit: longest window in tokens; None without one.
        first: N positions, at least 1, from which on each sequence is scored; behind its end where
            nothing of it is. Without them all tokens but a sequence's first are scored.
    """
    pieces = []
    offset = np.zeros(len(sequences) + 1, np.int64)
    for text, sequence in enumerate(sequences):
        begin = 1 if first is None else first[text]
        position = int(offset[text])
        for window in windows(len(sequence), limit):
            if window.stop <= begin:
                continue
            scored = replace(window, first=max(window.first, begin))
            pieces.append(Piece(text, scored, position))
            position += scored.stop - scored.first
        offset[text + 1] = position
    return Plan(sequences, pieces, offset)


def next_batch(pieces: Sequence[Piece], start: int, budget: int) -> list[Piece]:
    """The pieces from ``start`` on that fit a budget of padded tokens; at least one.

    Args:
        pieces: sorted, longest first.
        start: the first piece of the batch.
        budget: tokens, padding included.
    """
    count = max(budget // pieces[start].length, 1)
    mates = pieces[start].mates
    return list(
        itertools.takewhile(lambda piece: piece.mates == mates, pieces[start : start + count])
    )
