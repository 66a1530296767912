"""Everything that figures are made of, and the words that say of what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from klmap import layout, style
from klmap.arrays import Floats
from klmap.bootstrap import Ellipse
from klmap.collect import Model
from klmap.domain_maps import DomainMap
from klmap.errors import InputError
from klmap.layout import Place, Report
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

    @cached_property
    def points(self) -> Floats:
        """(K, 2) places on the plane."""
        return np.array([(place.x, place.y) for place in self.places], np.float64)

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
        found = style.subject(len(self.models), self.distances.n_texts, self.texts)
        return f"{found}, {self.distances.mean_bytes:,.0f} bytes each on average"
