"""Where models would lie on the map if every prompt were edited: the ways that the page draws.

Nothing here is from a paper. The map is one of models as they are, and an edited model is nowhere
on it. By :mod:`klmap.fixed` it could be placed there, with all models held; but it would be placed
on itself, because the nearest model to it is, by far, the same without the edit. So a model is
taken off the map, and placed among the *others* once as it is and once with its prompts edited.
The arrow is the difference of these two places, drawn from where the model stands. It says among
which other models the edit moves it, and an edit that changes nothing moves it nowhere.

On a map of principal components no model pulls another, and the shift is projected as the map
projects the models.

What a way does not say is how far: t-SNE keeps who is near, not distances, and where two places are
about as good a small shift makes a long way. The sizes are in shifts.tsv, and in the labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from klmap import fixed
from klmap.arrays import Floats, Rows
from klmap.embedding import Settings
from klmap.errors import InputError
from klmap.files import write_tsv
from klmap.layout import Report
from klmap.log import Progress, logger
from klmap.prompt_edits import Edited
from klmap.prompts import Edit
from klmap.ways import COLUMNS, MOST_HELD, evenly, projection

MOST_PLACED = 2000
"""Models that have ways; of more, evenly spaced ones."""


@dataclass(frozen=True)
class Ways:
    """The ways of M models under E edits.

    Attributes:
        rows: (M,) rows of the models.
        begin: (M, 2) where they stand on the map.
        end: (E, M, 2) where the edit would move them; NaN where a model lacks an edit.
    """

    rows: Rows
    begin: Floats
    end: Floats


def find(some: Edited, places: Floats, report: Report) -> Ways:
    """The ways of the models of the map.

    Args:
        some: the models and edits; the map's models are the first of them.
        places: (M, 2) of the map's models.
        report: how these were made.

    Raises:
        InputError: the layout is not of these models, or a file is truncated.
    """
    count = int(some.found.on_map.sum())
    if len(places) != count:
        raise InputError(f"layout.tsv: {len(places)} places for {count} models; run again")
    held = evenly(np.arange(count), MOST_HELD)
    moved = evenly(np.flatnonzero(some.under[:, :count].any(axis=0)), MOST_PLACED)
    end = np.full((len(some.names), len(moved), 2), np.nan)
    if count > 1:
        mean, points = _held(some, held)
        placed = _Placed(points, places[held], report)
        progress = Progress(len(moved), "models placed")
        done = 0
        for block in some.blocks(moved):
            for place, row in enumerate(block.rows):
                edits = [e for e, inside in enumerate(block.places) if place in inside]
                ways = [block.shifts[e][np.flatnonzero(block.places[e] == place)[0]] for e in edits]
                steps = placed.steps(
                    (block.base[place] - mean) * some.scale, np.array(ways) * some.scale,
                    np.flatnonzero(held == row),
                )  # fmt: skip
                end[edits, done + place] = places[row] + steps
            progress.add(len(block.rows))
            done += len(block.rows)
        progress.close()
    return Ways(moved, places[moved], end)


def _held(some: Edited, rows: Rows) -> tuple[Floats, Floats]:
    """(N,) mean of the models that are held, nats, and (n, N) the rest, root of bits per byte."""
    points = np.empty((len(rows), some.texts))
    done = 0
    for block in some.blocks(rows, []):
        points[done : done + len(block.rows)] = block.base
        done += len(block.rows)
    mean = points.mean(axis=0)
    points -= mean
    points *= some.scale
    return mean, points


class _Placed:
    """Models that are held, and how far edits move others among them."""

    def __init__(self, points: Floats, places: Floats, report: Report) -> None:
        self.points, self.places = points, places
        if report.method == "pca":
            self.axes: Floats | None = projection(points, places)
            return
        self.axes = None
        self.norms = np.square(points).sum(axis=1)
        self.settings = Settings(metric=report.metric, perplexity=report.perplexity)
        self.scale = fixed.scale_of(points, places, self.settings)

    def steps(self, base: Floats, ways: Floats, own: Rows) -> Floats:
        """(m, 2) from the place as it is to those with the edits, the model itself left out."""
        if self.axes is not None:
            return np.asarray(ways @ self.axes.T, np.float64)
        others = np.setdiff1d(np.arange(len(self.points)), own)
        moves = ways.any(axis=1)
        steps = np.zeros((len(ways), 2))
        if len(others) and moves.any():
            vectors = [base, *(base + ways[moves])]
            squared = np.stack([self._squares(vector)[others] for vector in vectors])
            found = fixed.among(squared, self.places[others], self.settings, self.scale)
            steps[moves] = found[1:] - found[0]
        return steps

    def _squares(self, vector: Floats) -> Floats:
        squares = self.norms - 2 * (self.points @ vector) + vector @ vector
        return np.asarray(np.maximum(squares, 0), np.float64)


def write(path: Path, some: Edited, edits: Sequence[Edit], ways: Ways) -> None:
    """Write ways.tsv: two lines for each way, its beginning and its end."""
    number = [dict(zip(edit.rows.tolist(), range(len(edit.rows)), strict=True)) for edit in edits]
    lines = []
    for edit, name in enumerate(some.names):
        for place, row in enumerate(ways.rows):
            end = ways.end[edit, place]
            if np.isfinite(end).all():
                own = number[edit][int(row)]
                kl, gain = edits[edit].kl[own], edits[edit].gain[own]
                word = "likelier" if gain > 0 else "less likely"
                label = f"{kl:.3g} bits/byte away, responses {word} by {abs(gain):.3g}"
                model = some.found.models[row].model
                for step, (x, y) in enumerate((ways.begin[place], end)):
                    text = label if step else "prompts as they are"
                    lines.append((name, model, step, float(x), float(y), text))
    write_tsv(path, COLUMNS, lines)
    logger.info("%d ways of %d models", len(lines) // 2, len(ways.rows))
