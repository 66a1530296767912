"""All scored models of a text set: those of its map, and those that are kept off it.

A model with ``on_map: false`` stands in offmap.h5 and offmap.tsv instead of matrix.h5 and
models.tsv, in the same formats, so that neither the clip threshold nor the layout sees it. What
compares chosen pairs of models takes both together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from klmap import geometry
from klmap.arrays import Bools, Floats, Ints, Rows
from klmap.design import Design
from klmap.errors import InputError
from klmap.log import logger
from klmap.models_table import Model, read_models
from klmap.store import MatrixFile, open_matrix


@dataclass(frozen=True)
class Gathered:
    """K models, those of the map first, and their log-likelihoods of N texts.

    Attributes:
        models: K rows of models.tsv and offmap.tsv.
        on_map: (K,) bool, whether a model stands on the map.
        noise: (K,) float64, RMS numerical error, nats per text, NaN where unknown.
        domain: N labels of the texts.
        n_bytes: (N,) int32, UTF-8 bytes of each text.
        mean_bytes: bytes per text, B.
        design: how the texts stand for those of a reference; None for a text set of its own.
        clip_threshold: nats; lower values count as this one, for all K alike.
        parts: the open files.
        places: of each model, the number of its file and the row there.
    """

    models: list[Model]
    on_map: Bools
    noise: Floats
    domain: list[str]
    n_bytes: Ints
    mean_bytes: float
    design: Design | None
    clip_threshold: float
    parts: Sequence[MatrixFile]
    places: Sequence[tuple[int, int]]

    def raw(self, rows: Sequence[int] | Rows) -> Floats:
        """(R, N) log-likelihoods of some models as they are scored, nats.

        Raises:
            InputError: a file is truncated.
        """
        found = np.empty((len(rows), len(self.domain)))
        for place, row in enumerate(rows):
            part, inside = self.places[row]
            found[place] = self.parts[part].loglik(inside, inside + 1)[0]
        return found

    def loglik(self, rows: Sequence[int] | Rows) -> Floats:
        """(R, N) log-likelihoods of some models, clipped as on the map, nats.

        Raises:
            InputError: a file is truncated.
        """
        return np.maximum(self.raw(rows), self.clip_threshold)

    def noise_floor(self, first: Rows, second: Rows) -> Floats:
        """(P,) the KLs, bits per byte, below which pairs cannot be told apart; NaN if unknown."""
        floor: Floats = geometry.noise_floor(self.noise[first], self.noise[second], self.mean_bytes)
        return floor


@contextmanager
def gathered(
    matrix: Path, models: Path, offmap: Path | None = None, offmap_models: Path | None = None
) -> Iterator[Gathered]:
    """Open the matrix of a map, and that of the models that are kept off it.

    Args:
        matrix: matrix.h5.
        models: models.tsv of the same text set.
        offmap: offmap.h5 where there is one.
        offmap_models: offmap.tsv where there is one.

    Raises:
        InputError: a file is missing or broken, or they are of different text sets.
    """
    with ExitStack() as stack:
        parts = [stack.enter_context(open_matrix(matrix))]
        rows = read_models(models, parts[0].model)
        places = [(0, row) for row in range(len(rows))]
        if offmap is not None and offmap_models is not None:
            parts.append(stack.enter_context(open_matrix(offmap)))
            kinds = {row.likelihood for row in rows}
            others = read_models(offmap_models, parts[1].model)
            # What another kind of likelihood says has no KL with what stands on the map.
            kept = [row for row, other in enumerate(others) if other.likelihood in kinds]
            if len(kept) < len(others):
                logger.warning(
                    "%d models off the map are of another kind of likelihood than those on it, and "
                    "are left out",
                    len(others) - len(kept),
                )
            rows += [others[row] for row in kept]
            places += [(1, row) for row in kept]
            if parts[1].texts_sha256 != parts[0].texts_sha256:
                raise InputError(
                    f"{offmap}: of other texts than {matrix} (sha256 {parts[1].texts_sha256[:12]} "
                    f"instead of {parts[0].texts_sha256[:12]}); remove it and run again"
                )
        yield Gathered(
            models=rows,
            on_map=np.arange(len(rows)) < len(parts[0].model),
            noise=np.array([parts[part].noise[row] for part, row in places]),
            domain=parts[0].domain,
            n_bytes=parts[0].n_bytes,
            mean_bytes=parts[0].mean_bytes,
            design=parts[0].design,
            clip_threshold=parts[0].clip_threshold,
            parts=parts,
            places=places,
        )
