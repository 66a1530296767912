"""Everything that figures are made of, and the words that say of what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from klmap import layout, style
from klmap.arrays import Floats
from klmap.bootstrap import Ellipse
from klmap.chosen import Chosen
from klmap.domain_maps import DomainMap
from klmap.embedding import family
from klmap.errors import InputError
from klmap.layout import Place, Report
from klmap.models_table import Model
from klmap.store import Distances
from klmap.tree import Node


@dataclass(frozen=True)
class Scene:
    """Everything that figures are made of.

    Attributes:
        models: rows of models.tsv.
        places: in the order of ``models``.
        distances: from kl.h5.
        tree: from tree.nwk; None above the dense limit.
        texts: the text set's name.
        color_by: column of models.tsv that colours the map.
        report: from layout.json; None if it is not at hand.
        ellipses: from ellipses.tsv, in the order of ``models``; empty if there are none.
        domains: from domains.tsv; empty if there are none.
        replicates: bootstrap samples behind the tree's support and the ellipses; 0 if unknown.
        chosen: the texts of a selection; None for a text set of its own.
    """

    models: Sequence[Model]
    places: Sequence[Place]
    distances: Distances
    tree: Node | None
    texts: str
    color_by: str = "family"
    report: Report | None = None
    ellipses: Sequence[Ellipse] = ()
    domains: Sequence[DomainMap] = ()
    replicates: int = 0
    chosen: Chosen | None = None

    @cached_property
    def points(self) -> Floats:
        """(K, 2) places on the plane."""
        return np.array([(place.x, place.y) for place in self.places], np.float64)

    @cached_property
    def added(self) -> list[int]:
        """Rows of the models that were scored on the texts of a selection alone."""
        if self.chosen is None:
            return []
        return [
            row
            for row, model in enumerate(self.models)
            if model.texts is not None and model.texts < self.chosen.of
        ]

    @property
    def pmi(self) -> bool:
        """Whether the map is of what responses gain by their prompts."""
        return style.of_pmi(self.models)

    @property
    def distance(self) -> str:
        """What a distance is called: of PMI it has the unit of a KL, and is none."""
        return "PMI distance" if self.pmi else "KL"

    @property
    def ringed(self) -> str:
        """Whom a ring marks; empty where no model was added through a selection."""
        if self.chosen is None or not self.added:
            return ""
        many = (
            f"{len(self.added):,} models that were" if len(self.added) > 1 else "1 model that was"
        )
        return f"Ringed: {many} scored on {self.chosen.share} alone ({self.chosen.words})"

    @property
    def others_stay(self) -> bool:
        """Whether added models were placed among others that the map of all texts holds."""
        report = self.report
        return report is not None and bool(report.reference) and family(report.method) == "tsne"

    @property
    def faithful(self) -> str:
        """What every map says of itself: how faithful it is, and how far its models moved."""
        return "" if self.report is None else layout.sentence(self.report)

    @property
    def rooted(self) -> Node:
        """The tree.

        Raises:
            InputError: there is none.
        """
        if self.tree is None:
            raise InputError(
                "this figure needs the tree: give --tree, or draw map and loglik alone"
            )
        return self.tree

    @property
    def subject(self) -> str:
        """How many models on which texts."""
        if self.chosen is not None:
            count = f"{len(self.models):,} model{'s' if len(self.models) != 1 else ''}"
            placed = f"{len(self.added):,} placed by {self.chosen.share}"
            if not self.added:
                placed = f"none placed by {self.chosen.share} alone"
            return f"{count}, {placed} (“{self.texts}”, {self.chosen.words})"
        found = style.subject(len(self.models), self.distances.n_texts, self.texts)
        found = found.replace(" · ", " · PMI of ", 1) if self.pmi else found
        return f"{found}, {self.distances.mean_bytes:,.0f} bytes each on average"
