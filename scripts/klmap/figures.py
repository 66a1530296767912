"""The figures of a map by name, and the files they become."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from klmap import charts, figure_domains, style
from klmap.errors import InputError
from klmap.figure_layout import draw_layout
from klmap.figure_map import draw_ellipses, draw_loglik, draw_map
from klmap.figure_paper import draw_paper
from klmap.figure_tree import draw_dendrogram
from klmap.log import logger
from klmap.scene import Scene


def draw(scene: Scene, folder: Path, names: Sequence[str]) -> None:
    """Draw figures into ``folder/<name>.png`` and ``folder/<name>.svg``.

    Args:
        scene: what is drawn.
        folder: where to.
        names: keys of ``FIGURES``.

    Raises:
        InputError: there is no such figure, or it needs what the scene has not.
    """
    for name in names:
        if name not in FIGURES:
            raise InputError(f"no figure is called {name!r}; there are {', '.join(FIGURES)}")
        with mpl.rc_context(style.RC):
            style.save(FIGURES[name](scene), folder, name)
        logger.info("drew %s", folder / name)


def draw_heatmap(scene: Scene) -> Figure:
    """KL of all pairs in the order of the tree."""
    scored = scene.models, scene.distances
    return charts.heatmap(*scored, scene.rooted, scene.subject, scene.distance)


def draw_checkpoints(scene: Scene) -> Figure:
    """KL of every checkpoint to the last one of its run."""
    return charts.checkpoints(scene.models, scene.distances, scene.subject, scene.distance)


def draw_domains(scene: Scene) -> Figure:
    """The map once for each domain of the texts.

    Raises:
        InputError: the scene has no maps by domain.
    """
    if not scene.domains:
        raise InputError(
            "this figure needs the maps by domain: give --domains, or leave the figure out; "
            "map.domains in config.yaml asks for both"
        )
    return figure_domains.draw(scene, scene.domains)


FIGURES: dict[str, Callable[[Scene], Figure]] = {
    "map": draw_map,
    "loglik": draw_loglik,
    "dendrogram": draw_dendrogram,
    "heatmap": draw_heatmap,
    "checkpoints": draw_checkpoints,
    "paper": draw_paper,
    "layout": draw_layout,
    "ellipses": draw_ellipses,
    "domains": draw_domains,
}
"""The figures by name."""
